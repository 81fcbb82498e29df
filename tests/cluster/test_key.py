"""hash_key: from a request to what the hash is taken of."""

from __future__ import annotations

import pytest

from lbd.cluster.key import HashKey
from tests.routing.requests import make_request

COOKIES = (("Cookie", "a=1; user=alice; b=2"), ("cookie", "user=later; theme=dark"))

CASES = [
    ("client-ip", "/", (), b"192.0.2.7"),
    ("path", "/shop/cart?item=1", (), b"/shop/cart"),
    ("uri", "/shop/cart?item=1", (), b"/shop/cart?item=1"),
    ("host", "/", (), b"example.com"),
    ("header:X-User", "/", (("x-user", "alice"),), b"alice"),
    ("header:x-user", "/", (("X-User", "first"), ("X-USER", "second")), b"first"),
    ("header:x-user", "/", (), b""),
    ("cookie:user", "/", COOKIES, b"alice"),
    ("cookie:theme", "/", COOKIES, b"dark"),
    ("cookie:use", "/", COOKIES, b""),
    ("cookie:User", "/", COOKIES, b""),
    ("cookie:user", "/", (), b""),
    ("cookie:empty", "/", (("Cookie", "empty=; x=1"),), b""),
    ("cookie:token", "/", (("Cookie", "token=a=b=="),), b"a=b=="),
    ("query:k", "/?k=1&k=2", (), b"1"),
    ("query:k", "/?ok=0&k=%20x", (), b"%20x"),
    ("query:k", "/?k", (), b""),
    ("query:k", "/", (), b""),
]


@pytest.mark.parametrize(("text", "target", "fields", "expected"), CASES)
def test_keys(text: str, target: str, fields: tuple[tuple[str, str], ...], expected: bytes) -> None:
    request = make_request(target, "example.com", "GET", *fields)
    assert HashKey(text).of(request, "192.0.2.7") == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a.example:8080", b"a.example"),
        ("a.example", b"a.example"),
        ("[::1]:80", b"[::1]"),
        ("[::1]", b"[::1]"),
        ("", b""),
        ("a.example:", b"a.example"),
    ],
)
def test_a_host_is_the_same_on_every_port(host: str, expected: bytes) -> None:
    assert HashKey("host").of(make_request("/", host), "") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client_ip", '"client_ip" is not something to hash by: write client-ip, path, uri, host, header:NAME, cookie:NAME or query:NAME'),
        ("", '"" is not something to hash by: write client-ip, path, uri, host, header:NAME, cookie:NAME or query:NAME'),
        ("header", '"header" is not something to hash by: write client-ip, path, uri, host, header:NAME, cookie:NAME or query:NAME'),
        ("body:x", '"body:x" is not something to hash by: write client-ip, path, uri, host, header:NAME, cookie:NAME or query:NAME'),
        ("header:", '"header:" names no header: write header:NAME, such as header:user'),
        ("header:x user", '"header:x user" names no header: write header:NAME, such as header:user'),
        ("cookie:a=b", '"cookie:a=b" names no cookie: write cookie:NAME, such as cookie:user'),
        ("query:", '"query:" names no query: write query:NAME, such as query:user'),
    ],
)
def test_what_is_no_key(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        HashKey(text)
    assert str(caught.value) == message
