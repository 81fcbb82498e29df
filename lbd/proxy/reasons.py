"""Why lbd answered by itself, or closed a connection: every reason there is, whose fault it is, and what to do.

The word goes to the access log (`reason`), to lbd_rejected_total{reason} and, where `reason_header` is on, to x-lbd-reason. What
the HTTP codec refuses keeps the codec's own word (lbd/wire/http1.py) and is always the downstream's fault.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbd.errors import ProxyError, Retry, Side

__all__ = ["REASONS", "Reason", "failure"]


@dataclass(frozen=True, slots=True)
class Reason:
    """`status` is what the client gets; 0: nobody is left to answer, or an answer has begun already."""

    side: Side
    status: int
    meaning: str
    remedy: str


REASONS: dict[str, Reason] = {
    # The downstream's
    "header_timeout": Reason(Side.DOWNSTREAM, 408, "no whole request head came in time", "listener.NAME.timeouts.head"),
    "head_displaced": Reason(
        Side.DOWNSTREAM,
        0,
        "others needed the room before its request head was whole",
        "a slowloris attack; listener.NAME.limits.connections, or the limit of open files, is reached",
    ),
    "body_timeout": Reason(Side.DOWNSTREAM, 408, "the request body stopped moving", "listener.NAME.timeouts.body"),
    "upload_too_slow": Reason(
        Side.DOWNSTREAM, 408, "the request body came too slowly for too long", "listener.NAME.limits.min_upload_rate and rate_grace"
    ),
    "download_too_slow": Reason(
        Side.DOWNSTREAM, 0, "the client took its response too slowly for too long", "listener.NAME.limits.min_download_rate and rate_grace"
    ),
    "request_too_large": Reason(
        Side.DOWNSTREAM, 413, "the request body is above the limit", "listener.NAME.limits.body or the route's max_body"
    ),
    "deadline_exceeded": Reason(
        Side.DOWNSTREAM, 504, "the time is over that the client gives the call", "gRPC: the client's deadline, or a service too slow for it"
    ),
    "no_route": Reason(
        Side.DOWNSTREAM, 404, "no route takes this host, path and method", "compare host and target in the access log with the routes"
    ),
    "bad_path": Reason(Side.DOWNSTREAM, 400, "the path cannot be read", "the client must escape it properly"),
    "ambiguous_path": Reason(
        Side.DOWNSTREAM, 400, "upstreams would read the path in different ways", "the client must send it in normal form"
    ),
    "proxy_loop": Reason(Side.DOWNSTREAM, 508, "the request has passed this balancer too often", "an upstream sends requests back to lbd"),
    "downstream_closed": Reason(
        Side.DOWNSTREAM, 0, "the client went away before the exchange was done", "nothing; many of them: clients give up, look at durations"
    ),
    "downstream_reset": Reason(
        Side.DOWNSTREAM, 0, "sending to the client failed", "nothing; the client or the network between broke the connection"
    ),
    "downstream_stalled": Reason(Side.DOWNSTREAM, 0, "the client stopped reading its response", "listener.NAME.timeouts.body"),
    "too_many_connections": Reason(
        Side.DOWNSTREAM, 0, "the listener has as many connections as it may", "listener.NAME.limits.connections"
    ),
    "too_many_from_address": Reason(
        Side.DOWNSTREAM,
        0,
        "this address has as many connections as one may",
        "an attack, or a proxy that listener.NAME.forwarded.trusted_proxies lacks; listener.NAME.limits.connections_per_address",
    ),
    "proxy_header_invalid": Reason(
        Side.DOWNSTREAM,
        0,
        "a connection without the PROXY header that it needs, or with a wrong one",
        "does the proxy in front send PROXY headers, and is it right to expect them? listener.NAME.proxy_protocol",
    ),
    "proxy_header_untrusted": Reason(
        Side.DOWNSTREAM,
        0,
        "a PROXY header from somebody who is not trusted",
        "a forgery, or listener.NAME.proxy_protocol.trusted lacks a proxy",
    ),
    "proxy_header_timeout": Reason(Side.DOWNSTREAM, 0, "no whole PROXY header came in time", "listener.NAME.timeouts.handshake"),
    "client_hello_invalid": Reason(
        Side.DOWNSTREAM,
        0,
        "it begins as TLS does, but its ClientHello cannot be read",
        "a broken client, or a scanner; the detail says what is wrong",
    ),
    "client_hello_timeout": Reason(Side.DOWNSTREAM, 0, "no whole ClientHello came in time", "listener.NAME.timeouts.handshake"),
    "no_session_route": Reason(
        Side.DOWNSTREAM, 0, "no route takes this name, or what is no TLS", "listener.NAME.cluster takes what no route takes"
    ),
    "http2_error": Reason(
        Side.DOWNSTREAM, 0, "the client broke a rule of HTTP/2", "the detail names it; many from one address: an attack, or a broken client"
    ),
    "http2_flood": Reason(
        Side.DOWNSTREAM,
        0,
        "the client of HTTP/2 asked too much",
        "an attack; if not, listener.NAME.http2.max_resets, and the detail in the log",
    ),
    "tls_to_plain": Reason(
        Side.DOWNSTREAM, 400, "the client speaks TLS to a port without it", "the client must use http, or the listener wants tls"
    ),
    "plain_to_tls": Reason(
        Side.DOWNSTREAM, 400, "the client speaks plain text to a port with TLS", "the client must use https, or another port"
    ),
    "tls_handshake_failed": Reason(
        Side.DOWNSTREAM, 0, "no TLS session came about with the client", "the detail has OpenSSL's words: certificates, versions, ciphers"
    ),
    "tls_handshake_timeout": Reason(
        Side.DOWNSTREAM, 0, "the client did not finish its TLS handshake in time", "listener.NAME.timeouts.handshake"
    ),
    # The upstream's
    "no_healthy_endpoint": Reason(
        Side.UPSTREAM, 503, "no endpoint can take the request", "GET /api/v1/clusters on the admin listener tells why each is out"
    ),
    "circuit_open": Reason(
        Side.UPSTREAM, 503, "so much has failed in the cluster that its breaker is open", "the log says what failed; cluster.NAME.breaker"
    ),
    "connect_refused": Reason(Side.UPSTREAM, 502, "the endpoint refuses connections", "is the service running, and on this port?"),
    "connect_failed": Reason(Side.UPSTREAM, 502, "the endpoint cannot be reached", "the detail in the access log has the system's words"),
    "upstream_tls_failed": Reason(
        Side.UPSTREAM, 502, "no TLS session came about with the endpoint", "does it speak TLS on this port? the detail has OpenSSL's words"
    ),
    "upstream_unverified": Reason(
        Side.UPSTREAM,
        502,
        "the endpoint's certificate is not one to trust, or is for another name",
        "the detail says why; cluster.NAME.tls.ca and .sni say who is trusted, under which name",
    ),
    "connect_timeout": Reason(Side.UPSTREAM, 504, "connecting took too long", "network or overload; cluster.NAME.timeouts.connect"),
    "response_timeout": Reason(Side.UPSTREAM, 504, "no response head came in time", "the service is slow; cluster.NAME.timeouts.response"),
    "total_timeout": Reason(Side.UPSTREAM, 504, "the whole exchange took too long", "cluster.NAME.timeouts.total"),
    "upstream_stalled": Reason(
        Side.UPSTREAM, 504, "the endpoint stopped reading the request or sending its response", "cluster.NAME.timeouts.idle"
    ),
    "upstream_status": Reason(
        Side.UPSTREAM, 502, "the endpoint answered with a status that is tried again", "its own log; cluster.NAME.retry.on"
    ),
    "upstream_reset": Reason(Side.UPSTREAM, 502, "the endpoint reset the connection", "did the service crash or restart?"),
    "upstream_refused": Reason(
        Side.UPSTREAM, 502, "the endpoint said that it would not look at the request", "HTTP/2: is it restarting, or overloaded?"
    ),
    "upstream_closed": Reason(
        Side.UPSTREAM, 502, "the endpoint closed before its response was whole", "did the service crash, or close an idle connection early?"
    ),
    "upstream_truncated": Reason(
        Side.UPSTREAM, 502, "the response ended before its announced end", "did the service crash in the middle of a response?"
    ),
    "bad_response": Reason(
        Side.UPSTREAM,
        502,
        "what the endpoint sent is not HTTP/1.1",
        "is it another protocol, or a broken service? the detail names the place",
    ),
    "upstream_flood": Reason(
        Side.UPSTREAM, 502, "the endpoint's HTTP/2 asked too much", "a broken service: the detail names the frames that it sends too often"
    ),
    "no_upgrade": Reason(
        Side.UPSTREAM,
        502,
        "a WebSocket cannot be had from an endpoint that speaks HTTP/2 in this way",
        'does it know RFC 8441? otherwise cluster.NAME.protocol = "auto" or "http1"',
    ),
    # Ours
    "fault": Reason(Side.LBD, 500, "a bug in lbd", "the log has a trace: please report it"),
    "no_descriptors": Reason(
        Side.LBD, 503, "no file descriptor is left for a connection upstream", "raise the limit of open files: LimitNOFILE, ulimit -Hn"
    ),
    "tunnel_idle": Reason(
        Side.LBD, 0, "no byte moved in an upgraded connection, or one of TCP, for too long", "listener.NAME.timeouts.tunnel_idle"
    ),
    "tunnel_lifetime": Reason(
        Side.LBD, 0, "an upgraded connection, or one of TCP, has come to the age it may have", "listener.NAME.timeouts.tunnel_lifetime"
    ),
    "queue_full": Reason(
        Side.LBD,
        503,
        "every endpoint has as many requests as it may, and as many wait as may wait",
        "more endpoints, or higher limits: cluster.NAME.limits, max_requests of the endpoints; cluster.NAME.queue.size",
    ),
    "queue_timeout": Reason(
        Side.LBD,
        503,
        "no endpoint had room for one more request in time",
        "as queue_full; cluster.NAME.queue.timeout is how long a request may wait",
    ),
    "concurrency_limited": Reason(
        Side.LBD,
        503,
        "every endpoint has as many requests as it may, and none may wait",
        "as queue_full; cluster.NAME.queue.size is 0, so that nobody waits",
    ),
    "overloaded": Reason(
        Side.LBD,
        503,
        "lbd has more to do than it can, or too little memory",
        "more workers or machines; lbd_shed_level and lbd_lag_seconds tell how bad it is; lbd.overload says from when on",
    ),
    "drain_timeout": Reason(Side.LBD, 0, "lbd stopped before the exchange was done", "lbd.drain_timeout"),
}


def failure(reason: str, message: str = "", retry: Retry = Retry.NEVER, retry_after: float = 0.0) -> ProxyError:
    """The error for one of REASONS; `retry_after` as ProxyError's."""
    known = REASONS[reason]
    return ProxyError(known.side, reason, known.status, message or known.meaning, retry, retry_after)
