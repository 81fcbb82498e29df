"""Asking a running daemon: where it is, what it says, and what people get to read of it."""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair

from lbd.admin.pages import Pages, Request
from lbd.admin.server import _Admin
from lbd.cli import remote
from lbd.cli.ask import Answer, ask
from lbd.cli.main import main
from lbd.cli.remote import content_of, describe_clusters, describe_dormant, describe_reload, describe_status, find_admin, span
from lbd.config.addresses import Address
from lbd.errors import ConfigErrors, EnvironmentFault
from tests.admin.views import FakeView

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

TCP = Address("ipv4", "127.0.0.1", 9901)
UNIX = Address("unix", "/run/lbd/admin.sock")


async def ask_of(serve: Callable[[Any], Awaitable[None]], method: str, path: str, *, token: str = "", address: Address = TCP) -> Answer:
    async with trio.open_nursery() as nursery:

        async def connect(_: Address) -> trio.abc.Stream:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(serve, theirs)
            return ours

        answer = await ask(address, method, path, token=token, timeout=10.0, connect=connect)
        nursery.cancel_scope.cancel()
    return answer


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/api/v1/status", "", 200),
        ("POST", "/api/v1/reload", "", 200),
        ("GET", "/api/v1/status", "right", 200),
        ("GET", "/api/v1/status", "wrong", 401),
        ("POST", "/api/v1/status", "", 405),
        ("GET", "/nothing", "", 404),
    ],
)
@pytest.mark.parametrize("address", [TCP, UNIX])
async def test_the_admin_listener_understands_us(
    method: str, path: str, token: str, status: int, address: Address, autojump_clock: MockClock
) -> None:
    admin = _Admin(Pages(FakeView(), "right" if token else ""))
    answer = await ask_of(admin.serve, method, path, token=token, address=address)
    assert answer.status == status
    if path.startswith("/api/"):
        assert isinstance(json.loads(answer.body), dict)


async def silent(stream: trio.abc.HalfCloseableStream) -> None:
    await trio.sleep_forever()


