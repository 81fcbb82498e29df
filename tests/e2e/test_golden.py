"""tests/golden/machine/*.txt: a right configuration, a line of dashes, and what the daemon says where the machine refuses it.

Each is a start that fails, with exit code 1. `# $ COMMAND` is done beforehand, by the shell that becomes the daemon; `# under: PROGRAM`
starts it; `# needs root`. In the text and in what is said HOME is the test's directory, TAKEN a port in use, FREE one that is not and
BOUND a descriptor of a socket that does not listen; HOME/held.sock is listened on, HOME/held another lbd's, and there are certificates.
What differs from machine to machine is left out. After a change of words, LBD_GOLDEN=write writes what comes now; read the diff.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lbd.master.state_directory import LOCK
from tests.support.certificates import Authority, Signer, encrypted
from tests.support.ports import free_port
from tests.support.processes import ROOT, LbdDaemon
from tests.support.sentences import sentences

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = sorted((ROOT / "tests/golden/machine").glob("*.txt"))
SPEAKER = re.compile(r"lbd: |\S+ ERROR lbd\.master: ")
DASHES = "----------\n"
# What varies from run to run, and what is written for it.
VARYING = (
    (r"the port is in use( by [^;]*)?;", "the port is in use by SOMEBODY;"),
    (r": [^:]* listens on it;", ": SOMEBODY listens on it;"),
    (r"does not resolve \([^)]*\)", "does not resolve (WHY)"),
)


@contextmanager
def machine(home: Path) -> Iterator[tuple[dict[str, str], int]]:
    """One that refuses; what placeholders stand for, and the descriptor that goes along."""
    with ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        other = stack.enter_context(socket.create_server(("127.0.0.2", taken.getsockname()[1])))
        assert other.getsockname()[1] == taken.getsockname()[1]
        held = stack.enter_context(socket.socket(socket.AF_UNIX))
        held.bind(str(home / "held.sock"))
        held.listen()
        (home / "held").mkdir(0o700)
        lock = stack.enter_context((home / "held" / LOCK).open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))
        yield (
            {"HOME": str(home), "TAKEN": str(taken.getsockname()[1]), "FREE": str(free_port()), "BOUND": str(bound.fileno())},
            bound.fileno(),
        )


def write_certificates(home: Path) -> None:
    """site, other, and chains that nobody should have."""
    authority = Authority(home)
    for name in ("site", "other"):
        authority.issue(name, f"{name}.test")
    encrypted(home / "site.key")
    one, namesake, stranger = Signer("authority"), Signer("authority"), Signer("stranger")
    leaf = Signer("site.test", one, names=("site.test",))
    authority.write("namesake", leaf.pem + namesake.pem, leaf.private)
    authority.write("stranger", leaf.pem + stranger.pem, leaf.private)


def lacks(text: str) -> str:
    """Why it cannot be tried here."""
    if "# needs root" in text and os.geteuid() != 0:
        return "needs root"
    if "setpriv" in text and shutil.which("setpriv") is None:
        return "needs setpriv"
    start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if "net_bind_service" in text and start.exists() and int(start.read_text()) <= 1:
        return "every port is everybody's here"
    return ""


def refused(text: str, home: Path) -> tuple[int, str]:
    """Exit code, and what is said, with placeholders."""
    write_certificates(home)
    with machine(home) as (names, descriptor):
        pattern = re.compile("|".join(names))
        filled = pattern.sub(lambda match: names[match[0]], text)
        commands = "\n".join(re.findall(r"^# \$ (.*)$", filled, re.MULTILINE))
        words = " ".join(re.findall(r"^# under: (.*)$", filled, re.MULTILINE)).split()
        under = ["bash", "-c", f'{commands}\nexec "$@"', "sh", *words]
        with LbdDaemon(filled, home, name="lb", under=under, pass_fds=[descriptor]) as lbd:
            code, said = lbd.wait(), lbd.log()
    lines = [line[match.end() :] for line in said.splitlines() if (match := SPEAKER.match(line))]
    told = "".join(f"{line}\n" for line in dict.fromkeys(lines))
    for name in ("HOME", "TAKEN", "FREE"):
        told = told.replace(names[name], name)
    for varying, written in VARYING:
        told = re.sub(varying, written, told)
    return code, told.replace("HOME/lb.toml", "lb.toml")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_the_machine_refuses_is_told_in_these_words(path: Path, tmp_path: Path) -> None:
    text, _, expected = path.read_text().partition(DASHES)
    if why := lacks(text):
        pytest.skip(why if why.startswith("needs ") else f"this machine cannot: {why}")
    code, found = refused(text, tmp_path)
    if os.environ.get("LBD_GOLDEN") == "write":
        path.write_text(text + DASHES + found)
        expected = found
    assert found == expected
    assert code == 1
    assert not (tmp_path / "web.sock").exists()


SPEAKERS = ("binds", "claims", "inherited", "logs", "machine", "state_directory", "certificates", "ciphers", "readings")
# What no file here can bring about, and why.
ELSEWHERE = {
    "its predecessor's socket cannot be used: ": "of an upgrade, whose old master's sockets are broken",
    "the workers cannot be given the log files: ": "of a rotation, without descriptors left",
    "too many open files; raise `ulimit -n`": "how many are open before depends on the machine",
    "the file exists, and whether it is in use cannot be told: ": "the kernel refuses to connect, and says neither that nobody listens",
    "no right to it; chown it to the user that starts lbd (uid ": "root has every right",
    "missing; name a PEM file": "the configuration is asked before (bad-tls.txt)",
}


def test_every_sentence_about_the_machine_stands_in_a_golden_file_or_a_test() -> None:
    said = "".join(path.read_text().partition(DASHES)[2] for path in GOLDEN)
    tests = [path for directory in ("master", "e2e") for path in (ROOT / "tests" / directory).glob("test_*.py")]
    said += "".join(path.read_text() for path in tests if path.name != Path(__file__).name)
    paths = [ROOT / f"lbd/master/{name}.py" for name in SPEAKERS]
    found = list(sentences(paths, ("EnvironmentFault", "fault"), ("_why", "_remedy", "_offer")))
    assert not [f"{where}: {text}" for where, text in found if text not in said and text not in ELSEWHERE]
    assert not ELSEWHERE.keys() - {text for _, text in found}
