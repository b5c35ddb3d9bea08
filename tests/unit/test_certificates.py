"""Reading certificates: names, dates, PEM that hides something, and which CA a node may trust."""

import base64
import contextlib
import datetime
import hashlib
import ssl

import pytest
from authority import DAY, NOW, issue
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.model.errors import AgentError
from flower_agent.tls import certificates

ROOT = issue("root", ca=True, usage="key_cert_sign", end=NOW + 3650 * DAY)
LEAF = ROOT.issue("leaf", ca=False, hosts=["Host.example.org", "*.example.org", "10.0.0.1", "::1"])
JUNK = {
    "nothing": "",
    "words": "no certificate",
    "base64 of PEM": base64.b64encode(LEAF.pem.encode()).decode(),
    "only a beginning": LEAF.pem[:300],
    "one whole, one cut": LEAF.pem + LEAF.pem[:300],
    "broken base64": LEAF.pem.replace("\nMII", "\nM!!"),
    "cut DER": LEAF.pem[:92] + "\n-----END CERTIFICATE-----",
    "an empty block": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
}


def refused(pem, fingerprint=None, now=NOW):
    with pytest.raises(AgentError) as caught:
        certificates.check_ca(pem, fingerprint, now)
    return caught.value


def test_a_certificate_is_described():
    seen = certificates.inspect(LEAF.pem + ROOT.pem)
    assert (seen.subject, seen.issuer, seen.is_ca) == ("CN=leaf", "CN=root", False)
    assert seen.names == {"host.example.org", "*.example.org"}
    assert seen.addresses == {"10.0.0.1", "::1"}
    assert (seen.not_before, seen.not_after) == (NOW - DAY, NOW + 90 * DAY)
    assert certificates.inspect(ROOT.pem).is_ca


def test_a_fingerprint_is_the_hash_of_the_der_form():
    der = ssl.PEM_cert_to_DER_cert(LEAF.pem)
    assert certificates.fingerprint(LEAF.pem) == hashlib.sha256(der).hexdigest()


def test_a_fingerprint_is_shown_in_pairs():
    assert certificates.format_fingerprint("ab01ff") == "AB:01:FF"
    assert certificates.format_fingerprint("AB:01:FF") == "AB:01:FF"


@pytest.mark.parametrize("pem", JUNK.values(), ids=JUNK)
def test_junk_is_refused_with_what_was_wanted(pem):
    with pytest.raises(ValueError, match=r"^want "):
        certificates.inspect(pem)


@given(st.data())
def test_damaged_certificates_raise_nothing_but_value_errors(data):
    der = bytearray(ssl.PEM_cert_to_DER_cert(LEAF.pem))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        certificates.inspect(ssl.DER_cert_to_PEM_cert(bytes(der)))


@given(st.text())
def test_any_text_raises_nothing_but_value_errors(text):
    with pytest.raises(ValueError, match=r"^want "):
        certificates.inspect(text)


def test_a_private_key_among_certificates_is_refused():
    with pytest.raises(ValueError, match="TLS_KEY"):
        certificates.inspect(ROOT.pem + ROOT.secret.reveal())


