"""No secret of a file is shown by what prints the file, by a sentence about it, or by a trace."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import pytest

from lbd.config.dump import dump_json, dump_toml, dump_tree, toml_text
from lbd.config.schema import Config, load_config
from lbd.config.secret import WORDS
from lbd.errors import ConfigErrors
from lbd.master.reload import compare
from lbd.policy import MASK
from tests.config.full import FULL

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-4711"
NAMES = [
    "Authorization",
    "Proxy-Authorization",
    "Cookie",
    "Set-Cookie",
    "X-Api-Key",
    "api_key",
    "X-Auth-Token",
    "client-secret",
    "PASSWORD",
]
TABLES = {
    "a check's headers": "[cluster.web.health]\nheaders = {{ {entry} }}",
    "a condition on a header": '[[listener.web.route]]\nheaders = {{ {entry} }}\ncluster = "web"',
    "a condition on the query": '[[listener.web.route]]\nquery = {{ {entry} }}\ncluster = "web"',
    "what a route sets": '[[listener.web.route]]\npath = "/x"\ncluster = "web"\nrewrite.request_headers.set = {{ {entry} }}',
    "what a route adds": '[[listener.web.route]]\npath = "/x"\ncluster = "web"\nrewrite.response_headers.add = {{ {entry} }}',
    "what a route answers with": '[[listener.web.route]]\npath = "/x"\nrespond = {{ headers = {{ {entry} }} }}',
}
FILE = """\
[listener.web]
bind = "127.0.0.1:8080"
cluster = "web"
{table}
[cluster.web]
endpoints = ["127.0.0.1:9000"]
"""


def loaded(directory: Path, table: str, entry: str) -> Config:
    file = directory / "lb.toml"
    file.write_text(FILE.format(table=TABLES[table].format(entry=entry)))
    return load_config(file, {"CREDENTIAL": CANARY})


def said_of(directory: Path, table: str, entry: str) -> str:
    try:
        config = loaded(directory, table, entry)
    except ConfigErrors as errors:
        return str(errors)
    return f"{dump_toml(config)} {config!r} {config.warnings}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("table", TABLES)
def test_what_is_named_like_a_credential_is_masked_in_every_table(table: str, name: str, tmp_path: Path) -> None:
    config = loaded(tmp_path, table, f'{name} = ["Basic {CANARY}", "b-{CANARY}"]' if "condition" not in table else f'{name} = "{CANARY}"')
    for shown in (dump_toml(config), json.dumps(dump_json(config)), toml_text(dump_tree(config, only_changed=True)), repr(config)):
        assert CANARY not in shown
        assert MASK in shown
    assert CANARY in toml_text(dump_tree(config, with_secrets=True))


@pytest.mark.parametrize("table", TABLES)
def test_what_comes_from_the_environment_is_masked_whatever_its_name(table: str, tmp_path: Path) -> None:
    for text in ("${CREDENTIAL}", "id ${CREDENTIAL}", f"${{UNSET:-{CANARY}}}"):
        config = loaded(tmp_path, table, f'X-Id = "{text}"')
        for shown in (dump_toml(config), json.dumps(dump_json(config)), repr(config)):
            assert CANARY not in shown
            assert MASK in shown


@pytest.mark.parametrize("table", TABLES)
def test_what_is_no_secret_is_shown(table: str, tmp_path: Path) -> None:
    assert 'X-Id = "seen $${and} read"'.lower() in dump_toml(loaded(tmp_path, table, 'X-Id = "seen $${and} read"')).lower()


def test_settings_that_are_secrets_are_in_no_trace_either(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(f'[admin]\ntoken = "{CANARY}"\n[cluster.web]\nendpoints = ["a:1"]\nsticky = {{ secret = "of sixteen: {CANARY}" }}\n')
    config = load_config(file, {})
    assert CANARY not in repr(config) + dump_toml(config)
    assert config.admin.token == CANARY


def test_that_a_field_is_there_is_no_secret(tmp_path: Path) -> None:
    assert "authorization = true" in dump_toml(loaded(tmp_path, "a condition on a header", "authorization = true"))


def test_labels_of_endpoints_are_no_secrets(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text('[cluster.web]\nendpoints = [{ address = "a:1", metadata = { token = "${STAGE}" } }]\n')
    assert 'token = "blue"' in dump_toml(load_config(file, {"STAGE": "blue"}))


def test_a_secret_works_as_the_text_that_it_is(tmp_path: Path) -> None:
    config = loaded(tmp_path, "a check's headers", 'Authorization = "${CREDENTIAL}"')
    again = pickle.loads(pickle.dumps(config))
    assert again == config == loaded(tmp_path, "a check's headers", f'Authorization = "{CANARY}"')
    assert again.clusters[0].health is not None
    assert again.clusters[0].health.headers == (("Authorization", CANARY),)
    assert CANARY not in repr(again)


def test_a_reload_says_that_a_secret_changed_and_not_to_what(tmp_path: Path) -> None:
    for table in TABLES:
        before, after = (loaded(tmp_path, table, f'Authorization = "{CANARY}-{number}"') for number in (1, 2))
        report = compare(before, after, 2)
        assert "~" in report.line(), table
        assert CANARY not in report.line() + json.dumps(report.to_json()) + repr(report)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "entry",
    [
        f'Authorization = "~({CANARY}"',
        f'Authorization = "~(?P<{CANARY}>x)"',
        f'Authorization = "{CANARY}\\u0001"',
        f'"X Token" = "{CANARY}"',
        f'Authorization = "{CANARY}${{"',
        f'Authorization = ["{CANARY}", 1]',
        f'Host-Token = "~[{CANARY}${{CREDENTIAL}}"',
    ],
)
def test_a_sentence_about_a_secret_does_not_tell_it(table: str, entry: str, tmp_path: Path) -> None:
    assert CANARY not in said_of(tmp_path, table, entry)


def test_a_secret_that_is_no_regular_expression_is_an_error_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigErrors,
        match=r"route\[1\]\.headers\.authorization: is not a regular expression; it is a secret, so that no more of it is shown here",
    ):
        loaded(tmp_path, "a condition on a header", 'authorization = "~(a"')


def test_the_manual_has_the_words() -> None:
    manual = (FULL.parent.parent / "docs/configuration.md").read_text()
    assert ", ".join(f"`{word}`" for word in WORDS) in manual
