"""Places in the in-flight table, and what workers are told of endpoints."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lbd.discovery.resolve import ResolvedEndpoint
from lbd.master.endpoints import EndpointBook, Places
from lbd.worker.messages import EndpointState


class Table:
    """An in-flight table of a few places."""

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.places = Places(size, lambda place: self.counts[place])

    def take(self, *addresses: str) -> list[int]:
        return [self.places.take(("web", address)) for address in addresses]

    def keep(self, *addresses: str) -> None:
        self.places.keep({("web", address) for address in addresses})


def test_a_place_is_an_endpoints_own_and_stays() -> None:
    table = Table(10)
    assert table.take("a", "b", "a") == [0, 1, 0]
    assert table.places.take(("api", "a")) == 2
    table.keep("a")
    assert table.take("a") == [0]
    assert dict(table.places.items()) == {("web", "a"): 0}


def test_a_place_given_up_is_used_again_only_when_nobody_counts_there() -> None:
    table = Table(10)
    table.take("a", "b")
    table.keep()
    table.counts[0] = 3  # requests at `a` outlive its place
    assert table.take("c", "d") == [1, 2]
    table.counts[0] = 0
    assert table.take("e") == [0]


def test_when_all_are_taken_the_last_is_shared_and_never_anybodys_own() -> None:
    table = Table(3)
    assert table.take("a", "b", "c", "d") == [0, 1, 2, 2]
    table.keep("c", "d")
    assert set(table.take("e", "f")) == {0, 1}
    assert table.take("g") == [2]
    table.keep()
    assert set(table.take("h", "i")) == {0, 1}


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=8), max_size=12), st.data())
def test_no_two_endpoints_share_a_place_while_there_is_room(rounds: list[set[str]], data: st.DataObject) -> None:
    table = Table(100)
    busy: dict[int, str] = {}  # place -> who still counts there
    for wanted in rounds:
        places = dict(zip(sorted(wanted), table.take(*sorted(wanted)), strict=True))
        assert len(set(places.values())) == len(places)
        for name, place in places.items():
            assert busy.get(place, name) == name, "a stranger's count"
        table.keep(*wanted)
        for name, place in places.items():
            table.counts[place] = data.draw(st.integers(0, 1))
            busy[place] = name
        busy = {place: name for place, name in busy.items() if table.counts[place]}


def book(up: set[str] | None = None) -> EndpointBook:
    found = {
        "web": [ResolvedEndpoint("app:80", "10.0.0.1:80", 3), ResolvedEndpoint("app:80", "10.0.0.2:80", 3, True, 7)],
        "api": [],
    }
    places = Places(10, lambda place: 0)
    return EndpointBook(found, places, lambda cluster: lambda address: up is None or address in up)


def test_what_a_worker_is_told() -> None:
    assert book(up={"10.0.0.2:80"}).states() == {
        "web": (
            EndpointState("10.0.0.1:80", 3, 0, up=False, name="app:80"),
            EndpointState("10.0.0.2:80", 3, 1, up=True, name="app:80", backup=True, max_requests=7),
        ),
        "api": (),
    }


def test_a_name_that_resolves_to_something_else() -> None:
    endpoints = book()
    before = endpoints.of("web")
    assert endpoints.replace("web", [ResolvedEndpoint("app:80", "10.0.0.2:80"), ResolvedEndpoint("app:80", "10.0.0.3:80")])
    kept, new = endpoints.of("web")
    assert kept.index == before[1].index
    assert new.index not in {state.index for state in before}
    assert endpoints.addresses() == {"web": ["10.0.0.2:80", "10.0.0.3:80"], "api": []}
    assert endpoints.keys() == {("web", "10.0.0.2:80"), ("web", "10.0.0.3:80"), ("web", ""), ("api", "")}


def test_a_cluster_has_a_place_of_its_own() -> None:
    endpoints = book()
    taken = [state.index for state in endpoints.of("web")] + list(endpoints.places().values())
    assert set(endpoints.places()) == {"web", "api"}
    assert len(set(taken)) == 4
    assert endpoints.places() == endpoints.places()


def test_a_cluster_that_is_gone_is_no_error() -> None:
    assert not book().replace("gone", [])


def test_asking_for_a_cluster_that_is_not_there_is() -> None:
    with pytest.raises(KeyError):
        book().of("gone")


def test_who_is_drained_is_known_by_address() -> None:
    found = {"web": [ResolvedEndpoint("app:80", "10.0.0.1:80"), ResolvedEndpoint("b:80", "10.0.0.2:80")]}
    places = Places(10, lambda place: 0)
    mine = EndpointBook(found, places, lambda cluster: lambda address: True, lambda cluster: lambda each: (each.name == "app:80", 1))
    assert [mine.is_drained("web", address) for address in ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")] == [True, False, False]
    assert not mine.is_drained("api", "10.0.0.1:80")
    mine.replace("web", [ResolvedEndpoint("app:80", "10.0.0.3:80")])
    assert [mine.is_drained("web", address) for address in ("10.0.0.1:80", "10.0.0.3:80")] == [False, True]
    assert [mine.name_of("web", address) for address in ("10.0.0.3:80", "10.0.0.1:80")] == ["app:80", "10.0.0.1:80"]
