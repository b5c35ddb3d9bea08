"""Reads the rules of the kernel's packet filter, which the agent has no right to see.

Only who may administer the network may. So the daemon asks a socket of systemd's, behind which
``filter-rules`` runs with that one right and prints what `nft` and `iptables-save` say
(``systemd/flower-agent-rules.socket``). Without the socket, in a sandbox or a checkout, the daemon
knows nothing and says nothing; a command of root's asks the programs itself.
"""

import pathlib
import shutil
import socket
import subprocess

from flower_agent.address import Address, is_loopback
from flower_agent.background import Background, Threads
from flower_agent.loop.turn import Turn
from flower_agent.reporting.status import Mark

from . import firewall
from .host import HostFacts
from .netfilter import Packet

ASK_S = 10.0
MAX_BYTES = 16 << 20
AGAIN_S = 300.0
"""So often the rules are read again."""

MEND_S = 20.0
"""So often while they close the port."""

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PROGRAMS = {
    "nft": ("nft", "-j", "-t", "list", "ruleset"),
    "iptables": ("iptables-save",),
    "ip6tables": ("ip6tables-save",),
}


class PacketFilter:
    """What is known of the packet filter; every method returns at once."""

    def __init__(self, place: pathlib.Path, threads: Threads, *, scale: float = 1.0) -> None:
        self._place = place
        self._scale = scale
        self._rules: Background[pathlib.Path, str | None] = Background(
            threads, "packet-filter", lambda *_: 0.0, good_for_s=AGAIN_S * scale
        )

    def note(self, turn: Turn, listens: Address) -> None:
        """Write down whether others may reach `listens`, as far as that is known."""
        if is_loopback(listens.host) or not self._place.exists():
            return
        self._rules.ask(self._place, lambda: ask(self._place), turn.monotonic)
        rules = self._rules.answer
        if rules is None:
            return
        found = firewall.judge(rules, packet(listens, turn.host))
        if found is None:
            turn.note("firewall", Mark.OK, f"nothing found that closes TCP port {listens.port}")
            return
        self._rules.again(turn.monotonic + MEND_S * self._scale)
        turn.note("firewall", Mark.BAD, f"closes TCP port {listens.port}")
        turn.warnings.append(found)


def ask(place: pathlib.Path) -> str | None:
    """Return the rules, each program's behind its name; None where they cannot be had."""
    read = bytearray()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ASK_S)
            connection.connect(str(place))
            while (data := connection.recv(1 << 16)) and len(read) < MAX_BYTES:
                read += data
    except OSError:
        return None
    return read.decode("utf-8", "replace")


def packet(listens: Address, facts: HostFacts) -> Packet:
    """Return what a SuperNode sends first."""
    owners = [nic.name for nic in facts.interfaces if listens.host in nic.addresses]
    return Packet(listens.host, listens.port, owners[0] if owners else None)


def run() -> str | None:
    """Return the rules as `ask` does, from the programs themselves; None where none tells."""
    told = ""
    for name, (program, *arguments) in _PROGRAMS.items():
        found = shutil.which(program, path=_PATH)
        if found is None:
            continue
        try:
            done = subprocess.run(
                [found, *arguments],
                check=True,
                capture_output=True,
                text=True,
                timeout=ASK_S,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        told += f"{firewall.HEAD}{name}\n{done.stdout}"
    return told or None
