"""Cells and the master's numbers as Prometheus reads them: with prometheus_client's own parsers."""

from __future__ import annotations

import os
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from lbd import __version__
from lbd.admin.metrics import Scraper
from lbd.core.board import Board
from lbd.metrics import (
    ATTEMPTS,
    BUILD_INFO,
    CATALOGUE,
    CONFIG_GENERATION,
    DOWNSTREAM_CONNECTIONS,
    ENDPOINT_UP,
    LOG_DROPPED,
    LOOP_LAG,
    RELOADS,
    REQUEST_DURATION,
    REQUESTS,
    SERIES_LOST,
    Metric as LbdMetric,
)
from tests.admin.views import FakeBoard, FakeView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
FORMS = ("text/plain;version=0.0.4", OPENMETRICS)


def scraped(view: FakeView, accept: str = FORMS[0]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(sample name, sorted labels) -> value."""
    content_type, body = Scraper(view).scrape(accept)
    parse = parse_openmetrics if content_type.startswith("application/openmetrics-text") else parse_text
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in parse(body.decode()) for s in family.samples}


@pytest.mark.parametrize("accept", FORMS)
def test_what_workers_and_master_count_is_one_series(accept: str) -> None:
    board = FakeBoard({(LOG_DROPPED.number, ("log",)): [7], (LOG_DROPPED.number, ("access",)): [1]})
    own = [(LOG_DROPPED.name, {"log": "log"}, 2.0)]
    for view, total in ((FakeView(board, own=own), 9), (FakeView(own=own), 2), (FakeView(board), 7)):
        _, body = Scraper(view).scrape(accept)
        assert [line for line in body.decode().splitlines() if line.startswith('lbd_log_lines_dropped_total{log="log"}')] == [
            f'lbd_log_lines_dropped_total{{log="log"}} {total}'
        ]


@pytest.mark.parametrize("accept", FORMS)
def test_cells_become_samples(accept: str) -> None:
    board = FakeBoard(
        {
            (REQUESTS.number, ("web", "api", "api", "200")): [7],
            (REQUESTS.number, ("web", "", "", "404")): [1],
            (DOWNSTREAM_CONNECTIONS.number, ("web",)): [3],
        }
    )
    samples = scraped(FakeView(board, own=[(RELOADS.name, {"result": "failed"}, 2.0), (CONFIG_GENERATION.name, {}, 5.0)]), accept)
    assert samples["lbd_requests_total", (("cluster", "api"), ("code", "200"), ("listener", "web"), ("route", "api"))] == 7
    assert samples["lbd_requests_total", (("cluster", ""), ("code", "404"), ("listener", "web"), ("route", ""))] == 1
    assert samples["lbd_downstream_connections", (("listener", "web"),)] == 3
    assert samples["lbd_reloads_total", (("result", "failed"),)] == 2
    assert samples["lbd_config_generation", ()] == 5


@pytest.mark.parametrize("accept", FORMS)
def test_a_histogram_sums_its_buckets_up_and_scales_its_sum(accept: str) -> None:
    cells = [0] * REQUEST_DURATION.width
    cells[0], cells[2], cells[-2], cells[-1] = 4, 3, 1, 2_500_000  # microseconds
    samples = scraped(FakeView(FakeBoard({(REQUEST_DURATION.number, ("web", "api")): cells})), accept)
    labels = (("listener", "web"), ("route", "api"))
    name = REQUEST_DURATION.name
    assert samples[f"{name}_sum", labels] == 2.5
    assert samples[f"{name}_count", labels] == 8
    by_bound = [samples[f"{name}_bucket", tuple(sorted((*labels, ("le", le))))] for le in ("0.0005", "0.001", "0.0025", "60.0", "+Inf")]
    assert by_bound == [4, 4, 7, 7, 8]


def test_a_histogram_without_labels() -> None:
    cells = [1] * (LOOP_LAG.width - 1) + [10]
    samples = scraped(FakeView(FakeBoard({(LOOP_LAG.number, ()): cells})))
    assert samples["lbd_loop_lag_seconds_count", ()] == LOOP_LAG.width - 1


@pytest.mark.parametrize("accept", FORMS)
def test_labels_of_any_text_survive(accept: str) -> None:
    endpoint = 'unix:/run/"odd"\\name\nsock'
    samples = scraped(FakeView(FakeBoard({(ATTEMPTS.number, ("caf\xe9", endpoint, "ok")): [1]})), accept)
    assert samples["lbd_upstream_attempts_total", (("cluster", "caf\xe9"), ("endpoint", endpoint), ("outcome", "ok"))] == 1


def test_every_family_of_the_catalogue_is_there_from_the_start() -> None:
    _, body = Scraper(FakeView()).scrape("")
    for metric in CATALOGUE.values():
        assert f"# TYPE {metric.name} {metric.kind}\n" in body.decode()
        assert f"# HELP {metric.name} {metric.help}\n" in body.decode()


def test_the_build_says_what_it_is() -> None:
    (value,) = (
        value for (name, labels), value in scraped(FakeView()).items() if name == BUILD_INFO.name and ("version", __version__) in labels
    )
    assert value == 1


def test_openmetrics_is_negotiated() -> None:
    assert Scraper(FakeView()).scrape(OPENMETRICS)[0].startswith("application/openmetrics-text; version=1.0.0")
    assert Scraper(FakeView()).scrape(OPENMETRICS)[1].endswith(b"# EOF\n")
    assert Scraper(FakeView()).scrape("*/*")[0].startswith("text/plain; version=0.0.4")


def test_nothing_else_of_this_process_gets_in() -> None:
    names = {name for name, _ in scraped(FakeView(pids={"master": os.getpid()}))}
    assert all(name.startswith(("lbd_", "process_")) for name in names)
    assert "python_info" not in names


def test_processes_are_told_apart() -> None:
    samples = scraped(FakeView(pids={"master": os.getpid(), "worker-0": 2**22 + 1}))  # above pid_max: never alive
    assert samples["process_resident_memory_bytes", (("process", "master"),)] > 1_000_000
    assert samples["process_open_fds", (("process", "master"),)] > 2
    assert samples["process_cpu_seconds_total", (("process", "master"),)] > 0
    assert samples["process_start_time_seconds", (("process", "master"),)] > 1_600_000_000
    assert not [labels for _, labels in samples if ("process", "worker-0") in labels]


def test_a_real_board_is_summed_over_its_workers() -> None:
    board = Board.create(2, cells=256, endpoints=8)
    try:
        for slot in range(2):
            segment = board.segment(slot)
            segment.add(segment.series(REQUESTS.number, ("web", "api", "api", "200")), 5)
            first = segment.series(REQUEST_DURATION.number, ("web", "api"), REQUEST_DURATION.width)
            segment.add(first + 1)
            segment.add(first + REQUEST_DURATION.width - 1, 800)
        samples = scraped(FakeView(board))
    finally:
        board.close()
    assert samples["lbd_requests_total", (("cluster", "api"), ("code", "200"), ("listener", "web"), ("route", "api"))] == 10
    assert samples["lbd_request_duration_seconds_count", (("listener", "web"), ("route", "api"))] == 2
    assert samples["lbd_request_duration_seconds_sum", (("listener", "web"), ("route", "api"))] == 0.0016
    assert samples["lbd_series_lost_total", ()] == 0


def test_an_endpoint_is_up_or_down() -> None:
    own = [(ENDPOINT_UP.name, {"cluster": "api", "endpoint": "10.0.0.1:80"}, 0.0)]
    assert scraped(FakeView(own=own))["lbd_endpoint_up", (("cluster", "api"), ("endpoint", "10.0.0.1:80"))] == 0


class OracleCollector(Collector):
    """The same numbers through prometheus_client's own classes."""

    def __init__(self, board: FakeBoard) -> None:
        self.board = board

    def collect(self) -> Iterator[Metric]:
        for metric in CATALOGUE.values():
            series = [(labels, cells) for (number, labels), cells in self.board.cells.items() if number == metric.number]
            if metric.kind == "histogram":
                histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels, cells in series:
                    bounds = [*map(str, metric.buckets), "+Inf"]
                    summed = [float(total) for total in accumulate(cells[:-1])]
                    histogram.add_metric(labels, list(zip(bounds, summed, strict=True)), cells[-1] / metric.scale)
                yield histogram
            else:
                family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
                    metric.name, metric.help, labels=metric.labels
                )
                for labels, (value,) in series:
                    family.add_metric(labels, value / metric.scale)
                yield family


