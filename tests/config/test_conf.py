"""The files that people start from, and the page that explains them: all valid, complete, and true about defaults."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lbd.cli.demo
from lbd.cli.cert import write_certificate
from lbd.cli.main import main
from lbd.cluster.admission import LimitPolicy
from lbd.cluster.breaker import BreakerPolicy
from lbd.cluster.cluster import BALANCES, ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.gradient import AdaptivePolicy
from lbd.cluster.health import HealthPolicy
from lbd.cluster.outlier import OutlierPolicy
from lbd.cluster.pool import PoolPolicy
from lbd.cluster.queue import QueuePolicy
from lbd.cluster.shared import Http2UpstreamPolicy
from lbd.cluster.sticky import StickyPolicy
from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.config.daemon import AdminPolicy, DaemonPolicy
from lbd.config.dump import Writer
from lbd.config.fields import Field, fields_of, is_policy
from lbd.config.schema import load_config
from lbd.policy import Count, Duration, Size
from lbd.proxy.listener import ForwardedPolicy, Http2Policy, ListenerLimits, ListenerPolicy, ListenerTimeouts, ProxyProtocolPolicy
from lbd.proxy.shedding import OverloadPolicy
from lbd.proxy.tls_policy import KeyPairPolicy, ListenerTlsPolicy
from lbd.routing.edits import HeaderEdits
from lbd.routing.hello import PassthroughPolicy
from lbd.routing.route import RedirectPolicy, RespondPolicy, RewritePolicy, RoutePolicy, RouteTimeouts
from lbd.worker.log import LogPolicy
from tests.config.full import FULL, with_defaults, with_files

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = sorted((ROOT / "conf").rglob("*.toml"))
# The page's headings, and whose keys are listed below each.
CHAPTERS: dict[str, type] = {
    "`[lbd]`": DaemonPolicy,
    "`[lbd.overload]`": OverloadPolicy,
    "`[log]`": LogPolicy,
    "`[admin]`": AdminPolicy,
    "`[listener.NAME]`": ListenerPolicy,
    "`[listener.NAME.limits]`": ListenerLimits,
    "`[listener.NAME.timeouts]`": ListenerTimeouts,
    "`[listener.NAME.proxy_protocol]`": ProxyProtocolPolicy,
    "`[listener.NAME.tls]`": ListenerTlsPolicy,
    "`certificates`": KeyPairPolicy,
    "`[listener.NAME.forwarded]`": ForwardedPolicy,
    "`[listener.NAME.http2]`": Http2Policy,
    "`[[listener.NAME.route]]`": RoutePolicy,
    "`[[listener.NAME.passthrough]]`": PassthroughPolicy,
    "`respond`": RespondPolicy,
    "`redirect`": RedirectPolicy,
    "`rewrite`": RewritePolicy,
    "`request_headers`, `response_headers`": HeaderEdits,
    "`[listener.NAME.route.timeouts]`": RouteTimeouts,
    "`[cluster.NAME]`": ClusterPolicy,
    "An endpoint": EndpointPolicy,
    "`[cluster.NAME.tls]`": ClusterTlsPolicy,
    "`[cluster.NAME.sticky]`": StickyPolicy,
    "`[cluster.NAME.timeouts]`": TimeoutPolicy,
    "`[cluster.NAME.pool]`": PoolPolicy,
    "`[cluster.NAME.http2]`": Http2UpstreamPolicy,
    "`[cluster.NAME.retry]`": RetryPolicy,
    "`[cluster.NAME.limits]`": LimitPolicy,
    "`[cluster.NAME.queue]`": QueuePolicy,
    "`[cluster.NAME.adaptive]`": AdaptivePolicy,
    "`[cluster.NAME.health]`": HealthPolicy,
    "`[cluster.NAME.outlier]`": OutlierPolicy,
    "`[cluster.NAME.breaker]`": BreakerPolicy,
}


def policies(kind: type) -> Iterator[type]:
    """All that a configuration is made of."""
    for field in fields_of(kind):
        if field.policy is not None:
            yield field.policy
            yield from policies(field.policy)


SECTIONS: dict[str, type] = {
    "lbd": DaemonPolicy,
    "log": LogPolicy,
    "admin": AdminPolicy,
    "listener": ListenerPolicy,
    "cluster": ClusterPolicy,
}
ALL = {*SECTIONS.values(), *policies(DaemonPolicy), *policies(ListenerPolicy), *policies(ClusterPolicy)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_valid_and_without_warnings(path: Path) -> None:
    assert load_config(path, {}).warnings == ()


@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md"])
def test_what_a_page_shows_as_a_whole_file_is_valid(page: str, tmp_path: Path) -> None:
    shown = re.findall(r"^```toml\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    for text in shown:
        (tmp_path / "lb.toml").write_text(text)
        assert load_config(tmp_path / "lb.toml", {}).warnings == ()


def test_there_are_examples() -> None:
    assert len(FILES) >= 7


def test_the_demo_is_the_same_installed_and_here() -> None:
    assert lbd.cli.demo.CONFIG.read_text() == (ROOT / "conf/demo.toml").read_text()


def test_the_demo_runs_by_itself_beside_its_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_certificate(("localhost",), tmp_path)
    (tmp_path / "demo.toml").write_text((ROOT / "conf/demo.toml").read_text())
    assert main(["check", "-c", str(tmp_path / "demo.toml")]) == 0
    assert capsys.readouterr().err == ""


def test_what_says_that_zero_means_something_takes_a_zero() -> None:
    marks = {f"{policy.__name__}.{field.key}": field.mark for policy in ALL for field in fields_of(policy)}
    means = {name: mark for name, mark in marks.items() if isinstance(mark, Duration | Size | Count) and mark.zero}
    assert len(means) > 10
    assert [name for name, mark in means.items() if mark.minimum > 0] == []


# conf/lb.toml


def test_what_is_commented_out_is_the_default(tmp_path: Path) -> None:
    short, whole = tmp_path / "short.toml", tmp_path / "whole.toml"
    short.write_text(with_files())
    whole.write_text(with_defaults())
    assert len(whole.read_text()) < len(short.read_text()) - 50
    assert load_config(whole, {}) == load_config(short, {})


def test_with_its_files_it_is_as_valid_as_without_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As people meet it first, from the project's root, and as they have it in the end."""
    assert main(["check", "-c", str(FULL)]) == 0
    (tmp_path / "lb.toml").write_text(with_files())
    assert main(["check", "-c", str(tmp_path / "lb.toml")]) == 1
    assert "listener.secure.tls.cert: " in capsys.readouterr().err
    write_certificate(("wild.example",), tmp_path)
    (tmp_path / "cert.pem").rename(tmp_path / "wild.pem")
    (tmp_path / "key.pem").rename(tmp_path / "wild.key")
    (tmp_path / "ca.pem").unlink()
    write_certificate(("localhost",), tmp_path)
    (tmp_path / "ca.pem").rename(tmp_path / "clients.pem")
    assert main(["check", "-c", str(tmp_path / "lb.toml")]) == 0
    assert capsys.readouterr().err == ""


