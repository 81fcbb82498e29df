"""How paths are read: what is equal, what is ambiguous, what is refused."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, strategies as st

from lbd.errors import ProxyError, Side
from lbd.routing.path import canonical, cut_segments, is_suspect, pattern_key, quoted, readings

ONE_READING = [
    # (path, as it is looked up, as it is looked up where a route names a ";")
    ("/", "/", "/"),
    ("/a/b", "/a/b", "/a/b"),
    ("/a/b/", "/a/b/", "/a/b/"),
    ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
    ("/..a/b..", "/..a/b..", "/..a/b.."),
    ("/%61dmin", "/admin", "/admin"),
    ("/%7Euser/%7euser", "/~user/~user", "/~user/~user"),
    ("/caf%C3%A9", "/caf\u00e9", "/caf\u00e9"),
    ("/a%20b", "/a b", "/a b"),
    ("/a%3Fb", "/a?b", "/a?b"),
    ("/a%25b", "/a%25b", "/a%25b"),
    ("/a%252Fb", "/a%252Fb", "/a%252Fb"),  # an escaped "%": no slash, unless somebody decodes twice
    ("//a///b", "/a/b", "/a/b"),
    ("/a;x=1/b;y", "/a/b", "/a;x=1/b;y"),
    ("/a;jsessionid=1", "/a", "/a;jsessionid=1"),
    ("/;x/a", "/a", "/;x/a"),
    ("/;/;/a", "/a", "/;/;/a"),
    ("/a%3Bx", "/a%3Bx", "/a%3Bx"),
    ("*", "*", "*"),
]


@pytest.mark.parametrize(("path", "plain", "literal"), ONE_READING)
def test_one_reading(path: str, plain: str, literal: str) -> None:
    assert readings(path.encode(), True) == (plain.encode(),)
    assert readings(path.encode(), False) == (literal.encode(),)


TWO_READINGS = [
    ("/a/./b", "/a/b", "/a/./b"),
    ("/a/../b", "/b", "/a/../b"),
    ("/a/b/..", "/a/", "/a/b/.."),
    ("/a/.", "/a/", "/a/."),
    ("/a/%2e%2E/b", "/b", "/a/../b"),
    ("/.", "/", "/."),
    ("/a%2Fb", "/a%2Fb", "/a/b"),
    ("/a%2fb", "/a%2Fb", "/a/b"),
    ("/a%5Cb", "/a%5Cb", "/a/b"),
    ("/a\\b", "/a%5Cb", "/a/b"),
    ("/a/%2Fb", "/a/%2Fb", "/a/b"),
]


@pytest.mark.parametrize(("path", "first", "second"), TWO_READINGS)
def test_two_readings(path: str, first: str, second: str) -> None:
    assert readings(path.encode(), True) == (first.encode(), second.encode())


REFUSED = [
    ("/a%", "bad_path"),
    ("/a%2", "bad_path"),
    ("/a%zz", "bad_path"),
    ("/a%00b", "bad_path"),
    ("/..", "bad_path"),
    ("/../a", "bad_path"),
    ("/a/../../b", "bad_path"),
    ("/%2e%2e/a", "bad_path"),
    ("/a/..;x/b", "ambiguous_path"),
    ("/a/..;/b", "ambiguous_path"),
    ("/a//../b", "ambiguous_path"),
    ("/a%2F../b", "ambiguous_path"),
    ("/a%2F..%2Fb", "ambiguous_path"),
    ("/a%5C..%5Cb", "ambiguous_path"),
    ("/a\\..\\b", "ambiguous_path"),
    ("/a/..%2Fb", "ambiguous_path"),
    ("/a/../b%2Fc", "ambiguous_path"),
]


@pytest.mark.parametrize(("path", "reason"), REFUSED)
def test_refused(path: str, reason: str) -> None:
    with pytest.raises(ProxyError) as caught:
        readings(path.encode(), True)
    assert (caught.value.side, caught.value.reason, caught.value.status) == (Side.DOWNSTREAM, reason, 400)


SEGMENT = st.sampled_from(["a", "b", ".", "..", "", "%2e", "%2E%2e", "%2f", "%5c", "\\", ";x", "..;", "%61", "%25", "%252e", "c.d", "\xe9"])
PATHS = st.lists(SEGMENT, max_size=6).map(lambda segments: "/" + "/".join(segments))


@given(PATHS)
def test_no_reading_hides_a_dot_segment_or_an_escape(path: str) -> None:
    raw = path.encode()
    try:
        forms = readings(raw, True)
    except ProxyError:
        return
    first = forms[0]
    assert first.startswith(b"/")
    assert b"//" not in first
    assert not {b".", b".."} & set(first.split(b"/"))
    for escape in (b"%61", b"%2e", b"%2f", b"%5c"):
        assert escape not in first
    assert readings(quoted(first), True)[0] == first, "a canonical path is its own first reading"


@given(PATHS)
def test_a_canonical_path_is_canonical(path: str) -> None:
    try:
        text = canonical(path.encode())
    except ProxyError:
        return
    assert canonical(text) == text
    assert all(0x20 < code < 0x7F for code in text) or not is_suspect(path.encode())


@given(st.binary(max_size=20))
def test_quoted_text_decodes_to_itself(text: bytes) -> None:
    assert unquote_to_bytes(quoted(text.replace(b"%", b""))) == text.replace(b"%", b"")


@pytest.mark.parametrize(
    ("path", "count", "rest"),
    [("/a/b/c", 0, "/a/b/c"), ("/a/b/c", 1, "/b/c"), ("/a/b/c", 3, ""), ("/a/b/", 2, "/"), ("/a", 1, ""), ("/a", 5, ""), ("/", 0, "/")],
)
def test_cutting_segments(path: str, count: int, rest: str) -> None:
    assert cut_segments(path.encode(), count) == rest.encode()


@pytest.mark.parametrize(
    ("pattern", "key"), [("/v1", "/v1"), ("/caf%c3%a9", "/caf\u00e9"), ("/a//b", "/a/b"), ("/a;b", "/a;b"), ("/a/./b", "/a/b")]
)
def test_paths_of_the_configuration(pattern: str, key: str) -> None:
    assert pattern_key(pattern) == key.encode()


@pytest.mark.parametrize(("pattern", "message"), [("v1", 'starts with "/"'), ("/..", "climbs above the root"), ("/%zz", "percent sign")])
def test_paths_that_no_request_could_have(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pattern_key(pattern)
