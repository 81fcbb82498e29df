"""The promises of promises.py, kept for messages that are good, nearly good, and not good at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from tests.wire import test_heads
from tests.wire.hostile import BODIES, HEADS, RESPONSES
from tests.wire.messages import cut, requests, responses
from tests.wire.promises import check_request, check_response, check_twins
from tests.wire.test_body import CHUNKS

PLACES = st.lists(st.integers(0, 400), max_size=6)
METHODS = st.sampled_from([b"GET", b"HEAD"])
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD_REQUESTS = [row[1] for row in test_heads.REQUESTS] + [CHUNKED + row[0] + b"next" for row in CHUNKS]
GOOD_RESPONSES = [row[1] for row in test_heads.RESPONSES]


@settings(max_examples=400, deadline=None)
@given(requests, PLACES)
def test_requests(data: bytes, places: list[int]) -> None:
    check_request(data, cut(data, places))


@settings(max_examples=300, deadline=None)
@given(responses, METHODS, PLACES)
def test_responses(data: bytes, method: bytes, places: list[int]) -> None:
    check_response(data, method, cut(data, places))


@settings(max_examples=400, deadline=None)
@given(st.one_of(requests, responses))
def test_the_scanner_and_the_grammar_agree(data: bytes) -> None:
    check_twins(data)
    check_twins(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    check_request(data)
    check_response(data, b"GET")
    check_twins(data)


@pytest.mark.parametrize("data", GOOD_REQUESTS)
def test_good_requests(data: bytes) -> None:
    body = b"x" * 12 if b"0012" in data else b"xxxxx"
    accepted = check_request(data + (b"" if b"chunked" in data else body))
    assert accepted or b"9" * 18 in data or b"Chunked" in data or b" chunked " in data
    check_twins(data)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("data", GOOD_RESPONSES)
def test_good_responses(data: bytes, method: bytes) -> None:
    body = b"0\r\n\r\n" if b"chunked" in data else b"xxxxxxx"
    assert check_response(data + body, method)
    check_twins(data)


@pytest.mark.parametrize("data", [row[1] for row in HEADS + BODIES + RESPONSES])
def test_hostile_messages(data: bytes) -> None:
    check_twins(data)
