"""Which certificate a name gets, and what an upstream is told of a client's. Handshakes are in tests/core/test_tls.py and tests/e2e."""

from __future__ import annotations

import ssl
import warnings
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.proxy.listener import Http2Policy, ListenerPolicy
from lbd.proxy.origination import upstream_context
from lbd.proxy.tls import Termination, escaped, identity_fields, printable
from lbd.proxy.tls_material import KeyPair, TlsMaterial, load_pair
from lbd.proxy.tls_policy import ListenerTlsPolicy
from tests.support.certificates import Authority, Signer, client_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pair(made: tuple[Path, Path], *names: str) -> KeyPair:
    return KeyPair(made[0].read_bytes(), made[1].read_bytes(), names)


def policy(**tls: object) -> ListenerPolicy:
    return ListenerPolicy("web", ("127.0.0.1:1",), tls=ListenerTlsPolicy("a", "b", **tls))  # type: ignore[arg-type]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def material(authority: Authority) -> TlsMaterial:
    names = {"a": ("a.example",), "w": ("*.example",), "deep": ("*.b.example", "b.example")}
    return TlsMaterial(tuple(pair(authority.issue(file, *of), *of) for file, of in names.items()))


def shaken(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=name, session=session), server.wrap_bio(up, down, server_side=True)]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            if ends[1].version() == "TLSv1.3":
                with pytest.raises(ssl.SSLWantReadError):
                    ends[0].read(1)  # takes the tickets
            return ends[0], ends[1]
    raise AssertionError("no end of the handshake")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.example", 0), ("A.Example.", 0), ("x.example", 1), ("b.example", 2), ("c.b.example", 2), ("d.c.b.example", None),
        ("example", None), ("other.test", None), ("", None), (".example", 1),
    ],
)  # fmt: skip
def test_names(material: TlsMaterial, name: str, expected: int | None) -> None:
    """Exact before wildcard; a wildcard is one label."""
    termination = Termination(policy(), material)
    contexts = [termination.find(each) for each in ("a.example", "any.example", "b.example")]
    assert termination.find(name) is (None if expected is None else contexts[expected])
    assert len(set(map(id, contexts))) == 3


@pytest.mark.parametrize(("asked", "names"), [("c.b.example", "*.b.example"), ("a.example", "a.example"), ("other.test", "a.example")])
def test_the_certificate_that_comes(authority: Authority, material: TlsMaterial, asked: str, names: str) -> None:
    client = client_context(authority.file)
    client.check_hostname = False
    end, _ = shaken(Termination(policy(), material).context, client, asked)
    shown = end.getpeercert()
    assert shown is not None
    assert ("DNS", names) in shown["subjectAltName"]


@pytest.mark.parametrize("name", ["other.test", None])
def test_a_strict_listener_has_nothing_for_strangers(authority: Authority, material: TlsMaterial, name: str | None) -> None:
    client = client_context(authority.file)
    client.check_hostname = False
    with pytest.raises(ssl.SSLError, match="CALLBACK_FAILED"):
        shaken(Termination(policy(strict_sni=True), material).context, client, name)


@pytest.mark.parametrize(
    ("offered", "alpn", "has_http2", "expected"),
    [
        (("h2", "http/1.1"), ("h2", "http/1.1"), True, "h2"),
        (("http/1.1", "h2"), ("h2", "http/1.1"), True, "h2"),  # ours is the order that counts
        (("h2", "http/1.1"), ("http/1.1", "h2"), True, "http/1.1"),
        (("h2", "http/1.1"), ("h2", "http/1.1"), False, "http/1.1"),
        (("acme-tls/1",), ("h2", "http/1.1"), True, None),
        ((), ("h2", "http/1.1"), True, None),
    ],
)  # fmt: skip
def test_alpn(
    authority: Authority, material: TlsMaterial, offered: tuple[str, ...], alpn: tuple[str, ...], has_http2: bool, expected: str
) -> None:
    listener = ListenerPolicy("web", ("127.0.0.1:1",), tls=ListenerTlsPolicy("a", "b", alpn=alpn), http2=Http2Policy(enabled=has_http2))
    client = client_context(authority.file, alpn=offered)
    for name in ("a.example", "x.b.example"):  # whichever certificate it becomes
        _, end = shaken(Termination(listener, material).context, client, name)
        assert end.selected_alpn_protocol() == expected


