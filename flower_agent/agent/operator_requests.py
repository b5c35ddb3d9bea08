"""Requests of an operator's command to the daemon: first a file, then a signal.

``flower-agent tls renew`` and ``tls trust`` never change the daemon's files. They leave a request
in ``/var/lib/flower-agent/orders``, also for an agent that does not run yet.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import re
import secrets
import signal

from flower_agent import files, process
from flower_agent.model.errors import AgentError
from flower_agent.paths import Paths

MAX_BYTES = 4096
MOST = 1000
"""Most requests of a kind in one cycle."""

_RENEW, _TRUST = "renew", "trust"


@dataclasses.dataclass(frozen=True, slots=True)
class Requests:
    """The present requests."""

    renew: bool = False
    """A new leaf certificate, although the old one is valid."""

    trust: str | None = None
    """SHA-256 of the CA that replaces the pinned one; the latest request counts."""

    renew_files: tuple[pathlib.Path, ...] = ()
    trust_files: tuple[pathlib.Path, ...] = ()
    """The files of these requests; a later file is another request."""


class RequestFiles:
    """The files in one ``orders/`` directory, one for each request."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def read(self) -> Requests:
        """Return the open requests; unreadable files count as no request."""
        renew, trust = self._files(_RENEW), self._files(_TRUST)
        wanted: str | None = None
        for path in trust:
            data: bytes | None = None
            with contextlib.suppress(AgentError):
                data = files.read(path, MAX_BYTES)
            text = (data or b"").decode("ascii", "replace").strip()
            wanted = text if re.fullmatch(r"[0-9a-f]{64}", text) else wanted
        return Requests(bool(renew), wanted, renew, trust)

    def ask_renew(self) -> None:
        """Ask for a new leaf certificate. Raises AgentError ``state.unwritable``."""
        self._write(_RENEW, b"")

    def ask_trust(self, fingerprint: str) -> None:
        """Ask to trust the CA of that SHA-256 (lower case hex)."""
        self._write(_TRUST, fingerprint.encode() + b"\n")

    def done(self, requests: Requests) -> None:
        """Remove the files of finished requests; newer requests stay."""
        carried_out = (requests.renew_files if requests.renew else ()) + (
            requests.trust_files if requests.trust is not None else ()
        )
        for path in carried_out:
            path.unlink(missing_ok=True)

    def _files(self, kind: str) -> tuple[pathlib.Path, ...]:
        """Return the files of a kind, the oldest first."""
        found = []
        for path in itertools.islice(self._directory.glob(f"{kind}*"), MOST):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime_ns, path))
        return tuple(path for _, path in sorted(found))

    def _write(self, kind: str, data: bytes) -> None:
        files.directory(self._directory.parent, 0o755)
        files.directory(self._directory, 0o700)
        files.write_atomic(self._directory / f"{kind}-{secrets.token_hex(8)}", data, 0o600)


def tell(paths: Paths) -> bool:
    """Wake a running daemon; return whether one runs.

    Only the owner of the lock gets the signal, because SIGHUP would end another process.
    """
    if not files.held(paths.lock):
        return False
    data = files.read(paths.lock, MAX_BYTES) or b""
    daemon = process.parse(data.decode("ascii", "replace"))
    if daemon is not None:
        process.send(daemon, signal.SIGHUP)
    return True
