"""``flower-agent submit``, ``runs`` and ``stop``, on a SuperLink's VM."""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence

from flower_agent.config.app_source import parse_source
from flower_agent.config.settings import Settings
from flower_agent.errors import AgentError
from flower_agent.paths import Paths
from flower_agent.probes.control import RunInfo, Scalar
from flower_agent.runs import local_app, rounds, run_app, run_config, submission
from flower_agent.runs.bundler import Bundler
from flower_agent.runs.git import Git
from flower_agent.runs.run_app import App
from flower_agent.runs.run_errands import CALL_TIMEOUT_S, LAST_LOOK_S, START_TIMEOUT_S
from flower_agent.runs.run_files import Journal, RunFiles
from flower_agent.runs.submission import Submission
from flower_agent.steps.engine import Engine, socket_url
from flower_agent.wanted import flower, roles
from flower_agent.wanted.containers import Part

from . import own_superlink
from .own_superlink import OwnSuperLink

LIMIT = 1000
"""Runs that are listed at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """An app that was found, and what its run sets."""

    source: str
    commit: str
    app: App
    files: dict[str, bytes]
    config: tuple[tuple[str, Scalar], ...]


def submit(
    paths: Paths, name: str, where: str | None, pairs: Sequence[tuple[str, str]], *, detach: bool
) -> int:
    """Submit an app (a directory, a git URL, or None for the context's) and follow its rounds.

    Returns 0 when it finished, 1 when it failed or was stopped; 0 at once with `detach`.
    """
    with own_superlink.reach(paths) as own:
        found = _find(paths, own.settings, where, pairs)
        bundle = _bundle(name, own.settings, found.files)
        band = flower.band(own.settings.version)
        run_id = own.api.start_run(bundle, found.config, band.federation, START_TIMEOUT_S)
        print(f"run {run_id}: {found.app} from {found.source} {found.commit[:10]}".rstrip())
        if detach:
            return 0
        try:
            return _follow(paths, own, run_id, found)
        except KeyboardInterrupt:
            print(f"\nit goes on; to end it: flower-agent stop {run_id}", file=sys.stderr)
            raise


def show(paths: Paths, *, as_json: bool) -> int:
    """Print the SuperLink's runs, the newest last."""
    with own_superlink.reach(paths) as own:
        found = own.api.list_runs(CALL_TIMEOUT_S, limit=LIMIT)
    known = RunFiles(paths.runs).load()
    rows = [_row(run, known) for run in found]
    if as_json:
        print(json.dumps({"schema": 1, "runs": rows}, indent=1))
        return 0
    if not rows:
        print("the SuperLink has no runs")
        return 0
    line = "{:<20}  {:<10}  {:<20}  {:<28}  {}"
    print(line.format("RUN", "STATUS", "SUBMITTED", "APP", "BY").rstrip())
    for row in rows:
        when = row["submitted_at"][:19]
        print(line.format(row["run_id"], row["status"], when, row["app"], row["by"]).rstrip())
    return 0


def stop(paths: Paths, run_id: str) -> int:
    """Stop a run. Raises AgentError ``control.refused`` for one that is over or unknown."""
    with own_superlink.reach(paths) as own:
        own.api.stop_run(run_id, START_TIMEOUT_S)
    print(f"run {run_id} is stopped")
    return 0


def _find(
    paths: Paths, settings: Settings, where: str | None, pairs: Sequence[tuple[str, str]]
) -> _Found:
    text = where or settings.app_repo
    if text is None:
        raise AgentError("run.no_app", "no APP is named and CUSTOM_APP_REPO is not set")
    directory = pathlib.Path(text) if where is not None else None
    if directory is not None and directory.is_dir():
        source, commit, files = str(directory.resolve()), "", local_app.read(directory)
    else:
        source, commit, files = _fetch(paths, text)
    app = run_app.read(files.get(run_app.FILE), source)
    config: dict[str, Scalar] = {}
    if where is None:
        fitted = run_config.fit(settings, app)
        config.update(fitted.overrides)
        for finding in fitted.findings:
            print(f"warning: {finding}", file=sys.stderr)
    config.update(run_config.given(pairs, app))
    return _Found(source, commit, app, files, tuple(sorted(config.items())))


def _fetch(paths: Paths, text: str) -> tuple[str, str, dict[str, bytes]]:
    try:
        source = parse_source(text)
    except ValueError as error:
        message = f"{text} is neither a directory nor a repository: {error}"
        raise AgentError("run.no_app", message) from None
    commit, files = Git(paths.runs / f"git-{os.getpid()}").fetch(source)
    return str(source), commit, files


def _bundle(name: str, settings: Settings, files: dict[str, bytes]) -> bytes:
    """Return the app's bundle, made with the image of the SuperLink that runs."""
    engine = Engine(name or "default", url=socket_url())
    with contextlib.closing(engine):
        wanted = roles.name(name, Part.SUPERLINK)
        seen = next((c.image for c in engine.containers() if c.name == wanted), "")
        image = seen or flower.image(settings.image_prefix, "superlink", settings.version)
        return Bundler(engine).build(image, files)


def _follow(paths: Paths, own: OwnSuperLink, run_id: str, found: _Found) -> int:
    journal = RunFiles(paths.runs).journal(run_id)
    shown = 0
    while True:
        (run,) = own.api.list_runs(CALL_TIMEOUT_S, run_id=run_id)
        for piece in own.api.stream_logs(run_id, journal.latest, LAST_LOOK_S):
            journal.add(piece)
            shown = _show_rounds(journal, shown, ended=False)
        if not run.active:
            break
    _show_rounds(journal, shown, ended=True)
    known = Submission(
        key="", vmid=None, source=found.source, commit=found.commit, app=str(found.app), bundle="",
        overrides=found.config, run_id=run_id,
    )  # fmt: skip
    ended = submission.after(known, run, journal.progress.cause)
    journal.end(run, ended)
    print(f"{submission.words(ended, run, '')}; its log is in {paths.runs / run_id}")
    return 0 if ended.end == "finished" else 1


def _show_rounds(journal: Journal, shown: int, *, ended: bool) -> int:
    """Print the rounds that are over and were not shown; return how many were by now."""
    progress = journal.progress
    over = progress.rounds if ended else progress.rounds[:-1]
    for each in over[shown:]:
        of = f" of {progress.total}" if progress.total else ""
        measured = rounds.measured(each)
        print(f"round {each.number}{of}{': ' + measured if measured else ''}", flush=True)
    return max(len(over), shown)


def _row(run: RunInfo, known: Submission | None) -> dict[str, str]:
    mine = known is not None and known.run_id == run.run_id
    return {
        "run_id": run.run_id,
        "status": run.sub_status or str(run.status),
        "submitted_at": run.pending_at,
        "finished_at": run.finished_at,
        "app": f"{run.fab_id} {run.fab_version}".strip(),
        "by": "context" if mine else "",
        "details": run.details,
    }
