"""The tables, in Markdown: ratios and verdicts first, the microseconds beside them."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.cases import Case, Sample
from tests.support.processes import ROOT, find_program

if TYPE_CHECKING:
    from tests.bench.singles import Figure

__all__ = ["CpuTable", "render", "write_page"]

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


@dataclass(frozen=True, slots=True)
class CpuTable:
    """CPU per unit of work, a row a case, a column a balancer."""

    title: str
    cases: list[Case]
    samples: dict[str, dict[str, list[Sample]]]

    def median(self, case: Case, balancer: str) -> float:
        costs = [sample.cost for sample in self.samples[case.name].get(balancer, []) if not math.isnan(sample.cost)]
        return statistics.median(costs) if costs else math.nan

    def balancers(self) -> list[str]:
        return list(next(iter(self.samples.values()))) if self.samples else []

    def troubles(self) -> list[str]:
        """What went wrong, once per row and balancer."""
        found = []
        for case in self.cases:
            for balancer, rounds in self.samples[case.name].items():
                if bad := [sample.trouble for sample in rounds if sample.trouble]:
                    found.append(f"{case.title}, {balancer}: {len(bad)} of {len(rounds)} rounds: {bad[0]}")
        return found


def ratio_and_verdict(value: float, nginx: float, target: float) -> tuple[str, str]:
    if math.isnan(value) or math.isnan(nginx) or not nginx:
        return "", "FAIL (not measured)" if target else ""
    ratio = value / nginx
    return f"{ratio:.2f}", "" if not target else ("pass" if ratio <= target else "FAIL")


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cpu_rows(cpu: CpuTable) -> str:
    balancers = cpu.balancers()
    judged = [name for name in ("lbd", "lbd pure") if name in balancers]
    header = ["work", "unit", *balancers, *(part for name in judged for part in (f"{name} / nginx", "target", ""))]
    rows = []
    for case in cpu.cases:
        row = [case.title, case.unit, *(number(cpu.median(case, name)) for name in balancers)]
        for name in judged:
            target = case.target if name == "lbd" else case.pure_target
            ratio, verdict = ratio_and_verdict(
                cpu.median(case, name), cpu.median(case, "nginx") if "nginx" in balancers else math.nan, target
            )
            row += [ratio, f"<= {target}" if target else "", verdict]
        rows.append(row)
    return table(header, rows)


def figure_rows(figures: list[Figure]) -> str:
    columns = list(dict.fromkeys(name for figure in figures for name in figure.values))
    header = ["figure", "unit", *columns, "limit for lbd", "lbd", "lbd pure"]
    rows = []
    for figure in figures:
        limit = "" if not figure.limit else f"<= {figure.limit:g}{' x nginx' if figure.of_nginx else f' {figure.unit}'.rstrip()}"
        values = [number(figure.values.get(name, math.nan)) for name in columns]
        rows.append([figure.title, figure.unit, *values, limit, figure.verdict("lbd"), figure.verdict("lbd pure")])
    return table(header, rows)


def number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def render(tables: list[CpuTable], figures: list[Figure], rounds: int, seconds: float) -> str:
    parts = [f"{machine()}\n{rounds} interleaved rounds of {seconds:g} s, medians. {', '.join(versions())}."]
    for cpu in tables:
        parts.append(f"CPU (user + system, all processes of the balancer), {cpu.title}:\n\n{cpu_rows(cpu)}")
        if troubles := cpu.troubles():
            parts.append("Went wrong:\n\n" + "\n".join(f"- {trouble}" for trouble in troubles))
    if figures:
        parts.append(figure_rows(figures))
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return (
        f"{os.cpu_count()} x {model[1] if model else platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}."
    )


def versions() -> list[str]:
    found = []
    for name, option, pattern in (
        ("nginx", "-v", r"nginx/(\S+)"),
        ("haproxy", "-v", r"version (\d[\d.]+)"),
        ("wrk", "-v", r"wrk \D*(\d[\d.]+)"),
    ):
        if program := find_program(name):
            ran = subprocess.run([program, option], capture_output=True, text=True, check=False)
            match = re.search(pattern, ran.stdout + ran.stderr)
            found.append(f"{name} {match[1] if match else '?'}")
    return found


def write_page(text: str) -> None:
    """Between the marks; what people wrote around them stays."""
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
