"""A SuperLink assigns partitions, and SuperNodes take theirs, through the sandbox's OneGate."""

import datetime
import pathlib
import random

import onegate as sandbox
import pytest
from cycles import attributes_of, cycle_of
from inline import Inline

from flower_agent.agent import assembly
from flower_agent.config import parsing
from flower_agent.config.sources import OneGateAccess
from flower_agent.enrolment import partition_assigner, partition_watch, policy
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.enrolment.partition_watch import PartitionWatch
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.host.machine import HostFacts
from flower_agent.model import pem
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.model.state import Partition, Pin, State
from flower_agent.model.status import Mark
from flower_agent.onegate import discovery, status_attributes, superlink_search
from flower_agent.onegate.client import OneGate
from flower_agent.onegate.discovery import SuperLinkOffer
from flower_agent.paths import Paths
from flower_agent.tls.store import Keyring

SERVICE, LINK, FIRST = 7, 41, 42


class Seen:
    """What a SuperLink's enrolment sees of its service."""

    def __init__(self):
        self.claims, self.members, self.left = {}, frozenset(), frozenset()

    def gone(self, _now):
        return self.left


class Vm:
    """A SuperNode's VM: its memory, its agent's part, and whether its container runs."""

    def __init__(self, world, number):
        self.world, self.vmid = world, FIRST + number
        self.record, self.running, self.client = State(vmid=str(self.vmid)), False, None
        self.context = {"FLOWER_ROLE": "client"}
        self.client = world.guest(self.vmid)
        self.restart()

    def restart(self):
        """Let another agent begin."""
        self.watch = PartitionWatch(Inline(), rng=random.Random(1))

    def look(self, *, away=False):
        """Do one turn, as far as it is about the partition; return that."""
        self.turn = turn = self.world.turn(self.context, self.record, self.client)
        turn.running = self.running
        found = SuperLinkOffer(Address("10.0.0.5", 9092), vmid=str(LINK))
        if not away:
            peer = discovery.parse_vm(self.client.vm(str(LINK)))
            found = discovery.superlink([peer])
        given = dict(turn.seen.settings.node_config or ())
        try:
            return self.watch.partition(turn, found, given)
        finally:
            self.record = turn.state

    def run(self):
        """Look until it has a partition, and run with that."""
        part = self.look()
        self.running = True
        self.publish(part)
        return part

    def publish(self, part):
        text = f"{part.partition_id}/{part.num_partitions}"
        self.world.say(self.vmid, FLOWER_ROLE="supernode", FLOWER_PARTITION=text)

    def code(self):
        with pytest.raises(AgentError) as caught:
            self.look()
        assert caught.value.retryable
        return caught.value.finding.code


class World:
    """A service in the sandbox's OneGate, and the two ends' parts."""

    def __init__(self, gate, folder):
        self.gate, self.folder = gate, folder
        self.tokens, self.clients, self.now = {}, [], 1000.0
        gate.add_service(SERVICE, "flower", [("superlink", 1), ("supernode", 9)])
        self.add(LINK, "superlink_0_(service_7)", "superlink")
        self.context = {"FLOWER_ROLE": "server", "FLOWER_PARTITIONS": "2"}
        self.record, self.seen, self.nodes = State(), Seen(), {}
        self.publish(FLOWER_ENDPOINT="10.0.0.5:9092", FLOWER_TLS="NO")

    def add(self, vmid, name, role):
        self.tokens[vmid] = self.gate.add_vm(vmid, name, role, SERVICE)

    def guest(self, vmid):
        self.clients.append(
            OneGate(OneGateAccess(self.gate.url, str(vmid), Secret(self.tokens[vmid])))
        )
        return self.clients[-1]

    def say(self, vmid, **told):
        self.guest(vmid).update(status_attributes.render(told))

    def publish(self, **told):
        self.say(LINK, FLOWER_ROLE="superlink", **told)

    def key(self, vmid):
        return NodeKeys(self.folder / str(vmid)).own(str(vmid)).public

    def register(self, vmid, status=NodeStatus.ONLINE):
        """Let the SuperLink know a VM's node, which is connected or not."""
        key = pem.node_key_pem(self.key(vmid))
        self.nodes[str(vmid)] = NodeInfo(node_id=str(vmid), status=status, public_key=key)

    def deploy(self, number):
        """Let OneFlow deploy a SuperNode that is enrolled at once."""
        vmid = FIRST + number
        self.add(vmid, f"supernode_{number}_(service_7)", "supernode")
        self.say(vmid, FLOWER_ROLE="supernode", FLOWER_NODE_KEY=self.key(vmid))
        self.register(vmid)
        pins = (*self.record.pins, Pin(str(vmid), self.key(vmid), own=True))
        self.record = State(pins=pins, partitions=self.record.partitions)
        self.seen.members |= {str(vmid)}
        return Vm(self, number)

    def leave(self, vm, *, online=False):
        """Let OneFlow remove a VM, and the SuperLink be sure of that."""
        vmid = str(vm.vmid)
        self.register(vmid, NodeStatus.ONLINE if online else NodeStatus.OFFLINE)
        self.seen.members -= {vmid}
        self.seen.left |= {vmid}

    def turn(self, context, record, client=None):
        return cycle_of(
            settings=parsing.parse(context, {}).settings,
            variables={},
            host=HostFacts((), None, 2**31, "boot"),
            keyring=Keyring(pathlib.Path("/nowhere")),
            client=client,
            now=datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC),
            monotonic=self.now,
            state=record,
        )

    def assign(self, **context):
        """Do a SuperLink's turn, and publish what comes of it; return the attribute."""
        self.context |= context
        for vmid in self.seen.members:
            peer = discovery.parse_vm(self.guest(int(vmid)).vm(vmid))
            self.seen.claims[vmid] = policy.claim(peer)
        self.last = self.turn(self.context, self.record)
        partition_assigner.tell(self.last, node_auth=True)
        partition_assigner.assign(self.last, tuple(self.nodes.values()), self.seen)
        self.record = self.last.state
        self.publish(**attributes_of(self.last))
        return attributes_of(self.last).get("FLOWER_PARTITIONS")


