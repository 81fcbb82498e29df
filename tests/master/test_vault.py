"""The watch over certificates: what is swapped while lbd runs, what stays, and what is said of it."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.config.schema import Config, load_config
from lbd.core.clock import wall_clock
from lbd.errors import EnvironmentFault
from lbd.master import certificates, vault
from lbd.master.vault import CLUSTERS, LISTENERS, Vault
from tests.support.certificates import Authority
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lbd.config.positions import KeyPath
    from lbd.master.vault import Source
    from lbd.proxy.tls_material import TlsMaterial

TEXT = """\
[listener.web]
bind = "127.0.0.1:8443"
cluster = "web"
tls = [{pairs}]
[cluster.web]
endpoints = ["127.0.0.1:9000"]
"""
DAY = 86_400.0


def pair(name: str) -> str:
    return f'{{ cert = "{name}.pem", key = "{name}.key" }}'


class Watch:
    """A vault over a.pem and b.pem, with a clock of its own, and what it has said."""

    def __init__(self, directory: Path, source: Source = LISTENERS) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.authority.issue("a", "a.example")
        self.authority.issue("b", "b.example")
        self.changes: list[TlsMaterial] = []
        self.now = wall_clock()
        self.vault = Vault(lambda _name, material: self.changes.append(material), lambda: self.now, source)
        self.config = self.load(pair("a"), pair("b"))

    def load(self, *pairs: str) -> Config:
        file = self.directory / "lb.toml"
        file.write_text(TEXT.format(pairs=", ".join(pairs)))
        return load_config(file, {})

    async def reload(self, config: Config | None = None) -> list[str]:
        """Its warnings, without the directory."""
        config = config or self.config
        readings = await self.vault.first(config)
        self.vault.update(config, readings)
        found = [line for reading in readings.values() for fault in reading.warnings() for line in config.describe(fault)]
        return [line.replace(f"{self.directory}/", "") for line in found]

    def in_force(self, name: str) -> bool:
        """Whether what is in the file is what is used."""
        chain = (self.directory / f"{name}.pem").read_bytes()
        return chain in [pair.chain for pair in self.vault.material("web").pairs]

    def results(self) -> dict[str, float]:
        return {labels["result"]: value for _, labels, value in self.vault.metrics() if "result" in labels}


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Threads read the files, so that trio's clock is the real one, and the pauses short."""
    monkeypatch.setattr(vault, "INTERVAL", 0.01)
    monkeypatch.setattr(vault, "PATIENCE", 0.05)
    return Watch(tmp_path)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - a thread's work
            await trio.sleep(0.005)


async def test_a_new_pair_is_taken(watch: Watch) -> None:
    async with trio.open_nursery() as nursery:
        assert await watch.reload() == []
        nursery.start_soon(watch.vault.run)
        cert, _ = watch.authority.issue("a", "a.example")
        await until(lambda: watch.changes)
        nursery.cancel_scope.cancel()
    assert watch.changes[-1].pairs[0].chain == cert.read_bytes()
    assert watch.results() == {"ok": 1, "failed": 0}