def test_every_key_is_in_the_full_file() -> None:
    """In a place where it may stand."""
    tree = tomllib.loads(with_defaults())
    seen: dict[type, set[str]] = {policy: set() for policy in ALL}
    for section, policy in SECTIONS.items():
        for table in tree[section].values() if section in ("listener", "cluster") else [tree[section]]:
            note(policy, table, seen)
    missing = [f"{policy.__name__}.{field.key}" for policy in ALL for field in fields_of(policy) if field.key not in seen[policy]]
    assert not missing


def note(policy: type, table: object, seen: dict[type, set[str]]) -> None:
    if not isinstance(table, dict):
        return  # an endpoint's address alone
    seen[policy] |= table.keys()
    for field in fields_of(policy):
        if field.policy is not None and field.key in table:
            inner = table[field.key]
            for each in inner if isinstance(inner, list) else [inner]:
                note(field.policy, each, seen)


# docs/configuration.md


def chapters() -> dict[str, dict[str, str]]:
    """Heading -> key -> what its column of defaults says."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^##+ ", (ROOT / "docs/configuration.md").read_text(), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        found[heading] = dict(re.findall(r"^\| `([a-z0-9_]+)` \| (.*?) ?\| ", body, re.MULTILINE))
    return found


def test_every_policy_has_a_chapter() -> None:
    assert set(CHAPTERS.values()) == ALL
    assert all(is_policy(policy) for policy in ALL)


@pytest.mark.parametrize("heading", CHAPTERS)
def test_a_chapter_has_every_key_with_its_default(heading: str) -> None:
    policy, rows = CHAPTERS[heading], chapters()[heading]
    fields = {field.key: field for field in fields_of(policy)}
    assert list(rows) == list(fields)  # in the same order, too
    for key, text in rows.items():
        assert is_true(text, fields[key]), f"{heading} {key}: the default is {fields[key].default!r}, the page says {text}"


def is_true(text: str, field: Field) -> bool:
    if field.is_required:
        return text == "required"
    default = Writer(False, True)._value(field, field.default) if field.form not in ("table", "tables") else None
    if default in (None, "", [], {}) or (isinstance(field.default, float | int) and field.default < 0):
        return not text.startswith("`") or text in ("`[]`", "`route-1`, ...", "`passthrough-1`, ...")  # in words, or nothing
    written: object = tomllib.loads(f"default = {text.strip('`')}")["default"]
    return text.startswith("`") and written == default


def test_every_balance_is_explained() -> None:
    table = (ROOT / "docs/configuration.md").read_text().partition("| balance | |\n|---|---|\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([a-z-]+)` \| \S", table, re.MULTILINE) == list(BALANCES)
