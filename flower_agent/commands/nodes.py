"""``flower-agent nodes list``, ``register`` and ``unregister``, on a SuperLink's VM."""

import contextlib
import json
import pathlib

from flower_agent.commands import own_superlink, recording, status
from flower_agent.enrolment import policy
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.model import foreign_text, pem
from flower_agent.model.errors import AgentError
from flower_agent.model.record import Entry, Event
from flower_agent.paths import Paths
from flower_agent.state_file import StateFile

TIMEOUT_S = 10.0
_KEY_MAX_BYTES = 1 << 16


def show(paths: Paths, *, as_json: bool) -> int:
    """Print the SuperNodes that the SuperLink has, with the VM that each key was pinned for."""
    with own_superlink.reach(paths) as own:
        nodes = own.api.list_nodes(TIMEOUT_S)
    pins = StateFile(paths.record).recall(None).pins
    vms = {pem.node_key_pem(pin.key).strip(): pin.vmid for pin in pins}
    names = _names(paths)
    rows = [_row(node, vms.get(node.public_key.strip()), names) for node in nodes]
    if as_json:
        print(json.dumps({"schema": 1, "nodes": rows}, indent=1))
        return 0
    if not rows:
        print("the SuperLink has no SuperNodes")
        return 0
    line = "{:<20}  {:<12}  {:>7}  {:<50}  {}"
    named = any(row["name"] for row in rows)
    print(line.format("SUPERNODE", "STATE", "VM", "KEY", "NAME" if named else "").rstrip())
    for row in rows:
        texts = (row["node_id"], row["status"], row["vmid"] or "-", row["key"], row["name"] or "")
        print(foreign_text.message(line.format(*texts).rstrip()))
    return 0


def register(paths: Paths, text: str) -> int:
    """Register a public key in OpenSSH form, or each of a file; one that is known is no mistake."""
    for key in _keys(text):
        shown = pem.node_key_fingerprint(key)
        with own_superlink.reach(paths) as own:
            with recording.attempted(paths, Entry(what=Event.KEY_REGISTERED, key=shown)) as noted:
                node_id = own.api.register_node(pem.node_key_pem(key), TIMEOUT_S)
                noted.add(node=node_id or "", message="" if node_id else "it is known already")
            if node_id is not None:
                print(f"registered {shown} as node {node_id}")
                continue
            known = policy.node_of(key, policy.by_key(own.api.list_nodes(TIMEOUT_S)))
        if known is None or known.status is NodeStatus.UNREGISTERED:
            raise AgentError("enrol.key_spent", f"{shown} was unregistered")
        print(f"{shown} is known already, as node {known.node_id}")
    return 0


def unregister(paths: Paths, node_id: str) -> int:
    """Unregister a node; its key can never return."""
    entry = Entry(what=Event.KEY_UNREGISTERED, node=node_id)
    with own_superlink.reach(paths) as own, recording.attempted(paths, entry):
        own.api.unregister_node(node_id, TIMEOUT_S)
    print(f"node {node_id} is unregistered; Flower never takes its key again")
    return 0


def _keys(text: str) -> tuple[str, ...]:
    path = pathlib.Path(text)
    with contextlib.suppress(OSError, ValueError):  # a key is no path
        if path.is_file():
            text = path.read_bytes()[:_KEY_MAX_BYTES].decode("utf-8", "replace")
    try:
        return pem.node_keys(text)
    except ValueError as error:
        raise AgentError(
            "enrol.key_refused", f"the argument is neither a key nor a file: {error}"
        ) from None


def _names(paths: Paths) -> dict[str, str | None]:
    """Return the names of VMs that the daemon's status has, by VMID."""
    with contextlib.suppress(AgentError):
        found = (status.document(paths) or {}).get("supernodes") or ()
        return {row["vmid"]: row.get("name") for row in found if row["vmid"]}
    return {}


def _row(node: NodeInfo, vmid: str | None, names: dict[str, str | None]) -> dict[str, str | None]:
    return {
        "node_id": node.node_id,
        "status": str(node.status),
        "vmid": vmid,
        "name": names.get(vmid) if vmid is not None else None,
        "key": _fingerprint(node.public_key),
        "registered_at": node.registered_at,
    }


def _fingerprint(public_key: bytes) -> str:
    try:
        return pem.fingerprint_of_pem(public_key)
    except ValueError:
        return "-"
