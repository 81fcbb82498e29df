"""lbd's policies on virtual time: `make simulation`, and ARGS=--write draws docs/images.

Each story is told twice, with the defaults and without what it is about; what comes out is a line for each, and a picture.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

from tests.simulation import fleet, scenarios

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.balancer import Second
    from tests.simulation.fleet import Fleet
    from tests.simulation.scenarios import Site

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"

Curve = tuple[str, "Callable[[Second], float]"]
ATTEMPTS: Curve = ("attempts for each request", lambda second: second.attempts / max(1, second.requests))
SERVED: Curve = ("answered, of what was asked", lambda second: second.ok / max(1, second.ok + second.failed))
SLOWEST: Curve = ("seconds, 99th percentile", lambda second: second.quantile(0.99))


def told(name: str, site: Site) -> None:
    """One line."""
    seconds = site.balancer.seconds
    asked = sum(second.requests for second in seconds)
    answered = sum(second.ok for second in seconds)
    attempts = sum(second.attempts for second in seconds)
    worst = max(second.quantile(0.99) for second in seconds)
    each = f"{answered / asked:>8.2%} answered {attempts / asked:>6.2f} attempts each"
    print(f"{name:<32}{asked:>9,} asked {each}, worst second's p99 {worst:.2f} s", flush=True)


def draw(file: str, title: str, curves: list[Curve], sites: dict[str, Site]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(curves), 1, figsize=(9, 2.6 * len(curves)), sharex=True, squeeze=False)
    for (label, value), axis in zip(curves, axes[:, 0], strict=True):
        for (name, site), colour in zip(sites.items(), ("#c0392b", "#1f6fb2"), strict=False):
            axis.plot([value(second) for second in site.balancer.seconds], label=name, color=colour, linewidth=1.4)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    axes[0, 0].set_title(title)
    axes[0, 0].legend()
    axes[-1, 0].set_xlabel("seconds of virtual time")
    figure.tight_layout()
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / file, dpi=90, metadata={"Software": None})
    plt.close(figure)


def told_of_fleet(name: str, story: Fleet, seconds: float) -> None:
    """What it was about, in numbers."""
    told(f"    {name}", story.site)
    balancer = story.site.balancer
    requests = sum(second.requests for second in balancer.seconds)
    print(f"        {seconds:.0f} s of CPU time for {fleet.END / 3600:g} hours: {seconds / requests * 1e6:.0f} us a request")
    for event, (first, last) in fleet.EVENTS.items():
        worst = min(story.answered(minute, minute + 60) for minute in range(int(first), int(last), 60))
        retries = story.attempts(first, last) - 1
        print(f"        {event:<40}{story.answered(first, last):>8.2%} answered, {worst:.2%} in the worst minute, {retries:.1%} retries")
    print(f"        {'the last five minutes':<40}{story.answered(fleet.END - 300, fleet.END):>8.2%} answered")
    outlier = balancer.policy.outlier
    if not outlier.enabled:
        return
    for kind, numbers in (("that fail nine of ten", story.bad), ("that fail a third", story.limping)):
        times = story.times(numbers, fleet.BAD, fleet.DEPLOY)
        print(f"        {len(times)} {kind} were ejected {min(times)} to {max(times)} times each before the deployment", end=", ")
        print(f"of {fleet.most_ejections(fleet.DEPLOY - fleet.BAD)} that there can be")
    print(f"        {len(story.unjust())} ejections of any with which nothing was wrong", end=", ")
    print(f"{balancer.most_out:,} out at the most, of {int(outlier.max_ejected * len(story.servers)):,} that may be")


def draw_fleet(file: str, title: str, stories: dict[str, Fleet]) -> None:
    """The same three things of each, every ten seconds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(9, 8.4), sharex=True)
    moments = range(0, int(fleet.END), 10)
    minutes = [moment / 60 for moment in moments]
    for (name, story), colour in zip(stories.items(), ("#c0392b", "#1f6fb2"), strict=False):
        axes[0].plot(minutes, [story.answered(moment, moment + 10) for moment in moments], label=name, color=colour, linewidth=1.4)
        axes[1].plot(minutes, [story.attempts(moment, moment + 10) for moment in moments], color=colour, linewidth=1.4)
    seconds = [story.site.balancer.seconds[moment] for moment in moments]
    axes[2].plot(minutes, [second.ejected for second in seconds], label="ejected", color="#1f6fb2", linewidth=1.4)
    axes[2].plot(minutes, [second.down for second in seconds], label="down, as checks say", color="#7f8c8d", linewidth=1.4)
    for axis, label in zip(axes, ("answered, of what was asked", "attempts for each request", "endpoints out"), strict=True):
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
        for first, last in fleet.EVENTS.values():
            axis.axvspan(first / 60, last / 60, color="#f39c12", alpha=0.13, linewidth=0)
    for event, (first, last) in fleet.EVENTS.items():
        axes[0].text(first / 60 + 0.7, 0.04, event, va="bottom", fontsize=8, rotation=90 if last - first < 1000 else 0)
    axes[0].set_title(title)
    axes[0].legend(loc="center")
    axes[2].legend(loc="upper left")
    axes[2].set_xlabel("minutes of virtual time")
    figure.tight_layout()
    figure.savefig(IMAGES / file, dpi=90, metadata={"Software": None})
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="lbd's policies on virtual time")
    parser.add_argument("--write", action="store_true", help="draw docs/images")
    parser.add_argument("--endpoints", type=int, default=3000, help="of the fleet")
    arguments = parser.parse_args()
    logging.getLogger("lbd").setLevel(logging.CRITICAL)  # what the master would tell, thousands of times
    gc.disable()  # nothing that goes is a cycle
    pairs: list[tuple[str, str, list[Curve], dict[str, Site]]] = [
        (
            "retry-storm.png", "20 s of slowness at three quarters of the capacity, 8 servers", [ATTEMPTS, SERVED],
            {"without a budget": scenarios.retry_storm(budgeted=False), "with lbd's budget": scenarios.retry_storm(budgeted=True)},
        ),
        (
            "panic.png", "Health checks that are wrong about seven of ten servers, for a minute", [SERVED, SLOWEST],
            {"believed (panic = 0)": scenarios.panic(threshold=0.0), "lbd's panic threshold": scenarios.panic(threshold=0.5)},
        ),
        (
            "slow-start.png", "One of five servers comes back with cold caches", [SERVED, SLOWEST],
            {"at once (slow_start = 0s)": scenarios.slow_start(ramp=0.0), "slow_start = 30s": scenarios.slow_start(ramp=30.0)},
        ),
    ]  # fmt: skip
    for file, title, curves, sites in pairs:
        print(title)
        for name, site in sites.items():
            told(f"    {name}", site)
        if arguments.write:
            draw(file, title, curves, sites)
    site = scenarios.flapping()
    bad, good = scenarios.ejections_of(site)
    print("One server in twenty fails three quarters of its requests, 100 servers, one hour")
    told("    lbd's ejections", site)
    print(f"    {len(bad)} bad servers were taken out {min(bad)} to {max(bad)} times each, {len(good)} of the others at all")
    title = f"{arguments.endpoints:,} servers, two hours"
    print(title)
    stories: dict[str, Fleet] = {}
    for name, policy in (("without any of it", fleet.WITHOUT), ("with lbd's policies", fleet.POLICY)):
        began = process_time()
        stories[name] = fleet.Fleet(arguments.endpoints, policy, budgeted=policy is fleet.POLICY).run()
        told_of_fleet(name, stories[name], process_time() - began)
    if arguments.write:
        draw_fleet("fleet.png", title, stories)
    return 0


if __name__ == "__main__":
    sys.exit(main())
