"""The command `lbd`: words to functions, functions to exit codes.

    0    done
    1    the machine says no: a port in use, a missing user, a daemon that does not answer; a reload that was refused
    2    the command itself is wrong
    78   the configuration is wrong (EX_CONFIG): a supervisor should not try again

What is asked for goes to standard output, what is wrong to standard error, a line each. What a command needs is imported when it runs: `lbd
check` is no place for a reactor.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lbd import __version__
from lbd.core import COMPILED
from lbd.errors import ConfigErrors, EnvironmentFault, Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lbd.config.schema import Config

__all__ = ["DEFAULT_FILE", "main", "version_text"]

DEFAULT_FILE = Path("/etc/lbd/lb.toml")
WRONG_COMMAND = 2  # what argparse exits with
EPILOG = """\
lbd -c FILE              run; SIGHUP reloads, SIGTERM drains and stops, SIGUSR1 reopens the logs
lbd check -c FILE        what is wrong with FILE, all of it: exit code 0, 78, or 1 for files that cannot be used
lbd demo                 three origins and a balancer in front of them, to try with curl
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    if not given:
        parser.print_help(sys.stderr)
        return WRONG_COMMAND
    words = parser.parse_args(given)
    act: Callable[[argparse.Namespace], int] = words.act
    if act is not run:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what lbd/__main__.py holds for the daemon
    try:
        code = int(act(words))
        if sys.stdout is not None:  # closed by who started us
            sys.stdout.flush()
        return code
    except ConfigErrors as faults:
        for error in faults.errors:
            print(error, file=sys.stderr)
        return Exit.CONFIG
    except EnvironmentFault as fault:
        print(f"lbd: {fault}", file=sys.stderr)
        return Exit.FAULT
    except BrokenPipeError:  # `lbd config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains once more on its way out
        return Exit.FAULT


