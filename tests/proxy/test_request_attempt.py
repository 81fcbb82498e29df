"""X-Request-Attempt, which counts the attempts of one hop and is nobody else's."""

from __future__ import annotations

import re

import pytest

from tests.proxy.test_retrying import OK, cluster, take
from tests.support.http2 import Http2End
from tests.support.script import Playbook

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_how_often_a_client_has_tried_is_not_how_often_we_have() -> None:
    """The field counts the attempts of whoever sends it, and says by its absence that this is the first."""
    claim = b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Attempt: 7\r\nx_request-attempt: 8\r\n\r\n"
    async with Playbook(clusters=[cluster(per_try=0.5)]) as play:
        play.downstream >> claim
        _, first = await take(play)
        up, second = await take(play)
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert attempts_in(first) == []
        assert attempts_in(second) == [b"2"]


async def test_nor_that_of_a_client_of_http2() -> None:
    async with Playbook(clusters=[cluster(per_try=0.5)]) as play:
        them = Http2End(play.downstream)
        number = them.get("/", (b"x-request-attempt", b"7"), (b"x_request-attempt", b"8"))
        _, first = await take(play)
        up, second = await take(play)
        up >> OK
        assert (await them.answer(number)).status == 200
        assert (attempts_in(first), attempts_in(second)) == ([], [b"2"])


def attempts_in(head: bytes) -> list[bytes]:
    """What it says of them, under any spelling."""
    return re.findall(rb"(?im)^x.request.attempt: (.*)\r$", head)
