"""Files put together: includes, the environment, faults that tomllib or the system find."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from lbd.config.text import DEPTH_LIMIT, Document, Expanded, escape, read_document

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read(directory: Path, files: Mapping[str, str | bytes], environ: Mapping[str, str] | None = None) -> Document:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_document(directory / "lb.toml", environ or {})


def faults(document: Document, directory: Path) -> list[str]:
    return [str(error).replace(f"{directory}/", "") for _, error in sorted(document.errors, key=lambda item: item[0])]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a = 1\nb = '\xff'\n", "lb.toml:2: this line is not UTF-8; TOML files are UTF-8 text"),
        ("a = " + "[" * 5000 + "]" * 5000, "lb.toml: arrays or tables are nested too deeply"),
        ("a = 1\r\nb = ]\r\n", "lb.toml:2: not TOML: invalid value (column 5); strings stand in quotes"),
        ("a = 1\n[b\n\n", "lb.toml:2: not TOML: expected ']' at the end of a table declaration (column 3)"),
        ("", ""),
    ],
)
def test_what_is_not_toml(content: str | bytes, fault: str, tmp_path: Path) -> None:
    assert faults(read(tmp_path, {"lb.toml": content}), tmp_path) == [fault] * bool(fault)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    assert read(tmp_path, {"lb.toml": b"\xef\xbb\xbfa = 1\n"}).tree == {"a": 1}


def test_windows_line_ends(tmp_path: Path) -> None:
    document = read(tmp_path, {"lb.toml": "a = 1\r\n\r\nb = 2\r\n"})
    assert document.tree == {"a": 1, "b": 2}
    assert document.place(("b",)).line == 3


def test_a_missing_file(tmp_path: Path) -> None:
    assert faults(read_document(tmp_path / "lb.toml", {}), tmp_path) == ["lb.toml: cannot be read: no such file or directory"]


def test_a_directory(tmp_path: Path) -> None:
    assert faults(read_document(tmp_path, {}), tmp_path) == [f"{tmp_path}: cannot be read: is a directory"]


def test_includes_come_in_the_order_of_their_names_each_once(tmp_path: Path) -> None:
    files = {
        "lb.toml": 'include = ["d/b.toml", "d/*.toml"]\n[cluster.x]\n',
        "d/c.toml": "[cluster.c]",
        "d/b.toml": "[cluster.b]",
        "d/a.toml": "[cluster.a]",
    }
    document = read(tmp_path, files)
    assert not document.errors
    assert document.tree == {"cluster": {"x": {}, "b": {}, "a": {}, "c": {}}}
    assert str(document.place(("cluster", "c"))) == f"{tmp_path}/d/c.toml:1"


def test_a_name_with_brackets_is_a_pattern_only_in_the_include(tmp_path: Path) -> None:
    directory = tmp_path / "a[b]c"
    directory.mkdir()
    assert not read(directory, {"lb.toml": 'include = "*.inc"', "one.inc": "[cluster.a]"}).errors


def test_includes_are_relative_to_the_file_that_has_them(tmp_path: Path) -> None:
    files = {"lb.toml": 'include = "d/one.toml"', "d/one.toml": 'include = "two.toml"', "d/two.toml": "[cluster.a]"}
    assert read(tmp_path, files).tree == {"cluster": {"a": {}}}


def test_includes_have_a_depth(tmp_path: Path) -> None:
    files = {f"{number}.toml": f'include = "{number + 1}.toml"' for number in range(DEPTH_LIMIT + 3)}
    document = read(tmp_path, {"lb.toml": 'include = "0.toml"', **files})
    assert faults(document, tmp_path) == [
        f"7.toml:1: include: {tmp_path}/8.toml: more than 8 includes within each other, or 10000 files".replace(f"{tmp_path}/", "")
    ]


def test_a_key_in_two_files_is_a_fault_with_both_places(tmp_path: Path) -> None:
    files = {"lb.toml": 'include = "one.toml"\nlbd.workers = 1\nfoo = 1\n', "one.toml": "foo = 2\n[lbd]\nuser = 'a'\n"}
    assert faults(read(tmp_path, files), tmp_path) == [
        "one.toml:1: foo: this key is in lb.toml:3 already; keep one of the two",
        "one.toml:2: lbd: this table is in lb.toml:2 already; keep one of the two",
    ]


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain $ $5 {x} $HOME", "plain $ $5 {x} $HOME"),
        ("${A}", "one"),
        ("<${A}${A}>", "<oneone>"),
        ("${NONE:-default}", "default"),
        ("${NONE:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("${A:-default}", "one"),
        ("${NONE:-a:-b}", "a:-b"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$${A} ${A}", "${A} one"),
        ("${NESTED}", "${A}"),  # what comes from the environment is text
    ],
)
def test_variables(text: str, expanded: str, tmp_path: Path) -> None:
    document = read(tmp_path, {"lb.toml": f"a = '{text}'"}, {"A": "one", "EMPTY": "", "NESTED": "${A}"})
    assert document.tree == {"a": expanded}
    assert isinstance(document.tree["a"], Expanded) is ("${" in text.replace("$${", ""))


def test_keys_are_left_alone(tmp_path: Path) -> None:
    assert read(tmp_path, {"lb.toml": '"${A}" = 1'}, {"A": "b"}).tree == {"${A}": 1}


@given(st.text(alphabet="${}AB:-x"))
def test_what_is_escaped_comes_back(text: str) -> None:
    from lbd.config.text import Reader

    assert Reader(Document(), {"A": "wrong"})._with_environment(escape(text)) == text
