"""A SuperLink assigns its SuperNodes' partitions (FLOWER_PARTITIONS), and says who has which.

It joins what the record remembers, whom the `enroller` sees, and the decision in `partitions`. Like
enrolment it never changes the SuperLink's own state.
"""

import dataclasses
from collections.abc import Collection, Iterator

from flower_agent.cycle import Turn
from flower_agent.enrolment import partitions, policy
from flower_agent.enrolment.enroller import Enroller
from flower_agent.enrolment.partitions import Node
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.model import pem
from flower_agent.model.errors import warning
from flower_agent.model.status import Mark


def tell(turn: Turn) -> None:
    """Publish who has which partition; nothing where nobody is enrolled, or the count taken back.

    Said before the CA, without which no node starts: none numbers itself by mistake.
    """
    count, known = turn.settings.partitions, turn.record.partitions
    if count is not None and turn.node_auth:
        kept = {owner: number for owner, number in known if number < count}
        turn.told["FLOWER_PARTITIONS"] = partitions.write(count, kept)
    elif known:
        turn.told["FLOWER_PARTITIONS"] = ""


def assign(turn: Turn, found: Collection[NodeInfo], enroller: Enroller) -> None:
    """Give each SuperNode its partition, and remember that; warn of those that wait for one."""
    count = turn.settings.partitions
    if count is None:
        return
    known = policy.by_key(found)
    nodes = [*_vms(turn, enroller), *_sites(turn)]
    left = _left(turn, known, enroller)
    ids = partitions.assign(dict(turn.record.partitions), count, nodes, left)
    if not turn.dry:
        turn.record = dataclasses.replace(turn.record, partitions=tuple(sorted(ids.items())))
        tell(turn)
    waiting = [node.owner for node in nodes if node.owner not in ids and node.owner not in left]
    sites = "".join(f"; {owner} has {n}" for owner, n in ids.items() if not owner.isdecimal())
    mark = Mark.WAITING if waiting else Mark.OK
    turn.note("partitions", mark, f"{len(ids)} of {count} assigned{sites}")
    if waiting:
        who = [f"VM {owner}" if owner.isdecimal() else owner for owner in waiting]
        rest = f" and {len(who) - partitions.MOST} more" if len(who) > partitions.MOST else ""
        some = ", ".join(who[: partitions.MOST]) + rest
        message = f"FLOWER_PARTITIONS is {count}, and no id is free for {some}"
        turn.warnings.append(warning("partition.none_free", message))


def sites(turn: Turn) -> tuple[int, ...] | None:
    """Return the partitions of SuperNodes outside the service; None where nobody assigns them."""
    if turn.settings.partitions is None:
        return None
    return tuple(number for owner, number in turn.record.partitions if not owner.isdecimal())


def _vms(turn: Turn, enroller: Enroller) -> Iterator[Node]:
    """Yield the enrolled VMs of which it is known whether they run already, and as what."""
    for pin in turn.record.pins:
        told = enroller.claims.get(pin.vmid)
        if told is not None and told.key is not None:
            has = told.partition.partition_id if told.partition else None
            yield Node(pin.vmid, has, told.index)


def _sites(turn: Turn) -> Iterator[Node]:
    pinned = {pin.key for pin in turn.record.pins}
    for key in turn.settings.node_public_keys:
        if key not in pinned:
            yield Node(pem.node_key_fingerprint(key))


def _left(turn: Turn, known: dict[bytes, NodeInfo], enroller: Enroller) -> frozenset[str]:
    """Return who holds an id and has left for good; never one that is connected."""
    pins = {pin.vmid: pin.key for pin in turn.record.pins}
    members, gone = enroller.members, enroller.gone(turn.monotonic)
    given = {pem.node_key_fingerprint(key): key for key in turn.settings.node_public_keys}
    found: set[str] = set()
    for owner, _ in turn.record.partitions:
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
