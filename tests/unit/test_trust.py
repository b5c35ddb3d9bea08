"""Which certificates this VM should hold, and the steps to them."""

import dataclasses
import datetime

import pytest

from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.tls import trust
from flower_agent.tls.certificates import Certificate
from flower_agent.tls.trust import CertificateSource, CertificateSpec, HeldCertificates

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
NOTHING = HeldCertificates()


def certificate(*, is_ca=False, start=NOW - DAY, days=365):
    return Certificate(
        fingerprint="ab",
        subject="CN=a",
        issuer="CN=a",
        names=frozenset(),
        addresses=frozenset({"127.0.0.1"}),
        not_before=start,
        not_after=start + days * DAY,
        is_ca=is_ca,
    )


OWN = CertificateSpec(source=CertificateSource.OWN, hosts=frozenset({"127.0.0.1", "10.0.0.5"}))
HELD_OWN = HeldCertificates(
    own_ca=certificate(is_ca=True),
    own_ca_pem="own CA",
    ca_pem="own CA",
    chain_pem="leaf",
    key=Secret("key"),
    leaf=certificate(),
)
GIVEN = CertificateSpec(
    source=CertificateSource.GIVEN, ca_pem="CA", chain_pem="chain", key=Secret("key")
)
HELD_GIVEN = HeldCertificates(ca_pem="CA", chain_pem="chain", key=Secret("key"), leaf=certificate())
TRUSTED = CertificateSpec(source=CertificateSource.TRUSTED, ca_pem="CA")


def steps(wanted, held, now=NOW):
    return [str(step) for step in trust.steps(wanted, held, now)]


def but(held, **differences):
    return dataclasses.replace(held, **differences)


# Off and system


@pytest.mark.parametrize("source", [CertificateSource.OFF, CertificateSource.SYSTEM])
@pytest.mark.parametrize("held", [NOTHING, HELD_OWN, but(NOTHING, own_ca_fault="damaged")])
def test_nothing_is_wanted_so_nothing_is_done(source, held):
    assert steps(CertificateSpec(source=source), held) == []


# A CA of its own


def test_at_first_a_ca_is_made_and_issues():
    assert steps(OWN, NOTHING) == ["make CA (absent)", "issue certificate (absent)"]


def test_what_is_right_is_left_alone():
    assert steps(OWN, HELD_OWN) == []


def test_a_ca_without_a_leaf_issues_one():
    held = but(HELD_OWN, leaf=None, chain_pem="")
    assert steps(OWN, held) == ["issue certificate (absent)"]


def test_a_leaf_that_cannot_serve_is_issued_anew_and_says_why():
    held = but(HELD_OWN, leaf_fault="it names 10.0.0.4, wanted is 10.0.0.5")
    assert steps(OWN, held) == ["issue certificate (it names 10.0.0.4, wanted is 10.0.0.5)"]


@pytest.mark.parametrize("beside", ["", "a given CA"])
def test_another_ca_beside_the_leaf_is_put_right(beside):
    held = but(HELD_OWN, ca_pem=beside)
    assert steps(OWN, held) == ["issue certificate (its CA differs from the CA on the disk)"]


def test_a_deleted_ca_file_is_written_and_the_leaf_stays():
    held = but(HELD_OWN, ca_pem="", ca_deleted=True)
    assert steps(OWN, held) == ["write CA's certificate (absent)"]


def test_a_leaf_is_renewed_when_two_thirds_of_its_life_have_passed():
    held = but(HELD_OWN, leaf=certificate(start=NOW, days=90))
    assert steps(OWN, held, NOW + 59 * DAY) == []
    assert steps(OWN, held, NOW + 60 * DAY) == [
        "issue certificate (two thirds of its lifetime have passed)"
    ]


@pytest.mark.parametrize("held", [NOTHING, HELD_OWN])
def test_a_ca_that_cannot_be_used_is_never_made_anew(held):
    with pytest.raises(AgentError, match="not a PEM file") as caught:
        steps(OWN, but(held, own_ca=None, own_ca_fault="ca.pem: not a PEM file"))
    assert caught.value.finding.code == "tls.ca_lost"
    assert not caught.value.retryable


def test_certificates_that_were_given_before_do_not_hinder_a_ca_of_its_own():
    assert steps(OWN, HELD_GIVEN) == ["make CA (absent)", "issue certificate (absent)"]


# Given


@pytest.mark.parametrize("held", [NOTHING, but(HELD_GIVEN, leaf=None, chain_pem="")])
def test_given_certificates_are_written(held):
    assert steps(GIVEN, held) == ["write certificates (absent)"]


def test_given_certificates_that_are_there_are_left_alone():
    assert steps(GIVEN, HELD_GIVEN) == []


@pytest.mark.parametrize(
    "differences", [{"ca_pem": "x"}, {"chain_pem": "x"}, {"key": Secret("x")}, {"key": None}]
)
def test_any_other_part_is_written_over(differences):
    held = but(HELD_GIVEN, **differences)
    assert steps(GIVEN, held) == ["write certificates (other certificates in the settings)"]


def test_given_certificates_are_not_renewed_by_the_agent():
    assert steps(GIVEN, HELD_GIVEN, NOW + 1000 * DAY) == []


def test_given_certificates_need_no_ca_of_its_own():
    assert steps(GIVEN, but(HELD_GIVEN, own_ca_fault="damaged")) == []


# Trusted


def test_a_node_writes_the_ca_that_it_trusts_and_nothing_else():
    assert steps(TRUSTED, NOTHING) == ["write certificates (absent)"]
    assert steps(TRUSTED, HeldCertificates(ca_pem="CA")) == []
    assert steps(TRUSTED, HeldCertificates(ca_pem="old")) == ["write certificates (another CA)"]


# Names


def test_a_leaf_names_what_is_dialled_where_it_listens_and_loopback():
    found = trust.hosts(published="FL.example.org.", listen="10.0.0.5", more=["fd00:0::1"])
    assert found == {"fl.example.org", "10.0.0.5", "fd00::1", "127.0.0.1"}


def test_a_host_with_two_spellings_is_named_once():
    found = trust.hosts(published="10.0.0.5", listen="10.0.0.5", more=["10.0.0.5"])
    assert found == {"10.0.0.5", "127.0.0.1"}
