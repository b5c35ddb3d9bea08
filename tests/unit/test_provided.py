"""Certificates that operators give: which are served, which are refused, and what is said."""

import datetime
import re

import pytest
from authority import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    issue,
    rsa_key,
    secret,
    shake_hands,
    sign_with_sha1,
)
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import PrivateFormat

from flower_agent.model.errors import Severity
from flower_agent.model.secret import Secret
from flower_agent.tls import certificates, own_ca
from flower_agent.tls.provided import Material, check_provided

HOST = "10.0.0.1"
HOSTS = (HOST, "link.example.org")
YEARS = NOW + 3650 * DAY
ROOT = issue("root", ca=True, usage="key_cert_sign", end=YEARS)
INTER = ROOT.issue("inter", ca=True, path_length=0, usage="key_cert_sign", end=YEARS)
LEAF = INTER.issue("leaf", hosts=HOSTS, ca=False, usage="digital_signature", extended=SERVER)
PLAIN = ROOT.issue("plain", hosts=HOSTS)
OTHER = issue("other", ca=True, end=YEARS)


def check(chain, key, ca=ROOT.pem, hosts=HOSTS, *, now=NOW, store=None):
    """Check and hold what is true of every check: no given with an error, no key in any word."""
    material = Material(certificate_pem=chain, key=key)
    checked = check_provided(material, ca, hosts, now, system_roots=store)
    errors = [one for one in checked.findings if one.severity is Severity.ERROR]
    assert (checked.given is None) == bool(errors)
    for line in key.reveal().splitlines():
        assert line.startswith("-----") or line not in str(checked.findings)
    return checked


def refusal(*args, **wishes):
    """Return code and message of the one finding."""
    (finding,) = check(*args, **wishes).findings
    return f"{finding.code}: {finding.message} | {finding.hint}"


def leaf(**wishes):
    return ROOT.issue("leaf", **({"hosts": HOSTS} | wishes))


def refused_leaf(**wishes):
    issued = leaf(**wishes)
    return refusal(issued.pem, issued.secret)


def test_a_chain_with_an_intermediate_is_served():
    checked = check(LEAF.pem + INTER.pem, LEAF.secret)
    assert checked.findings == ()
    assert checked.given.chain_pem == LEAF.pem + INTER.pem
    assert checked.given.ca_pem == ROOT.pem
    assert checked.given.certificate == certificates.inspect(LEAF.pem)
    assert checked.given.key_pem == LEAF.secret


def test_the_root_and_strangers_behind_the_chain_are_not_served():
    checked = check(LEAF.pem + INTER.pem + ROOT.pem + OTHER.pem, LEAF.secret)
    assert checked.given.chain_pem == LEAF.pem + INTER.pem


def test_nodes_are_given_the_one_root_of_a_bundle():
    assert check(PLAIN.pem, PLAIN.secret, OTHER.pem + INTER.pem + ROOT.pem).given.ca_pem == ROOT.pem


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("kind", ["rsa", "p256", "p384"])
def test_every_usual_key_is_served_as_pkcs8(kind, form):
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}
    key = rsa_key() if kind == "rsa" else ec.generate_private_key(curves[kind])
    given = check(leaf(key=key).pem, secret(key, form)).given
    assert given.key_pem == secret(key)


def test_what_is_served_passes_a_real_handshake(tmp_path):
    # Dates of today, and every extension that a strict client looks for, by the agent's own CA.
    now = datetime.datetime.now(datetime.UTC)
    ca = own_ca.make_ca(now)
    pair = own_ca.make_leaf(ca, HOSTS, now)
    given = check(pair.certificate_pem, pair.key, ca.certificate_pem, now=now).given
    shake_hands(tmp_path, given.chain_pem, given.key_pem, given.ca_pem, HOST)


def test_a_self_signed_certificate_may_be_its_own_ca():
    for ca in (None, False, True):
        own = issue("own", hosts=HOSTS, ca=ca)
        given = check(own.pem, own.secret, own.pem).given
        assert given.chain_pem == given.ca_pem == own.pem


def test_a_wildcard_covers_one_label():
    issued = leaf(hosts=["*.example.org"])
    assert check(issued.pem, issued.secret, hosts=["a.example.org"]).given
    assert "tls.not_covered" in refusal(issued.pem, issued.secret, hosts=["a.b.example.org"])


def test_without_a_ca_the_system_vouches_and_its_root_goes_to_the_nodes():
    checked = check(LEAF.pem + INTER.pem, LEAF.secret, None, store=OTHER.pem + "#\n" + ROOT.pem)
    assert checked.given.ca_pem == ROOT.pem


