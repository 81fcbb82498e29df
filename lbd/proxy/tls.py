"""TLS towards downstreams: which certificate a client gets, and the handshake.

Theory. A listener's Termination has an SSLContext for each certificate. A handshake begins with the first one's and changes to
another's when the client has said whom it asks for (SNI): an exact name before a wildcard, the first certificate for everybody else,
or nobody else's with `strict_sni`. Names are ASCII (RFC 6066, 3). The ssl module decodes them before it asks us, and ends the handshake
where it cannot; so a name that is none is looked for before, and gets a context that does not ask.

A new certificate makes a new Termination; connections keep what they began with.

What a client certificate says goes upstream in fields of our own, X-Client-Cert-*. Clients lose theirs of these names
(proxy/forwarding.py).
"""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING, Any

from lbd.core.fiber import Expired
from lbd.core.tls import TlsStream
from lbd.core.tls_error import TlsError
from lbd.proxy.answers import Answer, encode_answer
from lbd.proxy.hello import peek_hello
from lbd.proxy.opening import begin_step, receive_early, time_given
from lbd.proxy.reasons import failure
from lbd.proxy.tls_material import VERSIONS, load_pair
from lbd.wire.client_hello import is_part_of_record, raw_name

if TYPE_CHECKING:
    from lbd.proxy.connection import Connection
    from lbd.proxy.listener import ListenerPolicy
    from lbd.proxy.tls_material import TlsMaterial
    from lbd.proxy.tls_policy import ListenerTlsPolicy

__all__ = ["Termination", "identity_fields", "open_tls"]

READ = 16 * 1024
HANDSHAKE_RECORD = 0x16
NO_APPLICATION_PROTOCOL = b"\x15\x03\x01\0\2\2\x78"  # a fatal alert, in the clear as all is before a ServerHello (RFC 8446 6)
NOT_OFFERED = "it does not offer h2, and nothing else is spoken here (alpn)"
UNRECOGNIZED_NAME = b"\x15\3\3\0\2\2\x70"  # a record with a fatal alert (RFC 8446, 6.2), as OpenSSL would send it
STRANGER = "it asks for a name that no certificate is for, or for none (strict_sni)"
NO_NAME = "it asks for a name that is none: not all of it is ASCII (SNI)"
HELP = b"400 Bad Request\nThis port speaks TLS: write https:// in front of the address.\n"
Name = tuple[tuple[tuple[str, str], ...], ...]  # as the ssl module has it: parts, each of which may have several values
# RFC 4514, 3: the short names of what a subject may have.
SHORT = {
    "commonName": "CN", "localityName": "L", "stateOrProvinceName": "ST", "organizationName": "O", "organizationalUnitName": "OU",
    "countryName": "C", "streetAddress": "STREET", "domainComponent": "DC", "userId": "UID",
}  # fmt: skip


