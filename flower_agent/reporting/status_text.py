"""The status as text for a person: 80 columns, the state first. Pure.

Standard library only. Color repeats what a word says and never says it alone.
"""

import datetime
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from flower_agent.model.status import SCHEMA, STALE_AFTER_S, STOPPED, age_s, moment

WIDTH = 80
UNUSED = "not used"
"""The reason after it does not fit into the table."""

NODES = 10
"""Most rows of SuperNodes; `flower-agent nodes` lists all."""

ORDER = (
    "context", "docker", "settings", "upgrade", "tls", "ca", "renewal", "gpu", "image",
    "containers", "health", "endpoint", "control", "superlink", "partition", "key", "peer",
    "superexec", "enrolment", "partitions", "nodes", "run", "onegate",
)  # fmt: skip
"""The order of facts; others follow."""

IN_CONTAINERS = frozenset({"container", "health", "enrol", "peer"})
"""Phases whose causes are in the containers' logs."""

_ROLES = {"superlink": "SuperLink", "supernode": "SuperNode", "superexec": "SuperExec"}
_GREEN, _YELLOW, _RED, _FAINT = "32", "33", "31", "2"
_COLORS = {
    "ready": _GREEN, "starting": _YELLOW, "degraded": _YELLOW, "failed": _RED,
    "not running": _RED, "being started": _YELLOW, "unknown": _RED, "stopped": _YELLOW,
    "ok": _GREEN, "waiting": _YELLOW, "bad": _RED, "off": _FAINT, "skipped": _FAINT,
    "cause": _RED, "warning": _YELLOW,
}  # fmt: skip
_PAINTED = re.compile(
    r"^(?:(ready|starting|degraded|failed|stopped|not running|being started|unknown)\b"
    r"|(  \S{1,11} +)(ok|waiting|bad|off|warning|skipped)(?= |$)"
    r"|(  )(cause|warning)(?=:))"
)


def render(
    document: dict[str, Any] | None,
    *,
    running: bool,
    now: datetime.datetime,
    color: bool = False,
    being_started: bool = False,
) -> str:
    """Return the status as text.

    The first line answers "does it work, since when". Words that are wider than the screen, such
    as paths, stay whole; what other programs said comes without control characters.
    """
    first = headline(document, running=running, now=now, being_started=being_started)
    begin = textwrap.wrap(first, WIDTH, subsequent_indent="  ")
    if not running and not being_started:
        begin.append("  fix: systemctl start flower-agent")
    text = "\n".join([*begin, *_lines(document, running=running, now=now)])
    plain = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return "\n".join(map(paint, plain.split("\n"))) if color else plain


def headline(
    document: dict[str, Any] | None,
    *,
    running: bool,
    now: datetime.datetime,
    being_started: bool = False,
) -> str:
    """Return the first line, with state and age, at any width."""
    known = document is not None and document.get("schema") == SCHEMA
    if not running and (being_started or not known):
        begins = "being started: systemd starts flower-agent, or waits for other units"
        return begins if being_started else "not running: no flower-agent runs here"
    if document is None:
        return "unknown: the agent runs but has not written a status yet"
    if not known:
        return (
            f"unknown: the status has schema {document.get('schema')!r}, this program reads "
            f"{SCHEMA}"
        )
    line = _word(document, now)
    if not running:
        on_purpose = document.get("state") == STOPPED
        last = f"not running: no agent runs here; last status: {line}"
        return f"{line}: stopped on purpose" if on_purpose else last
    if age_s(document, now) > STALE_AFTER_S:
        return f"unknown: no status for {age(age_s(document, now))}; last status: {line}"
    return line


def age(seconds: float) -> str:
    """Return a duration in one suitable unit."""
    if seconds == float("inf"):
        return "an unknown time"
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def labelled(label: str, text: str) -> list[str]:
    """Return lines with `text` in a separate column after ``label:``."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"  {label + ':':<9}",
        subsequent_indent=" " * 11,
        break_on_hyphens=False,
        break_long_words=False,
    )


def row(name: str, mark: str, detail: str) -> Iterator[str]:
    """Yield the lines of one fact: name, mark, and its detail in a separate column."""
    first, *rest = column(detail) or [""]
    yield f"  {name:<11} {mark:<8} {first.strip()}".rstrip()
    yield from rest


def column(detail: str) -> list[str]:
    """Return lines in the column of a fact's detail."""
    wrapper = textwrap.TextWrapper(WIDTH - 23, break_on_hyphens=False, break_long_words=False)
    return [f"{'':<23}{line}" for line in wrapper.wrap(detail)]


