"""Idle upstream connections of one endpoint.

A stack: the connection that was used last is used next, so that under falling load the old ones grow old and can go, and the
one taken is the least likely to have been closed by the upstream meanwhile. It lies in order of `idle_since`, oldest first,
because whatever is given goes on top; so the overdue ones are always a run at the bottom.

Taking removes: a connection is either here or in one exchange's hands, never both. The pool decides what is kept and closes what
it drops; it makes no connections and knows no sockets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from lbd.policy import Count, Duration

__all__ = ["Pool", "PoolPolicy", "Pooled"]


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """Kept-alive upstream connections, `[cluster.NAME.pool]`."""

    max_idle: Annotated[int, Count(0, 1_000_000)] = 128  # per endpoint and worker
    # Below the 5 s after which Node's server closes an idle connection, the most common origin that closes early:
    # closing first avoids the race in which a request meets a connection that the upstream is just closing.
    idle_timeout: Annotated[float, Duration(0.0, zero="not kept")] = 4.0
    max_age: Annotated[float, Duration(0.0, zero="no limit")] = 0.0
    max_requests: Annotated[int, Count(0, zero="no limit")] = 0


class Pooled(Protocol):
    """What can lie in a pool: proxy/http1_upstream.py's Http1Upstream. `requests` are those it has carried."""

    opened_at: float
    idle_since: float
    requests: int

    def is_fresh(self) -> bool: ...
    def is_fresh_now(self) -> bool: ...
    def close(self) -> None: ...


class Pool:
    __slots__ = ("_idle", "_idle_timeout", "_is_bounded", "_is_retired", "_max_age", "_max_idle", "_max_requests", "policy")

    def __init__(self, policy: PoolPolicy) -> None:
        self._idle: list[Pooled] = []
        self._is_retired = False
        self.obey(policy)

    def obey(self, policy: PoolPolicy) -> None:
        """Holds for what is taken or given from now on."""
        self.policy = policy
        self._max_idle = policy.max_idle
        self._idle_timeout = policy.idle_timeout
        self._max_age = policy.max_age
        self._max_requests = policy.max_requests
        # Else what has just come back may stay.
        self._is_bounded = policy.max_requests > 0 or policy.max_age > 0 or policy.idle_timeout <= 0

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, now: float, certain: bool = False) -> Any:  # noqa: ANN401 - what was given; its type lives upstairs
        """The connection used last that can still be used, or None. `certain`: ask the kernel, not only the last poll."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if self._is_usable(connection, now) and (connection.is_fresh_now() if certain else connection.is_fresh()):
                return connection
            connection.close()
        return None

    def give(self, connection: Pooled, now: float) -> None:
        """Keeps it, or closes it; the oldest one goes when there is no room."""
        connection.idle_since = now
        if self._is_retired or self._max_idle == 0 or (self._is_bounded and not self._is_usable(connection, now)):
            connection.close()
            return
        if len(self._idle) >= self._max_idle:
            self._close_oldest(len(self._idle) - self._max_idle + 1)
        self._idle.append(connection)

    def active(self, requests: int) -> int:
        """How many connections are out, when there are so many requests at work: each has one."""
        return requests

    def serves(self) -> bool:
        """Whether the endpoint is at work on requests that it has let pass, on a connection that others share. Of HTTP/1 nobody asks."""
        return False

    def carries(self) -> int:
        """How many requests a connection carries at once."""
        return 1

    def give_up(self, count: int) -> None:
        """Closes so many of those that lie here, the oldest first: others need them more."""
        self._close_oldest(min(count, len(self._idle)))

    def expire(self, now: float) -> None:
        """Closes what has been idle for too long."""
        overdue = 0
        for connection in self._idle:
            if now - connection.idle_since < self._idle_timeout:
                break
            overdue += 1
        if overdue:
            self._close_oldest(overdue)

    def close_all(self) -> None:
        self._close_oldest(len(self._idle))

    def retire(self) -> None:
        """The endpoint has left: nothing is kept any more."""
        self._is_retired = True
        self.close_all()

    def _is_usable(self, connection: Pooled, now: float) -> bool:
        return (
            now - connection.idle_since < self._idle_timeout
            and (self._max_requests == 0 or connection.requests < self._max_requests)
            and (self._max_age == 0.0 or now - connection.opened_at < self._max_age)
        )

    def _close_oldest(self, count: int) -> None:
        oldest = self._idle[:count]
        del self._idle[:count]
        for connection in oldest:
            connection.close()
