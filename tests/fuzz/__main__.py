"""Coverage-guided fuzzing: `make fuzz`, or `LBD_PURE=1 python -m tests.fuzz --seconds 60 [--target request]`.

Each target runs in a process of its own for that long. What breaks a promise is printed as a line for the corpus, where
test_corpus.py keeps it mended. `--merge` keeps what reached new code, as little of it as will do.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS, WORDS, corpus_file, known, longest, seeds
from tests.support.verdicts import is_complete

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "fuzz"
# libFuzzer's exit codes that are a finding: the target raised, took longer than SLOW, or more memory than it may (2 GB).
FOUND = {77: "broke a promise", 70: "did not come to an end", 71: "took too much memory"}
SLOW = 5  # seconds for one input; the longest take a few milliseconds


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes every parser.")
    options.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    options.add_argument("--target", choices=TARGETS, help="only this one")
    options.add_argument("--merge", action="store_true", help="keep in tests/fuzz/corpus what reached new code")
    chosen = options.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: skipped, atheris is not installed; `pip install atheris` where it has a wheel (Linux, macOS), then again")
        return 1 if is_complete(os.environ) else 0
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "words").write_text("".join(f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in word)}"\n' for word in WORDS))
    broken = [name for name in ([chosen.target] if chosen.target else TARGETS) if run(name, chosen.seconds, merges=chosen.merge)]
    return 1 if broken else 0


def run(name: str, seconds: int, *, merges: bool) -> bool:
    """Whether a promise was broken."""
    print(f"fuzz: {name} for {seconds} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="lbd-fuzz-") as scratch:
        grown, least, crashes = (Path(scratch) / part for part in ("grown", "least", "crashes"))
        for directory in (grown, least, crashes):
            directory.mkdir()
        for number, seed in enumerate([*seeds(name), *known(name)]):
            (grown / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", f"-max_len={longest(name)}", f"-timeout={SLOW}"]
        options = [*limits, f"-artifact_prefix={crashes}/", f"-dict={WORK}/words"]
        finding = finds(name, [*options, str(grown)])
        for crash in crashes.iterdir():
            print(f"fuzz: {name} {finding}. Mend lbd, and add this line to {corpus_file(name).relative_to(ROOT)}:")
            print(repr(crash.read_bytes()))
        if merges and not finding:
            finds(name, ["-merge=1", str(least), str(grown)])
            kept = sorted({file.read_bytes() for file in least.iterdir()} - set(seeds(name)))
            corpus_file(name).write_text("".join(f"{data!r}\n" for data in kept))
    return bool(finding)


def finds(name: str, arguments: list[str]) -> str:
    """Runs libFuzzer: what an input did, or "". SystemExit: it could not run."""
    environment = {**os.environ, "LBD_PURE": "1"}  # coverage sees Python code only
    if name == "twins":
        del environment["LBD_PURE"]  # the scanner is compiled; strict.py, which it is compared with, is never
    done = subprocess.run([sys.executable, "-m", "tests.fuzz.fuzzer", name, *arguments], cwd=ROOT, env=environment, check=False)
    if done.returncode and done.returncode not in FOUND:
        sys.exit(f"fuzz: the fuzzer did not run: exit code {done.returncode}; what it says is above")
    return FOUND.get(done.returncode, "")


sys.exit(main())
