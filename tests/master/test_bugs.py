"""The master's own bugs."""

from __future__ import annotations

import logging

from lbd.master.bugs import Bugs


def test_what_the_log_has_a_trace_of_is_counted_by_who_speaks() -> None:
    bugs = Bugs()
    for name, error in (("lbd.master", KeyError()), ("lbd.health", KeyError()), ("lbd.health", OSError()), ("lbd.admin", None)):
        record = logging.LogRecord(name, logging.ERROR, "", 0, "a bug", None, (type(error), error, None) if error else None)
        bugs.handle(record)
    assert list(bugs.metrics()) == [
        ("lbd_faults_total", {"where": "master"}, 1.0),
        ("lbd_faults_total", {"where": "health"}, 2.0),
    ]