class Parser(argparse.ArgumentParser):
    """Whoever got the words wrong wants to see the right ones."""

    def error(self, message: str) -> NoReturn:
        self.print_help(sys.stderr)
        self.exit(WRONG_COMMAND, f"\n{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="lbd",
        description="A load balancer: one daemon, one TOML file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version_text())
    add_file(parser, DEFAULT_FILE)
    parser.set_defaults(act=run)
    commands = parser.add_subparsers(title="commands (without one it runs)", metavar="COMMAND")

    def command(name: str, act: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
        added.set_defaults(act=act)
        return added

    add_file(command("check", check, "validate the configuration, without opening a port"))
    added = command("config", show_config, "print the configuration: every key with its value")
    add_file(added)
    added.add_argument("--effective", action="store_true", help="as the running daemon has it, with what was changed at run time")
    add_admin(command("reload", reload, "have the running daemon read its configuration again, and say what changed"))
    added = command("status", status, "ask the running daemon how it is")
    add_admin(added)
    added.add_argument("clusters", nargs="*", metavar="CLUSTER", help="only these")
    added = command("drain", drain, "send an endpoint no more requests: those in flight finish")
    add_place(added)
    added.add_argument("--wait", action="store_true", help="until nothing is in flight there")
    added.add_argument("--timeout", metavar="TIME", default="", help="how long to wait at most; then the exit code is 1")
    added.add_argument("--force", action="store_true", help="also the last endpoint that takes requests")
    add_place(command("enable", enable, "send an endpoint requests again that was drained"), has_end=False)
    added = command("weight", weight, "give an endpoint another weight than the configuration does")
    add_place(added)
    added.add_argument("weight", metavar="N", help='1 to 65535, or "reset" for the configured one')
    added = command("cert", cert, "make a certificate to develop with, and the authority that vouches for it")
    added.add_argument("--dev", nargs="+", metavar="NAME", required=True, help="what it is for: localhost, 127.0.0.1, *.dev.example")
    added.add_argument("--dir", type=Path, default=Path(), help="where ca.pem, cert.pem and key.pem go (here)")
    added = command("demo", demo, "three small origins and a balancer in front of them, to try with curl")
    added.add_argument("--port", type=port, default=0, help="where the balancer listens (8080, or another when that is taken)")
    return parser


def add_file(parser: argparse.ArgumentParser, default: object = argparse.SUPPRESS) -> None:
    """A command's own default would overwrite the -c that stands before it."""
    parser.add_argument("-c", dest="file", type=Path, metavar="FILE", default=default, help=f"the configuration ({DEFAULT_FILE})")


def add_admin(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    parser.add_argument("--admin", metavar="ADDR", default="", help="where the daemon's admin listener is, instead of reading FILE")
    parser.add_argument("--json", action="store_true", help="the answer as it comes")


def add_place(parser: argparse.ArgumentParser, *, has_end: bool = True) -> None:
    add_file(parser)
    parser.add_argument("--admin", metavar="ADDR", default="", help="where the daemon is asked, as unix:/run/lbd/control.sock; see FILE")
    parser.add_argument("place", metavar="CLUSTER/ENDPOINT", help="as `lbd status` shows it, like web/10.0.0.1:9000")
    if has_end:
        parser.add_argument("--for", dest="span", metavar="TIME", default="", help="30m, 1h, ...: it ends by itself")
        parser.add_argument("--reason", metavar="TEXT", default="", help="for whoever wonders later")


def port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65535:
        raise ValueError(text)
    return number


def version_text() -> str:
    core = "compiled core" if COMPILED else "pure Python"
    return f"lbd {__version__} ({core}, Python {sys.version.split()[0]})"


# Commands


def load(file: Path, environ: Mapping[str, str]) -> Config:
    """The configuration; warnings are told at once."""
    from lbd.config.schema import load_config

    config = load_config(file, environ)
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return config


def run(words: argparse.Namespace) -> int:
    from lbd.config.schema import load_config
    from lbd.master.main import run_master

    return run_master(words.file, load_config(words.file, os.environ))  # whose log has the warnings


def check(words: argparse.Namespace) -> int:
    from lbd.core.clock import wall_clock
    from lbd.master.cluster_certificates import read_clusters
    from lbd.master.faults import Faults
    from lbd.master.listener_certificates import read_listeners
    from lbd.master.machine import resolve_identity

    config = load(words.file, os.environ)
    faults = Faults()
    with faults.gather():
        resolve_identity(config.lbd.user, config.lbd.group, is_root=os.geteuid() == 0)
    for read in (read_listeners, read_clusters):
        with faults.gather():
            for reading in read(config, wall_clock()).values():
                for line in (line for doubt in reading.warnings() for line in config.describe(doubt)):
                    print(f"warning: {line}", file=sys.stderr)
    if faults.found:
        print("\n".join(line for fault in faults.found for line in config.describe(fault)), file=sys.stderr)
        return Exit.FAULT
    routes = sum(len(listener.routes) + bool(listener.cluster) for listener in config.listeners)
    counts = (counted(len(config.listeners), "listener"), counted(len(config.clusters), "cluster"), counted(routes, "route"))
    print(f"{words.file} is valid: {', '.join(counts)}")
    return Exit.OK


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def show_config(words: argparse.Namespace) -> int:
    from lbd.config.dump import dump_toml

    if words.effective:
        from lbd.cli.remote import show_effective

        return show_effective(words.file, os.environ)
    print(dump_toml(load(words.file, os.environ)), end="")
    return Exit.OK


def reload(words: argparse.Namespace) -> int:
    from lbd.cli.remote import reload_daemon

    return reload_daemon(words.file, words.admin, os.environ, as_json=words.json)


def status(words: argparse.Namespace) -> int:
    from lbd.cli.remote import show_status

    return show_status(words.file, words.admin, os.environ, words.clusters, as_json=words.json)


def drain(words: argparse.Namespace) -> int:
    from lbd.cli.control import Waiting, command_daemon
    from lbd.config.units import parse_duration
    from lbd.policy import Duration

    try:
        seconds = parse_duration(words.timeout, Duration(0.001)) if words.timeout else 0.0
    except ValueError as error:
        raise EnvironmentFault(f"--timeout: {error}") from None
    waiting = Waiting(seconds) if words.wait or words.timeout else None
    settings = {"for": words.span, "reason": words.reason, "force": words.force}
    return command_daemon("drain", words.place, settings, (words.file, words.admin, os.environ), waiting)


def enable(words: argparse.Namespace) -> int:
    from lbd.cli.control import command_daemon

    return command_daemon("enable", words.place, {}, (words.file, words.admin, os.environ))


def weight(words: argparse.Namespace) -> int:
    from lbd.cli.control import command_daemon

    settings = {"weight": words.weight, "for": words.span, "reason": words.reason}
    return command_daemon("weight", words.place, settings, (words.file, words.admin, os.environ))


def cert(words: argparse.Namespace) -> int:
    from lbd.cli.cert import make_certificate

    return make_certificate(words.dev, words.dir.absolute())


def demo(words: argparse.Namespace) -> int:
    from lbd.cli.demo import run_demo

    return run_demo(words.port)
