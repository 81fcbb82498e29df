"""Who asks: clients of every protocol, each of which knows what the only right answer is (tally.py has what it may be instead)."""

from __future__ import annotations

import hashlib
import socket
import time
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import grpc
import trio
from websockets.exceptions import WebSocketException

from tests.chaos.asking import NAP, PATIENCE, SIZES
from tests.chaos.origin import body_of
from tests.chaos.streams import StreamClients
from tests.support.http import Downstream, Ended
from tests.support.websocket import open_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.tally import Tally

__all__ = ["Clients"]

HASH = hashlib.sha256().digest_size


class Clients(StreamClients):
    """All of them."""

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
            start(self.streams_over_tls, "HTTP/2 GET, TLS", 2)
            start(self.stream_posts, "HTTP/2 POST", 2)
            start(self.calls, "gRPC unary", 2)
            start(self.sessions, "TCP", 2)
            for number in range(2):
                nursery.start_soon(self.sockets, self.tally("WebSocket"), Random(f"{self.seed} ws {number}"))

    # HTTP/1

    def gets(self, tally: Tally, random: Random) -> None:
        self._http1(tally, random, lambda: Downstream(self.port, PATIENCE), self._get)

    def gets_over_tls(self, tally: Tally, random: Random) -> None:
        context = self.context(["http/1.1"])

        def dial() -> Downstream:
            plain = socket.create_connection(("127.0.0.1", self.tls_port), PATIENCE)
            return Downstream(context.wrap_socket(plain), PATIENCE)

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
                time.sleep(NAP)

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
            tally.fail(f"POST {identity}", type(error).__name__, explained=self.troubles.may_fail(begin, time.monotonic()))
            return False
        end = time.monotonic()
        tally.slowest = max(tally.slowest, end - begin)
        if answer.status >= 500:
            reason = answer.get("x-lbd-reason") or f"status {answer.status}"
            tally.fail(f"POST {identity}", reason, explained=self.troubles.may_fail(begin, end))
        elif answer.status != 200 or answer.get("x-id") != identity or answer.body.decode() != hashlib.sha256(body).hexdigest():
            tally.judge(f"POST {identity}: {answer.status}, for {answer.get('x-id')}, {answer.body[:100]!r}")
        else:
            tally.ok += 1
            tally.whole.add(identity)
        return answer.get("connection").lower() != "close"

    # gRPC

    def calls(self, tally: Tally, random: Random) -> None:
        """Not safe: a call whose origin dies fails. What comes must be ours, and each is carried out once."""
        while not self.is_over():
            with grpc.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.max_receive_message_length", -1)]) as channel:
                once = channel.unary_unary("/lab.Echo/Once")
                for _ in range(random.randint(5, 60)):
                    if self.is_over():
                        return
                    self._call(tally, once, self.identity("call"), random.randbytes(random.choice(SIZES)))

    def _call(self, tally: Tally, once: grpc.UnaryUnaryMultiCallable, identity: str, rest: bytes) -> None:
        message = identity.encode() + b" " + rest
        tally.asked += 1
        begin = time.monotonic()
        try:
            answer = once(message, timeout=PATIENCE)
        except grpc.RpcError as error:
            end, code = time.monotonic(), error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                tally.fail(f"call {identity}", f"{code.name} {error.details():.60}", explained=self.troubles.may_end(begin, end))
            else:
                tally.judge(f"call {identity}: {error!r:.300}")
            time.sleep(NAP)
            return
        tally.slowest = max(tally.slowest, time.monotonic() - begin)
        if answer == message:
            tally.ok += 1
            tally.whole.add(identity)
        else:
            tally.judge(f"call {identity}: got {answer[:20]!r}, {len(answer)} bytes")

    # WebSocket, TCP

    async def sockets(self, tally: Tally, random: Random) -> None:
        while not self.is_over():
            begin, is_asked = time.monotonic(), False
            try:
                with trio.fail_after(PATIENCE * 3):
                    async with open_socket(self.port, f"/echo?{self.identity('socket')}", compression=None) as client:
                        for _ in range(random.randint(5, 100)):
                            message = self.identity("message").encode() + b" " + random.randbytes(random.choice(SIZES))
                            begin, is_asked = time.monotonic(), True
                            tally.asked += 1
                            await client.send(message)
                            with trio.fail_after(PATIENCE):
                                answer = await client.recv()
                            is_asked = False
                            tally.slowest = max(tally.slowest, time.monotonic() - begin)
                            if answer != message:
                                tally.judge(f"message {message[:20]!r}: got {answer[:20]!r}")
                            else:
                                tally.ok += 1
                            await trio.sleep(random.uniform(0, 0.02))
            except (OSError, WebSocketException, trio.TooSlowError, trio.BrokenResourceError) as error:
                tally.asked += not is_asked  # it did not open, or did not close as it should
                explained = self.troubles.may_end(begin, time.monotonic())
                tally.fail("WebSocket", f"{type(error).__name__} {error}"[:60], explained=explained)
                await trio.sleep(NAP)

    def sessions(self, tally: Tally, random: Random) -> None:
        """All of it and its hash, or it is not whole. The hash is the origin's, of what it took for all that we had to say."""
        while not self.is_over():
            tally.asked += 1
            begin = time.monotonic()
            data = self.identity("session").encode() + b" " + random.randbytes(random.choice(SIZES))
            got = b""
            reason = "ended early"
            try:
                with socket.create_connection(("127.0.0.1", self.tcp_port), PATIENCE) as connection:
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    while piece := connection.recv(1 << 18):
                        got += piece
            except OSError as error:
                reason = type(error).__name__
            end = time.monotonic()
            tally.slowest = max(tally.slowest, end - begin)
            if got == data + hashlib.sha256(data).digest():
                tally.ok += 1
            elif (data + hashlib.sha256(data).digest()).startswith(got):
                tally.fail(f"session {data[:20]!r}", reason, explained=self.troubles.may_end(begin, end))
            elif data.startswith(got[:-HASH]) and hashlib.sha256(got[:-HASH]).digest() == got[-HASH:]:
                if self.troubles.worker_died(begin, end):  # the kernel ends what a process leaves behind as if it were whole
                    tally.excused += 1
                else:
                    tally.judge(f"session {data[:20]!r}: the origin took {len(got) - HASH} of {len(data)} bytes for all")
            else:
                tally.judge(f"session {data[:20]!r}: got {got[:20]!r}, {len(got)} of {len(data) + HASH} bytes")
            time.sleep(0.01)
