"""``flower-agent submit`` and ``stop``, on a SuperLink's VM; first says what an app will lack.

The SuperLink's own image is asked; of the nodes' images there is what they publish at OneGate
(FLOWER_APP_IMAGE). What is not known is said, and nothing here refuses a run.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

from flower_agent.commands import own_superlink, recording, runs
from flower_agent.commands.own_superlink import OwnSuperLink
from flower_agent.commands.runs import printable
from flower_agent.config import app_environment, flower_versions
from flower_agent.config.settings import Settings
from flower_agent.config.types import parse_app_source
from flower_agent.docker import image_references
from flower_agent.docker.client import Engine, socket_url
from flower_agent.docker.containers import Component
from flower_agent.flower import container_spec
from flower_agent.flower.control_messages import NodeInfo, NodeStatus, RunInfo, Scalar
from flower_agent.model import pem
from flower_agent.model.errors import AgentError
from flower_agent.model.record import Entry, Event
from flower_agent.onegate import discovery
from flower_agent.onegate.client import OneGate
from flower_agent.paths import Paths
from flower_agent.runs import bundle, git, outcome, pyproject, rounds
from flower_agent.runs.bundle import Bundler
from flower_agent.runs.calls import CALL_TIMEOUT_S, LAST_LOOK_S, START_TIMEOUT_S
from flower_agent.runs.pyproject import App
from flower_agent.runs.rounds import Progress
from flower_agent.runs.store import RunFiles
from flower_agent.state_file import StateFile

TIMEOUT_S = 10.0
"""Of one call, and of all looks at OneGate together."""

NODES = 50
"""Nodes that OneGate is asked for at most: a person waits."""


def sentences(
    paths: Paths, name: str, own: OwnSuperLink, app: App, *, of_context: bool
) -> tuple[str, ...]:
    """Return the missing packages as sentences. Raises AgentError if a check fails."""
    engine = Engine(name or "default", url=socket_url())
    with contextlib.closing(engine):
        running = {c.name: c.image for c in engine.containers() if c.mine}
        parts = (Component.SUPEREXEC, Component.SUPERLINK)
        image = next(
            (running[n] for part in parts if (n := container_spec.name(name, part)) in running), ""
        )
        if not image:
            return ()  # no app runs on this VM
        found = engine.image(image)
        lacks = Bundler(engine).lacking(image, app.dependencies)
    digest = image_references.pin(image, found) if found is not None else ""
    nodes = tuple(_nodes(paths, own))
    return bundle.compared(app.dependencies, digest, lacks, nodes, of_context=of_context)


def _nodes(paths: Paths, own: OwnSuperLink) -> Iterator[tuple[str, str | None]]:
    """Yield the name of each connected node, and what its VM publishes about its image."""
    pins = StateFile(paths.record).recall(None).pins
    vms = {pem.node_key_pem(pin.key).strip(): pin.vmid for pin in pins}
    online = [n for n in own.api.list_nodes(TIMEOUT_S) if n.status is NodeStatus.ONLINE]
    client = OneGate(own.access) if own.access is not None else None
    end = time.monotonic() + TIMEOUT_S
    for node in online[:NODES]:
        vmid = vms.get(node.public_key.strip())
        if vmid is None or client is None:
            yield _name(node, vmid), None
            continue
        told = _published(client, vmid) if time.monotonic() < end else ""
        yield _name(node, vmid), told


def _name(node: NodeInfo, vmid: str | None) -> str:
    return f"VM {vmid}" if vmid is not None else f"node {node.node_id}"


def _published(client: OneGate, vmid: str) -> str:
    try:
        told = discovery.parse_vm(client.vm(vmid)).attributes
    except AgentError:
        return ""
    return told.get("FLOWER_APP_IMAGE", "").strip('"')


KEPT_AFTER_S = 60.0
"""`submit` waits this long after a run's end for the agent to save its files."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A fetched app and the values of its run."""

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
        band = flower_versions.band(own.settings.version)
        entry = Entry(
            what=Event.RUN_SUBMITTED,
            app=hashlib.sha256(bundle).hexdigest(),
            name=str(found.app),
            message=f"{found.source} {found.commit}",
        )
        with recording.attempted(paths, entry) as noted:
            run_id = own.api.start_run(bundle, found.config, band.federation, START_TIMEOUT_S)
            noted.add(run=run_id)
        print(f"run {run_id}: {found.app} from {found.source} {found.commit[:10]}".rstrip())
        _note(paths, run_id, found)
        if detach:
            print(f"flower-agent runs show {run_id}")
            return 0
        try:
            return _follow(paths, own, run_id)
        except KeyboardInterrupt:
            print(f"\nthe run continues; to end it: flower-agent stop {run_id}", file=sys.stderr)
            raise


def _warn_of_images(
    paths: Paths, name: str, own: OwnSuperLink, app: App, *, of_context: bool
) -> None:
    """Print missing packages of the app; the submission continues."""
    try:
        found = sentences(paths, name, own, app, of_context=of_context)
    except AgentError as error:
        found = (f"the images could not be checked: {error.finding.message}",)
    for sentence in found:
        print(f"warning: {printable(sentence)}", file=sys.stderr)


def _note(paths: Paths, run_id: str, found: _Found) -> None:
    """Write beside the run who submitted what; the daemon keeps the rest."""
    document = {"by": recording.caller(), "app": str(found.app), "source": found.source}
    more = {"commit": found.commit, "config": dict(found.config)}
    RunFiles(paths.runs).submitted(run_id, {**document, **more})


def stop(paths: Paths, run_id: str) -> int:
    """Stop a run. Raises AgentError ``control.refused`` for one that is over or unknown."""
    entry = Entry(what=Event.RUN_STOP_REQUESTED, run=run_id)
    with own_superlink.reach(paths) as own, recording.attempted(paths, entry):
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
        source, commit, files = str(directory.resolve()), "", git.read(directory)
    else:
        source, commit, files = _fetch(paths, settings, text)
    app = pyproject.read(files.get(pyproject.FILE), source)
    config: dict[str, Scalar] = {}
    if where is None:
        fitted = pyproject.fit(settings, app)
        config.update(fitted.overrides)
        for finding in fitted.findings:
            print(f"warning: {finding}", file=sys.stderr)
    config.update(pyproject.given(pairs, app))
    return _Found(source, commit, app, files, tuple(sorted(config.items())))


def _fetch(paths: Paths, settings: Settings, text: str) -> tuple[str, str, dict[str, bytes]]:
    try:
        source = parse_app_source(text)
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
        wanted = container_spec.name(name, Component.SUPERLINK)
        seen = next((c.image for c in engine.containers() if c.name == wanted), "")
        image = seen or flower_versions.image(settings.image_prefix, "superlink", settings.version)
        return Bundler(engine).build(image, files)


def _follow(paths: Paths, own: OwnSuperLink, run_id: str) -> int:
    """Print each ended round, then the run's end and the path of its outputs."""
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
    """Print a run's end, after the daemon has saved its outputs; return the exit code."""
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
    for line in runs.outputs(kept, run.run_id):
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
