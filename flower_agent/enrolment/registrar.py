"""A SuperLink's view of its service: its VMs and their published keys.

Requests run in the background and are few (`lookups`): one ``/service`` every 5 s while a VM is not
enrolled, else every 60 s; one ``/vms/ID`` for each VM that is not settled, as fast as OneGate
answers (`lookups.Rate`); and each minute one settled VM in turn.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Collection, Mapping

import structlog

from flower_agent.background import AT_ONCE, Background, Threads
from flower_agent.enrolment import expected_nodes, lookups, policy
from flower_agent.enrolment.lookups import Absence, Lookup, Rate, Standing
from flower_agent.enrolment.policy import Claim
from flower_agent.flower.control_messages import NodeInfo
from flower_agent.model.errors import AgentError, NoServiceError, OneGateError
from flower_agent.model.state import Pin
from flower_agent.onegate import discovery
from flower_agent.onegate.client import OneGate
from flower_agent.onegate.discovery import Service

log = structlog.get_logger()

RETRY_S = (5.0, 15.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """The result of some look-ups."""

    claims: tuple[Claim, ...]
    rate: Rate
    """Of the next look-up."""


class InterruptedLookError(OneGateError):
    """OneGate failed after some VMs; the result so far is in `known`."""

    def __init__(self, error: AgentError, known: "Known", asked: Collection[str]) -> None:
        found = error.finding
        super().__init__(found.code, found.message, found.hint, retryable=error.retryable)
        self.known = known
        self.asked = tuple(asked)


class Registrar:
    """The known state of the service; every method returns at once."""

    def __init__(
        self,
        threads: Threads,
        *,
        rng: random.Random,
        scale: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def pause(error: AgentError | None, _: int) -> float:
            fails = error is not None and not _alone(error)
            return rng.uniform(*RETRY_S) * scale if fails else 0.0

        self._listing: Background[str, Service] = Background(threads, "onegate-watch", pause)
        self._looking: Background[str, Known] = Background(threads, "onegate-keys", pause)
        self._rate = Rate()
        self._scale = scale
        self._sleep, self._clock = sleep, clock
        self._service: Service | None = None
        self._vmid: str | None = None
        self._missing_since: float | None = None
        self._fresh: set[str] | None = None
        self._looks: dict[str, Lookup] = {}
        self._turn_at = float("inf")
        self._absent: dict[str, Absence] = {}
        self.claims: dict[str, Claim] = {}
        """The published values of each VM at its last look-up."""

        self.in_service: bool | None = None
        """OneGate's answer; None before the first one."""

        self.trouble: AgentError | None = None
        """Why the last request failed."""

    def begin(self, client: OneGate, now: float) -> None:
        """Take OneGate's answers, and ask for the service if it is time."""
        own = client.access.vmid
        self._take(now, own)
        if now >= self._list_at(now):
            self._listing.start(own, lambda: discovery.parse_service(client.service()), now)

    def watch(
        self, client: OneGate, pins: Collection[Pin], nodes: Mapping[bytes, NodeInfo], now: float
    ) -> None:
        """Ask for the VMs that are due. `nodes` are by public key."""
        self.begin(client, now)
        pinned = {pin.vmid for pin in pins}
        if self._fresh is not None:
            listed, self._fresh = self._fresh, None
            self._absent = lookups.absences(self._absent, pinned, listed, now)
        standing = lookups.standings(self._others(), pins, self.claims, nodes)
        told = {c.vmid for c in self.claims.values() if c.gpu}
        self._looks = lookups.follow(self._looks, standing, now, told)
        waiting = lookups.due(self._looks, now, self._scale)
        due = waiting[: self._rate.batch] or self._in_turn(now)
        if not due or now < self._not_before():
            return
        rate, sleep, clock = self._rate, self._sleep, self._clock
        nodes_here = lookups.nodes_by_role(self._service, pinned) if self._service else frozenset()
        self._looking.start(
            client.access.vmid,
            lambda: ask(client, due, rate, nodes_here, sleep=sleep, clock=clock),
            now,
        )

    def gone(self, now: float) -> frozenset[str]:
        """Return the pinned VMs that have left the service permanently."""
        return lookups.gone(self._absent, now, self._scale)

    @property
    def members(self) -> frozenset[str] | None:
        """The other VMs of the service; None while that is not known."""
        return frozenset(self._others()) if self._service is not None else None

    @property
    def names(self) -> Mapping[str, str]:
        """The name of each VM of the service as OpenNebula has it, by VMID."""
        return {m.vmid: m.name for m in self._service.members} if self._service else {}

    def growing(self, now: float) -> bool:
        """Return whether VMs are awaited: to be deployed by OneFlow, or to be enrolled."""
        limit = now - lookups.PATIENCE_S * self._scale
        awaited = self._missing_since is not None and self._missing_since > limit
        return awaited or lookups.unsettled(self._looks, now, self._scale)

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next request."""
        dues = [self._list_at(now)]
        if not self._looking.running:
            dues += [look.due_at(self._scale) for look in self._looks.values()]
            dues.append(self._turn_at)
        return max(min(dues), self._not_before()) - now

    def counts(self) -> tuple[int, int]:
        """Return how many VMs are enrolled, and how many VMs may be SuperNodes."""
        strangers = {c.vmid for c in self.claims.values() if c.stranger}
        nodes = [look for vmid, look in self._looks.items() if vmid not in strangers]
        return sum(look.standing is not Standing.UNKNOWN for look in nodes), len(nodes)

    def _in_turn(self, now: float) -> tuple[str, ...]:
        """Return settled VMs to ask how they are, once a minute."""
        troubled = {c.vmid for c in self.claims.values() if c.state in expected_nodes.TROUBLED}
        asked = lookups.in_turn(self._looks, troubled)
        if not asked:
            self._turn_at = float("inf")
        elif self._turn_at == float("inf"):
            self._turn_at = now + lookups.SETTLED_S * self._scale
        elif now >= self._turn_at and not self._looking.running:
            self._turn_at = now + lookups.SETTLED_S * self._scale
            return asked
        return ()

    def _take(self, now: float, own_vmid: str) -> None:
        if (listed := self._listing.take(own_vmid, now)) is not None:
            alone = listed.error is not None and _alone(listed.error)
            self._note(None if alone else listed.error)
            if listed.error is None or alone:
                self.in_service = self.in_service is True or not alone
            service = listed.answer
            # An answer without this VM is incomplete: it must not count others as gone.
            if service is not None and service.member(own_vmid) is not None:
                self._service, self._vmid = service, own_vmid
                self._fresh = {member.vmid for member in service.members}
                if not lookups.missing(service):
                    self._missing_since = None
                elif self._missing_since is None:
                    self._missing_since = now
        if (looked := self._looking.take(own_vmid, now)) is not None:
            self._note(looked.error)
            cut = looked.error if isinstance(looked.error, InterruptedLookError) else None
            known = cut.known if cut else looked.answer
            claims = known.claims if known else ()
            # A failure in between keeps the claims of the VMs before it.
            self._rate = known.rate if known else self._rate.failed()
            asked = cut.asked if cut else tuple(claim.vmid for claim in claims)
            self.claims |= {found.vmid: found for found in claims}
            for vmid in self._looks.keys() & asked:
                self._looks[vmid] = dataclasses.replace(self._looks[vmid], asked_at=now)

    def _note(self, error: AgentError | None) -> None:
        before, self.trouble = self.trouble, error
        if error is not None:
            found = error.finding
            if before is None or before.finding.code != found.code:
                log.info("enrol.trouble", code=found.code, message=found.message)

    def _list_at(self, now: float) -> float:
        """Return the time of the next request for the service: regular, or soon after a failure."""
        error, rest = self._listing.error, self._not_before()
        if error is not None and not _alone(error):
            return rest
        return max(self._listing.began_at + self._period_s(now), rest)

    def _not_before(self) -> float:
        """Return the end of the pause after a failure of OneGate."""
        failed = [b for b in (self._listing, self._looking) if b.error and not _alone(b.error)]
        return max((each.due_at for each in failed), default=AT_ONCE)

    def _others(self) -> tuple[str, ...]:
        members = self._service.members if self._service else ()
        return tuple(member.vmid for member in members if member.vmid != self._vmid)

    def _period_s(self, now: float) -> float:
        if self.in_service is False:
            return lookups.SELDOM_S * self._scale
        return (lookups.UNSETTLED_S if self.growing(now) else lookups.SETTLED_S) * self._scale


def ask(
    client: OneGate,
    vmids: Collection[str],
    rate: Rate,
    nodes: Collection[str] = (),
    *,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> Known:
    """Return the published values of the VMs. Raises `InterruptedLookError` if OneGate fails.

    `nodes` are SuperNodes according to OneFlow. A VM that has left the service meanwhile publishes
    nothing.
    """
    found: list[Claim] = []
    asked: list[str] = []
    for vmid in vmids:
        asked.append(vmid)
        begun = clock()
        try:
            found.append(_claim(client, vmid, nodes))
        except AgentError as error:
            if "does not contain" not in error.finding.message:
                known = Known(tuple(found), rate.failed())
                raise InterruptedLookError(error, known, asked) from error
            found.append(Claim(vmid))
        taken_s = clock() - begun
        rate = rate.answered(taken_s)
        sleep(rate.pause_s(taken_s))
    return Known(tuple(found), rate)


def _claim(client: OneGate, vmid: str, nodes: Collection[str]) -> Claim:
    return policy.claim(discovery.parse_vm(client.vm(vmid)), is_node=vmid in nodes)


def _alone(error: AgentError) -> bool:
    """Return whether OneGate says that this VM is in no service, which is no failure."""
    return isinstance(error, NoServiceError)
