"""Whether the kernel's packet filter lets a port in, as far as that can be said. Pure.

The text is that of ``nft -j list ruleset`` (libnftables-json(5)). Rules that iptables made hide
their matches from it ("xt"), and then nothing is said.
"""

import enum
from collections.abc import Iterator, Mapping
from typing import Any


class Way(enum.StrEnum):
    """What becomes of a new TCP connection."""

    OPEN = "open"
    DROPPED = "dropped"
    UNSURE = "unsure"


def judge(ruleset: Any, port: int) -> tuple[Way, str]:
    """Return what becomes of a connection to `port`, and the table that decides.

    Only what is plain: a filter chain on input whose policy is to drop, and no rule of its table
    that accepts that port. Raises ValueError for what is not nft's JSON.
    """
    chains, rules = list(_named(ruleset, "chain")), list(_named(ruleset, "rule"))
    for chain in chains:
        if chain.get("hook") != "input" or chain.get("policy") != "drop":
            continue
        table = (chain.get("family"), chain.get("table"))
        inside = [rule for rule in rules if (rule.get("family"), rule.get("table")) == table]
        name = " ".join(map(str, table))
        if any(_accepts(rule, port) for rule in inside):
            continue
        if any("xt" in part for rule in inside for part in _parts(rule)):
            return Way.UNSURE, name
        return Way.DROPPED, name
    return Way.OPEN, ""


def _named(ruleset: Any, kind: str) -> Iterator[Mapping[str, Any]]:
    try:
        yield from (entry[kind] for entry in ruleset["nftables"] if kind in entry)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a ruleset of nft: {error!r}") from error


def _accepts(rule: Mapping[str, Any], port: int) -> bool:
    parts = _parts(rule)
    ports = [part["match"]["right"] for part in parts if _is_port(part)]
    accepted = any("accept" in part for part in parts)
    return accepted and bool(ports) and all(_holds(found, port) for found in ports)


def _parts(rule: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [part for part in rule.get("expr") or () if isinstance(part, dict)]


def _is_port(part: Mapping[str, Any]) -> bool:
    match = part.get("match") or {}
    left = match.get("left")
    payload = left.get("payload") if isinstance(left, dict) else None
    return (
        isinstance(payload, dict)
        and (payload.get("protocol"), payload.get("field")) in (("tcp", "dport"), ("th", "dport"))
        and match.get("op") in ("==", "in")
    )


def _holds(found: Any, port: int) -> bool:
    """Tell whether nft's value, a number, a range or a set of them, holds a port."""
    if isinstance(found, dict) and "set" in found:
        return any(_holds(each, port) for each in found["set"])
    if isinstance(found, dict) and "range" in found:
        low, high = found["range"]
        return int(low) <= port <= int(high)
    return bool(found == port)
