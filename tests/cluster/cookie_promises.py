"""What holds for the Cookie fields of any request: for Hypothesis, and for the fuzzer."""

from __future__ import annotations

import re

from lbd.cluster.sticky import Sticky, StickyPolicy
from lbd.wire.message import Headers
from tests.cluster.fakes import make_endpoint

__all__ = ["COOKIES", "GENUINE", "check_cookies"]

STICKY = Sticky("web", StickyPolicy(secret="s" * 32))
HERE, THERE = make_endpoint("10.0.0.1:80"), make_endpoint("10.0.0.2:80")
GENUINE = STICKY.line(HERE, False).partition(b";")[0]
NOT_IN_VALUES = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")  # a head that has such bytes is refused before

NAME, _, VALUE = GENUINE.partition(b"=")
ID, _, SIGNATURE = VALUE.partition(b".")
FORMS = [
    b"%b", b"a=1; %b", b"a=1;%b;b=2", b"%b; %b", b"a=1\n%b\nb=2", b" ; ;%b; ;", b"\t%b\t", b'"%b"', b"x%b", b"%bx", b"a=%b", b"%b=",
    b"%b\n%b", b"=%b", b"%b;;;;;;;;", b"$Version=1; %b", b"a=\xff; %b",
]  # fmt: skip
PAIRS = [GENUINE, NAME, NAME + b"=", NAME + b"=.", NAME + b"=" + ID, NAME + b"=." + SIGNATURE, NAME.upper() + b"=" + VALUE, GENUINE + b".x"]
COOKIES = [form.replace(b"%b", pair) for form in FORMS for pair in PAIRS]


def check_cookies(data: bytes) -> None:
    """Each line of `data` is a field. Only the genuine cookie leads anywhere, and all that is ours, and nothing else, is taken out."""
    fields = [NOT_IN_VALUES.sub(b"", line).strip(b" \t") for line in data.split(b"\n")]
    headers = Headers.of([(b"Host", b"a"), *((b"Cookie", field) for field in fields), (b"Accept", b"*/*")])
    pairs = [pair.strip(b" \t") for field in fields for pair in field.split(b";")]
    ours = [pair for pair in pairs if pair.startswith(NAME + b"=")]
    claim = STICKY.claim(headers, (HERE, THERE))
    if not ours:
        assert claim == (None, "new")
        assert headers.get_all(b"cookie") == fields
        return
    assert claim.endpoint is (HERE if ours[0] == GENUINE else None)
    assert claim.outcome == ("moved" if ours[0] == GENUINE else "invalid")
    left = [pair for field in headers.get_all(b"cookie") for pair in field.split(b"; ")]
    assert left == [pair for pair in pairs if pair and pair not in ours]
    assert (headers.get(b"host"), headers.get(b"accept")) == (b"a", b"*/*")
