"""Runtime control at work: commands are obeyed, overlays are kept over restarts, and end when their time is up.

A command is decided (commands.py), done at once, told to the workers and the log, and only then written to the state directory; its
answer waits for the disk, but not for long: whoever takes a sick machine out of traffic must not be held up by another sick one.
One task writes, so that a disk that hangs hangs nobody else, and a write that failed is tried again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from lbd import metrics
from lbd.admin.command import Fault
from lbd.core.clock import wall_clock
from lbd.master.commands import Member, clock_text, decide
from lbd.master.overlay import DRAIN, WEIGHT, Named, Overlay, Overlays, dump_overlays, parse_overlays
from lbd.master.state_directory import RETRY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lbd.admin.command import Command
    from lbd.admin.view import OwnMetric
    from lbd.discovery.resolve import ResolvedEndpoint
    from lbd.master.state_directory import StateDirectory

__all__ = ["Control", "named"]

FILE = "overlays.json"
PATIENCE = 2.0  # seconds that an answer waits for the disk
LOOK = 5.0  # seconds between two looks at the clock at most: it may have been set

FORGOTTEN = "a restart will forget this: there is no [lbd] state_directory"
UNSAVED = "a restart may forget this: it is not on the disk yet; the log says why"

Members = dict[str, list[Member]]

log = logging.getLogger("lbd.master")


def named(endpoint: ResolvedEndpoint) -> Named:
    return Named(endpoint.name or endpoint.address, endpoint.address, endpoint.weight)


class Control:
    """`tell(cluster)` has the workers hear of what holds for a cluster now."""

    def __init__(self, directory: StateDirectory, tell: Callable[[str], None], clock: Callable[[], float] = wall_clock) -> None:
        self._directory = directory
        self._tell = tell
        self.overlays = Overlays(clock, self._read())
        self._version = 0  # one more with each change
        self._written = self._tried = 0  # the version on the disk; the last one that was to be
        self._is_retired = False
        self._changed = trio.Event()  # replaced each time
        self._settled = trio.Event()  # a write has ended, well or not; replaced each time
        for overlay in self.overlays:
            log.info("still in force: %s", describe(overlay))

    def __repr__(self) -> str:
        return f"<Control {self.overlays!r}>"

    def _read(self) -> list[Overlay]:
        content = self._directory.read(FILE)
        if content is None:
            return []
        try:
            return parse_overlays(content)
        except ValueError as error:
            self._directory.set_aside(FILE, str(error))
            return []

    # Commands

    async def obey(self, command: Command, members: Mapping[str, Sequence[Member]]) -> dict[str, Any]:
        """What the answer says; Fault: nothing has changed."""
        try:
            decision = decide(command, members, self.overlays)
            if decision.put is not None:
                self.overlays.put(decision.put)
        except ValueError as error:
            raise Fault(409, str(error)) from None
        except Fault as fault:
            log.info("refused: %s of %s (by %s): %s", command.verb, command.place, command.who, fault)
            raise
        self.overlays.drop(decision.drop)
        has_changed = decision.put is not None or bool(decision.drop)
        by = f"{command.who}: {command.reason}" if command.reason else command.who
        log.info("%s (by %s)", decision.sentence, by)
        warnings: list[str] = []
        if has_changed:
            self._tell(command.cluster)
            self._change()
            if self._directory.path is None:
                warnings.append(FORGOTTEN)
            elif not await self._is_kept():
                warnings.append(UNSAVED)
        return {
            "message": decision.sentence,
            "changed": has_changed,
            "cluster": command.cluster,
            "endpoint": command.endpoint,
            "addresses": list(decision.addresses),
            "overlay": self._describe(decision.put, is_dormant=False) if decision.put is not None else None,
            "warnings": warnings,
        }

    def retire(self) -> None:
        """A successor has the state directory now."""
        self._is_retired = True

    def _change(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = trio.Event()

    async def _is_kept(self) -> bool:
        """Waits until the state of now is on the disk, but not for long."""
        wanted = self._version
        with trio.move_on_after(PATIENCE):
            while self._tried < wanted:
                await self._settled.wait()
        return self._written >= wanted

    def heritage(self) -> str:
        """For inherit() of another process, which need not have a state directory."""
        return dump_overlays(self.overlays).decode()

    def inherit(self, text: str) -> None:
        """In the place of what was read. ValueError: it is something else, and what was read holds."""
        self.overlays = Overlays(self.overlays.clock, parse_overlays(text.encode()))
        self._change()

    # What goes on by itself

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_in_time)
            nursery.start_soon(self._keep)

    async def _end_in_time(self) -> None:
        while True:
            changed = self._changed
            if over := self.overlays.expire():
                for overlay in over:
                    log.info("its time is up: %s", describe(overlay))
                for cluster in dict.fromkeys(overlay.cluster for overlay in over):
                    self._tell(cluster)
                self._change()
                continue
            with trio.move_on_after(min(LOOK, self.overlays.next_end())):
                await changed.wait()

    async def _keep(self) -> None:
        if self._directory.path is None:
            return
        while True:
            changed = self._changed
            if self._written == self._version:
                await changed.wait()
            if self._is_retired:
                return
            version, content = self._version, dump_overlays(self.overlays)
            # Left behind when we are to end meanwhile: the disk may never answer. What it writes then is whole all the same.
            is_written = await trio.to_thread.run_sync(self._directory.write, FILE, content, abandon_on_cancel=True)
            self._tried = version
            if is_written:
                self._written = version
            self._settled.set()
            self._settled = trio.Event()
            if not is_written:
                with trio.move_on_after(RETRY):
                    await changed.wait()

    # What is known

    def standings(self, cluster: str) -> Callable[[ResolvedEndpoint], tuple[bool, int]]:
        """(is it drained, its weight), for EndpointBook."""
        return lambda endpoint: self.overlays.standing(cluster, named(endpoint))

    def dormant(self, members: Mapping[str, Iterable[Named]]) -> list[Overlay]:
        """Those whose endpoint the configuration does not have, or whose name has not resolved yet."""
        words = {(cluster, word) for cluster, all_named in members.items() for each in all_named for word in (each.name, each.address)}
        return [overlay for overlay in self.overlays if (overlay.cluster, overlay.endpoint) not in words]

    def look_at(self, members: Mapping[str, Iterable[Named]]) -> None:
        """A configuration is in force: which overlays have no endpoint there?"""
        for overlay in self.dormant(members):
            log.warning("%s: no such endpoint is there now; it waits for it, or for being taken back", describe(overlay))

    def snapshot(self, members: Mapping[str, Iterable[Named]]) -> dict[str, Any]:
        """For the admin API."""
        dormant = {overlay.key for overlay in self.dormant(members)}
        return {
            "state_directory": str(self._directory.path) if self._directory.path else None,
            "overlays": [self._describe(overlay, is_dormant=overlay.key in dormant) for overlay in self.overlays],
        }

    def why_drained(self, cluster: str, endpoint: Named) -> str:
        """By whom, since when, until when and why; "" when it is not."""
        overlay = self.overlays.held(cluster, endpoint, DRAIN)
        if overlay is None:
            return ""
        until = f" until {clock_text(overlay.until)}" if overlay.until else ""
        reason = f": {overlay.reason}" if overlay.reason else ""
        return f"drained by {overlay.who or 'somebody'} since {clock_text(overlay.since)}{until}{reason}"

    def of(self, cluster: str, endpoint: Named) -> list[dict[str, Any]]:
        """Those that hold for one endpoint, for the admin API."""
        held = [self.overlays.held(cluster, endpoint, kind) for kind in (DRAIN, WEIGHT)]
        return [self._describe(overlay, is_dormant=False) for overlay in held if overlay is not None]

    def _describe(self, overlay: Overlay, *, is_dormant: bool) -> dict[str, Any]:
        left = overlay.until - self.overlays.clock()
        return {
            "cluster": overlay.cluster,
            "endpoint": overlay.endpoint,
            "kind": overlay.kind,
            **({} if overlay.kind == DRAIN else {"weight": overlay.weight}),
            "since": clock_text(overlay.since),
            "until": clock_text(overlay.until) if overlay.until else None,
            "remaining_seconds": round(max(0.0, left), 3) if overlay.until else None,
            "who": overlay.who,
            "reason": overlay.reason,
            "dormant": is_dormant,
        }

    def lines(self) -> list[str]:
        """For people who read the configuration in force."""
        return [f"at run time: {describe(overlay)}" for overlay in self.overlays]

    def metrics(self, members: Mapping[str, Iterable[Named]]) -> Iterator[OwnMetric]:
        yield metrics.OVERLAYS.name, {}, float(len(self.overlays))
        for cluster, all_named in members.items():
            for each in all_named:
                is_drained = self.overlays.held(cluster, each, DRAIN) is not None
                yield metrics.ENDPOINT_DRAINED.name, {"cluster": cluster, "endpoint": each.address}, float(is_drained)


def describe(overlay: Overlay) -> str:
    """For the log."""
    what = "drain" if overlay.kind == DRAIN else f"weight {overlay.weight}"
    until = f" until {clock_text(overlay.until)}" if overlay.until else ""
    reason = f": {overlay.reason}" if overlay.reason else ""
    return f"{what} of {overlay.place}{until} (by {overlay.who}{reason})"
