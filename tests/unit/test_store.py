"""The files in ``tls/``: who may read them, and how every half-written state is made whole."""

import dataclasses
import datetime
import os
import stat

import pytest
from authority import DAY, NOW, shake_hands

from flower_agent.docker.containers import FLOWER_UID
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.proxy import fleet_proxy
from flower_agent.tls import own_ca as tls_own_ca
from flower_agent.tls import trust
from flower_agent.tls.store import Keyring
from flower_agent.tls.trust import (
    CertificateAction,
    CertificateSource,
    CertificateSpec,
    CertificateStep,
)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason=f"root alone may hand a file to group {FLOWER_UID}"
)

HOSTS = frozenset({"127.0.0.1", "10.0.0.5"})
OWN = CertificateSpec(source=CertificateSource.OWN, hosts=HOSTS)


@pytest.fixture(autouse=True)
def umask():
    """The unit's UMask=0077."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def other():
    """A CA that is not the agent's, with a certificate of it, as an operator gives them."""
    ca = tls_own_ca.make_ca(NOW)
    leaf = tls_own_ca.make_leaf(ca, HOSTS, NOW)
    return CertificateSpec(
        source=CertificateSource.GIVEN,
        ca_pem=ca.certificate_pem,
        chain_pem=leaf.certificate_pem,
        key=leaf.key,
    )


class Vm:
    """A VM's ``tls/`` directory and the turns that look after it."""

    def __init__(self, directory):
        self.directory = directory
        self.keyring = Keyring(directory)

    def turn(self, wanted=OWN, now=NOW):
        """Do what is to do; return it."""
        steps = trust.steps(wanted, self.keyring.held(wanted, now), now)
        for step in steps:
            self.keyring.apply(step, wanted, now)
        return [str(step) for step in steps]

    def files(self):
        """Return content, mode and group of each file, and the modes of directories."""
        return {
            str(path.relative_to(self.directory)): (
                path.read_bytes() if path.is_file() else b"",
                stat.S_IMODE(path.stat().st_mode),
                path.stat().st_gid,
            )
            for path in self.directory.rglob("*")
        }


@pytest.fixture
def vm(tmp_path):
    return Vm(tmp_path / "state/tls")


def modes(vm):
    return {name: oct(mode) for name, (_, mode, _) in vm.files().items()}


# Modes


def test_the_files_of_a_superlink_and_who_may_read_them(vm):
    vm.turn()
    assert modes(vm) == {
        "ca": "0o700",
        "ca/ca.pem": "0o600",
        "ca.crt": "0o444",
        "server.key": "0o440",
        "server.pem": "0o444",
    }
    assert stat.S_IMODE(vm.directory.stat().st_mode) == 0o755


def test_only_the_servers_key_is_handed_to_flowers_group(vm):
    vm.turn()
    groups = {name: group for name, (_, _, group) in vm.files().items()}
    assert groups.pop("server.key") == FLOWER_UID
    assert set(groups.values()) == {os.getegid()}


def test_a_node_has_the_ca_that_it_trusts_and_nothing_else(vm, other):
    vm.turn(CertificateSpec(source=CertificateSource.TRUSTED, ca_pem=other.ca_pem))
    assert modes(vm) == {"ca.crt": "0o444"}
    assert vm.keyring.held_ca() == other.ca_pem


def test_given_certificates_lie_as_own_ones_do(vm, other):
    vm.turn(other)
    assert modes(vm) == {"ca.crt": "0o444", "server.key": "0o440", "server.pem": "0o444"}


def test_nothing_is_made_where_nothing_is_wanted(vm):
    assert vm.turn(CertificateSpec(source=CertificateSource.SYSTEM)) == []
    assert not vm.directory.exists()


def test_before_the_first_turn_there_is_nothing(vm):
    assert vm.keyring.held(OWN, NOW) == trust.HeldCertificates(ca_deleted=True)
    assert (vm.keyring.held_ca(), vm.keyring.digests()) == ("", {})


# One turn after the other


def test_a_second_turn_changes_nothing(vm, other):
    for wanted in (
        OWN,
        other,
        CertificateSpec(source=CertificateSource.TRUSTED, ca_pem=other.ca_pem),
    ):
        vm.turn(wanted)
        before = vm.files()
        assert vm.turn(wanted) == []
        assert vm.files() == before


def test_what_was_made_is_what_a_strict_client_accepts(vm, tmp_path):
    now = datetime.datetime.now(datetime.UTC)
    vm.turn(now=now)
    held = vm.keyring.held(OWN, now)
    shake_hands(tmp_path, held.chain_pem, held.key, held.ca_pem, "10.0.0.5")
    assert held.ca_pem == held.own_ca_pem


