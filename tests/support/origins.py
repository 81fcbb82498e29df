"""Origins for tests.

`NginxOrigin`      fast: files, a POST sink, and an echo of the request's x-id, for load and for "every response is the right one"
`ScriptedOrigin`   slow and obedient: records every byte it receives, and misbehaves as the path asks (BEHAVIOURS)
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.support.http import Ended, Message, Reader
from tests.support.ports import free_port, free_ports
from tests.support.processes import NginxDaemon, start_nginx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

__all__ = ["BODIES", "NginxOrigin", "Received", "ScriptedOrigin", "answer_bytes", "start_origin"]

# Name of the file -> its size. 126 bytes is the small body of every comparison in docs/benchmarks.md.
BODIES = {"126": 126, "10k": 10 * 1024, "1m": 1 << 20, "100m": 100 << 20}

NGINX_ORIGIN = """\
daemon off;
user {user};
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {name}.pid;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=16;
    keepalive_timeout 600s;
    {settings}
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen unix:{directory}/{name}-answer.sock;
        location / {{ return 200 "taken\\n"; }}
    }}
{servers}}}
"""

# /sink takes the whole body before it answers: `return` alone would answer at once and read the body afterwards, which a
# balancer sees as an early response and pays for with a new connection.
NGINX_SERVER = """\
    server {{
        listen 127.0.0.1:{port} backlog=16384{options};
        root {directory}/files;
        add_header x-origin {origin};
        add_header x-id $http_x_id;
        location = / {{ return 200 "{small}"; }}
        location = /id {{ return 200 "$http_x_id"; }}
        location / {{ }}
        location = /sink {{
            proxy_pass http://unix:{directory}/{name}-answer.sock:/;
            proxy_pass_request_body off;
            proxy_set_header content-length "";
        }}
    }}
