"""Which SuperNodes' keys a SuperLink should know, and the steps to it. Pure.

A VM of the service publishes its public key at OneGate; the first key of a VMID is pinned, since
any VM of a service may write any other's attributes. Facts of Flower (1.23 to 1.42): a public key
is registered once, and one that was unregistered can never return.
"""

import dataclasses
import enum
from collections.abc import Collection, Iterator, Mapping

from flower_agent.enrolment import partitions
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.images import app_images
from flower_agent.model import pem
from flower_agent.model.errors import Finding, warning
from flower_agent.model.state import Partition, Pin
from flower_agent.onegate.discovery import ServiceVm, index_of, shown

MAX_KEY_CHARACTERS = 512
MAX_GPU_CHARACTERS = 200
MOST_LACKS = 5
DAMAGED = "enrol.key_damaged"
"""The warning of a node that had to create a new key."""

MOST_STRANGERS = 5
"""Most VMs in one warning."""

_TOLD = frozenset({"FLOWER_STATE", "FLOWER_ERROR", "FLOWER_APP_IMAGE", "FLOWER_PARTITION"})
_STATES = frozenset({"starting", "ready", "degraded", "failed", "stopped"})


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """What a VM of the service publishes about its key."""

    vmid: str
    key: str | None = None
    """None: nothing yet, or nothing that is a key."""

    fault: str = ""
    """Why its published value is not a key."""

    stranger: bool = False
    """It publishes another role than SuperNode, and OneFlow does not contradict."""

    says: str = ""
    """Its published role, if a VM cannot have this role here or OneFlow has another; for a
    message."""

    gpu: str = ""
    """Its published text about GPUs; empty: nothing yet."""

    state: str = ""
    """Its FLOWER_STATE, if valid."""

    error: str = ""
    """Its FLOWER_ERROR, for a person."""

    lacks: tuple[str, ...] = ()
    """Packages of the context's app that its image lacks (FLOWER_APP_IMAGE)."""
    damaged: bool = False
    """It reports that its key was damaged, and that it has a new one."""

    partition: Partition | None = None
    """Its FLOWER_PARTITION, where that is one."""

    index: int | None = None
    """OneFlow's number of it in its role."""


class KeyAction(enum.StrEnum):
    """The kinds of calls of the Control API."""

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
    """The result of one decision."""

    steps: tuple[KeyStep, ...]
    pins: tuple[Pin, ...]
    """To be remembered, by VMID."""

    findings: tuple[Finding, ...]


def claim(peer: ServiceVm, *, is_node: bool = False) -> Claim:
    """Return a VM's published key and state; its attributes may contain anything.

    `is_node`: OneFlow says that the VM is a SuperNode. This overrides an attribute, which any VM of
    the service can write.
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
    # Flower never accepts an unregistered key again, so its pin is useless.
    kept = {p.vmid: p for p in pins if not _spent(p.key, nodes)}
    for vmid, key in sorted(told.items(), key=lambda pair: _order(pair[0])):
        if vmid not in kept and vmid not in gone and not _spent(key, nodes):
            # A key that was registered before is not the agent's to unregister.
            kept[vmid] = Pin(vmid, key, own=node_of(key, nodes) is None)
        elif vmid in kept and kept[vmid].key != key and not _online(kept[vmid].key, nodes):
            findings.append(_changed(kept[vmid], key, damaged=vmid in damaged))
    leaving = {vmid for vmid in kept if vmid in gone}
    wanted = {p.key: f"VM {p.vmid}" for p in kept.values() if p.vmid not in leaving}
    wanted |= dict.fromkeys(given, "FLOWER_NODE_PUBLIC_KEYS")
    steps = [*_registrations(wanted, nodes)]
    for vmid in sorted(leaving, key=_order):
        pin, node = kept[vmid], node_of(kept[vmid].key, nodes)
        if _online(pin.key, nodes):  # OneGate may be wrong: a connected node stays
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
    """Return whether a key was unregistered, which is permanent."""
    node = node_of(key, nodes)
    return node is not None and node.status is NodeStatus.UNREGISTERED


def _online(key: str, nodes: Mapping[bytes, NodeInfo]) -> bool:
    node = node_of(key, nodes)
    return node is not None and node.status is NodeStatus.ONLINE


def _faults(claims: Collection[Claim]) -> Iterator[Finding]:
    for found in sorted(claims, key=lambda each: _order(each.vmid)):
        if found.fault:
            message = (
                f"VM {found.vmid} publishes a FLOWER_NODE_KEY that is not a key: {found.fault}"
            )
            yield warning("enrol.key_refused", message)
    strange = [c for c in sorted(claims, key=lambda each: _order(each.vmid)) if c.says]
    if strange:
        who = ", ".join(f"VM {c.vmid} publishes {c.says}" for c in strange[:MOST_STRANGERS])
        more = len(strange) - MOST_STRANGERS
        rest = f", and {more} more" if more > 0 else ""
        message = f"VMs of the service publish a FLOWER_ROLE that is not a SuperNode's: {who}{rest}"
        yield warning("enrol.stranger", message)


def _changed(pin: Pin, key: str, *, damaged: bool) -> Finding:
    why = "; it reports that the previous key was damaged" if damaged else ""
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
