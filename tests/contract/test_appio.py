"""The AppIo that a VM offers elsewhere: its certificate, what is told of it, who is attached."""

import base64
import contextlib
import datetime
import socket

import endpoints
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cycles import attributes_of, cycle_of
from endpoints import Certificate, authority, issue

from flower_agent.commands import tls as commands_tls
from flower_agent.config import parsing
from flower_agent.config.flower_versions import Transport
from flower_agent.flower.command_line import Endpoint
from flower_agent.flower.health import Prober
from flower_agent.host.machine import HostFacts
from flower_agent.host.network import Interface
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError
from flower_agent.model.state import State
from flower_agent.model.status import Mark
from flower_agent.paths import Paths
from flower_agent.roles import appio
from flower_agent.tls import certificates, trust
from flower_agent.tls.store import Keyring

NOW = datetime.datetime.now(datetime.UTC)
NIC = Interface("eth0", "02:00:0a:00:00:07", ("10.0.0.7",))
CONTEXT = {
    "FLOWER_ROLE": "client",
    "FLOWER_VERSION": "1.34.0",
    "FLOWER_APPIO_LISTEN": "127.0.0.1:9094",
}


class Node:
    """A SuperNode that offers its AppIo."""

    def __init__(self, folder, **context):
        self.paths = Paths(folder)
        self.keyring = Keyring(self.paths.tls)
        self.settings = parsing.parse({**CONTEXT, **context}, {}).settings
        self.now = NOW

    def turn(self, **more):
        return cycle_of(
            settings=self.settings,
            variables={},
            host=HostFacts((NIC,), "eth0", 2**31, "boot"),
            keyring=self.keyring,
            client=None,
            now=self.now,
            monotonic=1000.0,
            state=State(),
            **more,
        )

    def offered(self, address, *, tls=True):
        return Endpoint(address, Transport.GRPC, tls)

    def certify(self, address):
        """Do the steps to the wanted certificate; return them."""
        wanted = appio.wanted(self.turn(), self.offered(address))
        steps = trust.steps(wanted, self.keyring.appio.held(wanted, self.now), self.now)
        for step in steps:
            self.keyring.appio.apply(step, wanted, self.now)
        return [step.action for step in steps]

    def leaf(self):
        """Return what Flower would serve with."""
        ring = self.keyring.appio
        key = serialization.load_pem_private_key(ring.key.read_bytes(), None)
        return Certificate(x509.load_pem_x509_certificate(ring.chain.read_bytes()), key)

    def check(self, address, *, tls=True):
        """Return the turn after a check."""
        turn = self.turn()
        appio.check_supernode(turn, Prober(), self.offered(address, tls=tls))
        return turn


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_a_supernode_makes_a_ca_of_its_own_once_and_publishes_it(node):
    address = Address("127.0.0.1", 9094)
    assert node.certify(address) == [trust.CertificateAction.MAKE_CA, trust.CertificateAction.ISSUE]
    assert node.certify(address) == []
    with endpoints.grpc_server(leaf=node.leaf()) as served:
        turn = node.check(served)
    assert attributes_of(turn)["FLOWER_APPIO"] == str(served)
    published = base64.b64decode(attributes_of(turn)["FLOWER_APPIO_CA"]).decode()
    assert published == node.keyring.appio.held_ca()
    assert turn.report.conditions["appio"].detail.endswith("with TLS")
    shown = turn.report.conditions["appio_ca"].detail.replace(" ", "")
    assert shown == certificates.format_fingerprint(certificates.fingerprint(published))


def test_its_superlinks_ca_stays_what_it_was(node):
    wanted = trust.CertificateSpec(source=trust.CertificateSource.TRUSTED, ca_pem=authority().pem)
    node.keyring.apply(trust.CertificateStep(trust.CertificateAction.WRITE, "absent"), wanted, NOW)
    node.certify(Address("10.0.0.7", 9094))
    assert node.keyring.held_ca() == authority().pem
    assert node.keyring.appio.held_ca() != authority().pem


