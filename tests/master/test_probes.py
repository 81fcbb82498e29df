"""Active health checks on virtual time: what a probe finds, when probes run, and what flips."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
import trustme
from hypothesis import given, strategies as st
from trio.testing import memory_stream_pair

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.cluster.health import HealthPolicy
from lbd.config.grammar import authority
from lbd.master import probes
from lbd.master.probe import Outcome, Probe, connect
from lbd.master.probes import Prober
from lbd.wire.grammar import AUTHORITY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

HTTP = HealthPolicy(interval=10.0, jitter=0.0, rise=2, fall=3)
CONTEXT = ssl.create_default_context()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


# One probe, against a scripted origin


class Origin:
    """Answers each connection with the same bytes and keeps what it was asked."""

    def __init__(self, nursery: trio.Nursery, *answer: bytes | float, closes: bool = True) -> None:
        self.nursery = nursery
        self.answer = answer  # bytes to send, seconds to wait
        self.closes = closes
        self.asked: list[bytes] = []
        self.addresses: list[str] = []

    async def connect(self, address: str) -> trio.abc.Stream:
        self.addresses.append(address)
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.serve, theirs)
        return ours

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.asked.append(bytes(await stream.receive_some(65536)))
        try:
            for step in self.answer:
                if isinstance(step, bytes):
                    await stream.send_all(step)
                else:
                    await trio.sleep(step)
            if self.closes:
                await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the probe has seen enough


async def probe(policy: HealthPolicy, *answer: bytes | float, address: str = "10.0.0.1:80", closes: bool = True) -> tuple[Outcome, Origin]:
    async with trio.open_nursery() as nursery:
        origin = Origin(nursery, *answer, closes=closes)
        outcome = await Probe(policy, address, origin.connect).run()
        nursery.cancel_scope.cancel()
    return outcome, origin


def answer(status: int, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    ("policy", "given", "outcome"),
    [
        ({}, answer(200), Outcome("ok", "status 200")),
        ({}, answer(399), Outcome("ok", "status 399")),
        ({}, answer(400), Outcome("status", "status 400, expected 200-399")),
        ({"expect_status": ("204", "300-302")}, answer(204), Outcome("ok", "status 204")),
        ({"expect_status": ("204", "300-302")}, answer(200), Outcome("status", "status 200, expected 204, 300-302")),
        ({}, b"HTTP/1.1 103 Early\r\n\r\n" + OK, Outcome("ok", "status 200")),
        ({}, b"HTTP/1.0 200 OK\r\n\r\nto the end", Outcome("ok", "status 200")),
        ({}, b"HTTP/1.1 101 Switching\r\n\r\n", Outcome("protocol", "")),
        ({}, b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Outcome("protocol", "its answer is not HTTP/1.1")),
        ({}, b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, Outcome("protocol", "its answer is not HTTP/1.1")),
        ({}, b"", Outcome("closed", "closed before its answer was whole")),
        ({}, b"HTTP/1.1 200 OK\r\nConte", Outcome("closed", "closed before its answer was whole")),
        ({"expect_body": "ready|fine"}, answer(200, b'{"state": "fine"}'), Outcome("ok", "status 200")),
        ({"expect_body": "^ok$"}, OK, Outcome("ok", "status 200")),
        ({"expect_body": "^ok$"}, answer(200, b"ok, but"), Outcome("body", 'nothing in the first 7 characters of the body matches "^ok$"')),
        ({"expect_body": "ok"}, answer(204), Outcome("body", "nothing in the first 0 characters")),
        ({"expect_body": "b", "body_limit": 4}, answer(200, b"aaaab"), Outcome("body", "nothing in the first 4 characters")),
        ({"expect_body": "caf\xe9"}, answer(200, "caf\xe9".encode()), Outcome("ok", "status 200")),
        ({"expect_body": "x"}, answer(200, b"\xff\xfex"), Outcome("ok", "status 200")),
        ({"expect_body": "ok"}, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Outcome("closed", "")),
        ({"expect_body": "ok"}, answer(500, b"ok"), Outcome("status", "status 500")),
        ({"method": "HEAD"}, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", Outcome("ok", "status 200")),
        ({"protocol": "tcp"}, b"", Outcome("ok", "connected")),
    ],
)
async def test_what_an_answer_means(autojump_clock: MockClock, policy: dict[str, Any], given: bytes, outcome: Outcome) -> None:
    found, _ = await probe(replace(HTTP, **policy), given)
    assert found.result == outcome.result
    assert outcome.reason in found.reason


async def test_what_is_asked(autojump_clock: MockClock) -> None:
    _, origin = await probe(replace(HTTP, path="/live?x=1", headers=(("X-Probe", "1"), ("Accept", "text/plain"))), OK)
    head = origin.asked[0].decode().lower()
    assert head.startswith("get /live?x=1 http/1.1\r\n")
    for field in ("host: 10.0.0.1:80", "connection: close", "x-probe: 1", "accept: text/plain", "user-agent: lbd-health/"):
        assert f"\r\n{field}" in head
    assert head.count("\r\naccept: ") == 1


def is_valid(host: str) -> bool:
    try:
        authority(host)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "host", ["[x", "[:::]", "[fe80::1%25eth0]", "a:b:c", ":80", ".example", "a..b", "a" * 64 + ".example", "\u00e9", "a@b", "a:"]
)
def test_a_host_that_nobody_can_be_asked_for_is_an_error_of_the_file(host: str) -> None:
    assert not is_valid(host)


@given(st.one_of(st.from_regex(AUTHORITY.pattern.decode(), fullmatch=True), st.text("a.:[]%-1", max_size=8)))
def test_with_every_host_that_is_valid_a_check_by_https_can_be_made(host: str) -> None:
    async def broken(address: str) -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        await theirs.aclose()
        return ours

    if is_valid(host):
        assert trio.run(Probe(replace(HTTP, protocol="https", host=host), "10.0.0.1:80", broken, lambda: CONTEXT).run).result == "tls"


@pytest.mark.parametrize("value", ["\u00e9\u20ac", "caf\u00e9", " spaces around ", "a\tb", ""])
async def test_fields_go_as_utf_8(autojump_clock: MockClock, value: str) -> None:
    outcome, origin = await probe(replace(HTTP, headers=(("X-Probe", value),)), OK)
    assert outcome.ok
    assert b"\r\nx-probe: %b\r\n" % value.strip().encode() in origin.asked[0].lower()


async def test_a_field_with_several_values_goes_several_times(autojump_clock: MockClock) -> None:
    _, origin = await probe(replace(HTTP, headers=(("X-Probe", "1"), ("x-probe", "2"))), OK)
    assert b"\r\nx-probe: 1\r\nx-probe: 2\r\n" in origin.asked[0].lower()


async def test_a_body_is_matched_as_utf_8(autojump_clock: MockClock) -> None:
    for body, result in (("tout \u00e9tait l\u00e0, 5 \u20ac", "ok"), ("tout etait la", "body")):
        outcome, _ = await probe(replace(HTTP, expect_body="^tout .tait .* \u20ac$"), answer(200, body.encode()))
        assert outcome.result == result


@pytest.mark.parametrize(
    ("host", "port", "address", "connected", "field"),
    [
        ("", 0, "10.0.0.1:80", "10.0.0.1:80", "10.0.0.1:80"),
        ("", 9000, "10.0.0.1:80", "10.0.0.1:9000", "10.0.0.1:9000"),
        ("", 9000, "[::1]:80", "[::1]:9000", "[::1]:9000"),
        ("app.example", 0, "10.0.0.1:80", "10.0.0.1:80", "app.example"),
        ("", 9000, "unix:/run/app.sock", "unix:/run/app.sock", "localhost"),
    ],
)
async def test_where_it_asks_and_as_whom(autojump_clock: MockClock, host: str, port: int, address: str, connected: str, field: str) -> None:
    _, origin = await probe(replace(HTTP, host=host, port=port), OK, address=address)
    assert origin.addresses == [connected]
    assert f"\r\nhost: {field}\r\n" in origin.asked[0].decode()


@pytest.mark.parametrize(
    ("policy", "steps"),
    [
        ({}, (60.0,)),
        ({}, (b"HTTP/1.1 200 OK\r\n", 60.0)),
        ({}, tuple(step for byte in answer(200) for step in (bytes([byte]), 0.1))),  # a byte now and then does not extend the time
        ({"expect_body": "never"}, (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 60.0)),
    ],
)
async def test_one_deadline_for_everything(autojump_clock: MockClock, policy: dict[str, Any], steps: tuple[bytes | float, ...]) -> None:
    outcome, _ = await probe(replace(HTTP, timeout=1.5, **policy), *steps)
    assert outcome == Outcome("timeout", "no answer within 1.5 s")
    assert trio.current_time() == pytest.approx(1.5)


async def test_an_endless_body_is_read_no_further_than_needed(autojump_clock: MockClock) -> None:
    outcome, _ = await probe(replace(HTTP, expect_body="ok", timeout=1.0), b"HTTP/1.1 200 OK\r\n\r\n" + b"ok" * 20_000, closes=False)
    assert outcome.ok
    outcome, _ = await probe(replace(HTTP, timeout=1.0), b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", closes=False)
    assert outcome.ok, "nobody asked for the body"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ConnectionRefusedError(111, "Connection refused"), "connecting failed: Connection refused"), (OSError("no route"), "no route")],
)
async def test_an_endpoint_that_cannot_be_reached(autojump_clock: MockClock, error: OSError, reason: str) -> None:
    async def fail(address: str) -> trio.abc.Stream:
        raise error

    outcome = await Probe(HTTP, "10.0.0.1:80", fail).run()
    assert outcome.result == "connect"
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("host", "result", "reason"),
    [("app.example", "ok", "status 200"), ("other.example", "tls", "Hostname mismatch"), ("", "tls", "IP address mismatch")],
)
async def test_https_is_verified(host: str, result: str, reason: str) -> None:
    authority = trustme.CA()
    trusting, serving = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(trusting)
    authority.issue_cert("app.example").configure_cert(serving)
    async with trio.open_nursery() as nursery:
        origin = Origin(nursery, OK)

        async def dial(address: str) -> trio.abc.Stream:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(serve, trio.SSLStream(theirs, serving, server_side=True, https_compatible=True))
            return ours

        async def serve(stream: trio.abc.Stream) -> None:
            try:
                await origin.serve(stream)
            except trio.BrokenResourceError:
                pass  # the probe does not trust us

        outcome = await Probe(replace(HTTP, protocol="https", host=host), "10.0.0.1:443", dial, lambda: trusting).run()
        nursery.cancel_scope.cancel()
    assert outcome.result == result
    assert reason in outcome.reason


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "unix"])
async def test_real_sockets(kind: str, tmp_path: Path, no_leaked_fds: None) -> None:
    async with trio.open_nursery() as nursery:
        if kind == "unix":
            listening = trio.socket.socket(trio.socket.AF_UNIX)
            await listening.bind(str(tmp_path / "app.sock"))
            address = f"unix:{tmp_path / 'app.sock'}"
        else:
            listening = trio.socket.socket(trio.socket.AF_INET6 if kind == "ipv6" else trio.socket.AF_INET)
            await listening.bind(("::1" if kind == "ipv6" else "127.0.0.1", 0))
            port = listening.getsockname()[1]
            address = f"[::1]:{port}" if kind == "ipv6" else f"127.0.0.1:{port}"
        refused = await Probe(HTTP, address).run()  # bound, but not listening
        assert refused == Outcome("connect", "connecting failed: Connection refused")
        listening.listen()
        nursery.start_soon(trio.serve_listeners, Origin(nursery, OK).serve, [trio.SocketListener(listening)])
        assert (await Probe(HTTP, address).run()).ok
        assert (await Probe(replace(HTTP, protocol="tcp"), address).run()).ok
        nursery.cancel_scope.cancel()


async def test_a_socket_connected_to_itself_is_a_refused_one(no_leaked_fds: None) -> None:
    made = socket.socket()  # noqa: TID251 - bound beforehand to the port it will be connected to
    made.bind(("127.0.0.1", 0))

    class TheOneSocket(trio.abc.SocketFactory):
        def socket(self, family: int = 0, type: int = 0, proto: int = 0) -> trio.socket.SocketType:  # noqa: A002
            return trio.socket.from_stdlib_socket(made)

    trio.socket.set_custom_socket_factory(TheOneSocket())
    with pytest.raises(ConnectionRefusedError):
        await connect(f"127.0.0.1:{made.getsockname()[1]}")


PIECES = (
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 \r\n",
    b"HTTP/1.1 999 x\r\n",
    b"HTTP/2 200\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Upgrade: x\r\n",
    b"Connection: upgrade\r\n",
    b"\r\n",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"ok",
)


@pytest.mark.parametrize(
    ("own", "of_cluster", "header"),
    [
        ("", "v1", b"PROXY UNKNOWN\r\n"),
        ("", "v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        ("v1", "", b"PROXY UNKNOWN\r\n"),
        ("v1", "v2", b"PROXY UNKNOWN\r\n"),
        ("off", "v2", b"GET "),
        ("", "", b"GET "),
    ],
)
async def test_a_probe_introduces_itself(own: str, of_cluster: str, header: bytes, autojump_clock: trio.testing.MockClock) -> None:
    cluster = ClusterPolicy("web", (EndpointPolicy("10.0.0.1:80"),), health=replace(HTTP, send_proxy=own), send_proxy=of_cluster)
    checked = cluster.check()
    assert checked is not None
    outcome, origin = await probe(checked, OK)
    assert outcome.ok
    assert origin.asked[0].startswith(header)


@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20)), max_size=8),
    st.sampled_from(["", "ok"]),
    st.sampled_from(["GET", "HEAD"]),
)
def test_whatever_an_origin_sends_there_is_an_outcome(pieces: list[bytes], body: str, method: Literal["GET", "HEAD"]) -> None:
    policy = replace(HTTP, expect_body=body, method=method)
    outcome, _ = trio.run(probe, policy, *pieces, clock=trio.testing.MockClock(autojump_threshold=0))
    assert outcome.result in {"ok", "closed", "protocol", "status", "body"}
    assert outcome.reason


# The schedule


class Scripted:
    """Stands for Probe: gives each address its outcomes one after the other, the last of them for ever."""

    def __init__(self, **outcomes: list[Outcome | Exception]) -> None:
        self.outcomes = outcomes
        self.times: dict[str, list[float]] = {}
        self.takes = 0.0

    def __call__(self, policy: HealthPolicy, address: str) -> Any:  # noqa: ANN401
        return _ScriptedProbe(self, address)


class _ScriptedProbe:
    def __init__(self, script: Scripted, address: str) -> None:
        self.script, self.address = script, address

    async def run(self) -> Outcome:
        self.script.times.setdefault(self.address, []).append(trio.current_time())
        await trio.sleep(self.script.takes)
        outcomes = self.script.outcomes.get(self.address, [GOOD])
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


GOOD, BAD = Outcome("ok", "status 200"), Outcome("status", "status 503, expected 200-399")


class Steady(Random):
    """No chance: always the lower end."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Flips(list[tuple[float, str, str, bool, str]]):
    def __call__(self, cluster: str, address: str, up: bool, reason: str) -> None:
        self.append((trio.current_time(), cluster, address, up, reason))


