"""Strategies: messages that are nearly good, so that most of a parser is reached."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from tests.wire.hostile import BODIES, HEADS, RESPONSES

__all__ = ["cut", "requests", "responses"]

METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"m-x", b"G" * 33, b"G ET", b""]
TARGETS = [b"/", b"/a?b=c", b"*", b"http://a/x?y", b"HTTPS://a", b"http://b/", b"a", b"/\x80", b"/#", b"//a", b"?", b""]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"HTTP/1.11"]
STATUS = [
    b"200 OK",
    b"204 No Content",
    b"304 Not Modified",
    b"100 Continue",
    b"404",
    b"500 ",
    b"101 Switch",
    b"099 X",
    b"20 X",
    b"200 \xe4\t",
]
HOST = b"Host: a\r\n"
FIELDS = [
    HOST, b"host:A:80\r\n", b"Host: [::1]\r\n", b"Host: a/b\r\n", b"Content-Length: 3\r\n", b"content-length: 0\r\n",
    b"Content-Length: 3, 3\r\n", b"Content-Length: +3\r\n", b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:CHUNKED\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: \r\n", b"Connection: close\r\n", b"Connection: Keep-Alive\r\n", b"Connection: keep-alive, X-A\r\n",
    b"Connection: upgrade, via\r\n", b"Connection: content-length, host\r\n", b"Connection:\r\n", b"Keep-Alive: x\r\n",
    b"Proxy-Authorization: x\r\n", b"proxy-authenticate: x\r\n", b"Proxy-Authentication-Info: x\r\n",
    b"Proxy-Connection: close\r\n", b"TE: trailers\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"X-A: 1\r\n", b"x-a:\t2 \r\n",
    b"Via: 1.1 x\r\n", b"X-Forwarded-For: 1\r\n", b"X-Request-Id: 1\r\n", b"X-Real-IP: 1\r\n", b"Forwarded: for=x\r\n", b"X:\r\n",
    b"X: \x80\xff\r\n",
    b"X: \x01\r\n", b"X: \x00\r\n", b"X : 1\r\n", b" X: 1\r\n", b"X\r\n", b": 1\r\n", b"X: 1\n", b"X: 1\r\r\n", b"X: 1\r\n 2\r\n",
]  # fmt: skip
CHUNKS = [
    b"3\r\nabc\r\n", b"A;x=y\r\n0123456789\r\n", b"03\r\nabc\r\n", b"0\r\n\r\n", b"0;x\r\n", b"0\r\n", b"X: 1\r\n",
    b"\r\n", b"3 \r\nabc\r\n",
    b"0x3\r\nabc\r\n", b"3\nabc\r\n", b"3\r\nabcd\r\n", b"3\r\nabc\n", b"-3\r\nabc\r\n", b"10000000000000003\r\nabc\r\n", b"Host: b\r\n",
    b"Content-Length: 1\r\n", b"Transfer-Encoding: x\r\n",
]  # fmt: skip
GOOD_FIELDS = [field for field in FIELDS if b"Host" not in field and b"host" not in field][:28]


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """One message, mostly as it is, sometimes with a byte or two changed, added or taken away."""
    data = bytearray(draw(messages))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["put", "add", "cut"]))
        if change == "put" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif change == "add":
            data[at:at] = draw(st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\x00", b"\x0b", b"a", b"0", b",", b"\xa0"]))
        else:
            del data[at : at + 1]
    return bytes(data)


BODY = st.one_of(
    st.sampled_from([b"", b"abc", b"abcGET / HTTP/1.1\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"3;x\r\nabc\r\n0\r\nX: 1\r\n\r\nGET"]),
    st.lists(st.sampled_from(CHUNKS), max_size=5).map(b"".join),
)
SOME_FIELDS = st.one_of(
    st.lists(st.sampled_from(GOOD_FIELDS), max_size=6).map(b"".join),
    st.lists(st.sampled_from(FIELDS), max_size=6).map(b"".join),
)
PLAIN_REQUESTS = st.builds(
    lambda method, target, version, fields, body: b"%b %b %b\r\n%b\r\n%b" % (method, target, version, fields, body),
    st.sampled_from(METHODS),
    st.sampled_from(TARGETS),
    st.sampled_from(VERSIONS),
    st.one_of(SOME_FIELDS.map(lambda fields: HOST + fields), SOME_FIELDS),
    BODY,
)
GOOD_REQUESTS = st.builds(
    lambda method, target, fields, body: b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n%b" % (method, target, fields, body),
    st.sampled_from(METHODS[:5]),
    st.sampled_from(TARGETS[:2]),
    st.lists(st.sampled_from(GOOD_FIELDS), max_size=6, unique=True).map(b"".join),
    BODY,
)
PLAIN_RESPONSES = st.builds(
    lambda version, status, fields, body: b"%b %b\r\n%b\r\n%b" % (version, status, fields, body),
    st.sampled_from(VERSIONS),
    st.sampled_from(STATUS),
    SOME_FIELDS,
    BODY,
)
requests = mutated(st.one_of(GOOD_REQUESTS, PLAIN_REQUESTS, st.sampled_from([row[1] for row in HEADS + BODIES])))
responses = mutated(st.one_of(PLAIN_RESPONSES, st.sampled_from([row[1] for row in RESPONSES])))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places, wherever they lie."""
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(at)]