def test_another_kind_of_block_is_refused():
    with pytest.raises(ValueError, match="not TRUSTED CERTIFICATE"):
        certificates.inspect(ROOT.pem + LEAF.pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"))


def test_words_between_blocks_and_mangled_lines_do_not_matter():
    words = "Bag Attributes\r\n    friendlyName: root\r\n"
    mangled = words + ROOT.pem.replace("\n", "\r\n  ") + words + LEAF.pem.replace("\n", " ")
    assert certificates.canonical(mangled) == ROOT.pem + LEAF.pem


def test_an_unprintable_subject_stays_on_one_line():
    assert certificates.inspect(issue("a\nREADY=YES").pem).subject == "CN=a?READY=YES"


def test_a_store_yields_what_can_be_read():
    store = ROOT.pem + JUNK["cut DER"] + "\n# words\n" + LEAF.pem
    assert list(certificates.load_readable(store)) == [ROOT.certificate, LEAF.certificate]


def test_an_old_root_with_a_negative_serial_is_read_in_silence():
    der = bytearray(ssl.PEM_cert_to_DER_cert(ROOT.pem))
    number = ROOT.certificate.serial_number
    place = bytes(der).index(number.to_bytes((number.bit_length() + 8) // 8))
    der[place] |= 0x80
    (odd,) = certificates.load_readable(ssl.DER_cert_to_PEM_cert(bytes(der)))
    assert certificates.describe(odd).subject == "CN=root"


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("host.example.org", True),
        ("HOST.example.org.", True),
        ("other.example.org", True),
        ("a.b.example.org", False),
        ("example.org", False),
        ("10.0.0.1", True),
        ("10.0.0.12", False),
        ("0.0.0.1", False),
        ("::1", True),
        ("0:0::1", True),
        ("::ffff:10.0.0.1", False),
        ("1", False),
        ("", False),
    ],
)
def test_names_and_addresses_are_compared_as_values(host, covered):
    assert certificates.covers(certificates.inspect(LEAF.pem), host) is covered


def test_an_address_is_never_covered_by_a_name():
    seen = certificates.inspect(issue("x", hosts=["*.0.0.1"]).pem)
    assert not certificates.covers(seen, "10.0.0.1")


def test_a_wildcard_below_a_top_level_domain_covers_nothing():
    seen = certificates.inspect(issue("x", hosts=["*.org", "*"]).pem)
    assert not certificates.covers(seen, "example.org")
    assert not certificates.covers(seen, "host")


def test_the_ca_with_the_expected_fingerprint_is_trusted():
    colons = certificates.format_fingerprint(certificates.fingerprint(ROOT.pem))
    assert certificates.check_ca(ROOT.pem, colons, NOW).subject == "CN=root"
    assert certificates.check_ca(ROOT.pem, None, NOW).subject == "CN=root"


def test_another_ca_is_refused_with_both_fingerprints():
    error = refused(issue("root", ca=True).pem, "ab" * 32)
    assert error.finding.code == "tls.fingerprint"
    assert ":".join(["AB"] * 32) in error.finding.message
    assert error.finding.message.count(":") == 62


def test_a_fingerprint_vouches_for_no_second_ca():
    other = issue("other", ca=True)
    error = refused(ROOT.pem + other.pem, certificates.fingerprint(ROOT.pem))
    assert error.finding.code == "tls.fingerprint"


@pytest.mark.parametrize("pem", [*JUNK.values(), ROOT.secret.reveal()])
def test_a_ca_that_cannot_be_read_is_invalid(pem):
    error = refused(pem)
    assert error.finding.code == "setting.invalid"
    assert "want " in error.finding.message


def test_a_server_certificate_is_no_ca_unless_it_signed_itself():
    assert refused(LEAF.pem).finding.code == "tls.chain"
    assert certificates.check_ca(issue("own", ca=False).pem, None, NOW).subject == "CN=own"


def test_an_intermediate_wants_its_root():
    inter = ROOT.issue("inter", ca=True)
    assert refused(inter.pem).finding.message == "'CN=inter' is not a root: its issuer is 'CN=root'"
    assert certificates.check_ca(inter.pem + ROOT.pem, None, NOW).subject == "CN=root"


def test_a_ca_outside_its_dates_is_refused_and_tried_again():
    early = refused(ROOT.pem, now=NOW - 2 * DAY)
    assert (early.finding.code, early.retryable) == ("tls.expired", True)
    assert "not valid before 2026-02-28T12:00:00Z" in early.finding.message
    assert "expired" in refused(ROOT.pem, now=NOW + 3651 * DAY).finding.message


def test_a_bundle_is_trusted_while_one_of_its_roots_is_valid():
    old = issue("old", ca=True, start=NOW - 9 * DAY, end=NOW - DAY)
    assert certificates.check_ca(old.pem + ROOT.pem, None, NOW).subject == "CN=root"


def test_a_certificate_is_renewed_within_its_life():
    seen = certificates.inspect(LEAF.pem)
    third = datetime.timedelta(days=91) / 3
    assert certificates.renew_at(seen) == seen.not_after - third
