"""Which SuperNodes should be there, and what of them an operator should know.

Flower tells who is connected; what a node says of itself stands at OneGate, where any VM of the
service may write it: it is shown as that VM's word, and changes nothing.

Which SuperNodes' keys a SuperLink should know, and the steps to it.

A VM of the service publishes its public key at OneGate; the first key of a VMID is pinned, since
any VM of a service may write any other's attributes. Facts of Flower (1.23 to 1.42): a public key
is registered once, and one that was unregistered can never return.
"""

import dataclasses
import datetime
import enum
from collections.abc import Collection, Iterable, Iterator, Mapping

from flower_agent.enrolment import partitions, refusals
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.images import app_images
from flower_agent.model import pem
from flower_agent.model.errors import Finding, warning
from flower_agent.onegate.discovery import Partition, ServiceVm, index_of, shown

MAX_KEY_CHARACTERS = 512
MAX_GPU_CHARACTERS = 200
MOST_LACKS = 5
DAMAGED = "enrol.key_damaged"
"""What a node warns of that had to make a new key."""

MOST_STRANGERS = 5
"""As many are named in one warning."""

_TOLD = frozenset({"FLOWER_STATE", "FLOWER_ERROR", "FLOWER_APP_IMAGE", "FLOWER_PARTITION"})
_STATES = frozenset({"starting", "ready", "degraded", "failed", "stopped"})


@dataclasses.dataclass(frozen=True, slots=True)
class Pin:
    """The first key that a VM published; another one later is refused."""

    vmid: str
    key: str
    """OpenSSH form without comment."""

    own: bool
    """The agent registered it, so the agent may unregister it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """What a VM of the service publishes about its key."""

    vmid: str
    key: str | None = None
    """None: nothing yet, or nothing that is a key."""

    fault: str = ""
    """Why what it publishes is no key."""

    stranger: bool = False
    """It says that it is something else than a SuperNode, and OneFlow does not know better."""

    says: str = ""
    """Which role it says that it has, where that is none that a VM beside the SuperLink may have,
    or another than OneFlow's; for a person."""

    gpu: str = ""
    """What it says about its GPUs; empty: nothing yet."""

    state: str = ""
    """Its FLOWER_STATE, where that is one."""

    error: str = ""
    """Its FLOWER_ERROR, for a person."""

    lacks: tuple[str, ...] = ()
    """Names that its image lacks of the app of the context (FLOWER_APP_IMAGE)."""
    damaged: bool = False
    """It says that its key was damaged, and that it has a new one."""

    partition: Partition | None = None
    """Its FLOWER_PARTITION, where that is one."""

    index: int | None = None
    """OneFlow's number of it in its role."""


class KeyAction(enum.StrEnum):
    """What one step asks of the Control API."""

    REGISTER = "register"
    UNREGISTER = "unregister"


