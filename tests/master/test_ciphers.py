"""Lists of ciphers: every word counts."""

from __future__ import annotations

import pytest

from lbd.errors import EnvironmentFault
from lbd.master.ciphers import check_ciphers

GOOD = "ECDHE-RSA-AES128-GCM-SHA256"


@pytest.mark.parametrize(
    "ciphers",
    [
        "",
        GOOD,
        f"{GOOD}:ECDHE-ECDSA-AES128-GCM-SHA256",
        f"{GOOD},ECDHE-ECDSA-AES128-GCM-SHA256 DHE-RSA-AES256-GCM-SHA384:",
        "HIGH:!aNULL:!MD5",  # nginx's default
        "DEFAULT",
        "DEFAULT:!kRSA:-SHA1:+AES256:@STRENGTH",
        "DEFAULT@SECLEVEL=1",
        "ECDHE+AESGCM:ECDHE+CHACHA20:!RC4:!3DES:!EXPORT:@SECLEVEL=2",
        "SUITEB128",
    ],
)
def test_lists_that_say_what_they_mean(ciphers: str) -> None:
    assert check_ciphers(ciphers, ()) == []


@pytest.mark.parametrize(
    ("ciphers", "expected"),
    [
        (f"{GOOD}:BOGUS", 'OpenSSL knows no cipher "BOGUS"; '),
        (f"BOGUS:{GOOD}", 'OpenSSL knows no cipher "BOGUS"; '),
        (f"{GOOD}:ECDHE+BOGUS", 'OpenSSL knows no cipher "ECDHE+BOGUS"; '),
        (f"{GOOD}:DEFAULT", 'OpenSSL knows no cipher "DEFAULT"; '),  # it stands first, or OpenSSL passes over it
        (f"{GOOD}:RC4-SHA", 'OpenSSL knows no cipher "RC4-SHA"; '),
        (f"{GOOD}:@BOGUS", 'OpenSSL knows no order "@BOGUS"; '),
        ("TLS_AES_128_GCM_SHA256", '"TLS_AES_128_GCM_SHA256" is of TLS 1.3, whose ciphers cannot be chosen; '),
        (f"{GOOD}:TLS_CHACHA20_POLY1305_SHA256", '"TLS_CHACHA20_POLY1305_SHA256" is of TLS 1.3, '),
        ("HIGH:!HIGH", '"HIGH:!HIGH" leaves no cipher; '),
        ("!BOGUS", '"!BOGUS" leaves no cipher; '),
        (":", '":" leaves no cipher; '),
    ],
)
def test_a_word_that_openssl_would_pass_over(ciphers: str, expected: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        check_ciphers(ciphers, ("listener", "web", "tls"))
    assert str(caught.value).startswith(expected)
    assert caught.value.path == ("listener", "web", "tls", "ciphers")


def test_a_word_that_takes_nothing_away() -> None:
    (doubt,) = check_ciphers(f"{GOOD}:!aNUL", ())
    assert str(doubt) == 'OpenSSL knows no cipher "aNUL", so that "!aNUL" changes nothing'
