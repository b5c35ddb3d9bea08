"""Which part of the data each SuperNode trains on: as published, and as a SuperLink assigns. Pure.

A node's ``FLOWER_PARTITION`` is ``ID/COUNT``. With FLOWER_PARTITIONS the SuperLink assigns the ids
and publishes them as ``COUNT;FIRST-LAST:ID;VMID:ID;site:ID``: VMs with numbers in a row that have
ids in a row are one entry. Any VM of a service may write any other's attributes, so what is read
here is bounded.
"""

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterator, Mapping

from flower_agent.config.types import MOST_PARTITIONS
from flower_agent.model.errors import Finding, warning
from flower_agent.model.state import Partition

MOST = 5
"""As many are named in one warning."""

MAX_CHARACTERS = 400_000
"""More than what publishes the largest FLOWER_PARTITIONS."""

SITE = "site"
"""Stands for a SuperNode outside the service, which reads no attribute."""

_BETWEEN = ("finished", "stopped", "failed", "preparing", "waiting")
"""How FLOWER_RUN begins while no node computes."""

_ENTRY = re.compile(r"(?:site|([0-9]{1,18})(?:-([0-9]{1,18}))?):([0-9]{1,8})", re.ASCII)
_PUBLISHED = re.compile(r"([0-9]{1,8})/([0-9]{1,8})", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionNode:
    """A SuperNode that should have a partition."""

    owner: str
    """VMID; of a SuperNode outside the service the fingerprint of its key."""

    has: int | None = None
    """The id with which it says that it runs."""

    index: int | None = None
    """The number that OneFlow gave it in its role."""


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """What a SuperLink published."""

    count: int
    spans: tuple[tuple[int, int, int], ...]
    """First and last VMID, and the id of the first."""

    taken: int
    """How many ids are taken, those of sites included."""

    def id_of(self, vmid: str) -> int | None:
        """Return the id of a VM; None where it has none."""
        number = int(vmid) if vmid.isascii() and vmid.isdecimal() else -1
        spans = self.spans
        return next((n + number - low for low, high, n in spans if low <= number <= high), None)

    @property
    def full(self) -> bool:
        """Whether no id is free."""
        return self.taken >= self.count


def assign(
    before: Mapping[str, int], count: int, nodes: Collection[PartitionNode], left: Collection[str]
) -> dict[str, int]:
    """Return who has which id of `count`; a node without one waits.

    Who has one in `before` keeps it, there or away, until it has `left` for good or the count no
    longer holds it. A newcomer gets the id with which it runs already, else OneFlow's number, else
    the smallest free one; a site the largest, so that VMs keep their numbers.
    """
    ids: dict[str, int] = {}
    free = set(range(count))
    for owner, number in before.items():
        if owner not in left and number in free:
            ids[owner] = number
            free.discard(number)
    new = sorted((n for n in nodes if n.owner not in ids and n.owner not in left), key=_order)
    for node in new:
        if node.has in free:
            ids[node.owner] = node.has
            free.discard(node.has)
    # An id with which somebody runs, whoever that is, is given to no other.
    free -= {node.has for node in nodes if node.has is not None}
    for node in (node for node in new if node.index in free and node.owner not in ids):
        if node.index in free:
            ids[node.owner] = node.index
            free.discard(node.index)
    order = sorted(free)
    for node in (node for node in new if node.owner not in ids):
        if order:
            ids[node.owner] = order.pop(0 if node.owner.isdecimal() else -1)
    return ids


def write(count: int, ids: Mapping[str, int]) -> str:
    """Return the attribute that publishes who has which id."""
    spans: list[tuple[int, int, int]] = []
    for vmid, number in sorted((int(o), n) for o, n in ids.items() if o.isdecimal()):
        if spans and (vmid, number) == (spans[-1][1] + 1, _next(spans[-1])):
            spans[-1] = spans[-1][0], vmid, spans[-1][2]
        else:
            spans.append((vmid, vmid, number))
    vms = (f"{low}:{n}" if low == high else f"{low}-{high}:{n}" for low, high, n in spans)
    sites = sorted(number for owner, number in ids.items() if not owner.isdecimal())
    return ";".join((str(count), *vms, *(f"{SITE}:{number}" for number in sites)))


def read_assignment(text: str) -> Assignment | None:
    """Return what an attribute publishes; None for nothing, and for anything that is none."""
    head, *entries = text.strip('"')[:MAX_CHARACTERS].split(";")
    if not re.fullmatch("[0-9]{1,5}", head, re.ASCII) or not 0 < int(head) <= MOST_PARTITIONS:
        return None
    count, taken = int(head), 0
    spans: list[tuple[int, int, int]] = []
    for entry in entries:
        found = _ENTRY.fullmatch(entry)
        if found is None:
            return None
        span = _span(found)
        taken += span[1] - span[0] + 1
        if span[1] < span[0] or _next(span) > count:
            return None
        if found[1]:
            spans.append(span)
    return Assignment(count, tuple(spans), taken)


def of_node(
    offer: Assignment, vmid: str, have: Partition | None, *, running: bool, between: bool
) -> Partition | None:
    """Return the partition that a node uses; None: it waits for an id.

    A node that runs keeps its own until no run is active (`between`), and its id even then.
    """
    own = offer.id_of(vmid)
    wanted = None if own is None else Partition(own, offer.count)
    if not running or have is None:
        return wanted
    if not between:
        return have
    if have.partition_id < offer.count:
        return Partition(have.partition_id, offer.count)
    return wanted or have


def between_runs(run: str) -> bool:
    """Return whether a SuperLink's FLOWER_RUN says that no node computes."""
    return run.strip('"').startswith(_BETWEEN) or not run.strip('"')


def read(text: str) -> Partition | None:
    """Return the partition in a ``FLOWER_PARTITION``; None for anything that is none."""
    found = _PUBLISHED.fullmatch(text.strip('"'))
    if not found or int(found[1]) >= int(found[2]):
        return None
    return Partition(int(found[1]), int(found[2]))


def faults(
    held: Mapping[str, Partition], *, more: Collection[int] = (), whole: bool
) -> Finding | None:
    """Return what is wrong with the partitions of living SuperNodes, in one warning.

    `held` are those that VMs have, by VMID, `more` ids of SuperNodes outside the service. Only
    where the two are `whole` does an id that nobody has say something.
    """
    found = [*_counts(held), *_doubles(held)]
    if whole and held:
        found += _gaps(held, more)
    return warning("partition.gaps", "; ".join(found)) if found else None


def _next(span: tuple[int, int, int]) -> int:
    """Return the id behind those of a span."""
    return span[2] + span[1] - span[0] + 1


def _span(found: re.Match[str]) -> tuple[int, int, int]:
    low = int(found[1] or 0)
    return low, int(found[2] or low), int(found[3])


def _order(node: PartitionNode) -> tuple[bool, int, str]:
    vm = node.owner.isdecimal()
    return not vm, int(node.owner) if vm else 0, node.owner


def _counts(held: Mapping[str, Partition]) -> Iterator[str]:
    by_count: dict[int, list[str]] = {}
    for vmid, part in held.items():
        by_count.setdefault(part.num_partitions, []).append(vmid)
    if len(by_count) > 1:
        each = [f"{_vms(vmids)} counts {count}" for count, vmids in sorted(by_count.items())]
        yield f"SuperNodes count partitions differently: {_some(each)}"


def _doubles(held: Mapping[str, Partition]) -> Iterator[str]:
    by_id: dict[int, list[str]] = {}
    for vmid, part in held.items():
        by_id.setdefault(part.partition_id, []).append(vmid)
    each = [f"{_vms(vmids)} have {number}" for number, vmids in sorted(by_id.items()) if vmids[1:]]
    if each:
        yield f"SuperNodes share a partition: {_some(each)}"


def _gaps(held: Mapping[str, Partition], more: Collection[int]) -> Iterator[str]:
    count = max(part.num_partitions for part in held.values())
    taken = {part.partition_id for part in held.values()} | set(more)
    missing = count - sum(number < count for number in taken)
    if missing:
        free = itertools.islice((n for n in itertools.count() if n not in taken), MOST + 1)
        each = [str(number) for number in free if number < count]
        rest = f" and {missing - MOST} more" if missing > MOST else ""
        yield f"no SuperNode has partition {', '.join(each[:MOST])}{rest} of {count}"


def _vms(vmids: list[str]) -> str:
    rest = f" and {len(vmids) - MOST} more" if len(vmids) > MOST else ""
    return f"{', '.join(f'VM {vmid}' for vmid in vmids[:MOST])}{rest}"


def _some(each: list[str]) -> str:
    rest = f"; and {len(each) - MOST} more" if len(each) > MOST else ""
    return "; ".join(each[:MOST]) + rest
