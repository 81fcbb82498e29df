"""Whether what is said of TLS fits together. What is in the files is looked at by who reads them (master/certificates.py)."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report
    from lbd.proxy.listener import ListenerPolicy

__all__ = ["check_tls", "check_upstream_tls"]

PROTOCOLS = ("h2", "http/1.1")
CIPHERS_OF_1_2 = 'has no effect with min_version = "1.3", whose ciphers cannot be chosen'


def check_tls(listener: ListenerPolicy, path: KeyPath, report: Report) -> None:
    if listener.redirect_to_https and listener.cluster:
        report.error((*path, "redirect_to_https"), "everything that no route takes would go to https, and to `cluster` as well; keep one")
    if listener.redirect_to_https and listener.tls is not None:
        report.error((*path, "redirect_to_https"), "this listener has TLS itself, so that it would redirect to itself; take it out")
    if not listener.http2.enabled:
        for field in fields(listener.http2):
            if field.name != "enabled" and getattr(listener.http2, field.name) != field.default:
                report.warn((*path, "http2", field.name), "has no effect with enabled = false")
    tls = listener.tls
    if tls is None or not report.is_sound((*path, "tls")):
        return
    path = (*path, "tls")
    if tls.ciphers and tls.min_version == "1.3":
        report.warn((*path, "ciphers"), CIPHERS_OF_1_2)
    if listener.protocol == "tcp":
        report.error(path, 'protocol = "tcp" hands TLS on as it is; take `tls` out, or make it protocol = "http"')
    if bool(tls.cert) != bool(tls.key):
        has, missing = ("cert", "key") if tls.cert else ("key", "cert")
        report.error(path, f'there is a `{has}` without its `{missing}`; write {missing} = "{missing}.pem"')
    elif not tls.pairs():
        report.error(path, 'there is no certificate; write tls = { cert = "cert.pem", key = "key.pem" }')
    for index, name in enumerate(tls.alpn):
        if name not in PROTOCOLS:
            report.error((*path, "alpn", index), f'lbd does not speak "{name}"; write one of {", ".join(PROTOCOLS)}')
    if tls.alpn == ("h2",) and not listener.http2.enabled:
        report.error((*path, "alpn"), "only h2 is offered, but http2.enabled is false, so that nothing is left")
    if tls.verify != "required" and not tls.client_ca:
        report.error((*path, "verify"), "clients are asked for certificates only where `client_ca` says who may vouch for them")


def check_upstream_tls(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    tls = cluster.originates()
    if tls is None or not report.is_sound((*path, "tls")):
        return
    if cluster.tls is not None and cluster.endpoints and not any(map(cluster.speaks_tls, cluster.endpoints)):
        report.warn((*path, "tls"), "has no effect: every endpoint has tls = false")
    path = (*path, "tls")
    if tls.ciphers and tls.min_version == "1.3":
        report.warn((*path, "ciphers"), CIPHERS_OF_1_2)
    if bool(tls.client_cert) != bool(tls.client_key):
        has, missing = ("client_cert", "client_key") if tls.client_cert else ("client_key", "client_cert")
        report.error((*path, has), f'there is no {missing} to it; write {missing} = "{missing.removeprefix("client_")}.pem"')
    if tls.insecure_skip_verify and tls.ca:
        report.error((*path, "ca"), "nobody is asked to vouch for endpoints with insecure_skip_verify = true; take one of the two out")
    elif tls.insecure_skip_verify:
        sentence = "whoever is between lbd and the endpoints can read and change everything; name with `ca` who vouches for them"
        report.warn((*path, "insecure_skip_verify"), sentence)
    for index, endpoint in enumerate(cluster.endpoints):
        if endpoint.address.startswith("unix:") and cluster.speaks_tls(endpoint) and not tls.sni and not tls.insecure_skip_verify:
            sentence = f'"{endpoint.address}" has no name that its certificate could have; write sni = "NAME"'
            report.error(("cluster", cluster.name, "endpoints", index), sentence)
