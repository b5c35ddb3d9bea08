"""NICs and TCP sockets of this machine, and which address Flower's Fleet API gets. Pure.

File formats: the kernel's ``/proc/net/route``, ``ipv6_route`` and ``if_inet6``. OpenNebula names
NICs by position (``ETH0_MAC``); the guest may name them otherwise, so they meet by MAC.

Format: proc(5) and the kernel's Documentation/networking/proc_net_tcp. Addresses are words in the
processor's byte order, here little-endian (x86-64, arm64). A gRPC server that is bound to
127.0.0.1 appears in ``tcp6`` only, as ``::ffff:127.0.0.1``; it is given as 127.0.0.1.
"""

import dataclasses
import enum
import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from flower_agent.model.address import is_any, is_ip, is_loopback
from flower_agent.model.errors import AgentError


class TcpState(enum.StrEnum):
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


_STATES = {state.value: state for state in TcpState}


@dataclasses.dataclass(frozen=True, slots=True)
class Socket:
    """One line of the kernel's table."""

    local: tuple[str, int]
    """IP address as `ipaddress` writes it, and port."""

    remote: tuple[str, int]
    """The same of the other side; port 0 for a listener."""

    state: TcpState | str


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
        if found.state is TcpState.LISTEN and found.local[1] == port
    )


def inodes(text: str, port: int) -> frozenset[str]:
    """Return the inodes of the listeners at `port` in the text of either file."""
    rows = (line.split() for line in text.splitlines()[1:] if f":{port:04X} " in line)
    return frozenset(
        row[9]
        for row in rows
        if len(row) > 9 and row[3] == TcpState.LISTEN and row[1].endswith(f":{port:04X}")  # noqa: PLR2004 - proc(5): the tenth column
    )


def taken(sockets: Iterable[Socket], host: str, port: int) -> bool:
    """Return whether another listener keeps a program from listening at `host` and `port`."""
    return any(found == host or is_any(found) or is_any(host) for found in listens(sockets, port))


def established_to(sockets: Iterable[Socket], addresses: Collection[str], port: int) -> bool:
    """Return whether a program here holds a connection to `port` at one of the IP `addresses`.

    The program is not known: the kernel shows it only to the program's owner.
    """
    hosts = {str(ipaddress.ip_address(address)) for address in addresses}
    return any(
        found.state is TcpState.ESTABLISHED and found.remote[1] == port and found.remote[0] in hosts
        for found in sockets
    )


