"""Health checks over HTTP/2 on virtual time: what a probe of `h2` and of `grpc` asks, and what answers mean. The h2 package answers."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError
from hypothesis import given, strategies as st
from trio.testing import memory_stream_pair

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.cluster.health import HealthPolicy, SecuredCheck
from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.master.grpc_check import decode_answer, encode_question
from lbd.master.probe import Outcome, Probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

GRPC = HealthPolicy(protocol="grpc")
H2 = HealthPolicy(protocol="h2")
SERVING = b"\0\0\0\0\2\x08\1"
Fields = list[tuple[str, str]]
OK_TRAILERS: Fields = [("grpc-status", "0")]
HEAD: Fields = [(":status", "200"), ("content-type", "application/grpc")]


class Origin:
    """One connection's worth of an HTTP/2 service; `answers(h2, stream)` when a request is whole."""

    def __init__(self, answers: Callable[[H2Connection, int], None]) -> None:
        self.answers = answers
        self.fields: dict[str, str] = {}
        self.body = b""

    async def serve(self, stream: trio.abc.Stream) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8", validate_outbound_headers=False))
        connection.initiate_connection()
        try:
            await stream.send_all(connection.data_to_send())
            while data := await stream.receive_some(65536):
                for event in connection.receive_data(bytes(data)):
                    match event:
                        case RequestReceived():
                            self.fields = {str(name): str(value) for name, value in event.headers}
                        case DataReceived():
                            self.body += event.data
                        case StreamEnded(stream_id=number):
                            self.answers(connection, number)
                await stream.send_all(connection.data_to_send())
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError):
            pass  # the probe has seen enough, or we have ended the connection


async def probe(policy: HealthPolicy, serve: Callable[[trio.abc.Stream], Any], address: str = "10.0.0.1:80") -> Outcome:
    async with trio.open_nursery() as nursery:

        async def connect(_: str) -> trio.abc.Stream:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(serve, theirs)
            return ours

        outcome = await Probe(policy, address, connect).run()
        nursery.cancel_scope.cancel()
    return outcome


def says(body: bytes = SERVING, trailers: Fields = OK_TRAILERS, head: Fields = HEAD) -> Callable[[H2Connection, int], None]:
    """No trailers: the body ends the stream. No body: Trailers-Only."""

    def answers(connection: H2Connection, number: int) -> None:
        connection.send_headers(number, head, end_stream=not body)
        if body:
            connection.send_data(number, body, end_stream=not trailers)
            if trailers:
                connection.send_headers(number, trailers, end_stream=True)

    return answers


def standing(value: int) -> bytes:
    return b"\0\0\0\0\2\x08" + bytes((value,))


def ends(status: int, message: str = "") -> Callable[[H2Connection, int], None]:
    return says(b"", [], [*HEAD, ("grpc-status", str(status)), ("grpc-message", message)])


@pytest.mark.parametrize(
    ("answers", "result", "reason"),
    [
        (says(), "ok", "SERVING"),
        (says(standing(0)), "status", "UNKNOWN"),
        (says(standing(2)), "status", "NOT_SERVING"),
        (says(standing(3)), "status", "SERVICE_UNKNOWN"),
        (says(standing(77)), "status", "77"),
        (says(b"\0\0\0\0\0"), "status", "UNKNOWN"),
        (ends(5), "status", 'grpc-status 5 NOT_FOUND: its health service does not know "shop.Cart"'),
        (ends(12), "status", "grpc-status 12 UNIMPLEMENTED: it has no service grpc.health.v1.Health"),
        (ends(14, "caf%C3%A9%0Aclosed"), "status", 'grpc-status 14 UNAVAILABLE: "caf\u00e9 closed"'),
        (ends(99), "status", "grpc-status 99 of no known name"),
        (says(trailers=[("grpc-status", "13")]), "status", "grpc-status 13 INTERNAL"),
        (says(trailers=[]), "protocol", "it is not gRPC"),
        (says(head=[(":status", "503")]), "status", "status 503, where gRPC has 200"),
        (says(b"\0\0\0"), "protocol", "no HealthCheckResponse: not one message, in 3 bytes"),
        (says(b"\1\0\0\0\2\x08\1"), "protocol", "compressed"),
        (says(SERVING * 2), "protocol", "not one message"),
        (says(b"x" * 10_000), "protocol", "it is not gRPC"),
        (lambda h2, number: h2.reset_stream(number, 11), "closed", "it reset the stream: ENHANCE_YOUR_CALM"),
        (lambda h2, _: h2.close_connection(2, last_stream_id=0), "closed", "it went away before it looked at the question: INTERNAL_ERROR"),
        (lambda h2, _: None, "timeout", "no answer within 2 s"),
    ],
)
async def test_what_an_answer_of_grpc_means(
    autojump_clock: MockClock, answers: Callable[[H2Connection, int], None], result: str, reason: str
) -> None:
    outcome = await probe(replace(GRPC, service="shop.Cart"), Origin(answers).serve)
    assert outcome.result == result
    assert reason in outcome.reason


