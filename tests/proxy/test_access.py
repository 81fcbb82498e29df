"""The access log: one line for each exchange, whatever strangers write."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from lbd.proxy.access import AccessLog
from lbd.proxy.grpc import NOT_GRPC, UNTOLD
from tests.routing.requests import make_request

if TYPE_CHECKING:
    from lbd.wire.message import RequestHead

NOON = 1767268800.0  # 2026-01-01T12:00:00Z


class FakeExchange:
    listener_name: str = "web"
    client: str = "192.0.2.1"
    route_name: str = "api"
    cluster_name: str = "api-next"
    endpoint_address: str = "10.0.0.1:9000"
    attempts: int = 1
    tried: tuple[str, ...] = ()
    is_reused: bool = True
    status: int = 200
    reason: str = ""
    grpc_status: int = NOT_GRPC
    sticky: str = ""
    request_id: bytes = b"00ff"
    bytes_in: int = 100
    bytes_out: int = 2000
    queue_seconds: float = 0.0
    connect_seconds: float = -1.0
    first_byte_seconds: float = 0.0123
    duration: float = 1.5
    detail: str = ""

    def __init__(self, request: RequestHead | None, **settings: object) -> None:
        self.request = request
        for name, value in settings.items():
            setattr(self, name, value)


class Log:
    """An access log whose lines are kept and whose clock is set by hand."""

    def __init__(self, format: str = "json") -> None:  # noqa: A002
        self.now = NOON
        self.lines: list[bytes] = []
        self.access = AccessLog(format, self.lines.append, lambda: self.now)

    def line(self, exchange: FakeExchange) -> bytes:
        self.access.write(exchange)
        line = self.lines[-1]
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert all(0x20 <= code < 0x7F for code in line[:-1])
        return line[:-1]

    def entry(self, exchange: FakeExchange) -> dict[str, object]:
        entry = json.loads(self.line(exchange))
        assert isinstance(entry, dict)
        return entry


BROWSER = (("User-Agent", "Mozilla/5.0 (X11)"), ("Referer", "https://example.com/?a=b"))


def test_every_key() -> None:
    exchange = FakeExchange(make_request("/x?y=1", "Example.com", "GET", *BROWSER))
    assert Log().entry(exchange) == {
        "time": "2026-01-01T12:00:00.000Z",
        "listener": "web",
        "client": "192.0.2.1",
        "method": "GET",
        "host": "example.com",
        "target": "/x?y=1",
        "protocol": "HTTP/1.1",
        "status": 200,
        "reason": "",
        "route": "api",
        "cluster": "api-next",
        "endpoint": "10.0.0.1:9000",
        "attempts": 1,
        "reused": True,
        "bytes_in": 100,
        "bytes_out": 2000,
        "duration": 1.5,
        "queue": 0.0,
        "connect": None,
        "first_byte": 0.0123,
        "request_id": "00ff",
        "referer": "https://example.com/?a=b",
        "user_agent": "Mozilla/5.0 (X11)",
        "detail": "",
    }


def test_what_was_no_request() -> None:
    refused = FakeExchange(
        None,
        route_name="",
        cluster_name="",
        endpoint_address="",
        status=400,
        reason="bad_request",
        detail='a "quoted" word',
        is_reused=False,
    )
    entry = Log().entry(refused)
    assert [entry[key] for key in ("method", "host", "target", "protocol")] == [""] * 4
    assert [entry[key] for key in ("status", "reason", "detail", "reused")] == [400, "bad_request", 'a "quoted" word', False]
    assert Log("combined").line(refused) == b'192.0.2.1 - - [01/Jan/2026:12:00:00 +0000] "-" 400 2000 "-" "-"'


def test_http_1_0() -> None:
    assert Log().entry(FakeExchange(make_request("/", "", minor=0)))["protocol"] == "HTTP/1.0"


@pytest.mark.parametrize(
    ("seconds", "time"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (NOON + 0.0005, "2026-01-01T12:00:00.000Z"),
        (NOON + 0.999, "2026-01-01T12:00:00.999Z"),
        (NOON + 0.9999, "2026-01-01T12:00:00.999Z"),
        (NOON + 1, "2026-01-01T12:00:01.000Z"),
        (NOON - 0.25, "2026-01-01T11:59:59.750Z"),  # clocks are set back, too
    ],
)
def test_times(seconds: float, time: str) -> None:
    log = Log()
    log.entry(FakeExchange(make_request()))
    log.now = seconds
    entry = log.entry(FakeExchange(make_request()))
    assert abs(int(str(entry["time"])[20:23]) - int(time[20:23])) <= 1  # floats have no exact milliseconds
    assert str(entry["time"])[:20] == time[:20]


NAMES = ("listener_name", "route_name", "cluster_name", "endpoint_address", "reason")


@pytest.mark.parametrize("name", NAMES)
def test_names_may_be_anything_a_file_can_say(name: str) -> None:
    exchange = FakeExchange(make_request(), **{name: 'b\u00fc"\\\n\U0001f600'})
    key = name.removesuffix("_name").removesuffix("_address")
    assert Log().entry(exchange)[key] == 'b\u00fc"\\\n\U0001f600'


CONTROLS = bytes([*range(0x20), 0x7F])  # Headers has none
RAW = st.binary(max_size=30).map(lambda raw: raw.decode("latin-1"))
VALUE = st.binary(max_size=30).map(lambda raw: raw.translate(None, CONTROLS).strip(b" ").decode("latin-1"))


@given(
    target=RAW,
    host=RAW,
    method=RAW,
    agent=VALUE,
    referer=VALUE,
    request_id=st.binary(max_size=10),
    detail=st.text(st.characters(), max_size=20),
    client=RAW,
)
def test_json_stays_json(
    target: str, host: str, method: str, agent: str, referer: str, request_id: bytes, detail: str, client: str
) -> None:
    request = make_request("/", "", "GET", ("User-Agent", agent), ("Referer", referer))
    request.target, request.authority, request.method = target.encode("latin-1"), host.encode("latin-1"), method.encode("latin-1")
    entry = Log().entry(FakeExchange(request, request_id=request_id, detail=detail, client=client))
    assert (entry["target"], entry["host"], entry["method"]) == (target, host, method)
    assert (entry["user_agent"], entry["referer"], entry["request_id"]) == (agent, referer, request_id.decode("latin-1"))
    assert entry["detail"] == detail
    assert len(entry) == 24


COMBINED = re.compile(rb'(\S+) - - \[([^]]+)\] "([^"]*)" (\d+) (\d+) "([^"]*)" "([^"]*)"')


def test_combined() -> None:
    line = Log("combined").line(FakeExchange(make_request("/x?y", "a.com", "GET", *BROWSER)))
    expected = b'192.0.2.1 - - [01/Jan/2026:12:00:00 +0000] "GET /x?y HTTP/1.1" 200 2000 "https://example.com/?a=b" "Mozilla/5.0 (X11)"'
    assert line == expected


@given(target=RAW, agent=VALUE, referer=VALUE)
def test_combined_stays_one_line_with_its_quotes_in_place(target: str, agent: str, referer: str) -> None:
    request = make_request("/", "", "GET", ("User-Agent", agent), ("Referer", referer))
    request.target = target.encode("latin-1")
    match = COMBINED.fullmatch(Log("combined").line(FakeExchange(request)))
    assert match is not None
    for written, raw in ((match[6], referer), (match[7], agent)):
        unescaped = re.sub(rb"\\x([0-9A-F]{2})", lambda code: bytes([int(code[1], 16)]), written)
        assert unescaped.decode("latin-1") == (raw or "-")


def test_combined_escapes_as_nginx_does() -> None:
    request = make_request('/"\\\x01\xe9', "a", "GET")
    request.target = b'/"\\\x01\xe9'
    assert b'"GET /\\x22\\x5C\\x01\\xE9 HTTP/1.1"' in Log("combined").line(FakeExchange(request))


def test_no_more_names_are_remembered_than_a_configuration_has() -> None:
    log = Log()
    for i in range(5000):
        entry = log.entry(FakeExchange(make_request(), endpoint_address=f"10.0.{i}:80", reason=f"r{i}"))
        assert (entry["endpoint"], entry["reason"]) == (f"10.0.{i}:80", f"r{i}")
    assert len(log.access) <= 2 * 4096


def written_plainly(exchange: FakeExchange) -> bytes:
    """The line as json writes it, field by field: what the fast way must be equal to, letter by letter."""
    request = exchange.request
    words = [b""] * 5
    if request is not None:
        headers = request.headers
        words = [request.method, request.authority, request.target, headers.get(b"referer") or b"", headers.get(b"user-agent") or b""]
    method, host, target, referer, agent = (word.decode("latin-1") for word in words)
    protocol = "" if request is None else ("HTTP/1.0", "HTTP/1.1", "HTTP/2")[request.minor]
    texts = {
        "time": "2026-01-01T12:00:00.000Z", "listener": exchange.listener_name, "client": exchange.client, "method": method, "host": host,
        "target": target, "protocol": protocol, "status": exchange.status, "reason": exchange.reason, "route": exchange.route_name,
        "cluster": exchange.cluster_name, "endpoint": exchange.endpoint_address, "attempts": exchange.attempts,
        "reused": exchange.is_reused, "bytes_in": exchange.bytes_in, "bytes_out": exchange.bytes_out, "duration": exchange.duration,
        "queue": exchange.queue_seconds, "connect": exchange.connect_seconds, "first_byte": exchange.first_byte_seconds,
        "request_id": exchange.request_id.decode("latin-1"), "tried": list(exchange.tried), "sticky": exchange.sticky,
        "grpc_status": exchange.grpc_status, "referer": referer,
        "user_agent": agent, "detail": exchange.detail,
    }  # fmt: skip
    if exchange.attempts < 2:
        del texts["tried"]
    if not exchange.sticky:
        del texts["sticky"]
    if request is None or exchange.grpc_status == NOT_GRPC:
        del texts["grpc_status"]
    elif exchange.grpc_status == UNTOLD:
        texts["grpc_status"] = None
    parts = []
    for key, value in texts.items():
        text = ("null" if value < 0 else f"{value:.6f}") if isinstance(value, float) else json.dumps(value, separators=(",", ":"))
        parts.append(f'"{key}":{text}')
    return f"{{{','.join(parts)}}}".encode()


NAME = st.sampled_from(["", "web", 'b\u00fc"\\', "\n"])
SECONDS = st.sampled_from([-1.0, 0.0, 0.0000004, 0.000312, 0.9999996, 3600.0])


@given(
    many=st.lists(
        st.fixed_dictionaries(
            {
                "listener_name": NAME,
                "client": NAME,
                "route_name": NAME,
                "cluster_name": NAME,
                "endpoint_address": NAME,
                "reason": NAME,
                "detail": NAME,
                "status": st.sampled_from([0, 200, 503]),
                "attempts": st.integers(0, 3),
                "tried": st.lists(NAME, max_size=2),
                "is_reused": st.booleans(),
                "sticky": st.sampled_from(["", "", "kept", "moved"]),
                "grpc_status": st.sampled_from([NOT_GRPC, NOT_GRPC, UNTOLD, 0, 14]),
                "bytes_in": st.integers(0, 1 << 40),
                "bytes_out": st.integers(0, 1 << 40),
                "queue_seconds": SECONDS,
                "connect_seconds": SECONDS,
                "first_byte_seconds": SECONDS,
                "duration": SECONDS.filter(lambda value: value >= 0),
            }
        ),
        max_size=5,
    ),
    minors=st.lists(st.sampled_from([None, 0, 1, 2]), min_size=5, max_size=5),
    fields=st.sampled_from([(), BROWSER, BROWSER[:1], BROWSER[1:], (("Accept", "*/*"),)]),
)
def test_remembered_pieces_say_what_was_said(
    many: list[dict[str, object]], minors: list[int | None], fields: tuple[tuple[str, str], ...]
) -> None:
    log = Log()
    for settings, minor in zip(many, minors, strict=False):
        request = None if minor is None else make_request("/x", "a.com", "GET", *fields, minor=minor)
        exchange = FakeExchange(request, **settings)
        assert log.line(exchange) == written_plainly(exchange)
