"""gRPC through lbd between grpcio's own clients and servers: in plain text, and with TLS on both sides."""

from __future__ import annotations

import hashlib
import json
import os
import random
import ssl
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
import pytest

from tests.support import procfs
from tests.support.certificates import Authority
from tests.support.grpc_origin import CODE, DETAILS, GrpcOrigin
from tests.support.http2 import Http2Socket
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.http2 import Answered

StatusCode = grpc.StatusCode
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
RETRIES_OFF = [("grpc.enable_retries", 0)]
MB = 1 << 20


@dataclass
class Lab:
    """lbd before two servers, and before nobody."""

    lbd: LbdDaemon
    origins: list[GrpcOrigin]
    port: int
    ca: bytes | None  # with TLS
    channel: Any = None
    read: int = field(default=0)  # lines of the access log

    def open(self, *options: tuple[str, int | str]) -> Any:  # noqa: ANN401 - the package has no types
        every = [*UNLIMITED, *RETRIES_OFF, *options]
        if self.ca is None:
            return grpc.insecure_channel(f"127.0.0.1:{self.port}", every)
        return grpc.secure_channel(f"localhost:{self.port}", grpc.ssl_channel_credentials(self.ca), every)

    def unary(self, method: str, message: bytes = b"", **options: Any) -> Any:  # noqa: ANN401 - as above, here and below
        return self.channel.unary_unary(f"/lab.Echo/{method}")(message, **{"timeout": 20.0, **options})

    def failing(self, method: str, message: bytes = b"", **options: Any) -> Any:  # noqa: ANN401
        with pytest.raises(grpc.RpcError) as caught:
            self.unary(method, message, **options)
        return caught.value

    def cancelled(self) -> int:
        """Calls that the servers know to have been cancelled."""
        asked: dict[str, int] = {}
        while len(asked) < len(self.origins):  # they take turns
            name, count = self.unary("Ask", b"cancelled").decode().split()
            asked[name] = int(count)
        return sum(asked.values())

    def line(self, method: str) -> dict[str, Any]:
        """The latest of the access log for that method."""

        def seen() -> list[dict[str, Any]]:
            lines = map(json.loads, (self.lbd.directory / "access.log").read_text().splitlines()[self.read :])
            return [line for line in lines if line["target"].endswith(f"/{method}")]

        wait_until(lambda: bool(seen()), f"a line of {method}")
        return seen()[-1]

    def forget(self) -> None:
        """What is in the access log."""
        time.sleep(0.3)
        self.read = len((self.lbd.directory / "access.log").read_text().splitlines())


def config(directory: Path, origins: list[GrpcOrigin], ports: list[int], authority: Authority | None) -> str:
    downstream = upstream = ""
    host = "127.0.0.1"
    if authority is not None:
        cert, key = authority.issue("web", "localhost")
        downstream = f'tls = {{ cert = "{cert}", key = "{key}" }}'
        upstream = f'tls = {{ ca = "{authority.file}" }}'
        host = "localhost"
    return f"""
[lbd]
workers = 1
drain_timeout = "5s"
[log]
access = "{directory}/access.log"
[admin]
bind = "127.0.0.1:{ports[1]}"
[listener.web]
bind = "{host}:{ports[0]}"
reason_header = true
cluster = "web"
{downstream}
[[listener.web.route]]
path = "/lab.Nobody/"
cluster = "nobody"
[[listener.web.route]]
path = "/lab.Small/"
cluster = "web"
max_body = "1KiB"
[[listener.web.route]]
path = "/lab.Closed/"
respond = {{ status = 503, body = "closed for the night" }}
[cluster.web]
endpoints = [{", ".join(f'"{host}:{origin.port}"' for origin in origins)}]
protocol = "h2"
health = {{ protocol = "grpc", service = "shop.Cart", interval = "200ms", rise = 1, fall = 2 }}
{upstream}
[cluster.nobody]
endpoints = ["127.0.0.1:{ports[2]}"]
protocol = "h2"
"""


