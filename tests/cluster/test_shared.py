"""The pool of shared connections, with connections that are numbers and a clock that stands still until it is moved."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lbd.cluster.pool import PoolPolicy
from lbd.cluster.shared import Http2UpstreamPolicy, SharedPool
from tests.cluster.fakes import Connection

KEPT = PoolPolicy(idle_timeout=100.0)


@dataclass(eq=False)
class Joint:
    """A connection for `most` requests at a time; it tells its pool what a real one would."""

    pool: SharedPool
    most: int = 2
    opened_at: float = 0.0
    idle_since: float = 0.0
    requests: int = 0
    streams: int = 0
    has_served: bool = False
    looks: int = 0
    is_dead: bool = False  # as the kernel knows
    is_retired: bool = False

    def room(self) -> int:
        return 0 if self.is_retired else self.most - self.streams

    def look(self) -> None:
        self.looks += 1
        if self.is_dead:
            self.retire()

    def join(self, is_reused: bool) -> Joined:
        assert self.room() > 0
        self.streams += 1
        self.requests += 1
        return Joined(self, is_reused)

    def retire(self) -> None:
        if not self.is_retired:
            self.is_retired = True
            self.pool.lost(self)
            if self.streams == 0:
                self.pool.ended(self)

    def leave(self, now: float = 0.0) -> None:
        self.streams -= 1
        self.idle_since = now
        self.pool.settled(self, now)
        if self.is_retired and self.streams == 0:
            self.pool.ended(self)


@dataclass(eq=False)
class Joined:
    connection: Joint
    is_reused: bool


@dataclass(eq=False)
class Waiting:
    """A Place."""

    dials: list[Waiting]
    upstream: object = None
    error: Exception | None = None

    def dial(self) -> None:
        self.dials.append(self)

    def grant(self, upstream: object) -> None:
        assert self.is_waiting
        self.upstream = upstream

    def fail(self, error: Exception) -> None:
        assert self.is_waiting
        self.error = error

    @property
    def is_waiting(self) -> bool:
        return self.upstream is None and self.error is None


@dataclass
class Scene:
    """A pool, and who waits for it; `dials` are those that have begun and not ended."""

    pool: SharedPool
    dials: list[Waiting] = field(default_factory=list)

    def wait(self, count: int = 1) -> list[Waiting]:
        places = [Waiting(self.dials) for _ in range(count)]
        for place in places:
            self.pool.enter(place)
        return places

    def dialled(self, most: int = 2, **attributes: float) -> Joint:
        self.dials.pop(0)
        connection = Joint(self.pool, most, **attributes)  # type: ignore[arg-type]
        self.pool.dialled(connection, 0.0)
        return connection

    def failed(self) -> None:
        self.dials.pop(0)
        self.pool.dial_failed(OSError("no"))


def scene(policy: PoolPolicy = KEPT, *, auto: bool = False, max_streams: int = 2, max_connections: int = 0) -> Scene:
    return Scene(SharedPool(policy, Http2UpstreamPolicy(max_streams, max_connections), auto))


def opened(at: Scene, *most: int, now: float = 0.0) -> list[Joint]:
    """Connections with so much room each."""
    connections = []
    for each in most:
        (place,) = at.wait()
        connections.append(at.dialled(each, opened_at=now))
        assert isinstance(place.upstream, Joined)
    for connection in connections:
        connection.leave(now)
        connection.requests = 0
    return connections


def test_an_empty_pool_has_nothing() -> None:
    assert scene().pool.take(0.0) is None
    assert scene(auto=True).pool.take(0.0, certain=True) is None


def test_one_dial_serves_all_who_come_meanwhile() -> None:
    at = scene(max_streams=10)
    places = at.wait(10)
    assert len(at.dials) == 1
    connection = at.dialled(10)
    assert connection.streams == 10
    assert [place.upstream.is_reused for place in places if isinstance(place.upstream, Joined)] == [False] * 10
    assert at.dials == []


def test_no_more_dials_than_are_needed() -> None:
    at = scene(max_streams=10)
    for count, expected in ((1, 1), (9, 1), (1, 2), (9, 2), (1, 3)):
        at.wait(count)
        assert len(at.dials) == expected


def test_an_endpoint_that_takes_fewer_streams_is_dialled_more_often() -> None:
    at = scene(max_streams=10)
    places = at.wait(10)
    at.dialled(4)
    assert len(at.dials) == 2  # for the other six, by four
    at.dialled(4)
    at.dialled(4)
    assert not any(place.is_waiting for place in places)


def test_the_oldest_with_room_is_used_so_that_the_others_fall_idle() -> None:
    at = scene()
    first, second = opened(at, 2, 2)
    joined = [at.pool.take(0.0) for _ in range(3)]
    assert [each.connection for each in joined] == [first, first, second]
    assert all(each.is_reused for each in joined)
    first.leave()
    assert at.pool.take(0.0).connection is first
    assert at.pool.take(0.0).connection is second
    assert at.pool.take(0.0) is None


def test_room_goes_to_who_waits_longest() -> None:
    at = scene(max_connections=1)
    (only,) = opened(at, 2)
    assert at.pool.take(0.0)
    assert at.pool.take(0.0)
    one, two = at.wait(2)
    assert at.dials == []  # there may be no other
    only.leave()
    assert (one.is_waiting, two.is_waiting) == (False, True)
    assert at.pool.take(0.0) is None  # nobody comes before `two`
    only.leave()
    assert not two.is_waiting


def test_when_the_only_one_is_lost_who_waits_gets_another() -> None:
    at = scene(max_connections=1, max_streams=1)
    (only,) = opened(at, 1)
    at.pool.take(0.0)
    (place,) = at.wait()
    only.retire()
    assert len(at.dials) == 1
    at.dialled(1)
    assert not place.is_waiting


def test_a_dial_that_fails_fails_those_it_was_made_for() -> None:
    at = scene(max_streams=2)
    places = at.wait(5)
    assert len(at.dials) == 3
    at.failed()
    assert [place.error is not None for place in places] == [True] + [False] * 4  # two more dials are on their way, for four
    at.failed()
    assert [place.error is not None for place in places] == [True] * 3 + [False] * 2
    at.failed()
    assert all(place.error is not None for place in places)
    assert at.dials == []


def test_who_has_left_the_queue_is_not_served() -> None:
    at = scene()
    one, two = at.wait(2)
    at.pool.leave(one)
    at.pool.leave(one)  # as one who has been served would
    connection = at.dialled(1)
    assert one.is_waiting
    assert not two.is_waiting
    assert connection.streams == 1


def test_a_connection_that_nobody_waits_for_any_more_is_kept() -> None:
    at = scene()
    (place,) = at.wait()
    at.pool.leave(place)
    connection = at.dialled(2)
    assert len(at.pool) == 1
    assert at.pool.take(0.0).connection is connection


# (policy, requests carried, opened at, idle since, now; is it still used?)
LIMITS = [
    (PoolPolicy(idle_timeout=4.0), 1, 0.0, 10.0, 13.9, True),
    (PoolPolicy(idle_timeout=4.0), 1, 0.0, 10.0, 14.0, False),
    (PoolPolicy(idle_timeout=4.0, max_age=20.0), 1, 0.0, 19.0, 19.9, True),
    (PoolPolicy(idle_timeout=4.0, max_age=20.0), 1, 0.0, 19.0, 20.0, False),
    (PoolPolicy(idle_timeout=4.0, max_requests=3), 2, 0.0, 0.0, 1.0, True),
    (PoolPolicy(idle_timeout=4.0, max_requests=3), 3, 0.0, 0.0, 1.0, False),
]


@pytest.mark.parametrize(("policy", "requests", "opened_at", "idle_since", "now", "is_used"), LIMITS)
@pytest.mark.parametrize("by_take", [True, False])
def test_limits(policy: PoolPolicy, requests: int, opened_at: float, idle_since: float, now: float, is_used: bool, by_take: bool) -> None:
    at = scene(policy)
    (connection,) = opened(at, 2)
    connection.requests, connection.opened_at, connection.idle_since = requests, opened_at, idle_since
    if by_take:
        assert (at.pool.take(now) is not None) == is_used
    else:
        at.pool.expire(now)
    assert connection.is_retired != is_used


def test_a_limit_of_the_endpoints_is_not_run_into_for_a_third_time() -> None:
    at = scene(max_streams=100)
    for requests, now in ((7, 0.0), (3, 1.0), (7, 2.0), (7, 3.0)):  # the first and the second may have been restarts
        (connection,) = opened(at, 100)
        connection.requests = 7
        assert at.pool.take(now).connection is connection
        at.pool.went_away(requests, now)
        connection.retire()
    (connection,) = opened(at, 100)
    connection.requests = 6
    assert at.pool.take(4.0).connection is connection
    assert at.pool.take(4.0) is None  # it has seven
    assert connection.is_retired
    (connection,) = opened(at, 100)
    connection.requests = connection.idle_since = 1000
    assert at.pool.take(1000.0).connection is connection  # not believed in for ever


def test_who_waits_gets_no_connection_that_is_used_up() -> None:
    at = scene(PoolPolicy(idle_timeout=0.0, max_requests=3), max_connections=1)
    places = at.wait(4)
    first = at.dialled(2)
    first.leave()
    assert [place.is_waiting for place in places] == [False, False, False, True]
    assert at.dials == []  # there may be one only
    first.leave()
    assert first.is_retired
    assert len(at.dials) == 1
    at.dialled(2)
    assert not places[3].is_waiting


def test_what_carries_something_is_not_idle() -> None:
    at = scene(PoolPolicy(idle_timeout=4.0))
    (connection,) = opened(at, 2)
    at.pool.take(1.0)
    at.pool.expire(1000.0)
    assert not connection.is_retired
    assert at.pool.take(1000.0).connection is connection


@pytest.mark.parametrize(("policy", "kept"), [(PoolPolicy(max_idle=2), 2), (PoolPolicy(max_idle=0), 0), (PoolPolicy(idle_timeout=0.0), 0)])
def test_no_more_idle_ones_than_allowed(policy: PoolPolicy, kept: int) -> None:
    at = scene(policy)
    places = at.wait(6)
    connections = [at.dialled() for _ in range(3)]
    assert all(isinstance(place.upstream, Joined) for place in places)
    for connection in connections:
        connection.leave()
        connection.leave()
    assert [connection.is_retired for connection in connections] == [False] * kept + [True] * (3 - kept)
    assert len(at.pool) == kept


def test_when_it_must_be_certain_the_kernel_is_asked() -> None:
    at = scene()
    one, two = opened(at, 2, 2)
    one.is_dead = True
    assert at.pool.take(0.0).connection is one  # nobody knows
    one.leave()
    assert at.pool.take(0.0, certain=True).connection is two
    assert one.is_retired
    assert at.pool.take_again(0.0).is_reused is False


def test_counts_of_idle_and_active() -> None:
    at = scene(auto=True)
    one, _ = opened(at, 2, 2)
    at.pool.give(Connection(), 0.0)
    assert (len(at.pool), at.pool.active(0)) == (3, 0)
    at.pool.take(0.0)
    at.pool.take(0.0)
    assert (len(at.pool), at.pool.active(2)) == (2, 1)
    assert at.pool.active(5) == 4  # the other three have one each
    one.retire()
    assert (len(at.pool), at.pool.active(2)) == (2, 1)  # it is still there
    one.leave()
    one.leave()
    assert (len(at.pool), at.pool.active(0)) == (2, 0)


def test_an_endpoint_that_has_left_keeps_nothing_but_serves_who_waits() -> None:
    at = scene(max_connections=1)
    (busy,) = opened(at, 2)
    at.pool.take(0.0)
    at.pool.take(0.0)
    (place,) = at.wait()
    at.pool.retire()
    assert busy.is_retired
    last = at.dialled()
    assert not place.is_waiting
    assert last.is_retired
    last.leave()
    assert len(at.pool) == 0


def test_auto_finds_out_that_there_is_nothing_to_share() -> None:
    at = scene(auto=True, max_streams=100)
    places = at.wait(3)
    assert len(at.dials) == 1
    singles = [Connection() for _ in range(3)]
    at.dials.pop()
    at.pool.dialled_single(singles[0], 0.0)
    assert places[0].upstream is singles[0]
    assert len(at.dials) == 2  # one for each of the others
    for single in singles[1:]:
        at.dials.pop()
        at.pool.dialled_single(single, 0.0)
    assert [place.upstream for place in places] == singles
    at.pool.give(singles[1], 0.0)
    assert at.pool.take(0.0) is singles[1]


def test_one_that_nobody_waits_for_any_more_is_given_to_the_pool() -> None:
    at = scene(auto=True)
    (place,) = at.wait()
    at.pool.leave(place)
    single = Connection()
    at.pool.dialled_single(single, 1.0)
    assert at.pool.take(1.0) is single


class Life(RuleBasedStateMachine):
    """Whatever happens in whatever order: nobody waits while there is room, or while nothing is on its way that could help."""

    def __init__(self) -> None:
        super().__init__()
        self.at = scene(max_streams=3, max_connections=3)
        self.places: list[Waiting] = []
        self.joints: list[Joint] = []

    @rule()
    def ask(self) -> None:
        if self.at.pool.take(0.0) is None:
            self.places += self.at.wait()

    @precondition(lambda self: self.at.dials)
    @rule(most=st.integers(1, 4))
    def dial_ends(self, most: int) -> None:
        self.joints.append(self.at.dialled(most))

    @precondition(lambda self: self.at.dials)
    @rule()
    def dial_fails(self) -> None:
        self.at.failed()

    @precondition(lambda self: any(joint.streams for joint in self.joints))
    @rule(data=st.data())
    def stream_ends(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([joint for joint in self.joints if joint.streams])).leave()

    @precondition(lambda self: self.joints)
    @rule(data=st.data())
    def connection_retires(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.joints)).retire()

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def gives_up(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(self.places))
        if place.is_waiting:
            self.at.pool.leave(place)
            place.error = OSError("gone")

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        waiting = sum(place.is_waiting for place in self.places)
        live = [joint for joint in self.joints if not joint.is_retired]
        assert waiting == self.at.pool.waiting
        assert not waiting or all(joint.room() <= 0 for joint in live)
        assert not waiting or self.at.dials or len(live) >= 3
        assert len(live) + len(self.at.dials) <= 3

    @invariant()
    def room_is_found(self) -> None:
        has_room = any(not joint.is_retired and joint.room() > 0 for joint in self.joints)
        joined = self.at.pool.take(0.0)
        assert (joined is not None) == has_room
        if joined is not None:
            joined.connection.leave()

    @invariant()
    def what_has_ended_is_forgotten(self) -> None:
        alive = sum(1 for joint in self.joints if not (joint.is_retired and joint.streams == 0))
        busy = sum(1 for joint in self.joints if joint.streams)
        assert len(self.at.pool) + self.at.pool.active(0) == alive
        assert self.at.pool.active(0) == busy


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_it_serves_while_a_connection_that_has_served_carries_something() -> None:
    scene = Scene(SharedPool(KEPT, Http2UpstreamPolicy()))
    scene.wait()
    connection = scene.dialled()
    assert not scene.pool.serves()  # nobody knows yet
    connection.has_served = True
    assert scene.pool.serves()
    connection.retire()
    assert scene.pool.serves()
    connection.leave()
    assert not scene.pool.serves()
