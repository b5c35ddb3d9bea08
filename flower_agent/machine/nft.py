"""What `nft -j list ruleset` says, as chains judged for one packet. Pure.

The format: libnftables-json(5). Only what decides about the first packet of a TCP connection is
understood; anything else counts as perhaps.
"""

import ipaddress
import json
from collections.abc import Iterator, Mapping
from typing import Any

from flower_agent.address import is_any

from .netfilter import Applies, Chain, Packet, Rule, Verdict, both, known, negated

_HOOKS = ("prerouting", "input")
_VERDICTS = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.DROP,
    "return": Verdict.RETURN,
    "continue": Verdict.NEXT,
    "jump": Verdict.JUMP,
    "goto": Verdict.GOTO,
}
_IDLE = {"counter", "log", "mangle", "notrack", "ct helper", "ct timeout", "comment"}
_LAYER_4 = {"tcp", "th"}
_ELSEWHERE = {"udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp", "esp", "ah", "arp"}


class _Unknown:
    """The value of something that this packet has and nobody here knows."""


_UNKNOWN = _Unknown()
_ABSENT = None
"""The packet has no such thing, so no match for it fits."""


def chains(text: str, packet: Packet, asleep: str = "") -> dict[str, Chain]:
    """Return the chains that `packet` can meet, by family, table and name with spaces between.

    `asleep` has a line ``table FAMILY NAME {`` for each table that is switched off (dormant), as
    nft lists them without JSON; version 1.0.6 tells it nowhere else. Raises ValueError for a text
    that is not nft's.
    """
    try:
        entries = json.loads(text)["nftables"]
        rules: dict[str, list[Rule]] = {}
        policies: dict[str, Verdict | None] = {}
        off = {tuple(line.split()[1:3]) for line in asleep.splitlines()}
        for entry in entries:
            if "chain" in entry and entry["chain"]["family"] in (packet.family, "inet"):
                found = entry["chain"]
                name = _name(found, found["name"])
                policies[name] = None if _table(found) in off else _policy(found)
                rules.setdefault(name, [])
            elif "rule" in entry and _name(entry["rule"], entry["rule"]["chain"]) in rules:
                found = entry["rule"]
                rules[_name(found, found["chain"])].extend(_rules(found, packet))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of nftables: {error!r}") from error
    return {name: Chain(tuple(rules[name]), policies[name]) for name in rules}


def _name(entry: Mapping[str, Any], chain: str) -> str:
    return f"{entry['family']} {entry['table']} {chain}"


def _table(entry: Mapping[str, Any]) -> tuple[str, str]:
    return entry["family"], entry["table"]


def _policy(chain: Mapping[str, Any]) -> Verdict | None:
    """Return the policy of a base chain that sees the packet; address translation drops nothing."""
    if chain.get("hook") not in _HOOKS or chain.get("type") == "nat":
        return None
    return _VERDICTS[chain.get("policy", "accept")]


def _rules(rule: Mapping[str, Any], packet: Packet) -> Iterator[Rule]:
    """Yield what one rule comes to: one for each statement that may end the way."""
    judged: list[Applies] = []
    for statement in rule.get("expr", ()):
        ((name, value),) = statement.items()
        if name == "match":
            judged.append(_match(value, packet))
        elif name in _VERDICTS:
            target = _name(rule, value["target"]) if name in ("jump", "goto") else ""
            yield Rule(both(judged), _VERDICTS[name], target)
        elif name == "vmap":
            yield from _verdict_map(rule, value, both(judged), packet)
        elif name == "limit" or (name == "xt" and value and value.get("type") == "match"):
            judged.append(Applies.PERHAPS)
        elif name not in _IDLE:
            yield Rule(both(judged), Verdict.ANY)
            judged.append(Applies.PERHAPS)


def _verdict_map(
    rule: Mapping[str, Any], value: Mapping[str, Any], before: Applies, packet: Packet
) -> Iterator[Rule]:
    """Yield a rule for each element of a map; a named one's are not listed."""
    data = value.get("data")
    elements = data.get("set") if isinstance(data, dict) else None
    if not isinstance(elements, list):
        yield Rule(before, Verdict.ANY)
        return
    left = _left(value["key"], packet)
    for key, outcome in elements:
        ((name, target),) = outcome.items()
        where = _name(rule, target["target"]) if target else ""
        yield Rule(both((before, _equal(left, key))), _VERDICTS[name], where)