def paint(line: str) -> str:
    """Return a line with its state, mark or label in color."""
    match = _PAINTED.match(line)
    if match is None:
        return line
    word = match[1] or match[3] or match[5]
    start, end = match.span(1 if match[1] else 3 if match[3] else 5)
    return f"{line[:start]}\x1b[{_COLORS[word]}m{word}\x1b[0m{line[end:]}"


def _lines(
    document: dict[str, Any] | None, *, running: bool, now: datetime.datetime
) -> Iterator[str]:
    if document is None or document.get("schema") != SCHEMA:
        if running and document is not None:
            yield "  fix: use the flower-agent command of the running agent"
        return
    trouble, facts = list(_trouble(document)), list(_facts(document))
    old_s = age_s(document, now)
    if (trouble or facts) and (not running or old_s > STALE_AFTER_S):
        yield from ["", f"the details below are {age(old_s)} old"]
    yield from trouble
    yield from ["", *facts] if facts else []
    yield from _nodes(document, now)
    yield from _commands(document)


def _word(document: dict[str, Any], now: datetime.datetime) -> str:
    since = moment(document.get("since"))
    lasted = age((now - since).total_seconds()) if since else "an unknown time"
    who = _ROLES.get(str(document.get("role")), "no role yet")
    version = f", Flower {document['version']}" if document.get("version") else ""
    phase = f", phase {document['phase']}" if document.get("phase") else ""
    return f"{document.get('state')} for {lasted}{phase} ({who}{version})"


def _trouble(document: dict[str, Any]) -> Iterator[str]:
    """Yield cause and fix of every error and warning, and a command for more."""
    error = document.get("error")
    causes = ([error] if error else []) + list((document.get("errors") or ())[1:])
    for found in causes:
        yield from labelled("cause", f"{found['code']}: {found['message']}")
        yield from labelled("fix", found["hint"])
    logs = (
        "flower-agent logs"
        if document.get("phase") in IN_CONTAINERS
        else "journalctl -u flower-agent -n 50"
    )
    if causes and not any(logs.partition(" -")[0] in found["hint"] for found in causes):
        yield from labelled("logs", logs)
    for found in document.get("warnings") or ():
        yield from labelled("warning", f"{found['code']}: {found['message']}")
        yield from labelled("fix", found["hint"])


def _facts(document: dict[str, Any]) -> Iterator[str]:
    rows = [(f["name"], f["mark"], f["detail"]) for f in document.get("facts") or ()]
    containers = document.get("containers") or ()
    if containers:
        well = all(c["status"] == "running" for c in containers)
        rows.append(("containers", "ok" if well else "bad", ", ".join(map(_container, containers))))
    order = {name: number for number, name in enumerate(ORDER)}
    for name, mark, detail in sorted(rows, key=lambda fact: order.get(fact[0], len(order))):
        yield from row(name, mark, detail)


def _container(found: dict[str, Any]) -> str:
    restarts = f" (restarted {found['restarts']}x)" if found.get("restarts") else ""
    return f"{found['name']} {found['status']}{restarts}"


def _nodes(document: dict[str, Any], now: datetime.datetime) -> Iterator[str]:
    """Yield a table of the SuperNodes; a long GPU text is cut at the screen's edge."""
    nodes = document.get("supernodes") or ()
    if not nodes:
        return
    named = any(node.get("name") for node in nodes[:NODES])
    line = "  {:<20}  {:>7}  {:<10}  {:<11}  {}"
    last = "NAME, GPU" if named else "GPU"
    yield from ["", line.format("SUPERNODE", "VM", "STATE", "LAST SEEN", last)]
    for node in nodes[:NODES]:
        texts = (node["node_id"], node["vmid"] or "-", node["state"], _seen(node, now))
        gpu = node["gpu"] or ""
        more = (_short(node), UNUSED if gpu.startswith(UNUSED) else gpu)
        text = line.format(*texts, ", ".join(filter(None, more)) or "-")
        yield text if len(text) <= WIDTH else text[: WIDTH - 1].rstrip() + "…"
    if len(nodes) > NODES:
        yield f"  and {len(nodes) - NODES} more: flower-agent nodes"


def _short(node: dict[str, Any]) -> str:
    """Return the name of a node's VM without the service that OneFlow appends; empty for none."""
    name = str(node.get("name") or "")
    return name.partition("_(service_")[0] or name


def _seen(node: dict[str, Any], now: datetime.datetime) -> str:
    if node["state"] == "online":
        return "now"
    seen = moment(node["seen_at"])
    return f"{age((now - seen).total_seconds())} ago" if seen else "never"


def _commands(document: dict[str, Any]) -> Iterator[str]:
    for purpose, command in document.get("commands") or ():
        yield from ["", f"  # {purpose}", *(f"  {line}" for line in command.splitlines())]
