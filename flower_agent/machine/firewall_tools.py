"""Asks systemd which firewall is active, and for ``doctor`` the firewalls' own tools.

The daemon has no capability, and needs none to ask systemd, a few times an hour. The tools answer
root alone.
"""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Mapping

from flower_agent.address import Address, is_loopback
from flower_agent.background import Background, Threads
from flower_agent.errors import Finding

from . import firewall

ASK_S = 10.0
AGAIN_S = 300.0
"""So often systemd is asked again."""

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
        self._absent_since = firewall.absent_since(
            self._absent_since, now, expected=expected, online=online
        )
        names = self._asked.answer
        if names is None:
            return None
        since, patience_s = self._absent_since, firewall.PATIENCE_S * self._scale
        late = since is not None and now >= since + patience_s
        found = firewall.drops(names, listens, expected) if names and late else None
        return firewall.describe(names), found


def ask_systemd(root: pathlib.Path) -> tuple[str, ...] | None:
    """Return the firewalls that are active; None where systemd does not tell."""
    try:
        ufw_conf = (root / "etc/ufw/ufw.conf").read_text("utf-8", "replace")
    except OSError:
        ufw_conf = ""
    # Its exit status is that of the last unit: any answer counts.
    return firewall.active(_output("systemctl", "is-active", *firewall.UNITS) or "", ufw_conf)


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
