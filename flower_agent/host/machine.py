"""The machine: NICs, memory, boot, processor, mounts and disks, from ``/proc``, ``/sys`` and udev.

IPv4 addresses come from SIOCGIFCONF (netdevice(7)), which lists the secondary ones too and needs no
netlink socket, so the unit may forbid those.

NumPy's wheels are built for x86-64-v2 and end at their import elsewhere ("NumPy was built with
baseline optimizations"); Flower itself imports NumPy. TensorFlow's want AVX and end by SIGILL.
QEMU's default CPU model has neither: an OpenNebula template without CPU_MODEL. The levels are those
of the x86-64 psABI, the names those of ``/proc/cpuinfo``.

Format: proc_pid_mountinfo(5). Docker takes ``rslave`` only where the source's mount is shared or a
slave itself; under a unit with a mount namespace the host's shared mounts are seen as slaves.

Format: systemd, src/libsystemd/sd-device: ``/run/udev/data/bMAJOR:MINOR``, a property a line.
"""

import array
import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import re
import socket
import stat
import struct
from collections.abc import Callable, Collection, Iterator

from flower_agent.host import network
from flower_agent.model.errors import Finding, warning

X86_64_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
WANTED = {"tensorflow": ("avx",), "tensorflow-cuda": ("avx",)}
"""What a framework wants beyond x86-64-v2."""


def flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of the first processor; empty on another architecture than x86."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def findings(has: Collection[str], names: Collection[str] = ()) -> Iterator[Finding]:
    """Yield a warning where the processor lacks something; nothing where it is not known."""
    if not has:
        return
    lacks = [flag for flag in X86_64_V2 if flag not in has]
    if lacks:
        yield warning("cpu.old", f"this CPU is below x86-64-v2 (no {', '.join(lacks)})")
    for name in names:
        missing = [flag for flag in WANTED.get(name, ()) if flag not in has]
        if missing:
            yield warning("cpu.old", f"{name} needs a CPU with {', '.join(missing)}")


def follows(mountinfo: str, path: str) -> bool:
    """Return whether the mount that holds `path` is shared or a slave."""
    best, follows_best = "", False
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 7:  # noqa: PLR2004  # not a line of this file
            continue
        point = fields[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            optional = fields[6 : fields.index("-")] if "-" in fields else []
            best = point
            follows_best = any(field.startswith(("shared:", "master:")) for field in optional)
    return follows_best


DATA = pathlib.Path("/run/udev/data")
_TYPE = re.compile(r"^E:ID_FS_TYPE=([A-Za-z0-9_]{1,20})$", re.MULTILINE)
_LIMIT_BYTES = 1 << 16


def file_system(device: str, data: pathlib.Path = DATA) -> str:
    """Return the type of the file system on a device, by path; empty where udev does not say it."""
    try:
        seen = pathlib.Path(device).stat()
        if not stat.S_ISBLK(seen.st_mode):
            return ""
        number = f"b{os.major(seen.st_rdev)}:{os.minor(seen.st_rdev)}"
        with (data / number).open("rb") as file:
            text = file.read(_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""  # no such device yet, no udev, or a unit that sees neither
    match = _TYPE.search(text)
    return match[1] if match else ""


_SIOCGIFCONF = 0x8912
_IFREQ = struct.Struct("16s4x4s16x")
"""struct ifreq on 64-bit Linux: label, sockaddr_in with the address at its byte 4."""

Ipv4 = Callable[[], tuple[tuple[str, str], ...]]
"""Lists (interface, IPv4 address)."""


@dataclasses.dataclass(frozen=True, slots=True)
class HostFacts:
    """What was seen of this machine at one moment."""

    interfaces: tuple[network.Interface, ...]
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
        """The largest packet that this VM sends to other machines; 0 if unknown."""
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
    """Return the facts of this machine; unknown facts are absent or empty."""
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _text(proc / "meminfo"), re.MULTILINE)
    return HostFacts(
        interfaces=_interfaces(proc, sys, ipv4()),
        default_interface=network.default_route(
            _text(proc / "net/route"), _text(proc / "net/ipv6_route")
        ),
        rival_routes=network.rival_routes(
            _text(proc / "net/route"), _text(proc / "net/ipv6_route")
        ),
        memory_bytes=int(memory[1]) * 1024 if memory else 0,
        boot_id=_text(proc / "sys/kernel/random/boot_id").strip(),
        cpu_flags=cpu_flags(proc),
    )


@functools.lru_cache(maxsize=1)  # to read it wakes every core of the VM
def cpu_flags(proc: pathlib.Path = pathlib.Path("/proc")) -> frozenset[str]:
    """Return the flags of the first processor; empty where it is no x86."""
    return flags(_text(proc / "cpuinfo"))


def read_sockets(
    proc: pathlib.Path = pathlib.Path("/proc"), *, ports: Collection[int] = ()
) -> Iterator[network.Socket]:
    """Yield the TCP sockets of this network namespace; with `ports` those that have one.

    Each file takes the kernel milliseconds. gRPC's sockets are in the first, so who looks for one
    of them and stops there saves half.
    """
    for name in ("tcp6", "tcp"):
        yield from network.parse(_text(proc / "net" / name), ports)


def listener(port: int, proc: pathlib.Path = pathlib.Path("/proc")) -> str:
    """Return the program that listens at a port, with its id; empty if /proc does not show it.

    The kernel shows a socket's owner only to root with all capabilities, so to commands and not
    to the agent in its unit.
    """
    wanted = {
        f"socket:[{inode}]"
        for name in ("tcp6", "tcp")
        for inode in network.inodes(_text(proc / "net" / name), port)
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
    """Return this process's mounts, as `follows` reads them."""
    return _text(proc / "self/mountinfo")


def _interfaces(
    proc: pathlib.Path, sys: pathlib.Path, ipv4: tuple[tuple[str, str], ...]
) -> tuple[network.Interface, ...]:
    pairs = (*ipv4, *network.ipv6_addresses(_text(proc / "net/if_inet6")))
    nics = [nic for nic in (sys / "class/net").glob("*") if (nic / "ifindex").exists()]
    return tuple(
        network.Interface(
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
