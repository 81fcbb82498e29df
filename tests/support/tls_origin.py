"""An origin behind TLS, in threads: its answer tells what it knows of the session."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    import socket
    from pathlib import Path
    from types import TracebackType

__all__ = ["TlsOrigin"]


class Teller(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.request.settimeout(PATIENCE)
        self.request.do_handshake()  # here, not where connections are accepted
        super().setup()

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        tls = self.request
        certificate = tls.getpeercert() or {}
        told = {
            "version": tls.version(),
            "sni": server.names.get(id(tls), ""),
            "is_resumed": tls.session_reused,
            "client": [value for _, value in certificate.get("subjectAltName", ())],
            "serial": server.connections,
        }
        body = json.dumps(told).encode()
        self.send_response(200)
        if self.path.endswith("/until-close"):
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path.endswith("/cut/until-close"):
            tls.unwrap = lambda: tls  # no close_notify
        elif self.close_connection:
            tls.setblocking(False)
            try:
                tls.unwrap()
            except OSError:
                pass  # the other side's comes later, or never

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the library's names
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Teller)
        self.context = context
        self.names: dict[int, str] = {}
        self.connections = 0
        context.sni_callback = self._named

    def _named(self, tls: Any, name: str | None, _context: ssl.SSLContext) -> None:  # noqa: ANN401 - ssl's own
        self.names[id(tls)] = name or ""

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        self.connections += 1
        return self.context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the library's
        """Handshakes that come to nothing are what the tests are about."""


class TlsOrigin:
    """`pair` is its certificate and key; with `client_ca` clients must have a certificate."""

    def __init__(self, pair: tuple[Path, Path], client_ca: Path | None = None, version: str = "") -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        if version == "1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        self._server = Server(context)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def connections(self) -> int:
        return self._server.connections

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
