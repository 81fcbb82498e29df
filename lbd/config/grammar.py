"""What the strings of the configuration may look like, one function for each sort.

Each takes the text and raises ValueError with a sentence; where the module that obeys the setting has a parser, it is that one which is
asked, so that the loader cannot promise what the daemon then refuses. GRAMMARS says which setting is written how.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.cluster.health import HealthPolicy, parse_statuses
from lbd.cluster.key import HashKey
from lbd.cluster.retry_policy import RetryPolicy, parse_cause, parse_hedge
from lbd.cluster.sticky import StickyPolicy
from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.config.addresses import parse_bind, parse_endpoint
from lbd.config.daemon import AdminPolicy, DaemonPolicy
from lbd.policy import Secret
from lbd.proxy.listener import ForwardedPolicy, ListenerPolicy, ProxyProtocolPolicy
from lbd.proxy.upgrades import parse_protocol
from lbd.routing.conditions import PRESENT, compile_pattern, expected_value
from lbd.routing.edits import HeaderEdits, encoded_fields
from lbd.routing.hello import PassthroughPolicy
from lbd.routing.path import pattern_key
from lbd.routing.route import RedirectPolicy, RespondPolicy, RewritePolicy, RoutePolicy, visible
from lbd.routing.table import host_key
from lbd.wire.grammar import AUTHORITY
from lbd.worker.log import LogPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GRAMMARS", "NAME", "PAIR_GRAMMARS", "check_name"]

NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
MODE = re.compile(r"0?[0-7]{3}")
ORIGIN_FORM = re.compile(r"/[!-\"$-~]*")
FIELD_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


def check_name(text: str) -> None:
    """A listener's, cluster's or route's: it becomes a label of metrics and a word in logs."""
    if not NAME.fullmatch(text):
        raise ValueError(f'the name "{text}" must be of letters, digits, "_", "." and "-", 100 at the most')


def method(text: str) -> None:
    if not TOKEN.fullmatch(text):
        raise ValueError(f'"{text}" is not a method')
    if text != text.upper():
        raise ValueError(f'"{text}": methods are written in capitals; did you mean "{text.upper()}"?')


def path(text: str) -> None:
    if "?" in text or "#" in text:
        raise ValueError(f'"{text}": a path has no query and no fragment; conditions on the query go into `query`')
    pattern_key(text)


def regex(text: str) -> None:
    compile_pattern(text)


def path_regex(text: str) -> None:
    compile_pattern(text)
    if not re.match(r"[/(\[.\\^]", text):
        raise ValueError(f'"{text}" matches no path: it must match the whole path, from its first "/" on')


def network(text: str) -> None:
    """`unix:` stands for whoever connects over a unix socket."""
    if text == "unix:":
        return
    try:
        ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(f'"{text}" has bits set behind the prefix; write "{ip_network(text, strict=False)}"') from None
        raise ValueError(f'"{text}" is not an address or a network like "10.0.0.0/8"') from None


def server_name(text: str) -> None:
    """Of a TLS ClientHello: a host name, which has neither a port nor the form of an address (RFC 6066, 3)."""
    key = host_key(text).removeprefix(b"*.")
    if key.startswith(b"[") or key.rpartition(b".")[2].isdigit() or ":" in text:
        raise ValueError(f'"{text}" is not a name that TLS asks for: write "example.com" or "*.example.com", without a port')


def application_protocol(text: str) -> None:
    if not re.fullmatch(r"[!-~]{1,255}", text):
        raise ValueError(f'"{text}" is not the name of a protocol; they are written like "h2", "http/1.1" or "acme-tls/1"')


def status(text: str) -> None:
    parse_statuses([text])


def octal_mode(text: str) -> None:
    if not MODE.fullmatch(text):
        raise ValueError(f'"{text}" is not a file mode; write three octal digits, as in "0660"')


def request_target(text: str) -> None:
    if not ORIGIN_FORM.fullmatch(text):
        raise ValueError(f'"{text}": a path begins with "/" and has no blanks, no "#" and only ASCII letters (escape others as %XX)')


def authority(text: str) -> None:
    """What Host may say and, for a check by https, TLS may ask for."""
    visible(text, "the host")
    match = AUTHORITY.fullmatch(text.encode())
    host = match[1].decode() if match else ""
    if not (is_address(host[1:-1]) if host.startswith("[") else all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))):
        raise ValueError(f'"{text}" is not a host; write "example.com" or "example.com:8080"')