@asynccontextmanager
async def probing(
    script: Scripted, clusters: dict[str, tuple[HealthPolicy | None, list[str]]], random: Random | None = None
) -> AsyncIterator[tuple[Prober, Flips]]:
    flips = Flips()
    prober = Prober(flips, random=random or Steady(), make_probe=script)
    prober.update(clusters)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        yield prober, flips
        nursery.cancel_scope.cancel()


async def test_only_a_run_of_failures_flips_and_only_a_run_of_successes_flips_back(autojump_clock: MockClock) -> None:
    script = Scripted(a=[GOOD, BAD, BAD, GOOD, BAD, BAD, BAD, BAD, GOOD, BAD, GOOD, GOOD])
    async with probing(script, {"api": (HTTP, ["a"])}) as (prober, flips):
        await trio.sleep(65)
        assert not prober.is_up("api", "a")
        await trio.sleep(100)
        assert prober.is_up("api", "a")
    assert flips == [(60.0, "api", "a", False, BAD.reason), (110.0, "api", "a", True, GOOD.reason)]


async def test_a_flip_is_logged_once_with_its_reason(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lbd.health")
    async with probing(Scripted(a=[BAD, BAD, BAD, BAD, BAD, GOOD]), {"api": (HTTP, ["a"])}):
        await trio.sleep(100)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "cluster api: a is down after 3 checks: status 503, expected 200-399"),
        ("INFO", "cluster api: a is up after 2 checks: status 200"),
    ]