def test_a_new_address_gets_a_new_leaf_of_the_same_ca(vm):
    vm.turn()
    before = vm.files()
    moved = CertificateSpec(
        source=CertificateSource.OWN, hosts=frozenset({"127.0.0.1", "10.0.0.6"})
    )
    (step,) = vm.turn(moved)
    assert step.startswith("issue certificate (it names 10.0.0.5, 127.0.0.1, wanted is")
    after = vm.files()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"server.key", "server.pem"}


def test_a_leaf_is_renewed_in_time_and_its_ca_stays(vm):
    vm.turn()
    ca = vm.keyring.held_ca()
    later = NOW + 250 * DAY
    assert vm.turn(now=later) == ["issue certificate (two thirds of its lifetime have passed)"]
    assert vm.turn(now=later) == []
    assert vm.keyring.held_ca() == ca


def test_given_certificates_that_are_taken_back_leave_the_old_ca_in_place(vm, other):
    vm.turn()
    ca = vm.keyring.held_ca()
    assert vm.turn(other) == ["write certificates (other certificates in the settings)"]
    assert vm.keyring.held_ca() == other.ca_pem
    assert vm.turn() == ["issue certificate (another CA issued it)"]
    assert (vm.keyring.held_ca(), vm.turn()) == (ca, [])


def test_digests_tell_a_changed_file_by_its_path(vm, other):
    vm.turn()
    before = vm.keyring.digests()
    assert set(before) == {str(vm.directory / n) for n in ("ca.crt", "server.pem", "server.key")}
    vm.turn(other)
    after = vm.keyring.digests()
    assert all(before[path] != after[path] for path in before)
    assert all(len(digest) == 64 for digest in after.values())


# Half-written states


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nx"])
def test_a_missing_or_damaged_file_of_the_leaf_is_made_anew(vm, name, content):
    vm.turn()
    ca = (vm.directory / "ca/ca.pem").read_bytes()
    damage(vm.directory / name, content)
    (step,) = vm.turn()
    assert step.startswith("issue certificate (")
    assert vm.turn() == []
    assert (vm.directory / "ca/ca.pem").read_bytes() == ca


def test_a_deleted_ca_file_comes_back_as_it_was_so_that_no_container_restarts(vm):
    vm.turn()
    before, digests = vm.files(), vm.keyring.digests()
    (vm.directory / "ca.crt").unlink()
    assert vm.turn() == ["write CA's certificate (absent)"]
    assert vm.keyring.digests() == digests
    assert vm.files() == before
    assert vm.turn() == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"another CA"])
def test_a_ca_file_that_was_overwritten_is_damaged_in_the_containers_too(vm, content):
    vm.turn()
    digests = vm.keyring.digests()
    (vm.directory / "ca.crt").chmod(0o600)
    (vm.directory / "ca.crt").write_bytes(content)
    assert vm.turn() == ["issue certificate (its CA differs from the CA on the disk)"]
    assert vm.keyring.digests() != digests
    assert vm.turn() == []


@pytest.mark.parametrize("source", [CertificateSource.GIVEN, CertificateSource.TRUSTED])
def test_a_deleted_ca_of_others_comes_back_as_it_was(vm, other, source):
    wanted = dataclasses.replace(other, source=source)
    vm.turn(wanted)
    digests = vm.keyring.digests()
    (vm.directory / "ca.crt").unlink()
    vm.turn(wanted)
    assert vm.keyring.digests() == digests


def damage(path, content):
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def test_a_crash_between_key_and_certificate_is_made_good(vm):
    vm.turn()
    leaf = tls_own_ca.make_leaf(own_ca(vm), HOSTS, NOW)
    damage(vm.keyring.key, leaf.key.reveal().encode())
    assert vm.turn() == ["issue certificate (its key does not belong to it)"]
    assert vm.turn() == []


def own_ca(vm):
    key, begin, rest = (vm.directory / "ca/ca.pem").read_text().partition("-----BEGIN CERT")
    return tls_own_ca.Pair(begin + rest, Secret(key))


def test_a_crash_right_after_the_ca_was_made_keeps_that_ca(vm):
    vm.keyring.apply(CertificateStep(CertificateAction.MAKE_CA, "absent"), OWN, NOW)
    ca = (vm.directory / "ca/ca.pem").read_bytes()
    assert vm.turn() == ["issue certificate (absent)"]
    assert (vm.directory / "ca/ca.pem").read_bytes() == ca


@pytest.mark.parametrize("left", [1, 2])
def test_a_crash_amid_given_certificates_is_made_good(vm, other, left):
    vm.turn(other)
    for path in [vm.keyring.chain, vm.keyring.key, vm.keyring.ca][:left]:
        path.unlink()
    assert vm.turn(other) == ["write certificates (absent)"]
    assert vm.turn(other) == []


