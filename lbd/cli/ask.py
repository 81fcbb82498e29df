"""One request to the admin listener of a running daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import h11
import trio

from lbd.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbd.config.addresses import Address

__all__ = ["Answer", "ask"]

CHUNK = 64 * 1024
LIMIT = 64 << 20  # the status of 10,000 endpoints is some megabytes
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # who listens everywhere listens here too


class Answer(NamedTuple):
    status: int
    body: bytes


async def connect(address: Address) -> trio.abc.Stream:
    if address.kind == "unix":
        return await trio.open_unix_socket(address.host)
    return await trio.open_tcp_stream(ANY.get(address.host, address.host), address.port)


async def ask(
    address: Address,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    token: str = "",
    timeout: float,
    connect: Callable[[Address], Awaitable[trio.abc.Stream]] = connect,
) -> Answer:
    """EnvironmentFault in a sentence when nobody answers, or not within `timeout`."""
    place = f"unix:{address.host}" if address.kind == "unix" else f"{address.host}:{address.port}"
    try:
        with trio.fail_after(timeout):
            async with await connect(address) as stream:
                return await exchange(stream, place, (method, path, body), token)
    except trio.TooSlowError:
        raise EnvironmentFault(f"the admin listener at {place} did not answer within {timeout:g} s") from None
    except PermissionError:
        raise EnvironmentFault(f"no right to open {place}; run this as root, or as the user that started lbd") from None
    except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise EnvironmentFault(f"the admin listener at {place} does not answer ({reason}); is lbd running?") from None


async def exchange(stream: trio.abc.Stream, place: str, asked: tuple[str, str, bytes], token: str) -> Answer:
    method, path, body = asked
    fields = {"Host": "localhost" if place.startswith("unix:") else place, "Accept": "application/json", "Connection": "close"}
    if token:
        fields["Authorization"] = f"Bearer {token}"
    codec = h11.Connection(h11.CLIENT)
    request = h11.Request(method=method, target=path, headers=[*fields.items(), ("Content-Length", str(len(body)))])
    parts = [request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()]
    await stream.send_all(b"".join(codec.send(part) or b"" for part in parts))
    status, content = 0, bytearray()
    while True:
        event = codec.next_event()
        if event is h11.NEED_DATA:
            codec.receive_data(bytes(await stream.receive_some(CHUNK)))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            content += event.data
            if len(content) > LIMIT:
                raise h11.RemoteProtocolError("the answer has no end")
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, bytes(content))
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("the connection was closed before an answer came")
