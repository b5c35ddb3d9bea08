"""Whether this machine holds a connection to another, which may be given by its name.

The kernel knows addresses only, and a resolver that is dead takes ten seconds to say so: names are
looked up in the background, and only while no connection to a known address is seen. What a name
once was counts on, since a connection outlives its name.
"""

import socket
from collections.abc import Callable

from flower_agent.background import Background, Threads, after_failure
from flower_agent.host import machine, network
from flower_agent.model import address
from flower_agent.model.address import Address

RETRY_S = 2.0


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
        threads: Threads,
        *,
        resolve: Callable[[str], frozenset[str]] = resolved,
        scale: float = 1.0,
    ) -> None:
        self._resolve = resolve
        self._lookup: Background[str, frozenset[str]] = Background(
            threads, "resolve", after_failure(RETRY_S * scale), good_for_s=RETRY_S * scale
        )
        self._host = ""
        self._known: frozenset[str] = frozenset()

    def held(self, peer: Address, *, now: float) -> bool:
        """Return whether a connection to `peer` is held; `now` is monotonic seconds.

        A name that was never looked up has none yet: the end of the look wakes the loop.
        """
        name, resolve = peer.host, self._resolve
        if address.is_ip(name):
            return _connected(peer, frozenset({name}))
        if self._host != name:
            self._host, self._known = name, frozenset()
        ended = self._lookup.take(name, now)
        if ended is not None and ended.answer is not None:
            self._known |= ended.answer
        if _connected(peer, self._known):
            return True
        self._lookup.ask(name, lambda: resolve(name), now)
        return False


def _connected(peer: Address, addresses: frozenset[str]) -> bool:
    return network.established_to(machine.read_sockets(ports={peer.port}), addresses, peer.port)
