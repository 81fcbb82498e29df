"""A listener at work, over reloads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbd import metrics
from lbd.proxy.forwarding import Forwarding
from lbd.proxy.listener import ForwardedPolicy, ListenerPolicy
from lbd.proxy.listening import Listener
from tests.support.script import Playbook

pytestmark = pytest.mark.usefixtures("autojump_clock")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def reload(play: Playbook, policy: ListenerPolicy) -> None:
    play.listener.apply(policy, play.listener.table, play.clusters, Forwarding(policy.forwarded, bytes))


async def test_who_is_trusted_no_more_is_not_trusted_on_the_connections_that_stand() -> None:
    trusting = ListenerPolicy("web", ("test",), forwarded=ForwardedPolicy(trusted_proxies=("192.0.2.0/24",)))
    async with Playbook(listener=trusting) as play:
        for expected in (b"X-Forwarded-For: 10.9.8.7, 192.0.2.1\r\n", b"X-Forwarded-For: 192.0.2.1\r\n"):
            play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.9.8.7\r\n\r\n"
            up = await play.latest_upstream()
            assert expected in await up.read_until(b"\r\n\r\n")
            up >> OK
            await play.downstream.read_until(b"ok")
            reload(play, replace(trusting, forwarded=ForwardedPolicy()))


async def test_connections_are_counted_with_those_of_a_listener_of_the_same_name_that_is_leaving() -> None:
    async with Playbook() as play:
        segment = play.board.segment(0)

        def connected() -> int:
            return play.board.totals()[metrics.DOWNSTREAM_CONNECTIONS.number, ("web",)][0]

        old, play.listener = play.listener, Listener(play.policy, segment, float, bytes)
        reload(play, play.policy)
        second = play.connect("192.0.2.2")
        assert connected() == 2
        play.downstream.close()
        await second.expect_silence(0.1)
        assert connected() == 1
        assert not old.fibers
