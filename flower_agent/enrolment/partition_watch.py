"""A SuperNode takes the partition that its SuperLink assigns (FLOWER_PARTITIONS at OneGate).

One that waits for an id asks every 5 to 15 s; then the SuperLink's VM is asked every five minutes
whether the count changed, and every minute while a run keeps the change from being taken over.
"""

import dataclasses
import random
from collections.abc import Mapping

from flower_agent.background import Background, Threads
from flower_agent.cycle import Cycle
from flower_agent.enrolment import partitions
from flower_agent.enrolment.partitions import Assignment
from flower_agent.model.errors import AgentError, warning
from flower_agent.model.state import Partition
from flower_agent.model.status import Mark
from flower_agent.onegate import discovery, superlink_search
from flower_agent.onegate.client import OneGate
from flower_agent.onegate.discovery import SuperLinkOffer

SETTLED_S = 300.0
PENDING_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What the SuperLink's VM has at OneGate."""

    partitions: str
    run: str


class PartitionWatch:
    """What the SuperLink assigns to this node; every method returns at once."""

    def __init__(self, threads: Threads, *, rng: random.Random, scale: float = 1.0) -> None:
        self._asking: Background[str, Seen] = Background(threads, "onegate-partition")
        self._random = rng
        self._scale = scale
        self._read: tuple[str, Assignment | None] = ("", None)
        self._due_at: float | None = None
        self._patience_s = rng.uniform(*superlink_search.RETRY_S)

    def partition(
        self, cycle: Cycle, found: SuperLinkOffer, given: Mapping[str, str]
    ) -> Partition | None:
        """Return the assigned partition; None where the SuperLink assigns none.

        `given` is the node config of the context, whose ``partition-id`` wins. Raises AgentError
        ``partition.waiting`` or ``partition.none_free`` while a node that does not run has no id.
        """
        fresh = self._take(cycle, found)
        seen = self._asking.answer or _of(found)
        offer = self._assignment(seen.partitions) if seen else None
        have = cycle.state.partition
        if offer is None:
            self._ask(cycle, found, SETTLED_S if have else self._patience_s)
            return self._without(cycle, seen)
        part = self._choose(cycle, offer, have, given, between=fresh and _between(seen))
        pending = part is not None and part.num_partitions != offer.count
        self._ask(cycle, found, PENDING_S if pending else SETTLED_S if part else self._patience_s)
        if part is None:
            error = _waiting(offer, cycle.state.vmid)
            cycle.report.set_condition("partition", Mark.WAITING, error.finding.message)
            raise error
        if pending:
            cycle.report.set_condition(
                "partitions", Mark.WAITING, f"{offer.count} from the next pause between runs"
            )
        if part.partition_id >= offer.count and "partition-id" not in given:
            why = _waiting(offer, cycle.state.vmid).finding.message
            message = f"this node has {part.partition_id} until it is restarted; {why}"
            cycle.report.warn(warning("partition.none_free", message))
        cycle.state = dataclasses.replace(cycle.state, partition=part, assigned=True)
        return part

    def _assignment(self, text: str) -> Assignment | None:
        """Return what `text` assigns; read once, since each cycle asks."""
        if self._read[0] != text:
            self._read = text, partitions.read_assignment(text)
        return self._read[1]

    def _without(self, cycle: Cycle, seen: Seen | None) -> Partition | None:
        """Return the partition while nothing is published that can be read."""
        have, given_up = cycle.state.partition, seen is not None and not seen.partitions.strip('"')
        if given_up:
            cycle.state = dataclasses.replace(cycle.state, assigned=False)
        elif seen is not None and have is None:
            message = "the SuperLink publishes a FLOWER_PARTITIONS that is none"
            raise AgentError("partition.waiting", message, retryable=True)
        # OneGate may be away; what was assigned counts until it says something else.
        return have if cycle.state.assigned else None

    def _choose(
        self,
        cycle: Cycle,
        offer: Assignment,
        have: Partition | None,
        given: Mapping[str, str],
        *,
        between: bool,
    ) -> Partition | None:
        own = given.get("partition-id", "")
        if not own.isdecimal():
            return partitions.of_node(
                offer, cycle.state.vmid or "", have, running=cycle.running, between=between
            )
        if cycle.running and have is not None and not between:
            return have
        return Partition(int(own), offer.count)

    def _take(self, cycle: Cycle, found: SuperLinkOffer) -> bool:
        """Take what OneGate answered; return whether that is news of this very moment."""
        if cycle.seen.client is None or found.vmid is None or cycle.seen.dry:
            return False
        ended = self._asking.take(found.vmid, cycle.seen.monotonic)
        return ended is not None and ended.answer is not None

    def _ask(self, cycle: Cycle, found: SuperLinkOffer, wait_s: float) -> None:
        """Ask the SuperLink's VM where that is due; never one of which nothing was assigned."""
        client, vmid, now = cycle.seen.client, found.vmid, cycle.seen.monotonic
        concerned = cycle.state.assigned or bool(found.partitions)
        if client is None or vmid is None or cycle.seen.dry or not concerned:
            return
        rest_s = wait_s * self._scale
        if self._due_at is None:  # the search has asked just now, unless the node runs already
            self._due_at = now if cycle.running else now + rest_s
        self._due_at = min(self._due_at, now + rest_s)
        if now >= self._due_at and not self._asking.running:
            self._asking.start(vmid, lambda: ask(client, vmid), now)
            # A thousand nodes that booted together need not ask together.
            self._due_at = now + rest_s * self._random.uniform(0.9, 1.1)
            self._patience_s = self._random.uniform(*superlink_search.RETRY_S)
        cycle.look_again_in(max(self._due_at - now, 0.1))


def ask(client: OneGate, vmid: str) -> Seen:
    """Return what the SuperLink's VM publishes. Raises AgentError ``onegate.…``."""
    told = discovery.parse_vm(client.vm(vmid)).attributes
    return Seen(told.get("FLOWER_PARTITIONS", ""), told.get("FLOWER_RUN", ""))


def _of(found: SuperLinkOffer) -> Seen | None:
    return None if found.partitions is None else Seen(found.partitions, found.run)


def _between(seen: Seen | None) -> bool:
    return seen is not None and partitions.between_runs(seen.run)


def _waiting(offer: Assignment, vmid: str | None) -> AgentError:
    if offer.full:
        message = f"FLOWER_PARTITIONS is {offer.count} on the SuperLink, and no id is free"
        return AgentError("partition.none_free", message, retryable=True)
    message = f"the SuperLink has not assigned VM {vmid} one of its {offer.count} partitions yet"
    return AgentError("partition.waiting", message, retryable=True)
