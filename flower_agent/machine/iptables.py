"""What `iptables-save` says, as chains judged for one packet. Pure.

iptables-extensions(8) has the options; those that decide about the first packet of a TCP connection
are understood, any other counts as perhaps. nft lists iptables' own matches by name only, hence
this second reading of the same rules.
"""

import ipaddress
import shlex
from collections.abc import Iterator

from flower_agent.address import is_any

from .netfilter import Applies, Chain, Packet, Rule, Verdict, both, known, negated

_HOOKS = ("PREROUTING", "INPUT")
_VERDICTS = {
    "ACCEPT": Verdict.ACCEPT,
    "DROP": Verdict.DROP,
    "REJECT": Verdict.DROP,
    "RETURN": Verdict.RETURN,
}
_IDLE = {
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP", "LOG", "MARK",
    "NFLOG", "NOTRACK", "SECMARK", "SET", "TCPMSS", "TOS", "TRACE", "TTL",
}  # fmt: skip
"""Targets behind which the next rule is asked."""

_TCP = {"tcp", "6", "all", "0"}


def chains(text: str, packet: Packet) -> dict[str, Chain]:
    """Return the chains that `packet` can meet, by table and name with a space between.

    Raises ValueError for a text that is not iptables-save's, or was cut off.
    """
    rules: dict[str, list[Rule]] = {}
    policies: dict[str, Verdict | None] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line == "COMMIT":
            table = ""
        elif line.startswith(":") and table != "nat":
            name, policy = line[1:].split()[:2]
            base = name in _HOOKS and policy in _VERDICTS
            policies[f"{table} {name}"] = _VERDICTS[policy] if base else None
            rules[f"{table} {name}"] = []
        elif line.startswith("-A ") and table != "nat":
            _, name, *words = shlex.split(line)
            if f"{table} {name}" not in rules:
                raise ValueError(f"no chain {name}")
            rules[f"{table} {name}"].append(_rule(table, words, packet))
    if table:
        raise ValueError(f"the table {table} has no end")
    return {name: Chain(tuple(rules[name]), policies[name]) for name in rules}


def _rule(table: str, words: list[str], packet: Packet) -> Rule:
    judged: list[Applies] = []
    for option, values, wrong in _options(words):
        if option in ("-j", "-g", "--jump", "--goto"):
            return _target(table, option, " ".join(values), both(judged))
        fits = _option(option, values, packet)
        judged.append(negated(fits) if wrong else fits)
    return Rule(both(judged), Verdict.NEXT)


def _target(table: str, option: str, name: str, applies: Applies) -> Rule:
    if name in _VERDICTS:
        return Rule(applies, _VERDICTS[name])
    if name in _IDLE:
        return Rule(applies, Verdict.NEXT)
    if name.isupper() and name.isalnum():  # an extension; a chain of that name is as unknown
        return Rule(applies, Verdict.ANY)
    kind = Verdict.GOTO if option in ("-g", "--goto") else Verdict.JUMP
    return Rule(applies, kind, f"{table} {name}")


def _options(words: list[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Yield each option with its values, and whether an exclamation mark stands before it."""
    wrong, at = False, 0
    while at < len(words):
        if words[at] == "!":
            wrong, at = True, at + 1
            continue
        option, start = words[at], at + 1
        at = start
        while at < len(words) and words[at] != "!" and not words[at].startswith("-"):
            at += 1
        yield option, words[start:at], wrong
        wrong = False


def _option(option: str, values: list[str], packet: Packet) -> Applies:  # noqa: PLR0911 - a table
    value = values[0] if values else ""
    match option:
        case "-m" | "--match" | "--comment":
            return Applies.NO if value in ("udp", "icmp", "icmp6") else Applies.YES
        case "-p" | "--protocol":
            return known(value in _TCP)
        case "-i" | "--in-interface":
            return _interface(value, packet)
        case "-d" | "--destination":
            return _destination(value, packet)
        case "--dport" | "--dports":
            return _ports(value, packet)
        case "--ctstate" | "--state":
            return known("NEW" in value.split(",")) if packet.tracked else Applies.PERHAPS
        case "--dst-type":
            return known("LOCAL" in value.split(","))
        case "--syn":
            return Applies.YES
        case _:
            return Applies.PERHAPS


def _interface(value: str, packet: Packet) -> Applies:
    if packet.interface is None:
        return Applies.NO if value == "lo" else Applies.PERHAPS
    if value.endswith("+"):
        return known(packet.interface.startswith(value[:-1]))
    return known(packet.interface == value)


def _destination(value: str, packet: Packet) -> Applies:
    if is_any(packet.host):
        return Applies.PERHAPS
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return Applies.PERHAPS
    return known(ipaddress.ip_address(packet.host) in network)


def _ports(value: str, packet: Packet) -> Applies:
    for part in value.split(","):
        low, _, high = part.partition(":")
        if not low.isdecimal() or (high and not high.isdecimal()):
            return Applies.PERHAPS
        if int(low) <= packet.port <= int(high or low):
            return Applies.YES
    return Applies.NO
