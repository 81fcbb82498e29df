"""Header edits."""

from __future__ import annotations

import pytest

from lbd.routing.edits import Edits, HeaderEdits
from lbd.routing.route import FixedResponse, RespondPolicy
from lbd.wire.message import Headers


def test_removes_then_sets_then_adds() -> None:
    headers = Headers.of([(b"A", b"1"), (b"B", b"2"), (b"a", b"3"), (b"C", b"4")])
    edits = Edits(HeaderEdits(set=(("B", "x"),), add=(("A", "new"), ("C", "more")), remove=("A",)))
    edits.apply(headers)
    assert headers.items() == [(b"B", b"x"), (b"C", b"4"), (b"A", b"new"), (b"C", b"more")]


def test_no_edits_are_false() -> None:
    assert not Edits(HeaderEdits())
    assert Edits(HeaderEdits(remove=("x",)))


WRONG = [
    (HeaderEdits(set=(("X Y", "1"),)), "not the name of a header field"),
    (HeaderEdits(add=(("", "1"),)), "not the name of a header field"),
    (HeaderEdits(remove=("X:",)), "not the name of a header field"),
    (HeaderEdits(set=(("X", "a\r\nY: b"),)), "a line break"),
    (HeaderEdits(add=(("X", "a\0"),)), "another control character"),
    (HeaderEdits(set=(("Transfer-Encoding", "chunked"),)), "lbd's business"),
    (HeaderEdits(remove=("content-length",)), "lbd's business"),
    (HeaderEdits(set=(("Host", "x"),)), "rewrite.host"),
]


@pytest.mark.parametrize(("policy", "message"), WRONG)
def test_wrong_edits(policy: HeaderEdits, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Edits(policy)


def test_a_fixed_response_has_its_lines_ready() -> None:
    response = FixedResponse(RespondPolicy(404, "gone\n", headers=(("X-Why", "moved \u00e9"),)))
    assert (response.status, response.body) == (404, b"gone\n")
    assert response.fields == b"Content-Type: text/plain; charset=utf-8\r\nX-Why: moved \xc3\xa9\r\n"


def test_a_fixed_response_may_name_its_own_type_or_have_no_body() -> None:
    assert (
        FixedResponse(RespondPolicy(200, "{}", headers=(("content-type", "application/json"),))).fields
        == b"content-type: application/json\r\n"
    )
    assert FixedResponse(RespondPolicy(204)).fields == b""


def test_a_fixed_response_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="a line break"):
        FixedResponse(RespondPolicy(200, "x", content_type="text/plain\r\nSet-Cookie: a"))
