"""The access log: one line for each exchange.

Theory. A line holds what strangers wrote (target, User-Agent), so nothing of it may end the line or its field: JSON escapes
everything but plain ASCII, the combined format writes \\xHH as nginx does. Bytes that are no ASCII are read as latin-1: every byte
has a character there, so that the log tells exactly what was sent.

A busy worker writes 40,000 lines a second, so a line is put together of few pieces. Who met whom and what came of it is one of few
things that are always the same: these pieces are remembered, keyed by what they say. The escaping of json's own C function costs
less than asking whether anything needs it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Protocol, TypeVar

from lbd.proxy.grpc import NOT_GRPC

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbd.wire.message import Headers, RequestHead

__all__ = ["AccessLog", "Logged"]

HARMLESS = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')
MAX_REMEMBERED = 4096  # pieces of each kind; clients and endpoints come and go
PROTOCOLS = ("HTTP/1.0", "HTTP/1.1", "HTTP/2", "TCP")  # by a head's `minor`; a session has a head with nothing but a name
COMBINED_LINE = b'%b - - [%b] "%b" %d %d "%b" "%b"\n'
NO_STRINGS = '"referer":"","user_agent":"","detail":'
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

Met = tuple[str, str]  # listener, client
Outcome = tuple[str, int, str, str, str, str, int, bool]  # protocol, status, reason, route, cluster, endpoint, attempts, reused
Key = TypeVar("Key", Met, Outcome)


class Logged(Protocol):
    """What the log asks of an exchange. Seconds of what did not happen are -1.0."""

    @property
    def request(self) -> RequestHead | None: ...  # None: what came was no request
    @property
    def listener_name(self) -> str: ...
    @property
    def client(self) -> str: ...
    @property
    def route_name(self) -> str: ...
    @property
    def cluster_name(self) -> str: ...
    @property
    def endpoint_address(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def tried(self) -> Sequence[str]: ...  # asked for only where there were several attempts: those before the last
    @property
    def is_reused(self) -> bool: ...
    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def grpc_status(self) -> int: ...  # as proxy/grpc.py has it
    @property
    def sticky(self) -> str: ...  # "": no sessions are sticky there
    @property
    def request_id(self) -> bytes: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def queue_seconds(self) -> float: ...
    @property
    def connect_seconds(self) -> float: ...
    @property
    def first_byte_seconds(self) -> float: ...
    @property
    def duration(self) -> float: ...
    @property
    def detail(self) -> str: ...


class AccessLog:
    """`append` takes a whole line and never blocks; `clock` is the wall clock, in seconds since 1970."""

    __slots__ = ("_append", "_clock", "_is_json", "_met", "_outcomes", "_stamp", "_tick")

    def __init__(self, format: str, append: Callable[[bytes], None], clock: Callable[[], float]) -> None:  # noqa: A002 - the key's name
        self._append = append
        self._clock = clock
        self._is_json = format == "json"
        self._tick = -1  # the millisecond (the second, in combined lines) of `_stamp`
        self._stamp = ""
        self._met: dict[Met, str] = {}
        self._outcomes: dict[Outcome, str] = {}

    def write(self, exchange: Logged) -> None:
        self._append(self._json_line(exchange) if self._is_json else self._combined_line(exchange))

    def _json_line(self, exchange: Logged) -> bytes:
        tick = int(self._clock() * 1000)
        if tick != self._tick:
            self._tick, self._stamp = tick, rfc3339(tick)
        request, duration, first_byte = exchange.request, exchange.duration, exchange.first_byte_seconds
        took = f"{duration:.6f}"
        method = host = target = b""
        protocol, strings = "", NO_STRINGS
        if request is not None:
            method, host, target, protocol = request.method, request.authority, request.target, PROTOCOLS[request.minor]
            if request.headers.encode():
                strings = strings_of(request.headers)
            if exchange.grpc_status != NOT_GRPC:
                strings = f'"grpc_status":{exchange.grpc_status if exchange.grpc_status >= 0 else "null"},{strings}'
        if exchange.sticky:
            strings = f'"sticky":"{exchange.sticky}",{strings}'
        if exchange.attempts > 1:
            strings = f'"tried":[{",".join(map(quoted, exchange.tried))}],{strings}'
        met = exchange.listener_name, exchange.client
        outcome = (
            protocol, exchange.status, exchange.reason, exchange.route_name, exchange.cluster_name, exchange.endpoint_address,
            exchange.attempts, exchange.is_reused,
        )  # fmt: skip
        return (
            f"{self._stamp}{self._met.get(met) or remember(self._met, met, met_text(met))}{quoted(method.decode('latin-1'))},"
            f'"host":{quoted(host.decode("latin-1"))},"target":{quoted(target.decode("latin-1"))},'
            f"{self._outcomes.get(outcome) or remember(self._outcomes, outcome, outcome_text(outcome))}{exchange.bytes_in},"
            f'"bytes_out":{exchange.bytes_out},"duration":{took},"queue":{seconds(exchange.queue_seconds)},'
            f'"connect":{seconds(exchange.connect_seconds)},"first_byte":{took if first_byte == duration else seconds(first_byte)},'
            f'"request_id":{quoted(exchange.request_id.decode("latin-1"))},{strings}{quoted(exchange.detail)}}}\n'
        ).encode("ascii")

    def _combined_line(self, exchange: Logged) -> bytes:
        tick = int(self._clock())
        if tick != self._tick:
            self._tick, self._stamp = tick, common_log_time(tick)
        request = exchange.request
        line = referer = agent = b""
        if request is not None and request.method:
            line = b"%b %b %b" % (request.method, request.target, PROTOCOLS[request.minor].encode())
            referer, agent = request.headers.get(b"referer") or b"", request.headers.get(b"user-agent") or b""
        client = exchange.client.encode("ascii", "backslashreplace")
        if (client + line + referer + agent).translate(None, HARMLESS):  # what is harmless is deleted, at a byte per nanosecond
            client, line, referer, agent = hex_text(client), hex_text(line), hex_text(referer), hex_text(agent)
        return COMBINED_LINE % (
            client or b"-", self._stamp.encode(), line or b"-", exchange.status, exchange.bytes_out, referer or b"-", agent or b"-",
        )  # fmt: skip

    def __len__(self) -> int:
        """How many pieces are remembered."""
        return len(self._met) + len(self._outcomes)


def strings_of(headers: Headers) -> str:
    """What a browser tells of itself."""
    referer, agent = headers.get(b"referer"), headers.get(b"user-agent")
    if not referer:
        if not agent:
            return NO_STRINGS
        return f'"referer":"","user_agent":{quoted(agent.decode("latin-1"))},"detail":'
    return f'"referer":{quoted(referer.decode("latin-1"))},"user_agent":{quoted((agent or b"").decode("latin-1"))},"detail":'


def met_text(met: Met) -> str:
    """Up to the method."""
    listener, client = met
    return f'"listener":{quoted(listener)},"client":{quoted(client)},"method":'


def outcome_text(outcome: Outcome) -> str:
    """Up to the bytes that came in."""
    protocol, status, reason, route, cluster, endpoint, attempts, reused = outcome
    return (
        f'"protocol":"{protocol}","status":{status},"reason":{quoted(reason)},"route":{quoted(route)},"cluster":{quoted(cluster)},'
        f'"endpoint":{quoted(endpoint)},"attempts":{attempts},"reused":{"true" if reused else "false"},"bytes_in":'
    )


def remember(known: dict[Key, str], key: Key, text: str) -> str:
    if len(known) >= MAX_REMEMBERED:
        known.clear()
    known[key] = text
    return text


def seconds(value: float) -> str:
    return "null" if value < 0.0 else f"{value:.6f}"


def hex_text(raw: bytes) -> bytes:
    """As it stands between the quotes of a combined line."""
    return b"".join(b"%c" % code if code in HARMLESS else b"\\x%02X" % code for code in raw)


def rfc3339(millisecond: int) -> str:
    """The beginning of a JSON line."""
    moment = datetime.fromtimestamp(millisecond // 1000, UTC)
    return f'{{"time":"{moment:%Y-%m-%dT%H:%M:%S}.{millisecond % 1000:03d}Z",'


def common_log_time(second: int) -> str:
    """10/Oct/2000:13:55:36 +0000, whatever the locale says of months."""
    moment = datetime.fromtimestamp(second, UTC)
    return f"{moment.day:02d}/{MONTHS[moment.month - 1]}/{moment:%Y:%H:%M:%S} +0000"
