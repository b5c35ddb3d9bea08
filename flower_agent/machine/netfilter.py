"""What a packet filter can do to a packet of which not everything is known. Pure.

Netfilter asks every base chain of a hook, each by itself: a packet passes only where all of them
let it pass (nft(8), "Chains"). Whoever sends is not known here, and some matches are not
understood, so a rule may apply, or not, or perhaps. A chain *closes* a port when, however that
turns out, no way through it ends in accept: what cannot be proven is not claimed.
"""

import dataclasses
import enum
import ipaddress
from collections.abc import Iterable, Mapping


class Applies(enum.Enum):
    """Whether a rule's matches fit the packet."""

    NO = 0
    PERHAPS = 1
    YES = 2


class Verdict(enum.Enum):
    """What a rule does with a packet that it fits."""

    ACCEPT = "accept"
    DROP = "drop"
    """Reject, too."""

    NEXT = "next"
    """Nothing that ends the way: a counter, a log line."""

    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"
    ANY = "any"
    """Not understood: it may end the way, either way."""


@dataclasses.dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a TCP connection from somewhere to this machine."""

    host: str
    """Where the service listens: an IP address of this machine, or the any-address."""

    port: int
    interface: str | None
    """The NIC by which it comes; None where several may be."""

    tracked: bool = True
    """Connection tracking sees it, so its state is new."""

    @property
    def family(self) -> str:
        """``ip`` or ``ip6``, as nft names them."""
        return "ip6" if ipaddress.ip_address(self.host).version == 6 else "ip"  # noqa: PLR2004


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule, with its matches judged for one packet."""

    applies: Applies
    verdict: Verdict
    target: str = ""
    """JUMP, GOTO: the chain, as a key of the table's chains."""


@dataclasses.dataclass(frozen=True, slots=True)
class Chain:
    """One chain; `policy` is what a base chain does at its end, None for any other chain."""

    rules: tuple[Rule, ...]
    policy: Verdict | None = None


def closing(chains: Mapping[str, Chain]) -> tuple[str, ...]:
    """Return the names of the base chains that let no such packet pass."""
    return tuple(
        name
        for name, chain in chains.items()
        if chain.policy is not None and Verdict.ACCEPT not in _ends(name, chains, {})
    )


def both(judged: Iterable[Applies]) -> Applies:
    """Return whether all of several matches fit."""
    return min(judged, key=lambda each: each.value, default=Applies.YES)


def negated(judged: Applies) -> Applies:
    """Return whether the opposite of a match fits."""
    return Applies(Applies.YES.value - judged.value)


def known(fits: bool) -> Applies:  # noqa: FBT001
    """Return what is known for sure."""
    return Applies.YES if fits else Applies.NO


_Ends = frozenset[Verdict]
_UNKNOWN = frozenset((Verdict.ACCEPT, Verdict.DROP, Verdict.RETURN))


def _ends(name: str, chains: Mapping[str, Chain], seen: dict[str, _Ends]) -> _Ends:
    """Return all ways in which a chain may end; RETURN stands for its end, or its policy."""
    if name in seen:
        return seen[name]
    if name not in chains:
        return _UNKNOWN
    seen[name] = _UNKNOWN  # the kernel has no loops; a damaged text may
    ends: set[Verdict] = set()
    chain = chains[name]
    through = True
    for rule in chain.rules:
        if rule.applies is Applies.NO:
            continue
        stays = _rule_ends(rule, chains, seen)
        ends |= stays - {Verdict.NEXT}
        if rule.applies is Applies.YES and Verdict.NEXT not in stays:
            through = False
            break
    if through:
        ends.add(Verdict.RETURN)
    if chain.policy is not None and Verdict.RETURN in ends:
        ends = (ends - {Verdict.RETURN}) | {chain.policy}
    seen[name] = frozenset(ends)
    return seen[name]


def _rule_ends(rule: Rule, chains: Mapping[str, Chain], seen: dict[str, _Ends]) -> set[Verdict]:
    """Return how the way may go on behind a rule that applies; NEXT: to the next rule."""
    match rule.verdict:
        case Verdict.ANY:
            return {Verdict.ACCEPT, Verdict.DROP, Verdict.RETURN, Verdict.NEXT}
        case Verdict.JUMP:
            inner = _ends(rule.target, chains, seen)
            return {Verdict.NEXT if end is Verdict.RETURN else end for end in inner}
        case Verdict.GOTO:
            return set(_ends(rule.target, chains, seen))
        case other:
            return {other}
