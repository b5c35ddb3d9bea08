"""The record has each certificate that a VM makes or takes, by the fingerprint that is compared."""

import datetime

import pytest

from flower_agent.agent import stages
from flower_agent.tls import certificates, trust
from flower_agent.tls.store import Keyring
from flower_agent.tls.trust import CertificateSource, CertificateSpec

NOW = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)


@pytest.fixture
def ring(tmp_path):
    return Keyring(tmp_path / "tls")


def entries(ring, wanted):
    """Do the steps to the wanted certificates; return what the record keeps of them."""
    found = []
    for step in trust.steps(wanted, ring.held(wanted, NOW), NOW):
        ring.apply(step, wanted, NOW)
        found.append(stages._recorded(step, ring))
    return [(str(each.what), each.key, each.message) for each in found]


OWN = CertificateSpec(source=CertificateSource.OWN, hosts=frozenset({"127.0.0.1"}))


def test_a_new_superlink_records_its_ca_and_its_certificate(ring):
    found = entries(ring, OWN)
    assert found == [
        ("trust.ca_made", ring.own_fingerprint(), "absent"),
        ("trust.certificate_issued", certificates.fingerprint(ring.held_chain()), "absent"),
    ]
    assert found[0][1] == ring.held_fingerprint()


def test_a_renewal_is_recorded_with_its_cause(ring):
    entries(ring, OWN)
    renewed = CertificateSpec(source=OWN.source, hosts=OWN.hosts, renew=True)
    (entry,) = entries(ring, renewed)
    assert entry == (
        "trust.certificate_issued",
        certificates.fingerprint(ring.held_chain()),
        "asked for",
    )


def test_the_ca_that_a_node_takes_is_recorded(ring, tmp_path):
    other = Keyring(tmp_path / "superlink")
    entries(other, OWN)
    taken = CertificateSpec(source=CertificateSource.TRUSTED, ca_pem=other.held_ca())
    assert entries(ring, taken) == [
        ("trust.certificate_written", other.held_fingerprint(), "absent")
    ]


def test_a_ca_that_is_no_certificate_has_no_fingerprint(ring):
    nonsense = CertificateSpec(source=CertificateSource.TRUSTED, ca_pem="nonsense")
    assert entries(ring, nonsense) == [("trust.certificate_written", "", "absent")]