def test_what_a_killed_agent_left_half_written_goes(vm):
    vm.keyring.apply(CertificateStep(CertificateAction.MAKE_CA, "absent"), OWN, NOW)
    (vm.directory / ".server.key.12.34.tmp").write_text("half a key")
    vm.turn()
    assert set(vm.files()) == {"ca", "ca/ca.pem", "ca.crt", "server.key", "server.pem"}


# A lost CA


@pytest.mark.parametrize("how", ["empty", "cut", "noise", "no key", "another key", "leaf"])
def test_a_damaged_ca_is_lost_and_left_as_it_is(vm, other, how):
    vm.turn()
    path = vm.directory / "ca/ca.pem"
    whole = path.read_bytes()
    certificate = whole[whole.index(b"-----BEGIN CERT") :]
    path.write_bytes(
        {
            "empty": b"",
            "cut": whole[:-100],
            "noise": b"\xff" * 100,
            "no key": certificate,
            "another key": other.key.reveal().encode() + certificate,
            "leaf": other.key.reveal().encode() + other.chain_pem.encode(),
        }[how]
    )
    before = vm.files()
    with pytest.raises(AgentError) as caught:
        vm.turn()
    assert caught.value.finding.code == "tls.ca_lost"
    assert str(path) in caught.value.finding.message
    assert vm.files() == before


def test_a_leaf_is_not_issued_by_a_lost_ca_even_when_asked(vm):
    vm.turn()
    (vm.directory / "ca/ca.pem").write_bytes(b"")
    before = vm.files()
    with pytest.raises(AgentError) as caught:
        vm.keyring.apply(CertificateStep(CertificateAction.ISSUE, "asked"), OWN, NOW)
    assert caught.value.finding.code == "tls.ca_lost"
    assert vm.files() == before


def test_a_lost_ca_does_not_hinder_given_certificates(vm, other):
    vm.turn()
    (vm.directory / "ca/ca.pem").write_bytes(b"")
    assert vm.turn(other) == ["write certificates (other certificates in the settings)"]
    assert (vm.directory / "ca/ca.pem").read_bytes() == b""


def test_a_lost_ca_says_no_secret(vm):
    vm.turn()
    path = vm.directory / "ca/ca.pem"
    key = path.read_text().splitlines()[1]
    path.write_text(path.read_text().replace("-----END PRIVATE KEY-----", ""))
    with pytest.raises(AgentError) as caught:
        vm.turn()
    assert key not in str(caught.value)


# --- behind HAProxy


LOOPBACK = CertificateSpec(
    source=CertificateSource.OWN, hosts=frozenset({"localhost", "127.0.0.1"})
)


def behind(vm, wanted=LOOPBACK, now=NOW):
    keyring = vm.keyring.loopback
    steps = trust.steps(wanted, keyring.held(wanted, now), now)
    for step in steps:
        keyring.apply(step, wanted, now)
    return [str(step) for step in steps]


def test_a_superlink_behind_haproxy_has_a_certificate_of_the_same_ca(vm):
    vm.turn()
    assert behind(vm) == ["issue certificate (absent)"]
    assert vm.keyring.loopback.held_ca() == vm.keyring.held_ca()
    assert vm.keyring.loopback.held_chain() != vm.keyring.held_chain()
    assert behind(vm) == []
    assert set(vm.keyring.digests()).isdisjoint(vm.keyring.loopback.digests())


def test_beside_a_given_certificate_the_agent_makes_its_ca_for_loopback_alone(vm, other):
    vm.turn(other)
    assert behind(vm) == ["make CA (absent)", "issue certificate (absent)"]
    assert vm.turn(other) == []
    assert vm.keyring.held_ca() == other.ca_pem
    assert vm.keyring.loopback.held_ca() not in ("", other.ca_pem)


def test_a_renewal_of_what_nodes_see_leaves_the_certificate_behind_haproxy_alone(vm):
    vm.turn()
    behind(vm)
    before = vm.keyring.loopback.digests()
    assert vm.turn(dataclasses.replace(OWN, renew=True)) == ["issue certificate (asked for)"]
    assert behind(vm) == []
    assert vm.keyring.loopback.digests() == before


@pytest.mark.parametrize(
    ("days", "active", "defers"),
    [(1, True, False), (300, True, True), (300, False, False), (362, True, False)],
)
def test_a_renewal_behind_haproxy_waits_for_a_run_but_not_for_ever(vm, days, active, defers):
    vm.turn()
    behind(vm, fleet_proxy.certificate(vm.keyring, ["127.0.0.1"], NOW, lambda: True))
    now = NOW + days * DAY
    wanted = fleet_proxy.certificate(vm.keyring, ["127.0.0.1"], now, lambda: active)
    assert wanted.defer is defers
    assert wanted.hosts == {"localhost", "127.0.0.1"}
    assert behind(vm, wanted, now) == (
        ["issue certificate (two thirds of its lifetime have passed)"]
        if days > 243 and not defers
        else []
    )
