"""The life of a OneFlow service on the sandbox's cloud: which VMs it makes and removes, and when.

Steps as in OpenNebula 7.4, and as a real OneFlow was seen to act: a service that changes scales,
waits for the READY gates of its new VMs, and cools down for as long as the role says, in which it
refuses all changes but `recover`. A role shrinks by its oldest VM; names go on counting. A VM that
is lost lowers its role's cardinality, and the autoscaler brings that back to ``min_vms``, from then
on without a cooldown. Facts: src/flow/lib/{LifeCycleManager,ServiceAutoScaler,ServiceWatchDog}.rb,
src/flow/lib/models/{service,vmrole}.rb.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from oneflow import Refused
from onegate_cloud import Cloud

COOLDOWN_S = 300.0
"""``:default_cooldown:`` of oneflow-server.conf."""

AUTOSCALER_S = 90.0
"""``:autoscaler_interval:`` of it."""


class State(enum.IntEnum):
    """A service's states, as far as they are met here."""

    DEPLOYING = 1
    RUNNING = 2
    DONE = 5
    SCALING = 8
    COOLDOWN = 10


@dataclass(slots=True)
class Role:
    """A role as the service template gives it, and what became of it."""

    name: str
    cardinality: int
    min_vms: int | None = None
    max_vms: int | None = None
    cooldown_s: float = COOLDOWN_S
    made: int = 0
    """VMs so far: the number in the next one's name."""


class Service:
    """One service; `now` is seconds on the caller's clock, which `pass_time` moves on."""

    def __init__(
        self, cloud: Cloud, service_id: int, name: str, roles: Iterable[Role], *, first_vmid: int
    ) -> None:
        self._cloud = cloud
        self.service_id = service_id
        self.roles = {role.name: role for role in roles}
        self.state = State.DEPLOYING
        self._next_vmid = first_vmid
        self._nodes: dict[str, list[int]] = {role: [] for role in self.roles}
        self._cooling: tuple[Role, float] | None = None
        self._scaled: Role | None = None
        self._autoscaler_at = 0.0
        cloud.add_service(service_id, name, [(r.name, r.cardinality) for r in self.roles.values()])
        for role in self.roles.values():
            self._deploy(role)
        self._show()

    def vms(self, role: str) -> tuple[int, ...]:
        """Return the VMs that OneFlow lists for a role, the oldest first."""
        return tuple(self._nodes[role])

    def scale(self, role: str, cardinality: int, now: float, *, force: bool = False) -> None:
        """Do what ``oneflow scale`` does. Raises Refused."""
        if self.state is not State.RUNNING:
            raise Refused(f"Service cannot be scaled in state: {self.state.name}")
        if role not in self.roles:
            raise Refused(f"Role {role} not found")
        found = self.roles[role]
        if trouble := "" if force else _beyond(found, cardinality):
            raise Refused(f"Can't scale service {self.service_id}: {trouble}")
        before, found.cardinality = found.cardinality, cardinality
        if cardinality == before:
            raise Refused(f"Cardinality of {role} is already at {cardinality}")
        self.state, self._scaled = State.SCALING, found
        while len(self._nodes[role]) > cardinality:
            self._remove(role, self._nodes[role][0])
        if cardinality > before:
            self._deploy(found)
        self.pass_time(now)

    def recover(self, now: float, *, delete: bool = False) -> None:
        """Do what ``oneflow recover`` does, with ``--delete`` or without. Raises Refused."""
        if delete:
            self._undeploy()
        elif self.state is State.COOLDOWN:
            self.state, self._cooling = State.RUNNING, None
        elif self.state is State.RUNNING:
            raise Refused(f"Service cannot be recovered in state: {self.state.name}")
        self.pass_time(now)

    def delete(self) -> None:
        """Do what ``oneflow delete`` does. Raises Refused."""
        if self.state is not State.RUNNING:
            raise Refused(f"Service cannot be undeployed in state: {self.state.name}")
        self._undeploy()

    def terminate(self, vmid: int) -> None:
        """Lose a VM, as by ``onevm terminate --hard``; OneFlow learns of it when it looks."""
        self._cloud.remove_vm(vmid)

    def pass_time(self, now: float) -> None:
        """Let OneFlow do what it does by itself until `now`."""
        if self.state in (State.DEPLOYING, State.SCALING) and self._gates_open():
            self._cool(now)
        if self._cooling is not None and now >= self._cooling[1]:
            self.state, self._cooling = State.RUNNING, None
        if self.state is State.RUNNING:
            self._watch()
            if now >= self._autoscaler_at:
                self._autoscaler_at = now + AUTOSCALER_S
                self._heal(now)
        self._show()

    def _cool(self, now: float) -> None:
        """Begin the cooldown of a change; a first deployment has none."""
        scaled, self._scaled = self._scaled, None
        if scaled is None:
            self.state = State.RUNNING
            self._autoscaler_at = now + AUTOSCALER_S
            return
        self.state, self._cooling = State.COOLDOWN, (scaled, now + scaled.cooldown_s)

    def _heal(self, now: float) -> None:
        """Scale the first role that is below its least up to that: one at a time."""
        for role in self.roles.values():
            if role.cardinality < (role.min_vms or 0):
                role.cooldown_s = 0.0
                self.scale(role.name, role.min_vms or 0, now)
                return

    def _watch(self) -> None:
        """Take the VMs that are gone out of their roles, and the cardinality with them."""
        alive = {machine.vmid for machine in self._cloud.machines()}
        for name, nodes in self._nodes.items():
            lost = [vmid for vmid in nodes if vmid not in alive]
            self._nodes[name] = [vmid for vmid in nodes if vmid in alive]
            self.roles[name].cardinality -= len(lost)

    def _gates_open(self) -> bool:
        alive = {machine.vmid for machine in self._cloud.machines()}
        nodes = [vmid for each in self._nodes.values() for vmid in each if vmid in alive]
        return all(self._cloud.gate_open(vmid) for vmid in nodes)

    def _deploy(self, role: Role) -> None:
        while len(self._nodes[role.name]) < role.cardinality:
            name = f"{role.name}_{role.made}_(service_{self.service_id})"
            self._cloud.add_vm(self._next_vmid, name, role.name, self.service_id)
            self._nodes[role.name].append(self._next_vmid)
            role.made += 1
            self._next_vmid += 1

    def _remove(self, role: str, vmid: int) -> None:
        self._nodes[role].remove(vmid)
        if vmid in {machine.vmid for machine in self._cloud.machines()}:
            self._cloud.remove_vm(vmid)

    def _undeploy(self) -> None:
        for role, nodes in self._nodes.items():
            for vmid in tuple(nodes):
                self._remove(role, vmid)
        self.state, self._cooling = State.DONE, None

    def _show(self) -> None:
        """Let OneGate show the cardinalities as OneFlow has them, and its state."""
        for role in self.roles.values():
            self._cloud.scale(self.service_id, role.name, role.cardinality)
        self._cloud.set_state(self.service_id, int(self.state))


def _beyond(role: Role, cardinality: int) -> str:
    """Return why a role may not have so many VMs."""
    if cardinality < (role.min_vms or 0):
        return f"Minimum cardinality is {role.min_vms}"
    if role.max_vms is not None and cardinality > role.max_vms:
        return f"Maximum cardinality is {role.max_vms}"
    return ""