def test_without_a_ca_and_unknown_to_the_system_it_is_refused():
    for store in (None, "", OTHER.pem):
        text = refusal(PLAIN.pem, PLAIN.secret, None, store=store)
        assert "is not in TLS_CERT and not in this VM's store of CAs" in text


def test_a_self_signed_certificate_without_ca_says_to_set_it():
    own = issue("own", hosts=HOSTS)
    assert refusal(own.pem, own.secret, None, store=ROOT.pem) == (
        "tls.chain: 'CN=own' is self-signed and not in this VM's store of CAs"
        " | Set TLS_CA_CERT to that certificate."
    )


def test_of_two_roots_with_one_key_the_valid_one_is_used():
    old = issue("root", key=ROOT.key, ca=True, start=NOW - 9 * DAY, end=NOW - DAY)
    assert check(PLAIN.pem, PLAIN.secret, old.pem + ROOT.pem).given.ca_pem == ROOT.pem


def test_a_missing_intermediate_is_named():
    text = refusal(LEAF.pem, LEAF.secret)
    assert text.startswith(
        "tls.chain: 'CN=inter', the issuer of 'CN=leaf', is not in TLS_CERT and not in TLS_CA_CERT"
    )
    assert "after the server's certificate" in text


@pytest.mark.parametrize("ca", [INTER.pem, INTER.pem + ROOT.pem])
def test_an_intermediate_in_the_ca_belongs_into_the_chain(ca):
    text = refusal(LEAF.pem, LEAF.secret, ca)
    assert "is in TLS_CA_CERT and is not a root | Put 'CN=inter' after 'CN=leaf'" in text


def test_an_intermediate_alone_is_no_ca_for_nodes():
    assert "'CN=root', the issuer of 'CN=inter'" in refusal(
        LEAF.pem + INTER.pem, LEAF.secret, INTER.pem
    )


def test_a_chain_out_of_order_is_refused():
    upper = issue("upper", by=ROOT, ca=True)
    lower = upper.issue("lower", ca=True)
    end = lower.issue("end", hosts=HOSTS)
    assert check(end.pem + lower.pem + upper.pem, end.secret).given
    text = refusal(end.pem + upper.pem + lower.pem, end.secret)
    assert "out of order: 'CN=lower' must follow 'CN=end'" in text


def test_a_leaf_behind_its_issuer_is_refused():
    text = refusal(INTER.pem + LEAF.pem, LEAF.secret)
    assert "tls.chain: 'CN=leaf', which belongs to TLS_KEY, is not the first in TLS_CERT" in text


def test_a_remade_ca_of_the_same_name_is_told_apart():
    remade = issue("root", ca=True)
    text = refusal(PLAIN.pem, PLAIN.secret, remade.pem)
    assert "'CN=plain' was not signed by the given 'CN=root' but by one of that name" in text


def test_a_key_of_another_certificate_is_refused():
    text = refusal(PLAIN.pem, LEAF.secret)
    assert text.startswith("tls.key_mismatch: TLS_KEY does not belong to 'CN=plain' in TLS_CERT")


@pytest.mark.parametrize(
    "key",
    [
        secret(rsa_key(), password=b"x"),
        secret(ed25519.Ed25519PrivateKey.generate()),
        secret(ec.generate_private_key(ec.SECP521R1())),
        Secret("hunter2hunter2"),
    ],
)
def test_an_unfit_key_is_shown_by_its_length_only(key):
    text = refusal(PLAIN.pem, key)
    assert text.startswith(f"setting.invalid: TLS_KEY ({len(key)} characters): want ")


def test_dates_are_checked_for_the_whole_chain():
    assert "expired 2026-02-28" in refused_leaf(start=NOW - 9 * DAY, end=NOW - DAY)
    assert "not valid before 2026-03-02" in refused_leaf(start=NOW + DAY)
    inter = ROOT.issue("inter", ca=True, start=NOW - 9 * DAY, end=NOW - DAY)
    end = inter.issue("end", hosts=HOSTS)
    assert refusal(end.pem + inter.pem, end.secret).startswith(
        "tls.expired: certificate 'CN=inter' expired 2026-02-28T12:00:00Z; now is 2026-03-01T12:00"
    )
    root = issue("root", ca=True, start=NOW - 9 * DAY, end=NOW - DAY)
    end = root.issue("end", hosts=HOSTS)
    assert "certificate 'CN=root' expired" in refusal(end.pem, end.secret, root.pem)


