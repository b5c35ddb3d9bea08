"""What an operator's command asks of the daemon: written down first, then signalled.

``flower-agent tls renew`` and ``tls trust`` never touch what the daemon owns; they leave an order
in ``/var/lib/flower-agent/orders``, which also waits for an agent that does not run yet.
"""

import contextlib
import dataclasses
import pathlib
import re
import signal

from flower_agent import files, process
from flower_agent.errors import AgentError
from flower_agent.paths import Paths

MAX_BYTES = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Orders:
    """What is asked for now."""

    renew: bool = False
    """A new leaf certificate, though the old one would do."""

    trust: str | None = None
    """SHA-256 of the CA that takes the place of the pinned one."""


class OrderBox:
    """The files in one ``orders/`` directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._renew = directory / "renew"
        self._trust = directory / "trust"

    def read(self) -> Orders:
        """Return what was asked for and not done yet; anything unreadable asks for nothing."""
        data: bytes | None = None
        with contextlib.suppress(AgentError):
            data = files.read(self._trust, MAX_BYTES)
        text = (data or b"").decode("ascii", "replace").strip()
        trust = text if re.fullmatch(r"[0-9a-f]{64}", text) else None
        return Orders(self._renew.exists(), trust)

    def ask_renew(self) -> None:
        """Ask for a new leaf certificate. Raises AgentError ``state.unwritable``."""
        self._write(self._renew, b"")

    def ask_trust(self, fingerprint: str) -> None:
        """Ask to trust the CA of that SHA-256 (lower case hex)."""
        self._write(self._trust, fingerprint.encode() + b"\n")

    def done(self, orders: Orders) -> None:
        """Take away the orders that were carried out."""
        if orders.renew:
            self._renew.unlink(missing_ok=True)
        if orders.trust is not None:
            self._trust.unlink(missing_ok=True)

    def _write(self, path: pathlib.Path, data: bytes) -> None:
        files.directory(path.parent.parent, 0o755)
        files.directory(path.parent, 0o700)
        files.write_atomic(path, data, 0o600)


def tell(paths: Paths) -> bool:
    """Let a running daemon look at once; return whether one runs.

    Only the process that took the lock gets the signal, which would end another.
    """
    if not files.held(paths.lock):
        return False
    data = files.read(paths.lock, MAX_BYTES) or b""
    daemon = process.parse(data.decode("ascii", "replace"))
    if daemon is not None:
        process.send(daemon, signal.SIGHUP)
    return True
