"""ClientHellos: real ones of the ssl module and openssl, whole, in pieces and over many records; and what is none."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess

import pytest
from hypothesis import given, strategies as st

from lbd.wire.client_hello import MOST, ClientHello, HelloReader, is_part_of_record, raw_name
from lbd.wire.refusal import WireError
from tests.wire.hellos import BAD, handmade, hello_of, over_records, sni


@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 7, 100, 16384])
def test_a_real_hello(highest: ssl.TLSVersion, size: int) -> None:
    data = over_records(hello_of("A.Example", ("h2", "http/1.1"), highest), size)
    reader = HelloReader()
    assert reader.feed(data) == ClientHello("a.example", (b"h2", b"http/1.1"))
    assert reader.received == data
    assert reader.is_tls


def test_byte_by_byte() -> None:
    data = over_records(hello_of(), 50)
    reader = HelloReader()
    for at in range(len(data) - 1):
        assert reader.feed(data[at : at + 1]) is None
    assert reader.feed(data[-1:]) == ClientHello("a.example", ())
    assert reader.received == data


def test_what_follows_is_kept() -> None:
    reader = HelloReader()
    assert reader.feed(hello_of() + b"\x14\3\3\0\1\1") is not None
    assert reader.received.endswith(b"\x14\3\3\0\1\1")


def test_without_a_name_or_protocols() -> None:
    assert HelloReader().feed(hello_of(None)) == ClientHello("", ())


def test_without_extensions() -> None:
    assert HelloReader().feed(handmade(None)) == ClientHello("", ())


def test_a_name_with_a_dot_at_its_end() -> None:
    assert HelloReader().feed(handmade(sni(b"a.example."))) == ClientHello("a.example", ())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("arguments", [("-tls1_3",), ("-tls1_2",), ("-split_send_frag", "64")])
def test_openssl(arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "b.example", "-alpn", "h2,x", *arguments]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as openssl:
            accepted, _ = listening.accept()
            with accepted:
                reader, hello = HelloReader(), None
                while hello is None:
                    data = accepted.recv(100)
                    assert data
                    hello = reader.feed(data)
            openssl.wait(10)
    assert hello == ClientHello("b.example", (b"h2", b"x"))


@pytest.mark.parametrize("data", [case[1] for case in BAD], ids=[case[0] for case in BAD])
def test_refused(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        HelloReader().feed(data)
    assert caught.value.reason == "client_hello_invalid"


def test_a_hello_that_takes_too_many_records() -> None:
    """As many bytes as it likes in heads of records."""
    reader = HelloReader()
    record = b"\x16\3\1\0\1"
    reader.feed(record + b"\1" + record + b"\0" + record + b"\x40" + record + b"\0")
    for _ in range(MOST // 6 - 4):
        assert reader.feed(record + b"x") is None
    with pytest.raises(WireError):
        reader.feed((record + b"x") * 5)


REAL = hello_of("a.example", ("h2",))


@given(st.data())
def test_any_change_is_read_or_refused(data: st.DataObject) -> None:
    """Garbage may be read as something, but nothing escapes except a refusal."""
    hello = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 4))):
        hello[data.draw(st.integers(0, len(hello) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(hello)))
    reader = HelloReader()
    try:
        reader.feed(bytes(hello[:cut]))
        reader.feed(bytes(hello[cut:]))
    except WireError:
        pass


@given(st.binary(max_size=200))
def test_noise(noise: bytes) -> None:
    try:
        assert HelloReader().feed(b"\x16\3\1" + noise) is None or len(noise) > 40
    except WireError:
        pass


@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", [b"a.example", b"\xff\xfe.example", b"\0" * 12, b"\xc3" * 60])
def test_the_name_as_it_stands(name: bytes, highest: ssl.TLSVersion) -> None:
    asked = "a" * len(name)
    assert raw_name(hello_of(asked, ("h2",), highest).replace(asked.encode(), name)) == name
    assert raw_name(handmade(sni(name))) == name


def test_no_name_as_it_stands() -> None:
    assert raw_name(hello_of(None)) == b""
    assert raw_name(b"") == b""
    assert raw_name(b"\0" * 1000) == b""


def test_the_first_record_is_whole() -> None:
    data = hello_of()
    assert all(is_part_of_record(data[:end]) for end in range(len(data)))
    assert not is_part_of_record(data)
    assert not is_part_of_record(data + b"more")
    assert not is_part_of_record(b"\x16\3\1\xff\xff")  # longer than any record: there is nothing to wait for
