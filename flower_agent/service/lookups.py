"""Which VMs of the service a SuperLink asks OneGate for, and when. Pure.

A settled VM (enrolled and online) costs one look, for what it publishes once it works; then one of
all of them is asked each minute in turn, how it is. One that is not enrolled is asked for every
5 s, for ten minutes; then, and while an enrolled one is away or one says that it is no SuperNode,
seldom. `scale` shortens every wait.
"""

import dataclasses
import enum
from collections.abc import Collection, Iterable, Mapping

from flower_agent.probes.control import NodeInfo, NodeStatus

from .discovery import SUPERNODE, Service
from .enrolment import Claim, Pin, node_of

UNSETTLED_S = 5.0
SETTLED_S = 60.0
SELDOM_S = 600.0
PATIENCE_S = 600.0
"""So long something that is missing is looked for often."""

ABSENT_ANSWERS = 3
ABSENT_S = 600.0
"""A VM that so many answers in so long a time do not list has left the service."""


class Standing(enum.StrEnum):
    """How far a VM has come."""

    UNKNOWN = "unknown"
    """Not enrolled: no key, or another than the pinned one."""

    AWAY = "away"
    """Enrolled, and not online now."""

    SETTLED = "settled"
    """Enrolled and online."""

    STRANGE = "strange"
    """No SuperNode, as it says; it may say otherwise once it has booted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What is known of the looks at one VM; times are monotonic seconds."""

    standing: Standing
    since: float
    asked_at: float | None = None
    told: bool = False
    """It has said all that it will: what it is, and its GPU."""

    def due_at(self, scale: float) -> float:
        """Return when it may be asked for next."""
        if self.standing is Standing.SETTLED:
            asked = self.asked_at is not None and self.asked_at > self.since
            return float("inf") if asked or self.told else self.since + SETTLED_S * scale
        if self.asked_at is None:
            return self.since
        patient = self.asked_at >= self.since + PATIENCE_S * scale
        soon, late = (
            (UNSETTLED_S, SETTLED_S) if self.standing is Standing.UNKNOWN else (SETTLED_S, SELDOM_S)
        )
        return self.asked_at + (late if patient else soon) * scale


@dataclasses.dataclass(frozen=True, slots=True)
class Absence:
    """Complete answers in a row that did not list a VM."""

    answers: int
    since: float


def standings(
    vmids: Iterable[str],
    pins: Collection[Pin],
    claims: Mapping[str, Claim],
    nodes: Mapping[bytes, NodeInfo],
) -> dict[str, Standing]:
    """Return how far each VM of the service has come."""
    keys = {pin.vmid: pin.key for pin in pins}
    found: dict[str, Standing] = {}
    for vmid in vmids:
        told = claims.get(vmid)
        node = node_of(keys[vmid], nodes) if vmid in keys else None
        changed = told is not None and told.key is not None and told.key != keys.get(vmid)
        if told is not None and told.stranger:
            found[vmid] = Standing.STRANGE
        elif node is None or (changed and node.status is not NodeStatus.ONLINE):
            found[vmid] = Standing.UNKNOWN
        else:
            online = node.status is NodeStatus.ONLINE
            found[vmid] = Standing.SETTLED if online else Standing.AWAY
    return found


def follow(
    looks: Mapping[str, Look],
    standing: Mapping[str, Standing],
    now: float,
    told: Collection[str] = (),
) -> dict[str, Look]:
    """Return the looks at the VMs that there are now; a new standing begins its own time.

    `told` are the VMs that have said all that they will.
    """
    found: dict[str, Look] = {}
    for vmid, state in standing.items():
        before = looks.get(vmid)
        if before is None:
            found[vmid] = Look(state, now)
        elif before.standing is state:
            found[vmid] = before
        else:
            found[vmid] = Look(state, now, before.asked_at)
    return {vmid: dataclasses.replace(look, told=vmid in told) for vmid, look in found.items()}


def due(looks: Mapping[str, Look], now: float, scale: float) -> tuple[str, ...]:
    """Return the VMs to ask for now, the longest waiting first."""
    waiting = [(look.due_at(scale), vmid) for vmid, look in looks.items()]
    return tuple(vmid for at, vmid in sorted(waiting) if at <= now)


def in_turn(looks: Mapping[str, Look], troubled: Collection[str]) -> tuple[str, ...]:
    """Return the settled VMs to ask next how they are, however many there are.

    The one that was not asked for longest, and the one of the `troubled`.
    """
    settled = [
        (look.since if look.asked_at is None else look.asked_at, vmid)
        for vmid, look in looks.items()
        if look.standing is Standing.SETTLED
    ]
    order = [vmid for _, vmid in sorted(settled)]
    again = [vmid for vmid in order if vmid in troubled]
    return tuple(dict.fromkeys(order[:1] + again[:1]))


def unsettled(looks: Mapping[str, Look], now: float, scale: float) -> bool:
    """Tell whether a VM is not enrolled that may well be soon."""
    limit = now - PATIENCE_S * scale
    unknown = (look for look in looks.values() if look.standing is Standing.UNKNOWN)
    return any(look.since > limit for look in unknown)


def nodes_by_role(service: Service, pinned: Collection[str]) -> frozenset[str]:
    """Return the VMs that are SuperNodes by OneFlow's word.

    Its role has the name that the service template gives, or others of its role are enrolled.
    """
    roles = {member.role for member in service.members if member.vmid in pinned}
    roles.add(SUPERNODE)
    return frozenset(member.vmid for member in service.members if member.role in roles)


def missing(service: Service) -> int:
    """Return how many VMs OneFlow has still to deploy."""
    total = sum(service.cardinality(role) for role, _ in service.cardinalities)
    return max(total - len(service.members), 0)


def absences(
    before: Mapping[str, Absence], pinned: Collection[str], listed: Collection[str], now: float
) -> dict[str, Absence]:
    """Return the pinned VMs that are not listed, after one more complete answer."""
    found: dict[str, Absence] = {}
    for vmid in pinned:
        if vmid not in listed:
            known = before.get(vmid)
            found[vmid] = Absence(known.answers + 1, known.since) if known else Absence(1, now)
    return found


def gone(absent: Mapping[str, Absence], now: float, scale: float) -> frozenset[str]:
    """Return the VMs that have left the service for good."""
    return frozenset(
        vmid
        for vmid, absence in absent.items()
        if absence.answers >= ABSENT_ANSWERS and now - absence.since >= ABSENT_S * scale
    )
