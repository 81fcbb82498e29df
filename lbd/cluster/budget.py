"""How many attempts beyond the first a cluster's requests may make.

A retry helps when a few endpoints fail. When all fail, or all are too slow, it is more load for those that cannot bear what they
have, and the reason why a short trouble becomes a long one. So the retries (and hedges) of the last seconds are held to a share of the
requests of the last seconds, however they fail.

Requests are counted, not those at work: with a share of the requests at work at a moment (Envoy's retry_budget) retries that fail at
once pass unseen, and those that wait for their back-off count as work. With a share of what has begun it is a sum: N requests lead to
N * (1 + share) attempts at the most, in the long run exactly.

Both counts fade with the same time constant, WINDOW. A request costs one addition; the rest is done when a retry is asked for, and
by whoever looks now and then. What has begun since the last look is taken to have come evenly.

The least is a bucket of tokens, `least` of them a second and a WINDOW's at the most: few requests make too small a share for even one
retry. What it lets pass counts in the share too, so that the two are not added up: the larger one holds.
"""

from __future__ import annotations

from math import exp

__all__ = ["WINDOW", "RetryBudget"]

WINDOW = 10.0  # seconds; Finagle's


class RetryBudget:
    """Of one cluster in one worker. `begun` counts requests: whoever begins one adds to it. `made` and `denied` are the retries and hedges
    that it has allowed and refused, for whoever looks on."""

    __slots__ = ("_least", "_seen_at", "_share", "_spent", "_tokens", "_total", "begun", "denied", "made")

    def __init__(self, share: float, least: float) -> None:
        self.begun = 0  # since it was looked at
        self.made = self.denied = 0
        self._total = 0.0  # requests, fading
        self._spent = 0.0  # retries, fading
        self._seen_at = -1.0  # never
        self._tokens = least * WINDOW
        self.obey(share, least)

    def __repr__(self) -> str:
        return f"<RetryBudget {self._spent:.1f} of {self._share * self._total:.1f}, {self._tokens:.1f} beside>"

    def obey(self, share: float, least: float) -> None:
        """`share` of the requests, at least `least` a second."""
        self._share = share
        self._least = least
        self._tokens = min(self._tokens, least * WINDOW)

    def spend(self, now: float) -> bool:
        """Whether there may be one more retry; then it is counted."""
        self.look(now)
        if self._spent + 1.0 > self._share * self._total:
            if self._tokens < 1.0:
                self.denied += 1
                return False
            self._tokens -= 1.0
        self._spent += 1.0
        self.made += 1
        return True

    def left(self) -> int:
        """How many more it would have allowed at the moment of the latest look."""
        return int(max(0.0, self._share * self._total - self._spent)) + int(self._tokens)

    def look(self, now: float) -> None:
        """Puts the requests that have begun since the last look where they belong in time."""
        elapsed = max(0.0, now - self._seen_at) if self._seen_at >= 0 else 0.0
        self._seen_at = now
        left = exp(-elapsed / WINDOW)
        # Of what came evenly over the time elapsed, so much is left on the average: the integral of the fading.
        fresh = (1.0 - left) * WINDOW / elapsed if elapsed > 1e-6 else 1.0
        self._total = self._total * left + self.begun * fresh
        self._spent *= left
        self.begun = 0
        self._tokens = min(self._tokens + elapsed * self._least, self._least * WINDOW)
