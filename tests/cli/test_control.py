"""`lbd drain` and its like: what is asked, what is printed, and the wait for requests in flight."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.cli import control
from lbd.cli.ask import Answer
from lbd.cli.control import outcome_of, path_of, wait_until_quiet
from lbd.cli.main import main
from lbd.config.addresses import Address
from lbd.errors import EnvironmentFault

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

ADDRESS = Address("unix", "/run/lbd/control.sock")
ABOUT = {"cluster": "web", "addresses": ["10.0.0.1:80", "10.0.0.2:80"], "message": "web/app:80 is drained", "warnings": ["a restart"]}


class Daemon:
    """What answers; `inflight` is told look by look."""

    def __init__(self, *inflight: tuple[int, ...], status: int = 200, content: dict[str, Any] = ABOUT) -> None:
        self.inflight = list(inflight)
        self.answer = Answer(status, json.dumps(content).encode())
        self.asked: list[tuple[str, str, bytes, str]] = []

    async def ask(self, address: Address, method: str, path: str, *, body: bytes = b"", token: str = "", timeout: float = 0.0) -> Answer:
        await trio.lowlevel.checkpoint()
        self.asked.append((method, path, body, token))
        if method == "POST":
            return self.answer
        if path != "/api/v1/clusters?cluster=web":
            return Answer(404, b'{"error": "there is no such cluster"}')
        counts = self.inflight.pop(0) if len(self.inflight) > 1 else self.inflight[0]
        endpoints = [{"address": f"10.0.0.{number}:80", "inflight": count} for number, count in enumerate(counts, 1)]
        return Answer(200, json.dumps({"web": {"endpoints": endpoints}}).encode())


def run(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(control, "ask", daemon.ask)
    monkeypatch.setenv("LBD_ADMIN_TOKEN", "secret")
    monkeypatch.setenv("SUDO_USER", "ann")
    return main([*words, "--admin", "127.0.0.1:9901"])


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        (
            ("drain", "web/app:80", "--for", "1h", "--reason", "new disk", "--force"),
            "/api/v1/clusters/web/endpoints/app:80/drain",
            {"for": "1h", "reason": "new disk", "force": True},
        ),
        (("drain", "web/unix:/run/a.sock"), "/api/v1/clusters/web/endpoints/unix:%2Frun%2Fa.sock/drain", {}),
        (("enable", "web/[::1]:80"), "/api/v1/clusters/web/endpoints/%5B::1%5D:80/enable", {}),
        (("weight", "web/app:80", "7", "--for", "1h"), "/api/v1/clusters/web/endpoints/app:80/weight", {"weight": "7", "for": "1h"}),
        (("weight", "web/app:80", "reset"), "/api/v1/clusters/web/endpoints/app:80/weight", {"weight": "reset"}),
    ],
)
def test_what_is_asked(
    words: tuple[str, ...], path: str, body: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon()
    assert run(daemon, monkeypatch, *words) == 0
    ((method, asked, content, token),) = daemon.asked
    assert (method, asked, json.loads(content), token) == ("POST", path, {**body, "by": "ann"}, "secret")
    assert capsys.readouterr() == ("web/app:80 is drained\n", "warning: a restart\n")


def test_a_drain_waits_when_asked_to(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(control, "LOOK", 0.001)
    daemon = Daemon((1, 2, 7), (0, 1, 7), (0, 0, 7))
    assert run(daemon, monkeypatch, "drain", "web/app:80", "--wait") == 0
    assert len(daemon.asked) == 4
    assert capsys.readouterr().out == "web/app:80 is drained\nnothing is in flight at web/app:80 any more\n"


def test_a_wait_has_an_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(control, "LOOK", 0.001)
    assert run(Daemon((1, 2)), monkeypatch, "drain", "web/app:80", "--timeout", "30ms") == 1
    assert capsys.readouterr().err.endswith("lbd: 3 in flight at web/app:80 still, after 0.03 s; it stays drained\n")


async def test_looks_are_not_too_many(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    daemon = Daemon((1,))
    monkeypatch.setattr(control, "ask", daemon.ask)
    assert await wait_until_quiet(ADDRESS, "", ABOUT, 10.0) == 1
    assert len(daemon.asked) <= 10 / control.LOOK + 1
    assert await wait_until_quiet(ADDRESS, "", {**ABOUT, "cluster": "gone"}, 0.0) == 0, "who has left has nothing in flight"


@pytest.mark.parametrize("status", [400, 404, 409, 422, 503])
def test_a_refusal_is_told_in_the_daemons_words(status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(status=status, content={"error": "because"})
    assert run(daemon, monkeypatch, "drain", "web/app:80") == 1
    assert capsys.readouterr() == ("", "lbd: because\n")


def test_other_answers() -> None:
    with pytest.raises(EnvironmentFault, match="without JSON"):
        outcome_of(Answer(503, b"busy"))
    with pytest.raises(EnvironmentFault, match="refuses: changes"):
        outcome_of(Answer(403, b'{"error": "changes"}'))


@pytest.mark.parametrize("place", ["web", "web/", "/10.0.0.1:80", ""])
def test_a_place_has_two_parts(place: str) -> None:
    with pytest.raises(EnvironmentFault, match=r"write CLUSTER/ENDPOINT, like web/10\.0\.0\.1:9000"):
        path_of(place, "drain")


def test_a_timeout_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["drain", "web/app:80", "--timeout", "soon"]) == 1
    assert capsys.readouterr().err.startswith('lbd: --timeout: "soon" is not a duration')
