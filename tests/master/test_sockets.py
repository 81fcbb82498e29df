"""Listening sockets: every kind of bind, what is refused and in which words, and changes that are all or nothing."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.errors import EnvironmentFault
from lbd.master import binds
from lbd.master.binds import BindPolicy, open_bind
from lbd.master.claims import Claims
from lbd.master.inherited import Inherited
from lbd.master.sockets import Sockets, wanted_binds
from lbd.master.upgrade import VARIABLE, Handover
from lbd.proxy.listener import ListenerPolicy
from tests.support.ports import free_port, needs_filters

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("no_leaked_fds")

# ruff: noqa: TID251 - sockets are what is tested


def nothing() -> Inherited:
    inherited = Inherited({}, os.getpid())
    inherited._open.clear()  # the test run's own descriptors are none of a daemon's
    return inherited


def sockets_for(slots: int, environ: dict[str, str] | None = None) -> Sockets:
    return Sockets(slots, nothing(), Handover(environ or {}))


def policy(bind: str, backlog: int = 16, mode: str = "0660") -> BindPolicy:
    return BindPolicy(bind, ("listener", "web", "bind"), backlog, mode)


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_server((host, 0)) as sock:
        yield sock


def option(sock: socket.socket, level: int, name: int) -> int:
    return sock.getsockopt(level, name)


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("[::1]", socket.AF_INET6), ("localhost", socket.AF_INET)])
async def test_tcp_has_one_socket_for_each_slot(host: str, family: int) -> None:
    port = free_port()
    bound = await open_bind(policy(f"{host}:{port}"), 3, nothing(), Claims())
    with closing(bound):
        assert len({bound.fd(slot) for slot in range(3)}) == 3
        for sock in bound.sockets:
            assert sock.family == family
            assert sock.getsockname()[1] == port
            assert option(sock, socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
            assert option(sock, socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            assert not sock.getblocking()
            assert not sock.get_inheritable()


async def test_both_families_may_have_the_same_port() -> None:
    port = free_port()
    sockets = sockets_for(1)
    sockets.commit(await sockets.prepare({bind: policy(bind) for bind in (f"0.0.0.0:{port}", f"[::]:{port}")}))
    sockets.close()


async def test_a_port_in_use_names_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    comm = Path("/proc/self/comm").read_text().strip()  # noqa: ASYNC240
    monkeypatch.setattr(binds, "PAUSE", 0.0)
    with listening() as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(EnvironmentFault) as caught:
            await open_bind(policy(bind), 2, nothing(), Claims())
    holder = f"{comm} (process {os.getpid()})"
    assert str(caught.value) == (f"cannot listen on {bind}: the port is in use by {holder}; stop what uses it, or choose another port")


async def test_a_second_daemon_does_not_share_the_first_ones_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binds, "PAUSE", 0.0)
    bind = f"127.0.0.1:{free_port()}"
    bound = await open_bind(policy(bind), 2, nothing(), Claims())
    with closing(bound), pytest.raises(EnvironmentFault, match="in use"):
        await open_bind(policy(bind), 2, nothing(), Claims())


async def test_a_port_that_is_given_up_within_the_tries_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = f"127.0.0.1:{free_port()}"
    dying = await open_bind(policy(bind), 1, nothing(), Claims())

    async def pause(seconds: float) -> None:
        dying.close()

    monkeypatch.setattr(trio, "sleep", pause)
    (await open_bind(policy(bind), 1, nothing(), Claims())).close()


@pytest.mark.parametrize(
    ("bind", "sentence"),
    [
        ("192.0.2.1:8080", "no interface of this machine has this address"),
        ("no-such-host.invalid:8080", "no-such-host.invalid does not resolve"),
        ("unix:/nowhere/at/all.sock", "No such file or directory: the directory /nowhere/at"),
        ("unix:/" + "x" * 120, "the path is longer than 107 bytes"),
        ("fd:77", "descriptor 77 was not open when lbd started; no sockets came with LISTEN_FDS"),
        ("fd:web", 'no sockets came with the name "web"; no sockets came with LISTEN_FDS'),
    ],
)
async def test_what_cannot_be_opened_says_why(bind: str, sentence: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        await open_bind(policy(bind), 1, nothing(), Claims())
    assert str(caught.value).startswith(f"cannot listen on {bind}: {sentence}")


# Unix sockets


async def test_a_unix_socket_has_its_mode_and_is_shared_by_all_slots(tmp_path: Path) -> None:
    path = tmp_path / "lbd.sock"
    bound = await open_bind(policy(f"unix:{path}", mode="0600"), 4, nothing(), Claims())
    assert len({bound.fd(slot) for slot in range(4)}) == 1
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    bound.apply(policy(f"unix:{path}", mode="0666"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
    bound.close()
    assert os.listdir(tmp_path) == []


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "lbd.sock")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
        killed.listen()
    bound = await open_bind(policy(f"unix:{path}"), 1, nothing(), Claims())
    with socket.socket(socket.AF_UNIX) as downstream:
        downstream.connect(path)
    bound.close()


async def test_a_socket_file_in_use_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "lbd.sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(EnvironmentFault, match=rf"\(process {os.getpid()}\) listens on it"):
            await open_bind(policy(f"unix:{path}"), 1, nothing(), Claims())
        assert os.listdir(tmp_path) == ["lbd.sock"]


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(EnvironmentFault, match="not a socket"):
        await open_bind(policy(f"unix:{path}"), 1, nothing(), Claims())
    assert path.read_text() == "data"


async def test_a_file_that_a_successor_has_put_there_is_not_taken_away(tmp_path: Path) -> None:
    path = str(tmp_path / "lbd.sock")
    bound = await open_bind(policy(f"unix:{path}"), 1, nothing(), Claims())
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(path)
        bound.close()
        assert os.listdir(tmp_path) == ["lbd.sock"]


@pytest.mark.parametrize("fate", ["gone", "stale"])
async def test_a_socket_whose_file_is_lost_is_opened_anew_by_the_next_change(tmp_path: Path, fate: str) -> None:
    path = tmp_path / "lbd.sock"
    bind = f"unix:{path}"
    sockets = sockets_for(2)
    first = await sockets.prepare({bind: policy(bind)})
    sockets.commit(first)
    assert not (await sockets.prepare({bind: policy(bind)})).renewed
    path.unlink()
    if fate == "stale":
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))
    sockets.discard(await sockets.prepare({bind: policy(bind)}))
    assert not path.exists()
    second = await sockets.prepare({bind: policy(bind, mode="0600")})
    assert second.renewed == [policy(bind, mode="0600")]
    assert second.fds(1, first.bounds.values()) == ((bind,), [second.bounds[bind].fd(1)])
    sockets.commit(second)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as downstream:
        downstream.connect(str(path))
        second.bounds[bind].sockets[0].accept()[0].close()
    sockets.close()
    assert os.listdir(tmp_path) == []


async def test_a_lost_file_in_whose_place_somebody_listens_refuses_the_change(tmp_path: Path) -> None:
    path = tmp_path / "lbd.sock"
    sockets = sockets_for(1)
    sockets.commit(await sockets.prepare({f"unix:{path}": policy(f"unix:{path}")}))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(EnvironmentFault, match="listens on it; stop it, or choose another path"):
            await sockets.prepare({f"unix:{path}": policy(f"unix:{path}")})
        sockets.close()
        assert os.listdir(tmp_path) == ["lbd.sock"]


async def test_a_mode_that_cannot_be_set_stops_nothing_and_is_tried_again(tmp_path: Path) -> None:
    lost, well = f"unix:{tmp_path}/lost.sock", f"unix:{tmp_path}/well.sock"
    sockets = sockets_for(1)
    sockets.commit(await sockets.prepare({bind: policy(bind) for bind in (lost, well)}))
    change = await sockets.prepare({bind: policy(bind, 32, "0666") for bind in (lost, well)})
    os.rename(tmp_path / "lost.sock", tmp_path / "aside")
    others = tmp_path / "lost.sock"
    others.write_text("another's")
    others.chmod(0o600)
    with pytest.raises(EnvironmentFault) as caught:
        sockets.commit(change)
    assert str(caught.value) == f"the mode of {lost} stays 0660: another file has its path"
    assert caught.value.path == ("listener", "web", "mode")
    assert stat.S_IMODE(others.stat().st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "well.sock").st_mode) == 0o666
    os.rename(tmp_path / "aside", others)
    sockets.commit(await sockets.prepare({bind: policy(bind, 32, "0666") for bind in (lost, well)}))
    assert stat.S_IMODE(others.stat().st_mode) == 0o666
    sockets.close()


# Inherited sockets


@pytest.mark.parametrize("word", ["number", "name"])
async def test_an_inherited_socket_is_copied_and_shared(word: str) -> None:
    with listening() as sock:
        inherited = Inherited({}, os.getpid())
        inherited.names = {"web": [sock.fileno()]}
        bound = await open_bind(policy(f"fd:{sock.fileno() if word == 'number' else 'web'}"), 4, inherited, Claims())
        assert {bound.fd(slot) for slot in range(4)} == {bound.fd(0)}
        assert os.fstat(bound.fd(0)).st_ino == os.fstat(sock.fileno()).st_ino
        bound.close()
        assert sock.fileno() >= 0


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, {}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, {"": [3, 4]}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:admin"}, {"web": [3], "admin": [4]}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:web"}, {"web": [3, 4], "": [5]}),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "2"}, {}),  # meant for our parent
        ({"LISTEN_PID": "7", "LISTEN_FDS": "many"}, {}),
        ({"LISTEN_FDS": "2"}, {}),
    ],
)
def test_listen_fds(environ: dict[str, str], names: dict[str, list[int]]) -> None:
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(6)]  # whatever 3, 4 and 5 are, they are open
    try:
        assert Inherited(environ, 7).names == names
    finally:
        for fd in held:
            os.close(fd)


@pytest.mark.parametrize("count", ["32", "5000000", "9" * 5000])
async def test_a_listen_fds_that_promises_what_is_not_there_brings_what_is(count: str) -> None:
    with listening() as sock:
        inherited = Inherited({"LISTEN_PID": "7", "LISTEN_FDS": count}, 7)
        word = "no sockets came" if len(count) > 10 else "LISTEN_FDS brought"
        with pytest.raises(EnvironmentFault, match=f"descriptor 999 was not open when lbd started; {word}"):
            await open_bind(policy("fd:999"), 1, inherited, Claims())
        (await open_bind(policy(f"fd:{sock.fileno()}"), 1, inherited, Claims())).close()


async def test_two_sockets_of_one_name_are_ambiguous() -> None:
    inherited = nothing()
    inherited.names = {"web": [3, 4]}
    with pytest.raises(EnvironmentFault, match=r'2 sockets came with the name "web"; LISTEN_FDS brought fd:3 \(web\), fd:4 \(web\)'):
        await open_bind(policy("fd:web"), 1, inherited, Claims())


async def test_a_descriptor_that_is_no_listening_socket_is_refused() -> None:
    near, far = socket.socketpair()
    with near, far, open("/dev/null") as file:  # noqa: ASYNC230
        inherited = Inherited({}, os.getpid())
        with pytest.raises(EnvironmentFault, match="is not a socket"):
            await open_bind(policy(f"fd:{file.fileno()}"), 1, inherited, Claims())
        with pytest.raises(EnvironmentFault, match="not a listening stream socket"):
            await open_bind(policy(f"fd:{near.fileno()}"), 1, inherited, Claims())


async def test_what_was_opened_after_the_start_is_not_inherited() -> None:
    inherited = Inherited({}, os.getpid())
    with listening() as sock, pytest.raises(EnvironmentFault, match="was not open when lbd started"):
        await open_bind(policy(f"fd:{sock.fileno()}"), 1, inherited, Claims())


# Changes


def listener(*bind: str, backlog: int = 16) -> ListenerPolicy:
    return ListenerPolicy("web", bind, cluster="web", backlog=backlog)


async def test_a_failed_change_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binds, "PAUSE", 0.0)
    kept, new = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    sockets = sockets_for(2)
    sockets.commit(await sockets.prepare(wanted_binds([listener(kept)])))
    before = (await sockets.prepare(wanted_binds([listener(kept)]))).fds(0, ())
    with listening() as other:
        wanted = wanted_binds([listener(kept, new, f"unix:{tmp_path}/a.sock", f"127.0.0.1:{other.getsockname()[1]}")])
        with pytest.raises(EnvironmentFault):
            await sockets.prepare(wanted)
    assert os.listdir(tmp_path) == []
    socket.create_server(("127.0.0.1", int(new.split(":")[1]))).close()  # free again
    assert (await sockets.prepare(wanted_binds([listener(kept)]))).fds(0, ()) == before
    sockets.close()


async def test_a_change_keeps_what_stays_and_closes_what_goes(tmp_path: Path) -> None:
    kept, gone, unix = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", f"unix:{tmp_path}/a.sock"
    sockets = sockets_for(2)
    first = await sockets.prepare(wanted_binds([listener(kept, gone, unix)]))
    sockets.commit(first)
    second = await sockets.prepare(wanted_binds([listener(kept, backlog=32)]))
    assert second.opened == []
    assert first.fds(1, ()) == ((kept, gone, unix), [first.bounds[bind].fd(1) for bind in (kept, gone, unix)])
    assert second.fds(1, {first.bounds[kept]}) == ((), [])
    sockets.commit(second)
    assert os.listdir(tmp_path) == []
    assert second.bounds[kept].policy.backlog == 32
    socket.create_server(("127.0.0.1", int(gone.split(":")[1]))).close()
    sockets.close()


@needs_filters
async def test_a_socket_that_is_to_go_lets_nobody_else_in() -> None:
    port = free_port()
    bound = await open_bind(policy(f"127.0.0.1:{port}"), 1, nothing(), Claims())
    (sock,) = bound.sockets
    with closing(bound), socket.create_connection(("127.0.0.1", port)) as early, socket.socket() as late:
        bound.deafen()
        late.setblocking(False)
        assert late.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
        accepted, peer = sock.accept()
        accepted.close()
        assert peer == early.getsockname()
        with pytest.raises(BlockingIOError):
            sock.accept()
        bound.hear()
        with socket.create_connection(("127.0.0.1", port)) as again:
            accepted, peer = sock.accept()
            accepted.close()
            assert peer == again.getsockname()


async def test_a_discarded_change_is_undone() -> None:
    bind = f"127.0.0.1:{free_port()}"
    sockets = sockets_for(1)
    change = await sockets.prepare(wanted_binds([listener(bind)]))
    sockets.discard(change)
    socket.create_server(("127.0.0.1", int(bind.split(":")[1]))).close()


async def test_a_port_may_move_to_another_of_our_addresses() -> None:
    port = free_port()
    sockets = sockets_for(2)
    sockets.commit(await sockets.prepare(wanted_binds([listener(f"0.0.0.0:{port}")])))
    sockets.commit(await sockets.prepare(wanted_binds([listener(f"127.0.0.1:{port}")])))
    with socket.create_connection(("127.0.0.1", port), 1):
        pass
    sockets.close()


# Two binds that are one place


def resolving(addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        address = addresses.get(host, host)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 0, "", (address, port))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ("127.0.0.1:{}", "app.internal:{}", '127.0.0.1:{} is where "127.0.0.1:{}" of listener.web.bind[1] listens already'),
        ("app.internal:{}", "[::1]:{}", ""),
        ("six.internal:{}", "[::1]:{}", '[::1]:{} is where "six.internal:{}" of listener.web.bind[1] listens already'),
        ("0.0.0.0:{}", "app.internal:{}", '127.0.0.1:{} and "0.0.0.0:{}" of listener.web.bind[1] want the same port'),
        ("app.internal:{}", "0.0.0.0:{}", '0.0.0.0:{} and "app.internal:{}" of listener.web.bind[1] want the same port'),
        ("app.internal:{}", "[::]:{}", ""),
    ],
)
@pytest.mark.parametrize("stage", ["start", "reload", "beside the admin's", "upgrade"])
async def test_two_binds_that_resolve_to_one_address_are_refused_before_the_second_one_listens(
    first: str, second: str, sentence: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving({"app.internal": "127.0.0.1", "six.internal": "::1"}, monkeypatch)
    port = free_port()
    first, second, sentence = (text.replace("{}", str(port)) for text in (first, second, sentence))
    sockets = old = sockets_for(2)
    doors: list[binds.Bound] = []
    fds: list[int] = []
    wanted = wanted_binds([listener(first, second)])
    if stage == "beside the admin's":
        doors.append(await sockets.open(wanted.pop(first), 1))
    elif stage != "start":
        sockets.commit(await sockets.prepare({first: wanted[first]}))
    if stage == "upgrade":  # whatever comes first in its configuration
        handover, *fds = handed_over(old)
        sockets = Sockets(2, nothing(), handover)
        wanted = dict(reversed(wanted.items()))
    if not sentence:
        sockets.discard(await sockets.prepare(wanted, doors))
    else:
        listened: set[object] = set()
        listen = socket.socket.listen

        def noted(sock: socket.socket, backlog: int) -> None:
            listened.add(sock.getsockname())
            listen(sock, backlog)

        monkeypatch.setattr(socket.socket, "listen", noted)
        with pytest.raises(EnvironmentFault) as caught:
            await sockets.prepare(wanted, doors)
        assert str(caught.value) == f"cannot listen on {second}: {sentence}; take one of the two out, or change it"
        assert caught.value.path == ("listener", "web", "bind", 1)
        assert len(listened) == (stage in ("start", "upgrade"))
    for bound in doors:
        bound.close()
    for fd in fds:
        os.close(fd)
    old.close()
    sockets.close()


async def test_two_words_for_one_inherited_socket_are_refused() -> None:
    with listening() as sock, listening() as another:
        inherited = Inherited({}, os.getpid())
        inherited.names = {"web": [sock.fileno()], "more": [another.fileno()]}
        sockets = Sockets(2, inherited, Handover({}))
        with pytest.raises(EnvironmentFault) as caught:
            await sockets.prepare(wanted_binds([listener(f"fd:{sock.fileno()}", "fd:more", "fd:web")]))
        assert str(caught.value) == (
            f'cannot listen on fd:web: its socket is where "fd:{sock.fileno()}" of listener.web.bind[1] listens already; '
            "take one of the two out, or change it"
        )


# Handed over by a predecessor


def handed_over(old: Sockets) -> tuple[Handover, int, int]:
    """What a new process has of them; and both ends of the socket by which it says that it serves."""
    reader, writer = (end.detach() for end in socket.socketpair())
    handed = {name: [os.dup(fd) for fd in fds] for name, fds in old.handed().items()}
    return Handover({VARIABLE: json.dumps({"sockets": handed, "files": old.files(), "ready": writer})}), reader, writer


@pytest.mark.parametrize(("before", "after"), [(2, 2), (1, 3), (3, 1)])
async def test_a_successor_takes_the_sockets_and_what_queues_in_them(before: int, after: int) -> None:
    bind = f"127.0.0.1:{free_port()}"
    old = sockets_for(before)
    old.commit(await old.prepare(wanted_binds([listener(bind, backlog=64)])))
    port = int(bind.split(":")[1])
    waiting = [socket.create_connection(("127.0.0.1", port), 1) for _ in range(20)]
    handover, reader, _ = handed_over(old)
    new = Sockets(after, nothing(), handover)
    change = await new.prepare(wanted_binds([listener(bind, backlog=64)]))
    new.commit(change)
    assert len({change.bounds[bind].fd(slot) for slot in range(after)}) == after
    inodes = {os.fstat(fd).st_ino for fd in old.handed()[bind]}
    assert len(inodes & {os.fstat(fd).st_ino for fd in new.handed()[bind]}) == min(before, after)
    handover.finish()
    assert os.read(reader, 10) == b"ready"
    accepted = 0
    for sock in {*old._bounds[bind].sockets, *new._bounds[bind].sockets}:
        with suppress(BlockingIOError):
            while True:
                sock.accept()[0].close()
                accepted += 1
    assert accepted == len(waiting)
    os.close(reader)  # the predecessor has left its place
    await handover.wait_alone()
    old.close(keep_files=True)
    new.close()
    for sock in waiting:
        sock.close()


async def test_a_unix_sockets_file_is_the_successors(tmp_path: Path) -> None:
    kept, gone = f"unix:{tmp_path}/kept.sock", f"unix:{tmp_path}/gone.sock"
    old = sockets_for(1)
    old.commit(await old.prepare(wanted_binds([listener(kept, gone)])))
    handover, reader, _ = handed_over(old)
    new = Sockets(1, nothing(), handover)
    new.commit(await new.prepare(wanted_binds([listener(kept)])))
    assert sorted(os.listdir(tmp_path)) == ["gone.sock", "kept.sock"]  # nothing is lost before the successor is ready
    handover.finish()
    old.close(keep_files=True)
    assert os.listdir(tmp_path) == ["kept.sock"]
    with socket.socket(socket.AF_UNIX) as downstream:
        downstream.connect(f"{tmp_path}/kept.sock")
    new.close()
    assert os.listdir(tmp_path) == []
    os.close(reader)
    await handover.wait_alone()


async def test_a_successor_opens_anew_what_its_predecessor_has_lost(tmp_path: Path) -> None:
    kept, gone = tmp_path / "kept.sock", tmp_path / "gone.sock"
    old = sockets_for(1)
    old.commit(await old.prepare(wanted_binds([listener(f"unix:{kept}", f"unix:{gone}")])))
    handover, reader, _ = handed_over(old)
    kept.unlink()
    gone.unlink()
    gone.write_text("another's")
    new = Sockets(1, nothing(), handover)
    new.commit(await new.prepare(wanted_binds([listener(f"unix:{kept}")])))
    assert handover.finish()
    old.close(keep_files=True)
    with socket.socket(socket.AF_UNIX) as downstream:
        downstream.connect(str(kept))
    assert gone.read_text() == "another's"
    new.close()
    assert os.listdir(tmp_path) == ["gone.sock"]
    os.close(reader)
    await handover.wait_alone()


@pytest.mark.parametrize("gets_far", [False, True])
async def test_a_successor_that_fails_leaves_the_file_where_it_is(tmp_path: Path, gets_far: bool) -> None:
    kept, own = f"unix:{tmp_path}/kept.sock", f"unix:{tmp_path}/own.sock"
    old = sockets_for(1)
    old.commit(await old.prepare(wanted_binds([listener(kept)])))
    handover, reader, writer = handed_over(old)
    new = Sockets(1, nothing(), handover)
    if gets_far:
        new.commit(await new.prepare(wanted_binds([listener(kept, own)])))
        new.close()
    else:
        with pytest.raises(EnvironmentFault):
            await new.prepare(wanted_binds([listener(kept, own, "fd:web")]))
    assert os.listdir(tmp_path) == ["kept.sock"]
    with socket.socket(socket.AF_UNIX) as downstream:
        downstream.connect(f"{tmp_path}/kept.sock")
    old.close()
    assert os.listdir(tmp_path) == []
    os.close(reader)
    os.close(writer)


async def test_a_predecessor_that_has_died_is_noticed() -> None:
    old = sockets_for(1)
    handover, reader, _ = handed_over(old)
    os.close(reader)
    assert not handover.finish()
    await handover.wait_alone()
    old.close()


async def test_without_a_predecessor_there_is_nothing_to_take() -> None:
    handover = Handover({})
    assert not handover.is_upgrade
    assert handover.take("127.0.0.1:1", 4) == []
    assert handover.take_heritage() == -1
    await handover.wait_alone()
    assert handover.finish()
