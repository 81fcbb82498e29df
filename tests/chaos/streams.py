"""Clients of HTTP/2: several GETs at a time on a connection, POSTs one after the other; in the clear and over TLS."""

from __future__ import annotations

import hashlib
import time
from functools import partial
from typing import TYPE_CHECKING

import h2.exceptions

from tests.chaos.asking import NAP, PATIENCE, SIZES, Asking
from tests.chaos.origin import body_of
from tests.support.http2 import Http2Socket

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.chaos.tally import Tally
    from tests.support.http2 import Answered

    Dial = Callable[[], Http2Socket]

__all__ = ["StreamClients"]


class StreamClients(Asking):
    def streams(self, tally: Tally, random: Random) -> None:
        self._gets(tally, random, partial(Http2Socket, self.port, timeout=PATIENCE))

    def streams_over_tls(self, tally: Tally, random: Random) -> None:
        context = self.context(["h2"])
        self._gets(tally, random, partial(Http2Socket, self.tls_port, timeout=PATIENCE, wrap=context.wrap_socket))

    def _gets(self, tally: Tally, random: Random, dial: Dial) -> None:
        while not self.is_over():
            begin = time.monotonic()
            asked: dict[int, tuple[str, int]] = {}
            try:
                with dial() as connection:
                    for _ in range(random.randint(1, 8)):
                        begin = time.monotonic()
                        asked = {}
                        for _ in range(random.randint(1, 8)):
                            identity, size = self.identity("stream"), random.choice(SIZES)
                            asked[connection.get(f"/item/{identity}/{size}")] = (identity, size)
                            tally.asked += 1
                        connection.until(lambda: all(map(connection.is_answered, asked)))  # noqa: B023 - used at once
                        for number, (identity, size) in asked.items():
                            self._check_get(tally, begin, connection, number, identity, size)
                        asked = {}
                        if connection.goaways:
                            break
            except (OSError, AssertionError) as error:
                if self.troubles.worker_died(begin, time.monotonic()):
                    tally.excused += len(asked)
                else:
                    tally.judge(f"{tally.name} {list(asked.values())}: {error!r:.300}")
                time.sleep(NAP)

    def _check_get(self, tally: Tally, begin: float, connection: Http2Socket, number: int, identity: str, size: int) -> None:
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

    def stream_posts(self, tally: Tally, random: Random) -> None:
        while not self.is_over():
            begin, identity = time.monotonic(), ""
            goaways: list[tuple[int, int]] = []
            asked: dict[int, Answered] = {}
            try:
                with Http2Socket(self.port, timeout=PATIENCE) as connection:
                    goaways, asked = connection.goaways, connection.answers
                    for _ in range(random.randint(1, 30)):
                        if connection.goaways or self.is_over():
                            break
                        begin, identity = time.monotonic(), self.identity("stream-post")
                        self._post_stream(tally, connection, identity, random.randbytes(random.choice(SIZES)))
                        identity = ""
            except (OSError, AssertionError) as error:
                end = time.monotonic()
                reason = "closed early" if isinstance(error, AssertionError) else type(error).__name__
                if identity and goaways and asked and max(asked) > goaways[-1][0]:
                    tally.excused += 1  # it has not been looked at, which GOAWAY says: RFC 9113, 6.8
                elif identity or not self.troubles.worker_died(begin, end):
                    tally.fail(f"POST {identity or 'connection'}", reason, explained=self.troubles.may_fail(begin, end))
                time.sleep(NAP)

    def _post_stream(self, tally: Tally, connection: Http2Socket, identity: str, body: bytes) -> None:
        begin = time.monotonic()
        tally.asked += 1
        number = connection.post(f"/once/{identity}", (b"content-length", str(len(body)).encode()))
        try:
            connection.send_all(number, body)
        except h2.exceptions.StreamClosedError:
            pass  # reset while more was to come: what has come of the answer is looked at below
        answer = connection.answer(number)
        end = time.monotonic()
        tally.slowest = max(tally.slowest, end - begin)
        if answer.reset >= 0 or answer.status >= 500:
            lbds = (answer.field(b"x-lbd-reason") or b"").decode()
            reason = lbds or (f"status {answer.status}" if answer.status else f"reset {answer.reset}")
            tally.fail(f"POST {identity}", reason, explained=self.troubles.may_fail(begin, end))
        elif answer.status != 200 or answer.field(b"x-id") != identity.encode() or answer.body.decode() != hashlib.sha256(body).hexdigest():
            tally.judge(f"POST {identity}: {answer.status}, for {answer.field(b'x-id')!r}, {answer.body[:100]!r}")
        else:
            tally.ok += 1
            tally.whole.add(identity)