@dataclasses.dataclass(frozen=True, slots=True)
class KeyStep:
    """One call with its cause."""

    action: KeyAction
    key: str
    cause: str
    node_id: str = ""
    """UNREGISTER: the node that has the key."""

    def __str__(self) -> str:
        return f"{self.action} {pem.node_key_fingerprint(self.key)} ({self.cause})"


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What follows from one look."""

    steps: tuple[KeyStep, ...]
    pins: tuple[Pin, ...]
    """To be remembered, by VMID."""

    findings: tuple[Finding, ...]


def claim(peer: ServiceVm, *, is_node: bool = False) -> Claim:
    """Return what a VM says about its key; anything may stand in its attributes.

    `is_node`: OneFlow says that it is a SuperNode, which counts more than a word that any VM of the
    service can write.
    """
    told = peer.attributes
    role = told.get("FLOWER_ROLE", "").strip('"')
    if role in ("", "supernode"):
        return _node(peer)
    says = shown(role)
    if is_node:
        return dataclasses.replace(_node(peer), says=says)
    return Claim(peer.vmid, stranger=True, says="" if role == "superexec" else says)


def _node(peer: ServiceVm) -> Claim:
    told = {name: text.strip('"') for name, text in peer.attributes.items() if name in _TOLD}
    state = told.get("FLOWER_STATE", "")
    _, lacks = app_images.read_published(told.get("FLOWER_APP_IMAGE", ""))
    return dataclasses.replace(
        _key(peer),
        state=state if state in _STATES else "",
        error=shown(told.get("FLOWER_ERROR", "")),
        lacks=(lacks or ())[:MOST_LACKS],
        partition=partitions.read(told.get("FLOWER_PARTITION", "")),
        index=index_of(peer),
    )


def _key(peer: ServiceVm) -> Claim:
    told = peer.attributes
    text, gpu = (told.get(name, "").strip('"') for name in ("FLOWER_NODE_KEY", "FLOWER_GPU"))
    gpu = "".join(c for c in gpu[:MAX_GPU_CHARACTERS] if c.isprintable())
    if not text:
        return Claim(peer.vmid, gpu=gpu)
    try:
        (key,) = pem.node_keys(text[:MAX_KEY_CHARACTERS])
    except ValueError as error:
        return Claim(peer.vmid, fault=str(error), gpu=gpu)
    return Claim(peer.vmid, key, gpu=gpu, damaged=DAMAGED in told.get("FLOWER_WARNING", ""))


def by_key(nodes: Collection[NodeInfo]) -> dict[bytes, NodeInfo]:
    """Return the SuperLink's nodes by their public keys (PEM)."""
    return {node.public_key.strip(): node for node in nodes}


def node_of(key: str, nodes: Mapping[bytes, NodeInfo]) -> NodeInfo | None:
    """Return the node that has an OpenSSH public key."""
    return nodes.get(pem.node_key_pem(key).strip())


def decide(
    pins: Collection[Pin],
    claims: Collection[Claim],
    given: Collection[str],
    nodes: Mapping[bytes, NodeInfo],
    *,
    gone: Collection[str] = (),
) -> Decision:
    """Return the steps from the nodes that the SuperLink has to those that it should know.

    `given` are keys from FLOWER_NODE_PUBLIC_KEYS, `gone` VMs that have left the service for good.
    A pin whose key was unregistered is given up, so that its VM can come back with a new key.
    """
    told = {c.vmid: c.key for c in claims if c.key is not None}
    damaged = {c.vmid for c in claims if c.damaged}
    findings = list(_faults(claims))
    kept = {p.vmid: p for p in pins if not _spent(p.key, nodes)}
    for vmid, key in sorted(told.items(), key=lambda pair: _order(pair[0])):
        if vmid not in kept and vmid not in gone and not _spent(key, nodes):
            kept[vmid] = Pin(vmid, key, own=node_of(key, nodes) is None)
        elif vmid in kept and kept[vmid].key != key and not _online(kept[vmid].key, nodes):
            findings.append(_changed(kept[vmid], key, damaged=vmid in damaged))
    leaving = {vmid for vmid in kept if vmid in gone}
    wanted = {p.key: f"VM {p.vmid}" for p in kept.values() if p.vmid not in leaving}
    wanted |= dict.fromkeys(given, "FLOWER_NODE_PUBLIC_KEYS")
    steps = [*_registrations(wanted, nodes)]
    for vmid in sorted(leaving, key=_order):
        pin, node = kept[vmid], node_of(kept[vmid].key, nodes)
        if _online(pin.key, nodes):
            continue
        if node is None or not pin.own or pin.key in wanted:
            del kept[vmid]
            continue
        if all(step.key != pin.key for step in steps):  # two VMs may have claimed one key
            cause = f"VM {vmid} has left the service"
            steps.append(KeyStep(KeyAction.UNREGISTER, pin.key, cause, node.node_id))
    findings += (_spent_finding(key) for key in given if _spent(key, nodes))
    missing = {step.key for step in steps if step.action is KeyAction.REGISTER}
    found = (dataclasses.replace(p, own=p.own or p.key in missing) for p in kept.values())
    pinned = tuple(sorted(found, key=lambda pin: _order(pin.vmid)))
    return Decision(tuple(steps), pinned, tuple(findings))


