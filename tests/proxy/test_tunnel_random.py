"""Tunnels between ends that speak, listen, pause and leave as chance has it: what was said arrives whole, or the tunnel says why not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd import metrics
from lbd.proxy.listener import ListenerLimits, ListenerPolicy
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

SEEDS = range(100)
END = b"\r\n\r\n"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
YES = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Talker:
    """One end: says all of `words`, some of them perhaps in the same write as its head, hears all there is, and leaves when it has."""

    def __init__(self, luck: random.Random) -> None:
        self.luck = luck
        self.words = luck.randbytes(luck.choice((0, 1, 1000, 20_000, luck.randrange(200_000))))
        self.said = luck.choice((0, 0, min(len(self.words), luck.randrange(1, 3000))))  # along with the head
        self.heard = b""
        self.resets = luck.random() < 0.1

    async def pause(self, chance: float) -> None:
        if self.luck.random() < chance:
            await trio.sleep(self.luck.choice((0.001, 0.01, 0.2)))

    async def say(self, far: End) -> None:
        """OSError: the other side is gone."""
        at = self.said
        while at < len(self.words):
            size = self.luck.choice((1, 100, 16 * 1024, 70_000))
            await far.send(self.words[at : at + size])
            at += size
            await self.pause(0.2)
        await self.pause(0.5)
        if self.resets:
            far.reset()
        else:
            far.end()

    async def hear(self, far: End) -> None:
        self.heard = far.unseen
        far.unseen = b""
        while True:
            await self.pause(0.2)
            data = await far.read(seconds=500.0)
            if not data:
                return
            self.heard += data


async def talk(talker: Talker, far: End) -> bool:
    """Whether both directions came to their ends."""

    async def say() -> None:
        try:
            await talker.say(far)
        except OSError:
            pass  # whoever hears will say so

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        try:
            await talker.hear(far)
        except OSError:
            nursery.cancel_scope.cancel()
            return False
    return True


def moved(play: Playbook, direction: str, side: str) -> int:
    segment = play.board.segment(0)
    return int(segment.cells[segment.series(metrics.BYTES.number, (direction, side), 1)])


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_is_said_is_heard(seed: int) -> None:
    luck = random.Random(seed)
    policy = ListenerPolicy("web", ("test",), limits=ListenerLimits(window=luck.choice((4096, 16 * 1024, 64 * 1024))))
    client, origin = Talker(luck), Talker(luck)
    async with Playbook(listener=policy, buffer=luck.choice((4096, 10_000, 64 * 1024)), checks_bytes=False) as play:
        play.downstream >> ASK + client.words[: client.said]
        far = await play.upstream()
        await far.read_until(END)
        assert not far.unseen
        far >> YES + origin.words[: origin.said]
        await play.downstream.read_until(END)
        whole: list[bool] = []

        async def run(talker: Talker, end: End) -> None:
            whole.append(await talk(talker, end))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, client, play.downstream)
            nursery.start_soon(run, origin, far)
        await trio.sleep(0.1)
        line: Any = play.lines[0]
        assert origin.words.startswith(client.heard)
        assert client.words.startswith(origin.heard)
        if not (client.resets or origin.resets):
            assert whole == [True, True]
            assert (client.heard, origin.heard) == (origin.words, client.words)
            assert (line.status, line.reason) == (101, "")
            assert line.upstream_in == len(YES) + len(origin.words)
            assert line.bytes_in == len(ASK) + len(client.words)
        else:
            assert line.reason in ("", "downstream_reset", "downstream_closed", "upstream_reset", "upstream_closed")
        assert len(play.lines) == 1
        assert play.listener.fibers == set()
        assert not [fiber for fiber in play.reactor.fibers if fiber.name == "tunnel"]
        counted = [moved(play, direction, side) for side in ("downstream", "upstream") for direction in ("in", "out")]
        assert counted == [line.bytes_in, line.bytes_out, line.upstream_in, line.upstream_out]
