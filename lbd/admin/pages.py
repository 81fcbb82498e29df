"""What the admin listener answers: paths, methods, bodies. No sockets here.

    GET  /metrics            Prometheus text, or OpenMetrics where Accept asks for it
    GET  /healthz            the process lives
    GET  /readyz             a new connection would be served; 503 with the reason while starting, draining, and where workers die
    GET  /api/v1/status      the daemon and its workers
    GET  /api/v1/clusters    endpoints and their health; of some clusters with ?cluster=NAME
    GET  /api/v1/overlays    what operators have changed at run time
    GET  /api/v1/config      the effective configuration, TOML or (Accept, ?format=json) JSON
    POST /api/v1/reload      as SIGHUP; 200 with the report, 422 with the report when the new configuration was refused
    POST /api/v1/clusters/CLUSTER/endpoints/ENDPOINT/drain, .../enable, .../weight     see command.py

HEAD works wherever GET does. An error is a sentence, as text or, under /api, as {"error": sentence}.
"""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from lbd.admin.command import Fault, is_command, parse_command
from lbd.admin.guard import check_access
from lbd.admin.metrics import Scraper
from lbd.config.suggest import unknown_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from lbd.admin.view import AdminView

__all__ = ["Answer", "Pages", "Request", "refuse"]

TEXT, JSON, TOML = "text/plain; charset=utf-8", "application/json", "application/toml"
# Fastest: the scrape of a thousand endpoints shrinks from 800 KB to about a tenth in a few milliseconds; level 9 gains little.
GZIP_LEVEL = 1
GZIP_FROM = 1024  # bytes; a smaller body fits in one packet anyway


class Request(NamedTuple):
    method: str
    path: str
    query: str = ""
    fields: Mapping[str, str] = {}
    is_unix: bool = False  # came over a unix socket, where no browser can be
    body: bytes = b""
    who: str = ""  # the address, or the user, that it came from


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes
    fields: tuple[tuple[str, str], ...] = ()


class Pages:
    """Answers requests out of an AdminView."""

    def __init__(self, view: AdminView, token: str) -> None:
        self._view = view
        self._token = token
        self._scraper = Scraper(view)
        self._pages: dict[str, tuple[str, Callable[[Request], Awaitable[Answer]]]] = {
            "/metrics": ("GET", self._metrics),
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
            "/api/v1/status": ("GET", self._status),
            "/api/v1/clusters": ("GET", self._clusters),
            "/api/v1/overlays": ("GET", self._overlays),
            "/api/v1/config": ("GET", self._config),
            "/api/v1/reload": ("POST", self._reload),
        }

    async def answer(self, request: Request) -> Answer:
        """Whatever was asked; a page's own bug propagates."""
        is_change = is_command(request.path)
        refusal = check_access(request.method, request.path, request.fields, self._token, is_unix=request.is_unix, is_command=is_change)
        if refusal is not None:
            fields = (("WWW-Authenticate", 'Bearer realm="lbd"'),) if refusal.status == 401 else ()
            return refuse(request, refusal.status, refusal.sentence, fields)
        if request.path in self._pages:
            method, page = self._pages[request.path]
        elif is_change:
            method, page = "POST", self._command
        else:
            return refuse(request, 404, f"there is no {request.path} here; there are {', '.join(self._pages)}")
        allowed = ("GET", "HEAD") if method == "GET" else (method,)
        if request.method not in allowed:
            return refuse(request, 405, f"{request.path} takes {method}, not {request.method}", (("Allow", ", ".join(allowed)),))
        return _compressed(await page(request), request.fields.get("accept-encoding", ""))

    async def _metrics(self, request: Request) -> Answer:
        content_type, body = self._scraper.scrape(request.fields.get("accept", ""))
        return Answer(200, content_type, body, (("Vary", "Accept, Accept-Encoding"),))

    async def _healthz(self, _: Request) -> Answer:
        return Answer(200, TEXT, b"ok\n")

    async def _readyz(self, _: Request) -> Answer:
        if trouble := self._view.trouble():
            return Answer(503, TEXT, f"not ready: {trouble}\n".encode(), (("Retry-After", "1"),))
        return Answer(200, TEXT, b"ready\n")

    async def _status(self, _: Request) -> Answer:
        return _json(200, self._view.status())

    async def _clusters(self, request: Request) -> Answer:
        wanted = parse_qs(request.query, keep_blank_values=True).get("cluster", [])
        found = self._view.clusters(wanted)
        if missing := [name for name in wanted if name not in found]:
            return refuse(request, 404, unknown_name(missing[0], self._view.clusters(), "cluster"))
        return _json(200, found)

    async def _overlays(self, _: Request) -> Answer:
        return _json(200, self._view.overlays())

    async def _command(self, request: Request) -> Answer:
        try:
            return _json(200, await self._view.obey(parse_command(request.path, request.query, request.body, request.who)))
        except Fault as fault:
            return refuse(request, fault.status, str(fault), (("Retry-After", "5"),) if fault.status == 503 else ())

    async def _config(self, request: Request) -> Answer:
        match _wanted_format(request):
            case "json":
                return _json(200, self._view.config_json())
            case "toml":
                return Answer(200, TOML, self._view.config_toml().encode(), (("Vary", "Accept"),))
            case other:
                return refuse(request, 400, f'format is "{other}"; there are toml and json')

    async def _reload(self, _: Request) -> Answer:
        report = await self._view.reload()
        return _json(200 if report.get("result") == "ok" else 422, report)


def refuse(request: Request, status: int, sentence: str, fields: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An error that reads well where it is read: curl or a program."""
    if request.path.startswith("/api/"):
        return _json(status, {"error": sentence}, fields)
    return Answer(status, TEXT, f"{sentence}\n".encode(), fields)


def _json(status: int, content: dict[str, Any], fields: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status, JSON, json.dumps(content, indent=2, default=str).encode() + b"\n", fields)


def _wanted_format(request: Request) -> str:
    """The query decides, then Accept, then TOML: what people read."""
    asked = parse_qs(request.query, keep_blank_values=True).get("format")
    if asked:
        return asked[-1]
    return "json" if "application/json" in request.fields.get("accept", "") else "toml"


def _compressed(answer: Answer, accept_encoding: str) -> Answer:
    if len(answer.body) < GZIP_FROM or not _takes_gzip(accept_encoding):
        return answer
    return answer._replace(body=gzip.compress(answer.body, GZIP_LEVEL, mtime=0), fields=(*answer.fields, ("Content-Encoding", "gzip")))


def _takes_gzip(accept_encoding: str) -> bool:
    """RFC 9110 section 12.5.3, as far as gzip goes: named, and not with a weight of nought."""
    for coding in accept_encoding.lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() in ("gzip", "x-gzip"):
            return weight.replace(" ", "").removeprefix("q=").rstrip("0") not in ("0.", "") or not weight
    return False
