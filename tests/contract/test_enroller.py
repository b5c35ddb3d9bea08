"""A SuperLink lets the SuperNodes of its service in: OneGate, its watch, and the Control API.

The clock is the tests'; calls beside the loop are done at once, their pauses let the clock go on.
"""

import contextlib
import dataclasses
import datetime
import itertools
import pathlib
import random
from collections import Counter

import onegate as sandbox
import pytest
from cycles import cycle_of
from fake_superlink import NOT_VALID, FakeSuperLink
from inline import Inline

from flower_agent.config import parsing
from flower_agent.config.flower_versions import Transport
from flower_agent.config.sources import OneGateAccess
from flower_agent.enrolment import enroller as module
from flower_agent.enrolment import refusals
from flower_agent.enrolment.enroller import Enroller
from flower_agent.enrolment.lookups import MOST_AT_ONCE
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.enrolment.registrar import Registrar
from flower_agent.flower.control_client import Control
from flower_agent.host.machine import HostFacts
from flower_agent.model import pem
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.model.state import State
from flower_agent.model.status import Mark
from flower_agent.onegate import status_attributes
from flower_agent.onegate.client import OneGate
from flower_agent.tls.store import Keyring

SERVICE, LINK, FIRST = 7, 41, 42
UNREGISTERED = "unregistered"


class World:
    """A service in the sandbox's OneGate, a SuperLink's register, and the agent's part between."""

    def __init__(self, folder, gate, link, api, nodes):
        self.folder, self.gate, self.link, self.api = folder, gate, link, api
        self.now, self.record, self.turn = 1000.0, State(), None
        self.context = {"FLOWER_ROLE": "server"}
        self.tokens, self.asked, self.noted = {}, [], []
        self.dry = False
        gate.add_service(SERVICE, "flower", [("superlink", 1), ("supernode", nodes)])
        self.add(LINK, "superlink_0_(service_7)", "superlink")
        access = OneGateAccess(gate.url, str(LINK), Secret(self.tokens[LINK]))
        self.client = OneGate(access)
        self.restart()

    def restart(self):
        """Let a new agent begin; what is in the record stays."""
        self.threads = Inline()
        registrar = Registrar(
            self.threads, rng=random.Random(1), sleep=self._pass, clock=lambda: self.now
        )
        self.enroller = Enroller(registrar)

    def add(self, vmid, name, role="supernode"):
        self.tokens[vmid] = self.gate.add_vm(vmid, name, role, SERVICE)

    def deploy(self, number):
        """Let OneFlow deploy a SuperNode that publishes its key; return the key."""
        vmid = FIRST + number
        self.add(vmid, f"supernode_{number}_(service_7)")
        key = NodeKeys(self.folder / str(vmid)).own(str(vmid)).public
        self.say(vmid, key)
        return key

    def say(self, vmid, key):
        """Let a VM publish a key, as its agent would."""
        guest = OneGate(OneGateAccess(self.gate.url, str(vmid), Secret(self.tokens[vmid])))
        guest.update(status_attributes.render({"FLOWER_ROLE": "supernode", "FLOWER_NODE_KEY": key}))
        guest.close()

    def tell(self, vmid, **attributes):
        """Let a VM publish something about itself."""
        guest = OneGate(OneGateAccess(self.gate.url, str(vmid), Secret(self.tokens[vmid])))
        guest.update(status_attributes.render(attributes))
        guest.close()

    def leave(self, vmid):
        """Let OneFlow undeploy a VM."""
        with self.gate._lock:
            del self.gate._machines[vmid]

    def look(self):
        """Do one turn."""
        before = len(self.gate.requests)
        self.turn = cycle_of(
            settings=parsing.parse(self.context, {}).settings,
            variables={},
            host=HostFacts((), None, 2**31, "boot"),
            keyring=Keyring(pathlib.Path("/nowhere")),
            client=self.client,
            now=datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC),
            monotonic=self.now,
            state=self.record,
            dry=self.dry,
        )
        try:
            if not self.enroller.wants_keys(self.turn):
                return False
            self.enroller.enrol(self.turn, self.api.list_nodes(5), self.api)
        finally:
            self.record = self.turn.state
            self.noted += self.turn.entries
            came = [r.path for r in self.gate.requests[before:] if r.method == "GET"]
            self.asked += [(self.now, path) for path in came]
        return True

    def live(self, seconds):
        """Turn as the agent does: when something is due or was brought, and every ten seconds."""
        end = self.now + seconds
        while self.now < end:
            with contextlib.suppress(AgentError):  # the first turn waits for the answer
                self.look()
            due_s = 0.0 if self.threads.busy() else self.turn.next_s
            self.now += min(max(due_s, 0.05), 10.0, end - self.now + 0.001)

    def codes(self):
        return [found.code for found in self.turn.report.warnings]

    def status(self, key):
        return self.link.nodes.get(pem.node_key_pem(key), (0, ""))[1]

    def connect(self, *keys, status="online"):
        for key in keys:
            self.link.connect(pem.node_key_pem(key), status)

    def requests_since(self, now):
        return Counter(path for at, path in self.asked if at >= now)

    def _pass(self, seconds):
        self.now += seconds


