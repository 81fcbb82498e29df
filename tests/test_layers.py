"""The house stands: imports go down only.

The plan in lbd/__init__.py is what is checked, so that the plan and the code cannot part. A type-only import counts too: a lower
floor that names an upper one's types knows about it. So do the cimports of .pxd and .pyx files.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import lbd

HOUSE = Path(lbd.__file__).parent
FLOORS = re.findall(r"^    ([a-z]+) {2,}\S", lbd.__doc__ or "", re.MULTILINE)  # top first
GROUND = ("errors", "policy", "metrics")
IO_MODULES = {"asyncio", "mmap", "select", "selectors", "socket", "ssl", "subprocess", "threading", "trio"}


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, absolute module name) of everything that a source file imports; for `from x import y` both x and x.y."""
    text = path.read_text()
    if path.suffix in (".pxd", ".pyx"):
        found = re.finditer(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+c?import|c?import[ \t]+([\w.]+))", text, re.MULTILINE)
        return [(text.count("\n", 0, m.start()) + 1, m[1] or m[2]) for m in found]
    names: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = list(path.relative_to(HOUSE.parent).with_suffix("").parts[: -node.level]) if node.level else []
            module = ".".join([*package, *filter(None, [node.module])])
            names += [(node.lineno, module)]
            names += [(node.lineno, f"{module}.{alias.name}") for alias in node.names if module == "lbd"]
    return names


def sources() -> list[Path]:
    return sorted(path for suffix in ("*.py", "*.pyx", "*.pxd") for path in HOUSE.rglob(suffix))


def floor_of(module: str) -> str:
    """`lbd.core.stream` is on floor core; `lbd` itself is on none."""
    parts = module.split(".")
    return parts[1] if parts[0] == "lbd" and len(parts) > 1 else ""


def is_allowed(importer: str, target: str) -> bool:
    """May a module of one floor import one of another?"""
    if importer == target or target in ("", "__version__"):
        return True
    if target in GROUND:
        return importer not in GROUND
    if importer in GROUND or importer in ("core", "wire"):  # these two know nothing of the rest, nor of one another but wire of core
        return (importer, target) == ("wire", "core")
    return target in FLOORS and importer in FLOORS and FLOORS.index(importer) < FLOORS.index(target)


def path_floor(path: Path) -> str:
    return floor_of(".".join(path.relative_to(HOUSE.parent).with_suffix("").parts))


def test_the_plan_names_every_package() -> None:
    packages = {path.parent.name for path in HOUSE.glob("*/__init__.py")}
    modules = {path.stem for path in HOUSE.glob("*.py")} - {"__init__", "__main__"}
    assert set(FLOORS) == packages
    assert set(GROUND) == modules
    for name in GROUND:
        assert f"`{name}`" in (lbd.__doc__ or "")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_go_down(path: Path) -> None:
    importer = path_floor(path)
    if importer in ("__init__", "__main__"):  # lbd/__main__.py is the door to cli
        importer = FLOORS[0] if importer == "__main__" else "__init__"
    climbs = [
        f"line {line}: {name}" for line, name in imported(path) if name.startswith("lbd") and not is_allowed(importer, floor_of(name))
    ]
    assert not climbs, f"{path.relative_to(HOUSE.parent)} ({importer}) imports what stands above or beside it: {climbs}"


@pytest.mark.parametrize("path", [p for p in sources() if path_floor(p) == "wire"], ids=lambda path: path.name)
def test_wire_does_no_io(path: Path) -> None:
    assert not [name for _, name in imported(path) if name.split(".")[0] in IO_MODULES]


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("cli", "core", True),
        ("proxy", "cluster", True),
        ("cluster", "proxy", False),
        ("core", "wire", False),
        ("wire", "core", True),
        ("wire", "routing", False),
        ("core", "errors", True),
        ("errors", "core", False),
        ("metrics", "policy", False),
        ("proxy", "nowhere", False),
    ],
)
def test_the_rule_itself(importer: str, target: str, allowed: bool) -> None:
    assert is_allowed(importer, target) is allowed
