"""Which VMs of the service a SuperLink asks OneGate for, when, and how fast. Pure.

Additive increase, multiplicative decrease (Chiu and Jain, 1989). One look-up follows the other, so
a OneGate that takes longer than the time between two of them does not keep up: that answer is slow,
and the rate is halved before the next. Each other answer adds its part of `GAIN` a second; a
failure sets the rate to the minimum.

No two look-ups are under way at the same time. Many OneGates answer one request after the other
(thin has one thread): a second look-up would only wait there, beside the reports of the VMs.

A settled VM (enrolled and online) costs one look, for what it publishes once it works; then one of
all of them is asked each minute in turn, how it is. One that is not enrolled is asked for every
5 s, for ten minutes; then, and while an enrolled one is away or one says that it is no SuperNode,
seldom. `scale` shortens every wait.
"""

import dataclasses
import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Self

from flower_agent.enrolment.policy import Claim, node_of
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.model.state import Pin
from flower_agent.onegate.discovery import SUPERNODE, Service

UNSETTLED_S = 5.0
SETTLED_S = 60.0
SELDOM_S = 600.0
PATIENCE_S = 600.0
"""Missing facts are requested often for this long, and then rarely."""

ABSENT_ANSWERS = 3
ABSENT_S = 600.0
"""A VM that is missing in so many answers over this time has left the service."""


class Standing(enum.StrEnum):
    """The progress of a VM."""

    UNKNOWN = "unknown"
    """Not enrolled: no key, or a different key than the pinned one."""

    AWAY = "away"
    """Enrolled, and not online now."""

    SETTLED = "settled"
    """Enrolled and online."""

    STRANGE = "strange"
    """No SuperNode, by its own report, which may change after its boot."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lookup:
    """The look-ups of one VM; times are monotonic seconds."""

    standing: Standing
    since: float
    asked_at: float | None = None
    told: bool = False
    """It has published everything: its role and its GPU."""

    def due_at(self, scale: float) -> float:
        """Return the time of the next look-up."""
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
    """Complete answers in a row without a VM."""

    answers: int
    since: float


def standings(
    vmids: Iterable[str],
    pins: Collection[Pin],
    claims: Mapping[str, Claim],
    nodes: Mapping[bytes, NodeInfo],
) -> dict[str, Standing]:
    """Return the progress of each VM of the service."""
    keys = {pin.vmid: pin.key for pin in pins}
    found: dict[str, Standing] = {}
    for vmid in vmids:
        told = claims.get(vmid)
        node = node_of(keys[vmid], nodes) if vmid in keys else None
        changed = told is not None and told.key is not None and told.key != keys.get(vmid)
        if told is not None and told.stranger:
            found[vmid] = Standing.STRANGE
        # A changed key counts only while the node is offline: OneGate may be wrong.
        elif node is None or (changed and node.status is not NodeStatus.ONLINE):
            found[vmid] = Standing.UNKNOWN
        else:
            online = node.status is NodeStatus.ONLINE
            found[vmid] = Standing.SETTLED if online else Standing.AWAY
    return found


def follow(
    looks: Mapping[str, Lookup],
    standing: Mapping[str, Standing],
    now: float,
    told: Collection[str] = (),
) -> dict[str, Lookup]:
    """Return the look-ups of the present VMs; a new standing starts its own time.

    `told` are the VMs that have published everything.
    """
    found: dict[str, Lookup] = {}
    for vmid, state in standing.items():
        before = looks.get(vmid)
        if before is None:
            found[vmid] = Lookup(state, now)
        elif before.standing is state:
            found[vmid] = before
        else:
            found[vmid] = Lookup(state, now, before.asked_at)
    return {vmid: dataclasses.replace(look, told=vmid in told) for vmid, look in found.items()}


def due(looks: Mapping[str, Lookup], now: float, scale: float) -> tuple[str, ...]:
    """Return the VMs to ask for now, the longest waiting first."""
    waiting = [(look.due_at(scale), vmid) for vmid, look in looks.items()]
    return tuple(vmid for at, vmid in sorted(waiting) if at <= now)


def in_turn(looks: Mapping[str, Lookup], troubled: Collection[str]) -> tuple[str, ...]:
    """Return the next settled VMs to ask for their state: two at most.

    The one with the oldest look-up, and the one of the `troubled` with the oldest look-up.
    """
    settled = [
        (look.since if look.asked_at is None else look.asked_at, vmid)
        for vmid, look in looks.items()
        if look.standing is Standing.SETTLED
    ]
    order = [vmid for _, vmid in sorted(settled)]
    again = [vmid for vmid in order if vmid in troubled]
    return tuple(dict.fromkeys(order[:1] + again[:1]))


def unsettled(looks: Mapping[str, Lookup], now: float, scale: float) -> bool:
    """Return whether a VM that is not enrolled may be enrolled soon."""
    limit = now - PATIENCE_S * scale
    unknown = (look for look in looks.values() if look.standing is Standing.UNKNOWN)
    return any(look.since > limit for look in unknown)


def nodes_by_role(service: Service, pinned: Collection[str]) -> frozenset[str]:
    """Return the VMs that are SuperNodes according to OneFlow.

    Their role has the service template's name, or other VMs of the role are enrolled.
    """
    roles = {member.role for member in service.members if member.vmid in pinned}
    roles.add(SUPERNODE)
    return frozenset(member.vmid for member in service.members if member.role in roles)


def missing(service: Service) -> int:
    """Return how many VMs OneFlow still has to deploy."""
    total = sum(service.cardinality(role) for role, _ in service.cardinalities)
    return max(total - len(service.members), 0)


def absences(
    before: Mapping[str, Absence], pinned: Collection[str], listed: Collection[str], now: float
) -> dict[str, Absence]:
    """Return the pinned VMs that are missing, after one more complete answer."""
    found: dict[str, Absence] = {}
    for vmid in pinned:
        if vmid not in listed:
            known = before.get(vmid)
            found[vmid] = Absence(known.answers + 1, known.since) if known else Absence(1, now)
    return found


def gone(absent: Mapping[str, Absence], now: float, scale: float) -> frozenset[str]:
    """Return the VMs that have left the service permanently."""
    return frozenset(
        vmid
        for vmid, absence in absent.items()
        if absence.answers >= ABSENT_ANSWERS and now - absence.since >= ABSENT_S * scale
    )


LEAST = 5.0
MOST = 200.0
FIRST = 20.0
GAIN = 20.0
"""Look-ups a second that a second of good answers adds."""

MOST_AT_ONCE = 50
"""Look-ups before the loop sees what they found: it registers so many keys in one cycle at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """The rate of the next look-up."""

    a_second: float = FIRST

    @property
    def batch(self) -> int:
        """Return how many look-ups follow each other before the loop sees what they found."""
        return min(int(self.a_second), MOST_AT_ONCE)

    def answered(self, taken_s: float) -> Self:
        """Return the rate after an answer that took so long."""
        if taken_s > 1.0 / self.a_second:
            return type(self)(max(self.a_second / 2.0, LEAST))
        return type(self)(min(self.a_second + GAIN / self.a_second, MOST))

    def failed(self) -> Self:
        """Return the rate after a request that OneGate did not answer, or refused."""
        return type(self)(LEAST)

    def pause_s(self, taken_s: float) -> float:
        """Return the seconds until the next look-up, after one that took so long."""
        return max(1.0 / self.a_second - taken_s, 0.0)
