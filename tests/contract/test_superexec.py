"""A lone SuperExec: whom it trusts by what OneGate tells, on a clock that the tests move."""

import base64
import contextlib
import dataclasses
import datetime
import random
import time

import endpoints
import onegate as sandbox
import pytest
from cycles import cycle_of, seeing
from endpoints import authority, issue, loopback_leaf
from inline import running

from flower_agent.background import Threads
from flower_agent.config import parsing
from flower_agent.config.sources import OneGateAccess
from flower_agent.flower.command_line import Trust
from flower_agent.flower.endpoint_check import EndpointCheck
from flower_agent.flower.health import Prober
from flower_agent.host.machine import HostFacts
from flower_agent.model import errors
from flower_agent.model.errors import AgentError, PeerSilentError
from flower_agent.model.secret import Secret
from flower_agent.model.state import State
from flower_agent.onegate import appio_discovery, status_attributes, superlink_search
from flower_agent.onegate.client import OneGate
from flower_agent.roles.superexec import SuperExecController
from flower_agent.tls import certificates, trust
from flower_agent.tls.store import Keyring

LINK, NODE, OTHER_NODE, LONER = 41, 42, 43, 61
NAMES = {
    LINK: ("superlink_0_(service_1)", "superlink"),
    NODE: ("supernode_0_(service_1)", "supernode"),
    OTHER_NODE: ("supernode_1_(service_1)", "supernode"),
    LONER: ("superexec_0_(service_1)", "superexec"),
}
NOW = datetime.datetime.now(datetime.UTC)
OTHER_CA = issue("another CA")
WHERE = "10.0.0.7:9094"


class Vm:
    """The SuperExec's VM, and the others of its service as OneGate knows them."""

    def __init__(self, gate, folder, prober):
        self.gate, self.prober, self.threads = gate, prober, Threads(lambda: None)
        gate.add_service(1, "flower", [("superlink", 1), ("supernode", 2), ("superexec", 1)])
        self.tokens = {vmid: gate.add_vm(vmid, *named, 1) for vmid, named in NAMES.items()}
        self.keyring, self.record, self.now = Keyring(folder), State(), 1000.0
        self.context = {
            "FLOWER_ROLE": "superexec",
            "FLOWER_VERSION": "1.34.0",
            "FLOWER_APPIO_ADDRESS": WHERE,
        }
        self.running = False
        self.client = self.guest(LONER)
        self.reboot()

    def reboot(self):
        """Begin with what is on the disk."""
        rng = random.Random(1)
        search = appio_discovery.AppIoSearch(self.threads, rng=rng)
        look = EndpointCheck(self.threads, self.prober, rng=rng)
        self.controller = SuperExecController(
            self.prober, search, look, None, liveness=None, apps=None, paths=None
        )

    def guest(self, vmid):
        return OneGate(OneGateAccess(self.gate.url, str(vmid), Secret(self.tokens[vmid])))

    def say(self, vmid, ca=None, **told):
        """Let a VM publish its AppIo, as its agent would."""
        name = "FLOWER_CA_CERT" if vmid == LINK else "FLOWER_APPIO_CA"
        known = {
            "FLOWER_ROLE": "superlink" if vmid == LINK else "supernode",
            "FLOWER_VERSION": "1.34.0",
            "FLOWER_APPIO": WHERE,
            name: base64.b64encode((ca or authority()).pem.encode()).decode(),
        }
        with contextlib.closing(self.guest(vmid)) as client:
            client.update(status_attributes.render({**known, **told}))

    def asked(self):
        return [r.path for r in self.gate.requests if r.method == "GET"]

    def turn(self):
        return cycle_of(
            settings=parsing.parse(self.context, {}).settings,
            variables={},
            host=HostFacts((), None, 2**31, "boot"),
            keyring=self.keyring,
            client=self.client,
            now=NOW,
            monotonic=self.now,
            state=self.record,
            running=self.running,
        )

    def prepare(self, after_s=0.0):
        """Do what a turn does as far as the certificates; the call is seen to its end."""
        self.now += after_s
        turn = self.turn()
        try:
            prepared = self.controller.prepare(turn)
        finally:
            self.record = turn.state
            self.settle()
        for step in trust.steps(prepared.trust, self.keyring.held(prepared.trust, NOW), NOW):
            self.keyring.apply(step, prepared.trust, NOW)
        return prepared

    def prepared(self, after_s=0.0):
        """Look twice, since the first look begins what the second takes."""
        with contextlib.suppress(AgentError):
            self.prepare(after_s)
        return self.prepare()

    def refusal(self, after_s=0.0):
        with pytest.raises(AgentError) as caught:
            self.prepared(after_s)
        return caught.value.finding

    def settle(self):
        end = time.monotonic() + 10
        while running(self.threads, "onegate-offer", "endpoint-look"):
            assert time.monotonic() < end, "the call never ends"
            time.sleep(0.0005)


