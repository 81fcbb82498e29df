"""Chaos: everything goes wrong at once, and every answer is looked at.

    python -m tests.chaos --seconds 60 --seed 7      make chaos SECONDS=60 SEED=7

One lbd with two workers in front of five origins, over real sockets. From the seed comes a schedule (schedule.py): origins die, hang,
reset, are slow, answer 5xx and break off; names stop resolving; the configuration changes, well and badly; workers are killed; the
program is upgraded in place; attackers do what they do. Clients of every protocol (clients.py) check each answer's identity, bytes and
status.

What must hold, or the exit code is 1:

    nobody gets another's answer, and no half answer is taken for a whole one
    no POST is carried out twice, and one that was answered has been carried out; over HTTP/2 and as a gRPC call neither
    no safe request sees an error while three of five origins are well; what else fails, fails while an origin or a worker is in trouble
    every client is answered most of the time
    descriptors and memory come back to where they were, and lbd has no fault of its own to report

A seed that fails is run again by its number: the schedule is the same, what the kernel makes of it is not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import trio

from tests.chaos.clients import Clients
from tests.chaos.schedule import plan
from tests.chaos.storm import GROWTH, Site
from tests.chaos.tally import SHOWN, Troubles
from tests.support.chaos import Rest, at_rest
from tests.support.leaks import KEPT_PIPES

ORIGINS, WORKERS = 5, 2
WARM_UP = 3.0
MORE_FDS = 4


def rest(site: Site) -> Rest:
    """Of the master that is there now, and its workers."""
    status = site.lbd.json("/api/v1/status")
    return at_rest(site.lbd, 40, [int(worker["pid"]) for worker in status["workers"]], master=int(status["pid"]))


async def storm(site: Site, clients: Clients, troubles: Troubles, seed: int, seconds: float) -> None:
    """Trouble for so long, with everybody asking; the clients finish what they have begun."""
    without = frozenset() if site.has_names else frozenset({"names"})
    events = plan(seed, seconds, ORIGINS, WORKERS, without=without) if seconds > WARM_UP else []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clients.run)
        begin = trio.current_time()
        try:
            await site.run(events, begin)
            await trio.sleep(max(0.0, begin + seconds - trio.current_time()))
        finally:
            troubles.over = True


def judge(site: Site, clients: Clients, before: Rest, after: Rest) -> list[str]:
    """What is wrong, in sentences."""
    wrong = [sentence for tally in clients.tallies for sentence in tally.verdict()] + site.wrong
    ledger = Counter(site.ledger.read_text().split())
    wrong += [f"{identity} was carried out {times} times" for identity, times in ledger.items() if times > 1]
    answered = {identity for tally in clients.tallies for identity in tally.whole}
    wrong += [f"{identity} was answered, but not carried out" for identity in sorted(answered - set(ledger))[:SHOWN]]
    wrong += [f"{identity} reached an origin" for identity in ledger if "evil" in identity]
    if after.master_fds > before.master_fds + MORE_FDS or after.worker_fds > before.worker_fds + MORE_FDS + KEPT_PIPES:
        wrong.append(f"descriptors grew: {before} -> {after}")
    if after.master_rss > before.master_rss + GROWTH or after.worker_rss > before.worker_rss + GROWTH:
        wrong.append(f"memory grew: {before} -> {after}")
    metrics = site.lbd.metrics()
    wrong += [f"{name} is {value:g}" for name, value in metrics.items() if name.startswith("lbd_faults_total") and value]
    wrong += [f"the log has: {line}" for line in site.lbd.log().splitlines() if "Traceback" in line][:SHOWN]
    return wrong


def chaos(directory: Path, seconds: float, seed: int, *, verbose: bool = False, per_try: str = "700ms") -> list[str]:
    """What was wrong. `per_try`: a slow machine needs more, for a slow answer is none then."""
    with ExitStack() as stack:
        troubles = Troubles()
        site = Site(directory, ORIGINS, WORKERS, troubles, stack, per_try)
        calm = Troubles()
        trio.run(storm, site, Clients(site.port, site.tls_port, site.tcp_port, calm, seed, "warm-"), calm, seed, WARM_UP)
        before = rest(site)
        clients = Clients(site.port, site.tls_port, site.tcp_port, troubles, seed)
        if verbose:
            print(*plan(seed, seconds, ORIGINS, WORKERS), sep="\n")
        trio.run(storm, site, clients, troubles, seed, seconds)
        after = rest(site)
        print(f"{'':<22}{'asked':>9}{'ok':>9}{'failed':>8}{'excused':>9}{'wrong':>7}{'slowest':>11}")
        print(*(tally.line() for tally in sorted(clients.tallies, key=lambda tally: tally.name)), sep="\n")
        print(*(tally.reasons() for tally in clients.tallies if tally.why), sep="\n")
        print(", ".join(f"{kind} {times}" for kind, times in sorted(site.counts.items())))
        print(f"before: {before}\nafter:  {after}")
        wrong = judge(site, clients, before, after)
        site.lbd.stop()
        return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="everything goes wrong at once, and every answer is looked at"
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time; it is printed")
    parser.add_argument("--verbose", action="store_true", help="the schedule too")
    arguments = parser.parse_args()
    seed = arguments.seed or random.randrange(1, 1 << 20)
    print(f"seed {seed}, {arguments.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="lbd-chaos-") as name:
        wrong = chaos(Path(name), arguments.seconds, seed, verbose=arguments.verbose)
        for sentence in wrong:
            print(f"WRONG: {sentence}")
        if wrong:
            kept = Path(tempfile.gettempdir()) / f"lbd-chaos-{seed}.log"
            kept.write_text((Path(name) / "lbd.log").read_text(errors="replace"))
            print(f"run it again with --seed {seed}; the daemon's log is {kept}")
    print("everything held" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
