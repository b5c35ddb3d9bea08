"""What ``doctor`` says of certificate files and the node key, right and damaged."""

import datetime
import os

import pytest
from authority import NOW

from flower_agent.commands import doctor_checks
from flower_agent.commands.doctor_results import Verdict
from flower_agent.config import parsing
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.paths import Paths
from flower_agent.tls import own_ca, trust
from flower_agent.tls.store import Keyring

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason=f"root alone may hand a file to group {FLOWER_UID}"
)
HOSTS = frozenset({"127.0.0.1", "10.0.0.5"})


class Vm:
    """A VM with the files that a running agent leaves."""

    def __init__(self, folder, role):
        self.paths = Paths(folder)
        self.settings = parsing.parse({"FLOWER_ROLE": role, "TOKEN": "YES"}, {}).settings
        self.keyring, self.keys = Keyring(self.paths.tls), NodeKeys(self.paths.keys)

    def turn(self, wanted):
        for step in trust.steps(wanted, self.keyring.held(wanted, NOW), NOW):
            self.keyring.apply(step, wanted, NOW)

    def look(self, now=NOW):
        """Return each check by its name."""
        found = doctor_checks.examine_key_files(self.paths, self.settings, "42", now)
        return {check.name: check for check in found}

    def code(self, name, now=NOW):
        check = self.look(now)[name]
        assert check.verdict is Verdict.BAD, check
        return check.finding.code


@pytest.fixture
def link(tmp_path):
    vm = Vm(tmp_path, "server")
    vm.turn(trust.CertificateSpec(source=trust.CertificateSource.OWN, hosts=HOSTS))
    return vm


@pytest.fixture
def node(tmp_path):
    vm = Vm(tmp_path, "client")
    ca = own_ca.make_ca(NOW).certificate_pem
    vm.turn(trust.CertificateSpec(source=trust.CertificateSource.TRUSTED, ca_pem=ca))
    vm.keys.own("42")
    return vm


def spoil(path, data=b"junk"):
    path.chmod(0o600)
    path.write_bytes(data)


def test_what_an_agent_left_is_well(link, node):
    for vm in (link, node):
        assert {check.verdict for check in vm.look().values()} == {Verdict.OK}
    assert link.look()["tls"].detail.startswith("CA until 20")


def test_what_is_not_made_yet_is_not_looked_at(tmp_path):
    for role in ("server", "client"):
        vm = Vm(tmp_path / role, role)
        assert {check.verdict for check in vm.look().values()} == {Verdict.SKIPPED}


def test_a_damaged_node_key_is_told(node):
    spoil(node.keys.path("42"))
    assert node.code("node key") == "enrol.key_damaged"
    assert str(node.keys.path("42")) in node.look()["node key"].detail


def test_a_key_that_flower_may_not_read_is_told_with_the_command(node):
    node.keys.path("42").chmod(0o400)
    found = node.look()["node key"]
    assert found.finding.code == "state.corrupt"
    assert found.finding.hint.endswith(f"chmod 0440 {node.keys.path('42')}")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("ca/ca.pem", "tls.ca_lost"),
        ("ca.crt", "state.corrupt"),
        ("server.pem", "state.corrupt"),
        ("server.key", "state.corrupt"),
    ],
)
def test_a_damaged_file_of_a_superlink_is_told_with_its_path(link, file, code):
    spoil(link.paths.tls / file)
    assert link.code("tls") == code
    assert file in link.look()["tls"].detail


def test_a_ca_that_is_gone_is_told(link):
    (link.paths.tls / "ca/ca.pem").unlink()
    assert link.code("tls") == "tls.ca_lost"


def test_a_key_of_another_certificate_is_told(link):
    other = own_ca.make_leaf(own_ca.make_ca(NOW), HOSTS, NOW)
    spoil(link.keyring.key, other.key.reveal().encode())
    assert link.code("tls") == "tls.key_mismatch"


def test_a_certificate_that_has_ended_is_told(link, node):
    late = NOW + datetime.timedelta(days=4000)
    assert (link.code("tls", late), node.code("tls", late)) == ("tls.expired", "tls.expired")
