"""The status as metrics in a file of node_exporter's textfile collector (FLOWER_METRICS).

Format: Prometheus' text exposition, version 0.0.4. Names follow its conventions: base units, no
time stamps, which the collector refuses. Every metric is a gauge, because a new agent starts from
zero.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator, Mapping

import structlog

from flower_agent import files
from flower_agent.model.errors import AgentError
from flower_agent.model.lifecycle import LifeState
from flower_agent.model.status import Mark, Status
from flower_agent.paths import Paths
from flower_agent.tls import certificates
from flower_agent.tls.store import Keyring

log = structlog.get_logger()

_DAY_S = 86_400


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the status does not hold."""

    health_s: float | None = None
    """How long Flower's health service took to answer last; None before it did."""

    ends: Mapping[str, datetime.datetime] = dataclasses.field(default_factory=dict)
    """End of each certificate: ``server`` and ``ca``."""


Sample = tuple[dict[str, str], float]


def render(status: Status, measured: Measured) -> str:
    """Return the file's content: each metric with help and type, then its samples."""
    lines: list[str] = []
    for name, text, samples in _families(status, measured):
        if not samples:
            continue
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(labels)} {value:.16g}" for labels, value in samples]
    return "\n".join([*lines, ""])


def _families(status: Status, measured: Measured) -> Iterator[tuple[str, str, list[Sample]]]:
    role, version = status.role or "", status.version or ""
    about = {"version": status.agent_version, "role": role, "flower": version}
    yield "flower_agent_info", "What this VM is; always 1.", [(about, 1)]
    states: list[Sample] = [({"state": s.value}, s.value == status.state) for s in LifeState]
    yield "flower_agent_state", "1 for the state that the VM is in.", states
    since = _one(status.since.timestamp())
    yield "flower_agent_state_start_time_seconds", "When that state began.", since
    error: list[Sample] = [({"code": status.error.code}, 1)] if status.error else []
    yield "flower_agent_error", "1 for the code of the error.", error
    yield "flower_agent_warnings", "Warnings in the status.", _one(len(status.warnings))
    yield from _containers(status)
    health = _one(measured.health_s)
    yield "flower_health_duration_seconds", "Response time of Flower's health service.", health
    nodes = _one(status.nodes)
    yield "flower_supernodes_connected", "SuperNodes that are connected to this SuperLink.", nodes
    well = {f.name: f.mark is Mark.OK for f in status.facts if f.mark is not Mark.OFF}
    peer = _one(well.get("peer"))
    yield "flower_peer_connected", "1 while the SuperLink, or an AppIo, is connected.", peer
    yield "flower_onegate_up", "1 when OneGate took the last report.", _one(well.get("onegate"))
    left: list[Sample] = [
        ({"certificate": name}, round((end - status.written_at).total_seconds() / _DAY_S, 3))
        for name, end in sorted(measured.ends.items())
    ]
    yield "flower_certificate_left_days", "Days until a certificate expires.", left


def _containers(status: Status) -> Iterator[tuple[str, str, list[Sample]]]:
    rows = [({"name": str(c["name"])}, c) for c in status.containers]
    running: list[Sample] = [(labels, c["status"] == "running") for labels, c in rows]
    yield "flower_container_running", "1 while a container runs.", running
    restarts: list[Sample] = [(labels, float(str(c["restarts"]))) for labels, c in rows]
    text = "Ends of a container with less than ten minutes of run time between them."
    yield "flower_container_restarts", text, restarts


def _one(value: float | None) -> list[Sample]:
    """Return the one sample of a metric without labels; none where it is not known."""
    return [] if value is None else [({}, value)]


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


EVERY_S = 15.0
"""Prometheus asks no more often by far; a new state is written at once."""


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
        text = render(found, Measured(health_s=health_s, ends=self._certificates()))
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
        except AgentError:  # the cycle meets it and reports it
            return {}
        if self._ends is None or self._ends[0] != texts:
            ends = {}
            for name, pem in zip(("server", "ca"), texts, strict=True):
                with contextlib.suppress(ValueError):
                    ends[name] = certificates.inspect(pem).not_after
            self._ends = (texts, ends)
        return self._ends[1]
