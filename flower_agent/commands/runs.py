"""``flower-agent runs``: list, ``show``, ``log``, ``fetch`` and ``delete``.

The list asks the SuperLink; the rest reads what is kept below ``runs/``, so that it works on the VM
of a SuperExec VM, too. What apps wrote is printed without control characters, and of their files
only regular ones are read, never through a link.
"""

import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from flower_agent import files
from flower_agent.commands import own_superlink, recording
from flower_agent.flower.control_messages import RunInfo
from flower_agent.model import foreign_text
from flower_agent.model.errors import AgentError, counted
from flower_agent.model.record import Entry, Event
from flower_agent.paths import Paths
from flower_agent.runs import outcome, rounds
from flower_agent.runs.calls import CALL_TIMEOUT_S
from flower_agent.runs.store import RunFiles

LIMIT = 1000
"""Runs that are listed at most."""

LOOK_S = 0.5
_CHUNK = 1 << 20
_SHOWN_FILES = 40
_SHOWN_NODES = 20
_SHOWN_ROUNDS = 200
_STEP = 1024
_COLUMNS = ("RUN", "STATUS", "SUBMITTED", "TOOK", "ROUND", "METRICS", "APP", "BY")


def show_all(paths: Paths, *, as_json: bool) -> int:
    """Print the SuperLink's runs, the newest last."""
    with own_superlink.reach(paths) as own:
        found = own.api.list_runs(CALL_TIMEOUT_S, limit=LIMIT)
    kept = RunFiles(paths.runs)
    context = kept.load()
    rows = [row(run, kept, context.run_id if context else None) for run in found]
    if as_json:
        print(json.dumps({"schema": 1, "runs": rows}, indent=1))
        return 0
    if not rows:
        print("the SuperLink has no runs")
        return 0
    lines = [_COLUMNS, *(tuple(_cell(each, name) for name in _COLUMNS) for each in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(_COLUMNS))]
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    return 0


def row(run: RunInfo, kept: RunFiles, of_context: str | None = None) -> dict[str, Any]:
    """Return one run as ``runs --json`` lists it."""
    ended, submitted = kept.ended(run.run_id), kept.read(run.run_id, "submitted")
    told = ended.get("rounds") or _rounds(kept, run.run_id)
    status = str(run.status)
    if run.sub_status:
        status = "finished" if run.sub_status == "completed" else run.sub_status
    by = "context" if run.run_id == of_context else str(submitted.get("by") or "")
    return {
        "run_id": run.run_id,
        "status": str(ended.get("end") or status),
        "failures": bool(ended.get("cause")) and ended.get("end") == "finished",
        "submitted_at": run.pending_at,
        "finished_at": run.finished_at,
        "took_s": _took_s(run),
        "round": told[-1].get("round") if told else None,
        "metrics": _metrics(told),
        "app": f"{run.fab_id} {run.fab_version}".strip(),
        "by": by,
        "details": str(ended.get("cause") or run.details),
    }


def show(paths: Paths, run_id: str, *, as_json: bool) -> int:
    """Print everything about one run. Raises AgentError ``run.unknown``."""
    kept = RunFiles(paths.runs)
    found = document(kept, run_id)
    if as_json:
        print(json.dumps({"schema": 1, **found}, indent=1))
        return 0
    for line in described(kept, run_id, found):
        print(printable(line))
    return 0


