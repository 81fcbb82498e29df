"""What each balancer of the table is told, so that it also serves TLS, HTTP/2, WebSockets and plain TCP; and the certificate for it.

One port has TLS with HTTP/1.1 and HTTP/2, another hands TCP on to the same origin, a third leads to an origin of WebSockets, a fourth to
one of gRPC. Keys are P-256, as public sites have them now; session tickets are on everywhere, but the load generators use none: a
handshake is a whole one.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import trustme

__all__ = [
    "Certificate",
    "Ports",
    "haproxy_protocols",
    "lbd_protocols",
    "make_certificate",
    "nginx_modules",
    "nginx_protocols",
    "nginx_stream",
]

STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"

NGINX = """\
    server {{
        listen 127.0.0.1:{port} ssl http2 backlog=16384;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_max_temp_file_size 0;
        }}
    }}
    server {{
        listen 127.0.0.1:{ws} backlog=16384;
        location / {{
            proxy_pass http://127.0.0.1:{echo};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_read_timeout 600s;
        }}
    }}
    upstream calls {{ server 127.0.0.1:{calls}; keepalive 1100; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{grpc} http2 backlog=16384;
        location / {{ grpc_pass grpc://calls; }}
    }}
"""
NGINX_STREAM = """\
stream {{
    upstream web {{ {endpoints} }}
    server {{ listen 127.0.0.1:{port} backlog=16384; proxy_pass web; }}
}}
"""

HAPROXY = """\
frontend tls
    bind 127.0.0.1:{tls} backlog 16384 ssl crt {both} alpn h2,http/1.1
    default_backend web
frontend tcp
    mode tcp
    bind 127.0.0.1:{tcp} backlog 16384
    default_backend tcp
backend tcp
    mode tcp
    option splice-auto
{endpoints}
frontend ws
    bind 127.0.0.1:{ws} backlog 16384
    default_backend echo
backend echo
    server echo 127.0.0.1:{echo}
frontend grpc
    bind 127.0.0.1:{grpc} backlog 16384 proto h2
    default_backend calls
backend calls
    http-reuse always
    server calls 127.0.0.1:{calls} proto h2
"""

LBD = """\
[listener.tls]
bind = "127.0.0.1:{tls}"
cluster = "web"
tls = {{ cert = "{cert}", key = "{key}" }}

[listener.tls.timeouts]
keepalive = "10m"

[listener.tcp]
bind = "127.0.0.1:{tcp}"
protocol = "tcp"
cluster = "web"

[listener.ws]
bind = "127.0.0.1:{ws}"
cluster = "echo"

[cluster.echo]
endpoints = ["127.0.0.1:{echo}"]

[listener.grpc]
bind = "127.0.0.1:{grpc}"
cluster = "calls"

[cluster.calls]
endpoints = ["127.0.0.1:{calls}"]
protocol = "h2"
"""


class Ports(NamedTuple):
    """Of a balancer; `echo` is where it will find an origin of WebSockets, `calls` one of gRPC."""

    tls: int
    tcp: int
    ws: int
    echo: int
    grpc: int
    calls: int


class Certificate(NamedTuple):
    cert: Path
    key: Path
    both: Path  # haproxy wants them in one file


def make_certificate(directory: Path) -> Certificate:
    """For localhost and 127.0.0.1, by an authority that nobody knows."""
    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    made = Certificate(directory / "cert.pem", directory / "key.pem", directory / "both.pem")
    if not made.both.exists():
        directory.mkdir(parents=True, exist_ok=True)
        made.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        made.key.write_bytes(issued.private_key_pem.bytes())
        made.both.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    return made


def has_stream() -> bool:
    """Debian has nginx's TCP proxy in a package of its own."""
    return Path(STREAM_MODULE).exists()


def nginx_modules() -> str:
    return f"load_module {STREAM_MODULE};\n" if has_stream() else ""


def nginx_protocols(certificate: Certificate, ports: Ports) -> str:
    return NGINX.format(port=ports.tls, **ports._asdict(), cert=certificate.cert, key=certificate.key)


def nginx_stream(port: int, endpoints: str) -> str:
    return NGINX_STREAM.format(port=port, endpoints=endpoints) if has_stream() else ""


def haproxy_protocols(certificate: Certificate, ports: Ports, endpoints: str) -> str:
    return HAPROXY.format(both=certificate.both, **ports._asdict(), endpoints=endpoints)


def lbd_protocols(certificate: Certificate, ports: Ports) -> str:
    return LBD.format(cert=certificate.cert, key=certificate.key, **ports._asdict())
