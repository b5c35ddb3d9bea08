"""A service that OneFlow scales and heals, as its SuperLink and its SuperNodes see it.

OneFlow, OneGate and the Control API are the sandbox's; the clock is the tests', and calls beside
the loop are done at once.
"""

import contextlib
import dataclasses
import datetime
import pathlib
import random

import oneflow_service
import onegate as sandbox
import pytest
from cycles import attributes_of, cycle_of
from endpoints import authority
from fake_superlink import FakeSuperLink
from inline import Inline
from oneflow_service import AUTOSCALER_S, COOLDOWN_S, Role, Service

from flower_agent.config import parsing
from flower_agent.config.flower_versions import Transport
from flower_agent.config.sources import OneGateAccess
from flower_agent.enrolment import lookups
from flower_agent.enrolment.enroller import Enroller
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.enrolment.partition_watch import PartitionWatch
from flower_agent.enrolment.registrar import Registrar
from flower_agent.flower.control_client import Control
from flower_agent.flower.health import Prober
from flower_agent.host.firewall import Firewalls
from flower_agent.host.machine import HostFacts
from flower_agent.model import pem
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.model.state import State
from flower_agent.onegate import discovery, status_attributes
from flower_agent.onegate.client import OneGate
from flower_agent.roles.server_certificate import ServerCertificate
from flower_agent.roles.superlink import SuperLinkController
from flower_agent.tls import certificates
from flower_agent.tls.provided import CertificateFiles
from flower_agent.tls.store import Keyring

SERVICE = 7
STEP_S = 5.0
CHANGED = status_attributes.words("tls.ca_changed: OneGate hands over the CA AB, trusted is CD")


class Vm:
    """A VM of the service with what its agent remembers."""

    def __init__(self, world, machine):
        self.world, self.vmid = world, str(machine.vmid)
        self.client = OneGate(OneGateAccess(world.gate.url, self.vmid, Secret(machine.token)))
        self.record = State(vmid=self.vmid)

    def say(self, **told):
        self.client.update(status_attributes.render(told))

    def turn(self, **context):
        return cycle_of(
            settings=parsing.parse(context, {}).settings,
            variables={},
            host=HostFacts((), None, 2**31, "boot"),
            keyring=Keyring(pathlib.Path("/nowhere")),
            client=self.client,
            now=datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC),
            monotonic=self.world.now,
            state=self.record,
        )


class Node(Vm):
    """A SuperNode: it waits for its partition, then it is connected."""

    def __init__(self, world, machine):
        super().__init__(world, machine)
        self.watch = PartitionWatch(Inline(), rng=random.Random(int(self.vmid)))
        self.key = NodeKeys(world.folder / self.vmid).own(self.vmid).public
        self.waits = ""
        self.say(FLOWER_ROLE="supernode", FLOWER_NODE_KEY=self.key)

    @property
    def partition(self):
        part = self.record.partition
        return f"{part.partition_id}/{part.num_partitions}" if part else self.waits

    def look(self):
        turn = self.turn(FLOWER_ROLE="client")
        turn.running = self.record.partition is not None
        try:
            found = discovery.superlink([discovery.parse_vm(self.client.vm(self.world.link.vmid))])
            part = self.watch.partition(turn, found, {})
        except AgentError as error:
            self.waits = error.finding.code
            return
        part = part or self.record.partition
        if part is None:  # it numbers itself, as its name says
            service = discovery.parse_service(self.client.service())
            part = discovery.partition(service, self.vmid, ())
        self.record = dataclasses.replace(turn.state, partition=part)
        registered = self.world.nodes.nodes.get(pem.node_key_pem(self.key))
        if registered is not None and registered[1] != "unregistered":
            self.world.nodes.connect(pem.node_key_pem(self.key))
        more = {"FLOWER_STATE": "ready", "READY": "YES"}
        self.say(FLOWER_PARTITION=self.partition, FLOWER_GPU="none", **more)


class Link(Vm):
    """A SuperLink without any state: its agent's part, beside Flower's register."""

    def __init__(self, world, machine):
        super().__init__(world, machine)
        self.enroller = Enroller(Registrar(Inline(), rng=random.Random(1), sleep=world.rest))
        files = CertificateFiles(world.folder / "given")
        self.controller = SuperLinkController(
            Prober(),
            self.enroller,
            None,
            ServerCertificate(files),
            firewalls=Firewalls(world.folder, Inline()),
            follower=None,
            reports=None,
            paths=type("Paths", (), {"superlink": world.folder, "proxy": world.folder / "proxy"}),
        )

    def look(self):
        context = {"FLOWER_ROLE": "server", "FLOWER_ADDRESS": "127.0.0.1", "FLOWER_TLS_SANS": "a"}
        self.last = turn = self.turn(**context, **self.world.context)
        with contextlib.suppress(AgentError):  # the first look waits for OneGate
            spec = self.controller.prepare(turn).spec
            nodes = self.world.api.list_nodes(5)
            self.controller._enrol(turn, spec, nodes, self.world.api)
            self.controller._note_nodes(turn, nodes, Address("127.0.0.1", 9092))
            self.controller._tell_ca(turn, authority().pem, nodes)
            told = {"FLOWER_ROLE": "superlink", "FLOWER_TLS": "YES", **attributes_of(turn)}
            self.say(FLOWER_STATE="ready", **told, READY="YES")
        self.record = turn.state

    def said(self):
        return {found.code: found for found in self.last.report.warnings}