@pytest.fixture
def make(tmp_path):
    """Makes worlds of a number of SuperNodes that OneFlow should deploy."""
    with contextlib.ExitStack() as stack:

        def build(nodes=2):
            gate, link = stack.enter_context(sandbox.OneGate()), FakeSuperLink()
            address = stack.enter_context(link.serve(Transport.GRPC))
            api = Control(address, Transport.GRPC, None)
            stack.callback(api.close)
            world = World(tmp_path, gate, link, api, nodes)
            stack.callback(world.client.close)
            return world

        yield build


# Whether nodes need keys


def wants(world):
    with contextlib.suppress(AgentError):
        world.look()
    return world.look()


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, True),
        ({"FLOWER_NODE_AUTH": "NO"}, False),
        ({"TLS_ENABLED": "NO"}, False),
    ],
)
def test_inside_a_service_with_tls_nodes_need_keys_unless_switched_off(make, context, expected):
    world = make()
    world.context |= context
    assert wants(world) is expected
    assert bool(world.asked) is (not context)


@pytest.mark.parametrize("given", [False, True])
def test_outside_a_service_nodes_need_keys_where_some_are_given(make, given):
    world = make()
    token = world.gate.add_vm(99, "loner")
    world.client = OneGate(OneGateAccess(world.gate.url, "99", Secret(token)))
    if given:
        world.context["FLOWER_NODE_PUBLIC_KEYS"] = NodeKeys(world.folder / "x").own("1").public
    assert wants(world) is given
    assert world.turn.state.in_service is (None if given else False)
    world.client.close()


def test_without_a_token_nodes_need_no_keys(make):
    world = make()
    world.client = None
    assert wants(world) is False


def test_a_first_start_waits_for_onegates_answer_and_then_supposes_a_service(make):
    world = make()
    world.gate.fault("down")
    with pytest.raises(AgentError, match="asks OneGate whether there is a service"):
        world.look()
    assert world.record.in_service is None
    world.now += module.ANSWER_S
    assert world.look() is True
    world.gate.heal()
    world.live(30)
    assert world.record.in_service is True


def test_what_onegate_said_once_counts_while_it_is_away(make):
    world = make()
    wants(world)
    world.gate.fault("down")
    world.restart()
    assert world.look() is True
    world.client = None  # the token is lost, too
    assert world.look() is True


# Enrolment


def test_nodes_are_enrolled_soon_after_they_publish_their_keys(make):
    world = make()
    world.live(20)
    assert world.turn.report.conditions["enrolment"].detail == "0 of 0 VMs of the service"
    keys = [world.deploy(0), world.deploy(1)]
    deployed = world.now
    world.live(6)
    assert [world.status(key) for key in keys] == ["registered", "registered"]
    assert world.requests_since(deployed) == {"/service": 1, "/vms/42": 1, "/vms/43": 1}
    assert world.turn.report.conditions["enrolment"].detail == "2 of 2 VMs of the service"
    assert world.turn.report.conditions["enrolment"].mark is Mark.OK
    assert [pin.vmid for pin in world.record.pins] == ["42", "43"]
    assert world.codes() == []
    assert [(str(each.what), each.key) for each in world.noted] == [
        ("key.registered", pem.node_key_fingerprint(key)) for key in keys
    ]
    assert all(each.node and "VM 4" in each.message for each in world.noted)


def test_a_vm_that_publishes_no_key_yet_is_waited_for(make):
    world = make(1)
    world.add(FIRST, "supernode_0_(service_7)")
    world.live(30)
    assert world.turn.report.conditions["enrolment"].mark is Mark.WAITING
    assert world.turn.report.conditions["enrolment"].detail == "0 of 1 VMs of the service"
    assert world.enroller.expected == 1
    assert 4 <= world.requests_since(0)["/vms/42"] <= 7
    key = NodeKeys(world.folder / "42").own("42").public
    world.say(FIRST, key)
    world.live(6)
    assert world.status(key) == "registered"


def test_a_settled_service_costs_few_requests_a_minute_after_one_look_at_each_vm(make):
    world = make()
    world.connect_after = [world.deploy(0), world.deploy(1)]
    world.live(10)
    world.connect(*world.connect_after)
    world.live(20)
    settled = world.now
    world.live(600)
    assert world.requests_since(settled)["/service"] == 10
    settled = world.now
    world.live(600)
    asked = world.requests_since(settled)
    assert asked["/service"] == 10
    assert {4, 5} >= {asked["/vms/42"], asked["/vms/43"]}, "one a minute, how it is"
    assert len(asked) == 3