async def abrupt(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.receive_some(100)
    await stream.aclose()


async def another(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH\r\n\r\n")
    await trio.sleep_forever()


async def early(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await stream.send_eof()
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("serve", "sentence"),
    [
        (silent, "the admin listener at 127.0.0.1:9901 did not answer within 10 s"),
        (abrupt, "does not answer .*is lbd running"),
        (another, "does not answer .*is lbd running"),
        (early, "does not answer .*is lbd running"),
    ],
)
async def test_whoever_does_not_answer(serve: Callable[[Any], Awaitable[None]], sentence: str, autojump_clock: MockClock) -> None:
    with pytest.raises(ExceptionGroup) as errors:  # of the nursery that serves
        await ask_of(serve, "GET", "/")
    with pytest.raises(EnvironmentFault, match=sentence):
        raise errors.value.exceptions[0]


async def test_a_socket_that_is_not_ours() -> None:
    async def connect(_: Address) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise PermissionError(13, "Permission denied")

    with pytest.raises(EnvironmentFault, match=r"no right to open unix:/run/lbd/admin\.sock; run this as root"):
        await ask(UNIX, "GET", "/", timeout=10.0, connect=connect)


@pytest.mark.parametrize(
    ("bind", "admin", "environ", "found"),
    [
        ("127.0.0.1:9000", "", {}, (Address("ipv4", "127.0.0.1", 9000), "secret")),
        ("127.0.0.1:9000", "", {"LBD_ADMIN_TOKEN": "other"}, (Address("ipv4", "127.0.0.1", 9000), "other")),
        ("127.0.0.1:9000", "[::1]:9001", {"LBD_ADMIN_TOKEN": "other"}, (Address("ipv6", "::1", 9001), "other")),
        ("unix:/run/a.sock", "", {}, (Address("unix", "/run/a.sock"), "secret")),
        ("off", "", {}, 'admin.bind is "off": there is nobody to ask'),
        ("fd:3", "", {}, 'admin.bind is "fd:3", which does not tell where it listens'),
        ("off", "9901", {}, '--admin 9901: "9901" has no address'),
        ("off", "off", {}, '--admin off is "off"'),
    ],
)
def test_where_the_daemon_is(bind: str, admin: str, environ: dict[str, str], found: object, tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(f'[admin]\nbind = "{bind}"\ntoken = "secret"\n')
    if isinstance(found, str):
        with pytest.raises(EnvironmentFault) as fault:
            find_admin(path, admin, environ)
        assert found in str(fault.value)
    else:
        assert find_admin(path, admin, environ) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[admin]\nbind = "127.0.0.1:9000"\n[cluster.web]\nendpionts = []\n[listener]\nweb = 1\n', 9000),
        ('[admin]\nbind = "127.0.0.1:9000"\ntoken = "${ONLY_THE_DAEMON_HAS_IT}"\n[lbd]\nworkers = "many"\n', 9000),
        ('[cluster.web]\nendpoints = "${ONLY_THE_DAEMON_HAS_IT}"\n', 9901),
        ('[admin]\nbind = "9901"\n', "admin.bind: "),
        ('[admin]\nbind = "${ONLY_THE_DAEMON_HAS_IT}"\n', "admin.bind: "),
        ('include = ["admin.toml"]\n', "include: "),
        ("[admin\n", "lb.toml:1: "),
    ],
)
def test_a_daemon_is_found_by_a_file_that_is_being_edited(text: str, found: int | str, tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(text)
    if isinstance(found, int):
        assert find_admin(path, "", {}) == (Address("ipv4", "127.0.0.1", found), "")
    else:
        with pytest.raises(ConfigErrors, match=found):
            find_admin(path, "", {})


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 0, ["api", "web"]),
        (("web",), 0, ["web"]),
        (("web", "api"), 0, ["api", "web"]),
        (("wbe",), 1, []),
    ],
)
def test_a_status_of_some_clusters(
    words: tuple[str, ...], code: int, told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def asked(address: Address, method: str, path: str, *, token: str, timeout: float) -> Answer:
        place, _, query = path.partition("?")
        page = await Pages(FakeView(), "").answer(Request(method, place, query, {"host": "localhost"}))
        return Answer(page.status, page.body)

    monkeypatch.setattr(remote, "ask", asked)
    assert main(["status", *words, "--admin", "127.0.0.1:9901"]) == code
    out, err = capsys.readouterr()
    assert re.findall(r"^cluster (\w+):", out, re.MULTILINE) == told
    assert err == ("" if told else 'lbd: there is no cluster "wbe"; did you mean "web"?\n')


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(200, b"<html>"), "answers 200 without JSON; is it lbd's?"),
        (Answer(200, b"[]"), "answers 200 without JSON; is it lbd's?"),
        (Answer(401, b'{"error": "send the header"}'), "refuses: send the header; the environment's LBD_ADMIN_TOKEN may hold the token"),
        (Answer(403, b'{"error": "Host is \\"x\\""}'), 'refuses: Host is "x"'),
        (Answer(500, b'{"error": "a bug"}'), "answers 500: a bug"),
    ],
)
def test_refusals(answer: Answer, sentence: str) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        content_of(answer)
    assert str(fault.value) == f"the admin listener {sentence}"


def test_a_refused_reload_is_an_answer() -> None:
    assert content_of(Answer(422, b'{"result": "failed", "errors": ["lb.toml:1: x"]}'))["errors"] == ["lb.toml:1: x"]


def test_a_report_for_people() -> None:
    report = {
        "result": "ok",
        "generation": 3,
        "errors": [],
        "warnings": ["lb.toml:9: cluster.b: no route leads to this cluster"],
        "listeners": {"added": ["new"], "removed": ["old"], "changed": {"web": ["timeouts", "limits"]}, "kept": ["a", "b"]},
        "binds": {"added": [], "removed": [], "changed": {}, "kept": []},
        "clusters": {"added": [], "removed": [], "changed": {}, "kept": ["web"]},
        "settings": ["log.level"],
        "drains": ["listener old"],
        "needs_restart": ["lbd.workers"],
    }
    assert list(describe_reload(report)) == [
        "reloaded: generation 3 is in force",
        "warning: lb.toml:9: cluster.b: no route leads to this cluster",
        "  listeners  +new -old ~web (timeouts, limits) (2 kept)",
        "  clusters   (1 kept)",
        "  settings: log.level",
        "  draining: listener old",
        "  in force only after a restart: lbd.workers",
    ]


