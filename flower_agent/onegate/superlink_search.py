"""How a SuperNode finds its SuperLink: static address or OneGate, then its CA.

The requests run in the background and are few: one ``/service`` and one ``/vms/ID``, repeated only
while something is missing or the SuperLink is lost (`RETRY_S`).

One that waits for something to appear asks every 5 to 15 s. Where OneGate itself fails, each
failure in a row doubles that, up to 20 to 60 s: what a thousand VMs ask again then stays below what
a small OneGate answers.
"""

import dataclasses
import random

import structlog

from flower_agent.background import Background, Ended, Pause, Threads
from flower_agent.config.settings import Settings
from flower_agent.flower import container_spec
from flower_agent.model.address import parse_address
from flower_agent.model.errors import AgentError, NoServiceError, OneGateError, StillSearchingError
from flower_agent.model.state import Partition, State
from flower_agent.onegate import discovery
from flower_agent.onegate.client import OneGate
from flower_agent.onegate.discovery import SuperLinkOffer

log = structlog.get_logger()

RETRY_S = (5.0, 15.0)
MOST_DOUBLINGS = 2


def is_answer(error: AgentError) -> bool:
    """Return whether OneGate answered, though not with what is looked for."""
    return not isinstance(error, OneGateError)


def policy(rng: random.Random, scale: float) -> Pause:
    """Return the pauses of a search in the background, also after a good answer."""

    def pause(error: AgentError | None, failures: int) -> float:
        away = error is not None and not is_answer(error)
        return pause_s(failures if away else 0, rng.random()) * scale

    return pause


def pause_s(failures: int, chance: float) -> float:
    """Return the seconds until the next question after that many failures of OneGate in a row.

    `chance` is random in 0..1.
    """
    shortest, longest = RETRY_S
    pause = shortest + (longest - shortest) * chance
    return pause * 2.0 ** max(0, min(failures - 1, MOST_DOUBLINGS))


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The answer of one look-up at OneGate."""

    superlink: SuperLinkOffer | None
    """None when it was not asked for."""

    partition: Partition | None
    """None when it was not asked for."""


_Question = tuple[str, bool]
"""This VM's id, and whether the question includes the SuperLink."""