def described(kept: RunFiles, run_id: str, found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about a run."""
    end = str(found.get("end") or "")
    yield f"run {run_id}: {outcome.words(end, str(found.get('cause') or '')) or 'has not ended'}"
    yield from _submission(found)
    server = found.get("serverapp") or {}
    if server.get("error"):
        yield f"  serverapp  {server['error']}: {server.get('text') or ''}".rstrip(" :")
    rows = found.get("rounds") or []
    if rows:
        yield "  rounds"
        yield from (f"    {line}" for line in map(_round, rows[-_SHOWN_ROUNDS:]))
    if found.get("outputs_gone"):
        yield f"  outputs    gone: {found['outputs_gone']}"
    if found.get("outputs_at"):
        yield f"  outputs    on {found['outputs_at']}, in {kept.directory / run_id / 'outputs'}"
    yield from (f"  {line}" for line in outputs(kept, run_id))
    place = kept.directory / run_id
    if (place / "log.txt").exists():
        yield f"  log        {place / 'log.txt'}"


def _submission(found: dict[str, Any]) -> Iterator[str]:
    """Yield who submitted what, when, and to whom."""
    if found.get("app"):
        source = f" from {found['source']}" if found.get("source") else ""
        commit = f" at {str(found['commit'])[:10]}" if found.get("commit") else ""
        yield f"  app        {found['app']}{source}{commit}"
    yield f"  by         {found.get('by') or 'unknown: flwr run does not say'}"
    if found.get("pending_at"):
        yield f"  submitted  {found['pending_at']}"
    if found.get("finished_at"):
        yield f"  ended      {found['finished_at']}"
    config = found.get("config") or {}
    if config:
        yield "  config     " + " ".join(f"{key}={value}" for key, value in sorted(config.items()))
    if found.get("nodes"):
        yield f"  nodes      {_nodes(found['nodes'])}"


def outputs(kept: RunFiles, run_id: str) -> Iterator[str]:
    """Yield the path of a run's outputs, and each file."""
    found = kept.read(run_id, "outputs")
    place = kept.directory / run_id / "outputs"
    if not found or not place.is_dir():
        return
    count = found.get("count", 0)
    yield f"outputs    {counted(count, 'file')}, {size(found.get('bytes', 0))} in {place}"
    for each in found.get("files", [])[:_SHOWN_FILES]:
        yield f"           {each['name']}  {size(each['bytes'])}  sha256:{each['sha256']}"
    if count > _SHOWN_FILES:
        yield f"           … and {count - _SHOWN_FILES} more"
    if found.get("over_limit"):
        yield f"           {found['over_limit']} files were over FLOWER_OUTPUTS_LIMIT and are gone"
    if found.get("left_out"):
        yield f"           {found['left_out']} links and special files were left out"


def log(paths: Paths, run_id: str, *, follow: bool) -> int:
    """Print a ServerApp's output; with `follow` until the run ends."""
    kept = RunFiles(paths.runs)
    path = kept.directory / run_id / "log.txt"
    _known(kept, run_id)
    at = 0
    while True:
        over = bool(kept.ended(run_id) or kept.read(run_id, "outputs"))
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            at = file.seek(at if at <= os.fstat(file.fileno()).st_size else 0)
            while data := file.read(_CHUNK):
                at += len(data)
                sys.stdout.write(foreign_text.printable(data.decode("utf-8", "replace")))
                sys.stdout.flush()
        if over or not follow:
            return 0
        time.sleep(LOOK_S)


def fetch(paths: Paths, run_id: str, names: Sequence[str], target: pathlib.Path | None) -> int:
    """Copy a run's outputs, all or the named ones, and check their hashes.

    Raises AgentError ``run.no_outputs`` where there are none, or a named one is not there.
    """
    kept = RunFiles(paths.runs)
    _known(kept, run_id)
    source, where = kept.directory / run_id / "outputs", target or pathlib.Path(f"run-{run_id}")
    if not source.is_dir():
        gone = kept.read(run_id, "run").get("outputs_gone")
        why = f"gone: {gone}" if gone else "the run left none, or has not ended"
        raise AgentError("run.no_outputs", f"run {run_id} has no outputs here: {why}")
    listed = {
        str(f["name"]): str(f["sha256"]) for f in kept.read(run_id, "outputs").get("files", ())
    }
    found = dict(walk(source))
    missing = [name for name in names if name not in found]
    if missing:
        has = ", ".join(sorted(found)[:10])
        message = f"run {run_id} has no output {printable(missing[0])}"
        raise AgentError("run.no_outputs", message, f"The run has: {printable(has)}")
    total = 0
    for name in names or sorted(found):
        digest, count = _copy(found[name], where / name)
        total += count
        if listed.get(name, digest) != digest:
            raise AgentError(
                "run.no_outputs", f"{printable(name)} has changed since the agent saved it"
            )
    print(f"{counted(len(names or found), 'file')}, {size(total)} in {where}")
    return 0


def delete(paths: Paths, run_ids: Sequence[str]) -> int:
    """Remove outputs, log and metrics of runs that have ended; their ``run.json`` says so."""
    kept = RunFiles(paths.runs)
    for run_id in run_ids:
        _known(kept, run_id)
        if not kept.settled(run_id) or not (kept.ended(run_id) or kept.read(run_id, "outputs")):
            raise AgentError("run.active", f"run {run_id} has not ended")
        with recording.attempted(paths, Entry(what=Event.RUN_DELETED, run=run_id)):
            kept.clear(run_id, "deleted by an operator")
        print(f"run {run_id}: outputs, log and metrics are removed")
    return 0


def walk(place: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Yield the regular files below a directory that apps filled, by name; links are passed by."""
    for directory, names, entries in os.walk(place):
        here = pathlib.Path(directory)
        names[:] = sorted(name for name in names if not (here / name).is_symlink())
        for name in sorted(entries):
            path = here / name
            if stat.S_ISREG(path.lstat().st_mode):
                yield path.relative_to(place).as_posix(), path


def size(size_bytes: float) -> str:
    """Return a size for a person: ``12.3 KiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_bytes < _STEP or unit == "GiB":
            whole = unit == "bytes"
            return counted(round(size_bytes), "byte") if whole else f"{size_bytes:.1f} {unit}"
        size_bytes /= _STEP
    raise AssertionError


def printable(text: str) -> str:
    """Return one line of an app or a node for a terminal."""
    return foreign_text.printable(text).replace("\n", " ").replace("\t", " ")


def _copy(source: pathlib.Path, target: pathlib.Path) -> tuple[str, int]:
    """Copy one regular file; return its SHA-256 and size."""
    digest, count = hashlib.sha256(), 0
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with files.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(source, flags)
        with os.fdopen(descriptor, "rb") as file, target.open("wb") as out:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "is not a regular file")
            while data := file.read(_CHUNK):
                digest.update(data)
                count += out.write(data)
    return digest.hexdigest(), count


def _known(kept: RunFiles, run_id: str) -> None:
    if not (kept.directory / run_id).is_dir():
        message = f"this VM has no record of run {run_id}"
        raise AgentError("run.unknown", message, "See: flower-agent runs")


def document(kept: RunFiles, run_id: str) -> dict[str, Any]:
    """Return what ``runs show --json`` prints. Raises AgentError ``run.unknown``."""
    _known(kept, run_id)
    found = {**kept.read(run_id, "submitted"), **kept.read(run_id, "run")}
    if not found.get("rounds"):
        found["rounds"] = _rounds(kept, run_id)
    found["run_id"] = run_id
    listed = kept.read(run_id, "outputs")
    return {**found, "outputs": listed} if listed else found


def _rounds(kept: RunFiles, run_id: str) -> list[dict[str, Any]]:
    """Return the rounds of a run that goes on, as ``metrics.jsonl`` has them."""
    with contextlib.suppress(AgentError, ValueError):
        data = files.read(kept.directory / run_id / "metrics.jsonl", 1 << 24) or b""
        return [json.loads(line) for line in data.splitlines()]
    return []


def _round(each: dict[str, Any]) -> str:
    parts = [each[part] for part in ("server", "evaluate", "train") if each.get(part)]
    measured = (
        ", ".join(f"{k} {v:.4g}" for k, v in sorted(parts[0].items()) if _number(v))
        if parts
        else ""
    )
    replies = each.get("replies") or {}
    went = "; ".join(
        f"{part}: {rounds.tally(n['results'], n['failures'])}" for part, n in replies.items()
    )
    causes = "; ".join(each.get("causes") or ())
    return f"{each.get('round'):>4}  " + "  ".join(filter(None, (measured, went, causes)))


def _nodes(found: list[dict[str, Any]]) -> str:
    """Return the SuperNodes that were connected: ``2: VM 42, node 812…``."""
    names = [f"VM {n['vmid']}" if n.get("vmid") else f"node {n['node_id']}" for n in found]
    more = f" and {len(names) - _SHOWN_NODES} more" if len(names) > _SHOWN_NODES else ""
    return f"{len(names)}: {', '.join(names[:_SHOWN_NODES])}{more}"


def _metrics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the newest metrics, those of the ServerApp before those of the nodes."""
    for each in reversed(rows):
        for part in ("server", "evaluate", "train"):
            if each.get(part):
                return dict(each[part])
    return {}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(each: dict[str, Any], column: str) -> str:
    match column:
        case "RUN":
            text = each["run_id"]
        case "STATUS":
            text = f"{each['status']}{' with failures' if each['failures'] else ''}"
        case "SUBMITTED":
            text = each["submitted_at"][:19]
        case "TOOK":
            text = "-" if each["took_s"] is None else _duration(each["took_s"])
        case "ROUND":
            text = "-" if each["round"] is None else str(each["round"])
        case "METRICS":
            shown = [f"{k} {v:.4g}" for k, v in sorted(each["metrics"].items()) if _number(v)]
            text = ", ".join(shown[:3]) or "-"
        case "APP":
            text = each["app"] or "-"
        case _:
            text = each["by"] or "-"
    return printable(text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} m"
    return f"{minutes} m {rest} s" if minutes else f"{rest} s"


def _took_s(run: RunInfo) -> float | None:
    try:
        began = datetime.datetime.fromisoformat(run.pending_at)
        ended = datetime.datetime.fromisoformat(run.finished_at)
        return (ended - began).total_seconds()
    except (TypeError, ValueError):
        return None