@pytest.fixture
def world(tmp_path):
    with sandbox.OneGate() as gate:
        found = World(gate, tmp_path)
        yield found
        for client in found.clients:
            client.close()


def test_nodes_wait_for_their_own_ids_and_get_them(world):
    assert world.assign() == "2"
    first, second = world.deploy(0), world.deploy(1)
    assert first.code() == "partition.waiting"
    assert world.assign() == "2;42-43:0"
    world.now += superlink_search.RETRY_S[1]
    assert (first.look(), second.look()) == (Partition(0, 2), Partition(1, 2))
    assert (first.record.partition, first.record.assigned) == (Partition(0, 2), True)
    assert world.last.report.conditions["partitions"].detail == "2 of 2 assigned"


def test_one_that_waits_asks_every_5_to_15_s(world):
    world.assign()
    vm = world.deploy(0)
    before = len(world.gate.requests)
    for _ in range(60):
        with pytest.raises(AgentError):
            vm.look()
        world.now += 1
    asked = len(world.gate.requests) - before - 60  # each look of this test is one, too
    assert 4 <= asked <= 12


def test_more_nodes_than_partitions_wait_with_a_finding_at_both_ends(world):
    vms = [world.deploy(number) for number in range(4)]
    world.assign()
    assert [vm.look() for vm in vms[:2]] == [Partition(0, 2), Partition(1, 2)]
    assert [vm.code() for vm in vms[2:]] == ["partition.none_free"] * 2
    (found,) = world.last.report.warnings
    assert found.code == "partition.none_free"
    assert found.message == "FLOWER_PARTITIONS is 2, and no id is free for VM 44, VM 45"
    assert world.last.report.conditions["partitions"].mark is Mark.WAITING


def test_an_id_goes_on_when_its_vm_has_left_and_never_while_it_runs(world):
    first, _ = [world.deploy(number) for number in range(2)]
    world.assign()
    third = world.deploy(2)
    world.register(42, NodeStatus.OFFLINE)
    assert world.assign() == "2;42-43:0", "it is away"
    world.leave(first, online=True)
    assert world.assign() == "2;42-43:0", "it is connected still"
    world.leave(first)
    assert world.assign() == "2;43:1;44:0"
    assert third.look() == Partition(0, 2)


def test_a_vm_whose_pin_is_gone_keeps_its_id_while_oneflow_lists_it(world):
    world.deploy(0)
    world.assign()
    world.record = State(partitions=world.record.partitions)
    assert world.assign() == "2;42:0"
    world.seen.members = frozenset()
    assert world.assign() == "2"


def test_what_is_remembered_is_published_before_anything_else(world):
    world.deploy(0)
    world.assign()
    turn = world.turn(world.context, world.record)
    partition_assigner.tell(turn, node_auth=True)
    assert attributes_of(turn) == {"FLOWER_PARTITIONS": "2;42:0"}


def test_where_nobody_is_enrolled_any_more_no_node_waits_for_an_id(world):
    world.deploy(0)
    world.assign()
    turn = world.turn(world.context, world.record)
    partition_assigner.tell(turn, node_auth=False)
    assert attributes_of(turn) == {"FLOWER_PARTITIONS": ""}