def accepted(sockets: Iterable[Socket], port: int) -> tuple[str, ...]:
    """Return the other side's address of each connection that a listener at `port` here took."""
    return tuple(
        found.remote[0]
        for found in sockets
        if found.state is TcpState.ESTABLISHED and found.local[1] == port
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


_VIRTUAL = re.compile(r"lo|docker.*|veth.*|br-.*")
"""Docker's own: an address of these is never one that another VM can dial."""

_ALIAS = re.compile(r"ETH\d{1,4}_ALIAS\d{1,4}_IP6?")
"""Context variables that hold an alias's address."""

_MTU_DIGITS = 5
UNCONFIGURED = (
    "Nothing has configured the NIC. Read: journalctl -b | grep one-context; ip -br address. Then "
    "set NETCFG_TYPE in the CONTEXT to what the image runs: interfaces, netplan, networkd, nm."
)

_ROUTE_UP, _ROUTE_REJECT = 0x0001, 0x0200
_UNFIT = 0x08 | 0x40
"""if_inet6 flags: duplicate found, still checked for duplicates."""

_SHORT_LIVED = 0x01 | 0x20
"""if_inet6 flags: temporary (privacy), deprecated."""


@dataclasses.dataclass(frozen=True, slots=True)
class Interface:
    """A network interface."""

    name: str
    mac: str
    """Lower case with colons; empty when it has none."""

    addresses: tuple[str, ...]
    """IPv4 first, in the kernel's order; short-lived IPv6 addresses last."""

    mtu: int = 0
    """The largest packet that it sends; 0 if the kernel does not say."""

    @property
    def fleet(self) -> tuple[str, ...]:
        """The addresses that other machines can dial; none for Docker's bridges."""
        if _VIRTUAL.fullmatch(self.name):
            return ()
        return tuple(text for text in self.addresses if _is_global(text))


def fleet_address(
    wanted: str | None,
    interfaces: tuple[Interface, ...],
    default_interface: str | None,
    context: Mapping[str, str],
) -> str:
    """Return the IP address on which the Fleet API listens.

    `wanted` is FLOWER_ADDRESS: an address of this VM, a loopback or any-address, or ``ETHn`` or
    ``ETHn_ALIASm`` of the context; None means the NIC of the default route, else the context's only
    NIC. Raises AgentError ``address.…``; only a NIC that the context lacks cannot come up by
    itself.
    """
    if wanted is None:
        return _obvious(interfaces, default_interface, context)
    if is_ip(wanted):
        return _own(wanted, interfaces)
    nics = _context_nics(interfaces, context)
    name = wanted.upper()
    if "_ALIAS" in name:
        return _own(_alias(name, context), interfaces, name)
    if name not in nics:
        known = ", ".join(nics) or "none"
        raise AgentError(
            "address.unknown", f"FLOWER_ADDRESS is {wanted}, but the context's NICs are: {known}"
        )
    if not nics[name]:
        mac = context[f"{name}_MAC"]
        raise AgentError(
            "address.unknown",
            f"FLOWER_ADDRESS is {wanted}, but the NIC with MAC {mac} has no address yet",
            retryable=True,
        )
    return nics[name][0]


def mtus(
    interfaces: tuple[Interface, ...], context: Mapping[str, str]
) -> tuple[tuple[str, Interface, int], ...]:
    """Return each ``ETHn`` with an ``ETHn_MTU`` in the context, with its NIC and that number."""
    found = []
    for name in sorted(_context_nics(interfaces, context), key=lambda text: int(text[3:])):
        told, mac = context.get(f"{name}_MTU", "").strip(), context[f"{name}_MAC"].lower()
        if told.isascii() and told.isdecimal() and len(told) <= _MTU_DIGITS:
            nics = [nic for nic in interfaces if nic.mac == mac and nic.mtu]
            found += [(name, nic, int(told)) for nic in nics]
    return tuple(found)


def default_route(route: str, ipv6_route: str) -> str | None:
    """Return the interface of the default route, IPv4 before IPv6, lowest metric first."""
    candidates = sorted([*_default_ipv4(route), *_default_ipv6(ipv6_route)])
    return candidates[0][2] if candidates else None


def rival_routes(route: str, ipv6_route: str) -> tuple[str, ...]:
    """Return the interfaces whose default routes are as good as that of `default_route`.

    The kernel takes one of them, and nothing says which.
    """
    candidates = sorted({*_default_ipv4(route), *_default_ipv6(ipv6_route)})
    best = [name for *rank, name in candidates if rank == list(candidates[0][:2])]
    return tuple(dict.fromkeys(best)) if len(set(best)) > 1 else ()


def ipv6_addresses(if_inet6: str) -> tuple[tuple[str, str], ...]:
    """Return (interface, address) pairs, lasting ones first."""
    found = []
    for line in if_inet6.splitlines():
        raw, _, _, _, flags, name = line.split()
        if not int(flags, 16) & _UNFIT:
            address = str(ipaddress.IPv6Address(int(raw, 16)))
            found.append((bool(int(flags, 16) & _SHORT_LIVED), (name, address)))
    return tuple(pair for _, pair in sorted(found, key=lambda each: each[0]))


def _obvious(
    interfaces: tuple[Interface, ...], default_interface: str | None, context: Mapping[str, str]
) -> str:
    for interface in interfaces:
        if interface.name == default_interface and interface.fleet:
            return interface.fleet[0]
    # One that has lost its address for a moment counts too: else the other NIC would be "the only".
    given = list(_context_nics(interfaces, context).values())
    candidates = given or [nic.fleet for nic in interfaces if nic.fleet]
    if len(candidates) == 1 and candidates[0]:
        return candidates[0][0]
    listed = ", ".join(f"{nic.name} {text}" for nic in interfaces for text in nic.fleet)
    if not listed:
        seen = [nic.name for nic in interfaces if not _VIRTUAL.fullmatch(nic.name)]
        nics = ", ".join(seen) or "none"
        message = f"The VM has no address but loopback; its NICs are: {nics}"
        raise AgentError("address.ambiguous", message, UNCONFIGURED, retryable=True)
    raise AgentError(
        "address.ambiguous",
        f"The VM has no default route, and its addresses are: {listed}",
        retryable=True,
    )


def _alias(name: str, context: Mapping[str, str]) -> str:
    """Return the address of an alias; OpenNebula gives a NIC several by ``NIC_ALIAS``."""
    for suffix in ("IP", "IP6", "IP6_GLOBAL", "IP6_ULA"):
        value = context.get(f"{name}_{suffix}", "").strip()
        if is_ip(value):
            return value
    known = ", ".join(sorted(key.removesuffix("_IP") for key in context if _ALIAS.fullmatch(key)))
    raise AgentError(
        "address.unknown",
        f"FLOWER_ADDRESS is {name}, but the context's aliases are: {known or 'none'}",
    )


def _own(wanted: str, interfaces: tuple[Interface, ...], alias: str = "") -> str:
    address = str(ipaddress.ip_address(wanted))
    everything = [text for interface in interfaces for text in interface.addresses]
    if is_loopback(address) or is_any(address) or address in everything:
        return address
    listed = ", ".join(text for text in everything if not is_loopback(text)) or "none"
    shown = f"{alias}, {wanted}" if alias else wanted
    raise AgentError(
        "address.unknown",
        f"FLOWER_ADDRESS is {shown}, but this VM's addresses are: {listed}",
        retryable=True,
    )


def _context_nics(
    interfaces: tuple[Interface, ...], context: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return each ``ETHn`` of the context with its addresses, in order of n."""
    names = sorted(
        (int(match[1]), match[0][:-4])
        for name, value in context.items()
        if value and (match := re.fullmatch(r"ETH(\d{1,4})_MAC", name))
    )
    return {
        name: tuple(
            text
            for interface in interfaces
            if interface.mac == context[f"{name}_MAC"].lower()
            for text in interface.fleet
        )
        for _, name in names
    }


def _is_global(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_link_local or address.is_loopback or address.is_unspecified)


def _default_ipv4(route: str) -> Iterator[tuple[int, int, str]]:
    for line in route.splitlines()[1:]:
        name, destination, _, flags, _, _, metric, mask, *_ = line.split()
        if int(destination, 16) == int(mask, 16) == 0 and _usable(flags):
            yield 4, int(metric), name


def _default_ipv6(ipv6_route: str) -> Iterator[tuple[int, int, str]]:
    for line in ipv6_route.splitlines():
        destination, length, _, _, _, metric, _, _, flags, name = line.split()
        if int(destination, 16) == int(length, 16) == 0 and _usable(flags) and name != "lo":
            yield 6, int(metric, 16), name


def _usable(flags: str) -> bool:
    value = int(flags, 16)
    return bool(value & _ROUTE_UP) and not value & _ROUTE_REJECT
