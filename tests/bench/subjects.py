"""What is measured: each balancer as its users would set it up, one worker, upstream keep-alive, the same origin behind it.

nginx and haproxy stand twice in the table: plain, and with the fields that lbd adds by default (X-Forwarded-*, Via, a request
id), because a balancer that adds nothing does less. What is set beyond their defaults, and why:

- nginx: `keepalive` and HTTP/1.1 upstream (without them every request is a new connection), no temporary files (a 100 MB body, or
  a POST of 64 KB, would be written to disk, which measures the disk), `keepalive_requests` without a bound, as lbd has none
- haproxy: `http-reuse always`, the like of nginx's keepalive
- envoy, traefik, caddy (--all): one thread each (`--concurrency 1`, GOMAXPROCS=1)
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.protocols import (
    Certificate,
    Ports,
    haproxy_protocols,
    lbd_protocols,
    make_certificate,
    nginx_modules,
    nginx_protocols,
    nginx_stream,
)
from tests.support import procfs
from tests.support.ports import free_port, free_ports
from tests.support.processes import ROOT, Daemon, HaproxyDaemon, LbdDaemon, NginxDaemon, find_program

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BALANCERS", "MORE_BALANCERS", "Setup", "Subject", "find_peer", "is_compiled", "lbd_text", "start_subject"]

NGINX = """\
daemon off;
{modules}worker_processes {workers};
user {user};
worker_rlimit_nofile 20000;
pid {name}.pid;
events {{ worker_connections 19000; }}
http {{
    access_log {access};
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    upstream web {{ {endpoints} keepalive 1100; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=16384 {reuseport};
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_max_temp_file_size 0;
            {fields}
        }}
    }}
{protocols}}}
{stream}"""
NGINX_FIELDS = """\
proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header Via "1.1 nginx";
            proxy_set_header X-Request-Id $request_id;
            add_header Via "1.1 nginx";
"""

HAPROXY = """\
global
    maxconn 9900
    maxpipes 20
    nbthread {workers}
    {log}
defaults
    mode http
    {log_use}
    timeout connect 5s
    timeout client 600s
    timeout server 600s
frontend web
    bind 127.0.0.1:{port} backlog 16384
    {fields}
    default_backend web
backend web
    http-reuse always
{endpoints}
{protocols}"""
HAPROXY_FIELDS = """\
option forwardfor
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header Via "1.1 haproxy"
    http-request set-header X-Request-Id %[uuid()]
    http-response set-header Via "1.1 haproxy"
"""

LBD = """\
[lbd]
workers = {workers}

[log]
access = "{access}"

[admin]
bind = "127.0.0.1:{admin}"

[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"

[listener.web.timeouts]
keepalive = "10m"

[cluster.web]
endpoints = [{endpoints}]

[cluster.web.pool]
max_idle = 1100
idle_timeout = "60s"

{protocols}"""

ENVOY = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          {log}
          route_config:
            virtual_hosts: [{{name: web, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: web, timeout: 0s}}}}]}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: web
    type: STATIC
    load_assignment:
      cluster_name: web
      endpoints: [{{lb_endpoints: [{endpoints}]}}]
    circuit_breakers: {{thresholds: [{{max_connections: 20000, max_pending_requests: 20000, max_requests: 20000}}]}}
"""
ENVOY_LOG = """\
access_log:
          - name: envoy.access_loggers.file
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "{path}"}}"""

TRAEFIK = """\
entryPoints: {{web: {{address: "127.0.0.1:{port}"}}}}
providers: {{file: {{filename: "{directory}/traefik-routes.yaml"}}}}
{log}
"""
TRAEFIK_ROUTES = """\
http:
  routers: {{web: {{rule: "PathPrefix(`/`)", service: web, entryPoints: [web]}}}}
  services: {{web: {{loadBalancer: {{serversTransport: web, servers: [{endpoints}]}}}}}}
  serversTransports: {{web: {{maxIdleConnsPerHost: 1100}}}}
"""

CADDY = """\
{{
    admin off
    auto_https off
}}
http://:{port} {{
    bind 127.0.0.1
    {log}
    reverse_proxy {endpoints} {{
        transport http {{
            keepalive_idle_conns_per_host 1100
        }}
    }}
}}
"""


@dataclass(slots=True)
class Subject:
    """A running balancer."""

    name: str
    port: int
    daemon: Daemon
    ports: Ports  # for other protocols, where it has them

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pids(self) -> list[int]:
        """Every process of it: a master that works for its workers is part of the price."""
        return procfs.family(self.daemon.pid)

    def workers(self) -> list[int]:
        return self.daemon.workers()


@dataclass(frozen=True, slots=True)
class Setup:
    """What every balancer is asked to be."""

    directory: Path
    port: int
    origins: list[int]
    logs: bool
    workers: int
    ports: Ports

    def write(self, name: str, text: str) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / name).write_text(text)
        return self.directory / name

    def certificate(self) -> Certificate:
        return make_certificate(self.directory)

    def each(self, pattern: str, between: str = "\n") -> str:
        """A line per origin."""
        return between.join(pattern.format(origin=origin, number=number) for number, origin in enumerate(self.origins))