@pytest.mark.parametrize(
    ("policy", "times"),
    [
        ({}, [0.0, 10.0, 20.0, 30.0]),
        ({"interval_down": 2.0}, [0.0, 10.0, 20.0, 22.0]),  # down from the third on
        ({"jitter": 1.0}, [0.0, 9.0, 18.0, 27.0]),
        ({"jitter": -1.0}, [0.0, 9.0, 18.0, 27.0]),  # a tenth
        ({"jitter": 50.0, "interval": 1.0}, [0.0, 0.001, 0.002, 0.003]),  # never back in time, never without a breath
    ],
)
async def test_when_it_probes(autojump_clock: MockClock, policy: dict[str, Any], times: list[float]) -> None:
    script = Scripted(a=[BAD])
    async with probing(script, {"api": (replace(HTTP, **policy), ["a"])}):
        await trio.sleep(times[-1] + 0.0005)
    assert script.times["a"] == pytest.approx(times)


async def test_a_slow_endpoint_is_probed_as_often(autojump_clock: MockClock) -> None:
    script = Scripted()
    script.takes = 4.0
    async with probing(script, {"api": (HTTP, ["a"])}):
        await trio.sleep(35)
    assert script.times["a"] == [0.0, 10.0, 20.0, 30.0]


async def test_a_thousand_probes_do_not_come_in_waves(autojump_clock: MockClock) -> None:
    script = Scripted()
    addresses = [f"h{number}" for number in range(1000)]
    async with probing(script, {"api": (replace(HTTP, jitter=-1.0), addresses)}, Random(7)):
        await trio.sleep(100)
    starts = sorted(time for times in script.times.values() for time in times if 80 <= time < 90)
    assert 900 < len(starts) < 1100
    busiest = max(sum(second <= start < second + 1 for start in starts) for second in range(80, 90))
    assert busiest < 2 * len(starts) / 10


