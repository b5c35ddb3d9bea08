"""How often one address may try, and where it counts. Pure but for the clock that it is given."""

import collections
import dataclasses
import ipaddress
from collections.abc import Callable, Mapping

ORIGIN = "x-forwarded-for"
ORIGIN_MAX = 64
KEYS_MAX = 4096
"""Addresses that are remembered; the one that was quiet longest is forgotten first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """So many tries in a span of seconds."""

    tries: int
    span_s: float


WRONG_PASSWORDS = Limit(10, 300.0)
"""An address, and apart from it an account at one address."""

LOGINS = Limit(20, 300.0)
"""``flwr login`` and browsers' codes of one address."""

REFUSED_TOKENS = Limit(120, 60.0)
"""Unknown tokens and device codes of one address; clients poll every five seconds."""


class Attempts:
    """The tries of each address within a limit."""

    def __init__(self, limit: Limit, now: Callable[[], float]) -> None:
        self._limit = limit
        self._now = now
        self._tries: collections.OrderedDict[str, list[float]] = collections.OrderedDict()

    def spent(self, origin: str) -> bool:
        """Return whether an address has used up its tries."""
        return len(self._recent(network(origin))) >= self._limit.tries

    def count(self, origin: str) -> None:
        """Count one try."""
        key = network(origin)
        recent = self._recent(key)[-self._limit.tries :]
        self._tries[key] = [*recent, self._now()]
        self._tries.move_to_end(key)
        while len(self._tries) > KEYS_MAX:
            self._tries.popitem(last=False)

    def clear(self, origin: str) -> None:
        """Forget an address's tries: it has shown who it is."""
        self._tries.pop(network(origin), None)

    def _recent(self, key: str) -> list[float]:
        oldest = self._now() - self._limit.span_s
        return [moment for moment in self._tries.get(key, ()) if moment > oldest]


def origin(headers: Mapping[str, str]) -> str:
    """Return a client's address: HAProxy writes it and removes what a client says of itself."""
    return headers.get(ORIGIN, "")[:ORIGIN_MAX]


def network(address_text: str) -> str:
    """Return what counts as one: an IPv4 address, or the /64 that a household of IPv6 has."""
    try:
        address = ipaddress.ip_address(address_text)
    except ValueError:
        return address_text[:ORIGIN_MAX]
    if address.version == 4:  # noqa: PLR2004  # of the Internet Protocol
        return str(address)
    mapped = address.ipv4_mapped
    if mapped is not None:
        return str(mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
