"""The TCP sockets of this machine, from the text of ``/proc/net/tcp`` and ``tcp6``. Pure.

Format: proc(5) and the kernel's Documentation/networking/proc_net_tcp. Addresses are words in the
processor's byte order, here little-endian (x86-64, arm64). A gRPC server that is bound to
127.0.0.1 appears in ``tcp6`` only, as ``::ffff:127.0.0.1``; it is given as 127.0.0.1.
"""

import dataclasses
import enum
import ipaddress
from collections.abc import Collection, Iterable

from flower_agent.address import is_any


class State(enum.StrEnum):
    """The kernel's TCP states, as it writes them."""

    ESTABLISHED = "01"
    SYN_SENT = "02"
    SYN_RECEIVED = "03"
    FIN_WAIT1 = "04"
    FIN_WAIT2 = "05"
    TIME_WAIT = "06"
    CLOSE = "07"
    CLOSE_WAIT = "08"
    LAST_ACK = "09"
    LISTEN = "0A"
    CLOSING = "0B"
    NEW_SYN_RECEIVED = "0C"


_STATES = {state.value: state for state in State}


@dataclasses.dataclass(frozen=True, slots=True)
class Socket:
    """One line of the kernel's table."""

    local: tuple[str, int]
    """IP address as `ipaddress` writes it, and port."""

    remote: tuple[str, int]
    """The same of the other side; port 0 for a listener."""

    state: State | str


def parse(text: str, ports: Collection[int] = ()) -> tuple[Socket, ...]:
    """Return the sockets in the text of either file; with `ports` those with one at either end.

    Lines of another form are left out. A busy VM has thousands: naming the ports is much cheaper.
    """
    marks = [f":{port:04X} " for port in ports] or [""]
    lines = (line for line in text.splitlines()[1:] if any(mark in line for mark in marks))
    return tuple(found for line in lines if (found := _socket(line.split())))


def listens(sockets: Iterable[Socket], port: int) -> tuple[str, ...]:
    """Return the addresses on which something listens at `port`; 0.0.0.0 and :: are all."""
    return tuple(
        found.local[0]
        for found in sockets
        if found.state is State.LISTEN and found.local[1] == port
    )


def inodes(text: str, port: int) -> frozenset[str]:
    """Return the inodes of the listeners at `port` in the text of either file."""
    rows = (line.split() for line in text.splitlines()[1:] if f":{port:04X} " in line)
    return frozenset(
        row[9]
        for row in rows
        if len(row) > 9 and row[3] == State.LISTEN and row[1].endswith(f":{port:04X}")  # noqa: PLR2004 - proc(5): the tenth column
    )


def taken(sockets: Iterable[Socket], host: str, port: int) -> bool:
    """Tell whether another listener keeps a program from listening at `host` and `port`."""
    return any(found == host or is_any(found) or is_any(host) for found in listens(sockets, port))


def established_to(sockets: Iterable[Socket], addresses: Collection[str], port: int) -> bool:
    """Tell whether a program here holds a connection to `port` at one of the IP `addresses`.

    Which program is not known: the kernel tells it only to the owner of that program.
    """
    hosts = {str(ipaddress.ip_address(address)) for address in addresses}
    return any(
        found.state is State.ESTABLISHED and found.remote[1] == port and found.remote[0] in hosts
        for found in sockets
    )


def accepted(sockets: Iterable[Socket], port: int) -> tuple[str, ...]:
    """Return the other side's address of each connection that a listener at `port` here took."""
    return tuple(
        found.remote[0]
        for found in sockets
        if found.state is State.ESTABLISHED and found.local[1] == port
    )


def _socket(columns: list[str]) -> Socket | None:
    try:
        _, local, remote, state = columns[:4]
        return Socket(_end(local), _end(remote), _STATES.get(state, state))
    except ValueError:
        return None


def _end(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return _host(bytes.fromhex(host)), int(port, 16)


def _host(raw: bytes) -> str:
    words = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    if len(words) == 4:  # noqa: PLR2004  # an IPv4 address; by hand, since a server has thousands
        return ".".join(map(str, words))
    address = ipaddress.IPv6Address(words)
    return str(address.ipv4_mapped or address)