async def test_an_endpoint_that_starts_down_is_probed_soon(autojump_clock: MockClock) -> None:
    script = Scripted()
    policy = replace(HTTP, initial="down", interval=60.0)
    async with probing(script, {"api": (policy, [f"h{number}" for number in range(50)])}, Random(7)) as (prober, flips):
        assert not prober.is_up("api", "h0")
        await trio.sleep(probes.FIRST_WHEN_DOWN)
        assert len(script.times) == 50
        await trio.sleep(70)
    assert len(flips) == 50
    assert all(up for _, _, _, up, _ in flips)


async def test_unchecked_and_unknown_endpoints_are_up(autojump_clock: MockClock) -> None:
    script = Scripted()
    async with probing(script, {"plain": (None, ["a"])}) as (prober, _):
        await trio.sleep(100)
        assert prober.is_up("plain", "a")
        assert prober.is_up("plain", "z")
        assert prober.is_up("nowhere", "a")
        assert prober.snapshot("plain") == {"a": {"up": True, "checked": False}}
        assert prober.snapshot("nowhere") == {}
    assert script.times == {}


async def test_why_an_endpoint_is_out_is_one_sentence(autojump_clock: MockClock) -> None:
    script = Scripted(a=[GOOD, GOOD], b=[BAD, BAD, BAD, GOOD], c=[RuntimeError("a bug")])
    told: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    async with probing(script, {"api": (replace(HTTP, initial="down"), ["a", "b", "c"])}) as (prober, _):
        for seconds in (0.0, 5.0, 10.0, 10.0, 10.0):
            await trio.sleep(seconds)
            for address, sentences in told.items():
                sentences.append(prober.why("api", address))
        prober.update({"api": (replace(HTTP, initial="down", timeout=1.0), ["a", "b", "c"])})
        assert prober.why("api", "b") == f"its health check has failed: {BAD.reason}", "what another check has found is not forgotten"
    assert told["a"] == ["its health check has not been made yet", "1 of 2 health checks have succeeded", "", "", ""]
    assert told["b"] == [
        "its health check has not been made yet",
        f"its health check has failed: {BAD.reason}",
        f"its health check has failed 2 times in a row, the last time: {BAD.reason}",
        f"its health check has failed 3 times in a row, the last time: {BAD.reason}",
        f"1 of 2 health checks have succeeded since it failed: {BAD.reason}",
    ]
    assert set(told["c"][1:]) == {"its health check fails in lbd itself, the log has a trace"}