def test_of_many_settled_vms_one_a_minute_is_asked_in_turn(make):
    world = make(12)
    keys = [world.deploy(number) for number in range(12)]
    world.live(20)
    world.connect(*keys)
    world.live(120)
    settled = world.now
    world.live(840)
    asked = world.requests_since(settled)
    looks = {path: count for path, count in asked.items() if path.startswith("/vms/")}
    assert len(looks) == 12
    assert 12 <= sum(looks.values()) <= 15


def test_a_vm_that_says_that_it_does_not_work_is_asked_each_minute(make):
    world = make(12)
    keys = [world.deploy(number) for number in range(12)]
    world.live(20)
    world.connect(*keys)
    world.live(200)
    world.tell(FIRST, FLOWER_STATE="degraded", FLOWER_ERROR="peer.mute: stands still")
    world.live(780)
    claim = world.enroller.claims["42"]
    assert (claim.state, claim.error) == ("degraded", "peer.mute: stands still")
    world.tell(FIRST, FLOWER_STATE="ready", FLOWER_ERROR="", READY="YES")
    world.live(70)
    assert world.enroller.claims["42"].state == "ready"


def test_nodes_that_refuse_the_ca_of_a_new_superlink_are_known_within_a_minute(make):
    world = make()

    def found():
        nodes, seen = world.api.list_nodes(5), world.enroller
        return refusals.finding(nodes, world.record.pins, seen.claims, seen.members, "ab" * 32)

    keys = [world.deploy(0), world.deploy(1)]  # what they published to the old one stands there
    world.live(10)
    assert found() is None
    for vmid in (FIRST, FIRST + 1):
        refused = "tls.ca_changed: OneGate hands over the CA AB"
        world.tell(vmid, FLOWER_STATE="degraded", FLOWER_ERROR=refused)
    world.live(65)
    assert found().message.startswith("2 of 2 SuperNodes of the service refuse")
    world.connect(*keys)
    world.live(1)
    assert found() is None


def test_what_the_image_of_a_connected_node_lacks_comes_to_be_known(make):
    world = make(1)
    key = world.deploy(0)
    world.live(10)
    world.connect(key)
    world.live(120)
    world.tell(FIRST, FLOWER_APP_IMAGE=f"sha256:{'0' * 64} lacks torch;wandb")
    world.live(70)
    assert world.enroller.claims["42"].lacks == ("torch", "wandb")
    world.tell(FIRST, FLOWER_APP_IMAGE=f"sha256:{'1' * 64} lacks -")
    world.live(70)
    assert world.enroller.claims["42"].lacks == ()


def test_the_gpu_of_a_node_is_what_its_vm_publishes_once_it_works(make):
    world = make()
    key = world.deploy(0)
    world.live(10)
    world.connect(key)
    world.live(1)
    assert world.enroller.claims["42"].gpu == ""
    guest = OneGate(OneGateAccess(world.gate.url, "42", Secret(world.tokens[FIRST])))
    guest.update(status_attributes.render({"FLOWER_GPU": "1 NVIDIA GPU: A10"}))
    guest.close()
    world.live(120)
    assert world.enroller.claims["42"].gpu == "1 NVIDIA GPU: A10"
    assert world.enroller.claims["42"].key == key


def test_a_new_agent_asks_for_no_vm_that_is_enrolled_and_online(make):
    world = make()
    keys = [world.deploy(0), world.deploy(1)]
    world.live(10)
    world.connect(*keys)
    world.restart()
    begun = world.now
    world.live(30)
    assert world.requests_since(begun) == {"/service": 1}
    assert world.turn.report.conditions["enrolment"].detail == "2 of 2 VMs of the service"


def test_a_lost_database_gets_all_keys_again_within_a_turn(make):
    world = make()
    keys = [world.deploy(0), world.deploy(1)]
    given = NodeKeys(world.folder / "far").own("1").public
    world.context["FLOWER_NODE_PUBLIC_KEYS"] = given
    world.live(10)
    world.connect(*keys)
    world.live(10)
    world.link.lose()
    world.look()
    assert [world.status(key) for key in (*keys, given)] == ["registered"] * 3


def test_a_key_that_the_operator_registered_already_is_fine(make):
    world = make(1)
    key = world.deploy(0)
    world.api.register_node(pem.node_key_pem(key), 5)
    world.live(10)
    assert world.status(key) == "registered"
    assert world.codes() == []
    assert [pin.own for pin in world.record.pins] == [False]


