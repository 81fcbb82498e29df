"""ClientHellos: what the ssl module says first, the same over many records, and those made by hand, good and bad."""

from __future__ import annotations

import ssl
from struct import pack

import pytest

__all__ = ["BAD", "GOOD", "handmade", "hello_of", "over_records", "sni", "vector"]


def hello_of(name: str | None = "a.example", alpn: tuple[str, ...] = (), highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What the ssl module says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = highest
    if alpn:
        context.set_alpn_protocols(list(alpn))
    said = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), said, server_hostname=name).do_handshake()
    return said.read()


def over_records(hello: bytes, size: int) -> bytes:
    """The same message, in records of so many bytes."""
    message = hello[5:]
    return b"".join(hello[:3] + pack("!H", len(message[at : at + size])) + message[at : at + size] for at in range(0, len(message), size))


def vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return pack("!H", kind) + vector(2, content)


def sni(name: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, bytes([kind]) + vector(2, name)))


def handmade(extensions: bytes | None, behind: bytes = b"") -> bytes:
    body = b"\3\3" + b"r" * 32 + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    if extensions is not None:
        body += vector(2, extensions)
    return b"\x16\3\1" + vector(2, b"\1" + vector(3, body + behind))


BAD = [
    ("a request", b"GET / HTTP/1.1\r\n"),
    ("SSL 2", b"\x80\x2e\1\3\1"),
    ("an alert", b"\x15\3\1\0\2\2\x28"),
    ("an older version", b"\x16\2\0"),
    ("an empty record", b"\x16\3\1\0\0"),
    ("a record too large", b"\x16\3\1\x40\1"),
    ("another message", b"\x16\3\1\0\4\2\0\0\0"),
    ("another record in the middle", over_records(hello_of(), 50)[:55] + b"\x17\3\3\0\1x"),
    ("a hello too large", b"\x16\3\1\0\4\1\1\0\0"),
    ("an empty hello", b"\x16\3\1\0\4\1\0\0\0"),
    ("two names", handmade(extension(0, vector(2, b"\0" + vector(2, b"a") + b"\0" + vector(2, b"b"))))),
    ("no name in the list", handmade(extension(0, vector(2, b"")))),
    ("a name of another type", handmade(sni(b"a", kind=1))),
    ("an empty name", handmade(sni(b""))),
    ("a name with a zero", handmade(sni(b"a.example\0.b"))),
    ("a name beyond ASCII", handmade(sni(b"\xc3\xa4.example"))),
    ("bytes behind the names", handmade(extension(0, vector(2, b"\0" + vector(2, b"a")) + b"x"))),
    ("the name twice", handmade(sni(b"a") + sni(b"b"))),
    ("any extension twice", handmade(extension(99, b"") * 2)),
    ("an extension cut off", handmade(b"\0\0\0")),
    ("an extension longer than all", handmade(pack("!HH", 0, 9))),
    ("bytes behind the extensions", handmade(sni(b"a"), behind=b"x")),
    ("an empty protocol", handmade(extension(16, vector(2, b"\0")))),
    ("bytes behind the protocols", handmade(extension(16, vector(2, b"\2h2") + b"x"))),
]

GOOD = [
    ("without extensions", handmade(None)),
    ("a name", handmade(sni(b"a.example"))),
    ("a name with a dot at its end", handmade(sni(b"a.example."))),
    ("protocols", handmade(extension(16, vector(2, vector(1, b"h2") + vector(1, b"http/1.1"))))),
    (
        "both, and others",
        handmade(extension(10, b"\0\2\0\x1d") + sni(b"B.Example") + extension(16, vector(2, vector(1, b"x"))) + extension(21, b"\0" * 30)),
    ),
]
