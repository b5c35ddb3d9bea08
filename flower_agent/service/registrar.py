"""A SuperLink's watch over its service: which VMs there are, what keys they publish.

Looks run as errands beside the loop. Requests are few (`lookups`): one ``/service`` every 5 s while
a VM is not enrolled, else every 60 s; one ``/vms/ID`` for each VM not settled, at most 20 a second,
and for one of the settled ones each minute, in turn.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Collection, Mapping

import structlog

from flower_agent.errands import Errands
from flower_agent.errors import AgentError
from flower_agent.probes.control import NodeInfo

from . import attendance, discovery, enrolment, lookups
from .discovery import Service
from .enrolment import Claim, Pin
from .lookups import Absence, Look, Standing
from .onegate import OneGate

A_SECOND = 20
"""Look-ups of VMs that OneGate is asked for at most."""

RETRY_S = (5.0, 15.0)
_SERVICE = "onegate-watch"
_KEYS = "onegate-keys"

log = structlog.get_logger()


class Registrar:
    """What is known of the service; every method returns at once."""

    def __init__(
        self,
        errands: Errands,
        *,
        rng: random.Random,
        scale: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._errands = errands
        self._random = rng
        self._scale = scale
        self._sleep = sleep
        self._service: Service | None = None
        self._vmid: str | None = None
        self._asked_at = float("-inf")
        self._not_before = float("-inf")
        self._missing_since: float | None = None
        self._fresh: set[str] | None = None
        self._looks: dict[str, Look] = {}
        self._turn_at = float("inf")
        self._absent: dict[str, Absence] = {}
        self.claims: dict[str, Claim] = {}
        """What each VM published when it was last asked for."""

        self.in_service: bool | None = None
        """As OneGate says; None before its first answer."""

        self.trouble: AgentError | None = None
        """Why the last look failed."""

    def begin(self, client: OneGate, now: float) -> None:
        """Take what errands brought, and ask for the service when it is due."""
        self._take(now, client.access.vmid)
        if now < max(self._asked_at + self._period_s(now), self._not_before):
            return
        if self._errands.start(_SERVICE, lambda: discovery.parse_service(client.service())):
            self._asked_at = now

    def watch(
        self, client: OneGate, pins: Collection[Pin], nodes: Mapping[bytes, NodeInfo], now: float
    ) -> None:
        """Go on with the watch: ask for the VMs that are due. `nodes` are by public key."""
        self.begin(client, now)
        pinned = {pin.vmid for pin in pins}
        if self._fresh is not None:
            listed, self._fresh = self._fresh, None
            self._absent = lookups.absences(self._absent, pinned, listed, now)
        standing = lookups.standings(self._others(), pins, self.claims, nodes)
        told = {c.vmid for c in self.claims.values() if c.gpu}
        self._looks = lookups.follow(self._looks, standing, now, told)
        due = lookups.due(self._looks, now, self._scale)[:A_SECOND] or self._in_turn(now)
        if not due or now < self._not_before or self._errands.running(_KEYS):
            return
        pause_s, sleep = 1.0 / A_SECOND, self._sleep
        nodes_here = lookups.nodes_by_role(self._service, pinned) if self._service else frozenset()
        self._errands.start(_KEYS, lambda: ask(client, due, pause_s, sleep, nodes_here))

    def gone(self, now: float) -> frozenset[str]:
        """Return the pinned VMs that have left the service for good."""
        return lookups.gone(self._absent, now, self._scale)

    @property
    def members(self) -> frozenset[str] | None:
        """The other VMs of the service; None while that is not known."""
        return frozenset(self._others()) if self._service is not None else None

    def wait_s(self, now: float) -> float:
        """Return the seconds until something is due."""
        dues = [self._asked_at + self._period_s(now)]
        if not self._errands.running(_KEYS):
            dues += [look.due_at(self._scale) for look in self._looks.values()]
            dues.append(self._turn_at)
        return max(min(dues), self._not_before) - now

    def counts(self) -> tuple[int, int]:
        """Return how many VMs are enrolled, and how many VMs may be SuperNodes."""
        strangers = {c.vmid for c in self.claims.values() if c.stranger}
        nodes = [look for vmid, look in self._looks.items() if vmid not in strangers]
        return sum(look.standing is not Standing.UNKNOWN for look in nodes), len(nodes)

    def _in_turn(self, now: float) -> tuple[str, ...]:
        """Return settled VMs to ask how they are, once a minute."""
        troubled = {c.vmid for c in self.claims.values() if c.state in attendance.TROUBLED}
        asked = lookups.in_turn(self._looks, troubled)
        if not asked:
            self._turn_at = float("inf")
        elif self._turn_at == float("inf"):
            self._turn_at = now + lookups.SETTLED_S * self._scale
        elif now >= self._turn_at and not self._errands.running(_KEYS):
            self._turn_at = now + lookups.SETTLED_S * self._scale
            return asked
        return ()

    def _take(self, now: float, own_vmid: str) -> None:
        done = self._errands.take(_SERVICE)
        if done is not None:
            alone = done.error is not None and done.error.finding.code == "onegate.no_service"
            self._note(None if alone else done.error, now)
            if done.error is None or alone:
                self.in_service = self.in_service is True or not alone
            else:
                self._asked_at = float("-inf")  # again after a pause
            service: Service | None = done.value
            if service is not None and service.member(own_vmid) is not None:  # a complete answer
                self._service, self._vmid = service, own_vmid
                self._fresh = {member.vmid for member in service.members}
                if not lookups.missing(service):
                    self._missing_since = None
                elif self._missing_since is None:
                    self._missing_since = now
        done = self._errands.take(_KEYS)
        if done is not None:
            claims, asked, error = done.value if done.error is None else ((), (), done.error)
            self._note(error, now)
            self.claims |= {found.vmid: found for found in claims}
            for vmid in self._looks.keys() & asked:
                self._looks[vmid] = dataclasses.replace(self._looks[vmid], asked_at=now)

    def _note(self, error: AgentError | None, now: float) -> None:
        if error is not None:
            self._not_before = now + self._random.uniform(*RETRY_S) * self._scale
            if self.trouble is None or self.trouble.finding.code != error.finding.code:
                log.info("enrol.trouble", code=error.finding.code, message=error.finding.message)
        self.trouble = error

    def _others(self) -> tuple[str, ...]:
        members = self._service.members if self._service else ()
        return tuple(member.vmid for member in members if member.vmid != self._vmid)

    def _period_s(self, now: float) -> float:
        if self.in_service is False:
            return lookups.SELDOM_S * self._scale
        limit = now - lookups.PATIENCE_S * self._scale
        awaited = self._missing_since is not None and self._missing_since > limit
        often = awaited or lookups.unsettled(self._looks, now, self._scale)
        return (lookups.UNSETTLED_S if often else lookups.SETTLED_S) * self._scale


def ask(
    client: OneGate,
    vmids: Collection[str],
    pause_s: float,
    sleep: Callable[[float], None],
    nodes: Collection[str] = (),
) -> tuple[tuple[Claim, ...], tuple[str, ...], AgentError | None]:
    """Return what the VMs publish, which were asked for, and what ended the look early.

    `nodes` are the VMs that OneFlow calls SuperNodes. A VM that has left the service meanwhile
    publishes nothing.
    """
    found: list[Claim] = []
    asked: list[str] = []
    for vmid in vmids:
        asked.append(vmid)
        try:
            found.append(_claim(client, vmid, nodes))
        except AgentError as error:
            if "does not contain" not in error.finding.message:
                return tuple(found), tuple(asked), error
            found.append(Claim(vmid))
        sleep(pause_s)
    return tuple(found), tuple(asked), None


def _claim(client: OneGate, vmid: str, nodes: Collection[str]) -> Claim:
    return enrolment.claim(discovery.parse_vm(client.vm(vmid)), is_node=vmid in nodes)
