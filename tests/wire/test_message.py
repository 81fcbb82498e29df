"""Headers: look-ups, changes, and the block they are."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lbd.wire.message import Headers, RequestHead, ResponseHead, is_field_name, is_field_value

FIELDS = [(b"Accept", b"a"), (b"X-Two", b"1"), (b"accept-charset", b"b"), (b"x-two", b""), (b"Empty", b"")]


def test_look_ups() -> None:
    headers = Headers(b"Accept:a\r\nX-Two:  1 \t\r\naccept-charset: b\r\nx-two:\r\nEmpty: \r\n")
    assert headers.items() == FIELDS
    assert len(headers) == 5
    assert headers.get(b"accept") == b"a"
    assert headers.get(b"x-two") == b"1"
    assert headers.get_all(b"x-two") == [b"1", b""]
    assert headers.get(b"empty") == b""
    assert headers.get(b"accep") is None
    assert headers.get(b"charset") is None
    assert headers.get_all(b"") == []
    assert headers.get(b"a") is None  # not even as a value


def test_nothing() -> None:
    headers = Headers()
    assert (headers.items(), len(headers), headers.encode(), headers.get(b"x"), bool(headers)) == ([], 0, b"", None, False)


def test_what_was_not_changed_is_not_made_again() -> None:
    block = b"A:1\r\nB:  2 \r\n"
    headers = Headers(block)
    assert headers.get(b"b") == b"2"
    headers.remove(b"c")
    assert headers.encode() is block


def test_changes() -> None:
    headers = Headers.of(FIELDS)
    headers.add(b"X-Two", b"3")
    assert headers.get_all(b"x-two") == [b"1", b"", b"3"]
    headers.set(b"X-TWO", b"4")
    assert headers.encode() == b"Accept: a\r\nX-TWO: 4\r\naccept-charset: b\r\nEmpty: \r\n"
    headers.set(b"New", b"5")
    headers.remove(b"ACCEPT")
    headers.remove(b"Empty")
    assert headers.items() == [(b"X-TWO", b"4"), (b"accept-charset", b"b"), (b"New", b"5")]


def test_many_names_are_removed_at_once() -> None:
    headers = Headers(b"A: 1\r\nB: 2\r\na: 3\r\nC: 4\r\n")
    headers.remove_all(frozenset((b"a", b"c", b"d")))
    assert headers.encode() == b"B: 2\r\n"
    assert headers.get(b"a") is None
    headers.remove_all(frozenset((b"",)))
    assert headers.encode() == b"B: 2\r\n"
    headers.remove_all(frozenset((b"b",)))
    assert (headers.encode(), len(headers)) == (b"", 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"", b"1"),
        (b"a b", b"1"),
        (b"a:", b"1"),
        (b"a\r\nb", b"1"),
        (b"\xe4", b"1"),
        (b"a", b"1\r\nb: 2"),
        (b"a", b"1\n2"),
        (b"a", b"1\r2"),
        (b"a", b"\x00"),
        (b"a", b"\x7f"),
        (b"a", b"1\n"),
        (b"a\n", b"1"),
    ],
)
def test_no_field_can_be_forged(name: bytes, value: bytes) -> None:
    headers = Headers(b"X: 1\r\n")
    for change in (headers.add, headers.set):
        with pytest.raises(ValueError, match="not a header field"):
            change(name, value)
    with pytest.raises(ValueError, match="not a header field"):
        Headers.of([(name, value)])
    assert headers.encode() == b"X: 1\r\n"
    assert not (is_field_name(name) and is_field_value(value))


NAMES = st.sampled_from([b"a", b"A", b"b", b"ab", b"a-b", b"B"])
VALUES = st.sampled_from([b"", b"a", b"b: 1", b"\xff", b"a b"])
CHANGES = st.lists(st.tuples(st.sampled_from(["add", "set", "remove"]), NAMES, VALUES), max_size=12)


@given(CHANGES)
def test_changes_are_those_of_a_list(changes: list[tuple[str, bytes, bytes]]) -> None:
    headers = Headers()
    model: list[tuple[bytes, bytes]] = []
    for change, name, value in changes:
        same = [i for i, field in enumerate(model) if field[0].lower() == name.lower()]
        if change == "add":
            headers.add(name, value)
            model.append((name, value))
            continue
        model = [field for i, field in enumerate(model) if i not in same]
        if change == "remove":
            headers.remove(name)
        else:
            headers.set(name, value)
            model.insert(same[0] if same else len(model), (name, value))
        assert headers.items() == model
    for name in (b"a", b"b", b"ab", b"a-b"):
        values = [value for key, value in model if key.lower() == name]
        assert headers.get_all(name) == values
        assert headers.get(name) == (values[0] if values else None)
    assert len(headers) == len(model)
    assert headers.encode() == Headers.of(model).encode()


def test_heads_made_by_hand() -> None:
    request = RequestHead.make(method=b"PUT", target=b"/a?b=c", authority=b"h", content_length=3, scheme=b"https")
    assert (request.path, request.query, request.content_length, request.scheme) == (b"/a", b"b=c", 3, b"https")
    assert (request.headers.encode(), request.chunked, request.minor, request.keep_alive) == (b"", False, 1, True)
    response = ResponseHead.make(status=404, headers=Headers.of([(b"a", b"b")]))
    assert repr(response) == (
        "ResponseHead(status=404, reason=b'', minor=1, headers=Headers(b'a: b\\r\\n'), content_length=-1, chunked=False, "
        "keep_alive=True, upgrade=b'')"
    )
    with pytest.raises(AttributeError):
        RequestHead.make(colour=b"red")
