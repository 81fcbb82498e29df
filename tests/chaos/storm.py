"""The daemon, its origins, and what is done to them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import trio

from tests.chaos.attackers import attack
from tests.chaos.origin import ChaosOrigin
from tests.support.certificates import Authority
from tests.support.grpc_origin import GrpcOrigin
from tests.support.names import can_mount, mounts
from tests.support.patience import PATIENCE
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from tests.chaos.schedule import Event
    from tests.chaos.tally import Troubles

__all__ = ["GROWTH", "Site"]

NAME = "origins.chaos"
BALANCES = ("round-robin", "least-requests", "power-of-two", "random", "consistent-hash", "maglev", "peak-ewma")
GROWTH = 24 << 20  # bytes of memory: what allocators keep of the height of a storm of large bodies
LOOK = 0.1  # seconds between two looks at what comes of it
NOTICED = 1.0  # seconds in which everybody has noticed that a worker is dead
GRACE = 0.5  # seconds in which what a trouble has done may still be seen

TEXT = """\
[lbd]
workers = {workers}
drain_timeout = "5s"
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
reason_header = true
[[listener.web.route]]
path = "/lab.Echo/"
cluster = "grpc"
[[listener.web.route]]
path_exact = "/echo"
cluster = "ws"
[listener.secure]
bind = "127.0.0.1:{tls_port}"
cluster = "web"
reason_header = true
tls = {{ cert = "{cert}", key = "{key}" }}
[listener.raw]
bind = "127.0.0.1:{tcp_port}"
protocol = "tcp"
cluster = "tcp"
[cluster.web]
endpoints = [{web}]
balance = "{balance}"
hash_key = "uri"
health = {{ protocol = "tcp", interval = "200ms", timeout = "500ms", fall = 2, rise = 1 }}
resolve_interval = "300ms"
{more}
[cluster.grpc]
endpoints = [{grpc}]
protocol = "h2"
health = {{ protocol = "tcp", interval = "200ms", timeout = "500ms", fall = 2, rise = 1 }}
[cluster.ws]
endpoints = [{ws}]
health = {{ protocol = "tcp", interval = "200ms", timeout = "500ms", fall = 2, rise = 1 }}
[cluster.tcp]
endpoints = [{tcp}]
health = {{ protocol = "tcp", interval = "200ms", timeout = "500ms", fall = 2, rise = 1 }}
"""
# What lets every safe request through while two of five origins are unwell.
SAFE = """\
timeouts = { response = "10s", connect = "2s" }
retry = { attempts = 3, on = ["connect", "reset", "timeout", "refused-stream", "500-504"], per_try = "{per_try}", budget = 1.0 }
outlier = { ejection = "2s" }
"""


class Site:
    """Five origins and a daemon in front of them."""

    def __init__(self, directory: Path, origins: int, workers: int, troubles: Troubles, stack: ExitStack, per_try: str) -> None:
        self.directory, self.workers, self.troubles, self.per_try = directory, workers, troubles, per_try
        self.port, self.tls_port, self.tcp_port, self.admin, *ports = free_ports(4 + 4 * origins)
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.origins: list[ChaosOrigin] = []
        self.grpc: list[GrpcOrigin] = []
        self.locks = [trio.Lock() for _ in range(origins)]
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.whole_file = trio.Lock()  # a new master must not find the broken file
        for number in range(origins):
            http, ws, tcp, grpc = ports[4 * number : 4 * number + 4]
            origin = ChaosOrigin(directory, f"origin-{number}", (http, ws, tcp), self.ledger)
            self.origins.append(origin)
            stack.callback(origin.kill)
            self.grpc.append(GrpcOrigin(directory, f"origin-{number}", port=grpc, ledger=self.ledger))
            stack.callback(self.kill_calls, number)
        for origin in self.origins:
            origin.start()
        for call in self.grpc:
            call.wait_for_ports(call.port, timeout=30)
        authority = Authority(directory)
        self.cert, self.key = authority.issue("site", "localhost")
        self.has_names = can_mount()
        self.under: tuple[str, ...] = ()
        if self.has_names:
            self.say_names(known=True)
            self.under = ("unshare", "-m", "sh", "-c", f'{mounts(directory)} && exec "$@"', "sh")
        self.lbd = LbdDaemon(self.text(0), directory, under=self.under)
        self.lbd.growth = GROWTH
        stack.callback(self.lbd.stop)
        self.lbd.wait_ready(30)

    def kill_calls(self, number: int) -> None:
        self.grpc[number].kill()

    def say_names(self, *, known: bool) -> None:
        """The hosts file in place: the mount is of its inode."""
        (self.directory / "hosts").write_text("127.0.0.1 localhost\n" + (f"127.0.0.1 {NAME}\n" if known else ""))

    def text(self, variant: int) -> str:
        """Another configuration for each number, all of which serve the same."""
        host = NAME if self.has_names else "127.0.0.1"

        def addresses(ports: list[int]) -> str:
            return ", ".join(f'"{host}:{port}"' for port in ports)

        return TEXT.format(
            workers=self.workers, admin=self.admin, port=self.port, tls_port=self.tls_port, tcp_port=self.tcp_port,
            cert=self.cert, key=self.key, balance=BALANCES[variant % len(BALANCES)],
            web=addresses([origin.ports[0] for origin in self.origins]), ws=addresses([origin.ports[1] for origin in self.origins]),
            tcp=addresses([origin.ports[2] for origin in self.origins]), grpc=addresses([call.port for call in self.grpc]),
            more=SAFE.replace("{per_try}", self.per_try) + f"pool = {{ max_idle = {(0, 1, 8, 128)[variant % 4]} }}",
        )  # fmt: skip

    # What is done

    async def run(self, events: list[Event], begin: float) -> None:
        """Each at its time; those that last are taken back by a task of their own."""
        async with trio.open_nursery() as nursery:
            for event in events:
                await trio.sleep(max(0.0, begin + event.at - trio.current_time()))
                self.counts[event.kind if event.kind not in ("mood", "attack") else f"{event.kind}: {event.argument}"] += 1
                nursery.start_soon(self.happen, event)

    async def happen(self, event: Event) -> None:
        match event.kind:
            case "kill" | "stop" | "mood":
                async with self.locks[event.target]:  # on a slow machine the last trouble may not be over yet
                    await self.trouble(event)
            case "names":
                self.say_names(known=False)
                await trio.sleep(event.lasts)
                self.say_names(known=True)
            case "reload":
                self.lbd.rewrite(self.text(int(event.argument)))
                await self.send(signal.SIGHUP)
            case "broken reload":
                async with self.whole_file:
                    await self.reload_broken()
            case "worker":
                await self.kill_worker(event.target)
            case "upgrade":
                async with self.whole_file:
                    await self.upgrade()
            case "attack":
                await trio.to_thread.run_sync(attack, event.argument, self.port)

    async def reload_broken(self) -> None:
        def refused() -> float:
            return self.lbd.metric("lbd_reloads_total", result="failed")

        good, before = self.lbd.config.read_text(), await trio.to_thread.run_sync(refused)
        self.lbd.rewrite(good + "\nnonsense = 1\n")
        try:
            await self.send(signal.SIGHUP)
            await self.see(lambda: refused() > before, "a broken file was not refused")
        finally:
            self.lbd.rewrite(good)

    async def upgrade(self) -> None:
        old = await trio.to_thread.run_sync(self.lbd.master)
        await self.send(signal.SIGUSR2)
        await self.see(lambda: self.lbd.master() != old, "an upgrade did not come about")

    async def see(self, holds: Callable[[], bool], otherwise: str) -> None:
        def is_seen() -> bool:
            with contextlib.suppress(OSError, KeyError, ValueError):  # between two masters nobody may answer
                return holds()
            return False

        for _ in range(int(PATIENCE / LOOK)):
            if await trio.to_thread.run_sync(is_seen):
                return
            await trio.sleep(LOOK)
        self.wrong.append(otherwise)

    async def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError):  # between two masters nobody may answer
            os.kill(await trio.to_thread.run_sync(self.lbd.master), number)

    async def trouble(self, event: Event) -> None:
        origin = self.origins[event.target]
        trouble = self.troubles.begin(event.argument.split()[0] if event.argument else event.kind, time.monotonic())
        if event.kind == "kill":
            origin.kill()
            self.grpc[event.target].kill()
            await trio.sleep(event.lasts)
            await trio.to_thread.run_sync(self.revive, event.target)
        elif event.kind == "stop":
            pids = [origin.process.pid if origin.process else 0, self.grpc[event.target].pid]
            for pid in filter(None, pids):
                os.kill(pid, signal.SIGSTOP)
            await trio.sleep(event.lasts)
            for pid in filter(None, pids):
                os.kill(pid, signal.SIGCONT)
        else:
            origin.tell(event.argument)
            await trio.sleep(event.lasts)
            origin.tell("well")
        trouble.last = time.monotonic() + GRACE

    def revive(self, number: int) -> None:
        self.origins[number].start()
        old = self.grpc[number]
        self.grpc[number] = GrpcOrigin(self.directory, f"origin-{number}", port=old.port, ledger=self.ledger)
        self.grpc[number].wait_for_ports(old.port, timeout=30)

    async def kill_worker(self, slot: int) -> None:
        try:
            status = await trio.to_thread.run_sync(self.lbd.json, "/api/v1/status")
            pid = int(status["workers"][slot]["pid"])
        except (OSError, KeyError, ValueError):
            return
        if pid:
            trouble = self.troubles.begin("worker", time.monotonic())
            trouble.last = trouble.first + NOTICED
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
