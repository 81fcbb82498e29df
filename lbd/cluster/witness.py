"""What one worker notices about one endpoint: runs of failures, and how a trial goes.

A run counts what came in a row and is over with the first success. Nothing is decided here: a run that is long enough is reported, and
the master judges (outlier.py). It answers within a turn or two by the endpoint's new health; until it does, and when it decides against,
a witness that has spoken is silent. So a cluster of which everything fails costs a message an endpoint and second, not one a request.

`is_alert` says whether a success matters: in the middle of a run or of a trial, or where the cluster has a breaker. Elsewhere nobody
calls (endpoint.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.cluster.breaker import Breaker
    from lbd.cluster.outlier import OutlierPolicy

    Tell = Callable[[str, str, str], None]  # address, kind of finding, sentence

__all__ = ["ERROR", "GATEWAY", "PROBE", "PROBE_ERROR", "PROVED", "Witness"]

# Kinds of failures, and of findings; labels of metrics.
GATEWAY = "gateway"  # no answer, or 502, 503, 504, or their like of gRPC
ERROR = "error"  # any other status from 500 on
PROBE = "probe"  # a gateway failure in a trial
PROBE_ERROR = "probe_error"  # an error in a trial: whether that is a failure depends on why there is one
PROVED = "proved"  # a success in a trial: no failure, but the master must hear of it

PATIENCE = 30  # seconds: timeouts.response, as most have it


class Witness:
    """Of one endpoint; `tell` reports."""

    __slots__ = (
        "_address",
        "_breaker",
        "_failures",
        "_is_silent",
        "_is_tried",
        "_most_errors",
        "_most_failures",
        "_patience",
        "_stale",
        "_tell",
        "_worse",
        "is_alert",
    )

    def __init__(self, address: str, tell: Tell | None) -> None:
        self._address = address
        self._tell = tell
        self._most_failures = 0  # 0: no run is long enough
        self._most_errors = 0
        self._failures = 0  # the run of gateway failures
        self._worse = 0  # the run of these and of errors
        self._is_tried = False
        self._stale = 0  # outcomes still to come of requests from before the trial
        self._patience = 0  # seconds for which they are waited for
        self._is_silent = False
        self._breaker: Breaker | None = None
        self.is_alert = False

    def inform(self, breaker: Breaker | None) -> None:
        """Of everything, from now on: the cluster's breaker counts successes as well."""
        self._breaker = breaker
        self.is_alert = self._is_always_alert() or self._worse > 0

    def obey(self, policy: OutlierPolicy) -> None:
        is_on = policy.enabled and self._tell is not None
        self._most_failures = policy.failures if is_on else 0
        self._most_errors = policy.errors if is_on else 0

    def begin_trial(self, inflight: int) -> None:
        """Of what is `inflight` now the outcomes say how it was, not how it is."""
        self._is_tried, self._stale, self._patience = True, inflight, PATIENCE
        self._start_anew()

    def end_trial(self) -> None:
        self._is_tried = False
        self._start_anew()

    def may_speak(self) -> None:
        """A second or so has passed."""
        self._is_silent = False
        self._patience -= self._stale > 0
        if self._patience <= 0:
            self._stale = 0  # those who are left have been judged long ago, like sessions, or nobody has heard of their end

    def succeeded(self) -> None:
        self.ended_well()
        self.began_well()

    def began_well(self) -> None:
        """An answer has begun that may still say how it failed, at its end: the endpoint lives, which is all that a trial asks, its own or
        the breaker's. But a run is not over."""
        if self._breaker is not None and self._breaker.is_half_open:
            self._breaker.record(False)
        if self._is_tried and not self._is_silent and not self._is_stale():
            self._report(PROVED, "")

    def ended_well(self) -> None:
        self._failures = self._worse = 0
        self.is_alert = self._is_always_alert()
        if self._breaker is not None and not self._breaker.is_half_open:
            self._breaker.record(False)

    def failed(self, kind: str, what: str) -> None:
        """`what`: the reason, or the status, for people."""
        if self._breaker is not None:
            self._breaker.record(kind == GATEWAY)
        if self._is_tried:
            if not self._is_silent and not self._is_stale():
                self._is_silent = kind == GATEWAY
                self._report(PROBE if kind == GATEWAY else PROBE_ERROR, f"it failed again on trial: {what}")
            return
        self._worse += 1
        self._failures = self._failures + 1 if kind == GATEWAY else 0
        self.is_alert = True
        if self._is_silent:
            return
        if self._failures >= self._most_failures > 0:
            self._is_silent = True
            self._report(GATEWAY, f"{self._failures} failures in a row, the last: {what}")
        elif self._worse >= self._most_errors > 0:
            self._is_silent = True
            self._report(ERROR, f"{self._worse} answers in a row with 5xx or worse, the last: {what}")

    def _start_anew(self) -> None:
        self._failures = self._worse = 0
        self._is_silent = False
        self.is_alert = self._is_always_alert()

    def _is_always_alert(self) -> bool:
        return self._is_tried or self._breaker is not None

    def _is_stale(self) -> bool:
        if self._stale > 0:
            self._stale -= 1
            return True
        return False

    def _report(self, kind: str, sentence: str) -> None:
        if self._tell is not None:
            self._tell(self._address, kind, sentence)
