"""Outliers by comparison: who fails more often, or takes longer, than the others do with the same requests?

Pure: from what each endpoint did in an interval to who stands out, and in which words. Only endpoints with enough requests are compared,
and only when there are enough of them; two numbers alone say nothing about which of the two is the odd one.

A success rate stands out when it is `success_rate` standard deviations below the mean (Envoy's rule) *and* MARGIN below it: among
endpoints that are all but perfect the deviation is tiny, and one failure in a thousand would do. A latency stands out when its mean is
`latency` times the median of all and SLOWER seconds above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbd.cluster.outlier import OutlierPolicy

__all__ = ["Tally", "outstanding"]

MARGIN = 0.05
SLOWER = 0.01  # seconds; below it a multiple is noise


@dataclass(frozen=True, slots=True)
class Tally:
    """One endpoint's interval. `failures` are those of `attempts` that tell against it; `answers` took `seconds` in all."""

    attempts: int = 0
    failures: int = 0
    answers: int = 0
    seconds: float = 0.0

    def since(self, before: Tally) -> Tally:
        """What has been added; nothing when the counts began anew meanwhile."""
        if self.attempts < before.attempts or self.failures < before.failures or self.answers < before.answers:
            return Tally()
        return Tally(
            self.attempts - before.attempts, self.failures - before.failures, self.answers - before.answers, self.seconds - before.seconds
        )


def outstanding(policy: OutlierPolicy, tallies: Mapping[str, Tally]) -> Iterator[tuple[str, str, str]]:
    """(address, cause, sentence), the worst first."""
    yield from _failing(policy, tallies)
    yield from _slow(policy, tallies)


def _failing(policy: OutlierPolicy, tallies: Mapping[str, Tally]) -> Iterator[tuple[str, str, str]]:
    rates = {
        address: 1.0 - min(1.0, tally.failures / tally.attempts)
        for address, tally in tallies.items()
        if tally.attempts >= policy.min_requests
    }
    if not policy.success_rate or len(rates) < policy.min_endpoints:
        return
    mean = fmean(rates.values())
    limit = mean - max(MARGIN, policy.success_rate * pstdev(rates.values(), mean))
    for address in sorted((address for address, rate in rates.items() if rate < limit), key=rates.__getitem__):
        sentence = f"{rates[address]:.1%} of its {tallies[address].attempts} requests succeeded, against {mean:.1%} in the mean of all"
        yield address, "success_rate", sentence


def _slow(policy: OutlierPolicy, tallies: Mapping[str, Tally]) -> Iterator[tuple[str, str, str]]:
    means = {address: tally.seconds / tally.answers for address, tally in tallies.items() if tally.answers >= policy.min_requests}
    if not policy.latency or len(means) < policy.min_endpoints:
        return
    usual = median(means.values())
    limit = max(usual + SLOWER, usual * policy.latency)
    for address in sorted((address for address, mean in means.items() if mean > limit), key=means.__getitem__, reverse=True):
        yield address, "latency", f"its answers took {means[address]:.3g} s in the mean, against {usual:.3g} s in the median of all"
