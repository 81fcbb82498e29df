"""A small origin for the demo: `python -m lbd.cli.origin NAME [PORT]`.

It prints its port, answers every request with its name, and ends when its standard input does: so it cannot outlive who started it.
/early has an early hint (103) before its answer, /trailers a field behind it, /ws echoes WebSockets.
"""

from __future__ import annotations

import signal
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lbd.cli.echo import accept_key, echo_frames

__all__ = ["Origin", "serve_origin"]

CHUNK = 64 * 1024


class Origin(ThreadingHTTPServer):
    """A thread for each connection; HTTP/1.1, so that connections are kept."""

    daemon_threads = True
    request_queue_size = 1024  # the stdlib's 5 refuses what the balancer sends in a burst

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        super().__init__(("127.0.0.1", port), Exchange)


class Exchange(BaseHTTPRequestHandler):
    """One connection's requests."""

    protocol_version = "HTTP/1.1"
    server: Origin
    disable_nagle_algorithm = True  # the head and the body of an answer are two writes; the second would wait for an ACK
    timeout = 75.0  # of an idle connection, beyond what a balancer keeps

    def answer(self) -> None:
        if self.path == "/ws" and (key := self.headers.get("Sec-WebSocket-Key")):
            self.echo(key)
            return
        size = self.drain_body()
        received = f" with {size} bytes" if size else ""
        body = f"{self.server.name}: {self.command} {self.path}{received}\n".encode()
        if self.path == "/early":
            self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        has_trailers = self.path == "/trailers"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header(*("Transfer-Encoding", "chunked") if has_trailers else ("Content-Length", str(len(body))))
        self.send_header("X-Origin", self.server.name)
        self.end_headers()
        if self.command != "HEAD":
            last = b"0\r\nX-Digest: %08x\r\n\r\n" % zlib.crc32(body)
            self.wfile.write(b"%x\r\n%b\r\n%b" % (len(body), body, last) if has_trailers else body)

    def echo(self, key: str) -> None:
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))):
            self.send_header(name, value)
        self.end_headers()
        echo_frames(self.rfile, self.wfile)
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def drain_body(self) -> int:
        """What is not read would be taken for the next request."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self.drain_chunks()
        return self.drain(int(self.headers.get("Content-Length", 0)))

    def drain_chunks(self) -> int:
        total = 0
        while size := int(self.rfile.readline(CHUNK).split(b";")[0], 16):
            total += self.drain(size)
            self.rfile.readline(CHUNK)
        while self.rfile.readline(CHUNK).strip():  # trailers
            pass
        return total

    def drain(self, size: int) -> int:
        left = size
        while left and (data := self.rfile.read(min(left, CHUNK))):
            left -= len(data)
        return size - left

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the stdlib's name
        """The balancer's access log tells enough."""


def serve_origin(name: str, port: int = 0) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the balancer, which still needs us to drain
    with Origin(name, port) as origin:
        print(origin.server_address[1], flush=True)
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        sys.stdin.buffer.read()
        origin.shutdown()


if __name__ == "__main__":
    serve_origin(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
