"""FLOWER_GATEWAY_CERT: a pair that cannot serve is an error, one that people refuse a warning."""

import pytest
from authority import DAY, NOW, issue

from flower_agent.commands import check
from flower_agent.config import parsing
from flower_agent.config.sources import Inputs
from flower_agent.model.errors import Severity
from flower_agent.model.secret import Secret
from flower_agent.tls import certificates
from flower_agent.tls.gateway_certificate import check_gateway_pair

NAME = "fl.example.org"
CA = issue("public root", ca=True, usage="key_cert_sign", end=NOW + 3650 * DAY)
LEAF = CA.issue("gateway", hosts=(NAME,), ca=False)
OTHER = CA.issue("other", hosts=(NAME,), ca=False)


def checked(pem=LEAF.pem, key=LEAF.secret, host=NAME, now=NOW):
    pair, found = check_gateway_pair(pem, key, host, now)
    return pair, [(finding.severity.value, finding.code) for finding in found]


def test_a_sound_pair_is_taken_as_it_is():
    pair, found = checked(LEAF.pem + CA.pem)
    assert found == []
    assert pair.chain_pem == LEAF.pem + CA.pem
    assert "PRIVATE KEY" in pair.key_pem.reveal()


def test_the_keys_own_certificate_comes_first_since_haproxy_shows_the_first():
    pair, found = checked(CA.pem + LEAF.pem)
    assert found == []
    assert certificates.fingerprint(pair.chain_pem) == certificates.fingerprint(LEAF.pem)


def test_a_key_of_another_certificate_is_an_error():
    assert checked(key=OTHER.secret) == (None, [("error", "tls.key_mismatch")])


@pytest.mark.parametrize(
    "key", ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"]
)
def test_a_key_that_is_none_is_an_error_that_does_not_show_it(key):
    pair, found = check_gateway_pair(LEAF.pem, Secret(key), NAME, NOW)
    assert pair is None
    assert [finding.code for finding in found] == ["setting.invalid"]
    assert "AAAA" not in found[0].message


def test_what_is_no_certificate_is_an_error():
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert checked(pem) == (None, [("error", "setting.invalid")])


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ({"host": "other.example.org"}, "tls.not_covered"),
        ({"host": "10.0.0.5"}, "tls.not_covered"),
        ({"now": NOW + 91 * DAY}, "tls.expired"),
        ({"now": NOW + 80 * DAY}, "tls.expires_soon"),
    ],
)
def test_what_people_would_refuse_is_a_warning_and_served(case, code):
    pair, found = checked(**case)
    assert pair is not None
    assert found == [("warning", code)]


def test_check_says_the_same_of_a_context():
    context = {
        "FLOWER_ROLE": "server",
        "FLOWER_GATEWAY": "YES",
        "FLOWER_GATEWAY_URL": f"https://{NAME}",
        "FLOWER_GATEWAY_CERT": LEAF.pem,
        "FLOWER_GATEWAY_KEY": OTHER.secret.reveal(),
    }
    found = check.deeper(parsing.parse(context, {}).settings, inputs(context), None, offline=True)
    wrong = [finding for finding in found if finding.severity is Severity.ERROR]
    assert [finding.code for finding in wrong] == ["tls.key_mismatch"]
    assert "FLOWER_GATEWAY_KEY" in wrong[0].message


def inputs(context):
    return Inputs(variables=context, config={}, findings=(), access=None, vmid=None)