def start_nginx(setup: Setup, fields: bool) -> Daemon:
    text = NGINX.format(
        workers=setup.workers, user=pwd.getpwuid(os.getuid()).pw_name, name="nginx", directory=setup.directory, port=setup.port,
        access=f"{setup.directory}/access.log" if setup.logs else "off", reuseport="reuseport" if setup.workers > 1 else "",
        endpoints=setup.each("server 127.0.0.1:{origin};", " "), fields=NGINX_FIELDS if fields else "",
        modules=nginx_modules(), protocols=nginx_protocols(setup.certificate(), setup.ports),
        stream=nginx_stream(setup.ports.tcp, setup.each("server 127.0.0.1:{origin};", " ")),
    )  # fmt: skip
    return NginxDaemon(text, setup.directory)


def start_haproxy(setup: Setup, fields: bool) -> Daemon:
    servers = setup.each("    server s{number} 127.0.0.1:{origin}")
    text = HAPROXY.format(
        workers=setup.workers, port=setup.port, fields=HAPROXY_FIELDS if fields else "",
        log="log stdout format raw local0" if setup.logs else "", log_use="log global\n    option httplog" if setup.logs else "",
        endpoints=servers, protocols=haproxy_protocols(setup.certificate(), setup.ports, servers),
    )  # fmt: skip
    return HaproxyDaemon(text, setup.directory)


def lbd_text(setup: Setup) -> str:
    access = setup.directory / "access.log" if setup.logs else "off"
    endpoints = setup.each('"127.0.0.1:{origin}"', ", ")
    protocols = lbd_protocols(setup.certificate(), setup.ports)
    return LBD.format(workers=setup.workers, access=access, admin=free_port(), port=setup.port, endpoints=endpoints, protocols=protocols)


def start_lbd(setup: Setup, pure: bool) -> Daemon:
    daemon = LbdDaemon(lbd_text(setup), setup.directory, pure=pure)
    daemon.leaks = "memory of the height that every row drives it to; a row of its own measures what stays"
    return daemon


def start_envoy(setup: Setup) -> Daemon:
    log = ENVOY_LOG.format(path=setup.directory / "access.log") if setup.logs else ""
    endpoints = setup.each("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {origin}}}}}}}}}", ", ")
    config = setup.write("envoy.yaml", ENVOY.format(port=setup.port, log=log, endpoints=endpoints))
    arguments = [find_peer("envoy"), "-c", str(config), "--concurrency", str(setup.workers), "--use-dynamic-base-id", "-l", "error"]
    return Daemon(arguments, setup.directory, name="envoy")


def start_traefik(setup: Setup) -> Daemon:
    log = f"accessLog: {{filePath: {setup.directory}/access.log}}" if setup.logs else ""
    config = setup.write("traefik.yaml", TRAEFIK.format(port=setup.port, directory=setup.directory, log=log))
    setup.write("traefik-routes.yaml", TRAEFIK_ROUTES.format(endpoints=setup.each('{{url: "http://127.0.0.1:{origin}"}}', ", ")))
    environment = {"GOMAXPROCS": str(setup.workers)}
    return Daemon([find_peer("traefik"), f"--configFile={config}"], setup.directory, name="traefik", environment=environment)


def start_caddy(setup: Setup) -> Daemon:
    log = f"log {{\n output file {setup.directory}/access.log\n }}" if setup.logs else ""
    config = setup.write("Caddyfile", CADDY.format(port=setup.port, log=log, endpoints=setup.each("127.0.0.1:{origin}", " ")))
    homes = {name: str(setup.directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    arguments = [find_peer("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
    return Daemon(arguments, setup.directory, name="caddy", environment={"GOMAXPROCS": str(setup.workers), **homes})


def find_peer(name: str) -> str:
    """Of a Python package, beside the interpreter; or the system's."""
    beside = ROOT / ".venv" / "bin" / name
    return str(beside) if beside.exists() else find_program(name) or name


def is_compiled() -> bool:
    """Whether `python -m lbd` would run compiled; asked of a fresh interpreter, as ours may run with LBD_PURE."""
    code = "import lbd.core; raise SystemExit(not lbd.core.COMPILED)"
    return (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False).returncode
        == 0
    )


BALANCERS: dict[str, Callable[[Setup], Daemon]] = {
    "nginx": partial(start_nginx, fields=False),
    "haproxy": partial(start_haproxy, fields=False),
    "nginx+fields": partial(start_nginx, fields=True),
    "haproxy+fields": partial(start_haproxy, fields=True),
    "lbd": partial(start_lbd, pure=False),
    "lbd pure": partial(start_lbd, pure=True),
}
MORE_BALANCERS: dict[str, Callable[[Setup], Daemon]] = {"envoy": start_envoy, "traefik": start_traefik, "caddy": start_caddy}


def start_subject(name: str, directory: Path, origins: list[int], *, logs: bool = False, workers: int = 1) -> Subject:
    """Started and serving."""
    place = directory / f"{name.replace(' ', '-')}{'-logs' if logs else ''}-{workers}"
    port, *others = free_ports(1 + len(Ports._fields))
    setup = Setup(place, port, origins, logs, workers, Ports(*others))
    daemon = {**BALANCERS, **MORE_BALANCERS}[name](setup)
    daemon.wait_for_ports(setup.port, timeout=30.0)
    if isinstance(daemon, LbdDaemon):
        daemon.wait_ready(30.0)  # the master listens before its workers serve
    return Subject(name, setup.port, daemon, setup.ports)
