"""Whatever is in the file, the loader answers with a Config that works or with sentences, never with a traceback."""

from __future__ import annotations

import copy
import pickle
import random
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings, strategies as st

from lbd.cluster.cluster import Cluster
from lbd.cluster.health import HealthPolicy
from lbd.config.dump import dump_toml, dump_tree, toml_text
from lbd.config.schema import Config, load_config
from lbd.config.text import escape
from lbd.errors import ConfigErrors
from lbd.master.probe import Probe
from lbd.proxy.forwarding import Forwarding
from lbd.routing.table import RoutingTable
from tests.config.full import with_defaults

if TYPE_CHECKING:
    from pathlib import Path

TREE: dict[str, Any] = tomllib.loads(with_defaults())


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in ((*path, key), *places(item, (*path, key)))]


PLACES = places(TREE)
WORDS = "/ a 0s 1s -1s web api 0.0.0.0:80 [::1]:1 unix:/x fd:3 off auto ~( ~a * é 16KiB http GET \\1 ${X} ${X:-1} client-ip maglev /%zz"
STRINGS = st.sampled_from(["", "a b", "\n", "\x00present", "1" * 300, *WORDS.split()])
VALUES = st.one_of(
    STRINGS,
    st.text(max_size=4).filter(lambda text: text.isprintable()),
    st.sampled_from([0, 1, -1, 443, 1 << 70, 0.0, 0.5, float("nan"), float("inf"), True, False]),
    st.lists(STRINGS | st.integers(-1, 2), max_size=3),
    st.dictionaries(STRINGS, STRINGS | st.booleans() | st.integers(-1, 2), max_size=3),
    st.just([{}]),
)


def changed(tree: dict[str, Any], path: tuple[Any, ...], action: str, value: object, name: str) -> None:
    """One slip of a pen, where the path still leads somewhere."""
    at: Any = tree
    for key in path[:-1]:
        if not isinstance(at, dict | list) or (isinstance(at, list) and (not isinstance(key, int) or key >= len(at))):
            return
        at = at[key] if isinstance(at, list) else at.get(key)
    key = path[-1]
    if isinstance(at, list) and isinstance(key, int) and key < len(at):
        at[key] = value
    elif isinstance(at, dict) and key in at:
        if action == "drop":
            del at[key]
        elif action == "rename":
            at[name] = at.pop(key)
        else:
            at[key] = value


SLIPS = st.tuples(st.sampled_from(PLACES), st.sampled_from(["drop", "rename", "set", "set"]), VALUES, STRINGS)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SLIPS, min_size=1, max_size=3))
def test_slips(tmp_path: Path, slips: list[tuple[tuple[Any, ...], str, object, str]]) -> None:
    tree = copy.deepcopy(TREE)
    for slip in slips:
        changed(tree, *slip)
    path = tmp_path / "lb.toml"
    path.write_text(tomli_w.dumps(tree))
    try:
        config = load_config(path, {})
    except ConfigErrors as errors:
        check_errors(errors, path)
    else:
        check_config(config, tmp_path)


def check_errors(errors: ConfigErrors, path: Path) -> None:
    """Sentences with places, in order."""
    assert errors.errors
    lines = path.read_text().count("\n") + 1
    assert [error.line for error in errors.errors] == sorted(error.line for error in errors.errors)
    assert len(set(errors.errors)) == len(errors.errors)
    for error in errors.errors:
        assert error.file == str(path)
        assert 0 <= error.line <= lines
        assert error.message
        assert error.message[-1] not in ".!"
        assert "\n" not in str(error)


def check_config(config: Config, directory: Path) -> None:
    """It works, travels, and comes back from its dump."""
    for listener in config.listeners:
        RoutingTable.build(listener.routes, listener.name)
        Forwarding(listener.forwarded, bytes)
    for cluster in config.clusters:
        Cluster(cluster, None, None, random.Random(1))
        for endpoint in cluster.endpoints:
            Probe(cluster.health or HealthPolicy(), endpoint.address)
    assert pickle.loads(pickle.dumps(config)) == config
    hash(config)
    again = directory / "again.toml"
    again.write_text(toml_text(dump_tree(config, with_secrets=True)))
    assert load_config(again, {}) == config


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="[]{}=.\"#\\\n a1'-", max_size=30))
def test_noise(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(text, newline="")
    try:
        load_config(path, {})
    except ConfigErrors as errors:
        check_errors(errors, path)


def test_configs_are_equal_when_they_mean_the_same(tmp_path: Path) -> None:
    for name, text in (("a", "[lbd]\n"), ("b", '[lbd]\nworkers = "auto" # the default\n'), ("c", "[lbd]\nworkers = 1\n")):
        (tmp_path / f"{name}.toml").write_text(text)
    one, two, other = (load_config(tmp_path / f"{name}.toml", {}) for name in "abc")
    assert one == two != other
    assert one.file != two.file


@pytest.mark.parametrize("text", ["${", "$${", "a${B}c", "$"])
def test_what_looks_like_a_variable_survives_a_dump(text: str, tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(f'[listener.web]\nbind = "0.0.0.0:1"\n[[listener.web.route]]\nrespond = {{ body = "{escape(text)}" }}\n')
    config = load_config(path, {})
    assert config.listeners[0].routes[0].respond is not None
    assert config.listeners[0].routes[0].respond.body == text
    path.write_text(dump_toml(config))
    assert load_config(path, {}) == config


def test_a_secret_is_masked_and_its_mask_is_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text('[cluster.web]\nendpoints = ["a:1"]\nsticky = { secret = "correct-horse-battery" }\n')
    config = load_config(file, {})
    assert config.clusters[0].sticky is not None
    assert config.clusters[0].sticky.secret == "correct-horse-battery"
    text = dump_toml(config)
    assert "correct-horse" not in text
    file.write_text(text)
    with pytest.raises(ConfigErrors, match=r"cluster\.web\.sticky\.secret: is too short to be a secret"):
        load_config(file, {})
