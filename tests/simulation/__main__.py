"""lbd's policies on virtual time: `make simulation`, and ARGS=--write draws docs/images.

Each story is told twice, with the defaults and without what it is about; what comes out is a line for each, and a picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation import scenarios

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.balancer import Second
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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(curves), 1, figsize=(9, 2.6 * len(curves)), sharex=True, squeeze=False)
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
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="lbd's policies on virtual time")
    parser.add_argument("--write", action="store_true", help="draw docs/images")
    arguments = parser.parse_args()
    stories: list[tuple[str, str, list[Curve], dict[str, Site]]] = [
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
    for file, title, curves, sites in stories:
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
