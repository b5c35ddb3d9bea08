"""Which SuperNodes of a service refuse their SuperLink's CA, by their own word. Pure.

OneFlow replaces a SuperLink VM that was lost by itself. Without the state of the old one its CA is
new, and every node refuses it, as it must; only the SuperLink sees them all. Any VM of the service
may write any other's attributes: what is read here is shown, and changes nothing.
"""

from collections.abc import Collection, Mapping

from flower_agent.enrolment import policy
from flower_agent.enrolment.policy import Claim
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.model.errors import Finding, warning
from flower_agent.model.state import Pin

CODES = frozenset({"tls.ca_changed", "tls.fingerprint", "endpoint.untrusted"})
"""How FLOWER_ERROR of such a node begins."""

MOST = 5
MOST_IN_LOOP = 200
"""VMs in the command that mends it; the next look names those that are left."""


def refuses(told: Claim) -> bool:
    """Return whether a VM says that it refuses the CA."""
    return told.error.partition(":")[0] in CODES


def finding(
    nodes: Collection[NodeInfo],
    pins: Collection[Pin],
    claims: Mapping[str, Claim],
    members: Collection[str] | None,
    fingerprint: str,
) -> Finding | None:
    """Return the SuperLink's warning; None where no node refuses it.

    `fingerprint` is the CA's that the SuperLink publishes. A node that is connected trusts it,
    whatever it said last.
    """
    known = policy.by_key(nodes)
    connected = {
        pin.vmid
        for pin in pins
        if (node := policy.node_of(pin.key, known)) and node.status is NodeStatus.ONLINE
    }
    here = [
        told
        for vmid, told in claims.items()
        if not told.stranger and (members is None or vmid in members)
    ]
    vmids = sorted(
        (told.vmid for told in here if refuses(told) and told.vmid not in connected),
        key=lambda vmid: (len(vmid), vmid),
    )
    if not vmids:
        return None
    rest = f" and {len(vmids) - MOST} more" if len(vmids) > MOST else ""
    some = ", ".join(f"VM {vmid}" for vmid in vmids[:MOST])
    of = f"{len(vmids)} of {len(here)} SuperNodes of the service"
    message = f"{of} refuse this SuperLink's CA: {some}{rest}"
    return warning("trust.nodes_refuse", message, _hint(vmids, fingerprint))


def _hint(vmids: list[str], fingerprint: str) -> str:
    each = " ".join(vmid for vmid in vmids[:MOST_IN_LOOP] if vmid.isdecimal())
    loop = f"for vm in {each}; do onevm ssh $vm root --cmd 'flower-agent tls trust {fingerprint}'"
    return (
        "If you know why the CA is new, let the nodes trust it, from a machine with OpenNebula's "
        f"commands: {loop}; done"
    )