def test_a_refusal_for_people() -> None:
    report = {"generation": 2, "errors": ["lb.toml:3: lbd.workrs: unknown key"]}
    assert list(describe_reload(report)) == [
        "lb.toml:3: lbd.workrs: unknown key",
        "reload refused, nothing has changed: generation 2 stays in force",
    ]


def test_a_status_for_people() -> None:
    status = {
        "version": "0.1.0", "compiled": True, "state": "ready", "pid": 7, "uptime_seconds": 3725.2, "config": "lb.toml", "generation": 2,
        "binds": ["0.0.0.0:80", "[::]:80"], "control": "unix:/run/lbd/control.sock",
        "worker_restarts": 1, "last_reload": {"errors": ["lb.toml:3: bad", "lb.toml:4: bad"]}, "needs_restart": ["lbd.workers", "lbd.user"],
        "workers": [
            {"slot": 0, "state": "serving", "pid": 8, "since_seconds": 3725, "unanswered_pings": 0},
            {"slot": 1, "state": "serving", "pid": 9, "since_seconds": 12, "unanswered_pings": 4},
            {"slot": 2, "state": "serving", "pid": 10, "since_seconds": 12, "shed_level": 1.25, "lag_seconds": 1.5},
        ],
        "names": {
            "a.example": {"addresses": ["10.0.0.1"], "failures": 0},
            "b.example": {"addresses": ["10.0.0.2"], "failures": 3, "problem": "no answer within 5 s"},
            "c.example": {"addresses": [], "failures": 1, "problem": "no address"},
        },
    }  # fmt: skip
    assert list(describe_status(status)) == [
        "lbd 0.1.0 (compiled core): ready, pid 7, up 1 h 2 min",
        "  configuration lb.toml, generation 2; on 0.0.0.0:80, [::]:80",
        "  commands by unix:/run/lbd/control.sock",
        "  the last reload was refused: lb.toml:3: bad",
        "  in the file, but in force only after a restart: lbd.workers, lbd.user",
        "  worker 0: serving, pid 8, 1 h 2 min",
        "  worker 1: serving, pid 9, 12 s, has not answered 4 pings",
        "  worker 2: serving, pid 10, 12 s, OVERLOADED: 1.2 of 3 priorities are refused, lag 1.5 s",
        "  workers restarted: 1",
        "  b.example does not resolve: no answer within 5 s (failed lookups: 3); the last addresses stay",
        "  c.example does not resolve: no address (failed lookups: 1); its clusters go without it",
    ]


def test_clusters_for_people() -> None:
    who = {"who": "root", "until": "2026-11-28 18:00:00 UTC", "reason": "disk"}
    clusters = {
        "web": {
            "balance": "round-robin",
            "endpoints": [
                {"name": "10.0.0.1:80", "address": "10.0.0.1:80", "weight": 1, "up": True, "inflight": 3, "why": ""},
                {"name": "b:80", "address": "10.0.0.2:80", "weight": 5, "backup": True, "up": False, "why": "down since 5 s: status 503"},
                {
                    "address": "10.0.0.3:80", "up": True, "drained": True, "inflight": 12, "why": "drained by root: disk",
                    "overlays": [{**who, "kind": "drain"}],
                },
                {
                    "address": "10.0.0.4:80", "up": False, "drained": True, "why": "drained by uid 7, and ejected",
                    "state": "ejected", "weight": 2, "configured_weight": 9,
                    "overlays": [{"kind": "drain", "who": "uid 7"}, {**who, "kind": "weight", "weight": 2, "until": None}],
                },
            ],
        },
        "api": {"balance": "random", "panic": True, "endpoints": [{"address": "10.0.0.3:80", "up": False, "why": "status 500"}]},
        "none": {
            "balance": "random", "why": "the breaker is open",
            "endpoints": [{"address": "", "name": "c:80", "up": False, "state": "unresolved", "why": "c does not resolve: no address"}],
        },
    }  # fmt: skip
    assert (
        "\n".join(describe_clusters(clusters))
        == """\
cluster web: 1 of 4 endpoints up, 2 drained, round-robin
  ENDPOINT            STATE             WEIGHT  IN FLIGHT
  10.0.0.1:80         up                     1          3
  10.0.0.2:80 (b:80)  DOWN                   5          0  backup; down since 5 s: status 503
  10.0.0.3:80         drained                1         12  drained by root: disk
  10.0.0.4:80         drained, EJECTED       2          0  drained by uid 7, and ejected; configured weight 9; weight 2 by root: disk
cluster api: 0 of 1 endpoints up, random; PANIC: too few are up, so health is ignored
  ENDPOINT     STATE  WEIGHT  IN FLIGHT
  10.0.0.3:80  DOWN        1          0  status 500
cluster none: 0 of 1 endpoints up, random
  the breaker is open
  ENDPOINT  STATE       WEIGHT  IN FLIGHT
  c:80      NO ADDRESS       1          0  c does not resolve: no address"""
    )


