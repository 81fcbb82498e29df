"""Which clock is asked: one that people can set must decide nothing that takes time."""

from __future__ import annotations

import re
import time
from pathlib import Path

from lbd.core.clock import steady_clock, wall_clock

LBD = Path(__file__).resolve().parent.parent.parent / "lbd"

# Who reads the wall's clock, and what for. Whatever counts seconds (timeouts, drains, back-offs, ejections, probes) is not among them: a
# step of that clock, by hand or by NTP, would end or prolong all of it at once.
READERS = {
    "cli/main.py": "`lbd check`: certificates that have expired",
    "core/clock.py": "here it is",
    "master/control.py": "overlays end at a time that people have written, also after a restart",
    "master/master.py": "the time of day in a sentence about an ejection",
    "master/vault.py": "certificates that have expired",
    "proxy/listening.py": "the Date of answers",
    "worker/worker.py": "the time in the access log",
    "cli/cert.py": "the dates of a certificate",
    "master/notify.py": "systemd wants the monotonic clock in words of its own",
    "worker/log.py": "the time of a line that the stdlib has stamped",
}
ASKS = re.compile(r"import wall_clock|\btime\.time\b|datetime\.(now|utcnow)\(|clock_gettime|time\.localtime|time\.gmtime\(\)")


def test_the_wall_clock_has_no_other_readers() -> None:
    found = {str(path.relative_to(LBD)) for path in LBD.rglob("*.py") if ASKS.search(path.read_text())}
    assert found <= READERS.keys(), "say here what for, or take reactor.now or trio.current_time()"


def test_the_steady_clock_cannot_be_set() -> None:
    info = time.get_clock_info("monotonic")
    assert steady_clock is time.monotonic
    assert info.monotonic
    assert not info.adjustable


def test_the_wall_clock_is_the_one_on_the_wall() -> None:
    assert wall_clock() > 1.7e9
