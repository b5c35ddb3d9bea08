"""Which firewall is active on this VM, and when that is worth a warning. Pure.

Rules are not evaluated: what a packet meets depends on sets, marks and senders that nobody here
knows. A firewall that is active is a reason to look at it when SuperNodes do not come.
"""

import re

from flower_agent.address import Address
from flower_agent.errors import Finding, warning

UNITS = ("firewalld", "ufw", "nftables")
PATIENCE_S = 120.0
"""So long none of the expected SuperNodes is connected before an active firewall is named."""

OPEN = {
    "firewalld": (
        "Open it to the federation's subnet: firewall-cmd --permanent --add-rich-rule='rule "
        "family={ip} source address=SUBNET port port={port} protocol=tcp accept', then: "
        "firewall-cmd --reload"
    ),
    "ufw": "Open it to the federation's subnet: ufw allow proto tcp from SUBNET to any port {port}",
}
"""The remedy by firewall; the catalogue has that for rules of nftables."""


def active(states: str, ufw_conf: str) -> tuple[str, ...] | None:
    """Return those of `UNITS` that are active; None where systemd did not answer.

    `states` is what ``systemctl is-active`` prints for them. The unit of ufw is active even where
    ufw is switched off, so its own configuration counts, too.
    """
    lines = states.split()
    if len(lines) != len(UNITS):
        return None
    on = re.search(r"^ENABLED=[\"']?yes\b", ufw_conf, re.IGNORECASE | re.MULTILINE)
    pairs = zip(UNITS, lines, strict=True)
    return tuple(name for name, state in pairs if state == "active" and (name != "ufw" or on))


def describe(names: tuple[str, ...]) -> str:
    """Return the fact for a person."""
    if not names:
        return f"none is active of {', '.join(UNITS)}"
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} active"


def absent_since(before: float | None, now: float, *, expected: int, online: int) -> float | None:
    """Return since when SuperNodes are expected and none is connected; None where it is not so."""
    if online or not expected:
        return None
    return now if before is None else before


def drops(names: tuple[str, ...], listens: Address, expected: int) -> Finding:
    """Return the warning ``firewall.drops`` for SuperNodes that do not come."""
    nodes = f"none of {expected} expected SuperNodes" if expected > 1 else "no expected SuperNode"
    message = f"{describe(names)} and {nodes} is connected: it may close TCP port {listens.port}"
    return warning("firewall.drops", message, remedy(names[0], listens))


def remedy(name: str, listens: Address) -> str:
    """Return what opens the port in this firewall; empty for the catalogue's words."""
    ip = "ipv6" if ":" in listens.host else "ipv4"
    return OPEN.get(name, "").format(ip=ip, port=listens.port)