class Termination:
    """ssl.SSLError or ValueError: `material` is not fit for `policy`."""

    def __init__(self, listener: ListenerPolicy, material: TlsMaterial) -> None:
        policy = listener.tls
        assert policy is not None
        self._terms = (policy, listener.http2.enabled, material)
        self.is_strict = policy.strict_sni
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._protocols = [name for name in policy.alpn if listener.http2.enabled or name != "h2"]
        self.speaks_http1 = "http/1.1" in self._protocols or not self._protocols
        contexts: list[ssl.SSLContext] = []
        for pair in material.pairs:
            context = self._context(policy, material.authorities)
            load_pair(context, pair)
            contexts.append(context)
            for name in pair.names:
                self._by_name.setdefault(name, context)
        self.context = contexts[0]
        self.context.sni_callback = self._choose
        self._nameless: ssl.SSLContext | None = None  # as the first, for those whose name is none; few ever come
        self.asks_clients = bool(material.authorities)

    def is_for(self, listener: ListenerPolicy, material: TlsMaterial) -> bool:
        return self._terms == (listener.tls, listener.http2.enabled, material)

    def _context(self, policy: ListenerTlsPolicy, authorities: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[policy.min_version]
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = 1  # as Go's servers: a second one costs a twentieth of the handshake, and few clients use both
        if policy.ciphers:
            context.set_ciphers(policy.ciphers)
        if self._protocols:
            context.set_alpn_protocols(self._protocols)
        if authorities:
            context.load_verify_locations(cadata=authorities)
            context.verify_mode = ssl.CERT_REQUIRED if policy.verify == "required" else ssl.CERT_OPTIONAL
        return context

    def nameless(self) -> ssl.SSLContext:
        """For who asks for nothing that could be a name."""
        if self._nameless is None:
            policy, _, material = self._terms
            self._nameless = self._context(policy, material.authorities)
            load_pair(self._nameless, material.pairs[0])
        return self._nameless

    def find(self, name: str) -> ssl.SSLContext | None:
        """For the name that a client asks for."""
        name = name.lower().rstrip(".")
        found = self._by_name.get(name)
        if found is None:
            _, dot, rest = name.partition(".")  # a wildcard stands for one label (RFC 6125, 6.4.3)
            found = self._by_name.get(f"*.{rest}") if dot else None
        return found

    def _choose(self, tls: Any, name: str | None, _context: ssl.SSLContext) -> int | None:  # noqa: ANN401 - ssl's own
        found = self.find(name) if name else None
        if found is not None:
            tls.context = found
        elif self.is_strict:
            return ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None


async def open_tls(connection: Connection) -> str:
    """Puts a TlsStream in the place of the connection's stream; gives the protocol agreed on by ALPN, or "".

    ProxyError: there will be no TLS; who spoke plain HTTP has been told so.
    """
    listener, stream, fiber, termination = connection.listener, connection.stream, connection.fiber, connection.listener.termination
    assert termination is not None
    if not termination.speaks_http1:
        await check_offer(connection)
    begin_step(connection)
    try:
        await wait_for_first(connection)
        if connection.early[0] != HANDSHAKE_RECORD:
            refuse_plain(connection)
        await wait_for_record(connection)
        context = choose_context(connection, termination)
        early, connection.early = connection.early, b""
        tls = TlsStream(stream, context, "", None, early)
        connection.stream = tls
        await tls.handshake()
    except Expired:
        if listener.is_draining and connection.stream is stream and not connection.early:
            raise
        listener.shaken("timeout")
        raise failure("tls_handshake_timeout", f"no whole handshake within {time_given(listener)}") from None
    except TlsError as error:
        listener.shaken("failed")
        sentence = str(error.strerror)
        if error.word == "CALLBACK_FAILED":  # _choose() refuses only strangers; the ssl module, names that it cannot decode
            sentence = STRANGER if termination.is_strict else NO_NAME
        raise failure("tls_handshake_failed", sentence) from None
    except OSError as error:
        listener.shaken("failed")
        raise failure("tls_handshake_failed", f"the connection broke: {error.strerror}") from None
    fiber.disarm()
    protocol = tls.ssl.selected_alpn_protocol() or ""
    if not protocol and not termination.speaks_http1:
        listener.shaken("failed")
        raise failure("tls_handshake_failed", NOT_OFFERED)
    listener.shaken("ok")
    connection.scheme = b"https"
    if termination.asks_clients:
        connection.identity = identity_fields(tls.ssl)
    return protocol


async def check_offer(connection: Connection) -> None:
    """Where HTTP/1.1 is not spoken, nothing is left for a client that does not offer HTTP/2, and TLS has a word for that (RFC 7301 3.2).

    The ssl module would go on without a protocol. ProxyError: it has been told so.
    """
    hello = await peek_hello(connection)
    if hello is not None and b"h2" not in hello.alpn:
        connection.listener.shaken("failed")
        connection.stream.send(NO_APPLICATION_PROTOCOL)
        raise failure("tls_handshake_failed", NOT_OFFERED)


async def wait_for_first(connection: Connection) -> None:
    """At least one byte in `early`."""
    if not connection.early:
        connection.early = await receive_early(connection, READ)
        if not connection.early:
            raise failure("tls_handshake_failed", "closed before the handshake")


async def wait_for_record(connection: Connection) -> None:
    """The first one whole in `early`, if it is one and the other side does not give up before: OpenSSL says what is wrong then."""
    while is_part_of_record(connection.early):
        more = await receive_early(connection, READ)
        if not more:
            return
        connection.early += more


def choose_context(connection: Connection, termination: Termination) -> ssl.SSLContext:
    """ProxyError: the name that is asked for is none, and `strict_sni` wants one."""
    if raw_name(connection.early).isascii():
        return termination.context
    if termination.is_strict:
        connection.listener.shaken("failed")
        connection.stream.send(UNRECOGNIZED_NAME)
        raise failure("tls_handshake_failed", STRANGER)
    return termination.nameless()


def refuse_plain(connection: Connection) -> None:
    """Somebody forgot the "s"; what they see should say so, as far as they read HTTP/1."""
    listener = connection.listener
    listener.shaken("plain")
    if connection.early[:1].isalpha():
        answer = Answer(400, b"Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n", HELP, listener.wall_clock())
        connection.stream.send(encode_answer(answer))
        connection.stream.send_eof()
    raise failure("plain_to_tls", f"the first bytes are no TLS: {connection.early[:16]!r}")


def identity_fields(tls: ssl.SSLObject) -> bytes:
    """Lines about the client's certificate for the upstream; NONE when it has shown none, and all others were checked."""
    der = tls.getpeercert(binary_form=True)
    if not der:
        return b"X-Client-Cert-Verify: NONE\r\n"
    told: dict[str, Any] = tls.getpeercert() or {}
    subject = distinguished(told.get("subject", ()))
    others = ",".join(f"{kind}:{escaped(alternative(value))}" for kind, value in told.get("subjectAltName", ()))
    return b"X-Client-Cert-Verify: SUCCESS\r\nX-Client-Cert-Subject: %b\r\nX-Client-Cert-San: %b\r\nX-Client-Cert-Fingerprint: %b\r\n" % (
        printable(subject),
        printable(others),
        hashlib.sha256(der).hexdigest().encode(),
    )


def distinguished(name: Name) -> str:
    """A subject as RFC 4514 writes it: the last part first."""
    return ",".join("+".join(f"{SHORT.get(kind, kind)}={escaped(value)}" for kind, value in relative) for relative in reversed(name))


def alternative(value: str | Name) -> str:
    """A directory name (DirName) is a subject too."""
    return value if isinstance(value, str) else distinguished(value)


def escaped(value: str) -> str:
    """RFC 4514, 2.4: what separates the parts must not be in one of them, and what readers would strip or take for hex is marked."""
    text = "".join(f"\\{letter}" if letter in ',+"\\<>;=' else letter for letter in value)
    if text.endswith(" "):
        text = text[:-1] + "\\ "
    return f"\\{text}" if text[:1] in (" ", "#") else text


def printable(text: str) -> bytes:
    """As the value of a field; what a field must not have, and the percent sign, is percent-encoded UTF-8."""
    return b"".join(b"%c" % byte if 0x20 <= byte < 0x7F and byte != 0x25 else b"%%%02X" % byte for byte in text.encode())
