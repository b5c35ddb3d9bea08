"""The agent's own CA and certificate, judged by OpenSSL and by reading them back."""

import datetime
import ssl

import pytest
from authority import DAY, NOW, issue, rsa_key, secret, shake_hands
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import PrivateFormat

from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.tls import certificates, own_ca

HOSTS = ("10.0.0.1", "fd00::1", "superlink.example.org")


@pytest.fixture(scope="module")
def ca():
    return own_ca.make_ca(NOW)


@pytest.fixture(scope="module")
def leaf(ca):
    return own_ca.make_leaf(ca, HOSTS, NOW)


@pytest.fixture(scope="module")
def todays():
    now = datetime.datetime.now(datetime.UTC)
    ca = own_ca.make_ca(now)
    return ca, own_ca.make_leaf(ca, HOSTS, now)


@pytest.mark.parametrize("host", [*HOSTS, "127.0.0.1"])
def test_a_strict_client_accepts_every_certified_address(todays, tmp_path, host):
    ca, leaf = todays
    shake_hands(tmp_path, leaf.certificate_pem, leaf.key, ca.certificate_pem, host)


@pytest.mark.parametrize("host", ["10.0.0.12", "10.0.0.2", "superlink", "localhost"])
def test_a_client_refuses_any_other_address(todays, tmp_path, host):
    ca, leaf = todays
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(tmp_path, leaf.certificate_pem, leaf.key, ca.certificate_pem, host)


def test_a_client_refuses_a_certificate_of_another_ca(todays, tmp_path):
    _, leaf = todays
    other = own_ca.make_ca(datetime.datetime.now(datetime.UTC))
    with pytest.raises(ssl.SSLCertVerificationError, match="local issuer"):
        shake_hands(tmp_path, leaf.certificate_pem, leaf.key, other.certificate_pem, HOSTS[0])


def test_a_renewed_certificate_is_accepted_under_the_same_ca(todays, tmp_path):
    ca, _ = todays
    leaf = own_ca.make_leaf(ca, ["10.9.9.9"], datetime.datetime.now(datetime.UTC))
    shake_hands(tmp_path, leaf.certificate_pem, leaf.key, ca.certificate_pem, "10.9.9.9")


def test_the_ca_lives_ten_years_and_issues_no_other_ca(ca):
    (certificate,) = certificates.load(ca.certificate_pem)
    constraints = certificates.extension(certificate, x509.BasicConstraints)
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert certificate.not_valid_after_utc == NOW.replace(year=2036)
    assert isinstance(certificate.public_key().curve, ec.SECP384R1)


def test_two_cas_never_share_a_name(ca):
    other = own_ca.make_ca(NOW)
    assert certificates.inspect(ca.certificate_pem).subject != (
        certificates.inspect(other.certificate_pem).subject
    )


def test_a_certificate_names_exactly_its_hosts_and_loopback(leaf):
    seen = certificates.inspect(leaf.certificate_pem)
    assert seen.addresses == {"10.0.0.1", "fd00::1", "127.0.0.1"}
    assert seen.names == {"superlink.example.org"}
    assert not seen.is_ca


def test_hosts_are_certified_once_and_in_canonical_form(ca):
    hosts = ["FD00:0::1", "fd00::1", "Host.Example.ORG.", "127.0.0.1", "fe80::1%eth0"]
    seen = certificates.inspect(own_ca.make_leaf(ca, hosts, NOW).certificate_pem)
    assert seen.addresses == {"fd00::1", "127.0.0.1", "fe80::1"}
    assert seen.names == {"host.example.org"}


def test_a_certificate_lives_a_year_and_is_renewed_at_two_thirds(leaf):
    seen = certificates.inspect(leaf.certificate_pem)
    assert seen.not_after == NOW + 365 * DAY
    assert certificates.renew_at(seen) == NOW + 243 * DAY
    assert certificates.renew_by(seen) == NOW + 358 * DAY


def test_a_clock_that_is_fourteen_hours_behind_accepts_new_certificates(ca, leaf):
    behind = NOW - datetime.timedelta(hours=14)
    for pair in (ca, leaf):
        assert not certificates.date_fault(certificates.inspect(pair.certificate_pem), behind)


def test_a_certificate_ends_no_later_than_its_ca(ca):
    late = NOW.replace(year=2036) - 100 * DAY
    seen = certificates.inspect(own_ca.make_leaf(ca, HOSTS, late).certificate_pem)
    assert seen.not_after == NOW.replace(year=2036)


def test_a_ca_that_has_ended_issues_nothing(ca):
    with pytest.raises(AgentError, match=r"own CA 'CN=flower-agent CA .*' expired 2036") as caught:
        own_ca.make_leaf(ca, HOSTS, NOW.replace(year=2037))
    assert caught.value.finding.code == "tls.expired"


def test_a_sound_ca_is_accepted(ca):
    own_ca.check_ca_pair(ca)


