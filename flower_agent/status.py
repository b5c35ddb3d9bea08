"""The status: what the status file holds, how it reads, and what ``status`` exits with. Pure.

Standard library only: any user may ask, at once. Times are RFC 3339 in UTC.
"""

import dataclasses
import datetime
import enum
import textwrap
from typing import Any

from .errors import Finding

SCHEMA = 1
STALE_AFTER_S = 90
"""The running agent writes its status at least every 30 s."""

WIDTH = 80

EXIT_CODES = {"ready": 0, "failed": 1, "degraded": 2, "starting": 5}
NOT_RUNNING = 3
UNKNOWN = 4
TIMED_OUT = 124


class Mark(enum.StrEnum):
    """How one fact stands."""

    OK = "ok"
    WAITING = "waiting"
    BAD = "bad"
    OFF = "off"


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
    """One line of the status: what was looked at and how it stands."""

    name: str
    mark: Mark
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything that the agent tells about itself; nothing in it is secret."""

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
    """What stands in the way, first."""

    errors: tuple[Finding, ...] = ()
    """Every finding of a refused context."""

    warnings: tuple[Finding, ...] = ()
    facts: tuple[Fact, ...] = ()
    containers: tuple[dict[str, object], ...] = ()
    """Name, part, image, id, status, restarts of each."""

    endpoint: str | None = None
    """Fleet API: the SuperLink's own, or the one a SuperNode dials."""

    tls: bool | None = None
    ca_fingerprint: str | None = None
    nodes: int | None = None
    node_id: str | None = None
    partition: str | None = None
    commands: tuple[tuple[str, str], ...] = ()
    """What the operator may want to paste, with what it is for."""


def document(status: Status) -> dict[str, Any]:
    """Return the status file's JSON document."""
    plain = dataclasses.asdict(status)
    for key in ("since", "phase_since", "written_at"):
        plain[key] = stamp(plain[key])
    return {"schema": SCHEMA, **plain}


def stamp(moment: datetime.datetime) -> str:
    """Return RFC 3339 in UTC with seconds."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def exit_code(document: dict[str, Any] | None, *, running: bool, now: datetime.datetime) -> int:
    """Return the exit code of ``flower-agent status``.

    `document` is None when there is no status file or it cannot be read.
    """
    if not running:
        return NOT_RUNNING
    if document is None or document.get("schema") != SCHEMA or age_s(document, now) > STALE_AFTER_S:
        return UNKNOWN
    return EXIT_CODES.get(str(document.get("state")), UNKNOWN)


def age_s(document: dict[str, Any], now: datetime.datetime) -> float:
    """Return how many seconds ago the status was written; infinite when it does not say."""
    moment = _moment(document.get("written_at"))
    return (now - moment).total_seconds() if moment else float("inf")


def render(document: dict[str, Any] | None, *, running: bool, now: datetime.datetime) -> str:
    """Return the status as text for a person, 80 columns wide.

    The first line answers "does it work, since when". Words that are wider, such as paths, stay
    whole; what other programs said comes without control characters.
    """
    text = _text(document, running, now)
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _text(document: dict[str, Any] | None, running: bool, now: datetime.datetime) -> str:  # noqa: FBT001
    known = document is not None and document.get("schema") == SCHEMA
    if not running and not known:
        return "not running: no flower-agent runs here\n  fix: systemctl start flower-agent"
    if document is None:
        return "unknown: the agent runs but has not written a status yet"
    if not known:
        return (
            f"unknown: the status has schema {document.get('schema')!r}, this program reads "
            f"{SCHEMA}\n  fix: use the flower-agent command of the agent that runs"
        )
    lines = textwrap.wrap(_headline(document, running, now), WIDTH, subsequent_indent="  ")
    error = document.get("error")
    if error:
        lines += _wrapped("cause", f"{error['code']}: {error['message']}")
        lines += _wrapped("fix", error["hint"])
    for found in (document.get("errors") or ())[1:]:
        lines += _wrapped("cause", f"{found['code']}: {found['message']}")
        lines += _wrapped("fix", found["hint"])
    for found in document.get("warnings") or ():
        lines += _wrapped("warning", f"{found['code']}: {found['message']}")
        lines += _wrapped("fix", found["hint"])
    facts = _facts(document)
    lines += ["", *facts] if facts else []
    lines += _commands(document)
    return "\n".join(lines)


def _headline(document: dict[str, Any], running: bool, now: datetime.datetime) -> str:  # noqa: FBT001
    state = document.get("state")
    since = _moment(document.get("since"))
    age = _age((now - since).total_seconds()) if since else "an unknown time"
    who = {"superlink": "SuperLink", "supernode": "SuperNode", "superexec": "SuperExec"}.get(
        str(document.get("role")), "no role yet"
    )
    version = f", Flower {document['version']}" if document.get("version") else ""
    phase = f", phase {document['phase']}" if document.get("phase") else ""
    line = f"{state} for {age}{phase} ({who}{version})"
    if not running:
        return f"not running: no agent runs here; its last word was: {line}"
    if age_s(document, now) > STALE_AFTER_S:
        return f"unknown: no word for {_age(age_s(document, now))}; the last was: {line}"
    return line


def _facts(document: dict[str, Any]) -> list[str]:
    rows = [(f["name"], f["mark"], f["detail"]) for f in document.get("facts") or ()]
    rows += [
        (
            "container",
            "ok" if c["status"] == "running" else "bad",
            f"{c['name']} {c['status']}"
            + (f", restarted {c['restarts']}x" if c.get("restarts") else ""),
        )
        for c in document.get("containers") or ()
    ]
    wrapper = textwrap.TextWrapper(WIDTH - 23, break_on_hyphens=False, break_long_words=False)
    lines = []
    for name, mark, detail in rows:
        first, *rest = wrapper.wrap(detail) or [""]
        lines.append(f"  {name:<11} {mark:<8} {first}".rstrip())
        lines += [f"{'':<23}{line}" for line in rest]
    return lines


def _commands(document: dict[str, Any]) -> list[str]:
    lines = []
    for purpose, command in document.get("commands") or ():
        lines += ["", f"  # {purpose}", *(f"  {line}" for line in command.splitlines())]
    return lines


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"  {label + ':':<9}",
        subsequent_indent=" " * 11,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _age(seconds: float) -> str:
    """Return a duration in the one unit that says enough."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _moment(text: Any) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else None
