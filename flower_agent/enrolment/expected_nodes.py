"""Which SuperNodes should be there, and what of them an operator should know. Pure.

Flower tells who is connected; what a node says of itself stands at OneGate, where any VM of the
service may write it: it is shown as that VM's word, and changes nothing.
"""

import dataclasses
import datetime
from collections.abc import Collection, Iterable, Iterator, Mapping

from flower_agent.enrolment import partitions, policy, refusals
from flower_agent.enrolment.policy import Claim
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.model.errors import Finding, warning
from flower_agent.model.state import Pin

MOST = 5
"""As many are named in one warning."""


TROUBLED = frozenset({"degraded", "failed"})


REPLACED = datetime.timedelta(seconds=90)
"""A node that was killed counts as online for so long at most, while its successor is there."""


@dataclasses.dataclass(frozen=True, slots=True)
class ExpectedNodes:
    """Who is there of whom."""

    online: int
    whole: int
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        of = f" of {self.whole}" if self.whole else ""
        return f"{self.online}{of} SuperNodes connected"


def expected_nodes(
    nodes: Collection[NodeInfo],
    pins: Collection[Pin],
    claims: Mapping[str, Claim],
    members: Collection[str] | None,
    *,
    growing: bool = False,
    sites: Collection[int] | None = None,
) -> ExpectedNodes:
    """Return how many SuperNodes are connected of those that should be, and who is in trouble.

    `members` are the VMs of the service, None while they are not known: a VM that left it is
    expected no more. A node without a VM that is away is not either, once another came in its place
    (one without a key has another id after each start). `growing`: VMs of the service are still to
    come, so a partition that nobody has yet says nothing. `sites` are the partitions of SuperNodes
    outside the service, None while nobody assigns them.
    """
    known = policy.by_key(nodes)
    owners = {node.node_id: pin.vmid for pin in pins if (node := policy.node_of(pin.key, known))}
    here = {vmid for vmid in owners.values() if members is None or vmid in members}
    rows = [
        node
        for node in nodes
        if node.status is not NodeStatus.UNREGISTERED
        and (node.node_id not in owners or owners[node.node_id] in here)
    ]
    replaced = _replaced([node for node in rows if node.node_id not in owners])
    rows = [node for node in rows if node.node_id not in replaced]
    away = [node for node in rows if node.status is NodeStatus.OFFLINE]
    online = sum(node.status is NodeStatus.ONLINE for node in rows)
    said = [told for vmid, told in sorted(claims.items(), key=_number) if vmid in here]
    found = list(_findings(away, owners, claims, said))
    outside = sites is None and any(
        n.status is NodeStatus.ONLINE and n.node_id not in owners for n in rows
    )
    whole = not (growing or outside or members is None)
    wrong = _partitions(said, sites or (), len(here) if whole else None)
    found += [wrong] if wrong else []
    return ExpectedNodes(online, len(rows), tuple(found))


def _partitions(
    said: Collection[Claim], sites: Collection[int], expected: int | None
) -> Finding | None:
    """Return what is wrong with the partitions of the VMs that are here.

    One that is away keeps its own. Until as many as `expected` have said which they have, no id is
    missed; None: that cannot be known.
    """
    held = {told.vmid: told.partition for told in said if told.partition is not None}
    return partitions.faults(held, more=sites, whole=len(held) == expected)


def _findings(
    away: Iterable[NodeInfo],
    owners: Mapping[str, str],
    claims: Mapping[str, Claim],
    said: Collection[Claim],
) -> Iterator[Finding]:
    gone = [_away(node, owners.get(node.node_id), claims) for node in away]
    if gone:
        yield warning("node.offline", f"SuperNodes that were connected are offline: {_some(gone)}")
    lost = {owners.get(node.node_id) for node in away}
    ill = [
        _ill(told)
        for told in said
        if told.state in TROUBLED and told.vmid not in lost and not refusals.refuses(told)
    ]
    if ill:
        yield warning("node.degraded", f"SuperNodes report that they do not work: {_some(ill)}")
    short = [f"VM {told.vmid} lacks {', '.join(told.lacks)}" for told in said if told.lacks]
    if short:
        message = f"images that run apps lack packages of the app: {_some(short)}"
        yield warning("node.image", message)


def _away(node: NodeInfo, vmid: str | None, claims: Mapping[str, Claim]) -> str:
    who = f"VM {vmid}" if vmid is not None else f"node {node.node_id}"
    left = _left(node)
    since = f" since {left:%Y-%m-%dT%H:%M:%SZ}" if left else ""
    told = claims.get(vmid) if vmid is not None else None
    says = told.state if told is not None and told.state in (*TROUBLED, "stopped") else ""
    because = f", {told.error}" if says and told is not None and told.error else ""
    return f"{who}{since}{f' (it reports {says}{because})' if says else ''}"


def _ill(told: Claim) -> str:
    return f"VM {told.vmid} reports {told.state}{f', {told.error}' if told.error else ''}"


def _replaced(nodes: Collection[NodeInfo]) -> frozenset[str]:
    """Return the nodes that are away, and in whose places others came."""
    came = sorted(
        moment
        for node in nodes
        if node.status is NodeStatus.ONLINE and (moment := _moment(node.registered_at))
    )
    found: set[str] = set()
    away = [(left, node) for node in nodes if (left := _left(node))]
    for left, node in sorted(away, key=lambda pair: pair[0], reverse=True):
        if came and came[-1] > left - REPLACED:
            came.pop()
            found.add(node.node_id)
    return frozenset(found)


def _left(node: NodeInfo) -> datetime.datetime | None:
    """Return when a node that is away was last there."""
    if node.status is not NodeStatus.OFFLINE:
        return None
    parted = _moment(node.last_deactivated_at)
    if parted and node.last_deactivated_at > node.last_activated_at:
        return parted
    return node.online_until or _moment(node.last_activated_at)


def _moment(text: str) -> datetime.datetime | None:
    """Return the moment that Flower's ISO text says; None for anything else."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(datetime.UTC) if found.tzinfo else None


def _some(words: list[str]) -> str:
    more = f"; and {len(words) - MOST} more" if len(words) > MOST else ""
    return "; ".join(words[:MOST]) + more


def _number(pair: tuple[str, Claim]) -> tuple[int, str]:
    vmid = pair[0]
    return (int(vmid), "") if vmid.isdecimal() else (1 << 62, vmid)
