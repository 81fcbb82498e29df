"""What the admin API says of a cluster as a whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbd.cluster.breaker import BreakerPolicy
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.master.cluster_facts import why_of
from lbd.worker.messages import EndpointState

WEB = ClusterPolicy("web", tuple(EndpointPolicy(f"10.0.0.{number}:80") for number in range(3)), panic=0.5, breaker=BreakerPolicy())
CLOSED, OPEN, TRYING = (
    {"closed": 2, "open": 0, "half_open": 0},
    {"closed": 0, "open": 1, "half_open": 1},
    {"closed": 1, "open": 0, "half_open": 1},
)


def states(text: str) -> list[EndpointState]:
    """U up, d down, x drained."""
    return [EndpointState(f"10.0.0.{place}:80", 1, place, up=letter != "d", drained=letter == "x") for place, letter in enumerate(text)]


@pytest.mark.parametrize(
    ("endpoints", "breaker", "panic", "sentence"),
    [
        ("UUU", CLOSED, 0.5, ""),
        ("Udx", None, 0.0, ""),
        ("", CLOSED, 0.5, "none of its names has resolved to an address, so requests are answered with no_healthy_endpoint"),
        ("ddx", CLOSED, 0.0, "no endpoint is up, so requests are answered with no_healthy_endpoint"),
        ("xxx", CLOSED, 0.5, "no endpoint is up, so requests are answered with no_healthy_endpoint"),
        ("Udd", CLOSED, 0.5, "1 of 3 endpoints up, a smaller share than panic = 0.5, so all are tried whatever their checks say"),
        (
            "UUU", OPEN, 0.5,
            "the breaker is open in 1 of 2 workers, so requests are refused (circuit_open) for 5 s: "
            "50 % or more of the attempts of 10 s failed",
        ),
        ("UUU", TRYING, 0.5, "the breaker is half-open in 1 of 2 workers, so only 3 requests at once pass until 3 have succeeded"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_cluster_is_one_sentence(endpoints: str, breaker: dict[str, int] | None, panic: float, sentence: str) -> None:
    assert why_of(replace(WEB, panic=panic), states(endpoints), breaker) == sentence
