"""Which firewall is active on this VM, and when that is worth a warning.

The daemon has no capability, and needs none to ask systemd, a few times an hour. The tools answer
root alone.

Rules are not evaluated: what a packet meets depends on sets, marks and senders that nobody here
knows. A firewall that is active is a reason to look at it when SuperNodes do not come.
"""

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Mapping

from flower_agent.background import Background, Threads
from flower_agent.model.address import Address, is_loopback
from flower_agent.model.errors import Finding, warning

UNITS = ("firewalld", "ufw", "nftables")
PATIENCE_S = 120.0
"""So long none of the expected SuperNodes is connected before an active firewall is named."""

OPEN = {
    "firewalld": (
        "Open it to the federation's subnet: firewall-cmd --permanent --add-rich-rule='rule "
        "family={ip} source address=SUBNET port port={port} protocol=tcp accept', then: "
        "firewall-cmd --reload"
    ),
    "ufw": "Open it to the federation's subnet: ufw allow proto tcp from SUBNET to any port {port}",
}
"""The remedy by firewall; `error_codes` has that for rules of nftables."""


def active(states: str, ufw_conf: str) -> tuple[str, ...] | None:
    """Return those of `UNITS` that are active; None where systemd did not answer.

    `states` is what ``systemctl is-active`` prints for them. The unit of ufw is active even where
    ufw is switched off, so its own configuration counts, too.
    """
    lines = states.split()
    if len(lines) != len(UNITS):
        return None
    on = re.search(r"^ENABLED=[\"']?yes\b", ufw_conf, re.IGNORECASE | re.MULTILINE)
    pairs = zip(UNITS, lines, strict=True)
    return tuple(name for name, state in pairs if state == "active" and (name != "ufw" or on))


def describe(names: tuple[str, ...]) -> str:
    """Return the fact for a person."""
    if not names:
        return f"none is active of {', '.join(UNITS)}"
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} active"


def absent_since(before: float | None, now: float, *, expected: int, online: int) -> float | None:
    """Return since when SuperNodes are expected and none is connected; None where it is not so."""
    if online or not expected:
        return None
    return now if before is None else before


def drops(names: tuple[str, ...], listens: Address, expected: int) -> Finding:
    """Return the warning ``firewall.drops`` for SuperNodes that do not come."""
    nodes = f"none of {expected} expected SuperNodes" if expected > 1 else "no expected SuperNode"
    message = f"{describe(names)} and {nodes} is connected: it may block TCP port {listens.port}"
    return warning("firewall.drops", message, remedy(names[0], listens))


def remedy(name: str, listens: Address) -> str:
    """Return what opens the port in this firewall; empty for the words of `error_codes`."""
    ip = "ipv6" if ":" in listens.host else "ipv4"
    return OPEN.get(name, "").format(ip=ip, port=listens.port)


ASK_S = 10.0
AGAIN_S = 300.0
"""Interval between two questions to systemd."""

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_TOOLS = {
    "firewalld": ("firewall-cmd", "--list-all"),
    "ufw": ("ufw", "status", "verbose"),
    "nftables": ("nft", "-t", "list", "ruleset"),
}


class Firewalls:
    """What is known of this VM's firewalls; every method returns at once."""

    def __init__(self, root: pathlib.Path, threads: Threads, *, scale: float = 1.0) -> None:
        self._root = root
        self._scale = scale
        self._asked: Background[pathlib.Path, tuple[str, ...] | None] = Background(
            threads, "firewalls", lambda *_: 0.0, good_for_s=AGAIN_S * scale
        )
        self._absent_since: float | None = None

    def look(
        self, listens: Address, now: float, *, expected: int, online: int
    ) -> tuple[str, Finding | None] | None:
        """Return the fact, and a warning where it may keep SuperNodes away; None: not known."""
        if is_loopback(listens.host) or not (self._root / "run/systemd/system").is_dir():
            return None
        self._asked.ask(self._root, lambda: ask_systemd(self._root), now)
        self._absent_since = absent_since(self._absent_since, now, expected=expected, online=online)
        names = self._asked.answer
        if names is None:
            return None
        since, patience_s = self._absent_since, PATIENCE_S * self._scale
        late = since is not None and now >= since + patience_s
        found = drops(names, listens, expected) if names and late else None
        return describe(names), found


def ask_systemd(root: pathlib.Path) -> tuple[str, ...] | None:
    """Return the firewalls that are active; None if systemd does not answer."""
    try:
        ufw_conf = (root / "etc/ufw/ufw.conf").read_text("utf-8", "replace")
    except OSError:
        ufw_conf = ""
    # Its exit status is that of the last unit: any answer counts.
    return active(_output("systemctl", "is-active", *UNITS) or "", ufw_conf)


def ask_tools() -> Mapping[str, str]:
    """Return what the firewalls' own tools say, by the name of the firewall."""
    answers = {}
    for name, command in _TOOLS.items():
        told = _output(*command, whole=True)
        if told is not None:
            answers[name] = told
    return answers


def _output(program: str, *arguments: str, whole: bool = False) -> str | None:
    """Return what a program prints; None where it is not there or, if `whole`, fails."""
    found = shutil.which(program, path=_PATH)
    if found is None:
        return None
    try:
        done = subprocess.run(
            [found, *arguments],
            check=whole,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            timeout=ASK_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
