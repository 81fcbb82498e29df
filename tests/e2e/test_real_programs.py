"""`lbd demo` and the programs that people have: curl, nghttp, h2load, openssl, grpcio, websockets, a browser."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
import sys
from concurrent import futures
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
from websockets.asyncio.client import connect

from tests.support.ports import free_ports
from tests.support.processes import ROOT, Daemon, find_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Demo:
    port: int
    tls: int
    ca: str
    daemon: Daemon

    def version(self, target: str) -> str:
        """In which the latest request for this target came, as the access log has it."""
        return self.daemon.wait_for_log(rf'"GET {re.escape(target)} HTTP/(\S+)" 200 ')[1]

    def curl(self, *arguments: str) -> str:
        """Standard output, and with -v what it says of the exchange."""
        ran = subprocess.run(["curl", "-sS", "-m", "15", "--cacert", self.ca, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout + ran.stderr

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def https(self) -> str:
        return f"https://localhost:{self.tls}"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_program(program) is None, reason=f"needs {program}")


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """demo.Echo: says back what it is told, once or each time."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method == "/demo.Echo/Once":
            return grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
        if details.method == "/demo.Echo/Each":
            return grpc.stream_stream_rpc_method_handler(lambda requests, _context: requests)
        return None


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("demo")
    port, grpc_port = free_ports(2)
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Echo()])
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    environment = {"PYTHONPATH": str(ROOT), "DEMO_GRPC": str(grpc_port)}
    with Daemon([sys.executable, "-m", "lbd", "demo", "--port", str(port)], directory, name="demo", environment=environment) as running:
        running.wait_for_log("INFO lbd.master: ready:")
        told = re.search(r"curl --cacert (\S+) https://localhost:(\d+)/", running.log())
        assert told
        yield Demo(port, int(told[2]), told[1], running)
        assert "Traceback" not in running.log()
    server.stop(None)


VERSIONS = [("--http1.1", "1.1"), ("--http2", "2")]


@needs("curl")
@pytest.mark.parametrize(("option", "version"), VERSIONS)
def test_curl_over_tls(demo: Demo, option: str, version: str) -> None:
    assert re.fullmatch(
        rf"(alpha|beta|gamma): GET /\n{version} 200", demo.curl(option, f"{demo.https}/", "-w", "%{http_version} %{http_code}")
    )


@needs("curl")
@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")])
def test_curl_in_plain_text(demo: Demo, option: str, version: str) -> None:
    said = demo.curl(option, f"{demo.http}/x?y", "-w", "%{http_version} %{http_code}")
    assert re.fullmatch(rf"(alpha|beta|gamma): GET /x\?y\n{version} 200", said)


@needs("curl")
@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
@pytest.mark.parametrize(
    "extra", [(), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")], ids=["sized", "chunked", "expect"]
)
def test_an_upload(demo: Demo, option: str, extra: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(bytes(range(256)) * 8192)
    assert demo.curl(option, *extra, "-T", str(file), f"{demo.https}/upload").endswith(": PUT /upload with 2097152 bytes\n")


@needs("curl")
@pytest.mark.parametrize(("option", "version"), VERSIONS)
def test_an_early_hint(demo: Demo, option: str, version: str) -> None:
    said = demo.curl(option, "-v", f"{demo.https}/early")
    assert re.search(rf"< HTTP/{version} 103.*?< link: </style.css>; rel=preload.*?< HTTP/{version} 200", said, re.DOTALL | re.IGNORECASE)


@needs("curl")
@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
def test_trailers(demo: Demo, option: str) -> None:
    assert re.search(r"^(< )?x-digest: [0-9a-f]{8}", demo.curl(option, "-v", "-i", f"{demo.https}/trailers"), re.IGNORECASE | re.MULTILINE)


@needs("nghttp")
def test_nghttp(demo: Demo) -> None:
    """Five streams of one connection, over TLS and in plain text."""
    for url in (demo.https, demo.http):
        ran = subprocess.run(["nghttp", "-nv", *[f"{url}/{n}" for n in range(5)]], capture_output=True, text=True, check=True, timeout=20)
        assert ran.stdout.count(":status: 200") == 5
        assert "error" not in ran.stdout.replace("error_code=NO_ERROR", "").lower()


@needs("h2load")
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_h2load(demo: Demo, is_tls: bool) -> None:
    url = demo.https if is_tls else demo.http
    ran = subprocess.run(["h2load", "-n2000", "-c8", "-m16", f"{url}/"], capture_output=True, text=True, check=True, timeout=60)
    assert "2000 succeeded, 0 failed, 0 errored" in ran.stdout


@needs("openssl")
def test_openssl(demo: Demo) -> None:
    options = ["-CAfile", demo.ca, "-verify_hostname", "localhost", "-alpn", "h2,http/1.1"]
    command = ["openssl", "s_client", "-connect", f"localhost:{demo.tls}", *options]
    ran = subprocess.run(command, input="Q\n", capture_output=True, text=True, check=True, timeout=20)
    assert "Verify return code: 0 (ok)" in ran.stdout
    assert "ALPN protocol: h2" in ran.stdout


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_grpcio(demo: Demo, is_tls: bool) -> None:
    if is_tls:
        with open(demo.ca, "rb") as authorities:
            channel = grpc.secure_channel(f"localhost:{demo.tls}", grpc.ssl_channel_credentials(authorities.read()))
    else:
        channel = grpc.insecure_channel(f"127.0.0.1:{demo.port}")
    with channel:
        assert channel.unary_unary("/demo.Echo/Once")(b"hello", timeout=10) == b"hello"
        words = [b"word %d" % number for number in range(100)]
        assert list(channel.stream_stream("/demo.Echo/Each")(iter(words), timeout=10)) == words
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/demo.Echo/Nothing")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_websockets(demo: Demo, is_tls: bool) -> None:
    async def talk() -> None:
        context = ssl.create_default_context(cafile=demo.ca) if is_tls else None
        uri = f"wss://localhost:{demo.tls}/ws" if is_tls else f"ws://127.0.0.1:{demo.port}/ws"
        async with connect(uri, ssl=context, compression=None) as socket:
            for message in ("hello", b"\0\1" * 50_000, ""):
                await socket.send(message)
                assert await asyncio.wait_for(socket.recv(), 10) == message
            await asyncio.wait_for(await socket.ping(), 10)

    asyncio.run(talk())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser(demo: Demo, tmp_path: Path) -> None:
    """Headless, over HTTPS and HTTP/2; the certificate is known by its key, for there is no store to put the authority into."""
    shown = ssl.get_server_certificate(("localhost", demo.tls))
    pin = subprocess.run(
        "openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | openssl enc -base64",
        shell=True, input=shown, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    ran = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile",
         f"--ignore-certificate-errors-spki-list={pin}", "--dump-dom", f"{demo.https}/from-a-browser"],
        capture_output=True, text=True, check=False, timeout=90, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert re.search(r"(alpha|beta|gamma): GET /from-a-browser", ran.stdout), ran.stderr[-2000:]
    assert demo.version("/from-a-browser") == "2"
