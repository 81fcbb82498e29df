"""Whether an endpoint may be used, and why not: its health check and its ejections taken together.

Both have a say (ejections.py has the rules); here is what workers, the admin API and /metrics are told of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbd.master.ejections import Ejections
    from lbd.master.probes import Prober
    from lbd.worker.messages import EndpointState

__all__ = ["Standings"]


class Standings:
    """Reads both, changes neither."""

    def __init__(self, prober: Prober, ejections: Ejections) -> None:
        self._prober = prober
        self._ejections = ejections

    def is_up(self, cluster: str, address: str) -> bool:
        return self._prober.is_up(cluster, address) and not self._ejections.is_ejected(cluster, address)

    def state(self, cluster: str, address: str) -> str:
        """In a word: the label of lbd_endpoint_state."""
        if self._ejections.is_ejected(cluster, address):
            return "ejected"
        if not self._prober.is_up(cluster, address):
            return "down"
        return "half_open" if self._ejections.trial(cluster, address) else "up"

    def why(self, cluster: str, address: str, drained: str = "") -> str:
        """Why it is out, or not wholly in, in one sentence; "" when it is. `drained` says so of an operator."""
        return ", and ".join(filter(None, [drained, self._ejections.why(cluster, address), self._prober.why(cluster, address)]))

    def metrics(self, clusters: Iterable[tuple[str, Iterable[EndpointState]]]) -> Iterable[tuple[str, dict[str, str], float]]:
        """For /metrics."""
        for cluster, endpoints in clusters:
            for endpoint in endpoints:
                labels = {"cluster": cluster, "endpoint": endpoint.address}
                yield metrics.ENDPOINT_UP.name, labels, float(endpoint.up)
                yield metrics.ENDPOINT_STATE.name, {**labels, "state": self.state(cluster, endpoint.address)}, 1.0
