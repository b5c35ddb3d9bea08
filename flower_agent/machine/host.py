"""What this machine is: its NICs, memory and boot, read from ``/proc`` and ``/sys``.

IPv4 addresses come from SIOCGIFCONF (netdevice(7)), which lists the secondary ones too and needs no
netlink socket, so the unit may forbid those.
"""

import array
import contextlib
import dataclasses
import fcntl
import functools
import pathlib
import re
import socket
import struct
from collections.abc import Callable, Collection, Iterator

from . import cpu, interfaces, sockets

_SIOCGIFCONF = 0x8912
_IFREQ = struct.Struct("16s4x4s16x")
"""struct ifreq on 64-bit Linux: label, sockaddr_in with the address at its byte 4."""

Ipv4 = Callable[[], tuple[tuple[str, str], ...]]
"""Lists (interface, IPv4 address)."""


@dataclasses.dataclass(frozen=True, slots=True)
class HostFacts:
    """What was seen of this machine at one moment."""

    interfaces: tuple[interfaces.Interface, ...]
    """All NICs in the kernel's order, loopback included."""

    default_interface: str | None
    """Name of the NIC of the default route."""

    memory_bytes: int
    """What the VM has, as the kernel sees it."""

    boot_id: str
    """Another one after each boot."""

    rival_routes: tuple[str, ...] = ()
    """NICs whose default routes are as good as that one's; empty where there is one."""

    cpu_flags: frozenset[str] = frozenset()
    """What the processor can, where it is an x86."""

    @property
    def mtu(self) -> int:
        """The largest packet that this VM sends to other machines; 0 where nothing tells."""
        return max((nic.mtu for nic in self.interfaces if nic.fleet), default=0)


def ipv4_addresses() -> tuple[tuple[str, str], ...]:
    """Return (interface, address) pairs in the kernel's order, secondary addresses included."""
    size = 64 * _IFREQ.size
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        while True:
            buffer = array.array("B", bytes(size))
            request = struct.pack("iP", size, buffer.buffer_info()[0])
            used = struct.unpack("iP", fcntl.ioctl(query, _SIOCGIFCONF, request))[0]
            if used < size:
                break
            size *= 2  # a full buffer may have cut the list
    found = _IFREQ.iter_unpack(buffer[:used].tobytes())
    return tuple(
        (label.rstrip(b"\0").decode().partition(":")[0], socket.inet_ntoa(address))
        for label, address in found
    )


def observe(
    proc: pathlib.Path = pathlib.Path("/proc"),
    sys: pathlib.Path = pathlib.Path("/sys"),
    ipv4: Ipv4 = ipv4_addresses,
) -> HostFacts:
    """Return the facts of this machine; what it does not tell is absent or empty."""
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _text(proc / "meminfo"), re.MULTILINE)
    return HostFacts(
        interfaces=_interfaces(proc, sys, ipv4()),
        default_interface=interfaces.default_route(
            _text(proc / "net/route"), _text(proc / "net/ipv6_route")
        ),
        rival_routes=interfaces.rival_routes(
            _text(proc / "net/route"), _text(proc / "net/ipv6_route")
        ),
        memory_bytes=int(memory[1]) * 1024 if memory else 0,
        boot_id=_text(proc / "sys/kernel/random/boot_id").strip(),
        cpu_flags=cpu_flags(proc),
    )


@functools.lru_cache(maxsize=1)  # to read it wakes every core of the VM
def cpu_flags(proc: pathlib.Path = pathlib.Path("/proc")) -> frozenset[str]:
    """Return the flags of the first processor; empty where it is no x86."""
    return cpu.flags(_text(proc / "cpuinfo"))


def read_sockets(
    proc: pathlib.Path = pathlib.Path("/proc"), *, ports: Collection[int] = ()
) -> Iterator[sockets.Socket]:
    """Yield the TCP sockets of this network namespace; with `ports` those that have one.

    Each file takes the kernel milliseconds. gRPC's sockets are in the first, so who looks for one
    of them and stops there saves half.
    """
    for name in ("tcp6", "tcp"):
        yield from sockets.parse(_text(proc / "net" / name), ports)


def listener(port: int, proc: pathlib.Path = pathlib.Path("/proc")) -> str:
    """Return the program that listens at a port, with its id; empty where /proc does not tell.

    The kernel tells whose a socket is to root with all capabilities alone, so to commands, and not
    to the agent in its unit.
    """
    wanted = {
        f"socket:[{inode}]"
        for name in ("tcp6", "tcp")
        for inode in sockets.inodes(_text(proc / "net" / name), port)
    }
    for process in proc.glob("[0-9]*") if wanted else ():
        if wanted.intersection(_links(process / "fd")):
            return f"{_text(process / 'comm').strip()} (process {process.name})"
    return ""


def _links(directory: pathlib.Path) -> Iterator[str]:
    """Yield where the links in a directory lead; none where it is gone, or not ours to see."""
    with contextlib.suppress(OSError):
        for each in directory.iterdir():
            with contextlib.suppress(OSError):  # closed since it was listed
                yield str(each.readlink())


def mountinfo(proc: pathlib.Path = pathlib.Path("/proc")) -> str:
    """Return this process's mounts, as `mounts.follows` reads them."""
    return _text(proc / "self/mountinfo")


def _interfaces(
    proc: pathlib.Path, sys: pathlib.Path, ipv4: tuple[tuple[str, str], ...]
) -> tuple[interfaces.Interface, ...]:
    pairs = (*ipv4, *interfaces.ipv6_addresses(_text(proc / "net/if_inet6")))
    nics = [nic for nic in (sys / "class/net").glob("*") if (nic / "ifindex").exists()]
    return tuple(
        interfaces.Interface(
            name=nic.name,
            mac=_text(nic / "address").strip().lower(),
            addresses=tuple(address for name, address in pairs if name == nic.name),
            mtu=_number(_text(nic / "mtu")),
        )
        for nic in sorted(nics, key=lambda nic: int(_text(nic / "ifindex") or 0))
    )


def _number(text: str) -> int:
    return int(text) if text.strip().isascii() and text.strip().isdecimal() else 0


def _text(path: pathlib.Path) -> str:
    """Return a small file of the kernel; empty when it is not there (IPv6 off, NIC gone)."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