def test_levels_and_limits_for_people() -> None:
    level = {"endpoints": 2, "parts": []}
    cluster = {
        "balance": "round-robin", "max_requests": 100, "inflight": 100, "queued": 7,
        "levels": [{**level, "level": 0, "up": 1, "share": 0.7, "panic": True}, {**level, "level": "backup", "up": 2, "share": 0.3}],
        "endpoints": [
            {"address": "10.0.0.1:80", "up": True, "priority": 2, "zone": "b", "state": "half_open", "why": "on trial"},
            {"address": "10.0.0.2:80", "up": True, "state": "up", "slow_start": 2},
        ],
    }  # fmt: skip
    assert list(describe_clusters({"web": cluster})) == [
        "cluster web: 2 of 2 endpoints up, round-robin, 100 of 100 requests, 7 queued",
        "  level 0: 1 of 2 up, in panic, 70 % of the requests",
        "  backups: 2 of 2 up, 30 % of the requests",
        "  ENDPOINT     STATE     WEIGHT  IN FLIGHT",
        "  10.0.0.1:80  on trial       1          0  level 2; zone b; on trial",
        "  10.0.0.2:80  up             1          0  its share grows (slow start)",
    ]
    used_up = {"budget_left": 0, "denied": {"budget": 12}}
    for retry, words in ((used_up, ", retry budget used up (12 attempts not made so far)"), ({**used_up, "budget_left": 5}, "")):
        title = next(describe_clusters({"web": {**cluster, "retry": retry}}))
        assert title == f"cluster web: 2 of 2 endpoints up, round-robin, 100 of 100 requests, 7 queued{words}"
    del cluster["levels"], cluster["max_requests"]
    assert next(describe_clusters({"web": {**cluster, "queued": 0}})) == "cluster web: 2 of 2 endpoints up, round-robin"


def test_overlays_without_an_endpoint_for_people() -> None:
    overlays = [
        {"cluster": "web", "endpoint": "a:1", "kind": "drain", "who": "root", "until": None, "reason": "", "dormant": True},
        {"cluster": "web", "endpoint": "b:1", "kind": "drain", "who": "root", "until": None, "reason": "", "dormant": False},
    ]
    assert list(describe_dormant(overlays)) == ["waiting for web/a:1, which is not there: drained by root"]


def test_the_control_socket_is_asked_first_where_we_may(tmp_path: Path) -> None:
    path, control = tmp_path / "lb.toml", tmp_path / "control.sock"
    path.write_text(f'[lbd]\nstate_directory = "{tmp_path}"\n[admin]\nbind = "127.0.0.1:9000"\ntoken = "secret"\n')
    tcp = (Address("ipv4", "127.0.0.1", 9000), "secret")
    assert find_admin(path, "", {}) == tcp
    control.write_text("no socket")
    assert find_admin(path, "", {}) == tcp
    control.unlink()
    with socket.create_server(str(control), family=socket.AF_UNIX):
        assert find_admin(path, "", {}) == (Address("unix", str(control)), "")
        assert find_admin(path, "[::1]:9001", {})[0] == Address("ipv6", "::1", 9001)
        path.write_text(path.read_text() + 'control = "off"\n')
        assert find_admin(path, "", {}) == tcp


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 0 min"), (90061, "1 d 1 h")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
