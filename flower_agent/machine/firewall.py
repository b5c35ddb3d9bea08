"""Whether rules of a packet filter close a port, and whose they are. Pure.

The rules come as `packet_filter` has them: what each program lists behind a line with its name.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

from flower_agent.address import Address, is_any
from flower_agent.errors import Finding, warning

from . import iptables, netfilter, nft
from .netfilter import Packet

HEAD = "== "
"""Begins the line with the name of a program."""

OPEN = {
    "firewalld": (
        "Open it to the federation's subnet: firewall-cmd --permanent --add-rich-rule='rule "
        "family={ip} source address=SUBNET port port={port} protocol=tcp accept', then: "
        "firewall-cmd --reload"
    ),
    "ufw": "Open it to the federation's subnet: ufw allow proto tcp from SUBNET to any port {port}",
}
"""The remedy where it is known whose rules they are."""


def judge(rules: str, first: Packet) -> Finding | None:
    """Return the warning ``firewall.drops`` where no such packet can pass."""
    first = dataclasses.replace(first, tracked="notrack" not in rules.lower())
    for program, chains in _readings(rules, first):
        for name in netfilter.closing(chains):
            owner = _owner(name, chains)
            where = f"{owner or program} (chain {name})"
            hint = OPEN[owner].format(port=first.port, ip=_IP[first.family]) if owner else ""
            at = f"TCP port {first.port}" if is_any(first.host) else Address(first.host, first.port)
            return warning("firewall.drops", f"{where} lets nobody reach {at}", hint)
    return None


_IP = {"ip": "ipv4", "ip6": "ipv6"}
_IPTABLES = {"ip": "iptables", "ip6": "ip6tables"}


def _readings(rules: str, first: Packet) -> Iterator[tuple[str, dict[str, netfilter.Chain]]]:
    """Yield what each program told; a format that nobody here knows proves nothing."""
    told = dict(_sections(rules))
    with contextlib.suppress(ValueError):
        if "nft" in told:
            yield "nftables", nft.chains(told["nft"], first, told.get("asleep", ""))
    program = _IPTABLES[first.family]
    with contextlib.suppress(ValueError):
        yield program, iptables.chains(told.get(program, ""), first)


def _sections(rules: str) -> Iterator[tuple[str, str]]:
    name, lines = "", list[str]()
    for line in (*rules.splitlines(), HEAD):
        if not line.startswith(HEAD.rstrip()):
            lines.append(line)
            continue
        if name and lines:
            yield name, "\n".join(lines)
        name, lines = line[len(HEAD) :], []


def _owner(name: str, chains: dict[str, netfilter.Chain]) -> str:
    if " firewalld " in name:
        return "firewalld"
    table = name.rpartition(" ")[0]
    return "ufw" if any(each.startswith(f"{table} ufw") for each in chains) else ""
