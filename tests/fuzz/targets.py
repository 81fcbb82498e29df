"""What the fuzzer calls with any bytes: the promises of tests/wire and of promises.py beside this. And what it begins with."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.cookie_promises import COOKIES, check_cookies
from tests.fuzz.promises import check_config
from tests.wire import messages
from tests.wire.hellos import BAD as BAD_HELLOS, GOOD as GOOD_HELLOS, over_records
from tests.wire.hostile import BODIES, HEADS, RESPONSES
from tests.wire.http2_promises import check_http2
from tests.wire.opening_promises import check_hello, check_proxy_header
from tests.wire.promises import check_request, check_response, check_twins
from tests.wire.proxy_headers import BAD as BAD_HEADERS, LONGEST_V1, TAKEN
from tests.wire.test_http2_conformance import BREAKS, RESETS, UPSTREAM_BREAKS, UPSTREAM_RESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["TARGETS", "WORDS", "corpus_file", "known", "longest", "seeds"]

CHUNKED_REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_RESPONSE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LONGEST_HTTP2 = 20_000  # the largest frame that is allowed has 16,384 bytes; there is room for one that is larger, and for a head in front
LONGEST = 2000  # beyond the limits on targets, within what can be fed byte by byte


def request(data: bytes) -> None:
    check_request(data[:LONGEST])


def response(data: bytes) -> None:
    check_response(data[:LONGEST], b"HEAD" if len(data) % 7 == 0 else b"GET")


def chunks(data: bytes) -> None:
    check_request(CHUNKED_REQUEST + data[:LONGEST])
    check_response(CHUNKED_RESPONSE + data[:LONGEST], b"GET")


def twins(data: bytes) -> None:
    check_twins(data)
    check_twins(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")


def proxied(data: bytes) -> None:
    check_proxy_header(data[:LONGEST])


def hello(data: bytes) -> None:
    check_hello(data[:LONGEST])


def http2(data: bytes) -> None:
    check_http2(data[:LONGEST_HTTP2], is_downstream=True)


def http2_response(data: bytes) -> None:
    check_http2(data[:LONGEST_HTTP2], is_downstream=False)


def config(data: bytes) -> None:
    check_config(data[:LONGEST])


def cookie(data: bytes) -> None:
    check_cookies(data[:LONGEST])


TARGETS: dict[str, Callable[[bytes], None]] = {
    "request": request, "response": response, "chunks": chunks, "twins": twins, "proxied": proxied, "hello": hello, "http2": http2,
    "http2_response": http2_response, "config": config, "cookie": cookie,
}  # fmt: skip

# Coverage does not see into regular expressions: without these words the fuzzer would have to guess them.
WORDS = sorted({
    word
    for words in (messages.METHODS, messages.TARGETS, messages.VERSIONS, messages.STATUS, messages.FIELDS, messages.CHUNKS, [b"\r\n"])
    for word in words
    if word
})  # fmt: skip


def seeds(target: str) -> list[bytes]:
    """Every hostile message."""
    if target == "proxied":
        return [LONGEST_V1, *(row[1] for row in TAKEN), *(row[1] for row in BAD_HEADERS)]
    if target == "hello":
        return [
            *(row[1] for row in (*GOOD_HELLOS, *BAD_HELLOS)),
            *(over_records(row[1], size) for row in GOOD_HELLOS for size in range(1, 60, 9)),
        ]
    if target == "config":
        return [text for text in configurations() if len(text) < LONGEST]
    if target == "cookie":
        return COOKIES
    if target.startswith("http2"):
        cases = BREAKS + RESETS if target == "http2" else UPSTREAM_BREAKS + UPSTREAM_RESETS
        return [case.data for case in cases if len(case.data) < LONGEST_HTTP2]
    rows = {"request": HEADS, "response": RESPONSES, "chunks": BODIES, "twins": HEADS + RESPONSES}[target]
    data = [row[1].partition(b"\r\n\r\n")[2] if target == "chunks" else row[1] for row in rows]
    return [seed for seed in data if len(seed) < LONGEST]


def configurations() -> Iterator[bytes]:
    """Good ones and bad ones."""
    for path in sorted((Path(__file__).parent.parent / "golden").glob("*.txt")):
        yield path.read_text().partition("----------\n")[0].encode()


def longest(target: str) -> int:
    """How many bytes the fuzzer makes: most of what can be wrong is short, and short inputs are many a second."""
    return LONGEST_HTTP2 if target.startswith("http2") else 600


def corpus_file(target: str) -> Path:
    return Path(__file__).parent / "corpus" / f"{target}.txt"


def known(target: str) -> list[bytes]:
    """The corpus: what the fuzzer found worth keeping, a bytes literal a line."""
    found = [ast.literal_eval(line) for line in corpus_file(target).read_text().splitlines()]
    assert all(isinstance(data, bytes) for data in found)
    return found