def test_a_damaged_ca_is_lost(ca, leaf):
    broken = [
        own_ca.Pair("", ca.key),
        own_ca.Pair(ca.certificate_pem, Secret("")),
        own_ca.Pair(ca.certificate_pem[:200], ca.key),
        own_ca.Pair(ca.certificate_pem, Secret(ca.key.reveal()[:100])),
        own_ca.Pair(ca.certificate_pem, leaf.key),
        leaf,
    ]
    for pair in broken:
        with pytest.raises(AgentError) as caught:
            own_ca.check_ca_pair(pair)
        assert caught.value.finding.code == "tls.ca_lost"


def test_a_damaged_ca_issues_nothing(ca, leaf):
    with pytest.raises(AgentError, match=r"tls\.ca_lost"):
        own_ca.make_leaf(own_ca.Pair(ca.certificate_pem, leaf.key), HOSTS, NOW)


def test_a_sound_certificate_stays(ca, leaf):
    assert own_ca.leaf_fault(leaf, ca, reversed(HOSTS), NOW) == ""


def test_a_certificate_without_addresses_stays_too(ca):
    assert own_ca.leaf_fault(own_ca.make_leaf(ca, [], NOW), ca, [], NOW) == ""


def test_a_changed_address_makes_a_new_certificate(ca, leaf):
    fault = own_ca.leaf_fault(leaf, ca, ["10.0.0.12"], NOW)
    assert fault == (
        "it names 10.0.0.1, 127.0.0.1, fd00::1, superlink.example.org, "
        "wanted is 10.0.0.12, 127.0.0.1"
    )


def test_a_certificate_that_cannot_serve_says_why(ca, leaf):
    other = own_ca.make_ca(NOW)
    foreign = own_ca.Pair(leaf.certificate_pem, ca.key)
    damaged = own_ca.Pair("", leaf.key)
    assert own_ca.leaf_fault(leaf, other, HOSTS, NOW) == "another CA issued it"
    assert own_ca.leaf_fault(foreign, ca, HOSTS, NOW) == "its key does not belong to it"
    assert own_ca.leaf_fault(damaged, ca, HOSTS, NOW) == "its files are damaged"
    assert "expired 2027-03-01" in own_ca.leaf_fault(leaf, ca, HOSTS, NOW + 366 * DAY)
    assert "not valid before 2026-02-28" in own_ca.leaf_fault(leaf, ca, HOSTS, NOW - 2 * DAY)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_ec_keys_are_read_in_both_forms(curve, form):
    key = ec.generate_private_key(curve)
    assert own_ca.load_key(secret(key, form)).private_numbers() == key.private_numbers()


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_rsa_keys_are_read_in_both_forms(form):
    assert own_ca.load_key(secret(rsa_key(), form)).private_numbers() == rsa_key().private_numbers()


def test_a_key_behind_its_curve_parameters_is_read():
    key = ec.generate_private_key(ec.SECP256R1())
    text = secret(key, PrivateFormat.TraditionalOpenSSL).reveal()
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    assert own_ca.load_key(Secret(parameters + text)).private_numbers() == key.private_numbers()


def test_a_key_is_written_as_pkcs8(ca):
    key = ec.generate_private_key(ec.SECP256R1())
    written = own_ca.dump_key(key).reveal()
    assert written.startswith("-----BEGIN PRIVATE KEY-----\n")
    assert ca.key.reveal().startswith("-----BEGIN PRIVATE KEY-----\n")


@pytest.mark.parametrize(
    ("key", "want"),
    [
        (secret(rsa_key(), password=b"x"), "not encrypted"),
        (secret(rsa_key(), PrivateFormat.TraditionalOpenSSL, b"x"), "not encrypted"),
        (secret(rsa_key(1024)), "2048 bits"),
        (secret(ec.generate_private_key(ec.SECP521R1())), "P-256 or P-384"),
        (secret(ed25519.Ed25519PrivateKey.generate()), "P-256 or P-384"),
        (secret(rsa_key(), PrivateFormat.OpenSSH), "PKCS8, PKCS1 or SEC1"),
        (Secret(secret(rsa_key()).reveal() * 2), "one PEM private key"),
        (Secret(""), "one PEM private key"),
        (Secret(issue("x").pem), "one PEM private key"),
        (Secret("-----BEGIN PRIVATE KEY-----\n$$$\n-----END PRIVATE KEY-----"), "PKCS8"),
        (Secret("-----BEGIN PRIVATE KEY-----\nMIIC\n-----END PRIVATE KEY-----"), "PKCS8"),
    ],
)
def test_an_unfit_key_is_refused_without_showing_it(key, want):
    with pytest.raises(ValueError, match=want) as caught:
        own_ca.load_key(key)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not any(line and line in str(caught.value) for line in key.reveal().splitlines()[1:-1])