"""


class NginxOrigin:
    """Several origins in one nginx; each names itself in `x-origin`, and echoes `x-id` as a field and as the body of /id.

    `/`, `/126`, `/10k`, `/1m`, `/100m` have bodies of those sizes (BODIES), `/sink` takes a POST.
    """

    def __init__(
        self, directory: Path, count: int = 1, *, workers: int = 1, name: str = "origin", ports: list[int] | None = None,
        options: str = "", settings: str = "keepalive_requests 1000000000;",
    ) -> None:  # fmt: skip
        """`options` of `listen`: "http2" is HTTP/2 with prior knowledge and nothing else, "ssl http2" is either, by ALPN."""
        self.directory = directory
        self.options = f" {options}" if options else ""
        self.settings = settings
        self.name = name
        self.ports = ports or free_ports(count)
        self.workers = workers
        (directory / "files").mkdir(parents=True, exist_ok=True)
        for file, size in BODIES.items():
            write_body(directory / "files" / file, size)
        self.daemon: NginxDaemon | None = None
        self.start()

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def pid(self) -> int:
        assert self.daemon is not None
        return self.daemon.pid

    def text(self) -> str:
        directory = self.directory
        names = {"directory": directory, "name": self.name}
        user = "root" if os.getuid() == 0 else "nobody"  # root's temporary directories are closed to others; not obeyed for others
        servers = (
            NGINX_SERVER.format(**names, port=port, origin=f"{self.name}-{number}", small="x" * BODIES["126"], options=self.options)
            for number, port in enumerate(self.ports)
        )
        return NGINX_ORIGIN.format(**names, user=user, workers=self.workers, settings=self.settings, servers="".join(servers))

    def start(self) -> None:
        self.daemon = start_nginx(self.text(), self.directory, *self.ports, name=self.name)

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.kill()  # at once: an origin that lingers keeps its ports
            (self.directory / f"{self.name}-answer.sock").unlink(missing_ok=True)
            self.daemon = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def write_body(path: Path, size: int) -> None:
    """Not zeroes, not sparse: as a real file is read."""
    if not path.exists() or path.stat().st_size != size:
        block = os.urandom(min(size, 1 << 20))
        with path.open("wb") as file:
            for start in range(0, size, len(block)):
                file.write(block[: size - start])


@dataclass(slots=True)
class Received:
    """A request that a scripted origin got, and on which of its connections (the first is 1)."""

    message: Message
    connection: int


def answer_bytes(status: int, body: bytes = b"", *fields: str, reason: str = "OK") -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Link:
    """One accepted connection of a scripted origin, as a behaviour sees it."""

    def __init__(self, origin: ScriptedOrigin, sock: socket.socket, number: int) -> None:
        self.origin = origin
        self.sock = sock
        self.number = number
        self.reader = Reader(sock)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, message: Message, body: bytes, status: int = 200, *fields: str) -> None:
        identity = message.get("x-id")
        extra = [f"x-origin: {self.origin.name}", f"x-connection: {self.number}", *([f"x-id: {identity}"] if identity else [])]
        self.send(answer_bytes(status, b"" if message.method == "HEAD" else body, *extra, *fields))

    def pause(self, seconds: float) -> None:
        """Sleeps, but not beyond the origin's end."""
        self.origin.closing.wait(seconds)

    def reset(self) -> None:
        """SO_LINGER 0: close sends RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionAbortedError


# A behaviour returns False when the connection is to be closed.
def status(link: Link, message: Message, number: str) -> bool:
    link.answer(message, f"status {number}\n".encode() if number not in ("204", "304") else b"", int(number))
    return True


def sized(link: Link, message: Message, size: str) -> bool:
    link.answer(message, b"b" * int(size))
    return True


def slow(link: Link, message: Message, seconds: str) -> bool:
    link.pause(float(seconds))
    link.answer(message, b"slow\n")
    return True


def stream(link: Link, message: Message, count: str, pause: str) -> bool:
    """Chunked, with a trailer."""
    link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n")
    for number in range(int(count)):
        piece = f"chunk {number}\n".encode()
        link.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        link.pause(float(pause))
    link.send(b"0\r\nx-sum: %s\r\n\r\n" % count.encode())
    return True


def until_close(link: Link, message: Message, size: str) -> bool:
    link.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"u" * int(size))
    return False


def close(link: Link, message: Message) -> bool:
    return False


def reset(link: Link, message: Message) -> bool:
    link.reset()
    return False


def half(link: Link, message: Message) -> bool:
    """A tenth of what was announced."""
    link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"h" * 100)
    return False


def half_head(link: Link, message: Message) -> bool:
    link.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    return False


def garbage(link: Link, message: Message) -> bool:
    link.send(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\r\n")
    return False


def silent(link: Link, message: Message) -> bool:
    """Never answers; ends when the other side does."""
    while not link.origin.closing.is_set() and link.reader.more():
        pass
    return False


def hints(link: Link, message: Message) -> bool:
    link.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
    link.answer(message, b"hinted\n")
    return True


def last(link: Link, message: Message) -> bool:
    """Answers, says Connection: close, closes."""
    link.answer(message, b"last\n", 200, "Connection: close")
    return False


def goodbye(link: Link, message: Message) -> bool:
    """Answers as if it would stay, then closes: the next request on this connection meets a dead one."""
    link.answer(message, b"goodbye\n")
    return False


def extra(link: Link, message: Message) -> bool:
    """Sends bytes nobody asked for behind its answer: the connection must not be used again."""
    link.answer(message, b"extra\n")
    link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsmuggle")
    return True


def echo(link: Link, message: Message) -> bool:
    link.answer(message, message.body)
    return True


def show(link: Link, message: Message) -> bool:
    """The request as it came, in the body."""
    link.answer(message, message.raw)
    return True


def default(link: Link, message: Message) -> bool:
    link.answer(message, message.get("x-id", "ok").encode())
    return True


BEHAVIOURS: list[tuple[str, Callable[..., bool]]] = [
    (r"/status/(\d+)", status),
    (r"/bytes/(\d+)", sized),
    (r"/slow/([\d.]+)", slow),
    (r"/stream/(\d+)/([\d.]+)", stream),
    (r"/until-close/(\d+)", until_close),
    (r"/close", close),
    (r"/reset", reset),
    (r"/half", half),
    (r"/half-head", half_head),
    (r"/garbage", garbage),
    (r"/silent", silent),
    (r"/hints", hints),
    (r"/last", last),
    (r"/goodbye", goodbye),
    (r"/extra", extra),
    (r"/echo", echo),
    (r"/show", show),
]


class ScriptedOrigin:
    """A thread per connection; what it does is in the request's path, so that one origin serves every test of a kind.

    `received` has every request in order, with its raw bytes. `/early` answers before it reads the body. `behave`, when set,
    decides instead of the path: it gets the link and the message and returns False to close.
    """

    def __init__(self, name: str = "origin", port: int = 0, behave: Callable[[Link, Message], bool] | None = None) -> None:
        self.name = name
        self.port = port or free_port()
        self.behave = behave
        self.received: list[Received] = []
        self.connections = 0
        self.closing = threading.Event()
        self.links: dict[int, Link] = {}
        self.lock = threading.Lock()
        self.listener: socket.socket | None = None
        self.accepting: threading.Thread | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Message]:
        return [received.message for received in self.received]

    def start(self) -> None:
        self.closing.clear()
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.accepting = threading.Thread(target=self.accept, args=(self.listener,), daemon=True)
        self.accepting.start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # shut down
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections += 1
                link = Link(self, sock, self.connections)
                self.links[link.number] = link
            threading.Thread(target=self.serve, args=(link,), daemon=True).start()

    def serve(self, link: Link) -> None:
        with contextlib.suppress(OSError, Ended):
            while not self.closing.is_set() and link.reader.has_next() and self.exchange(link):
                pass
        with self.lock:
            link.sock.close()
            self.links.pop(link.number, None)

    def exchange(self, link: Link) -> bool:
        message = link.reader.head()
        if message.target == "/early":
            link.answer(message, b"early\n", 413)
            self.received.append(Received(message, link.number))
            return bool(link.reader.request_body(message))
        if message.get("expect").lower() == "100-continue":
            link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        link.reader.request_body(message)
        self.received.append(Received(message, link.number))
        if self.behave is not None:
            return self.behave(link, message)
        path = message.target.partition("?")[0]
        for pattern, behaviour in BEHAVIOURS:
            if match := re.fullmatch(pattern, path):
                return behaviour(link, message, *match.groups())
        return default(link, message)

    def stop(self) -> None:
        """Refuses from now on, and resets what is open: an origin that was killed."""
        self.closing.set()
        if self.listener is not None:
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread, which close alone does not
            self.listener.close()
            self.listener = None
        if self.accepting is not None:
            self.accepting.join(5.0)
        self.drop_connections()

    def drop_connections(self) -> None:
        """Closes what is open, and goes on accepting."""
        with self.lock:
            for link in self.links.values():
                with contextlib.suppress(OSError):
                    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    link.sock.shutdown(socket.SHUT_RDWR)

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def start_origin(name: str = "origin", behave: Callable[[Link, Message], bool] | None = None) -> ScriptedOrigin:
    return ScriptedOrigin(name, behave=behave)
