"""tests/golden/*.txt: a configuration, a line of dashes, and what comes of it: the settings that are not the default, or the errors.

More than one file: `===== name` begins the next; the first is lb.toml. `# environ: NAME=value` sets a variable. After a change of
words, LBD_GOLDEN=write writes what comes now; read the diff.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lbd.config.dump import dump_toml, dump_tree, toml_text
from lbd.config.schema import Config, load_config
from lbd.errors import ConfigErrors
from tests.support.sentences import sentences

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = sorted((ROOT / "tests/golden").glob("*.txt"))
SAID_BY = ("ValueError", "error", "warn", "fault")
DASHES = "----------\n"


def load(text: str, directory: Path) -> Config:
    first, *others = re.split(r"^===== (\S+)\n", text, flags=re.MULTILINE)
    for name, content in (("lb.toml", first), *zip(others[::2], others[1::2], strict=True)):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    environ = dict(re.findall(r"^# environ: (\w+)=(.*)$", text, re.MULTILINE))
    return load_config(Path("lb.toml"), environ)


def outcome(text: str, directory: Path) -> str:
    """What stands below the dashes."""
    try:
        config = load(text, directory)
    except ConfigErrors as errors:
        return f"{errors}\n"
    warnings = "".join(f"warning: {warning}\n" for warning in config.warnings)
    return warnings + toml_text(dump_tree(config, only_changed=True, with_secrets=True))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, _, expected = path.read_text().partition(DASHES)
    found = outcome(text, tmp_path).replace(str(tmp_path.resolve()), "/etc/lbd")
    if os.environ.get("LBD_GOLDEN") == "write":
        path.write_text(text + DASHES + found)
    assert found == expected


@pytest.mark.parametrize("path", [path for path in GOLDEN if not path.stem.startswith("bad-")], ids=lambda path: path.stem)
def test_what_is_dumped_loads_as_the_same(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(path.read_text().partition(DASHES)[0], tmp_path)
    for only_changed in (False, True):
        (tmp_path / "lb.toml").write_text(toml_text(dump_tree(config, only_changed=only_changed, with_secrets=True)))
        again = load_config(Path("lb.toml"), {})
        assert again == config
        (tmp_path / "lb.toml").write_text(toml_text(dump_tree(config, only_changed=only_changed)))
        again = load_config(Path("lb.toml"), {})
        assert dump_toml(again) == dump_toml(config)
        # By their lines, whose order a dump may change.
        assert sorted(warning.message for warning in again.warnings) == sorted(warning.message for warning in config.warnings)


def test_every_message_stands_in_a_golden_file_or_a_test() -> None:
    said = "".join(path.read_text().partition(DASHES)[2] for path in GOLDEN)
    said += "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    missing = [f"{where}: {text}" for where, text in sentences((ROOT / "lbd/config").glob("*.py"), SAID_BY) if text not in said]
    assert not missing


def test_there_are_as_many_bad_ones_as_good_ones() -> None:
    bad = sum(path.stem.startswith("bad-") for path in GOLDEN)
    assert bad >= len(GOLDEN) - bad > 15
