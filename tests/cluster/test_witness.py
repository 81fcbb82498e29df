"""Witness: when a worker speaks up about an endpoint, and when it holds its tongue."""

from __future__ import annotations

import pytest

from lbd.cluster.outlier import OutlierPolicy
from lbd.cluster.witness import Witness


class Told(list[tuple[str, str, str]]):
    def __call__(self, address: str, kind: str, sentence: str) -> None:
        self.append((address, kind, sentence))

    def kinds(self) -> str:
        return " ".join(kind for _, kind, _ in self)


def witness(told: Told, failures: int = 3, errors: int = 0) -> Witness:
    found = Witness("e:1", told)
    found.obey(OutlierPolicy(failures=failures, errors=errors))
    return found


def play(subject: Witness, script: str) -> None:
    """`g` a gateway failure, `e` an error, `.` a success (which is told only to whom it matters), `_` a second has passed."""
    for step in script:
        if step == "g":
            subject.failed("gateway", "connect_refused")
        elif step == "e":
            subject.failed("error", "status 500")
        elif step == "_":
            subject.may_speak()
        elif subject.is_alert:
            subject.succeeded()


@pytest.mark.parametrize(
    ("failures", "errors", "script", "kinds"),
    [
        (3, 0, "gg", ""),
        (3, 0, "ggg", "gateway"),
        (3, 0, "gg.gg.gg", ""),  # a success begins a new run
        (3, 0, "ggegg", ""),  # an error too is an answer
        (3, 0, "gggggggg", "gateway"),  # said once
        (3, 0, "ggg_g", "gateway gateway"),  # and again while nothing is done about it
        (3, 0, "ggg_.gg", "gateway"),
        (3, 0, "eeeeee", ""),
        (0, 0, "gggggg", ""),
        (0, 4, "egeg", "error"),  # whatever is worse than an error counts with them
        (0, 4, "eee.e", ""),
        (3, 4, "eggg", "gateway"),
    ],
)
def test_runs(failures: int, errors: int, script: str, kinds: str) -> None:
    told = Told()
    play(witness(told, failures, errors), script)
    assert told.kinds() == kinds


def test_its_words() -> None:
    told = Told()
    play(witness(told, 2, 3), "gge_e")
    assert [sentence for _, _, sentence in told] == [
        "2 failures in a row, the last: connect_refused",
        "4 answers in a row with 5xx or worse, the last: status 500",
    ]


@pytest.mark.parametrize(
    ("script", "kinds"),
    [
        (".", "proved"),
        ("...", "proved proved proved"),
        ("g", "probe"),
        ("gg..", "probe"),  # the master is about to end it
        ("g_g", "probe probe"),  # it has decided not to
        ("ee.", "probe_error probe_error proved"),
    ],
)
def test_trials(script: str, kinds: str) -> None:
    told = Told()
    subject = witness(told)
    subject.begin_trial(0)
    assert subject.is_alert
    play(subject, script)
    assert told.kinds() == kinds
    subject.end_trial()
    assert not subject.is_alert
    play(subject, "gg.")
    assert told.kinds() == kinds


def test_what_began_before_the_trial_says_nothing_about_it() -> None:
    told = Told()
    subject = witness(told)
    subject.begin_trial(2)
    play(subject, "g.")
    assert told == []
    play(subject, ".g")
    assert told.kinds() == "proved probe"


def test_what_is_never_heard_of_again_does_not_hold_up_a_trial() -> None:
    told = Told()
    subject = witness(told)
    subject.begin_trial(1000)  # sessions, say
    play(subject, "." + "_" * 29 + ".")
    assert told == []
    play(subject, "_.")
    assert told.kinds() == "proved"


def test_nobody_listens() -> None:
    subject = Witness("e:1", None)
    subject.obey(OutlierPolicy(failures=1))
    play(subject, "ggg..")
    assert not subject.is_alert


def test_a_policy_that_is_off() -> None:
    told = Told()
    subject = witness(told, 1)
    subject.obey(OutlierPolicy(enabled=False, failures=1))
    play(subject, "ggg")
    assert told == []
