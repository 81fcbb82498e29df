"""Names kept resolved, on virtual time and with a scripted resolver."""

from __future__ import annotations

import logging
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.discovery.resolve import DEFAULT_INTERVAL, FIRST_RETRY, JITTER, LOOKUP_TIMEOUT, ResolvedEndpoint, Resolver, SystemLookup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

Answer = list[str] | Exception | float  # addresses, an error, or seconds of silence
NO_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class Script:
    """A resolver that gives each name its answers one after the other, the last of them for ever."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers = answers
        self.asked: list[tuple[float, str]] = []

    async def __call__(self, host: str) -> list[str]:
        self.asked.append((trio.current_time(), host))
        answers = self.answers[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        await trio.lowlevel.checkpoint()
        if isinstance(answer, float):
            await trio.sleep(answer)
            return ["192.0.2.1"]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def times(self, host: str) -> list[float]:
        return [time for time, asked in self.asked if asked == host]


class Steady(Random):
    """No jitter: always the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class Changes(list[tuple[float, str, list[str]]]):
    """What the master was told, and when."""

    def __call__(self, cluster: str, endpoints: list[ResolvedEndpoint]) -> None:
        self.append((trio.current_time(), cluster, [endpoint.address for endpoint in endpoints]))


def cluster(name: str, *addresses: str | EndpointPolicy, interval: float = 0.0) -> ClusterPolicy:
    endpoints = tuple(EndpointPolicy(address) if isinstance(address, str) else address for address in addresses)
    return ClusterPolicy(name, endpoints, resolve_interval=interval)


@asynccontextmanager
async def running(script: Script, *clusters: ClusterPolicy, random: Random | None = None) -> AsyncIterator[tuple[Resolver, Changes]]:
    """A resolver past its first lookups, at work, with time at the moment it began to run."""
    changes = Changes()
    resolver = Resolver(changes, script, random or Steady())
    await resolver.first(clusters)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run)
        await trio.testing.wait_all_tasks_blocked()
        yield resolver, changes
        nursery.cancel_scope.cancel()


def addresses(found: dict[str, list[ResolvedEndpoint]], name: str) -> list[str]:
    return [endpoint.address for endpoint in found[name]]


# The first answer


async def test_literal_addresses_pass_through(autojump_clock: MockClock) -> None:
    script = Script()
    endpoint = EndpointPolicy("10.0.0.1:80", weight=3, backup=True, max_requests=7)
    found = await Resolver(Changes(), script).first([cluster("a", endpoint, "[::1]:80", "unix:/run/app.sock")])
    assert found["a"] == [
        ResolvedEndpoint("10.0.0.1:80", "10.0.0.1:80", 3, True, 7),
        ResolvedEndpoint("[::1]:80", "[::1]:80"),
        ResolvedEndpoint("unix:/run/app.sock", "unix:/run/app.sock"),
    ]
    assert script.asked == []


async def test_a_name_becomes_its_addresses_with_the_settings_of_its_endpoint(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2"]])
    found = await Resolver(Changes(), script).first([cluster("a", EndpointPolicy("app:80", weight=2, max_requests=5))])
    assert found["a"] == [ResolvedEndpoint("app:80", address, 2, False, 5) for address in ("10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80")]


async def test_an_address_named_twice_is_one_endpoint_and_the_first_wins(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1", "10.0.0.2"]])
    found = await Resolver(Changes(), script).first([cluster("a", EndpointPolicy("10.0.0.1:80", weight=9), "app:80", "app:81")])
    assert addresses(found, "a") == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:81", "10.0.0.2:81"]
    assert found["a"][0].weight == 9


async def test_names_are_looked_up_at_once_and_each_once(autojump_clock: MockClock) -> None:
    answers: dict[str, list[Answer]] = {f"h{i}": [1.0] for i in range(20)}
    script = Script(**answers)
    await Resolver(Changes(), script).first([cluster("a", *(f"h{i}:80" for i in range(20))), cluster("b", "h0:81")])
    assert trio.current_time() == 1.0
    assert len(script.asked) == 20


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (NO_NAME, "Name or service not known"),
        (LOOKUP_TIMEOUT + 1, "no answer within 5 s"),
        ([], "no address"),
        (UnicodeError("label too long"), "label too long"),
        (["not an address"], "a bug in lbd"),
    ],
)
async def test_a_name_that_does_not_resolve_costs_only_itself(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, answer: Answer, words: str
) -> None:
    script = Script(gone=[answer], app=[["10.0.0.1"]])
    found = await Resolver(Changes(), script).first([cluster("a", "gone:80", "app:80"), cluster("b", "gone:80")])
    assert addresses(found, "a") == ["10.0.0.1:80"]
    assert addresses(found, "b") == []
    assert trio.current_time() <= LOOKUP_TIMEOUT
    assert f"gone does not resolve: {words}; its clusters go without it" in caplog.text


