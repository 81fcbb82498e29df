"""HTTP/1.1 without I/O: heads and bodies in, heads and bodies out.

A connection keeps a buffer. find_head_end() says where the head at its beginning ends; parse_request() or parse_response() reads
it; a BodyReader takes what follows, and its `leftover` is the beginning of the next message. Whatever cannot be read in exactly
one way is a WireError: a load balancer and the server behind it must never see two different messages in the same bytes. What we
accept, h11 accepts with the same meaning (tests/wire).

message     heads and their fields, HTTP/2's too
head        find_head_end, parse_request, parse_response; strict is the grammar's reference, grammar its expressions
body        BodyReader
encode      the way out
refusal     WireError, and the words for it
"""

from __future__ import annotations

from lbd.wire.body import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE, BodyReader, response_framing
from lbd.wire.encode import encode_chunk, encode_informational, encode_last_chunk, encode_request, encode_response
from lbd.wire.head import find_head_end, parse_request, parse_response
from lbd.wire.refusal import HeadLimits, WireError

__all__ = [
    "CHUNKED",
    "LENGTH",
    "NO_BODY",
    "UNTIL_CLOSE",
    "BodyReader",
    "HeadLimits",
    "WireError",
    "encode_chunk",
    "encode_informational",
    "encode_last_chunk",
    "encode_request",
    "encode_response",
    "find_head_end",
    "parse_request",
    "parse_response",
    "response_framing",
]
