"""``flower-agent nodes list``, ``register`` and ``unregister``, on a SuperLink's VM."""

import contextlib
import json
import pathlib
from collections.abc import Iterator

from . import enrolment, host, inputs, intake, pem, roles, superlink
from .control import NodeInfo, NodeStatus
from .control_api import Control
from .errors import AgentError
from .keyring import Keyring
from .memory import Memory
from .parsers import Role
from .paths import Paths

TIMEOUT_S = 10.0
_KEY_MAX_BYTES = 1 << 16


def show(paths: Paths, *, as_json: bool) -> int:
    """Print the SuperNodes that the SuperLink has, with the VM that each key was pinned for."""
    with control(paths) as api:
        nodes = api.list_nodes(TIMEOUT_S)
    pins = Memory(paths.record).recall(None).pins
    vms = {pem.node_key_pem(pin.key).strip(): pin.vmid for pin in pins}
    rows = [_row(node, vms.get(node.public_key.strip())) for node in nodes]
    if as_json:
        print(json.dumps({"schema": 1, "nodes": rows}, indent=1))
        return 0
    if not rows:
        print("the SuperLink has no SuperNodes")
        return 0
    line = "{:<20}  {:<12}  {:>7}  {}"
    print(line.format("NODE", "STATUS", "VM", "KEY"))
    for row in rows:
        print(line.format(row["node_id"], row["status"], row["vmid"] or "-", row["key"]))
    return 0


def register(paths: Paths, text: str) -> int:
    """Register a public key in OpenSSH form, or each of a file; one that is known is no mistake."""
    for key in _keys(text):
        shown = pem.node_key_fingerprint(key)
        with control(paths) as api:
            node_id = api.register_node(pem.node_key_pem(key), TIMEOUT_S)
            if node_id is not None:
                print(f"registered {shown} as node {node_id}")
                continue
            known = enrolment.node_of(key, enrolment.by_key(api.list_nodes(TIMEOUT_S)))
        if known is None or known.status is NodeStatus.UNREGISTERED:
            raise AgentError("enrol.key_spent", f"{shown} was unregistered")
        print(f"{shown} is known already, as node {known.node_id}")
    return 0


def unregister(paths: Paths, node_id: str) -> int:
    """Unregister a node; its key can never return."""
    with control(paths) as api:
        api.unregister_node(node_id, TIMEOUT_S)
    print(f"node {node_id} is unregistered; Flower never takes its key again")
    return 0


@contextlib.contextmanager
def control(paths: Paths) -> Iterator[Control]:
    """Give the Control API of this VM's SuperLink.

    Raises AgentError ``setting.conflict`` on a VM that is none, or what is wrong with its context.
    """
    read = inputs.read(paths)
    settings, findings = intake.judge(read)
    if settings is None:
        first = findings[0]
        raise AgentError(first.code, first.message, first.hint)
    if settings.role is not Role.SUPERLINK:
        hint = "Run it on the SuperLink's VM."
        raise AgentError("setting.conflict", f"this VM is a {settings.role}", hint)
    own = superlink.own_address(settings.address, host.observe(), read.variables or {})
    at = roles.endpoints(settings, own).control
    ca_pem = Keyring(paths.tls).held_ca().encode() if settings.tls else None
    name = superlink.published(settings, own).host
    api = Control(at.dial, at.transport, ca_pem, server_hostname=name)
    try:
        yield api
    finally:
        api.close()


def _keys(text: str) -> tuple[str, ...]:
    path = pathlib.Path(text)
    with contextlib.suppress(OSError, ValueError):  # a key is no path
        if path.is_file():
            text = path.read_bytes()[:_KEY_MAX_BYTES].decode("utf-8", "replace")
    try:
        return pem.node_keys(text)
    except ValueError as error:
        raise AgentError(
            "enrol.key_refused", f"that is neither a key nor a file: {error}"
        ) from None


def _row(node: NodeInfo, vmid: str | None) -> dict[str, str | None]:
    return {
        "node_id": node.node_id,
        "status": str(node.status),
        "vmid": vmid,
        "key": _fingerprint(node.public_key),
        "registered_at": node.registered_at,
    }


def _fingerprint(public_key: bytes) -> str:
    try:
        return pem.fingerprint_of_pem(public_key)
    except ValueError:
        return "-"
