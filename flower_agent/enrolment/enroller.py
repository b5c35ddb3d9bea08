"""A SuperLink's enrolment: whether nodes need keys, and the registration of the keys.

Joins the view of `registrar`, the decisions of `policy`, and the Control API. A failure here
never changes the SuperLink's own state, which depends on no SuperNode.
"""

import dataclasses
from collections.abc import Collection, Mapping

import structlog

from flower_agent.config.settings import Settings
from flower_agent.cycle import Cycle
from flower_agent.enrolment import policy
from flower_agent.enrolment.policy import Claim, KeyAction, KeyStep
from flower_agent.enrolment.registrar import Registrar
from flower_agent.flower.control_client import Control
from flower_agent.flower.control_messages import NodeInfo
from flower_agent.model import pem
from flower_agent.model.errors import (
    AgentError,
    ControlRefusedError,
    Finding,
    StillSearchingError,
    warning,
)
from flower_agent.model.record import Entry, Event, Result
from flower_agent.model.status import Mark

log = structlog.get_logger()

CALL_TIMEOUT_S = 3.0
ANSWER_S = 3.0
"""A first start waits this long for OneGate's answer whether there is a service."""

REFUSED_FOR_S = 60.0
"""A key that Flower refused is tried again after this time."""

_EVENTS = {KeyAction.REGISTER: "enrol.registered", KeyAction.UNREGISTER: "enrol.unregistered"}
_RECORDED = {
    KeyAction.REGISTER: Event.KEY_REGISTERED,
    KeyAction.UNREGISTER: Event.KEY_UNREGISTERED,
}


class Enroller:
    """Registers the SuperNodes of one SuperLink."""

    def __init__(self, registrar: Registrar, *, scale: float = 1.0) -> None:
        self._registrar = registrar
        self._scale = scale
        self._asked_at: float | None = None
        self._refused: dict[str, tuple[Finding, float]] = {}

    def wants_keys(self, cycle: Cycle) -> bool:
        """Return whether SuperNodes need keys: as set, else in a service or if keys are set.

        Raises AgentError ``discover.waiting`` for a moment, until OneGate has said whether there
        is a service. Where it says nothing there is one: a SuperLink that then turns out to be
        alone had let nobody in, while the other way round it had let in anybody.
        """
        settings = cycle.seen.settings
        fixed = _fixed(settings)
        if fixed is not None:
            return fixed
        if cycle.seen.client is None:
            return cycle.state.in_service is True  # the token may be missing only for a while
        self._registrar.begin(cycle.seen.client, cycle.seen.monotonic)
        if cycle.state.in_service is None:
            cycle.state = dataclasses.replace(cycle.state, in_service=self._registrar.in_service)
        if cycle.state.in_service is not None:
            return cycle.state.in_service
        self._asked_at = cycle.seen.monotonic if self._asked_at is None else self._asked_at
        if cycle.seen.monotonic < self._asked_at + ANSWER_S * self._scale:
            raise StillSearchingError(
                "discover.waiting",
                "the agent asks OneGate whether there is a service",
                retryable=True,
            )
        return True

    @property
    def claims(self) -> Mapping[str, Claim]:
        """The last published values of each VM of the service, by VMID."""
        return self._registrar.claims

    @property
    def members(self) -> frozenset[str] | None:
        """The other VMs of the service; None while that is not known."""
        return self._registrar.members

    @property
    def names(self) -> Mapping[str, str]:
        """The name of each VM of the service, by VMID."""
        return self._registrar.names

    def gone(self, now: float) -> frozenset[str]:
        """Return the enrolled VMs that have left the service for good."""
        return self._registrar.gone(now)

    def growing(self, now: float) -> bool:
        """Return whether VMs of the service are still to come."""
        return self._registrar.growing(now)

    @property
    def expected(self) -> int:
        """Number of VMs of the service that may be SuperNodes; 0 if they need no key."""
        return self._registrar.counts()[1]

    def enrol(self, cycle: Cycle, found: Collection[NodeInfo], api: Control) -> None:
        """Register and unregister keys; a failure is a warning."""
        nodes, now, record = policy.by_key(found), cycle.seen.monotonic, cycle.state
        registrar = self._registrar
        if cycle.seen.client is not None:
            registrar.watch(cycle.seen.client, record.pins, nodes, now)
        decision = policy.decide(
            record.pins,
            tuple(registrar.claims.values()),
            cycle.seen.settings.node_public_keys,
            nodes,
            gone=registrar.gone(now),
        )
        self._refused = {k: v for k, v in self._refused.items() if now < v[1]}
        cycle.next_s = registrar.wait_s(now)
        if not cycle.seen.dry:
            cycle.state = dataclasses.replace(record, pins=decision.pins)
            self._apply(cycle, decision.steps, api)
        cycle.report.warn(
            *[*decision.findings, *(finding for finding, _ in self._refused.values())]
        )
        self._note(cycle)

    def _apply(self, cycle: Cycle, steps: Collection[KeyStep], api: Control) -> None:
        for step in steps:
            if step.key in self._refused:
                continue
            try:
                node_id = _do(step, api)
            except ControlRefusedError as error:
                self._refuse(cycle, step, error.finding.message)
                continue
            except AgentError as error:
                found = error.finding
                cycle.report.warn(warning(found.code, found.message, found.hint))
                return  # the next cycle looks anew
            cycle.next_s = 0.0  # to see what became of it
            shown = pem.node_key_fingerprint(step.key)
            event = _EVENTS[step.action]
            log.info(event, key=shown, node=node_id, cause=step.cause)
            what = _RECORDED[step.action]
            cycle.note(Entry(what=what, key=shown, node=node_id, message=step.cause))

    def _refuse(self, cycle: Cycle, step: KeyStep, message: str) -> None:
        found = warning("enrol.key_refused", f"{step.cause}: {message}")
        self._refused[step.key] = found, cycle.seen.monotonic + REFUSED_FOR_S * self._scale
        log.warning("enrol.refused", cause=step.cause, message=message)
        shown = pem.node_key_fingerprint(step.key)
        what, words = _RECORDED[step.action], f"{step.cause}: {message}"
        cycle.note(Entry(what=what, result=Result.REFUSED, key=shown, message=words))

    def _note(self, cycle: Cycle) -> None:
        enrolled, whole = self._registrar.counts()
        given = len(cycle.seen.settings.node_public_keys)
        more = f", {given} keys from the settings" if given else ""
        mark = Mark.OK if enrolled == whole else Mark.WAITING
        if self._registrar.trouble is not None and cycle.seen.client is not None:
            mark, more = Mark.WAITING, f"{more}; {self._registrar.trouble.finding.message}"
        cycle.report.set_condition(
            "enrolment", mark, f"{enrolled} of {whole} VMs of the service{more}"
        )


def _fixed(settings: Settings) -> bool | None:
    """Return the decision of the settings; None if they leave it open."""
    if settings.node_auth is not None:
        return settings.node_auth
    if not settings.tls:
        return False
    return True if settings.node_public_keys else None


def _do(step: KeyStep, api: Control) -> str:
    """Do one step and return the node's id; empty if the key was registered already."""
    if step.action is KeyAction.REGISTER:
        return api.register_node(pem.node_key_pem(step.key), CALL_TIMEOUT_S) or ""
    api.unregister_node(step.node_id, CALL_TIMEOUT_S)
    return step.node_id
