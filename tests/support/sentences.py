"""What the code can say: the sentences of errors, as they stand in its sources, so that a test can ask whether each has been seen."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

__all__ = ["sentences"]

SHORTEST = 12  # letters; what is shorter is a piece of a sentence


def sentences(paths: Iterable[Path], calls: Collection[str], returning: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """(where, longest fixed part) of each text that these calls get, or that functions of these names return."""
    for path in sorted(paths):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name_of(node.func) in calls:
                yield from ((f"{path.name}:{node.lineno}", text) for text in texts(node))
            elif isinstance(node, ast.FunctionDef) and node.name in returning:
                for each in ast.walk(node):
                    if isinstance(each, ast.Return):
                        yield from ((f"{path.name}:{each.lineno}", text) for text in texts(each))


def name_of(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""


def texts(within: ast.AST) -> Iterator[str]:
    whole = {id(part) for node in ast.walk(within) if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node}
    for node in ast.walk(within):
        if id(node) in whole:
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        fixed = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        longest = max(fixed, key=len, default="")
        if len(longest) > SHORTEST:
            yield longest