@contextmanager
def started(directory: Path, *, has_tls: bool, pure: bool = False) -> Iterator[Lab]:
    ports = free_ports(3)
    authority = Authority(directory) if has_tls else None
    pair = authority.issue("origin", "localhost") if authority is not None else None
    with ExitStack() as stack:
        origins = [stack.enter_context(GrpcOrigin(directory, name, pair)) for name in ("one", "two")]
        lbd = stack.enter_context(start_lbd(config(directory, origins, ports, authority), directory, pure=pure))
        lab = Lab(lbd, origins, ports[0], authority.file.read_bytes() if authority is not None else None)
        lab.channel = lab.open()
        stack.callback(lab.channel.close)
        yield lab
        assert lbd.metric("lbd_faults_total") == 0


@pytest.fixture(scope="module", params=["h2c", "tls", "pure"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("grpc")
    with started(directory, has_tls=request.param == "tls", pure=request.param == "pure") as lab:
        yield lab


# The four kinds of calls


def test_unary_with_metadata_both_ways(lab: Lab) -> None:
    sent = (("x-echo-text", "words"), ("x-echo-bin", bytes(range(256))), ("x-echo-text", "twice"))
    answer, call = lab.channel.unary_unary("/lab.Echo/Unary").with_call(b"hello", metadata=sent, timeout=20.0)
    assert answer == b"hello"
    assert call.code() is StatusCode.OK
    assert sorted(map(tuple, (pair for pair in call.initial_metadata() if pair[0].startswith("x-echo")))) == sorted(sent)
    assert sorted(map(tuple, call.trailing_metadata())) == sorted(sent)
    line = lab.line("Unary")
    assert (line["protocol"], line["status"], line["grpc_status"], line["reason"]) == ("HTTP/2", 200, 0, "")


def test_client_streaming(lab: Lab) -> None:
    messages = [os.urandom(size) for size in (0, 1, 100, 70_000, 300_000)] * 5
    answer = lab.channel.stream_unary("/lab.Echo/Client")(iter(messages), timeout=20.0)
    assert answer.decode() == f"{hashlib.sha256(b''.join(messages)).hexdigest()} {len(messages)}"


def test_server_streaming(lab: Lab) -> None:
    messages = list(lab.channel.unary_stream("/lab.Echo/Server")(b"200 5000", timeout=20.0))
    assert messages == [bytes((index % 256,)) * 5000 for index in range(200)]


def test_bidirectional_streaming_is_a_conversation(lab: Lab) -> None:
    """Each message is sent when the one before has come back: nothing may wait for more."""
    came = threading.Semaphore(1)
    done = threading.Event()

    def questions() -> Iterator[bytes]:
        for index in range(50):
            assert came.acquire(timeout=10.0)
            yield b"%d" % index * (index * 50 + 1)
        done.wait(10.0)

    got = []
    for message in lab.channel.stream_stream("/lab.Echo/Bidi")(questions(), timeout=30.0):
        got.append(message)
        came.release()
        if len(got) == 50:
            done.set()
    assert got == [b"%d" % index * (index * 50 + 1) for index in range(50)]


def test_many_at_once_on_one_channel(lab: Lab) -> None:
    futures = [lab.channel.unary_unary("/lab.Echo/Unary").future(b"%d" % index, timeout=20.0) for index in range(300)]
    assert [future.result() for future in futures] == [b"%d" % index for index in range(300)]


def test_calls_of_one_channel_are_spread_over_the_servers(lab: Lab) -> None:
    names = Counter(lab.unary("Ask", b"name") for _ in range(40))
    assert names == {b"one": 20, b"two": 20}


def test_health_checks_are_answered(lab: Lab) -> None:
    """With TLS too: otherwise panic would hide that none is."""
    wait_until(lambda: lab.lbd.metric("lbd_health_checks_total", result="ok") >= 4, "checks")
    checks = {name: count for name, count in lab.lbd.metrics().items() if name.startswith("lbd_health_checks_total") and count}
    assert all('result="ok"' in name for name in checks), checks


# How calls end


def test_an_error_before_any_message_is_trailers_only(lab: Lab) -> None:
    error = lab.failing("Fail")
    assert (error.code(), error.details()) == (CODE, DETAILS)
    assert dict(error.trailing_metadata()).items() >= {"x-why": "because", "x-why-bin": b"\0\xff\x80"}.items()
    line = lab.line("Fail")
    assert (line["status"], line["grpc_status"], line["reason"]) == (200, 9, "")


def test_an_error_after_a_message(lab: Lab) -> None:
    stream = lab.channel.unary_stream("/lab.Echo/FailLate")(b"first", timeout=20.0)
    assert next(stream) == b"first"
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert (caught.value.code(), caught.value.details()) == (CODE, DETAILS)
    assert ("x-why-bin", b"\0\xff\x80") in [tuple(pair) for pair in stream.trailing_metadata()]


def test_a_method_that_there_is_not(lab: Lab) -> None:
    assert lab.failing("Unheard").code() is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("method", "size", "code", "reason", "status"),
    [
        ("/lab.Nobody/Unary", 1, StatusCode.UNAVAILABLE, "connect_refused", 502),
        ("/lab.Small/Unary", 5000, StatusCode.RESOURCE_EXHAUSTED, "request_too_large", 413),
        ("/lab.Closed/Unary", 1, StatusCode.UNAVAILABLE, "", 503),
    ],
)
def test_errors_of_lbd(lab: Lab, method: str, size: int, code: Any, reason: str, status: int) -> None:  # noqa: ANN401
    lab.forget()
    with pytest.raises(grpc.RpcError) as caught:
        lab.channel.unary_unary(method)(b"x" * size, timeout=20.0)
    assert caught.value.code() is code
    assert caught.value.details().split(":")[0] == (reason or "closed for the night")
    line = lab.line(method.rpartition("/")[2])
    assert (line["status"], line["reason"], line["grpc_status"]) == (status, reason, code.value[0])
    assert lab.lbd.metric("lbd_grpc_calls_total", status=str(code.value[0])) >= 1


@pytest.mark.parametrize(
    ("path", "metadata", "reason"),
    [
        ("/lab.Echo/Unary", [("x-long", "x" * 70_000)], "head_too_large"),
        ("/lab.Echo/Unary", [(f"x-{number}", "y") for number in range(120)], "head_too_large"),
        ("/lab.Echo/Unary" + "y" * 17_000, [], "target_too_long"),
    ],
)
def test_a_call_whose_head_is_refused(lab: Lab, path: str, metadata: list[tuple[str, str]], reason: str) -> None:
    before = lab.lbd.metric("lbd_rejected_total", reason=reason)
    with lab.open(("grpc.max_metadata_size", 1 << 20)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"", timeout=20.0, metadata=metadata)
        assert channel.unary_unary("/lab.Echo/Unary")(b"next", timeout=20.0), "the next call is none of this one's business"
    assert (caught.value.code(), caught.value.details().split(":")[0]) == (StatusCode.RESOURCE_EXHAUSTED, reason)
    assert lab.lbd.metric("lbd_rejected_total", reason=reason) == before + 1


def test_a_call_for_a_host_that_is_none(lab: Lab) -> None:
    with (
        lab.open(("grpc.default_authority", "not a host"), ("grpc.ssl_target_name_override", "localhost")) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary("/lab.Echo/Unary")(b"", timeout=20.0)
    assert caught.value.code() is StatusCode.INTERNAL
    assert caught.value.details().startswith("bad_host")


# Deadlines and cancellation


def test_the_deadline_of_the_client(lab: Lab) -> None:
    before = lab.cancelled()
    assert 15.0 < float(lab.unary("Ask", b"remaining", timeout=20.0)) < 21.0  # its clock rounds up
    began = time.monotonic()
    assert lab.failing("Slow", b"10", timeout=0.4).code() is StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 3.0
    wait_until(lambda: lab.cancelled() == before + 1, "the server to know of it")


def test_a_call_that_the_client_cancels(lab: Lab) -> None:
    before = lab.cancelled()
    lab.forget()
    future = lab.channel.unary_unary("/lab.Echo/Slow").future(b"10", timeout=20.0)
    time.sleep(0.2)
    future.cancel()
    wait_until(lambda: lab.cancelled() == before + 1, "the server to know of it")
    line = lab.line("Slow")
    assert (line["status"], line["reason"], line["grpc_status"]) == (0, "downstream_closed", 1)


def test_a_stream_that_the_client_cancels(lab: Lab) -> None:
    before = lab.cancelled()
    stream = lab.channel.unary_stream("/lab.Echo/Server")(b"100 10 0.05", timeout=20.0)
    assert next(stream) == b"\0" * 10
    stream.cancel()
    wait_until(lambda: lab.cancelled() == before + 1, "the server to know of it")


def call_by_hand(lab: Lab, method: str, message: bytes, timeout: bytes) -> Answered:
    """By a client that gives a deadline and does not keep it."""

    def secured(plain: socket.socket) -> socket.socket:
        context = ssl.create_default_context(cadata=lab.ca.decode() if lab.ca is not None else None)
        context.set_alpn_protocols(["h2"])
        return context.wrap_socket(plain, server_hostname="localhost")

    with Http2Socket(lab.port, wrap=secured if lab.ca is not None else None) as them:
        fields = (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", timeout)
        number = them.post(f"/lab.Echo/{method}", *fields)
        them.send(number, b"\0" + len(message).to_bytes(4, "big") + message, ends=True)
        return them.answer(number)


def test_lbd_keeps_the_deadline_too(lab: Lab) -> None:
    before = lab.cancelled()
    lab.forget()
    began = time.monotonic()
    answer = call_by_hand(lab, "Slow", b"10", b"300m")
    assert time.monotonic() - began < 3.0
    # The server has the same deadline, and may be first to say so.
    fields = dict(answer.fields + answer.trailers)
    assert (answer.status, fields[b"grpc-status"]) == (200, b"4")
    wait_until(lambda: lab.cancelled() == before + 1, "the server to know of it")
    assert lab.line("Slow")["grpc_status"] == 4


# Sizes


class Peak:
    """The worker's memory while something happens."""

    def __init__(self, lab: Lab) -> None:
        self.pid = lab.lbd.workers()[0]
        self.before = self.most = procfs.rss_of(self.pid)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        while not self.stop.wait(0.01):
            self.most = max(self.most, procfs.rss_of(self.pid))

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    @property
    def growth(self) -> float:
        return (self.most - self.before) / MB


def test_messages_of_64_mb_in_bounded_memory(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    message = os.urandom(MB) * 64
    assert lab.unary("Unary", message[:MB]) == message[:MB]
    with Peak(lab) as peak:
        assert lab.unary("Unary", message, timeout=60.0) == message
    with capsys.disabled():
        print(f" [64 MB both ways: the worker grew by {peak.growth:.1f} MB]", end="")
    assert peak.growth < 16


def test_compression_is_left_alone(lab: Lab) -> None:
    """What shrinks on its way in is not unpacked in the middle, in either direction."""
    message = b"zip" + bytes(MB)
    lab.forget()
    assert lab.unary("Unary", message, compression=grpc.Compression.Gzip) == message
    line = lab.line("Unary")
    assert line["bytes_in"] < 50_000
    assert line["bytes_out"] < 50_000


def test_everything_at_once_leaves_nothing_behind(lab: Lab) -> None:
    """Calls of every kind, a third of them cancelled or out of time: no wrong answer, and no stream that stays."""
    chance = random.Random(7)
    calls: list[tuple[str, Any]] = []
    for _ in range(400):
        kind, timeout = chance.choice(("Unary", "Slow", "Server", "Fail")), chance.choice((0.05, 0.3, 20.0))
        if kind == "Server":
            call = lab.channel.unary_stream("/lab.Echo/Server")(b"20 5000 0.001", timeout=timeout)
        else:
            message = {"Slow": b"0.2"}.get(kind, os.urandom(chance.choice((1, 1000, 100_000))))
            call = lab.channel.unary_unary(f"/lab.Echo/{kind}").future(message, timeout=timeout)
        calls.append((kind, call))
        if chance.random() < 0.3:
            chance.choice(calls)[1].cancel()
        time.sleep(0.001)
    ended: Counter[tuple[str, str]] = Counter()
    for kind, call in calls:
        try:
            answer = list(call) if kind == "Server" else call.result()
            assert kind != "Server" or answer == [bytes((index,)) * 5000 for index in range(20)]
            ended[kind, "OK"] += 1
        except (grpc.RpcError, grpc.FutureCancelledError):
            ended[kind, call.code().name] += 1
    assert {name for _, name in ended} <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION"}, ended
    assert ended["Unary", "OK"] > 20
    assert ended["Server", "OK"] > 5
    wait_until(lambda: lab.lbd.metric("lbd_http2_streams") == 0, "the last stream to end")
    wait_until(lambda: lab.lbd.metric("lbd_endpoint_inflight") == 0, "the endpoints to be idle")


# Servers that die, or say that they cannot


def test_a_server_that_is_killed_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    with started(tmp_path, has_tls=False) as lab:
        stream = lab.channel.unary_stream("/lab.Echo/Server")(b"1000 10 0.02", timeout=20.0)
        assert next(stream) == b"\0" * 10
        wait_until(lambda: next(stream) != b"\x01" * 10, "some more")
        for origin in lab.origins:
            origin.kill()
        with pytest.raises(grpc.RpcError) as caught:
            for _ in stream:
                pass
        assert caught.value.code() is StatusCode.UNAVAILABLE
        assert caught.value.details().split(":")[0] in ("upstream_closed", "upstream_reset")
        line = lab.line("Server")
        assert (line["status"], line["grpc_status"]) == (200, 14)
        error = lab.failing("Unary")
        assert error.code() is StatusCode.UNAVAILABLE
        assert "127.0.0.1" not in error.details()


def test_a_health_check_that_flips(tmp_path: Path) -> None:
    with started(tmp_path, has_tls=False) as lab, grpc.insecure_channel(lab.origins[1].address) as direct:

        def standing() -> dict[str, float]:
            return {
                name: lab.lbd.metric("lbd_endpoint_up", endpoint=origin.address) for name, origin in zip("12", lab.origins, strict=True)
            }

        def say(text: bytes) -> None:
            direct.unary_unary("/lab.Echo/Health")(text, timeout=5.0)

        wait_until(lambda: lab.lbd.metric("lbd_health_checks_total", result="ok") >= 4, "checks")
        assert standing() == {"1": 1, "2": 1}
        say(b"shop.Cart 2")
        wait_until(lambda: standing() == {"1": 1, "2": 0}, "the flip")
        lab.lbd.wait_for_log("NOT_SERVING")
        assert {lab.unary("Ask", b"name") for _ in range(10)} == {b"one"}
        say(b"shop.Cart 1")
        wait_until(lambda: standing() == {"1": 1, "2": 1}, "the flip back")
        assert {lab.unary("Ask", b"name") for _ in range(10)} == {b"one", b"two"}


def test_nobody_left(tmp_path: Path) -> None:
    """All down, and no panic: the message says so."""
    with started(tmp_path, has_tls=False) as lab:
        text = lab.lbd.config.read_text().replace('protocol = "h2"\nhealth', 'protocol = "h2"\npanic = 0.0\nhealth')
        lab.lbd.reload(text)
        for origin in lab.origins:
            origin.kill()
        wait_until(lambda: lab.lbd.metric("lbd_endpoint_up", cluster="web") == 0, "the flips")
        error = lab.failing("Unary")
        assert (error.code(), error.details()) == (StatusCode.UNAVAILABLE, "no_healthy_endpoint: no endpoint can take the request")


def test_a_reload_and_a_stop_lose_no_call(tmp_path: Path) -> None:
    with started(tmp_path, has_tls=False) as lab:
        stream = lab.channel.unary_stream("/lab.Echo/Server")(b"60 10 0.02", timeout=20.0)
        assert next(stream) == b"\0" * 10
        lab.lbd.reload()
        assert lab.unary("Unary", b"x") == b"x"
        lab.lbd.process.terminate()
        assert len(list(stream)) == 59
        assert stream.code() is StatusCode.OK
        assert lab.lbd.wait() == 0
        assert lab.failing("Unary", timeout=2.0).code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
        lab.lbd.metric = lambda *_, **__: 0.0  # type: ignore[method-assign]  # it is gone