def boards() -> st.SearchStrategy[FakeBoard]:
    """Any cells of any workers' metric, with any text in the labels."""
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

    def series(metric: LbdMetric) -> st.SearchStrategy[tuple[tuple[int, tuple[str, ...]], list[int]]]:
        cells = st.lists(
            st.integers(0, 2**48),  # what a float holds exactly, even summed up
            min_size=metric.width,
            max_size=metric.width,
        )
        return st.tuples(st.tuples(st.just(metric.number), st.tuples(*[text] * len(metric.labels))), cells)

    metrics = [metric for metric in CATALOGUE.values() if metric.number < 100]
    return st.lists(st.one_of(*map(series, metrics)), max_size=6).map(lambda found: FakeBoard(dict(found)))


@settings(max_examples=50, deadline=None)
@given(boards())
def test_prometheus_clients_own_writer_says_the_same(board: FakeBoard) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(OracleCollector(board))
    expected = families(generate_latest(registry).decode())
    written = families(Scraper(FakeView(board)).scrape("")[1].decode())
    for name in (BUILD_INFO.name, SERIES_LOST.name):  # which the scraper knows by itself
        assert written.pop(name)
        assert expected.pop(name)
    assert written == expected


def families(text: str) -> dict[str, tuple[str, str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]]:
    """Name -> type, help and samples, as prometheus_client's parser reads them."""
    return {
        f.name + ("_total" if f.type == "counter" else ""): (
            f.type,
            f.documentation,
            {(s.name, tuple(sorted(s.labels.items()))): s.value for s in f.samples},
        )
        for f in parse_text(text)
    }


def test_series_that_went_are_forgotten() -> None:
    board = FakeBoard({(ATTEMPTS.number, ("api", f"10.0.0.1:{port}", "ok")): [1] for port in range(3000)})
    scraper = Scraper(FakeView(board))
    scraper.scrape("")
    board.cells.clear()
    scraper.scrape("")
    scraper.scrape("")
    assert len(scraper._beginnings) < 10