class World:
    """The service, and every VM that OneFlow made of it."""

    def __init__(self, folder, gate, register, api, **context):
        self.folder, self.gate, self.nodes, self.api = folder, gate, register, api
        self.context, self.now, self.vms, self.link = context, 1000.0, {}, None
        link = Role("superlink", 1, min_vms=1, max_vms=1)
        supernode = Role("supernode", 3, min_vms=1, max_vms=9)
        self.flow = Service(gate, SERVICE, "flower", (link, supernode), first_vmid=41)
        self.live(60)
        assert self.flow.state is oneflow_service.State.RUNNING

    def live(self, seconds):
        end = self.now + seconds
        while self.now < end:
            alive = {str(machine.vmid): machine for machine in self.gate.machines()}
            for vmid in self.vms.keys() - alive.keys():
                self.end(self.vms.pop(vmid))
            for vmid in alive.keys() - self.vms.keys():
                machine = alive[vmid]
                self.vms[vmid] = (Link if machine.role == "superlink" else Node)(self, machine)
                self.link = self.vms[vmid] if machine.role == "superlink" else self.link
            for vm in list(self.vms.values()):
                vm.look()
            self.flow.pass_time(self.now)
            self.now += STEP_S

    def end(self, vm):
        """See a VM go: its node is connected no more."""
        key = pem.node_key_pem(vm.key) if isinstance(vm, Node) else b""
        if key in self.nodes.nodes:
            self.nodes.connect(key, "offline")
        vm.client.close()

    def scale(self, cardinality):
        self.flow.scale("supernode", cardinality, self.now)

    def partitions(self):
        return {vmid: vm.partition for vmid, vm in self.vms.items() if isinstance(vm, Node)}

    def rest(self, _seconds):
        """Nobody is kept waiting by the pace of the look-ups."""


@pytest.fixture
def make(tmp_path):
    """Makes worlds by the SuperLink's context."""
    with contextlib.ExitStack() as stack:

        def build(**context):
            gate, register = stack.enter_context(sandbox.OneGate()), FakeSuperLink()
            address = stack.enter_context(register.serve(Transport.GRPC))
            api = Control(address, Transport.GRPC, None)
            stack.callback(api.close)
            world = World(tmp_path, gate, register, api, **context)
            stack.callback(lambda: [vm.client.close() for vm in world.vms.values()])
            return world

        yield build


def test_a_service_that_shrinks_and_grows_by_itself_has_gaps_and_counts_that_differ(make):
    world = make()
    assert world.partitions() == {"42": "0/3", "43": "1/3", "44": "2/3"}
    world.live(120)
    assert world.link.said() == {}
    world.scale(2)
    world.live(COOLDOWN_S + STEP_S)
    assert world.partitions() == {"43": "1/3", "44": "2/3"}
    assert world.link.said()["partition.gaps"].message == "no SuperNode has partition 0 of 3"
    world.scale(4)
    world.live(COOLDOWN_S + STEP_S)
    assert "SuperNodes count partitions differently" in world.link.said()["partition.gaps"].message


def test_partitions_that_the_superlink_assigns_outlive_scaling(make):
    world = make(FLOWER_PARTITIONS="3")
    whole = {"42": "0/3", "43": "1/3", "44": "2/3"}
    assert world.partitions() == whole
    world.live(120)
    assert world.link.said() == {}
    world.scale(2)
    world.live(COOLDOWN_S + STEP_S)
    assert world.link.said()["partition.gaps"].message == "no SuperNode has partition 0 of 3"
    world.scale(3)
    world.live(30)
    kept = {"43": "1/3", "44": "2/3"}
    assert world.partitions() == {**kept, "45": "partition.none_free"}, "42 may come back"
    assert world.link.said()["partition.none_free"].message.endswith("no id is free for VM 45")
    world.live(lookups.ABSENT_S + 120)
    assert world.partitions() == {**kept, "45": "0/3"}
    world.live(120)
    assert world.link.said() == {}
    attribute = world.gate.attributes(int(world.link.vmid))["FLOWER_PARTITIONS"]
    assert attribute == "3;43-44:1;45:0"


def test_a_changed_count_reaches_nodes_that_run_and_moves_none(make):
    world = make(FLOWER_PARTITIONS="3")
    world.context["FLOWER_PARTITIONS"] = "8"
    world.live(400)
    assert world.partitions() == {"42": "0/8", "43": "1/8", "44": "2/8"}


def test_a_superlink_that_oneflow_made_anew_says_that_its_nodes_refuse_it(make):
    world = make()
    world.flow.terminate(int(world.link.vmid))
    world.nodes.lose()  # its database went with it
    world.live(AUTOSCALER_S + 30)
    assert world.flow.state is oneflow_service.State.RUNNING, "OneFlow is content"
    assert world.link.vmid == "45"
    for vm in world.vms.values():
        if isinstance(vm, Node):
            vm.look = lambda vm=vm: vm.say(FLOWER_STATE="degraded", FLOWER_ERROR=CHANGED)
            world.nodes.connect(pem.node_key_pem(vm.key), "offline")
    world.live(75)
    found = world.link.said()["trust.nodes_refuse"]
    assert found.message == (
        "3 of 3 SuperNodes of the service refuse this SuperLink's CA: VM 42, VM 43, VM 44"
    )
    trust = f"flower-agent tls trust {certificates.fingerprint(authority().pem)}"
    assert found.hint.endswith(f"for vm in 42 43 44; do onevm ssh $vm root --cmd '{trust}'; done")
    assert "node.degraded" not in world.link.said()
