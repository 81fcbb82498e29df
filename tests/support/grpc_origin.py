"""A gRPC service of grpcio in a process of its own, so that it can be killed; messages are plain bytes, there is no protoc.

    python -m tests.support.grpc_origin PORT NAME [CERT KEY]

Methods of /lab.Echo/ (the name says which way messages flow):

    Once      the message again, once its first word has been written into the ledger
    Unary     the message again; metadata x-echo-* again, as initial metadata, and behind it as trailing metadata
    Client    the SHA-256 of all messages, and how many they were
    Server    "COUNT SIZE [PAUSE]": so many messages
    Bidi      each message again
    Fail      ends with FAILED_PRECONDITION and details, before any message
    FailLate  one message, then the same
    Slow      waits for so many seconds, or until the call is cancelled
    Ask       "name", "cancelled" (its name, and how many Slow or Server calls were), "remaining" (seconds up to the deadline)
    Health    "SERVICE STATUS": what the health service says from now on of it
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc

from tests.support.ports import free_port
from tests.support.processes import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GrpcOrigin"]

ECHO, HEALTH = "/lab.Echo/", "/grpc.health.v1.Health/Check"
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
CODE, DETAILS = grpc.StatusCode.FAILED_PRECONDITION, "no: 100% caf\u00e9"
LEDGER = "LBD_TESTS_LEDGER"
TRAILING = (("x-why", "because"), ("x-why-bin", b"\0\xff\x80"))

Context = Any  # grpc.ServicerContext; the package has no types


class GrpcOrigin(Daemon):
    """`pair`: certificate and key, for TLS. `ledger`: a file that several may share."""

    def __init__(
        self, directory: Path, name: str = "one", pair: tuple[Path, Path] | None = None, port: int = 0, ledger: Path | None = None
    ) -> None:
        self.port = port or free_port()
        root = Path(__file__).resolve().parents[2]
        command: list[str | Path] = [sys.executable, "-m", "tests.support.grpc_origin", str(self.port), name, *(pair or ())]
        environment = {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1", LEDGER: str(ledger or os.devnull)}
        super().__init__(command, directory, name=f"grpc-{name}", environment=environment)

    def __enter__(self) -> Self:
        return self.wait_for_ports(self.port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # the package has no types
    def __init__(self, name: str) -> None:
        self.name = name
        self.cancelled = 0
        self.ledger = os.open(os.environ.get(LEDGER, os.devnull), os.O_WRONLY | os.O_APPEND)
        self.standing = {"": 1, "shop.Cart": 1}
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        self.methods = {
            ECHO + "Once": unary(self.once),
            ECHO + "Unary": unary(self.unary),
            ECHO + "Client": grpc.stream_unary_rpc_method_handler(self.client),
            ECHO + "Server": stream(self.server),
            ECHO + "Bidi": grpc.stream_stream_rpc_method_handler(self.bidi),
            ECHO + "Fail": unary(self.fail),
            ECHO + "FailLate": stream(self.fail_late),
            ECHO + "Slow": unary(self.slow),
            ECHO + "Ask": unary(self.ask),
            ECHO + "Health": unary(self.set_health),
            HEALTH: unary(self.check),
        }

    def service(self, handler_call_details: Context) -> Context:
        return self.methods.get(handler_call_details.method)

    def once(self, message: bytes, context: Context) -> bytes:
        os.write(self.ledger, message.partition(b" ")[0] + b"\n")
        return message

    def unary(self, message: bytes, context: Context) -> bytes:
        echoed = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-echo-")]
        if message.startswith(b"zip"):
            context.set_compression(grpc.Compression.Gzip)
        context.send_initial_metadata(echoed)
        context.set_trailing_metadata(echoed)
        return message

    def client(self, messages: Iterator[bytes], context: Context) -> bytes:
        digest, count = hashlib.sha256(), 0
        for message in messages:
            digest.update(message)
            count += 1
        return f"{digest.hexdigest()} {count}".encode()

    def server(self, message: bytes, context: Context) -> Iterator[bytes]:
        count, size, *pause = message.decode().split()
        gone = self.watched(context)
        for index in range(int(count)):
            yield bytes((index % 256,)) * int(size)
            if pause and gone.wait(float(pause[0])):
                self.cancelled += 1
                return

    def bidi(self, messages: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield from messages

    def fail(self, message: bytes, context: Context) -> bytes:
        context.set_trailing_metadata(TRAILING)
        context.abort(CODE, DETAILS)
        return b""

    def fail_late(self, message: bytes, context: Context) -> Iterator[bytes]:
        yield message
        context.set_trailing_metadata(TRAILING)
        context.abort(CODE, DETAILS)

    def slow(self, message: bytes, context: Context) -> bytes:
        if self.watched(context).wait(float(message)):
            self.cancelled += 1
        return b"at last"

    def watched(self, context: Context) -> threading.Event:
        """Set when the call has ended: before its method, if somebody waits for it."""
        gone = threading.Event()
        context.add_callback(gone.set)
        return gone

    def ask(self, message: bytes, context: Context) -> bytes:
        known = {"name": self.name, "cancelled": f"{self.name} {self.cancelled}", "remaining": str(context.time_remaining())}
        return known[message.decode()].encode()

    def set_health(self, message: bytes, context: Context) -> bytes:
        *service, standing = message.decode().split()
        self.standing["".join(service)] = int(standing)
        return b""

    def check(self, message: bytes, context: Context) -> bytes:
        service = message[2:].decode()
        if service not in self.standing:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return b"\x08" + bytes((self.standing[service],))


def serve(port: str, name: str, *pair: str) -> None:
    server = grpc.server(ThreadPoolExecutor(64), handlers=[Echo(name)], options=UNLIMITED)
    if pair:
        cert, key = (Path(path).read_bytes() for path in pair)
        server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key, cert)]))
    else:
        server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    with contextlib.suppress(KeyboardInterrupt):
        server.wait_for_termination()


if __name__ == "__main__":
    serve(*sys.argv[1:])