# Clusters and reloads


async def test_the_same_question_is_asked_once_for_two_clusters(autojump_clock: MockClock) -> None:
    script = Scripted(a=[BAD])
    async with probing(script, {"api": (HTTP, ["a"]), "web": (HTTP, ["a"])}) as (_, flips):
        await trio.sleep(25)
    assert script.times["a"] == [0.0, 10.0, 20.0]
    assert [(cluster, up) for _, cluster, _, up, _ in flips] == [("api", False), ("web", False)]


async def test_different_questions_to_one_address_know_nothing_of_each_other(autojump_clock: MockClock) -> None:
    def by_path(policy: HealthPolicy, address: str) -> Any:  # noqa: ANN401
        return Scripted(a=[BAD if policy.path == "/bad" else GOOD])(policy, address)

    prober = Prober(flips := Flips(), random=Steady(), make_probe=by_path)
    prober.update({"api": (replace(HTTP, path="/bad"), ["a"]), "web": (HTTP, ["a"])})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        await trio.sleep(100)
        assert (prober.is_up("api", "a"), prober.is_up("web", "a")) == (False, True)
        nursery.cancel_scope.cancel()
    assert [cluster for _, cluster, *_ in flips] == ["api"]


async def test_a_reload_keeps_state_and_rhythm(autojump_clock: MockClock) -> None:
    script = Scripted(a=[BAD])
    async with probing(script, {"api": (HTTP, ["a"])}) as (prober, flips):
        await trio.sleep(15)
        prober.update({"api": (HTTP, ["a", "b"]), "web": (HTTP, ["a"])})
        await trio.sleep(20)
    assert script.times["a"] == [0.0, 10.0, 20.0, 30.0]
    assert script.times["b"][0] == 15.0
    assert [(time, cluster) for time, cluster, *_ in flips] == [(20.0, "api"), (20.0, "web")]


