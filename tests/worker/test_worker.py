"""A worker obeys its master: on a real reactor, with real sockets on loopback."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from lbd import metrics
from lbd.proxy.listener import ListenerLimits
from lbd.routing.route import RoutePolicy
from lbd.worker.log import LogPolicy
from lbd.worker.messages import Drained, Endpoints, Health
from tests.worker.rig import Rig, answering, states

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lbd.core.board import Board

pytestmark = pytest.mark.usefixtures("nothing_stays")

BROKEN = RoutePolicy(name="broken", path_regex="(", cluster="all")


@pytest.fixture
def nothing_stays(no_leaked_fds: None) -> Iterator[None]:
    """A worker freezes what it has made, for good; and a board's memory, with its descriptor, goes with the last view of it."""
    yield
    gc.unfreeze()
    gc.collect()


# Serving


async def test_it_serves_and_counts(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, origin = rig.listen(), await rig.origin("one")
        rig.apply([web.listener("web", cluster="all")], {"all": [origin.address]})
        async with web.connect() as downstream:
            assert await downstream.get("/a") == (200, b"one")
            assert await downstream.get("/b") == (200, b"one")
        assert origin.requests == ["/a", "/b"]
        assert origin.open == 1  # the connection is kept
        assert rig.count(metrics.REQUESTS, "web", "default", "all", "200") == 2
        assert rig.board.segment(0).generation == 1


async def test_what_a_predecessor_has_left_is_put_right(tmp_path: Path) -> None:
    """Who was killed in the slot has left requests in flight and gauges; its counters are still true."""

    def prepare(board: Board) -> None:
        segment = board.segment(0)
        segment.add_inflight(3, 5)
        segment.put(segment.series(metrics.DOWNSTREAM_CONNECTIONS.number, ("web",)), 7)
        segment.add(segment.series(metrics.DOWNSTREAM_TOTAL.number, ("web",)), 7)

    async with Rig(tmp_path, prepare=prepare) as rig:
        assert rig.board.inflight(3) == 0
        assert rig.count(metrics.DOWNSTREAM_CONNECTIONS, "web") == 0
        assert rig.count(metrics.DOWNSTREAM_TOTAL, "web") == 7


# Applying


async def test_a_configuration_that_cannot_be_changes_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, other, origin = rig.listen(), rig.listen(), await rig.origin("one")
        listener = web.listener("web", cluster="all")
        rig.apply([listener], {"all": [origin.address]})
        async with web.connect() as downstream:
            assert await downstream.get("/") == (200, b"one")
            with pytest.raises(ValueError, match="regular expression"):
                rig.apply([other.listener("other", answering("new", "new")), replace(listener, routes=(BROKEN,))], {"new": []})
            assert await downstream.get("/") == (200, b"one")
            assert origin.open == 1  # not even its pool has lost a connection
            assert rig.board.segment(0).generation == 1
            rig.apply(
                [other.listener("other", answering("new", "new")), listener], {"all": [origin.address]}
            )  # the socket is still to be had
            assert await downstream.get("/") == (200, b"one")
        async with other.connect() as downstream:
            assert await downstream.get("/") == (200, b"new")


async def test_a_configuration_without_its_sockets_changes_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, other, origin = rig.listen(), rig.listen(), await rig.origin("one")
        rig.apply([web.listener("web", cluster="all")], {"all": [origin.address]})
        rig.held.add(other.name)  # a mistake of the master's
        with pytest.raises(ValueError, match=f"no socket came for {other.name}"):
            rig.apply([other.listener("web", answering("new", "new"))])
        async with web.connect() as downstream:
            assert await downstream.get("/") == (200, b"one")


async def test_a_socket_that_replaces_another_takes_over_and_nobody_in_its_queue_is_lost(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web = rig.listen()
        listener = web.listener("web", answering("old", "old"))
        rig.apply([listener])
        async with web.connect() as kept, web.connect_at_once() as queued:
            rig.replace(web)
            rig.apply([replace(listener, routes=(answering("new", "new"),))])
            assert await kept.get("/") == (200, b"new")
            assert await queued.get("/") == (200, b"new")
            async with web.connect() as downstream:
                assert await downstream.get("/") == (200, b"new")


async def test_a_listener_that_stays_keeps_its_connections(tmp_path: Path) -> None:
    """The next request on them sees what is new: routes, clusters, limits."""
    async with Rig(tmp_path) as rig:
        web, origin = rig.listen(), await rig.origin("one")
        listener = web.listener("web", answering("old", "old"))
        rig.apply([listener])
        async with web.connect() as downstream:
            assert await downstream.get("/") == (200, b"old")
            rig.apply([replace(listener, routes=(answering("new", "new"),))])
            assert await downstream.get("/") == (200, b"new")
            rig.apply([replace(listener, routes=(), cluster="all", limits=ListenerLimits(target=16))], {"all": [origin.address]})
            assert await downstream.get("/") == (200, b"one")
            assert (await downstream.get("/" + 16 * "x"))[0] == 414
        assert rig.count(metrics.DOWNSTREAM_TOTAL, "web") == 1


async def test_an_exchange_ends_under_the_routes_it_began_with(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, origin = rig.listen(), await rig.origin("one")
        listener = web.listener("web", cluster="all")
        rig.apply([listener], {"all": [origin.address]})
        async with web.connect() as downstream:
            await downstream.send("/slow")
            await rig.until(lambda: origin.requests)
            rig.apply([replace(listener, cluster="", routes=(answering("new", "new"),))])
            origin.release.set()
            assert await downstream.answer() == (200, b"one")
            assert await downstream.get("/") == (200, b"new")
        assert rig.count(metrics.REQUESTS, "web", "default", "all", "200") == 1
        assert rig.count(metrics.REQUESTS, "web", "new") == 1


async def test_a_bind_moves_to_another_listener(tmp_path: Path) -> None:
    """With its socket, and what queues in it; who is connected already stays where he came in."""
    async with Rig(tmp_path) as rig:
        first, second = rig.listen(), rig.listen()
        one = first.listener("one", answering("route", "one"))
        rig.apply([replace(one, bind=(first.name, second.name))])
        async with second.connect() as early:
            assert await early.get("/") == (200, b"one")
            waiting = second.connect_at_once()
            rig.apply([one, second.listener("two", answering("route", "two"))])
            async with waiting as queued, second.connect() as late, first.connect() as other:
                assert await late.get("/") == (200, b"two")
                assert await other.get("/") == (200, b"one")
                assert await queued.get("/") == (200, b"two")
            assert await early.get("/") == (200, b"one")
            rig.apply([replace(one, bind=(first.name, second.name))])  # and back: its listener leaves
            async with second.connect() as late:
                assert await late.get("/") == (200, b"one")


async def test_a_listener_changes_its_protocol(tmp_path: Path) -> None:
    """Who speaks HTTP with it sees it leave; who comes from now on is carried as he is."""
    async with Rig(tmp_path) as rig:
        web, origin = rig.listen(), await rig.origin("one")
        listener = web.listener("web", answering("route", "http"))
        rig.apply([listener])
        async with web.connect() as downstream:
            assert await downstream.get("/") == (200, b"http")
            rig.apply([replace(listener, protocol="tcp", routes=(), cluster="all")], {"all": [origin.address]})
            async with web.connect() as other:
                assert await other.get("/") == (200, b"one")
                assert "via" not in other.fields
            assert await downstream.get("/") == (200, b"http")
            assert downstream.fields["connection"] == "close"


async def test_two_listeners_exchange_their_binds(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        first, second = rig.listen(), rig.listen()
        rig.apply([first.listener("one", answering("route", "one")), second.listener("two", answering("route", "two"))])
        rig.apply([second.listener("one", answering("route", "one")), first.listener("two", answering("route", "two"))])
        for bound, body in ((first, b"two"), (second, b"one")):
            async with bound.connect() as downstream:
                assert await downstream.get("/") == (200, body)


async def test_a_bind_that_leaves_its_listener_serves_who_queued(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        first, second = rig.listen(), rig.listen()
        one = first.listener("one", answering("route", "one"))
        rig.apply([replace(one, bind=(first.name, second.name))])
        async with second.connect() as early:
            assert await early.get("/") == (200, b"one")
            waiting = second.connect_at_once()
            rig.apply([one])
            async with waiting as queued:
                assert await second.is_refused()
                assert await early.get("/") == (200, b"one")  # the listener is still there
                assert await queued.get("/") == (200, b"one")


async def test_a_listener_that_leaves_is_seen_off(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, other, origin = rig.listen(), rig.listen(), await rig.origin("one")
        stays = other.listener("other", cluster="all")
        rig.apply([stays, web.listener("web", cluster="all")], {"all": [origin.address]})
        async with web.connect() as busy, web.connect() as idle:
            assert await idle.get("/") == (200, b"one")
            await busy.send("/slow")
            await rig.until(lambda: "/slow" in origin.requests)
            rig.apply([stays], {"all": [origin.address]})
            assert await web.is_refused()
            assert await idle.get("/") == (200, b"one")  # it was on its way
            assert idle.fields["connection"] == "close"
            origin.release.set()
            assert await busy.answer() == (200, b"one")
            assert busy.fields["connection"] == "close"
            assert (await idle.end(), await busy.end()) == (b"", b"")
        await rig.until(lambda: rig.count(metrics.DOWNSTREAM_CONNECTIONS, "web") == 0)
        async with other.connect() as downstream:
            assert await downstream.get("/") == (200, b"one")
        assert not rig.over.is_set()


async def test_a_listener_that_leaves_is_cut_in_the_end(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, origin = rig.listen(), await rig.origin("one")
        rig.apply([web.listener("web", cluster="all")], {"all": [origin.address]})
        async with web.connect() as downstream:
            await downstream.send("/slow")
            await rig.until(lambda: origin.requests)
            rig.apply([], drain_timeout=0.05)
            assert await downstream.end() == b""
        await rig.until(lambda: rig.count(metrics.DOWNSTREAM_CONNECTIONS, "web") == 0)


async def test_a_bind_comes_back_with_a_new_socket(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, other = rig.listen(), rig.listen()
        rig.apply([web.listener("web", answering("route", "web"))])
        rig.apply([other.listener("other", answering("route", "other"))])
        again = rig.listen()
        rig.apply([again.listener("web", answering("route", "again"))])
        async with again.connect() as downstream:
            assert await downstream.get("/") == (200, b"again")


# Clusters and endpoints


async def test_a_cluster_that_leaves_closes_its_pool(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, one, two = rig.listen(), await rig.origin("one"), await rig.origin("two")
        listener = web.listener("web", RoutePolicy(name="two", path="/two", cluster="two"), cluster="one")
        rig.apply([listener], {"one": [one.address], "two": [two.address]})
        async with web.connect() as downstream:
            assert await downstream.get("/") == (200, b"one")
            assert await downstream.get("/two") == (200, b"two")
            rig.apply([replace(listener, routes=())], {"one": [one.address]})
            await rig.until(lambda: two.open == 0)
            assert await downstream.get("/two") == (200, b"one")
            assert one.open == 1


async def test_endpoints_change_by_themselves(tmp_path: Path) -> None:
    """Who stays keeps its connections; at who leaves, what runs is finished and nothing kept."""
    async with Rig(tmp_path) as rig:
        web, old, new = rig.listen(), await rig.origin("old"), await rig.origin("new")
        rig.apply([web.listener("web", cluster="all")], {"all": [old.address]})
        async with web.connect() as busy, web.connect() as downstream:
            assert await downstream.get("/") == (200, b"old")
            await busy.send("/slow")
            await rig.until(lambda: "/slow" in old.requests)
            rig.worker.update_endpoints(Endpoints("all", states(new.address)))
            rig.worker.update_endpoints(Endpoints("no such cluster", states(old.address)))
            for _ in range(3):
                assert await downstream.get("/") == (200, b"new")
            old.release.set()
            assert await busy.answer() == (200, b"old")
            await rig.until(lambda: old.open == 0)
            assert await busy.get("/") == (200, b"new")
            rig.worker.update_endpoints(Endpoints("all", ()))
            assert (await busy.get("/"))[0] == 503
            assert busy.fields.get("connection") != "close"
        assert rig.board.inflight(0) == 0


async def test_who_is_down_gets_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, one, two = rig.listen(), await rig.origin("one"), await rig.origin("two")
        rig.apply([web.listener("web", cluster="all")], {"all": [one.address, two.address]})
        async with web.connect() as downstream:
            rig.worker.set_health(Health("all", {one.address: False, "10.0.0.1:1": False}))
            rig.worker.set_health(Health("no such cluster", {two.address: False}))
            assert {await downstream.get("/") for _ in range(4)} == {(200, b"two")}
            rig.worker.set_health(Health("all", {one.address: True}))
            assert {await downstream.get("/") for _ in range(4)} == {(200, b"one"), (200, b"two")}
            # A reload keeps what is known of health only by way of the master, who says so in Configure.
            rig.worker.set_health(Health("all", {one.address: False, two.address: True}))
            rig.worker.update_endpoints(
                Endpoints("all", tuple(replace(state, up=state.index == 1) for state in states(one.address, two.address)))
            )
            assert {await downstream.get("/") for _ in range(4)} == {(200, b"two")}


# Logs


def logged(text: str) -> list[str]:
    """The targets in an access log."""
    return [json.loads(line)["target"] for line in text.splitlines()]


async def test_logs_are_reopened_and_switched_off_and_on(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web = rig.listen()
        rig.apply([web.listener("web", answering("route", ""))])
        async with web.connect() as downstream:
            await downstream.get("/first")
            await rig.until(lambda: logged(rig.read("access.log")) == ["/first"])
            rig.worker.reopen_logs(rig.file("lbd.2"), rig.file("access.2"))
            await downstream.get("/second")
            await rig.until(lambda: logged(rig.read("access.2")) == ["/second"])
            rig.worker.reopen_logs(rig.file("lbd.3"), -1)
            await downstream.get("/unseen")
            rig.worker.reopen_logs(rig.file("lbd.4"), rig.file("access.4"))
            await downstream.get("/third")
            await rig.until(lambda: logged(rig.read("access.4")) == ["/third"])
        assert logged(rig.read("access.log") + rig.read("access.2")) == ["/first", "/second"]


async def test_the_format_of_logs_changes_with_the_configuration(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web = rig.listen()
        listener = web.listener("web", answering("route", ""))
        rig.apply([listener])
        async with web.connect() as downstream:
            await downstream.get("/json")
            rig.apply([listener], log=LogPolicy(access_format="combined"))
            await downstream.get("/combined")
            await rig.until(lambda: '"GET /combined HTTP/1.1" 200' in rig.read("access.log"))
        assert rig.read("access.log").startswith('{"time"')


async def test_without_an_access_log(tmp_path: Path) -> None:
    async with Rig(tmp_path, has_access_log=False) as rig:
        web = rig.listen()
        rig.apply([web.listener("web", answering("route", ""))])
        async with web.connect() as downstream:
            assert (await downstream.get("/"))[0] == 200
    assert not (tmp_path / "access.log").exists()


# The end


async def test_a_drain_waits_for_what_runs(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, origin = rig.listen(), await rig.origin("one")
        rig.apply([web.listener("web", cluster="all")], {"all": [origin.address]})
        async with web.connect() as busy, web.connect() as idle:
            await busy.send("/slow")
            assert await idle.get("/") == (200, b"one")
            await rig.until(lambda: "/slow" in origin.requests)
            waiting = web.connect_at_once()
            rig.drain()
            async with waiting as queued:
                assert await web.is_refused()
                for downstream in (idle, queued):  # a request that was on its way, and who had been promised a connection
                    assert await downstream.get("/") == (200, b"one")
                    assert downstream.fields["connection"] == "close"
            assert not rig.over.is_set()
            origin.release.set()
            assert await busy.answer() == (200, b"one")
            assert busy.fields["connection"] == "close"
            await rig.over.wait()
        assert rig.reports == [Drained(0)]


async def test_a_drain_closes_who_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment, in which a request may still come."""
    monkeypatch.setattr("lbd.worker.leaving.DRAIN_GRACE", 0.05)
    async with Rig(tmp_path) as rig:
        web = rig.listen()
        rig.apply([web.listener("web", answering("route", ""))])
        async with web.connect() as downstream:
            assert (await downstream.get("/"))[0] == 200
            rig.drain(timeout=1000.0)
            assert await downstream.end() == b""
            await rig.over.wait()
        assert rig.reports == [Drained(0)]


async def test_a_drain_cuts_what_takes_too_long(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, origin = rig.listen(), await rig.origin("one")
        rig.apply([web.listener("web", cluster="all")], {"all": [origin.address]})
        async with web.connect() as busy:
            await busy.send("/slow")
            await rig.until(lambda: origin.requests)
            rig.drain(timeout=0.1)
            await rig.over.wait()
            assert await busy.end() == b""
            origin.release.set()
            await rig.until(lambda: origin.open == 0)  # nobody waits for its answer any more
        assert rig.reports == [Drained(1)]
        (line,) = rig.read("access.log").splitlines()
        assert (json.loads(line)["target"], json.loads(line)["status"], json.loads(line)["reason"]) == ("/slow", 0, "drain_timeout")


async def test_a_drain_takes_along_the_listeners_that_left(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, origin = rig.listen(), await rig.origin("one")
        rig.apply([web.listener("web", cluster="all")], {"all": [origin.address]})
        async with web.connect() as downstream:
            await downstream.send("/slow")
            await rig.until(lambda: origin.requests)
            rig.apply([], {"all": [origin.address]})
            rig.drain()
            await trio.sleep(0.06)
            assert not rig.over.is_set()
            origin.release.set()
            assert await downstream.answer() == (200, b"one")
            await rig.over.wait()
        assert rig.reports == [Drained(0)]


async def test_a_drain_of_nothing_ends_at_once(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drain(timeout=1000.0)
        await rig.over.wait()
        assert rig.reports == [Drained(0)]
