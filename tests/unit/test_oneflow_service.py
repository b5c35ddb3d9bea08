"""The stand-in for OneFlow makes and removes a service's VMs as the real one was seen to do."""

import onegate_cloud
import pytest
from oneflow import Refused
from oneflow_service import AUTOSCALER_S, COOLDOWN_S, Role, Service, State
from onegate_cloud import APPEND, Cloud

SERVICE = 7


class Flow:
    """A service of one SuperLink and two SuperNodes, whose VMs are ready at once."""

    def __init__(self, **supernode):
        self.cloud, self.now = Cloud(), 1000.0
        link = Role("superlink", 1, min_vms=1, max_vms=1)
        nodes = Role("supernode", 2, **{"min_vms": 1, "max_vms": 9, **supernode})
        self.service = Service(self.cloud, SERVICE, "flower", (link, nodes), first_vmid=41)
        assert self.service.state is State.DEPLOYING
        self.live(0)

    def live(self, seconds):
        """Let time pass; each VM opens its gate."""
        self.now += seconds
        for machine in self.cloud.machines():
            self.cloud.update(machine, "READY=YES", APPEND)
        self.service.pass_time(self.now)

    def scale(self, cardinality, role="supernode"):
        self.service.scale(role, cardinality, self.now)

    def names(self, role="supernode"):
        named = {machine.vmid: machine.name for machine in self.cloud.machines()}
        return [named[vmid].removesuffix("_(service_7)") for vmid in self.service.vms(role)]

    def document(self):
        """Return what OneGate shows of the service."""
        machine = self.cloud.machines()[0]
        return self.cloud.service(machine, extended=False)["SERVICE"]


def test_a_service_that_shrinks_loses_its_oldest_vm():
    flow = Flow()
    assert flow.names() == ["supernode_0", "supernode_1"]
    flow.scale(1)
    assert flow.names() == ["supernode_1"]
    assert [machine.vmid for machine in flow.cloud.machines()] == [41, 43]


def test_names_go_on_counting_when_it_grows_again():
    flow = Flow()
    flow.scale(1)
    flow.live(COOLDOWN_S)
    flow.scale(3)
    assert flow.names() == ["supernode_1", "supernode_2", "supernode_3"]
    (role,) = (role for role in flow.document()["roles"] if role["name"] == "supernode")
    assert role["cardinality"] == 3


def test_a_change_puts_the_whole_service_into_cooldown_in_which_it_refuses_others():
    flow = Flow()
    flow.scale(3)
    assert flow.service.state is State.SCALING, "it waits for the READY gate"
    flow.live(1)
    assert (flow.service.state, flow.document()["state"]) == (State.COOLDOWN, 10)
    for refused in (lambda: flow.scale(4), lambda: flow.scale(2), flow.service.delete):
        with pytest.raises(Refused, match="in state: COOLDOWN"):
            refused()
    flow.live(COOLDOWN_S - 1)
    assert flow.service.state is State.COOLDOWN
    flow.live(1)
    assert (flow.service.state, flow.document()["state"]) == (State.RUNNING, 2)
    flow.scale(4)


def test_recover_ends_a_cooldown_and_is_refused_while_it_runs():
    flow = Flow()
    with pytest.raises(Refused, match="cannot be recovered in state: RUNNING"):
        flow.service.recover(flow.now)
    flow.scale(1)
    assert flow.service.state is State.COOLDOWN
    flow.service.recover(flow.now)
    assert flow.service.state is State.RUNNING
    flow.service.delete()
    assert flow.cloud.machines() == ()


def test_recover_delete_ends_a_service_in_any_state():
    flow = Flow()
    flow.scale(3)
    flow.service.recover(flow.now, delete=True)
    assert (flow.service.state, flow.cloud.machines()) == (State.DONE, ())


def test_a_lost_superlink_is_replaced_by_another_vm_within_the_autoscalers_time():
    flow = Flow()
    flow.service.terminate(41)
    flow.live(1)
    assert flow.names("superlink") == []
    flow.live(AUTOSCALER_S)
    assert flow.names("superlink") == ["superlink_1"]
    assert flow.service.vms("superlink") == (44,)
    assert flow.service.state is State.SCALING
    flow.live(1)
    assert flow.service.state is State.RUNNING, "without a cooldown"


def test_a_lost_node_is_not_replaced_while_there_are_as_many_as_there_must_be():
    flow = Flow()
    flow.service.terminate(42)
    flow.live(2 * AUTOSCALER_S)
    assert flow.names() == ["supernode_1"]
    flow.service.terminate(43)
    flow.live(2 * AUTOSCALER_S)
    assert flow.names() == ["supernode_2"]


def test_a_vm_that_is_lost_in_a_cooldown_is_seen_when_that_is_over():
    flow = Flow()
    flow.scale(3)
    flow.live(1)
    flow.service.terminate(41)
    flow.live(COOLDOWN_S / 2)
    assert flow.service.vms("superlink") == (41,)
    flow.live(COOLDOWN_S / 2)
    flow.live(AUTOSCALER_S)
    assert flow.names("superlink") == ["superlink_1"]


@pytest.mark.parametrize(
    ("role", "cardinality", "why"),
    [
        ("supernode", 0, "Can't scale service 7: Minimum cardinality is 1"),
        ("supernode", 10, "Can't scale service 7: Maximum cardinality is 9"),
        ("supernode", 2, "Cardinality of supernode is already at 2"),
        ("web", 2, "Role web not found"),
    ],
)
def test_what_a_role_may_not_have_is_refused_with_words(role, cardinality, why):
    flow = Flow()
    with pytest.raises(Refused, match=why):
        flow.scale(cardinality, role)
    assert flow.service.state is State.RUNNING
    assert len(flow.names()) == 2


def test_a_vm_of_a_service_that_cools_down_cannot_scale_it_either():
    flow = Flow()
    machine = flow.cloud.machines()[0]
    flow.scale(3)
    flow.live(1)
    with pytest.raises(onegate_cloud.Refused) as caught:
        flow.cloud.asked_to_scale(machine, "supernode", 4)
    assert caught.value.status == 400
    flow.service.recover(flow.now)
    flow.cloud.asked_to_scale(machine, "supernode", 4)