def test_old_versions_are_refused(authority: Authority, material: TlsMaterial) -> None:
    client = client_context(authority.file)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    shaken(Termination(policy(), material).context, client, "a.example")
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        shaken(Termination(policy(min_version="1.3"), material).context, client, "a.example")


@contextmanager
def old_words() -> Iterator[None]:
    """The ssl module warns of TLS 1.1, which is what tests of it want."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def only_tls_1_1(context: ssl.SSLContext) -> ssl.SSLContext:
    with old_words():
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or OpenSSL would refuse it for its signatures
    return context


def test_tls_1_1_is_spoken_with_nobody(authority: Authority, material: TlsMaterial) -> None:
    """Whatever OpenSSL allows: with this list of ciphers it would speak it."""
    weak = "DEFAULT:@SECLEVEL=0"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with old_words():
        server.minimum_version = ssl.TLSVersion.TLSv1
    server.set_ciphers(weak)
    load_pair(server, material.pairs[0])
    _, end = shaken(server, only_tls_1_1(client_context(authority.file)), "a.example")
    assert end.version() == "TLSv1.1"
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        shaken(Termination(policy(ciphers=weak), material).context, only_tls_1_1(client_context(authority.file)), "a.example")
    trusting = TlsMaterial((), authority.file.read_text())
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        shaken(only_tls_1_1(server), upstream_context(ClusterTlsPolicy(ca="ca.pem", ciphers=weak), trusting), "a.example")


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"])
def test_the_ciphers_that_are_named_are_spoken(authority: Authority, material: TlsMaterial, cipher: str) -> None:
    """With clients, and with endpoints."""
    client = client_context(authority.file)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    _, end = shaken(Termination(policy(ciphers=cipher), material).context, client, "a.example")
    assert (end.cipher() or ("",))[0] == cipher
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        shaken(Termination(policy(ciphers=cipher), material).context, client, "a.example")
    server = authority.server_context("a")
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    ours = upstream_context(ClusterTlsPolicy(ca="ca.pem", ciphers=cipher), TlsMaterial((), authority.file.read_text()))
    _, end = shaken(server, ours, "a.example")
    assert (end.cipher() or ("",))[0] == cipher


def test_of_the_ciphers_that_both_know_ours_is_the_order_that_counts(authority: Authority, material: TlsMaterial) -> None:
    one, other = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"
    client = client_context(authority.file)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(f"{other}:{one}")
    _, end = shaken(Termination(policy(ciphers=f"{one}:{other}"), material).context, client, "a.example")
    assert (end.cipher() or ("",))[0] == one


def test_what_no_context_allows(material: TlsMaterial) -> None:
    """Versions of OpenSSL and Python differ in what they leave out by themselves."""
    termination = Termination(policy(), material)
    for name in ("a.example", "x.example", "b.example"):
        context = termination.find(name)
        assert context is not None
        for option in (ssl.OP_NO_COMPRESSION, ssl.OP_NO_RENEGOTIATION, ssl.OP_CIPHER_SERVER_PREFERENCE):
            assert context.options & option


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_a_client_certificate_says_survives_a_resumption(authority: Authority, material: TlsMaterial, version: ssl.TLSVersion) -> None:
    shown = authority.issue("client", "ann@example.com")
    server = Termination(policy(), TlsMaterial(material.pairs, authority.file.read_text())).context
    client = client_context(authority.file, pair=shown)
    client.maximum_version = version
    near, far = shaken(server, client, "a.example")
    fields = identity_fields(far)
    assert b"X-Client-Cert-Verify: SUCCESS" in fields
    _, again = shaken(server, client, "a.example", near.session)
    assert again.session_reused
    assert identity_fields(again) == fields


def test_no_session_is_resumed_once_others_vouch_for_clients(authority: Authority, material: TlsMaterial, tmp_path: Path) -> None:
    shown = authority.issue("client", "ann@example.com")
    client = client_context(authority.file, pair=shown)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    near, _ = shaken(Termination(policy(), TlsMaterial(material.pairs, authority.file.read_text())).context, client, "a.example")
    others = Authority(tmp_path / "others").file.read_text()
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shaken(Termination(policy(), TlsMaterial(material.pairs, others)).context, client, "a.example", near.session)


def test_a_client_certificate_as_fields(authority: Authority, material: TlsMaterial, tmp_path: Path) -> None:
    shown = authority.issue("client", "ann@example.com")
    asking = TlsMaterial(material.pairs, authority.file.read_text())
    _, end = shaken(Termination(policy(), asking).context, client_context(authority.file, pair=shown), "a.example")
    fields = dict(line.split(b": ", 1) for line in identity_fields(end).split(b"\r\n") if line)
    assert fields[b"X-Client-Cert-Verify"] == b"SUCCESS"
    assert fields[b"X-Client-Cert-San"] == b"email:ann@example.com"
    assert fields[b"X-Client-Cert-Subject"].startswith((b"O=", b"OU="))
    assert len(fields[b"X-Client-Cert-Fingerprint"]) == 64


def told_of(shown: Signer, root: Signer, material: TlsMaterial, tmp_path: Path) -> dict[bytes, bytes]:
    """The fields about a certificate made by hand."""
    pair = Authority(tmp_path / "shown").write("shown", shown.pem, shown.private)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.load_cert_chain(*pair)
    _, end = shaken(Termination(policy(), TlsMaterial(material.pairs, root.pem.decode())).context, client, "a.example")
    return dict(line.split(b": ", 1) for line in identity_fields(end).split(b"\r\n") if line)


def test_names_of_every_kind(material: TlsMaterial, tmp_path: Path) -> None:
    directory = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "a, b"), x509.NameAttribute(x509.NameOID.COMMON_NAME, "c=d")])
    root = Signer("root")
    names = (
        "a,DNS:admin",
        x509.DirectoryName(directory),
        x509.UniformResourceIdentifier("spiffe://x/y"),
        x509.RFC822Name("a@b"),
        x509.IPAddress(ip_address("10.0.0.1")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
        x509.OtherName(x509.NameOID.COMMON_NAME, b"\x0c\1A"),
    )
    fields = told_of(Signer("ann", root, names=names), root, material, tmp_path)
    assert fields[b"X-Client-Cert-San"] == (
        rb"DNS:a\,DNS:admin,DirName:CN\=c\\\=d\,O\=a\\\, b,URI:spiffe://x/y,email:a@b,IP Address:10.0.0.1,Registered ID:1.2.3.4,"
        rb"othername:\<unsupported\>"
    )


def test_a_subject_with_what_rfc_4514_wants_escaped(material: TlsMaterial, tmp_path: Path) -> None:
    root = Signer("root")
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "eve, CN=admin\r\n"),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, " lead "),
            x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "#hex"),
        ]
    )
    fields = told_of(Signer(subject, root, names=["eve"]), root, material, tmp_path)
    assert fields[b"X-Client-Cert-Subject"] == rb"OU=\#hex,O=\ lead\ ,CN=eve\, CN\=admin%0D%0A"


def test_a_name_with_a_nul_is_told_whole(material: TlsMaterial, tmp_path: Path) -> None:
    """CVE-2026-47778: who stops at the NUL takes a stranger for admin.example."""
    root = Signer("root")
    fields = told_of(Signer("eve", root, names=["admin.example\0.evil.test"]), root, material, tmp_path)
    assert fields[b"X-Client-Cert-San"] == b"DNS:admin.example%00.evil.test"


@pytest.mark.parametrize(("value", "expected"), [("", ""), (" ", "\\ "), ("  ", "\\ \\ "), ("a", "a"), ("a#", "a#"), ("\\", "\\\\")])
def test_blanks_and_hashes_at_the_edges(value: str, expected: str) -> None:
    assert escaped(value) == expected


def test_no_client_certificate(authority: Authority, material: TlsMaterial) -> None:
    asking = TlsMaterial(material.pairs, authority.file.read_text())
    client = client_context(authority.file)
    _, end = shaken(Termination(policy(verify="optional"), asking).context, client, "a.example")
    assert identity_fields(end) == b"X-Client-Cert-Verify: NONE\r\n"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shaken(Termination(policy(), asking).context, client, "a.example")


def test_a_subject_cannot_forge_a_field() -> None:
    assert printable("a\r\nX-Admin: 1 50% é") == b"a%0D%0AX-Admin: 1 50%25 %C3%A9"


def test_a_key_of_another_is_refused(authority: Authority, material: TlsMaterial) -> None:
    wrong = KeyPair(material.pairs[0].chain, material.pairs[1].key)
    with pytest.raises(ssl.SSLError):
        Termination(policy(), TlsMaterial((wrong,)))
