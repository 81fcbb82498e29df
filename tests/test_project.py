"""The project as a whole: what the README promises exists, and the rules of the style that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import lbd

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "lbd").rglob("*.py"))
BANNED_NAMES = {"utils", "helpers", "common", "base", "manager", "handler", "impl"}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_changelog_leads_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == lbd.__version__


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md", "docs/benchmarks.md", ".ci/run"])
def test_make_targets_named_in_a_page_exist(page: str) -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", re.sub(r"#.*make sure.*", "", (ROOT / page).read_text())))
    assert named, f"{page} names no command"
    assert named <= make_targets()


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_ci_calls_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_scripts_are_valid() -> None:
    for script in [ROOT / ".ci/run", *(path for path in (ROOT / "scripts").iterdir() if path.is_file())]:
        assert script.stat().st_mode & 0o111, f"{script} is not executable"
        if "python" in script.read_text().partition("\n")[0]:
            compile(script.read_text(), str(script), "exec")
        else:
            assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


TRIOS = "A ANN ASYNC B C4 COM E EXE F FA FLY FURB I ICN PERF PIE PT PYI Q RUF SIM TC UP W YTT"  # its pyproject.toml's


def test_ruff_has_trios_rule_families() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert set(TRIOS.split()) <= set(lint["select"])
    assert not set(TRIOS.split()) & set(lint["ignore"])


def test_the_package_carries_what_the_demo_needs() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert "*.toml" in patterns


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_the_style(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is"
    assert path.stem not in BANNED_NAMES
    assert len(text.splitlines()) <= 400
    if tree.body[1:]:  # not a bare __init__
        assert "from __future__ import annotations" in text
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    assert not any(alias.name == "cython" for node in imports for alias in node.names), "C types belong in the .pxd"


@pytest.mark.parametrize("path", [p for p in MODULES if not p.stem.startswith("__")], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_lists_what_it_offers(path: Path) -> None:
    names = [
        t.id for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
    ]
    assert "__all__" in names
