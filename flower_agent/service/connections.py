"""Whether this machine holds a connection to another, which may be given by its name.

The kernel knows addresses only, and a resolver that is dead takes ten seconds to say so: names are
looked up as an errand, and only while no connection to a known address is seen. What a name once
was counts on, since a connection outlives its name.
"""

import socket
from collections.abc import Callable

from flower_agent import address
from flower_agent.address import Address
from flower_agent.errands import Errands
from flower_agent.machine import host, sockets

RETRY_S = 2.0
_ERRAND = "resolve"


def resolved(name: str) -> frozenset[str]:
    """Return the addresses of a host; empty when it cannot be resolved."""
    try:
        rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(row[4][0]) for row in rows)


class Connections:
    """Connections to one peer at a time; `held` returns at once."""

    def __init__(
        self,
        errands: Errands,
        *,
        resolve: Callable[[str], frozenset[str]] = resolved,
        scale: float = 1.0,
    ) -> None:
        self._errands = errands
        self._resolve = resolve
        self._scale = scale
        self._host = ""
        self._known: frozenset[str] = frozenset()
        self._next_look = 0.0

    def held(self, peer: Address, *, now: float) -> bool:
        """Tell whether a connection to `peer` is held; `now` is monotonic seconds.

        A name that was never looked up has none yet: the errand's end wakes the loop.
        """
        if address.is_ip(peer.host):
            return _connected(peer, frozenset({peer.host}))
        if self._host != peer.host:
            self._host, self._known, self._next_look = peer.host, frozenset(), 0.0
        self._take(now)
        if _connected(peer, self._known):
            return True
        if now >= self._next_look:
            name, resolve = peer.host, self._resolve
            self._errands.start(_ERRAND, lambda: (name, resolve(name)))
        return False

    def _take(self, now: float) -> None:
        done = self._errands.take(_ERRAND)
        if done is None:
            return
        name, found = done.value if done.error is None else (self._host, frozenset())
        if name == self._host:
            self._known |= found
            self._next_look = now + RETRY_S * self._scale


def _connected(peer: Address, addresses: frozenset[str]) -> bool:
    return sockets.established_to(host.read_sockets(ports={peer.port}), addresses, peer.port)