@pytest.mark.parametrize("policy", [GRPC, H2])
@pytest.mark.parametrize(
    ("answer", "result", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol", "it does not speak HTTP/2"),
        (b"", "closed", "the connection was closed before its answer was whole"),
    ],
)
async def test_an_endpoint_that_does_not_speak_http2(
    autojump_clock: MockClock, policy: HealthPolicy, answer: bytes, result: str, reason: str
) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some(65536)
        if answer:
            await stream.send_all(answer)
        await stream.aclose()

    outcome = await probe(policy, serve)
    assert outcome.result == result
    assert reason in outcome.reason


async def test_what_grpc_is_asked(autojump_clock: MockClock) -> None:
    origin = Origin(says())
    policy = replace(GRPC, service="shop.Cart", host="cart.example", headers=(("X-Probe", "1"),))
    assert (await probe(policy, origin.serve)).ok
    assert origin.body == b"\0\0\0\0\x0b\x0a\x09shop.Cart"
    fields = dict(origin.fields)
    assert fields.pop("user-agent").startswith("lbd-health/")
    assert fields == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": "cart.example",
        "content-type": "application/grpc",
        "te": "trailers",
        "x-probe": "1",
    }


@pytest.mark.parametrize("policy", [GRPC, H2])
@pytest.mark.parametrize("value", ["\u00e9\u20ac", "caf\u00e9", " spaces around ", ""])
async def test_fields_go_as_utf_8(autojump_clock: MockClock, policy: HealthPolicy, value: str) -> None:
    origin = Origin(says())
    assert (await probe(replace(policy, headers=(("X-Probe", value),), service="\u00e9"), origin.serve)).ok
    assert origin.fields["x-probe"] == value.strip()
    assert origin.body == (b"\0\0\0\0\x04\x0a\x02\xc3\xa9" if policy is GRPC else b"")


@pytest.mark.parametrize(("address", "authority"), [("10.0.0.1:80", "10.0.0.1:80"), ("unix:/run/a.sock", "localhost")])
async def test_as_whom_it_asks(autojump_clock: MockClock, address: str, authority: str) -> None:
    origin = Origin(says())
    assert (await probe(GRPC, origin.serve, address)).ok
    assert origin.fields[":authority"] == authority
    assert origin.body == b"\0\0\0\0\0"


@pytest.mark.parametrize(
    ("policy", "answers", "result", "reason"),
    [
        ({}, says(b"", head=[(":status", "204")]), "ok", "status 204"),
        ({}, says(b"x" * 16_000, [], head=[(":status", "200")]), "ok", "status 200"),
        ({}, says(head=[(":status", "404")]), "status", "status 404, expected 200-399"),
        ({"method": "HEAD"}, says(b"", head=[(":status", "200"), ("content-length", "5")]), "ok", "status 200"),
        ({"expect_body": "fine$"}, says(b"all fine", [], head=[(":status", "200")]), "ok", "status 200"),
        ({"expect_body": "fine$"}, says(b"all fine", head=[(":status", "200")]), "ok", "status 200"),
        (
            {"expect_body": "fine", "body_limit": 4},
            says(b"all fine", head=[(":status", "200")]),
            "body",
            "nothing in the first 4 characters",
        ),
    ],
)
async def test_what_an_answer_of_h2_means(
    autojump_clock: MockClock, policy: dict[str, Any], answers: Callable[[H2Connection, int], None], result: str, reason: str
) -> None:
    origin = Origin(answers)
    outcome = await probe(replace(H2, path="/live?x=1", **policy), origin.serve)
    assert outcome.result == result
    assert reason in outcome.reason
    assert origin.fields[":path"] == "/live?x=1"


