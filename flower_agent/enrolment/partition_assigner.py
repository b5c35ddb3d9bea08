"""A SuperLink assigns its SuperNodes' partitions (FLOWER_PARTITIONS), and says who has which.

It joins the remembered state, the VMs that the `enroller` sees, and the decision in `partitions`.
Like enrolment it never changes the SuperLink's own state.
"""

import dataclasses
from collections.abc import Collection, Iterator

from flower_agent.cycle import Cycle
from flower_agent.enrolment import partitions, policy
from flower_agent.enrolment.enroller import Enroller
from flower_agent.enrolment.partitions import PartitionNode
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.model import pem
from flower_agent.model.errors import warning
from flower_agent.model.status import Mark


def tell(cycle: Cycle, *, node_auth: bool) -> None:
    """Publish who has which partition; nothing where nobody is enrolled, or the count taken back.

    Said before the CA, without which no node starts: none numbers itself by mistake.
    """
    count, known = cycle.seen.settings.partitions, cycle.state.partitions
    if count is not None and node_auth:
        kept = {owner: number for owner, number in known if number < count}
        cycle.report.published = dataclasses.replace(
            cycle.report.published, partitions=partitions.write(count, kept)
        )
    elif known:
        cycle.report.published = dataclasses.replace(cycle.report.published, partitions="")


def assign(cycle: Cycle, found: Collection[NodeInfo], enroller: Enroller) -> None:
    """Give each SuperNode its partition, and remember that; warn of those that wait for one."""
    count = cycle.seen.settings.partitions
    if count is None:
        return
    known = policy.by_key(found)
    nodes = [*_vms(cycle, enroller), *_sites(cycle)]
    left = _left(cycle, known, enroller)
    ids = partitions.assign(dict(cycle.state.partitions), count, nodes, left)
    if not cycle.seen.dry:
        cycle.state = dataclasses.replace(cycle.state, partitions=tuple(sorted(ids.items())))
        tell(cycle, node_auth=True)
    waiting = [node.owner for node in nodes if node.owner not in ids and node.owner not in left]
    sites = "".join(f"; {owner} has {n}" for owner, n in ids.items() if not owner.isdecimal())
    mark = Mark.WAITING if waiting else Mark.OK
    cycle.report.set_condition("partitions", mark, f"{len(ids)} of {count} assigned{sites}")
    if waiting:
        who = [f"VM {owner}" if owner.isdecimal() else owner for owner in waiting]
        rest = f" and {len(who) - partitions.MOST} more" if len(who) > partitions.MOST else ""
        some = ", ".join(who[: partitions.MOST]) + rest
        message = f"FLOWER_PARTITIONS is {count}, and no id is free for {some}"
        cycle.report.warn(warning("partition.none_free", message))


def sites(cycle: Cycle) -> tuple[int, ...] | None:
    """Return the partitions of SuperNodes outside the service; None where nobody assigns them."""
    if cycle.seen.settings.partitions is None:
        return None
    return tuple(number for owner, number in cycle.state.partitions if not owner.isdecimal())


def _vms(cycle: Cycle, enroller: Enroller) -> Iterator[PartitionNode]:
    """Yield the enrolled VMs of which it is known whether they run already, and as what."""
    for pin in cycle.state.pins:
        told = enroller.claims.get(pin.vmid)
        if told is not None and told.key is not None:
            has = told.partition.partition_id if told.partition else None
            yield PartitionNode(pin.vmid, has, told.index)


def _sites(cycle: Cycle) -> Iterator[PartitionNode]:
    pinned = {pin.key for pin in cycle.state.pins}
    for key in cycle.seen.settings.node_public_keys:
        if key not in pinned:
            yield PartitionNode(pem.node_key_fingerprint(key))


def _left(cycle: Cycle, known: dict[bytes, NodeInfo], enroller: Enroller) -> frozenset[str]:
    """Return who holds an id and has left for good; never one that is connected."""
    pins = {pin.vmid: pin.key for pin in cycle.state.pins}
    members, gone = enroller.members, enroller.gone(cycle.seen.monotonic)
    given = {pem.node_key_fingerprint(key): key for key in cycle.seen.settings.node_public_keys}
    found: set[str] = set()
    for owner, _ in cycle.state.partitions:
        key = pins.get(owner)
        if owner.isdecimal() and key is not None:
            away = owner in gone and not _online(key, known)
        elif owner.isdecimal():
            away = members is not None and owner not in members
        else:
            away = owner not in given
        if away:
            found.add(owner)
    return frozenset(found)


def _online(key: str, known: dict[bytes, NodeInfo]) -> bool:
    node = policy.node_of(key, known)
    return node is not None and node.status is NodeStatus.ONLINE
