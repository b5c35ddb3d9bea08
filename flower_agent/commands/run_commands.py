"""``flower-agent submit`` and ``stop``, on a SuperLink's VM."""

import contextlib
import dataclasses
import os
import pathlib
import pwd
import sys
import time
from collections.abc import Sequence

from flower_agent.config.app_source import parse_source
from flower_agent.config.settings import Settings
from flower_agent.errors import AgentError
from flower_agent.paths import Paths
from flower_agent.probes.control import RunInfo, Scalar
from flower_agent.runs import git, local_app, outcome, rounds, run_app, run_config
from flower_agent.runs.bundler import Bundler
from flower_agent.runs.rounds import Progress
from flower_agent.runs.run_app import App
from flower_agent.runs.run_calls import CALL_TIMEOUT_S, LAST_LOOK_S, START_TIMEOUT_S
from flower_agent.runs.run_files import RunFiles
from flower_agent.steps.engine import Engine, socket_url
from flower_agent.wanted import app_environment, flower, roles
from flower_agent.wanted.containers import Part

from . import own_superlink, run_views, submit_check
from .own_superlink import OwnSuperLink
from .run_views import printable

KEPT_AFTER_S = 60.0
"""So long after a run's end `submit` waits for the agent to keep what the run left."""


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
        _warn_of_images(paths, name, own, found.app, of_context=where is None)
        band = flower.band(own.settings.version)
        run_id = own.api.start_run(bundle, found.config, band.federation, START_TIMEOUT_S)
        print(f"run {run_id}: {found.app} from {found.source} {found.commit[:10]}".rstrip())
        _note(paths, run_id, found)
        if detach:
            print(f"flower-agent runs show {run_id}")
            return 0
        try:
            return _follow(paths, own, run_id)
        except KeyboardInterrupt:
            print(f"\nit goes on; to end it: flower-agent stop {run_id}", file=sys.stderr)
            raise


def _warn_of_images(
    paths: Paths, name: str, own: OwnSuperLink, app: App, *, of_context: bool
) -> None:
    """Say what the app will find lacking where; it is submitted all the same."""
    try:
        found = submit_check.sentences(paths, name, own, app, of_context=of_context)
    except AgentError as error:
        found = (f"the images could not be looked at: {error.finding.message}",)
    for sentence in found:
        print(f"warning: {printable(sentence)}", file=sys.stderr)


def _note(paths: Paths, run_id: str, found: _Found) -> None:
    """Write beside the run who submitted what; the daemon keeps the rest."""
    document = {"by": _caller(), "app": str(found.app), "source": found.source}
    more = {"commit": found.commit, "config": dict(found.config)}
    RunFiles(paths.runs).submitted(run_id, {**document, **more})


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
        source, commit, files = _fetch(paths, settings, text)
    app = run_app.read(files.get(run_app.FILE), source)
    config: dict[str, Scalar] = {}
    if where is None:
        fitted = run_config.fit(settings, app)
        config.update(fitted.overrides)
        for finding in fitted.findings:
            print(f"warning: {finding}", file=sys.stderr)
    config.update(run_config.given(pairs, app))
    return _Found(source, commit, app, files, tuple(sorted(config.items())))


def _fetch(paths: Paths, settings: Settings, text: str) -> tuple[str, str, dict[str, bytes]]:
    try:
        source = parse_source(text)
    except ValueError as error:
        message = f"{text} is neither a directory nor a repository: {error}"
        raise AgentError("run.no_app", message) from None
    with git.for_command(paths.runs, app_environment.proxies(settings).variables()) as own:
        commit, files = own.fetch(source)
    return str(source), commit, files


def _bundle(name: str, settings: Settings, files: dict[str, bytes]) -> bytes:
    """Return the app's bundle, made with the image of the SuperLink that runs."""
    engine = Engine(name or "default", url=socket_url())
    with contextlib.closing(engine):
        wanted = roles.name(name, Part.SUPERLINK)
        seen = next((c.image for c in engine.containers() if c.name == wanted), "")
        image = seen or flower.image(settings.image_prefix, "superlink", settings.version)
        return Bundler(engine).build(image, files)


def _follow(paths: Paths, own: OwnSuperLink, run_id: str) -> int:
    """Print the rounds as they end, then how the run ended and where its outputs are."""
    progress, latest, shown = Progress(), 0.0, 0
    while True:
        (run,) = own.api.list_runs(CALL_TIMEOUT_S, run_id=run_id)
        for piece in own.api.stream_logs(run_id, latest, LAST_LOOK_S):
            progress, latest = rounds.follow(progress, piece.text), max(latest, piece.latest)
            shown = _show_rounds(progress, shown, ended=False)
        if not run.active:
            break
    _show_rounds(progress, shown, ended=True)
    return _tell_end(RunFiles(paths.runs), run, progress)


def _tell_end(kept: RunFiles, run: RunInfo, progress: Progress) -> int:
    """Say how a run ended, as the daemon wrote it down once the outputs are kept."""
    end = time.monotonic() + KEPT_AFTER_S
    while time.monotonic() < end and not (kept.ended(run.run_id) and kept.settled(run.run_id)):
        time.sleep(0.2)
    found = kept.ended(run.run_id)
    if found:
        words = outcome.words(str(found["end"]), str(found.get("cause") or ""))
    else:
        seen = outcome.of(run, progress, None)
        words = f"{seen.words() if seen else run.status}; the agent does not keep its outputs yet"
    print(printable(words))
    for line in run_views.outputs(kept, run.run_id):
        print(line)
    print(f"flower-agent runs show {run.run_id}")
    return 0 if words.startswith("finished") else 1


def _show_rounds(progress: Progress, shown: int, *, ended: bool) -> int:
    """Print the rounds that are over and were not shown; return how many were by now."""
    over = progress.rounds if ended else progress.rounds[:-1]
    for each in over[shown:]:
        of = f" of {progress.total}" if progress.total else ""
        said = "; ".join(filter(None, (rounds.measured(each), rounds.replies(each))))
        print(printable(f"round {each.number}{of}{': ' + said if said else ''}"), flush=True)
    return max(len(over), shown)


def _caller() -> str:
    """Return who submits: behind sudo the user who called it."""
    name = os.environ.get("SUDO_USER", "")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
