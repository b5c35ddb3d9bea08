"""The status: the status file's content, and the exit code of ``status``. Pure.

Standard library only: any user may ask, at once. Times are RFC 3339 in UTC.
"""

import dataclasses
import datetime
import enum
from typing import Any

from flower_agent.model.errors import Finding

SCHEMA = 1
STALE_AFTER_S = 90
"""The running agent writes its status at least every 30 s."""

EXIT_CODES = {"ready": 0, "failed": 1, "degraded": 2, "starting": 5}
STOPPED = "stopped"
"""The state after ``down`` and ``reset``; no agent runs then."""

PROPERTIES = ("ActiveState", "SubState", "Job")
"""The properties for `being_started`."""

NOT_RUNNING = 3
UNKNOWN = 4
TIMED_OUT = 124


class Mark(enum.StrEnum):
    """The state of one fact."""

    OK = "ok"
    WAITING = "waiting"
    BAD = "bad"
    OFF = "off"


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """One line of the status: what was checked, and the result."""

    name: str
    mark: Mark
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A SuperNode's SuperLink."""

    endpoint: str
    """Its Fleet API."""

    vmid: str | None = None
    """None if it was not found through OneGate."""

    version: str | None = None
    """Its published Flower version."""

    def __str__(self) -> str:
        more = [f"VM {self.vmid}"] if self.vmid else []
        more += [f"Flower {self.version}"] if self.version else []
        return f"{self.endpoint} ({', '.join(more)})" if more else self.endpoint


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A SuperNode as its SuperLink sees it."""

    node_id: str
    """A 64-bit number, so it is text."""

    vmid: str | None
    """The VM of its key; None without a key or outside the service."""

    state: str
    """Flower's state: registered, online, offline."""

    gpu: str | None
    """The VM's published text; None if unknown."""

    seen_at: str | None
    """When it was last online; None if it is online or never was."""

    name: str | None = None
    """The VM's name at OpenNebula; None if unknown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The agent's whole status; it contains no secret."""

    state: str
    since: datetime.datetime
    phase: str | None
    phase_since: datetime.datetime
    written_at: datetime.datetime
    agent_version: str
    name: str = ""
    role: str | None = None
    version: str | None = None
    vmid: str | None = None
    error: Finding | None = None
    """The first error."""

    errors: tuple[Finding, ...] = ()
    """Every finding of a refused context."""

    warnings: tuple[Finding, ...] = ()
    facts: tuple[Condition, ...] = ()
    containers: tuple[dict[str, object], ...] = ()
    """Name, part, image, id, status, restarts of each."""

    endpoint: str | None = None
    """Fleet API: the SuperLink's own, or the one that a SuperNode uses."""

    tls: bool | None = None
    ca_fingerprint: str | None = None
    nodes: int | None = None
    node_id: str | None = None
    partition: str | None = None
    superlink: Link | None = None
    """SuperNode: its SuperLink."""

    supernodes: tuple[Node, ...] = ()
    """SuperLink: its first `node_table.MOST` SuperNodes; `nodes` counts all connected ones."""

    commands: tuple[tuple[str, str], ...] = ()
    """Commands for the operator, each with its purpose."""

    pid: int | None = None
    """The agent that wrote this; None before it is written."""

    pid_started: int | None = None
    """The start of that process in clock ticks since the boot: together they identify it."""


def document(status: Status) -> dict[str, Any]:
    """Return the status file's JSON document."""
    plain = dataclasses.asdict(status)
    for key in ("since", "phase_since", "written_at"):
        plain[key] = stamp(plain[key])
    return {"schema": SCHEMA, **plain}


def stamp(moment: datetime.datetime) -> str:
    """Return RFC 3339 in UTC with seconds."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def exit_code(
    document: dict[str, Any] | None,
    *,
    running: bool,
    now: datetime.datetime,
    being_started: bool = False,
) -> int:
    """Return the exit code of ``flower-agent status``.

    `document` is None when there is no status file or it cannot be read; `being_started` is
    systemd's word while no agent runs yet.
    """
    if not running and being_started:
        return EXIT_CODES["starting"]
    if not running:
        return NOT_RUNNING
    if document is None or document.get("schema") != SCHEMA or age_s(document, now) > STALE_AFTER_S:
        return UNKNOWN
    return EXIT_CODES.get(str(document.get("state")), UNKNOWN)


def being_started(properties: str) -> bool:
    """Return whether systemd starts the unit, by `PROPERTIES` of ``systemctl show``.

    A unit that ended and waits for its restart is not. A start that waits for other units, as at
    boot, is a job of a unit that is inactive.
    """
    found = dict(line.split("=", 1) for line in properties.splitlines() if "=" in line)
    state, job = found.get("ActiveState"), found.get("Job", "0")
    if found.get("SubState") == "auto-restart":
        return False
    return state == "activating" or (state in ("inactive", "failed") and job not in ("", "0"))


def damage(document: dict[str, Any]) -> str:
    """Return which part of a status file of this `SCHEMA` is invalid; empty if none is.

    Keys may be missing, or new: another version of the agent may have written it.
    """
    if document.get("schema") != SCHEMA:
        return ""
    for key in _TEXTS:
        if not isinstance(document.get(key), str | None):
            return key
    for key in ("pid", "pid_started"):
        if not isinstance(document.get(key), int | None):
            return key
    if document.get("error") is not None and not _all([document["error"]], _FINDING):
        return "error"
    for key, texts in _TABLES.items():
        if document.get(key) is not None and not _all(document[key], texts):
            return key
    commands = document.get("commands") or []
    pairs = isinstance(commands, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)  # noqa: PLR2004 - purpose, command
        for pair in commands
    )
    return "" if pairs else "commands"


_TEXTS = ("state", "since", "phase", "written_at", "name", "role", "version")
_FINDING = ("code", "message", "hint")
_TABLES = {
    "errors": _FINDING,
    "warnings": _FINDING,
    "facts": ("name", "mark", "detail"),
    "containers": ("name", "status"),
    "supernodes": ("node_id", "vmid?", "state", "gpu?", "seen_at?", "name?"),
}
"""Lists with the text fields of their rows; ``?`` marks a field that may be null."""


def _all(rows: Any, texts: tuple[str, ...]) -> bool:
    """Return whether `rows` is a list of mappings with these texts."""
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and all(
            isinstance(row.get(text.removesuffix("?")), str | None if text[-1] == "?" else str)
            for text in texts
        )
        for row in rows
    )


def age_s(document: dict[str, Any], now: datetime.datetime) -> float:
    """Return the age of the status in seconds; infinite if unknown."""
    written = moment(document.get("written_at"))
    return (now - written).total_seconds() if written else float("inf")


def moment(text: Any) -> datetime.datetime | None:
    """Return the time of RFC 3339 text; None for anything else."""
    try:
        found = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None