def test_another_key_of_a_pinned_vm_is_refused_and_said_until_it_is_mended(make):
    world = make(1)
    first = world.deploy(0)
    world.live(10)
    world.connect(first, status="offline")
    second = NodeKeys(world.folder / "anew").own("42").public
    world.say(FIRST, second)
    world.live(70)
    assert world.codes() == ["enrol.key_changed"]
    assert world.status(second) == ""
    world.api.unregister_node(str(world.link.nodes[pem.node_key_pem(first)][0]), 5)
    world.live(70)
    assert world.status(second) == "registered"
    assert world.codes() == []


def test_a_vm_that_left_is_unregistered_after_ten_minutes_and_not_sooner(make):
    world = make()
    keys = [world.deploy(0), world.deploy(1)]
    world.live(10)
    world.connect(*keys)
    world.live(10)
    world.leave(FIRST)
    world.connect(keys[0], status="offline")
    world.live(590)
    assert world.status(keys[0]) == "offline"
    world.live(130)
    assert world.status(keys[0]) == UNREGISTERED
    assert world.status(keys[1]) == "online"
    world.live(10)
    assert [pin.vmid for pin in world.record.pins] == ["43"]


def test_a_vm_that_left_stays_registered_while_its_node_is_online(make):
    world = make()
    key = world.deploy(0)
    world.live(10)
    world.connect(key)
    world.leave(FIRST)
    world.live(2000)
    assert world.status(key) == "online"


def test_an_answer_without_the_superlink_itself_proves_no_absence(make):
    world = make()
    keys = [world.deploy(0), world.deploy(1)]
    world.live(10)
    world.connect(*keys, status="offline")
    with world.gate._lock:
        for vmid in (FIRST, FIRST + 1):
            del world.gate._machines[vmid]
        service = world.gate._services[SERVICE]
        world.gate._services[SERVICE] = dataclasses.replace(service, roles=(("supernode", 2),))
    world.live(2000)
    assert [world.status(key) for key in keys] == ["offline", "offline"]


def test_a_onegate_that_is_away_loses_nobody(make):
    world = make()
    keys = [world.deploy(0), world.deploy(1)]
    world.live(10)
    world.connect(*keys, status="offline")
    world.gate.fault("down")
    begun = world.now
    world.live(3000)
    assert [world.status(key) for key in keys] == ["offline", "offline"]
    assert sum(world.requests_since(begun).values()) <= 3000 / 5
    assert world.turn.report.conditions["enrolment"].mark is Mark.WAITING
    assert "OneGate does not answer" in world.turn.report.conditions["enrolment"].detail


def test_a_key_that_flower_refuses_is_said_and_not_offered_in_every_turn(make):
    world = make(1)
    world.live(10)
    key = world.deploy(0)
    register = world.link._register

    def refuse(_):
        world.link._register = register
        world.link.trouble = None
        raise fake_refusal()

    world.link._register = refuse
    world.live(20)
    assert world.link.calls.count("RegisterNode") == 1
    assert world.codes() == ["enrol.key_refused"]
    assert "VM 42" in world.turn.report.warnings[0].message
    assert [(str(each.what), str(each.result)) for each in world.noted] == [
        ("key.registered", "refused")
    ]
    world.live(60)
    assert world.status(key) == "registered"
    assert world.codes() == []


def fake_refusal():
    from fake_superlink import Refused

    return Refused(*NOT_VALID)


def test_a_register_that_fails_is_a_warning_and_tried_again(make):
    world = make(1)
    world.live(10)
    key = world.deploy(0)
    register = world.link._register

    def fail(_):
        world.link._register = register
        raise RuntimeError("database is locked")

    world.link._register = fail
    world.live(12)
    assert world.status(key) == "registered"


def test_a_dry_look_registers_nothing(make):
    world = make(1)
    key = world.deploy(0)
    world.dry = True
    world.live(10)
    assert world.status(key) == ""
    assert world.record.pins == ()


# Many


def test_a_hundred_nodes_at_once_are_enrolled_within_seconds_in_batches_of_fifty(make):
    world = make(100)
    world.live(10)
    keys = [world.deploy(number) for number in range(100)]
    deployed = world.now
    world.live(12)
    assert {world.status(key) for key in keys} == {"registered"}
    begun = [at for at, path in world.asked if at >= deployed and path.startswith("/vms/")]
    assert len(begun) == 100
    chunks = [(at, len(list(same))) for at, same in itertools.groupby(begun)]
    assert max(count for _, count in chunks) <= MOST_AT_ONCE
    assert chunks[-1][0] - chunks[0][0] < 3.0
    assert all(after - at >= count / 200 for (at, count), (after, _) in itertools.pairwise(chunks))
    assert world.record.pins[99].vmid == str(FIRST + 99)
    world.connect(*keys)
    world.live(90)  # and one look more at each
    settled = world.now
    world.live(300)
    assert world.requests_since(settled)["/service"] == 5
    assert sum(world.requests_since(settled).values()) <= 5 + 5