async def test_an_interim_response_is_not_the_answer(autojump_clock: MockClock) -> None:
    def answers(connection: H2Connection, number: int) -> None:
        connection.send_headers(number, [(":status", "103")])
        says()(connection, number)

    assert (await probe(GRPC, Origin(answers).serve)).ok


@pytest.mark.parametrize(("alpn", "result", "reason"), [("h2", "ok", "SERVING"), ("http/1.1", "tls", "it does not take h2 (ALPN)")])
async def test_a_cluster_with_tls(alpn: str, result: str, reason: str) -> None:
    authority = trustme.CA()
    trusting, serving = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(trusting)
    authority.issue_cert("app.example").configure_cert(serving)
    trusting.set_alpn_protocols(["h2"])
    serving.set_alpn_protocols([alpn])
    origin = Origin(says())
    policy = SecuredCheck(protocol="grpc", cluster="web", tls=ClusterTlsPolicy())
    async with trio.open_nursery() as nursery:

        async def connect(_: str) -> trio.abc.Stream:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(origin.serve, trio.SSLStream(theirs, serving, server_side=True, https_compatible=True))
            return ours

        outcome = await Probe(policy, "10.0.0.1:443", connect, secured=lambda *_: (trusting, "app.example")).run()
        nursery.cancel_scope.cancel()
    assert outcome == Outcome(result, reason)
    assert origin.fields.get(":scheme", "https") == "https"


@pytest.mark.parametrize(
    ("cluster", "check", "protocol"),
    [
        ("http1", {}, "http"),
        ("h2", {}, "h2"),
        ("h2", {"port": 9000}, "http"),
        ("h2", {"protocol": "https"}, "https"),
        ("h2", {"protocol": "tcp"}, "tcp"),
        ("http1", {"protocol": "grpc"}, "grpc"),
    ],
)
def test_a_check_speaks_as_its_cluster_does(cluster: str, check: dict[str, Any], protocol: str) -> None:
    for tls in (None, ClusterTlsPolicy()):
        policy = ClusterPolicy("web", (EndpointPolicy("a:1"),), protocol=cluster, health=HealthPolicy(**check), tls=tls).check()
        assert policy is not None
        assert policy.protocol == protocol
        assert isinstance(policy, SecuredCheck) == (tls is not None and not check.get("port") and protocol != "tcp")


# Messages


@pytest.mark.parametrize("service", ["", "a", "x" * 127, "x" * 128, "x" * 20_000, "caf\u00e9"])
def test_questions(service: str) -> None:
    framed = encode_question(service)
    assert framed[:1] == b"\0"
    message = framed[5:]
    assert int.from_bytes(framed[1:5], "big") == len(message)
    assert message.endswith(service.encode())
    assert (message == b"") is (service == "")
    if len(service) == 128:
        assert message.startswith(b"\x0a\x80\x01x")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"", 0),
        (b"\x08\x01", 1),
        (b"\x08\x81\x00", 1),  # a number longer than it need be
        (b"\x08\x02\x08\x01", 1),  # the last one holds
        (b"\x12\x03abc\x08\x01", 1),  # fields that we do not know
        (b"\x1912345678\x08\x01", 1),
        (b"\x1d1234\x08\x01", 1),
        (b"\x08", None),
        (b"\x08\xff", None),
        (b"\x08" + b"\xff" * 11, None),
        (b"\x12\x09abc", None),
        (b"\x19123", None),
        (b"\x0b", None),
    ],
)
def test_answers(message: bytes, status: int | None) -> None:
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    if status is None:
        with pytest.raises(ValueError):
            decode_answer(framed)
    else:
        assert decode_answer(framed) == status


@given(st.binary(max_size=40))
def test_whatever_comes_it_is_a_number_or_a_reason(message: bytes) -> None:
    for body in (message, b"\0" + len(message).to_bytes(4, "big") + message):
        with contextlib.suppress(ValueError):
            assert decode_answer(body) >= 0
