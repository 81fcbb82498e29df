"""What is suggested exists, and is what was meant."""

from __future__ import annotations

import pytest

from lbd.cluster.cluster import BALANCES, ClusterPolicy
from lbd.cluster.health import HealthPolicy
from lbd.cluster.pool import PoolPolicy
from lbd.config.daemon import AdminPolicy, DaemonPolicy
from lbd.config.fields import fields_of
from lbd.config.schema import SECTIONS
from lbd.config.suggest import FOREIGN_BALANCES, FOREIGN_KEYS, closest, foreign_balance, normal, unknown_key, unknown_name
from lbd.proxy.listener import ListenerPolicy
from lbd.worker.log import LogPolicy


def keys(policy: type) -> set[str]:
    """Of a policy and of all in it."""
    found = set()
    for field in fields_of(policy):
        found |= {field.key, *(keys(field.policy) if field.policy else ())}
    return found


def test_foreign_words_lead_to_keys_there_are() -> None:
    known = set(SECTIONS).union(*map(keys, (DaemonPolicy, LogPolicy, AdminPolicy, ListenerPolicy, ClusterPolicy)))
    assert {word for words in FOREIGN_KEYS.values() for word in words.split()} <= known


def test_foreign_balances_lead_to_ours() -> None:
    assert set(FOREIGN_BALANCES.values()) <= set(BALANCES)
    assert all(word == normal(word) for word in FOREIGN_BALANCES)
    assert foreign_balance("Least_Conn") == "least-requests"
    assert foreign_balance("nonsense") == ""


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("balence", "balance"),
        ("Balance", "balance"),
        ("hash-key", "hash_key"),
        ("hashkey", "hash_key"),
        ("endpoint", "endpoints"),
        ("helth", "health"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_near_misses(word: str, meant: str) -> None:
    assert closest(word, [field.key for field in fields_of(ClusterPolicy)]) == meant


@pytest.mark.parametrize(
    ("policy", "parent", "key", "sentence"),
    [
        (ClusterPolicy, None, "balence", 'unknown key; did you mean "balance"?'),
        (ClusterPolicy, None, "servers", 'unknown key; here it is called "endpoints"'),
        (ClusterPolicy, None, "fall", "unknown key here; it belongs in [cluster.web.health]"),
        (HealthPolicy, ClusterPolicy, "endpoints", "unknown key here; it belongs in [cluster], above [cluster.web]"),
        (PoolPolicy, None, "zzz", "unknown key; the keys here are "),
        (HealthPolicy, None, "zzz", "unknown key"),
    ],
)
def test_unknown_keys(policy: type, parent: type | None, key: str, sentence: str) -> None:
    known = [field.key for field in fields_of(policy)]
    found = unknown_key(key, ("cluster", "web"), known, policy=policy, parent=parent)
    assert found.startswith(sentence)
    assert found == sentence or sentence.endswith(" ")


@pytest.mark.parametrize(
    ("name", "names", "sentence"),
    [
        ("wbe", ["web", "api"], 'there is no cluster "wbe"; did you mean "web"?'),
        ("zzz", ["web", "api"], 'there is no cluster "zzz"; there are api, web'),
        ("zzz", [], 'there is no cluster "zzz"; write a table [cluster.zzz]'),
    ],
)
def test_unknown_names(name: str, names: list[str], sentence: str) -> None:
    assert unknown_name(name, names, "cluster") == sentence
