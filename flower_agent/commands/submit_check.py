"""What an app will find lacking where, looked at before `submit` submits it.

The SuperLink's own image is asked; of the nodes' images there is what they publish at OneGate
(FLOWER_APP_IMAGE). What is not known is said, and nothing here refuses a run.
"""

import contextlib
import time
from collections.abc import Iterator

from flower_agent.config import pem
from flower_agent.errors import AgentError
from flower_agent.memory import Memory
from flower_agent.paths import Paths
from flower_agent.probes.control import NodeInfo, NodeStatus
from flower_agent.runs import run_needs
from flower_agent.runs.bundler import Bundler
from flower_agent.runs.run_app import App
from flower_agent.service import discovery
from flower_agent.service.onegate import OneGate
from flower_agent.steps.engine import Engine, socket_url
from flower_agent.wanted import images, roles
from flower_agent.wanted.containers import Part

from .own_superlink import OwnSuperLink

TIMEOUT_S = 10.0
"""Of one call, and of all looks at OneGate together."""

NODES = 50
"""Nodes that OneGate is asked for at most: a person waits."""


def sentences(
    paths: Paths, name: str, own: OwnSuperLink, app: App, *, of_context: bool
) -> tuple[str, ...]:
    """Return what lacks where. Raises AgentError for what cannot be looked at."""
    engine = Engine(name or "default", url=socket_url())
    with contextlib.closing(engine):
        running = {c.name: c.image for c in engine.containers() if c.mine}
        parts = (Part.SUPEREXEC, Part.SUPERLINK)
        image = next((running[n] for part in parts if (n := roles.name(name, part)) in running), "")
        if not image:
            return ()  # no app runs on this VM
        found = engine.image(image)
        lacks = Bundler(engine).lacking(image, app.dependencies)
    digest = images.pin(image, found) if found is not None else ""
    nodes = tuple(_nodes(paths, own))
    return run_needs.compared(app.dependencies, digest, lacks, nodes, of_context=of_context)


def _nodes(paths: Paths, own: OwnSuperLink) -> Iterator[tuple[str, str | None]]:
    """Yield the name of each connected node, and what its VM publishes about its image."""
    pins = Memory(paths.record).recall(None).pins
    vms = {pem.node_key_pem(pin.key).strip(): pin.vmid for pin in pins}
    online = [n for n in own.api.list_nodes(TIMEOUT_S) if n.status is NodeStatus.ONLINE]
    client = OneGate(own.access) if own.access is not None else None
    end = time.monotonic() + TIMEOUT_S
    for node in online[:NODES]:
        vmid = vms.get(node.public_key.strip())
        if vmid is None or client is None:
            yield _name(node, vmid), None
            continue
        told = _published(client, vmid) if time.monotonic() < end else ""
        yield _name(node, vmid), told


def _name(node: NodeInfo, vmid: str | None) -> str:
    return f"VM {vmid}" if vmid is not None else f"node {node.node_id}"


def _published(client: OneGate, vmid: str) -> str:
    try:
        told = discovery.parse_vm(client.vm(vmid)).attributes
    except AgentError:
        return ""
    return told.get("FLOWER_APP_IMAGE", "").strip('"')