@pytest.fixture
def vm(tmp_path):
    prober = Prober()
    with sandbox.OneGate() as gate:
        vm = Vm(gate, tmp_path, prober)
        with contextlib.closing(vm.client):
            yield vm


def test_the_nodes_own_ca_is_trusted_and_pinned(vm):
    vm.say(LINK, OTHER_CA, FLOWER_APPIO="")
    vm.say(NODE)
    prepared = vm.prepared()
    assert prepared.spec.trust is Trust.CA
    assert vm.keyring.held_ca() == authority().pem
    assert vm.record.ca_pin == authority().fingerprint
    assert vm.record.superlink_vmid == str(NODE)


def test_a_serverapp_trusts_the_superlinks_ca(vm):
    vm.context["FLOWER_SUPEREXEC_PLUGIN"] = "serverapp"
    vm.say(LINK)
    assert vm.prepared().trust.ca_pem == authority().pem


def test_vms_are_asked_until_one_offers_the_address_and_then_no_more(vm):
    vm.say(NODE)
    vm.prepared()
    for _ in range(5):
        vm.prepare(after_s=60)
    assert vm.asked() == ["/service", f"/vms/{LINK}", f"/vms/{NODE}"]
    vm.reboot()
    vm.prepared()
    assert vm.asked()[3:] == ["/service", f"/vms/{NODE}"], "the known one comes first"


def test_while_nobody_offers_it_onegate_is_asked_every_5_to_15_s(vm):
    assert vm.refusal().code == "discover.waiting"
    before = len(vm.asked())
    for _ in range(60):
        assert vm.refusal(after_s=1).code == "discover.waiting"
    rounds = vm.asked()[before:].count("/service")
    assert 60 / superlink_search.RETRY_S[1] - 1 <= rounds <= 60 / superlink_search.RETRY_S[0] + 1
    vm.say(NODE)
    assert vm.prepared(after_s=15).trust.ca_pem == authority().pem


def test_a_onegate_that_fails_is_asked_ever_more_seldom(vm):
    vm.gate.fault("500")
    assert vm.refusal().code == "onegate.refused"
    for _ in range(240):
        vm.refusal(after_s=1)
    rounds = vm.asked().count("/service")
    most = 2**superlink_search.MOST_DOUBLINGS
    assert (
        240 / (superlink_search.RETRY_S[1] * most)
        <= rounds
        <= 4 + 240 / (superlink_search.RETRY_S[0] * most)
    )


def test_without_tls_nobody_is_asked(vm):
    vm.context["FLOWER_VERSION"] = "1.25.0"
    assert vm.prepare().trust.source is trust.CertificateSource.OFF
    assert vm.asked() == []


def test_a_given_ca_is_trusted_without_onegate(vm):
    vm.client, vm.context["TLS_CA_CERT"] = None, authority().pem
    assert vm.prepare().trust.ca_pem == authority().pem
    assert vm.record.ca_pin is None


def test_the_systems_store_is_trusted_without_onegate(vm):
    vm.client, vm.context["TLS_CA_CERT"] = None, "system"
    assert vm.prepare().trust.source is trust.CertificateSource.SYSTEM


def test_without_a_token_and_a_ca_it_fails_and_says_which_file_to_give(vm):
    vm.client = None
    found = vm.refusal()
    assert found.code == "discover.no_source"
    assert "TLS_CA_CERT" in found.message
    assert "tls/appio/ca.crt" in found.hint


def test_the_ca_of_a_vm_that_was_made_anew_is_refused_until_it_is_trusted(vm):
    vm.say(NODE)
    vm.prepared()
    vm.say(NODE, OTHER_CA)
    vm.reboot()
    found = vm.refusal()
    assert found.code == "tls.ca_changed"
    assert certificates.format_fingerprint(OTHER_CA.fingerprint) in found.message
    assert vm.keyring.held_ca() == authority().pem
    vm.record = dataclasses.replace(vm.record, ca_pin=OTHER_CA.fingerprint)  # tls trust
    assert vm.prepared(after_s=20).trust.ca_pem == OTHER_CA.pem