class SuperLinkSearch:
    """The SuperNode's search; every method returns at once."""

    def __init__(self, threads: Threads, *, rng: random.Random, scale: float = 1.0) -> None:
        self._lookup: Background[_Question, Found] = Background(
            threads, "onegate-lookup", policy(rng, scale)
        )

    def forget(self) -> None:
        """Search again as soon as the pace allows: the SuperLink was lost, or the settings changed.

        The last answer stays valid until OneGate gives a new one.
        """
        self._lookup.again()

    def version(self, settings: Settings) -> str | None:
        """Return the Flower version that the SuperLink publishes.

        Empty if unknown, None before OneGate has answered.
        """
        if fixed(settings) is not None and not wants_ca(settings):
            return ""
        answer = self._lookup.answer
        found = answer.superlink if answer else None
        return found.version if found else None

    def find(
        self,
        settings: Settings,
        client: OneGate | None,
        record: State,
        *,
        now: float,
        running: bool = False,
    ) -> SuperLinkOffer:
        """Return the SuperLink.

        Raises AgentError ``discover.…`` or ``onegate.…`` while it is not known. The saved values of
        an earlier boot count if OneGate does not answer, and for a `running` SuperNode until
        OneGate answers: nothing starts because of them.
        """
        known = fixed(settings)
        if known is not None and not wants_ca(settings):
            self._look_up(settings, client, record, now=now, superlink=False)
            return known
        self._look_up(settings, client, record, now=now, superlink=True)
        answer, trouble = self._lookup.answer, self._lookup.error
        if answer is not None and answer.superlink is not None:
            seen = answer.superlink
            # FLOWER_SERVER_ADDRESS overrides OneGate's endpoint; the CA still comes from OneGate.
            if known is None or known.endpoint == seen.endpoint:
                return seen
            return dataclasses.replace(seen, endpoint=known.endpoint, published=seen.endpoint)
        # No answer at all: use the saved SuperLink. An answer such as "two SuperLinks" counts.
        away = trouble is not None and not is_answer(trouble)
        if record.superlink is not None and (away or (running and trouble is None)):
            return known or SuperLinkOffer(record.superlink, vmid=record.superlink_vmid)
        raise trouble or StillSearchingError(
            "discover.waiting", "the agent asks OneGate for the SuperLink", retryable=True
        )

    def partition(self, client: OneGate | None, record: State) -> Partition | None:
        """Return this node's partition, which never changes later; None outside a service.

        Raises AgentError while OneGate has not answered.
        """
        if record.partition is not None:
            return record.partition
        if client is None or self._outside():
            return None
        if self._lookup.answer is not None and self._lookup.answer.partition is not None:
            return self._lookup.answer.partition
        raise self._lookup.error or StillSearchingError(
            "discover.waiting", "the agent asks OneGate for this node's partition", retryable=True
        )

    def _look_up(
        self,
        settings: Settings,
        client: OneGate | None,
        record: State,
        *,
        now: float,
        superlink: bool,
    ) -> None:
        """Take the result of the last look-up, and begin another if something is missing."""
        if client is None:
            return
        lookup, vmid, known = self._lookup, client.access.vmid, record.superlink_vmid
        question = (vmid, superlink)
        before = lookup.error
        self._note(lookup.take(question, now), before)
        partition = not settings.is_numbered and record.partition is None
        answer = lookup.answer
        missing = answer is not None and (
            (superlink and answer.superlink is None) or (partition and answer.partition is None)
        )
        if missing and not lookup.running:
            lookup.again()
        if not (superlink or (partition and not self._outside())):
            return
        lookup.ask(
            question,
            lambda: look_up(client, vmid, known, superlink=superlink, partition=partition),
            now,
        )

    def _note(self, ended: Ended[_Question, Found] | None, before: AgentError | None) -> None:
        if ended is None or ended.error is None:
            return
        found = ended.error.finding
        if is_answer(ended.error):
            self._lookup.answer = None  # OneGate no longer lists the SuperLink
        if before is None or before.finding.code != found.code:
            log.info("discover.waiting", code=found.code, message=found.message)

    def _outside(self) -> bool:
        """Return whether OneGate says that this VM is in no service, which never changes."""
        return isinstance(self._lookup.error, NoServiceError)


def look_up(
    client: OneGate, own_vmid: str, known: str | None, *, superlink: bool, partition: bool
) -> Found:
    """Ask OneGate once. Raises AgentError ``discover.…`` or ``onegate.…``.

    `known` is the last SuperLink's VM: while it is in the service, no other VM is asked.
    """
    service = discovery.parse_service(client.service())
    part = None
    if partition:
        others = [_vm(client, vmid) for vmid in discovery.needs_peers(service, own_vmid)]
        part = discovery.partition(service, own_vmid, others)
    if not superlink:
        return Found(None, part)
    candidates = discovery.maybe_superlinks(service, own_vmid)
    if known in candidates:
        peer = _vm(client, known)
        if discovery.claims(peer):
            return Found(discovery.superlink([peer]), part)
    return Found(discovery.superlink([_vm(client, vmid) for vmid in candidates]), part)


def fixed(settings: Settings) -> SuperLinkOffer | None:
    """Return the SuperLink of the settings, if any."""
    if settings.server_address is None:
        return None
    default = container_spec.fleet_port(settings)
    return SuperLinkOffer(parse_address(settings.server_address, default))


def wants_ca(settings: Settings) -> bool:
    """Return whether the CA must come from OneGate."""
    return settings.tls and settings.tls_ca_cert is None


def _vm(client: OneGate, vmid: str) -> discovery.ServiceVm:
    return discovery.parse_vm(client.vm(vmid))