async def test_a_pair_that_does_not_fit_changes_nothing_until_it_does(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    key = watch.directory / "a.key"
    async with trio.open_nursery() as nursery:
        await watch.reload()
        nursery.start_soon(watch.vault.run)
        old = key.read_bytes()
        watch.authority.issue("a", "a.example")
        fresh = key.read_bytes()
        key.write_bytes(old)
        await until(lambda: watch.results()["failed"])
        assert not watch.changes
        assert "listener web keeps the one in use: the key in" in caplog.text
        key.write_bytes(fresh)
        await until(lambda: watch.changes)
        nursery.cancel_scope.cancel()
    assert watch.results() == {"ok": 1, "failed": 1}


async def test_a_pair_that_is_wrong_keeps_no_other_from_being_renewed(watch: Watch) -> None:
    async with trio.open_nursery() as nursery:
        await watch.reload()
        nursery.start_soon(watch.vault.run)
        (watch.directory / "b.key").write_text("no key")
        await until(lambda: watch.results()["failed"])
        watch.authority.issue("a", "a.example")
        await until(lambda: watch.in_force("a"))
        nursery.cancel_scope.cancel()
    assert watch.in_force("b")  # the key that goes with it is in memory only
    assert watch.changes[-1].pairs[1].key != b"no key"


async def test_both_at_once_one_of_them_wrong(watch: Watch) -> None:
    """The good one is used however the other looks."""
    before = (watch.directory / "b.pem").read_bytes()
    async with trio.open_nursery() as nursery:
        await watch.reload()
        watch.authority.issue("a", "a.example")
        watch.authority.issue("b", "b.example", days=-1.0)
        nursery.start_soon(watch.vault.run)
        await until(lambda: watch.changes)
        nursery.cancel_scope.cancel()
    assert watch.in_force("a")
    assert watch.changes[-1].pairs[1].chain == before
    assert watch.results() == {"ok": 1, "failed": 1}


async def test_one_that_has_expired_meanwhile_keeps_no_other_from_being_renewed(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watch.authority.issue("b", "b.example", days=1.0)
    async with trio.open_nursery() as nursery:
        await watch.reload()
        nursery.start_soon(watch.vault.run)
        watch.now += 2 * DAY
        watch.authority.issue("a", "a.example")
        await until(lambda: watch.in_force("a"))
        nursery.cancel_scope.cancel()
    assert watch.in_force("b")
    assert watch.results() == {"ok": 1, "failed": 0}
    assert "keeps the one in use" not in caplog.text


async def test_a_reload_takes_one_that_has_expired_meanwhile_and_warns(watch: Watch) -> None:
    watch.authority.issue("b", "b.example", days=1.0)
    assert await watch.reload() == []
    watch.now += 2 * DAY
    (warning,) = await watch.reload()
    assert re.fullmatch(r"lb\.toml:4: listener\.web\.tls\.certificates\[2\]\.cert: the certificate in b\.pem has expired on .*", warning)
    assert warning.endswith("renew it")


async def test_a_reload_does_not_exchange_a_good_one_for_one_that_has_expired(watch: Watch) -> None:
    await watch.reload()
    watch.authority.issue("b", "b.example", days=-1.0)
    (warning,) = await watch.reload()
    assert warning.endswith("renew it; the one in use stays")
    assert not watch.in_force("b")


async def test_a_reload_is_refused_for_what_cannot_be_used_at_all(watch: Watch) -> None:
    await watch.reload()
    (watch.directory / "a.key").write_bytes((watch.directory / "b.key").read_bytes())
    with pytest.raises(EnvironmentFault, match="is not that of the certificate"):
        await watch.vault.first(watch.config)


async def test_of_two_that_have_expired_the_new_one_is_taken(watch: Watch) -> None:
    """Its chain may have an old certificate that clients do not look at."""
    watch.authority.issue("b", "b.example", days=1.0)
    async with trio.open_nursery() as nursery:
        await watch.reload()
        watch.now += 2 * DAY
        watch.authority.issue("b", "b.example", days=1.5)
        nursery.start_soon(watch.vault.run)
        await until(lambda: watch.in_force("b"))
        nursery.cancel_scope.cancel()


async def test_one_that_has_expired_stays_until_the_new_one_has_begun(watch: Watch) -> None:
    watch.authority.issue("b", "b.example", days=1.0)
    await watch.reload()
    watch.now += 2 * DAY
    watch.authority.issue("b", "b.example", begins=3.0)
    (warning,) = await watch.reload()
    assert "is not valid before" in warning
    assert not watch.in_force("b")
    watch.now += 2 * DAY
    assert await watch.reload() == []
    assert watch.in_force("b")


async def test_what_is_renewed_during_a_reload_is_seen_after_it(watch: Watch) -> None:
    """Between reading the files and putting the configuration in force names are resolved, and workers are told."""
    readings = await watch.vault.first(watch.config)
    watch.authority.issue("a", "a.example")
    async with trio.open_nursery() as nursery:
        watch.vault.update(watch.config, readings)
        assert not watch.in_force("a")
        nursery.start_soon(watch.vault.run)
        await until(lambda: watch.in_force("a"))
        nursery.cancel_scope.cancel()
    assert len(watch.changes) == 1


async def test_what_the_watch_has_told_during_a_reload_is_told_again_as_the_new_configuration_has_it(watch: Watch) -> None:
    """A worker may have heard of the renewed pair of the old configuration after it had applied the new one."""
    watch.authority.issue("c", "c.example")
    async with trio.open_nursery() as nursery:
        await watch.reload()
        nursery.start_soon(watch.vault.run)
        other = watch.load(pair("c"))
        readings = await watch.vault.first(other)
        watch.authority.issue("a", "a.example")
        await until(lambda: watch.changes)
        watch.vault.update(other, readings)
        nursery.cancel_scope.cancel()
    assert watch.changes[-1] == readings["web"].material
    assert [pair.names for pair in watch.changes[-1].pairs] == [("c.example",)]


async def test_one_whose_time_has_not_come_is_taken_when_it_has(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vault, "RETRY", 0.02)
    async with trio.open_nursery() as nursery:
        await watch.reload()
        nursery.start_soon(watch.vault.run)
        watch.authority.issue("a", "a.example", begins=0.5)
        await until(lambda: watch.results()["failed"])
        await trio.sleep(0.2)  # some retries
        assert not watch.changes
        watch.now += DAY
        await until(lambda: watch.in_force("a"))
        nursery.cancel_scope.cancel()
    assert caplog.text.count("is not valid before") == 1
    assert watch.results() == {"ok": 1, "failed": 1}


async def test_files_that_could_not_be_read_for_a_while_are_read_again(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing about the files changes when descriptors are there again."""
    monkeypatch.setattr(vault, "RETRY", 0.02)
    is_short = True
    read = certificates.read_file

    def maybe_read(file: Path, path: KeyPath) -> bytes:
        if is_short:
            raise EnvironmentFault(f"{file} cannot be read: too many open files", path)
        return read(file, path)

    async with trio.open_nursery() as nursery:
        await watch.reload()
        monkeypatch.setattr(certificates, "read_file", maybe_read)
        nursery.start_soon(watch.vault.run)
        watch.authority.issue("a", "a.example")
        await until(lambda: watch.results()["failed"])
        assert "a.pem cannot be read: too many open files" in caplog.text
        assert not watch.changes
        is_short = False
        await until(lambda: watch.in_force("a"))
        nursery.cancel_scope.cancel()


async def test_two_for_one_name_leave_what_was_there(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as nursery:
        await watch.reload()
        watch.authority.issue("a", "a.example", "b.example")
        nursery.start_soon(watch.vault.run)
        await until(lambda: watch.results()["failed"])
        watch.authority.issue("b", "other.example")  # and now it is for one only
        await until(lambda: watch.in_force("a"))
        nursery.cancel_scope.cancel()
    assert "keeps the one in use: two certificates are for b.example, number 1 and number 2; keep one" in caplog.text
    assert watch.in_force("b")


async def test_authorities_that_are_wrong_leave_those_that_were_there(tmp_path: Path, watch: Watch) -> None:
    ca = tmp_path / "clients.pem"
    ca.write_bytes((tmp_path / "ca.pem").read_bytes())
    file = tmp_path / "lb.toml"
    file.write_text(TEXT.format(pairs="").replace("[]", '{ cert = "a.pem", key = "a.key", client_ca = "clients.pem" }'))
    async with trio.open_nursery() as nursery:
        await watch.reload(load_config(file, {}))
        ca.write_text("nobody")
        watch.authority.issue("a", "a.example")
        nursery.start_soon(watch.vault.run)
        await until(lambda: watch.in_force("a"))
        nursery.cancel_scope.cancel()
    assert watch.changes[-1].authorities == (tmp_path / "ca.pem").read_text()


async def test_a_cluster_keeps_its_pair_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "INTERVAL", 0.01)
    monkeypatch.setattr(vault, "PATIENCE", 0.05)
    watch = Watch(tmp_path, CLUSTERS)
    file = tmp_path / "lb.toml"
    text = TEXT.replace("tls = [{pairs}]\n", "") + 'tls = { ca = "ca.pem", client_cert = "a.pem", client_key = "a.key" }\n'
    file.write_text(text)
    async with trio.open_nursery() as nursery:
        await watch.reload(load_config(file, {}))
        nursery.start_soon(watch.vault.run)
        (tmp_path / "a.key").write_text("no key")
        authority = Authority(tmp_path)  # writes another ca.pem
        await until(lambda: watch.changes)
        nursery.cancel_scope.cancel()
    assert watch.changes[-1].authorities == authority.file.read_text()
    assert watch.in_force("a")


async def test_each_step_towards_the_end_is_said_once_and_the_end_itself(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watch.authority.issue("a", "a.example", days=22.0)
    start = watch.now
    said = []

    def lines() -> list[str]:
        found = [record for record in caplog.records if "the certificate of listener web for a.example" in record.getMessage()]
        return [f"{record.levelname} {re.sub('20[0-9: -]+UTC', 'D', record.getMessage().split('for a.example ')[1])}" for record in found]

    def has_said_more(than: int) -> bool:
        return len(lines()) > than

    async with trio.open_nursery() as nursery:
        await watch.reload()
        nursery.start_soon(watch.vault.run)
        for days in range(25):
            watch.now = start + days * DAY + 60.0
            count = len(lines())
            await until(partial(has_said_more, count)) if days in (1, 15, 21, 22) else await trio.sleep(0.03)  # some looks
            said += [(days, line) for line in lines()[count:]]
        nursery.cancel_scope.cancel()
    assert said == [
        (1, "WARNING expires on D, in 504 hours"),
        (15, "WARNING expires on D, in 168 hours"),
        (21, "WARNING expires on D, in 24 hours"),
        (22, "ERROR has expired on D: clients refuse it"),
    ]


async def test_when_it_ends_is_a_metric(watch: Watch) -> None:
    await watch.reload()
    (end,) = [value for name, labels, value in watch.vault.metrics() if labels.get("name") == "a.example"]
    assert abs(end - (wall_clock() + 30 * DAY)) < 60