def _registrations(wanted: Mapping[str, str], nodes: Mapping[bytes, NodeInfo]) -> Iterator[KeyStep]:
    for key, whose in wanted.items():
        if node_of(key, nodes) is None:
            yield KeyStep(KeyAction.REGISTER, key, whose)


def _spent(key: str, nodes: Mapping[bytes, NodeInfo]) -> bool:
    """Tell whether a key was unregistered, which is for ever."""
    node = node_of(key, nodes)
    return node is not None and node.status is NodeStatus.UNREGISTERED


def _online(key: str, nodes: Mapping[bytes, NodeInfo]) -> bool:
    node = node_of(key, nodes)
    return node is not None and node.status is NodeStatus.ONLINE


def _faults(claims: Collection[Claim]) -> Iterator[Finding]:
    for found in sorted(claims, key=lambda each: _order(each.vmid)):
        if found.fault:
            message = f"VM {found.vmid} publishes a FLOWER_NODE_KEY that is none: {found.fault}"
            yield warning("enrol.key_refused", message)
    strange = [c for c in sorted(claims, key=lambda each: _order(each.vmid)) if c.says]
    if strange:
        who = ", ".join(f"VM {c.vmid} says {c.says}" for c in strange[:MOST_STRANGERS])
        more = len(strange) - MOST_STRANGERS
        rest = f", and {more} more" if more > 0 else ""
        message = f"FLOWER_ROLE of VMs of the service is not that of a SuperNode: {who}{rest}"
        yield warning("enrol.stranger", message)


def _changed(pin: Pin, key: str, *, damaged: bool) -> Finding:
    why = "; it says that the one before was damaged" if damaged else ""
    return warning(
        "enrol.key_changed",
        f"VM {pin.vmid} publishes the node key {pem.node_key_fingerprint(key)}, pinned is "
        f"{pem.node_key_fingerprint(pin.key)}{why}",
    )


def _spent_finding(key: str) -> Finding:
    shown = pem.node_key_fingerprint(key)
    return warning("enrol.key_spent", f"{shown} of FLOWER_NODE_PUBLIC_KEYS was unregistered")


def _order(vmid: str) -> tuple[int, str]:
    return (int(vmid), "") if vmid.isdecimal() else (1 << 62, vmid)


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
    known = by_key(nodes)
    owners = {node.node_id: pin.vmid for pin in pins if (node := node_of(pin.key, known))}
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
        yield warning("node.offline", f"SuperNodes that were connected are away: {_some(gone)}")
    lost = {owners.get(node.node_id) for node in away}
    ill = [
        _ill(told)
        for told in said
        if told.state in TROUBLED and told.vmid not in lost and not refusals.refuses(told)
    ]
    if ill:
        yield warning("node.degraded", f"SuperNodes say that they do not work: {_some(ill)}")
    short = [f"VM {told.vmid} lacks {', '.join(told.lacks)}" for told in said if told.lacks]
    if short:
        yield warning("node.image", f"images that run apps lack what the app wants: {_some(short)}")


def _away(node: NodeInfo, vmid: str | None, claims: Mapping[str, Claim]) -> str:
    who = f"VM {vmid}" if vmid is not None else f"node {node.node_id}"
    left = _left(node)
    since = f" since {left:%Y-%m-%dT%H:%M:%SZ}" if left else ""
    told = claims.get(vmid) if vmid is not None else None
    says = told.state if told is not None and told.state in (*TROUBLED, "stopped") else ""
    because = f", {told.error}" if says and told is not None and told.error else ""
    return f"{who}{since}{f' (it says {says}{because})' if says else ''}"


def _ill(told: Claim) -> str:
    return f"VM {told.vmid} says {told.state}{f', {told.error}' if told.error else ''}"


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
