"""What ``doctor`` makes of what a firewall's own tool says of the Fleet port. Pure.

It looks for the port in what the tool lists, and evaluates no rule: sets, marks and senders decide,
too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from flower_agent.address import Address
from flower_agent.errors import warning
from flower_agent.machine import firewall

from .verdicts import Check, found, skipped, well

NAME = "firewall"
FLEET_PORT = 9092
"""What the package's service flower-fleet of firewalld opens."""

_PORTS = re.compile(r"([0-9]{1,5})(?:[-:]([0-9]{1,5}))?")


def judge(outputs: Mapping[str, str], listens: Address) -> Check:
    """Judge the outputs of `firewall_tools.ask_tools`, of the firewall that is in charge."""
    lines = {name: [line.strip() for line in text.splitlines()] for name, text in outputs.items()}
    if "firewalld" in lines:
        return _firewalld(lines["firewalld"], listens)
    if "Status: active" in lines.get("ufw", ()):
        return _ufw(lines["ufw"], listens)
    if "nftables" in lines:
        return _nftables(lines["nftables"], listens)
    return skipped(NAME, "no tool of a firewall answers here; root may ask firewall-cmd, ufw, nft")


def _firewalld(lines: list[str], listens: Address) -> Check:
    zone = f"firewalld, zone {lines[0].partition(' ')[0]}" if lines else "firewalld"
    for line in lines:
        key, _, rest = line.partition(":")
        service = listens.port == FLEET_PORT and "flower-fleet" in line
        rule = line.startswith("rule ") and line.endswith(" accept")
        if (
            line == "target: ACCEPT"
            or (key == "services" and service)
            or (key == "ports" and _among(rest.split(), listens.port))
            or (rule and (service or f'port port="{listens.port}"' in line))
        ):
            return well(NAME, f"{zone}: {line}")
    what = f"neither ports nor services nor rules name TCP port {listens.port}"
    return _closed("firewalld", f"{zone}: {what}", listens)


def _ufw(lines: list[str], listens: Address) -> Check:
    for line in lines:
        target, allows, _ = line.partition(" ALLOW")
        wide = target.startswith("Anywhere") or _among(target.split(), listens.port)
        if "allow (incoming)" in line or (allows and wide):
            return well(NAME, f"ufw: {' '.join(line.split())}")
    return _closed("ufw", f"ufw is active and allows no TCP port {listens.port}", listens)


def _nftables(lines: list[str], listens: Address) -> Check:
    policies = dict(_policies(lines))
    drops = ", ".join(chain for chain, policy in policies.items() if policy == "drop")
    if not drops:
        shown = ", ".join(policies)
        text = f"policy accept in {shown}; its rules are not judged" if shown else "no input chain"
        return well(NAME, f"nftables: {text}")
    for line in lines:
        _, named, ports = line.partition("tcp dport ")
        if named and line.endswith("accept") and _among(re.split(r"[ ,]+", ports), listens.port):
            return well(NAME, f"nftables: policy drop in {drops}, but: {line}")
    what = f"policy drop in {drops}, and no rule accepts TCP port {listens.port} by its number"
    return _closed("nftables", f"nftables: {what}", listens)


def _policies(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each chain at the input hook, with its table, and its policy."""
    table = chain = ""
    for line in lines:
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif "hook input" in line:
            yield f"{table} {chain}", "drop" if "policy drop" in line else "accept"


def _among(words: Iterable[str], port: int) -> bool:
    """Tell whether TCP ports as the tools write them hold `port`: 22, 80,443/tcp, 9000-9100."""
    for word in words:
        numbers, _, protocol = word.partition("/")
        for each in numbers.split(",") if protocol in ("", "tcp") else ():
            ends = _PORTS.fullmatch(each)
            if ends and int(ends[1]) <= port <= int(ends[2] or ends[1]):
                return True
    return False


def _closed(name: str, what: str, listens: Address) -> Check:
    return found(NAME, warning("firewall.drops", what, firewall.remedy(name, listens)))
