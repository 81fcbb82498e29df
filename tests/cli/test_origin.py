"""The demo's origins: they answer with their name, read what they are sent, and keep connections."""

from __future__ import annotations

import threading
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from lbd.cli.origin import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def connection() -> Iterator[HTTPConnection]:
    with Origin("alpha") as origin:
        thread = threading.Thread(target=origin.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        connection = HTTPConnection("127.0.0.1", origin.server_port, timeout=10.0)
        yield connection
        connection.close()
        origin.shutdown()
        thread.join()


def chunks() -> Iterator[bytes]:
    yield b"abc"
    yield b"defgh"


@pytest.mark.parametrize(
    ("method", "body", "expected"),
    [
        ("GET", None, b"alpha: GET /x?y=1\n"),
        ("HEAD", None, b""),
        ("POST", b"12345", b"alpha: POST /x?y=1 with 5 bytes\n"),
        ("PUT", b"", b"alpha: PUT /x?y=1\n"),
        ("POST", "chunks", b"alpha: POST /x?y=1 with 8 bytes\n"),
    ],
)
def test_answers_on_one_connection(connection: HTTPConnection, method: str, body: bytes | str | None, expected: bytes) -> None:
    for _ in range(2):
        connection.request(method, "/x?y=1", body=chunks() if body == "chunks" else body, encode_chunked=body == "chunks")
        first = connection.sock
        response = connection.getresponse()
        assert (response.status, response.headers["X-Origin"], response.read()) == (200, "alpha", expected)
        assert connection.sock is first is not None