def test_every_uncovered_address_is_named_with_those_that_are():
    checked = check(PLAIN.pem, PLAIN.secret, hosts=["10.0.0.12", HOST, "x.org"])
    assert [one.message for one in checked.findings] == [
        f"TLS_CERT does not contain {host}; its SAN contains 10.0.0.1, link.example.org"
        for host in ("10.0.0.12", "x.org")
    ]


def test_a_certificate_without_san_covers_nothing():
    issued = leaf(hosts=())
    assert "its SAN contains nothing" in refusal(issued.pem, issued.secret, hosts=[HOST])


def test_a_long_san_is_cut():
    issued = leaf(hosts=[f"n{number:02}.example.org" for number in range(40)])
    text = refusal(issued.pem, issued.secret, hosts=[HOST])
    assert "n09.example.org, …" in text
    assert "n10" not in text


def test_a_certificate_for_another_purpose_is_refused():
    assert "lacks serverAuth" in refused_leaf(extended=CLIENT)
    assert "forbids TLS signatures" in refused_leaf(usage="key_encipherment")


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"ca": None}, "has no basicConstraints"),
        ({"ca": False}, "its basicConstraints forbid it"),
        ({"ca": True, "usage": "digital_signature"}, "lacks keyCertSign"),
        ({"ca": True, "extended": CLIENT}, "no serverAuth"),
    ],
)
def test_an_issuer_that_may_not_issue_is_refused(wishes, words):
    inter = ROOT.issue("inter", **wishes)
    end = inter.issue("end", hosts=HOSTS)
    text = refusal(end.pem + inter.pem, end.secret)
    assert text.startswith("tls.chain: 'CN=inter' ")
    assert words in text


def test_a_path_longer_than_its_ca_allows_is_refused():
    low = INTER.issue("low", ca=True)
    end = low.issue("end", hosts=HOSTS)
    text = refusal(end.pem + low.pem + INTER.pem, end.secret)
    assert "'CN=inter' may have 0 intermediates below it and has 1" in text


def test_a_sha1_signature_is_refused_below_the_root_only():
    root = issue("root", key=rsa_key(), ca=True)
    weak = sign_with_sha1(root.issue("weak", hosts=HOSTS), root)
    assert "uses an algorithm that OpenSSL refuses" in refusal(weak.pem, weak.secret, root.pem)
    old = sign_with_sha1(root, root)
    end = old.issue("end", hosts=HOSTS)
    assert check(end.pem, end.secret, old.pem).given


def test_a_chain_signed_with_ed25519_is_served():
    root = issue("root", key=ed25519.Ed25519PrivateKey.generate(), ca=True)
    end = root.issue("end", hosts=HOSTS)
    assert check(end.pem, end.secret, root.pem).given


def test_an_end_within_thirty_days_is_a_warning():
    assert check(PLAIN.pem, PLAIN.secret, now=NOW + 59 * DAY).findings == ()
    checked = check(PLAIN.pem, PLAIN.secret, now=NOW + 60 * DAY)
    (finding,) = checked.findings
    assert (finding.code, finding.severity) == ("tls.expires_soon", Severity.WARNING)
    assert finding.message == "'CN=plain' ends 2026-05-30T12:00:00Z"
    assert checked.given


def test_a_short_life_is_no_constant_warning():
    short = leaf(start=NOW - DAY, end=NOW + 5 * DAY)
    assert check(short.pem, short.secret).findings == ()
    assert check(short.pem, short.secret, now=NOW + 3 * DAY).findings


def test_everything_wrong_is_said_at_once():
    wrong = leaf(hosts=["x.org"], start=NOW - 9 * DAY, end=NOW - DAY, extended=CLIENT)
    checked = check(wrong.pem, PLAIN.secret, OTHER.pem, hosts=[HOST])
    assert sorted(one.code for one in checked.findings) == [
        "tls.chain",
        "tls.chain",
        "tls.expired",
        "tls.key_mismatch",
        "tls.not_covered",
    ]


def test_junk_everywhere_is_three_findings():
    checked = check("junk", Secret("junk"), "junk")
    assert [re.split("[ :]", one.message)[0] for one in checked.findings] == [
        "TLS_CERT",
        "TLS_KEY",
        "TLS_CA_CERT",
    ]


def test_a_key_pasted_into_the_ca_is_refused_before_it_is_published():
    assert "not a private key" in refusal(PLAIN.pem, PLAIN.secret, ROOT.pem + ROOT.secret.reveal())