@pytest.mark.parametrize(
    ("listen", "named"),
    [("10.0.0.9", "10.0.0.9"), ("0.0.0.0", "10.0.0.7")],  # noqa: S104
)
def test_the_certificate_names_what_a_superexec_dials(node, listen, named):
    node.certify(Address(listen, 9094))
    leaf = certificates.inspect(node.keyring.appio.held_chain())
    assert leaf.addresses == {named, "127.0.0.1"}
    assert leaf.subject == "CN=flower-agent SuperNode"
    assert appio.named(node.turn(), Address(listen, 9094)) == Address(named, 9094)


def test_another_address_gives_a_new_certificate_of_the_same_ca(tmp_path):
    node = Node(tmp_path, FLOWER_TLS_SANS="node.example.org")
    node.certify(Address("10.0.0.9", 9094))
    ca = node.keyring.appio.held_ca()
    assert node.certify(Address("10.0.0.10", 9094)) == [trust.CertificateAction.ISSUE]
    leaf = certificates.inspect(node.keyring.appio.held_chain())
    assert (leaf.addresses, leaf.names) == ({"10.0.0.10", "127.0.0.1"}, {"node.example.org"})
    assert node.keyring.appio.held_ca() == ca


def test_without_tls_there_is_no_certificate_and_a_connection_is_enough(node):
    with endpoints.silent_server() as served:
        assert appio.wanted(node.turn(), node.offered(served, tls=False)) is None
        turn = node.check(served, tls=False)
    assert attributes_of(turn) == {"FLOWER_APPIO": str(served)}
    assert turn.report.conditions["appio"].detail.endswith("without TLS")


@pytest.mark.parametrize(
    ("server", "code"),
    [
        (
            lambda: endpoints.grpc_server(leaf=issue("x", authority(), hosts=("127.0.0.1",))),
            "untrusted",
        ),
        (endpoints.grpc_server, "plaintext"),
        (lambda: contextlib.nullcontext(endpoints.closed_port()), "refused"),
    ],
)
def test_nothing_is_published_while_it_does_not_answer(node, server, code):
    node.certify(Address("127.0.0.1", 9094))
    turn = node.turn()
    with server() as served, pytest.raises(AgentError) as caught:
        appio.check_supernode(turn, Prober(), node.offered(served))
    assert caught.value.finding.code == f"endpoint.{code}"
    assert attributes_of(turn) == {}


def test_who_is_attached_is_told(node):
    with endpoints.silent_server() as served:
        assert node.check(served, tls=False).report.conditions["superexec"].mark is Mark.WAITING
        with socket.create_connection((served.host, served.port)):
            fact = node.check(served, tls=False).report.conditions["superexec"]
    assert (fact.mark, fact.detail) == (Mark.OK, "connected from 127.0.0.1")


@pytest.mark.parametrize(("held", "days", "renewed"), [(1, 300, 1), (2, 300, 0), (2, 360, 1)])
def test_a_renewal_waits_while_an_app_may_be_running(node, held, days, renewed):
    with endpoints.silent_server() as served, contextlib.ExitStack() as connections:
        node.certify(served)
        for _ in range(held):
            connections.enter_context(socket.create_connection((served.host, served.port)))
        node.now = NOW + datetime.timedelta(days=days)
        assert node.certify(served) == [trust.CertificateAction.ISSUE] * renewed


def test_the_certificate_of_an_appio_is_shown_and_renewed_by_command(node, capsys):
    assert commands_tls.show(node.paths) == 1
    node.certify(Address("10.0.0.7", 9094))
    assert commands_tls.show(node.paths) == 0
    shown = capsys.readouterr().out
    assert "flower-agent SuperNode" in shown
    assert "10.0.0.7, 127.0.0.1" in shown
    assert commands_tls.renew(node.paths) == 0
    assert appio.wanted(node.turn(renew=True), node.offered(Address("10.0.0.7", 9094))).renew
