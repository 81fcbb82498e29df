"""/metrics: the board's cells and the master's own numbers in Prometheus' words.

Every family of the catalogue is there from the start, so that an alert on a counter that never moved finds it; a family's series
appear with their first count. The negotiation is prometheus_client's, but not the registry (nothing that another library of this
process counts gets in) and not the writer: with 1,000 endpoints (9 series each, 13,000 lines) that takes 70 ms for text and
140 for OpenMetrics, in the loop that also answers /healthz and restarts workers. Here a series' name and labels are formatted
once and kept: 10 ms for either. tests/admin/test_metrics.py holds both writers to the same families.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder

from lbd import __version__, core
from lbd.admin.processes import process_metrics
from lbd.metrics import BUILD_INFO, CATALOGUE, SERIES_LOST, Metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbd.admin.view import AdminView, OwnMetric

__all__ = ["Scraper"]

SeriesKey = tuple[int, tuple[str, ...]]  # metric number, label values: as on the board


class Scraper:
    """Writes one AdminView's numbers in the form that a scrape asks for."""

    def __init__(self, view: AdminView, catalogue: Mapping[int, Metric] = CATALOGUE) -> None:
        self._view = view
        self._catalogue = dict(sorted(catalogue.items()))
        self._by_name = {metric.name: metric for metric in catalogue.values()}
        self._beginnings: dict[SeriesKey, tuple[str, ...]] = {}  # of the lines of a series: `name{labels} `

    def scrape(self, accept: str) -> tuple[str, bytes]:
        """(content type, text) of the best form among `accept`."""
        content_type: str = choose_encoder(accept)[1]
        is_openmetrics = content_type.startswith("application/openmetrics-text")
        lines: dict[int, list[str]] = {number: [self._head(metric, is_openmetrics)] for number, metric in self._catalogue.items()}
        count = 0
        for key, cells in self._series():
            count += 1
            beginnings = self._beginnings.get(key) or self._begin(key)
            out = lines[key[0]]
            if len(beginnings) > 1:
                out += _histogram_lines(self._catalogue[key[0]], beginnings, cells)
            else:
                out.append(f"{beginnings[0]}{_written(cells[0], self._catalogue[key[0]].scale)}\n")
        if len(self._beginnings) > 2 * count + 1000:  # most series are gone with their endpoints
            self._beginnings.clear()
        text = "".join(["".join(family) for family in lines.values()])
        return content_type, (text + "# EOF\n" if is_openmetrics else text).encode()

    def _series(self) -> Iterator[tuple[SeriesKey, Sequence[float]]]:
        """What both the workers and the master count is one series, the sum."""
        own: dict[SeriesKey, float] = {}
        for name, labels, value in self._own():
            metric = self._by_name[name]
            key = metric.number, tuple([labels[label] for label in metric.labels])
            own[key] = own.get(key, 0.0) + value
        for key, cells in self._view.board.totals().items():
            yield key, (cells[0] + own.pop(key),) if key in own else cells
        for key, value in own.items():
            yield key, (value,)

    def _own(self) -> Iterator[OwnMetric]:
        yield BUILD_INFO.name, {"version": __version__, "compiled": str(core.COMPILED).lower()}, 1.0
        yield SERIES_LOST.name, {}, float(self._view.board.lost)
        yield from self._view.own_metrics()
        yield from process_metrics(self._view.processes())

    def _head(self, metric: Metric, is_openmetrics: bool) -> str:
        """HELP and TYPE. OpenMetrics names a counter's family without `_total`, and that name may be taken by a gauge
        (lbd_downstream_connections): then the counter is of unknown type there, which Prometheus rates all the same."""
        name, kind, text = metric.name, metric.kind, metric.help.replace("\\", r"\\").replace("\n", r"\n")
        if is_openmetrics:
            text = text.replace('"', r"\"")
            if kind == "counter" and name.removesuffix("_total") in self._by_name:
                kind = "unknown"
            elif kind == "counter":
                name = name.removesuffix("_total")
        return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"

    def _begin(self, key: SeriesKey) -> tuple[str, ...]:
        metric, pairs = self._catalogue[key[0]], []
        for label, value in zip(metric.labels, key[1], strict=True):
            escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
            pairs.append(f'{label}="{escaped}"')
        if metric.kind == "histogram":
            bounds = [*map(repr, metric.buckets), "+Inf"]
            beginnings = [_beginning(f"{metric.name}_bucket", [*pairs, f'le="{bound}"']) for bound in bounds]
            beginnings += [_beginning(f"{metric.name}_{what}", pairs) for what in ("count", "sum")]
        else:
            beginnings = [_beginning(metric.name, pairs)]
        self._beginnings[key] = tuple(beginnings)
        return self._beginnings[key]


def _beginning(name: str, pairs: list[str]) -> str:
    return f"{name}{{{','.join(pairs)}}} " if pairs else f"{name} "


def _histogram_lines(metric: Metric, beginnings: tuple[str, ...], cells: Sequence[float]) -> list[str]:
    """Cells count each bucket alone; Prometheus wants them summed up to each bound, the last being all there is."""
    count, lines = 0.0, []
    for beginning, cell in zip(beginnings, cells[:-1], strict=False):
        count += cell
        lines.append(f"{beginning}{_written(count, 1)}\n")
    return [*lines, f"{beginnings[-2]}{_written(count, 1)}\n", f"{beginnings[-1]}{_written(cells[-1], metric.scale)}\n"]


def _written(value: float, scale: int) -> str:
    """Whole numbers without a point, the rest as Python writes floats, which Go reads."""
    if scale != 1:
        value /= scale
    return str(int(value)) if value == value // 1 and abs(value) < 2**53 else repr(value)