def test_a_fingerprint_from_the_context_counts_more_than_onegate(vm):
    vm.context["FLOWER_CA_FINGERPRINT"] = OTHER_CA.fingerprint
    vm.say(NODE)
    assert vm.refusal().code == "tls.fingerprint"
    vm.say(NODE, OTHER_CA)
    vm.reboot()
    assert vm.prepared(after_s=20).trust.ca_pem == OTHER_CA.pem


def test_the_pinned_ca_holds_while_onegate_is_away(vm):
    vm.say(NODE)
    vm.prepared()
    vm.gate.stop()
    vm.reboot()
    assert vm.prepared().trust.ca_pem == authority().pem


def test_a_superexec_of_another_version_than_its_appio_is_refused(vm):
    vm.say(NODE, FLOWER_VERSION="1.33.0")
    found = vm.refusal()
    assert found.code == "version.mixed"
    assert "1.34.0" in found.message
    vm.say(NODE)
    assert vm.prepared(after_s=20).trust.ca_pem == authority().pem


def test_the_wrong_plugin_is_named(vm):
    vm.say(LINK)
    assert vm.refusal().code == "setting.conflict"


def test_another_address_in_the_context_is_asked_for_anew(vm):
    vm.say(NODE)
    vm.prepared()
    vm.say(OTHER_NODE, FLOWER_APPIO="10.0.0.8:9094")
    vm.context["FLOWER_APPIO_ADDRESS"] = "10.0.0.8:9094"
    assert vm.prepared().trust.ca_pem == authority().pem
    assert vm.record.superlink_vmid == str(OTHER_NODE)


# The look before the start


def may_start(vm, address, after_s=0.0):
    """Return the code of what keeps the container from starting; None when it may."""
    vm.context["FLOWER_APPIO_ADDRESS"] = str(address)
    vm.now += after_s
    found = None
    for _ in range(2):
        try:
            vm.controller.may_start(vm.turn())
            found = None
        except AgentError as error:
            found, kind = error.finding, type(error)
        vm.settle()
    if found is None:
        return None
    assert "FLOWER_SERVER_ADDRESS" not in found.hint, "that is a SuperNode's"
    assert kind is errors.kind(found.code), "other words keep the kind"
    return found.code


def trusting(vm, ca):
    wanted = trust.CertificateSpec(source=trust.CertificateSource.TRUSTED, ca_pem=ca.pem)
    vm.keyring.apply(trust.CertificateStep(trust.CertificateAction.WRITE, "absent"), wanted, NOW)


def test_it_starts_when_the_appio_shows_a_certificate_of_the_trusted_ca(vm):
    trusting(vm, authority())
    with endpoints.grpc_server(leaf=loopback_leaf()) as address:
        assert may_start(vm, address) is None


@pytest.mark.parametrize(
    ("server", "code"),
    [
        (
            lambda: endpoints.grpc_server(leaf=issue("x", OTHER_CA, hosts=("127.0.0.1",))),
            "untrusted",
        ),
        (lambda: endpoints.grpc_server(leaf=issue("x", authority(), hosts=("a.b",))), "wrong_name"),
        (endpoints.grpc_server, "plaintext"),
    ],
)
def test_it_waits_and_says_why_while_the_appio_answers_otherwise(vm, server, code):
    trusting(vm, authority())
    with server() as address:
        assert may_start(vm, address) == f"endpoint.{code}"


def test_it_waits_while_nothing_listens(vm):
    vm.context["FLOWER_VERSION"] = "1.25.0"
    address = endpoints.closed_port()
    assert may_start(vm, address) == "endpoint.refused"
    with endpoints.grpc_server(port=address.port):
        assert may_start(vm, address, after_s=3) is None


class Mute:
    """A peer of which it is proven that it stands still."""

    def judge(self, peer, _now):
        self.asked = peer
        return PeerSilentError("peer.mute", "it stands still", retryable=True)

    def wait_s(self, _now):
        return 4.0


@pytest.mark.parametrize(
    ("version", "tls", "http"), [("1.25.0", False, False), ("1.34.0", True, False),
                                 ("1.37.0", True, True)],
)  # fmt: skip
def test_an_appio_that_stands_still_is_named(vm, version, tls, http):
    vm.controller._liveness = Mute()
    vm.context["FLOWER_VERSION"] = version
    turn = vm.turn()
    with pytest.raises(AgentError, match=r"peer\.mute"):
        vm.controller._alive(turn)
    asked = vm.controller._liveness.asked
    assert (str(asked.address), asked.tls, asked.http) == (WHERE, tls, http)
    assert turn.next_s == 4.0
    vm.controller._liveness = None
    vm.controller._alive(seeing(turn, dry=True))