async def test_a_changed_check_starts_from_what_the_old_one_knew(autojump_clock: MockClock) -> None:
    script = Scripted(a=[BAD])
    async with probing(script, {"api": (HTTP, ["a"])}) as (prober, flips):
        await trio.sleep(25)
        prober.update({"api": (replace(HTTP, timeout=1.0), ["a"])})
        assert not prober.is_up("api", "a"), "a reload sends no traffic to an endpoint known to be dead"
        script.outcomes["a"] = [GOOD]
        await trio.sleep(60)
        assert prober.is_up("api", "a")
    assert [up for _, _, _, up, _ in flips] == [False, True]


async def test_what_is_no_longer_configured_is_no_longer_probed(autojump_clock: MockClock) -> None:
    script = Scripted()
    async with probing(script, {"api": (HTTP, ["a", "b"]), "web": (HTTP, ["a"])}) as (prober, _):
        await trio.sleep(15)
        prober.update({"web": (HTTP, ["a"])})
        await trio.sleep(20)
        assert {labels["cluster"] for _, labels, _ in prober.metrics()} == {"web"}
        prober.update({"web": (None, ["a"])})
        await trio.sleep(20)
        assert prober.is_up("web", "a")
    assert script.times == {"a": [0.0, 10.0, 20.0, 30.0], "b": [0.0, 10.0]}


