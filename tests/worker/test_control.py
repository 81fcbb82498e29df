"""The control channel: frames and descriptors over a real socketpair."""

from __future__ import annotations

import os
import pickle
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from lbd.worker.control import FDS_AT_ONCE, FRAME_LIMIT, ControlChannel, ControlError
from lbd.worker.messages import Applied, Ping, Pong

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

pytestmark = pytest.mark.usefixtures("no_leaked_fds")


class Pair:
    """Two ends; `raw` is the descriptor behind the near one, to write nonsense to the far one."""

    def __init__(self, accepts: list[type] | None = None) -> None:
        near, far = socket.socketpair()
        self.raw = near
        self.near = ControlChannel(trio.socket.from_stdlib_socket(near))
        self.far = ControlChannel(trio.socket.from_stdlib_socket(far), accepts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.near.close()
        self.far.close()


async def exchange(pair: Pair, message: object, fds: list[int]) -> tuple[object, list[int]]:
    result: list[tuple[object, list[int]]] = []

    async def receive() -> None:
        received = await pair.far.receive()
        assert received is not None
        result.append(received)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await pair.near.send(message, fds)
    return result[0]


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
async def test_a_message_arrives_whole(size: int) -> None:
    with Pair() as pair:
        assert await exchange(pair, {"text": "x" * size}, []) == ({"text": "x" * size}, [])


@pytest.mark.parametrize("count", [1, FDS_AT_ONCE, FDS_AT_ONCE + 1, 3 * FDS_AT_ONCE + 7])
async def test_descriptors_arrive_in_order_with_their_message(count: int) -> None:
    with Pair() as pair:
        reader, writer = os.pipe()
        files = [os.memfd_create(f"file-{i}") for i in range(count)]
        try:
            for i, fd in enumerate(files):
                os.write(fd, str(i).encode())
            message, fds = await exchange(pair, Ping(count), files)
            assert message == Ping(count)
            assert [os.pread(fd, 10, 0).decode() for fd in fds] == [str(i) for i in range(count)]
            assert not any(os.get_inheritable(fd) for fd in fds)
            for fd in fds:
                os.close(fd)
        finally:
            for fd in (reader, writer, *files):
                os.close(fd)


async def test_many_messages_keep_their_own_descriptors() -> None:
    with Pair() as pair:
        file = os.memfd_create("file")
        try:
            for i in range(20):  # all in one buffer before the first is read
                await pair.near.send(Ping(i), [file] * (i % 3))
            for i in range(20):
                received = await pair.far.receive()
                assert received is not None
                message, fds = received
                assert (message, len(fds)) == (Ping(i), i % 3)
                for fd in fds:
                    os.close(fd)
        finally:
            os.close(file)


async def test_the_end_is_none_and_sending_after_it_is_an_error() -> None:
    with Pair() as pair:
        pair.far.close()
        assert await pair.near.receive() is None
        with pytest.raises(trio.BrokenResourceError):
            await pair.near.send(Ping(1))


async def test_a_message_cut_short_is_the_end() -> None:
    with Pair() as pair:
        pair.raw.send(struct.pack("!II", 100, 0) + b"only the beginning")
        pair.near.close()
        assert await pair.far.receive() is None


async def test_descriptors_nobody_asked_for_are_closed_with_the_channel() -> None:
    with Pair() as pair:
        file = os.memfd_create("file")
        socket.send_fds(pair.raw, [struct.pack("!II", 100, 1)], [file])
        with trio.move_on_after(0.05):
            await pair.far.receive()
        os.close(file)  # the fixtures close the channel, and see that nothing stays open


HOSTILE = {
    "too long": (struct.pack("!II", FRAME_LIMIT + 1, 0), "bytes"),
    "too many descriptors": (struct.pack("!II", 10, 1 << 20), "descriptors"),
    "descriptors that did not come": (struct.pack("!II", 3, 2) + b"abc", "0 came"),
    "not a pickle": (struct.pack("!II", 3, 0) + b"abc", "cannot be read"),
    "an empty pickle": (struct.pack("!II", 0, 0), "cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_nonsense_is_an_error_that_says_what_came(case: str) -> None:
    with Pair() as pair:
        data, sentence = HOSTILE[case]
        pair.raw.send(data)
        with pytest.raises(ControlError, match=sentence):
            await pair.far.receive()


async def test_a_master_builds_only_what_a_worker_may_say() -> None:
    with Pair(accepts=[Applied, Pong]) as pair:
        assert await exchange(pair, Applied(3, "no"), []) == (Applied(3, "no"), [])
        for message in (Ping(1), os.system, {"fine": print}):
            await pair.near.send(message)
            with pytest.raises(ControlError, match="not expected here"):
                await pair.far.receive()


async def test_a_pickle_that_would_run_a_program_does_not(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "proof"),)

    with Pair(accepts=[Applied]) as pair:
        data = pickle.dumps(Attack())
        pair.raw.send(struct.pack("!II", len(data), 0) + data)
        with pytest.raises(ControlError, match="mkdir"):
            await pair.far.receive()
        assert os.listdir(tmp_path) == []


async def test_a_slow_reader_makes_the_sender_wait_not_fail() -> None:
    with Pair() as pair:
        sent = []

        async def send() -> None:
            for i in range(50):
                await pair.near.send("x" * 100_000)
                sent.append(i)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert 0 < len(sent) < 50
            for _ in range(50):
                assert await pair.far.receive() is not None
        assert len(sent) == 50
