"""Which endpoint takes a request, of a running daemon with two workers: levels, zones, subsets, sticky sessions."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Downstream, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.http import Answer, Message
    from tests.support.origins import Link

CONFIG = """\
[lbd]
workers = 2
zone = "here"
state_directory = "{state}"
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
[[listener.web.route]]
path = "/levels"
cluster = "levels"
[[listener.web.route]]
path = "/zones"
cluster = "zones"
[[listener.web.route]]
path = "/two"
cluster = "versions"
subset = {{ version = "2" }}
[[listener.web.route]]
path = "/one"
cluster = "versions"
subset = {{ version = "1" }}
subset_fallback = "any"
[[listener.web.route]]
path = "/sticky"
cluster = "sticky"
[cluster.levels]
endpoints = ["{a}", "{b}", {{ address = "{c}", priority = 1 }}, {{ address = "{d}", priority = 1 }}]
health = {health}
[cluster.zones]
endpoints = [
    {{ address = "{a}", zone = "here" }}, {{ address = "{b}", zone = "here" }},
    {{ address = "{c}", zone = "there" }}, {{ address = "{d}", zone = "there" }},
]
health = {health}
[cluster.versions]
endpoints = [
    {{ address = "{a}", metadata = {{ version = "1" }} }},
    {{ address = "{c}", metadata = {{ version = "2" }} }}, {{ address = "{d}", metadata = {{ version = "2" }} }},
]
health = {health}
[cluster.sticky]
endpoints = ["{a}", "{b}", "{c}", "{d}"]
balance = "{balance}"
sticky = {{}}
health = {health}
"""
HEALTH = '{ path = "/live", interval = "100ms", timeout = "5s", rise = 1, fall = 2 }'


class Patient(ScriptedOrigin):
    """An origin that is well or not."""

    def __init__(self, name: str) -> None:
        self.is_well = True
        super().__init__(name, behave=self.live)

    def live(self, link: Link, message: Message) -> bool:
        is_probe = message.target.startswith("/live")
        link.answer(message, b"answer\n", 503 if is_probe and not self.is_well else 200)
        return not is_probe


class Rig:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.admin = free_ports(2)
        self.origins = {name: Patient(name) for name in "abcd"}
        self.lbd = LbdDaemon(self.text(), directory)

    def text(self, balance: str = "round-robin") -> str:
        addresses = {name: origin.address for name, origin in self.origins.items()}
        state = self.directory / "state"
        return CONFIG.format(state=state, port=self.port, admin=self.admin, health=HEALTH, balance=balance, **addresses)

    def shares(self, path: str, count: int = 40) -> Counter[str]:
        """Who has answered so many requests; a connection each, so that both workers have their part."""
        return Counter(get(self.port, path).get("x-origin") for _ in range(count))

    def make_well(self, names: str, *, path: str, served_by: str) -> None:
        """These and no others are, and both workers know it."""
        for name, origin in self.origins.items():
            origin.is_well = name in names
        up = {origin.address for name, origin in self.origins.items() if name in names}

        def known() -> bool:
            clusters = self.lbd.json("/api/v1/clusters").values()
            return all(bool(each["up"]) == (each["address"] in up) for cluster in clusters for each in cluster["endpoints"])

        wait_until(known, f"{names} up")
        wait_until(lambda: set(self.shares(path, 20)) <= set(served_by), f"{served_by} to answer {path}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("selection"))
    try:
        rig.lbd.wait_ready()
        yield rig
    finally:
        rig.lbd.stop()
        for origin in rig.origins.values():
            origin.stop()


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    yield shared
    shared.make_well("abcd", path="/levels", served_by="ab")


def test_requests_spill_over_to_the_next_level_by_health(rig: Rig) -> None:
    assert set(rig.shares("/levels")) == {"a", "b"}
    rig.make_well("acd", path="/levels", served_by="acd")
    found = rig.shares("/levels", 200)
    assert set(found) == {"a", "c", "d"}
    assert 100 <= found["a"] <= 175  # 140: seventy percent, to within five standard deviations
    assert rig.lbd.metric("lbd_cluster_spill_total", cluster="levels", kind="priority") >= found["c"] + found["d"]
    levels = rig.lbd.json("/api/v1/clusters")["levels"]["levels"]
    assert [(level["level"], level["up"], level["endpoints"], level["share"]) for level in levels] == [(0, 1, 2, 0.7), (1, 2, 2, 0.3)]
    rig.make_well("cd", path="/levels", served_by="cd")
    assert set(rig.shares("/levels")) == {"c", "d"}


def test_requests_stay_in_the_zone_while_it_has_room(rig: Rig) -> None:
    assert set(rig.shares("/zones")) == {"a", "b"}
    rig.make_well("acd", path="/zones", served_by="acd")
    found = rig.shares("/zones", 200)
    assert found["a"] > 140  # 187: one of two zones, one of three endpoints, times 1.4
    assert rig.lbd.metric("lbd_cluster_spill_total", cluster="zones", kind="zone") >= found["c"] + found["d"]
    (level,) = rig.lbd.json("/api/v1/clusters")["zones"]["levels"]
    assert [(part["kind"], part["endpoints"], part["share"]) for part in level["parts"]] == [("", 1, 0.933), ("zone", 2, 0.067)]
    rig.make_well("cd", path="/zones", served_by="cd")
    assert set(rig.shares("/zones")) == {"c", "d"}


def test_routes_get_their_subsets(rig: Rig) -> None:
    assert set(rig.shares("/two")) == {"c", "d"}
    assert set(rig.shares("/one")) == {"a"}
    rig.make_well("bcd", path="/one", served_by="cd")
    assert set(rig.shares("/one")) == {"c", "d"}
    assert set(rig.shares("/two")) == {"c", "d"}


class Client:
    """Keeps the cookie that it is given, and sends it with another one."""

    def __init__(self, port: int, cookie: str = "") -> None:
        self.port = port
        self.cookie = cookie
        self.new = 0  # cookies got

    def ask(self) -> str:
        """Who answers, over a connection of its own."""
        fields = {"Cookie": "; ".join(filter(None, ["theme=dark", self.cookie]))}
        answer: Answer = get(self.port, "/sticky", fields)
        assert answer.status == 200
        if line := answer.get("set-cookie"):
            assert re.fullmatch(r"lbd-sticky=[\w-]{12}\.[\w-]{24}; Path=/; HttpOnly; SameSite=Lax", line)
            self.cookie = line.partition(";")[0]
            self.new += 1
        return answer.get("x-origin")


def test_a_client_stays_over_reload_restart_and_moves_when_its_endpoint_dies(rig: Rig) -> None:
    clients = [Client(rig.port) for _ in range(6)]
    homes = [client.ask() for client in clients]
    assert len(set(homes)) > 1
    for _ in range(5):
        assert [client.ask() for client in clients] == homes
    messages = [received.message for received in rig.origins[homes[0]].received]
    seen = next(message.raw for message in reversed(messages) if message.target == "/sticky")
    assert b"theme=dark" in seen
    assert b"lbd-sticky" not in seen
    rig.lbd.reload(rig.text(balance="random"))
    assert [client.ask() for client in clients] == homes
    rig.lbd.stop()
    rig.lbd = LbdDaemon(rig.text(), rig.directory).wait_ready()
    assert [client.ask() for client in clients] == homes
    assert [client.new for client in clients] == [1] * 6
    assert rig.lbd.metric("lbd_sticky_total", cluster="sticky", outcome="kept") == 6
    lost = homes[0]
    rig.make_well("abcd".replace(lost, ""), path="/sticky", served_by="abcd".replace(lost, ""))
    now = [client.ask() for client in clients]
    assert [new for new, old in zip(now, homes, strict=True) if old != lost] == [home for home in homes if home != lost]
    assert lost not in now
    assert [client.ask() for client in clients] == now
    assert [client.new for client in clients] == [1 + (home == lost) for home in homes]


def test_a_forged_cookie_is_as_good_as_none(rig: Rig) -> None:
    honest = Client(rig.port)
    home = honest.ask()
    forged = honest.cookie[:-1] + ("A" if honest.cookie[-1] != "A" else "B")
    found = set()
    for _ in range(12):
        client = Client(rig.port, forged)
        found.add(client.ask())
        assert client.new == 1
        assert client.cookie != forged
    assert len(found) > 1, f"all went to the forged cookie's endpoint, {home}"
    assert rig.lbd.metric("lbd_sticky_total", cluster="sticky", outcome="invalid") == 12


def test_a_huge_cookie_is_read_and_answered(rig: Rig) -> None:
    client = Client(rig.port)
    home = client.ask()
    pairs = "; ".join(f"a{number}=b" for number in range(5000))
    with Downstream(rig.port) as downstream:
        answer = downstream.ask("GET", "/sticky", {"Cookie": f"{pairs}; {client.cookie}"})
    assert (answer.status, answer.get("x-origin"), answer.get("set-cookie")) == (200, home, "")