async def test_a_cluster_without_its_check_is_up_whatever_was_known(autojump_clock: MockClock) -> None:
    async with probing(Scripted(a=[BAD]), {"api": (HTTP, ["a"])}) as (prober, _):
        await trio.sleep(25)
        prober.update({"api": (None, ["a"])})
        assert prober.is_up("api", "a")


# Bugs, numbers


async def test_a_bug_in_a_probe_neither_ends_the_loop_nor_flips(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    bug = RuntimeError("a bug")
    script = Scripted(a=[bug, bug, bug, bug, GOOD, GOOD], b=[BAD])
    async with probing(script, {"api": (replace(HTTP, fall=1, interval=1.0), ["a", "b"])}) as (prober, flips):
        await trio.sleep(35)
        assert prober.is_up("api", "a")
        counts = {labels["result"]: value for name, labels, value in prober.metrics() if labels["endpoint"] == "a" and "result" in labels}
    assert script.times["a"][:6] == [0.0, 2.0, 6.0, 14.0, 30.0, 31.0], "ever more slowly, and back to its rhythm"
    assert counts["fault"] == 4.0
    assert [address for _, _, address, _, _ in flips] == ["b"]
    assert "the check of a failed in lbd itself" in caplog.text
    assert "Traceback" in caplog.text


async def test_results_are_counted(autojump_clock: MockClock) -> None:
    script = Scripted(a=[GOOD, BAD, Outcome("timeout", "no answer"), BAD])
    prober = Prober(Flips(), random=Steady(), make_probe=script)
    prober.update({"api": (HTTP, ["a"]), "plain": (None, ["p"])})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        await trio.sleep(35)
        nursery.cancel_scope.cancel()
    metrics = {(name, *labels.values()): value for name, labels, value in prober.metrics()}
    assert metrics == {
        ("lbd_health_checks_total", "api", "a", "ok"): 1.0,
        ("lbd_health_checks_total", "api", "a", "status"): 2.0,
        ("lbd_health_checks_total", "api", "a", "timeout"): 1.0,
        ("lbd_health_flips_total", "api", "a", "down"): 1.0,
    }
    prober.update({"plain": (None, ["p"])})
    assert list(prober.metrics()) == []


async def test_what_the_admin_api_tells(autojump_clock: MockClock) -> None:
    async with probing(Scripted(a=[GOOD, BAD]), {"api": (HTTP, ["a"])}) as (prober, _):
        assert prober.snapshot("api")["a"]["last_reason"] == "not checked yet"
        await trio.sleep(36)
        assert prober.snapshot("api")["a"] == {
            "up": False,
            "checked": True,
            "last_result": "status",
            "last_reason": BAD.reason,
            "consecutive": 3,
            "since_seconds": 6.0,
        }
