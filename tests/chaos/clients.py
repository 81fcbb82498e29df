"""Who asks: clients of every protocol, each of which knows what the only right answer is.

What a client sees is one of

    ok         the right answer, whole
    excused    none, for a reason that no balancer can help: the worker that held the connection was killed, or the origin died in the
               middle of an answer that had begun
    failed     an error that is allowed to be one: a POST, a call, a WebSocket or a session whose origin died
    wrong      everything else, with a sentence: somebody else's answer, half an answer taken for a whole one, an error that a safe
               request must not see while enough origins are well
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import grpc
import trio
from websockets.exceptions import WebSocketException

from tests.chaos.origin import body_of
from tests.support.http import Downstream, Ended
from tests.support.http2 import Http2Socket
from tests.support.websocket import open_socket

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Clients", "Tally", "Troubles"]

PATIENCE = 20.0  # seconds: an answer that takes longer is none
SIZES = (0, 1, 126, 4_000, 60_000, 300_000)
SHOWN = 20  # sentences of each client


@dataclass(slots=True)
class Troubles:
    """When what was done to whom; written by the storm, read by clients."""

    workers: list[float] = field(default_factory=list)  # a worker was killed
    origins: list[tuple[float, float]] = field(default_factory=list)  # an origin was such that answers break off
    over: bool = False

    def worker_died(self, begin: float, end: float) -> bool:
        """Connections of a dead worker may be noticed a moment later."""
        return any(begin - 1.0 <= at <= end for at in self.workers)

    def origin_broke(self, begin: float, end: float) -> bool:
        return any(first <= end and last >= begin for first, last in self.origins)


@dataclass(slots=True)
class Tally:
    name: str
    asked: int = 0
    ok: int = 0
    excused: int = 0
    failed: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    whole: set[str] = field(default_factory=set)  # identities of POSTs that were answered

    def judge(self, sentence: str) -> None:
        self.wrong.append(sentence)

    def line(self) -> str:
        return f"{self.name:<22}{self.asked:>9,}{self.ok:>9,}{self.failed:>8}{self.excused:>9}{len(self.wrong):>7}{self.slowest:>9.2f} s"


class Clients:
    """All of them; `tallies` is what they have seen."""

    def __init__(self, port: int, tls_port: int, tcp_port: int, troubles: Troubles, seed: int, prefix: str = "") -> None:
        self.port, self.tls_port, self.tcp_port = port, tls_port, tcp_port
        self.troubles = troubles
        self.seed = seed
        self.prefix = prefix
        self.numbers = count(1)
        self.tallies: list[Tally] = []
        self.context = ssl._create_unverified_context()
        self.context.set_alpn_protocols(["http/1.1"])

    def identity(self, who: str) -> str:
        return f"{self.prefix}{who}-{next(self.numbers)}"

    def is_over(self) -> bool:
        return self.troubles.over

    def tally(self, name: str) -> Tally:
        tally = next((tally for tally in self.tallies if tally.name == name), None)
        if tally is None:
            self.tallies.append(tally := Tally(name))
        return tally

    async def run(self) -> None:
        """Until the troubles are over."""
        async with trio.open_nursery() as nursery:
            limiter = trio.CapacityLimiter(64)

            def start(work: Callable[[Tally, Random], None], name: str, times: int) -> None:
                for number in range(times):
                    random = Random(f"{self.seed} {name} {number}")
                    nursery.start_soon(partial(trio.to_thread.run_sync, work, self.tally(name), random, limiter=limiter))

            start(self.gets, "HTTP/1.1 GET", 4)
            start(self.gets_over_tls, "HTTP/1.1 GET, TLS", 2)
            start(self.posts, "HTTP/1.1 POST", 2)
            start(self.streams, "HTTP/2 GET", 2)
            start(self.calls, "gRPC unary", 2)
            start(self.sessions, "TCP", 2)
            for number in range(2):
                nursery.start_soon(self.sockets, self.tally("WebSocket"), Random(f"{self.seed} ws {number}"))

    # HTTP/1

    def gets(self, tally: Tally, random: Random) -> None:
        self._http1(tally, random, lambda: Downstream(self.port, PATIENCE), self._get)

    def gets_over_tls(self, tally: Tally, random: Random) -> None:
        def dial() -> Downstream:
            plain = socket.create_connection(("127.0.0.1", self.tls_port), PATIENCE)
            return Downstream(self.context.wrap_socket(plain), PATIENCE)

        self._http1(tally, random, dial, self._get)

    def posts(self, tally: Tally, random: Random) -> None:
        self._http1(tally, random, lambda: Downstream(self.port, PATIENCE), self._post)

    def _http1(
        self, tally: Tally, random: Random, dial: Callable[[], Downstream], ask: Callable[[Tally, Random, Downstream], bool]
    ) -> None:
        while not self.is_over():
            begin = time.monotonic()
            try:
                with dial() as connection:
                    left = random.randint(1, 50)
                    while left and not self.is_over() and ask(tally, random, connection):
                        left -= 1
            except OSError as error:  # connecting, or the TLS handshake
                if not self.troubles.worker_died(begin, time.monotonic()):
                    tally.judge(f"{tally.name}: no connection: {error!r}")

    def _get(self, tally: Tally, random: Random, connection: Downstream) -> bool:
        """Whether the connection can be used again."""
        identity, size = self.identity("get"), random.choice(SIZES)
        begin = time.monotonic()
        tally.asked += 1
        try:
            answer = connection.ask("GET", f"/item/{identity}/{size}")
        except (OSError, Ended, IndexError, ValueError) as error:
            self._broken(tally, begin, f"GET {identity} {size}", error, connection)
            return False
        tally.slowest = max(tally.slowest, time.monotonic() - begin)
        if answer.status != 200:
            tally.judge(f"GET {identity}: {answer.status} {answer.get('x-lbd-reason')} {answer.body[:100]!r} at {begin:.2f}")
        elif answer.get("x-id") != identity or answer.body != body_of(identity, size):
            tally.judge(f"GET {identity} {size}: got {answer.get('x-id')} with {len(answer.body)} bytes")
        else:
            tally.ok += 1
        return answer.get("connection").lower() != "close"

    def _broken(self, tally: Tally, begin: float, what: str, error: Exception, connection: Downstream) -> None:
        end = time.monotonic()
        has_begun = bool(connection.reader.raw or connection.reader.buffer)
        if self.troubles.worker_died(begin, end) or (has_begun and self.troubles.origin_broke(begin, end)):
            tally.excused += 1
        else:
            tally.judge(f"{what}: {error!r:.300} after {end - begin:.2f} s, {'begun' if has_begun else 'nothing came'}")

    def _post(self, tally: Tally, random: Random, connection: Downstream) -> bool:
        identity, body = self.identity("post"), random.randbytes(random.choice(SIZES))
        tally.asked += 1
        begin = time.monotonic()
        try:
            answer = connection.ask("POST", f"/once/{identity}", {"x-id": identity}, body)
        except (OSError, Ended, IndexError, ValueError) as error:
            if self.troubles.worker_died(begin, time.monotonic()) or self.troubles.origin_broke(begin, time.monotonic()):
                tally.failed += 1
            else:
                tally.judge(f"POST {identity}: {error!r:.300}")
            return False
        tally.slowest = max(tally.slowest, time.monotonic() - begin)
        if answer.status >= 500:
            tally.failed += 1
        elif answer.status != 200 or answer.get("x-id") != identity or answer.body.decode() != hashlib.sha256(body).hexdigest():
            tally.judge(f"POST {identity}: {answer.status}, for {answer.get('x-id')}, {answer.body[:100]!r}")
        else:
            tally.ok += 1
            tally.whole.add(identity)
        return answer.get("connection").lower() != "close"

    # HTTP/2

    def streams(self, tally: Tally, random: Random) -> None:
        while not self.is_over():
            begin = time.monotonic()
            asked: dict[int, tuple[str, int]] = {}
            try:
                with Http2Socket(self.port, reads_bodies=True, timeout=PATIENCE) as connection:
                    for _ in range(random.randint(1, 8)):
                        begin = time.monotonic()
                        asked = {}
                        for _ in range(random.randint(1, 8)):
                            identity, size = self.identity("stream"), random.choice(SIZES)
                            asked[connection.get(f"/item/{identity}/{size}")] = (identity, size)
                            tally.asked += 1
                        connection.until(lambda: all(map(connection.is_answered, asked)))  # noqa: B023 - used at once
                        for number, (identity, size) in asked.items():
                            self._check_stream(tally, begin, connection, number, identity, size)
                        asked = {}
                        if connection.goaways:
                            break
            except (OSError, AssertionError) as error:
                if self.troubles.worker_died(begin, time.monotonic()):
                    tally.excused += len(asked)
                else:
                    tally.judge(f"HTTP/2 {list(asked.values())}: {error!r:.300}")

    def _check_stream(self, tally: Tally, begin: float, connection: Http2Socket, number: int, identity: str, size: int) -> None:
        answer = connection.answers[number]
        end = time.monotonic()
        tally.slowest = max(tally.slowest, end - begin)
        status = answer.status
        if answer.reset >= 0:
            if status and self.troubles.origin_broke(begin, end):
                tally.excused += 1
            else:
                tally.judge(f"stream {identity}: reset with {answer.reset}, status {status}")
        elif status != 200:
            tally.judge(f"stream {identity}: {status} {answer.field(b'x-lbd-reason')!r} at {begin:.2f}")
        elif answer.field(b"x-id") != identity.encode() or bytes(answer.body) != body_of(identity, size):
            tally.judge(f"stream {identity} {size}: got {answer.field(b'x-id')!r} with {len(answer.body)} bytes")
        else:
            tally.ok += 1

    # gRPC

    def calls(self, tally: Tally, random: Random) -> None:
        """Not safe: a call whose origin dies fails. What comes must be ours."""
        while not self.is_over():
            with grpc.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.max_receive_message_length", -1)]) as channel:
                unary = channel.unary_unary("/lab.Echo/Unary")
                for _ in range(random.randint(5, 60)):
                    if self.is_over():
                        return
                    message = self.identity("call").encode() + b" " + random.randbytes(random.choice(SIZES))
                    tally.asked += 1
                    begin = time.monotonic()
                    try:
                        answer = unary(message, timeout=PATIENCE)
                    except grpc.RpcError as error:
                        tally.failed += 1
                        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                            tally.judge(f"call {message[:20]!r}: {error!r:.300}")
                        continue
                    tally.slowest = max(tally.slowest, time.monotonic() - begin)
                    if answer == message:
                        tally.ok += 1
                    else:
                        tally.judge(f"call {message[:20]!r}: got {answer[:20]!r}, {len(answer)} bytes")

    # WebSocket, TCP

    async def sockets(self, tally: Tally, random: Random) -> None:
        while not self.is_over():
            message = b""
            try:
                with trio.fail_after(PATIENCE * 3):
                    async with open_socket(self.port, f"/echo?{self.identity('socket')}", compression=None) as client:
                        for _ in range(random.randint(5, 100)):
                            message = self.identity("message").encode() + b" " + random.randbytes(random.choice(SIZES))
                            tally.asked += 1
                            await client.send(message)
                            with trio.fail_after(PATIENCE):
                                answer = await client.recv()
                            if answer != message:
                                tally.judge(f"message {message[:20]!r}: got {answer[:20]!r}")
                            else:
                                tally.ok += 1
                            await trio.sleep(random.uniform(0, 0.02))
            except (OSError, WebSocketException, trio.TooSlowError, trio.BrokenResourceError):
                tally.failed += 1
                await trio.sleep(0.05)

    def sessions(self, tally: Tally, random: Random) -> None:
        while not self.is_over():
            tally.asked += 1
            data = self.identity("session").encode() + b" " + random.randbytes(random.choice(SIZES))
            got = b""
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.tcp_port), PATIENCE) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(1 << 18):
                    got += piece
            if got == data:
                tally.ok += 1
            elif data.startswith(got):
                tally.failed += 1
            else:
                tally.judge(f"session {data[:20]!r}: got {got[:20]!r}")
            time.sleep(0.01)