def _match(value: Mapping[str, Any], packet: Packet) -> Applies:
    left, right = _left(value["left"], packet), value["right"]
    match value["op"]:
        case "==":
            return _equal(left, right)
        case "in" if isinstance(right, list):  # a set of flags: any of them
            return known(left in right) if isinstance(left, str) else _perhaps(left)
        case "in":
            return _equal(left, right)
        case "!=":
            return Applies.NO if left is _ABSENT else negated(_equal(left, right))
        case _:
            return _perhaps(left)


def _left(expression: Any, packet: Packet) -> Any:  # noqa: PLR0911 - a table
    """Return what the packet has there."""
    if not isinstance(expression, dict):
        return _UNKNOWN
    match expression:
        case {"meta": {"key": "iifname" | "iif"}}:
            return packet.interface or _SOME_NIC
        case {"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip", "field": "protocol"}}:
            return "tcp" if "meta" in expression or packet.family == "ip" else _ABSENT
        case {"meta": {"key": "nfproto"}}:
            return {"ip": "ipv4", "ip6": "ipv6"}[packet.family]
        case {"meta": {"key": "protocol"}}:
            return packet.family
        case {"ct": {"key": "state"}}:
            return "new" if packet.tracked else _UNKNOWN
        case {"ct": {"key": "status"}}:
            return ""  # neither answered nor translated
        case {"fib": {"result": "type", "flags": flags}} if "daddr" in flags:
            return "local"
        case {"payload": {"protocol": protocol, "field": field}}:
            return _payload(protocol, field, packet)
        case _:
            return _UNKNOWN


def _payload(protocol: str, field: str, packet: Packet) -> Any:
    if protocol in _LAYER_4 and field == "dport":
        return packet.port
    if protocol in _ELSEWHERE or (protocol in ("ip", "ip6") and protocol != packet.family):
        return _ABSENT
    if protocol == packet.family and field == "daddr" and not is_any(packet.host):
        return ipaddress.ip_address(packet.host)
    return _UNKNOWN


_SOME_NIC = _Unknown()


def _perhaps(left: Any) -> Applies:
    return Applies.NO if left is _ABSENT else Applies.PERHAPS


def _equal(left: Any, right: Any) -> Applies:  # noqa: PLR0911 - a table
    """Tell whether what the packet has is `right`, or one of it."""
    if left is _ABSENT:
        return Applies.NO
    if left is _SOME_NIC and right == "lo":
        return Applies.NO
    if isinstance(left, _Unknown) or (isinstance(right, str) and right.startswith("@")):
        return Applies.PERHAPS
    match right:
        case {"set": list(elements)} | list(elements):
            return negated(both(negated(_equal(left, each)) for each in elements))
        case {"elem": {"val": value}}:
            return _equal(left, value)
        case {"range": [low, high]}:
            return _between(left, low, high)
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return _inside(left, f"{address}/{length}")
        case _:
            return _same(left, right)


def _between(left: Any, low: Any, high: Any) -> Applies:
    try:
        kind = type(left) if isinstance(left, int) else ipaddress.ip_address
        return known(kind(low) <= left <= kind(high))
    except (ValueError, TypeError):
        return Applies.PERHAPS


def _inside(left: Any, network: str) -> Applies:
    try:
        return known(left in ipaddress.ip_network(network, strict=False))
    except (ValueError, TypeError, AttributeError):
        return Applies.PERHAPS


def _same(left: Any, right: Any) -> Applies:
    if isinstance(left, str) and isinstance(right, str):
        if right.endswith("*"):
            return known(left.startswith(right[:-1]))
        return known(left == right)
    if isinstance(left, int) and isinstance(right, int):
        return known(left == right)
    if isinstance(right, str) and not isinstance(left, int):  # an address
        return _inside(left, right)
    return Applies.PERHAPS  # a service by name: nft lists numbers