def test_without_the_setting_nothing_is_published_and_what_was_is_taken_back(world):
    world.deploy(0)
    assert world.assign(FLOWER_PARTITIONS="") is None
    world.assign(FLOWER_PARTITIONS="3")
    assert world.assign(FLOWER_PARTITIONS="") == ""
    assert world.assign(FLOWER_PARTITIONS="3") == "3;42:0", "and remembered"


def test_a_site_outside_the_service_has_an_id_that_the_status_tells(world):
    key = world.key(99)
    text = world.assign(FLOWER_NODE_PUBLIC_KEYS=key)
    assert text == "2;site:1"
    shown = pem.node_key_fingerprint(key)
    assert world.last.report.conditions["partitions"].detail == f"1 of 2 assigned; {shown} has 1"
    assert partition_assigner.sites(world.last) == (1,)
    assert world.assign(FLOWER_NODE_PUBLIC_KEYS="") == "2"


def test_a_changed_count_is_taken_over_between_runs_and_the_id_stays(world):
    vm = world.deploy(0)
    world.assign()
    assert vm.run() == Partition(0, 2)
    world.publish(FLOWER_RUN="running 1 of 3")
    world.assign(FLOWER_PARTITIONS="4")
    seen = set()
    for _ in range(int(partition_watch.SETTLED_S / 10 * 1.2)):
        seen.add(vm.look(away=True))
        world.now += 10
    assert seen == {Partition(0, 2)}
    assert "4 from the next pause" in vm.turn.report.conditions["partitions"].detail
    world.publish(FLOWER_RUN="finished")
    for _ in range(int(partition_watch.PENDING_S / 10 * 1.5)):
        seen.add(vm.look(away=True))
        world.now += 10
    assert seen == {Partition(0, 2), Partition(0, 4)}
    assert vm.record.partition == Partition(0, 4)
    assert "partitions" not in vm.turn.report.conditions


def test_a_settled_node_asks_every_five_minutes(world):
    vm = world.deploy(0)
    world.assign()
    vm.run()
    before = len(world.gate.requests)
    for _ in range(360):
        vm.look(away=True)
        world.now += 10
    assert 10 <= len(world.gate.requests) - before <= 14


def test_a_node_that_runs_is_never_stopped_for_want_of_an_id(world):
    vm = world.deploy(1)
    world.assign()
    assert vm.run() == Partition(1, 2)
    other = world.deploy(0)
    other.publish(Partition(0, 1))
    world.assign(FLOWER_PARTITIONS="1")
    vm.restart()
    for _ in range(5):
        assert vm.look() == Partition(1, 2)
        world.now += 60
    assert "partition.none_free" in [found.code for found in vm.turn.report.warnings]
    vm.running = False
    assert vm.code() == "partition.none_free"


def test_a_reboot_while_onegate_is_away_keeps_what_was_assigned(world):
    vm = world.deploy(0)
    world.assign()
    vm.run()
    vm.restart()
    vm.running, vm.client = False, None
    assert vm.look(away=True) == Partition(0, 2)


def test_a_node_config_with_an_id_waits_for_none(world):
    world.assign()
    vm = world.deploy(0)
    vm.context["FLOWER_NODE_CONFIG"] = "partition-id=1"
    assert vm.run() == Partition(1, 2)
    assert world.assign() == "2;42:1", "and the SuperLink gives that id to nobody else"


def test_where_nothing_is_assigned_a_node_numbers_itself_and_asks_for_nothing(world):
    world.assign(FLOWER_PARTITIONS="")
    vm = world.deploy(0)
    before = len(world.gate.requests)
    for _ in range(100):
        assert vm.look(away=True) is None
        world.now += 10
    assert len(world.gate.requests) == before


def test_a_count_that_is_taken_back_leaves_a_node_its_partition(world):
    vm = world.deploy(0)
    world.assign()
    part = vm.run()
    world.assign(FLOWER_PARTITIONS="")
    vm.running = False
    assert vm.look() is None
    assert (vm.record.partition, vm.record.assigned) == (part, False)


def test_what_is_no_assignment_is_waited_for_to_be_one(world):
    vm = world.deploy(0)
    world.publish(FLOWER_PARTITIONS="2;nonsense")
    assert vm.code() == "partition.waiting"


def test_the_agent_that_is_put_together_hands_it_to_flower(world, tmp_path):
    options = assembly.Options(paths=Paths(tmp_path))
    threads, rng = Inline(), random.Random(1)
    parts = assembly.assemble(options, threads, wake=lambda: None, rng=rng, dry=False)
    turn = world.turn({"FLOWER_ROLE": "client"}, State(vmid="42"))
    found = SuperLinkOffer(Address("10.0.0.5", 9092), vmid=str(LINK), partitions="4;42:3")
    config = dict(parts.supernode._node_config(turn, found))
    assert config == {"partition-id": "3", "num-partitions": "4"}
    assert attributes_of(turn)["FLOWER_PARTITION"] == "3/4"
