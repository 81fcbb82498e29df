"""What holds for any bytes that a connection begins with: PROXY headers and ClientHellos. AssertionError: a promise is broken.

1. They are read, refused with a WireError, or there are not enough of them: nothing else, and never for more than the bound.
2. How they are cut into pieces makes no difference.
3. A header that is read and written again is the same header.
"""

from __future__ import annotations

from lbd.wire.client_hello import MOST, ClientHello, HelloReader
from lbd.wire.proxy_protocol import LONGEST, encode_proxy_header, parse_proxy_header
from lbd.wire.refusal import WireError

__all__ = ["check_hello", "check_proxy_header"]

REFUSED = "refused"


def check_proxy_header(data: bytes) -> None:
    whole = read_header(data)
    early = next((found for found in (read_header(data[:end]) for end in range(len(data))) if found is not None), None)
    if isinstance(whole, tuple):
        assert early in (None, whole)
        header, end = whole
        assert end <= min(len(data), LONGEST)
        again = read_header(encode_proxy_header(2, header))
        assert isinstance(again, tuple)
        assert again[0] == header
    else:
        assert early in (None, REFUSED)
        assert whole == REFUSED or len(data) < LONGEST


def read_header(data: bytes) -> object:
    try:
        return parse_proxy_header(data)
    except WireError:
        return REFUSED


def check_hello(data: bytes) -> None:
    whole = read_hello([data])
    assert read_hello([data[at : at + 1] for at in range(len(data))]) == whole
    if isinstance(whole, ClientHello):
        assert whole.sni == whole.sni.lower()
        assert len(whole.sni) <= 255
    else:
        assert whole == REFUSED or len(data) < MOST


def read_hello(pieces: list[bytes]) -> object:
    reader = HelloReader()
    try:
        for piece in pieces:
            hello = reader.feed(piece)
            if hello is not None:
                return hello
    except WireError:
        return REFUSED
    return None
