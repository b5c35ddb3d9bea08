"""Writes the metrics for node_exporter's textfile collector, where FLOWER_METRICS asks for them."""

import contextlib
import datetime

import structlog

from flower_agent import files
from flower_agent.errors import AgentError
from flower_agent.paths import Paths
from flower_agent.pki import certificates
from flower_agent.pki.keyring import Keyring

from . import metrics
from .metrics import Measured
from .status import Status

EVERY_S = 15.0
"""Prometheus asks no more often by far; a new state is written at once."""

log = structlog.get_logger()


class Exporter:
    """The metrics file, while it is wanted."""

    def __init__(self, paths: Paths, keyring: Keyring) -> None:
        self._path = paths.metrics
        self._keyring = keyring
        self._written: tuple[str, float] | None = None
        self._unwritable = False
        self._ends: tuple[tuple[str, str], dict[str, datetime.datetime]] | None = None

    def publish(
        self, found: Status, *, wanted: bool, health_s: float | None, monotonic: float
    ) -> None:
        """Write the file where it is due, or take it away; a failure is logged once."""
        if not wanted:
            self.remove()
            return
        same = self._written is not None and self._written[0] == found.state
        if same and self._written is not None and monotonic < self._written[1] + EVERY_S:
            return
        text = metrics.render(found, Measured(health_s=health_s, ends=self._certificates()))
        try:
            files.directory(self._path.parent, 0o755)
            files.write_atomic(self._path, text.encode(), 0o644, durable=False)
        except AgentError as error:
            if not self._unwritable:
                log.warning("metrics.unwritable", reason=error.finding.message)
            self._unwritable = True
            return
        self._unwritable = False
        self._written = (found.state, monotonic)

    def remove(self) -> None:
        """Take the file away: what is not kept true is worse than none."""
        self._written = None
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("metrics.unwritable", reason=str(error.strerror))

    def _certificates(self) -> dict[str, datetime.datetime]:
        """Return the end of each certificate; they are read again when they change."""
        try:
            texts = (self._keyring.held_chain(), self._keyring.held_ca())
        except AgentError:  # the turn meets it and reports it
            return {}
        if self._ends is None or self._ends[0] != texts:
            ends = {}
            for name, pem in zip(("server", "ca"), texts, strict=True):
                with contextlib.suppress(ValueError):
                    ends[name] = certificates.inspect(pem).not_after
            self._ends = (texts, ends)
        return self._ends[1]