async def test_what_a_cluster_goes_without_is_told_with_the_reason(autojump_clock: MockClock) -> None:
    script = Script(gone=[NO_NAME, NO_NAME, ["10.0.0.2"], []], app=[["10.0.0.1"]])
    here = cluster("a", "gone:80", "app:80", "10.0.0.1:80", interval=1.0)

    def missing() -> list[tuple[str, str]]:
        return [(endpoint.address, why) for endpoint, why in resolver.missing(here)]

    async with running(script, here) as (resolver, _):
        assert missing() == [("gone:80", "gone does not resolve: Name or service not known")]
        assert resolver.snapshot()["gone"]["problem"] == "Name or service not known"
        await trio.sleep(1.5)
        assert missing() == [("gone:80", "gone does not resolve: Name or service not known, 2 times in a row")]
        await trio.sleep(1.0)
        assert (missing(), resolver.snapshot()["gone"]["problem"]) == ([], ""), "and it has an address"
        await trio.sleep(2.0)
        assert (missing(), resolver.snapshot()["gone"]["problem"]) == ([], "no address"), "which it keeps"
        assert resolver.missing(cluster("b", "new:80"))[0][1] == "new has not been looked up yet"


# Staying fresh


async def test_a_change_is_told_once(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"], ["10.0.0.1"], ["10.0.0.2", "10.0.0.1"], ["10.0.0.1", "10.0.0.2"], ["10.0.0.2"]])
    async with running(script, cluster("a", "app:80", interval=10.0)) as (_, changes):
        await trio.sleep(1000)
    assert changes == [(20.0, "a", ["10.0.0.1:80", "10.0.0.2:80"]), (40.0, "a", ["10.0.0.2:80"])]


async def test_every_cluster_that_has_the_name_is_told(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"], ["10.0.0.2"]], other=[["10.0.0.9"]])
    clusters = cluster("a", "app:80"), cluster("b", "app:81", "other:80"), cluster("c", "other:80")
    async with running(script, *clusters) as (_, changes):
        await trio.sleep(DEFAULT_INTERVAL + 1)
    assert changes == [(DEFAULT_INTERVAL, "a", ["10.0.0.2:80"]), (DEFAULT_INTERVAL, "b", ["10.0.0.2:81", "10.0.0.9:80"])]


async def test_the_shortest_interval_asked_for_is_kept(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"]])
    async with running(script, cluster("a", "app:80", interval=20.0), cluster("b", "app:80", interval=5.0)):
        await trio.sleep(16)
    assert script.times("app") == [0.0, 5.0, 10.0, 15.0]


@pytest.mark.parametrize("failure", [NO_NAME, [], 60.0])
async def test_the_last_good_answer_outlives_failures(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, failure: Answer) -> None:
    caplog.set_level(logging.INFO, "lbd.discovery")
    script = Script(app=[["10.0.0.1"], failure, failure, ["10.0.0.1"], failure])
    async with running(script, cluster("a", "app:80")) as (resolver, changes):
        await trio.sleep(DEFAULT_INTERVAL + 2 * LOOKUP_TIMEOUT + 1 + 2 + 1)
        assert resolver.snapshot()["app"]["failures"] == 0
        assert addresses(await resolver.first([cluster("a", "app:80")]), "a") == ["10.0.0.1:80"]
    assert changes == []
    lines = [record.message for record in caplog.records if "resolve" in record.message]
    assert len(lines) == 2, "a run of failures is two lines"
    assert "keeping 10.0.0.1" in lines[0]
    assert lines[1] == "app resolves again after 2 failures"


async def test_after_a_failure_it_asks_sooner_and_then_ever_later(autojump_clock: MockClock) -> None:
    script = Script(app=[NO_NAME])
    async with running(script, cluster("a", "app:80", interval=6.0)):
        await trio.sleep(20)
    assert script.times("app") == [0.0, 1.0, 3.0, 7.0, 13.0, 19.0]


async def test_a_name_that_comes_late_joins_its_cluster(autojump_clock: MockClock) -> None:
    script = Script(app=[NO_NAME, NO_NAME, ["10.0.0.1"]])
    async with running(script, cluster("a", "10.0.0.9:80", "app:80")) as (_, changes):
        await trio.sleep(10)
    assert changes == [(3 * FIRST_RETRY, "a", ["10.0.0.9:80", "10.0.0.1:80"])]


async def test_a_bug_in_a_lookup_ends_no_loop(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    script = Script(app=[["10.0.0.1"], RuntimeError("a bug"), ["10.0.0.2"]])
    async with running(script, cluster("a", "app:80")) as (_, changes):
        await trio.sleep(DEFAULT_INTERVAL + FIRST_RETRY + 1)
    assert [told for _, _, told in changes] == [["10.0.0.2:80"]]
    assert "Traceback" in caplog.text


async def test_pauses_have_jitter(autojump_clock: MockClock) -> None:
    answers: dict[str, list[Answer]] = {f"h{i}": [["10.0.0.1"]] for i in range(50)}
    script = Script(**answers)
    async with running(script, cluster("a", *(f"h{i}:80" for i in range(50))), random=Random(1)):
        await trio.sleep(DEFAULT_INTERVAL * 1.5)
    second = sorted(script.times(f"h{i}")[1] for i in range(50))
    assert DEFAULT_INTERVAL * (1 - JITTER) <= second[0] < second[-1] <= DEFAULT_INTERVAL * (1 + JITTER)
    assert second[-1] - second[0] > DEFAULT_INTERVAL * JITTER


# Reloads


async def test_a_reload_keeps_the_rhythm_and_the_answers_of_names_that_stay(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"]], new=[["10.0.0.7"]])
    async with running(script, cluster("a", "app:80")) as (resolver, changes):
        await trio.sleep(10)
        reloaded = [cluster("a", "app:80"), cluster("b", "new:80")]
        found = await resolver.first(reloaded)
        resolver.update(reloaded)
        assert addresses(found, "a") == ["10.0.0.1:80"]
        assert addresses(found, "b") == ["10.0.0.7:80"]
        await trio.sleep(DEFAULT_INTERVAL + 1)
    assert script.times("app") == [0.0, DEFAULT_INTERVAL]
    assert script.times("new") == [10.0, 10.0 + DEFAULT_INTERVAL]
    assert changes == []


async def test_a_refused_reload_leaves_everything_as_it_was(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"], ["10.0.0.2"]], new=[["10.0.0.7"]])
    async with running(script, cluster("a", "app:80")) as (resolver, changes):
        await resolver.first([cluster("a", "new:80")])
        await trio.sleep(DEFAULT_INTERVAL + 1)
    assert changes == [(DEFAULT_INTERVAL, "a", ["10.0.0.2:80"])]
    assert script.times("new") == [0.0]


async def test_a_name_that_went_is_asked_for_no_more(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"]])
    async with running(script, cluster("a", "app:80")) as (resolver, changes):
        resolver.update([cluster("a", "10.0.0.1:80")])
        await trio.sleep(1000)
        assert resolver.snapshot() == {}
        assert list(resolver.metrics()) == []
    assert script.times("app") == [0.0]
    assert changes == [(0.0, "a", ["10.0.0.1:80"])], "the same address, but by its own name now"


async def test_a_shorter_interval_begins_at_once(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"]])
    async with running(script, cluster("a", "app:80", interval=1000.0)) as (resolver, _):
        await trio.sleep(7)
        resolver.update([cluster("a", "app:80", interval=2.0)])
        await trio.sleep(5)
    assert script.times("app") == [0.0, 9.0, 11.0]


async def test_what_changes_between_the_answer_and_the_update_is_told(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"], ["10.0.0.2"]])
    async with running(script, cluster("a", "app:80")) as (resolver, changes):
        reloaded = [cluster("a", "app:80"), cluster("b", "app:81")]
        await resolver.first(reloaded)  # the master prepares its workers with this
        await trio.sleep(DEFAULT_INTERVAL + 1)  # the name changes meanwhile
        resolver.update(reloaded)
    assert changes == [
        (DEFAULT_INTERVAL, "a", ["10.0.0.2:80"]),
        (DEFAULT_INTERVAL + 1, "a", ["10.0.0.2:80"]),  # once more: the workers were given the older answer since
        (DEFAULT_INTERVAL + 1, "b", ["10.0.0.2:81"]),
    ]


async def test_a_changed_weight_is_the_new_configurations_matter_not_a_change(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"]])
    async with running(script, cluster("a", "app:80")) as (resolver, changes):
        reloaded = [replace(cluster("a"), endpoints=(EndpointPolicy("app:80", weight=5),))]
        found = await resolver.first(reloaded)
        resolver.update(reloaded)
        await trio.sleep(DEFAULT_INTERVAL * 3)
    assert found["a"][0].weight == 5
    assert changes == []


# What it tells of itself


async def test_lookups_are_counted_by_name_and_result(autojump_clock: MockClock) -> None:
    script = Script(app=[["10.0.0.1"], [], NO_NAME, ["10.0.0.1"]])
    async with running(script, cluster("a", "app:80")) as (resolver, _):
        await trio.sleep(DEFAULT_INTERVAL + 3.5)
        counts = {labels["result"]: value for _, labels, value in resolver.metrics()}
    assert counts == {"ok": 2.0, "empty": 1.0, "failed": 1.0}


async def test_the_system_knows_localhost() -> None:
    assert {"127.0.0.1", "::1"} & set(await SystemLookup()("localhost"))


async def test_a_name_that_cannot_be_is_a_failure_the_resolver_expects() -> None:
    with pytest.raises(UnicodeError):  # not an OSError: Python's IDNA codec says it before the system is asked
        await SystemLookup()(f"{'x' * 64}.example")
