"""The SuperNodes that a SuperLink's status lists. Pure."""

import datetime
from collections.abc import Collection, Mapping

from flower_agent.enrolment import policy
from flower_agent.enrolment.policy import Claim
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.model import foreign_text
from flower_agent.model.state import Pin
from flower_agent.model.status import Node, stamp

NAME_MAX = 64
MOST = 200
"""So many at most: the status file is written and read often."""


def node_table(
    nodes: Collection[NodeInfo],
    pins: Collection[Pin],
    claims: Mapping[str, Claim],
    names: Mapping[str, str],
) -> tuple[Node, ...]:
    """Return the nodes that may still come or are there: first VMs' that are away, then the rest.

    A VM is known by the key that was pinned for it, its GPU by what it publishes at OneGate, its
    name by OpenNebula (`names`, by VMID).
    """
    known = policy.by_key(nodes)
    owners = {node.node_id: pin.vmid for pin in pins if (node := policy.node_of(pin.key, known))}
    rows = [
        _row(node, owners.get(node.node_id), claims, names)
        for node in nodes
        if node.status is not NodeStatus.UNREGISTERED
    ]
    return tuple(sorted(rows, key=_order)[:MOST])


def _row(
    node: NodeInfo, vmid: str | None, claims: Mapping[str, Claim], names: Mapping[str, str]
) -> Node:
    told = claims.get(vmid) if vmid is not None else None
    return Node(
        node_id=node.node_id,
        vmid=vmid,
        state=str(node.status),
        gpu=(told.gpu or None) if told else None,
        seen_at=_seen_at(node),
        name=(foreign_text.printable(names.get(vmid, ""), limit=NAME_MAX) or None)
        if vmid is not None
        else None,
    )


def _seen_at(node: NodeInfo) -> str | None:
    """Return when a node that is away was last there: it said goodbye, or its heartbeats ended."""
    if node.status is NodeStatus.ONLINE or not node.last_activated_at:
        return None
    if node.last_deactivated_at > node.last_activated_at:
        return _whole(node.last_deactivated_at)
    return stamp(node.online_until) if node.online_until else _whole(node.last_activated_at)


def _whole(text: str) -> str:
    """Return Flower's ISO text as the status writes times; other text as it is."""
    try:
        return stamp(datetime.datetime.fromisoformat(text))
    except ValueError:
        return text


def _order(node: Node) -> tuple[int, int, str]:
    online = node.state == NodeStatus.ONLINE
    rank = 1 if online else 2 if node.vmid is None else 0
    number = int(node.vmid) if node.vmid and node.vmid.isdigit() else 0
    return rank, number, node.node_id
