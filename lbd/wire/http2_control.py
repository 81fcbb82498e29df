"""Frames that are about the connection, or end a stream: what each changes. Section numbers are RFC 9113's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.wire.http2_events import PingAnswered, SettingsChanged, StreamReset, WentAway, WindowOpened
from lbd.wire.http2_frames import (
    ACK,
    ENABLE_CONNECT_PROTOCOL,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MOST,
    PING,
    PROTOCOL_ERROR,
    SETTINGS,
    ConnectionFault,
    StreamFault,
    checked_settings,
    code_name,
    frame,
)
from lbd.wire.http2_limits import PER_STREAM

if TYPE_CHECKING:
    from lbd.wire.http2_state import Http2State

__all__ = ["goaway", "ping", "priority", "push_promise", "rst_stream", "settings", "window_update"]

TABLE = 4096  # bytes of the dynamic table that the other side has for us, unless it says otherwise


def push_promise(state: Http2State, number: int, flags: int, payload: bytes) -> None:
    raise ConnectionFault(PROTOCOL_ERROR, "PUSH_PROMISE, that nobody asked for")  # 8.4


def rst_stream(state: Http2State, number: int, flags: int, payload: bytes) -> None:
    if len(payload) != 4:
        raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM of a length that is not 4")
    if state.is_idle(number):
        raise ConnectionFault(PROTOCOL_ERROR, f"RST_STREAM on stream {number}, which is idle")
    stream = state.streams.get(number)
    if stream is None:
        state.idle()
        return
    code = int.from_bytes(payload, "big")
    state.drop(stream, False)
    state.events.append(StreamReset(number, code, f"the other side reset it: {code_name(code)}", False))
    if state.is_downstream:
        state.count_reset()


def priority(state: Http2State, number: int, flags: int, payload: bytes) -> None:
    state.idle()  # 5.3.2: obsolete
    if len(payload) != 5:
        if state.is_idle(number):
            raise ConnectionFault(FRAME_SIZE_ERROR, "PRIORITY of a length that is not 5")  # an idle stream cannot be reset
        raise StreamFault(FRAME_SIZE_ERROR, "PRIORITY of a length that is not 5")


def settings(state: Http2State, number: int, flags: int, payload: bytes) -> None:
    if flags & ACK:
        if payload:
            raise ConnectionFault(FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with content")
        settings_acknowledged(state)
        return
    pairs = checked_settings(payload, not state.is_downstream)
    state.idle(1 + len(pairs) / 10 + len(state.streams) * PER_STREAM)
    for key, value in pairs:
        if key == INITIAL_WINDOW_SIZE:
            change_windows(state, value)
        elif key == HEADER_TABLE_SIZE:
            if value < TABLE:
                state.must_empty_table = True  # we have nothing in it, but must say so (RFC 7541, 4.2)
        elif key == MAX_CONCURRENT_STREAMS:
            state.max_streams = value
        elif key == ENABLE_CONNECT_PROTOCOL:
            if state.extended_connect and not value:
                raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_CONNECT_PROTOCOL taken back")  # RFC 8441, 3
            state.extended_connect = value == 1
    state.put(frame(SETTINGS, ACK, 0, b""))
    state.events.append(SettingsChanged())


def settings_acknowledged(state: Http2State) -> None:
    state.idle()
    if not state.is_acknowledged:
        state.is_acknowledged = True
        surplus = state.window - state.limits.window
        state.window = state.limits.window
        for stream in state.streams.values():
            stream.in_window -= surplus


def change_windows(state: Http2State, value: int) -> None:
    """6.9.2: of the streams that are there too, by the difference."""
    change = value - state.initial_out
    state.initial_out = value
    for stream in state.streams.values():
        stream.out_window += change
        if stream.out_window > MOST:
            raise ConnectionFault(FLOW_CONTROL_ERROR, f"a window of stream {stream.number} above 2^31-1")
    if change > 0:
        state.events.append(WindowOpened(0))


def ping(state: Http2State, number: int, flags: int, payload: bytes) -> None:
    if len(payload) != 8:
        raise ConnectionFault(FRAME_SIZE_ERROR, "PING of a length that is not 8")
    state.idle()
    if flags & ACK:
        state.events.append(PingAnswered(payload))
    else:
        state.put(frame(PING, ACK, 0, payload))


def goaway(state: Http2State, number: int, flags: int, payload: bytes) -> None:
    if len(payload) < 8:
        raise ConnectionFault(FRAME_SIZE_ERROR, "GOAWAY too short")
    state.idle()
    last = int.from_bytes(payload[:4], "big") & MOST
    code = int.from_bytes(payload[4:8], "big")
    if state.went_away is not None and last > state.went_away:
        raise ConnectionFault(PROTOCOL_ERROR, "a GOAWAY that takes back the one before")  # 6.8
    state.went_away = last
    state.events.append(WentAway(last, code, payload[8:208].decode("ascii", "replace")))


def window_update(state: Http2State, number: int, flags: int, payload: bytes) -> None:
    if len(payload) != 4:
        raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a length that is not 4")
    state.idle()
    increment = int.from_bytes(payload, "big") & MOST
    if number == 0:
        state.out_window += increment
        if increment == 0 or state.out_window > MOST:
            code = FLOW_CONTROL_ERROR if increment else PROTOCOL_ERROR
            raise ConnectionFault(code, f"a window of the connection opened by {increment} to {state.out_window}")
        state.events.append(WindowOpened(0))
        return
    if state.is_idle(number):
        raise ConnectionFault(PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {number}, which is idle")
    stream = state.streams.get(number)
    if stream is None:
        return
    stream.out_window += increment
    if increment == 0:
        raise StreamFault(PROTOCOL_ERROR, "a window opened by nothing")
    if stream.out_window > MOST:
        raise StreamFault(FLOW_CONTROL_ERROR, "a window above 2^31-1")
    state.events.append(WindowOpened(number))