def certified_name(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", text) and not is_address(text):
        raise ValueError(f'"{text}" is not a name that a certificate can have; write it like "app.internal", without a port')


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def scheme(text: str) -> None:
    if text not in ("http", "https"):
        raise ValueError(f'"{text}" is not a scheme; write "http" or "https"')


def location(text: str) -> None:
    visible(text, "the URL")
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|/", text):
        raise ValueError(f'"{text}" is neither a URL nor a path; write it like "https://example.com/"')


def prefix(text: str) -> None:
    if not text.startswith("/"):
        raise ValueError(f'"{text}": a prefix begins with "/"')
    if "?" in text or "#" in text:
        raise ValueError(f'"{text}": a prefix has no query and no fragment')


def edited_field(name: str, value: str) -> None:
    encoded_fields([(name, value)])


def removed_field(name: str) -> None:
    encoded_fields([(name, "")])


def header_condition(name: str, value: str) -> None:
    if not TOKEN.fullmatch(name):
        raise ValueError(f'"{name}" is not the name of a header field')
    condition(name, value)


def condition(_name: str, value: str) -> None:
    if value != PRESENT and not FIELD_VALUE.fullmatch(value):
        raise ValueError(f'the value of "{_name}" has a line break or another control character')
    try:
        expected_value(value)
    except ValueError:
        if isinstance(value, Secret):
            raise ValueError("is not a regular expression; it is a secret, so that no more of it is shown here") from None
        raise


def probe_field(name: str, value: str) -> None:
    if name.lower() == "host":
        raise ValueError(f'"{name}" is set by `host`')
    encoded_fields([(name, value)])


def bearer_token(text: str) -> None:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be of ASCII letters, digits and signs, without blanks: it is sent in a header field")


def log_file(text: str, words: tuple[str, ...] = ("stdout", "stderr")) -> None:
    """A typing error in one of the words should not become a file of that name."""
    if text not in words and "/" not in text:
        raise ValueError(f'"{text}" is none of {", ".join(words)}; a path has a "/" in it, as in "./{text}"')


def access_file(text: str) -> None:
    log_file(text, ("stdout", "stderr", "off"))


def cookie_name(text: str) -> None:
    if not TOKEN.fullmatch(text):
        raise ValueError(f'"{text}" is not the name of a cookie: write letters, digits, "-" and "_"')


def cookie_path(text: str) -> None:
    if not re.fullmatch(r"/[!-:<-~]*", text):
        raise ValueError(f'"{text}": a cookie\'s path begins with "/" and has neither blanks nor ";"')


def secret(text: str) -> None:
    if len(text) < 16:
        raise ValueError("is too short to be a secret; write 16 characters or more, as `openssl rand -hex 32` gives them")


def metadata_entry(_name: str, value: str) -> None:
    if not value or not FIELD_VALUE.fullmatch(value):
        raise ValueError("is empty or has a control character; write a word that routes can ask for")


def absolute_path(text: str) -> None:
    """A daemon's working directory is nobody's business."""
    if not text.startswith("/"):
        raise ValueError(f'"{text}" is not a path from the root on; write it like "/var/lib/lbd"')


def admin_bind(text: str) -> None:
    if text != "off":
        parse_bind(text)


def control_bind(text: str) -> None:
    if text in ("auto", "off"):
        return
    if parse_bind(text).kind != "unix":
        raise ValueError(f'"{text}" is no unix socket, whose mode says who may use it; write it like "unix:/run/lbd/control.sock"')


def field_value(text: str) -> None:
    if not FIELD_VALUE.fullmatch(text):
        raise ValueError("has a line break or another control character")


# By policy and field; a list of strings is checked item by item.
GRAMMARS: dict[tuple[type, str], Callable[[str], object]] = {
    (AdminPolicy, "bind"): admin_bind,
    (AdminPolicy, "control"): control_bind,
    (AdminPolicy, "token"): bearer_token,
    (DaemonPolicy, "user"): check_name,
    (DaemonPolicy, "group"): check_name,
    (DaemonPolicy, "zone"): check_name,
    (DaemonPolicy, "state_directory"): absolute_path,
    (LogPolicy, "file"): log_file,
    (LogPolicy, "access"): access_file,
    (ListenerPolicy, "bind"): parse_bind,
    (ListenerPolicy, "mode"): octal_mode,
    (ListenerPolicy, "upgrades"): parse_protocol,
    (ForwardedPolicy, "trusted_proxies"): network,
    (ProxyProtocolPolicy, "trusted"): network,
    (PassthroughPolicy, "name"): check_name,
    (PassthroughPolicy, "sni"): server_name,
    (PassthroughPolicy, "alpn"): application_protocol,
    (RoutePolicy, "name"): check_name,
    (RoutePolicy, "host"): host_key,
    (RoutePolicy, "sni"): server_name,
    (RoutePolicy, "alpn"): application_protocol,
    (RoutePolicy, "path"): path,
    (RoutePolicy, "path_exact"): path,
    (RoutePolicy, "path_regex"): path_regex,
    (RoutePolicy, "methods"): method,
    (RespondPolicy, "content_type"): field_value,
    (RedirectPolicy, "scheme"): scheme,
    (RedirectPolicy, "host"): authority,
    (RedirectPolicy, "prefix"): prefix,
    (RedirectPolicy, "location"): location,
    (RewritePolicy, "host"): authority,
    (RewritePolicy, "prefix"): prefix,
    (HeaderEdits, "remove"): removed_field,
    (EndpointPolicy, "address"): parse_endpoint,
    (EndpointPolicy, "zone"): check_name,
    (ClusterPolicy, "hash_key"): HashKey,
    (StickyPolicy, "cookie"): cookie_name,
    (StickyPolicy, "path"): cookie_path,
    (StickyPolicy, "secret"): secret,
    (ClusterTlsPolicy, "sni"): certified_name,
    (RetryPolicy, "on"): parse_cause,
    (RetryPolicy, "methods"): method,
    (RetryPolicy, "hedge_after"): parse_hedge,
    (HealthPolicy, "path"): request_target,
    (HealthPolicy, "host"): authority,
    (HealthPolicy, "expect_status"): status,
    (HealthPolicy, "expect_body"): regex,
}

# Tables of names and strings, entry by entry.
PAIR_GRAMMARS: dict[tuple[type, str], Callable[[str, str], object]] = {
    (RoutePolicy, "headers"): header_condition,
    (RoutePolicy, "query"): condition,
    (RespondPolicy, "headers"): edited_field,
    (EndpointPolicy, "metadata"): metadata_entry,
    (RoutePolicy, "subset"): metadata_entry,
    (HeaderEdits, "set"): edited_field,
    (HeaderEdits, "add"): edited_field,
    (HealthPolicy, "headers"): probe_field,
}
