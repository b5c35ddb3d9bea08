"""Follows every run that the SuperLink knows, with any submitter, and keeps its files.

The agent asks the SuperLink for its runs when an app begins or ends here, every few seconds while a
run is active, and otherwise each minute. It reads the logs beside the loop, a few at a time.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from flower_agent.background import Background, Threads, after_failure
from flower_agent.cycle import Cycle, Running
from flower_agent.flower.control_messages import NodeStatus, RunInfo
from flower_agent.model.errors import AgentError, ControlRefusedError, warning
from flower_agent.model.record import CONTEXT, UNKNOWN, Entry, Event, Result
from flower_agent.model.status import Mark, Node
from flower_agent.runs import calls, rounds, store
from flower_agent.runs import outcome as runs_outcome
from flower_agent.runs.app_directories import AppDirectories
from flower_agent.runs.calls import Connect
from flower_agent.runs.outcome import AppEnd, Outcome
from flower_agent.runs.rounds import Progress
from flower_agent.runs.store import RunFiles, RunLog

log = structlog.get_logger()

LOOK_S = 5.0
"""One read of a run's log waits this long for new lines; the next begins at once."""

IDLE_LIST_S = 60.0
LISTED = 1000
AT_ONCE = 4
"""Number of logs that are read at the same time."""

PROCESS_LOOK_S = 0.5
PROCESS_END_S = 10.0
"""Time for a ServerApp's process to end after its run."""

STILL_S = 120.0
STILL_FIRST_S = 1800.0
STILL_FACTOR = 4.0
"""A round stalls if it takes this many times the longest round before it, at least `STILL_S`."""

MOST_NODES = 1000
"""Most nodes in the record of a run."""

SUBMITTER_S = 10.0
"""Whoever submits a run on this VM has written within this time that it did."""

PRUNE_STEP_BYTES = 16 << 20
"""Running apps must write this much more before the next check for files to remove."""


@dataclasses.dataclass(frozen=True, slots=True)
class Followed:
    """What is known of one run."""

    info: RunInfo
    progress: Progress
    outcome: Outcome | None = None
    """None while it runs."""


@dataclasses.dataclass(slots=True)
class _Watch:
    """One run that is being followed."""

    journal: RunLog
    info: RunInfo
    look: Background[str, RunInfo]
    read: bool = False
    """The run has ended, and its whole log was read."""

    seen_round: int = 0
    round_at: float = 0.0
    """Monotonic seconds at which this round was first seen."""

    longest_s: float = 0.0
    ended_at: float | None = None
    """Monotonic seconds at which the end was first seen."""

    nodes: dict[str, str | None] = dataclasses.field(default_factory=dict)
    """The nodes that were seen connected during the run: node id → VM."""

    unwritten: AgentError | None = None
    """Why the record of its end could not be written."""

    not_before: float = 0.0
    """Monotonic seconds of the next try to write it."""

    seen_at: float = 0.0
    """Monotonic seconds at which the run was first seen."""

    recorded: bool = False
    """Its begin was given to the record."""

    def saw(self, nodes: Iterable[Node]) -> None:
        """Remember the nodes that are connected now."""
        for node in nodes:
            known = node.node_id in self.nodes or len(self.nodes) < MOST_NODES
            if node.state == NodeStatus.ONLINE and known:
                self.nodes[node.node_id] = node.vmid


class Follower:
    """The runs of one SuperLink."""

    def __init__(
        self, threads: Threads, files: RunFiles, apps: AppDirectories, *, scale: float = 1.0
    ) -> None:
        self._threads = threads
        self._files = files
        self._apps = apps
        self._scale = scale
        self._runs: tuple[RunInfo, ...] = ()
        self._generation = 0
        """Increased when the last list may be incomplete: older answers are dropped."""

        self._listing: Background[int, tuple[RunInfo, ...]] = Background(
            threads,
            "run-list",
            after_failure(LOOK_S * scale),
            good_for_s=IDLE_LIST_S * scale,
        )
        self._pruning: Background[str, None] = Background(
            threads, "run-prune", after_failure(IDLE_LIST_S * scale)
        )
        self._settled: tuple[int, int, int] | None = None
        self._elsewhere = False
        """ServerApps run on another VM, and their outputs stay there."""

        self._ends: tuple[AppEnd, ...] = ()
        self._watched: dict[str, _Watch] = {}
        self._over: dict[str, Followed] = {}

    def of(self, run_id: str | None) -> Followed | None:
        """Return what is known of a run."""
        if run_id in self._over:
            return self._over[run_id]
        watch = self._watched.get(run_id or "")
        return Followed(watch.info, watch.journal.progress) if watch else None

    def knows(self, run_id: str) -> bool | None:
        """Return whether the SuperLink has a run; None before it was asked."""
        if self._listing.answer is None:
            return None
        return any(run.run_id == run_id for run in self._runs)

    def expect(self) -> None:
        """List again: a new run was submitted after the last list."""
        self._generation += 1
        self._listing.forget()

    @property
    def newest(self) -> Followed | None:
        """The newest active run, else the run that ended last."""
        known = [found for run in self._runs if (found := self.of(run.run_id)) is not None]
        active = [each for each in known if each.outcome is None]
        return (active or known)[-1] if known else None

    @property
    def active(self) -> frozenset[str]:
        """The ids of the active runs."""
        return frozenset(run.run_id for run in self._runs if run.active)

    def follow(self, cycle: Cycle, running: Running, connect: Connect, limit: int) -> None:
        """Follow all runs; `limit` is the size limit of their outputs, in bytes."""
        if cycle.seen.dry:
            return
        self._take_list(cycle.seen.monotonic)
        self._ask(cycle, connect)
        self._elsewhere = running.apps is None
        for run in self._recent():
            if run.run_id not in self._over:
                self._go_on(cycle, run, connect)
        if running.apps is not None:
            now, finished = cycle.seen.monotonic, frozenset(self._over)
            self._apps.settle(running.apps, cycle.seen.now, now, limit, finished)
            self._prune(cycle, running.apps.image, limit)
        elif cycle.seen.settings.appio_listen is not None:
            self._prune(cycle, "", limit)  # no app runs here: only logs and metrics to remove
        self._tell(cycle)

    def _recent(self) -> tuple[RunInfo, ...]:
        """Return the runs that are followed: the active ones and the newest."""
        newest = {run.run_id for run in self._runs[-store.RUNS :]}
        return tuple(run for run in self._runs if run.active or run.run_id in newest)

    def _take_list(self, now: float) -> None:
        ended = self._listing.take(self._generation, now)
        if ended is None or ended.answer is None:
            return
        self._runs = ended.answer
        known = {run.run_id for run in self._runs}
        self._over = {name: run for name, run in self._over.items() if name in known}
        self._watched = {name: run for name, run in self._watched.items() if name in known}
        for run in self._recent():
            if run.run_id not in self._over and not run.active:
                self._recall(run)

    def _recall(self, run: RunInfo) -> None:
        """Treat a run as ended if the record of its end exists."""
        found = self._files.ended(run.run_id)
        if found:
            ended = Outcome(*(str(found.get(name) or "") for name in ("end", "cause", "shown")))
            self._over[run.run_id] = Followed(run, _progress(found.get("rounds")), ended)

    def _warn(self, cycle: Cycle) -> None:
        """Warn of present failures only."""
        watched = self._watched.values()
        troubles = [self._listing.error]
        troubles += [watch.unwritten or watch.look.error for watch in watched]
        shown = (each.finding for each in troubles if each is not None and not _is_gone(each))
        for error in dict.fromkeys(shown):
            cycle.report.warn(warning(error.code, error.message, error.hint))

    def _ask(self, cycle: Cycle, connect: Connect) -> None:
        # The end of a ServerApp's process is often seen before the SuperLink lists the end.
        ends = self._apps.ends()
        if ends != self._ends:
            self._ends = ends
            self._listing.again()
        due = [r for r in self._recent() if r.run_id not in self._over]
        period_s = (LOOK_S if due else IDLE_LIST_S) * self._scale
        self._listing.again(self._listing.began_at + period_s)
        list_runs = functools.partial(calls.list_runs, connect, LISTED)
        self._listing.ask(self._generation, list_runs, cycle.seen.monotonic)
        wait_s = self._listing.began_at + period_s - cycle.seen.monotonic
        cycle.look_again_in(max(wait_s, 0.0))

    def _go_on(self, cycle: Cycle, run: RunInfo, connect: Connect) -> None:
        watch = self._watched.get(run.run_id)
        if watch is None:
            look: Background[str, RunInfo] = Background(
                self._threads,
                f"run-look-{run.run_id}",
                after_failure(LOOK_S * self._scale),
                good_for_s=0.0,
            )
            watch = _Watch(
                self._files.journal(run.run_id), run, look, round_at=cycle.seen.monotonic
            )
            watch.seen_at = cycle.seen.monotonic
            self._watched[run.run_id] = watch
        self._record_begin(cycle, watch)
        # Only during the run: later the list of nodes may be another.
        if watch.info.active:
            watch.saw(cycle.report.supernodes)
        ended = watch.look.take(run.run_id, cycle.seen.monotonic)
        if ended is not None and ended.answer is not None:
            watch.info = ended.answer
            watch.read = not watch.info.active
            self._pace(watch, cycle.seen.monotonic)
        elif ended is not None and _is_gone(ended.error):
            self.expect()  # the SuperLink does not know the run: list the runs again
            return
        # Finish only after a read of the log that followed the end: it has the last lines.
        if not watch.info.active and watch.read:
            self._finish(watch, cycle)
            return
        if cycle.seen.monotonic < watch.look.due_at:
            cycle.look_again_in(watch.look.due_at - cycle.seen.monotonic)
            return
        if sum(other.look.running for other in self._watched.values()) < AT_ONCE:
            look_s = LOOK_S * self._scale
            call = functools.partial(calls.look, connect, watch.journal, look_s)
            watch.look.start(run.run_id, call, cycle.seen.monotonic)

    def _record_begin(self, cycle: Cycle, watch: _Watch) -> None:
        """Record a run's begin once, and that nobody here submitted it where that is so."""
        run, waited_s = watch.info, cycle.seen.monotonic - watch.seen_at
        if watch.recorded:
            return
        known = self._files.read(run.run_id, "submitted")
        if not known and run.active and waited_s < SUBMITTER_S * self._scale:
            return
        watch.recorded = True
        by = str(known.get("by") or "")
        who = f"local:{by}" if by and by != CONTEXT else by or UNKNOWN
        begun = Entry(
            what=Event.RUN_STARTED, who=who, run=run.run_id, app=run.fab_hash, name=_app(run),
            once=True,
        )  # fmt: skip
        if not known:
            words = "by flwr or another client of the Control API"
            what = Event.RUN_SUBMITTED
            cycle.note(dataclasses.replace(begun, what=what, message=words))
        cycle.note(begun)

    def _pace(self, watch: _Watch, now: float) -> None:
        number = watch.journal.progress.number
        if number != watch.seen_round:
            # A restarted agent reads several rounds at once: their times mean nothing.
            if watch.seen_round and number == watch.seen_round + 1:
                watch.longest_s = max(watch.longest_s, now - watch.round_at)
            watch.seen_round, watch.round_at = number, now

    def _finish(self, watch: _Watch, cycle: Cycle) -> None:
        """Record the end of a run, after its process has ended too."""
        run, progress = watch.info, watch.journal.progress
        watch.ended_at = cycle.seen.monotonic if watch.ended_at is None else watch.ended_at
        server = runs_outcome.last(self._ends, run.run_id, runs_outcome.SERVERAPP)
        waits_s = cycle.seen.monotonic - watch.ended_at
        # The process's own end (signal, memory) explains a failure better than Flower does.
        if server is not None and server.ended_at is None and waits_s < PROCESS_END_S * self._scale:
            cycle.look_again_in(PROCESS_LOOK_S)
            return
        ended = runs_outcome.of(run, progress, server)
        if ended is None or cycle.seen.monotonic < watch.not_before:
            return
        try:
            watch.journal.flush()
            self._files.end(run, ended, progress, self._more(watch, server))
        except AgentError as error:  # the disk may be full: try again later
            watch.unwritten, watch.not_before = error, cycle.seen.monotonic + LOOK_S * self._scale
            return
        self._over[run.run_id] = Followed(run, progress.newest(), ended)
        self._watched.pop(run.run_id, None)
        log.info("run.ended", run=run.run_id, end=ended.end, cause=ended.shown)
        cycle.note(
            Entry(
                what=Event.RUN_ENDED,
                result=_RESULTS.get(ended.end, Result.DONE),
                run=run.run_id,
                app=run.fab_hash,
                name=_app(run),
                message=ended.public(),
            )
        )

    def _more(self, watch: _Watch, server: AppEnd | None) -> dict[str, Any]:
        """Return the fields of ``run.json`` that do not come from Flower."""
        run = watch.info
        known = self._files.read(run.run_id, "submitted")
        document: dict[str, Any] = {
            "app": _app(run),
            "config": dict(run.config),
            "by": "",
            **known,
        }
        if watch.nodes:
            document["nodes"] = [{"node_id": n, "vmid": v} for n, v in watch.nodes.items()]
        if server is not None:
            document["serverapp"] = dataclasses.asdict(server)
        if self._elsewhere:
            document["outputs_at"] = "the VM of the SuperExec that ran the ServerApp"
        return document

    def _prune(self, cycle: Cycle, image: str, limit: int) -> None:
        """Remove files of the oldest ended runs while all together exceed the limit."""
        if self._pruning.running:
            return
        ended = self._pruning.take("", cycle.seen.monotonic)
        if ended is not None and ended.error is not None:
            log.warning("run.prune_failed", reason=str(ended.error))
        live = self._apps.live_bytes()
        now = len(self._over), self._apps.archived, live // PRUNE_STEP_BYTES
        rests = self._pruning.error is not None and cycle.seen.monotonic < self._pruning.due_at
        if now == self._settled or rests:
            return  # nothing has changed, and a check reads the directory of each run
        found = store.prunable(self._files.kept(), limit - live)
        if found:
            remove = functools.partial(self._remove, image, found[0])
            self._pruning.start("", remove, cycle.seen.monotonic)
        else:
            self._settled = now

    def _remove(self, image: str, name: str) -> None:
        if image:
            self._apps.remove(image, name)
        self._files.clear(name, "removed to make room for newer runs")
        self._files.forget()
        log.info("run.pruned", run=name)

    def _tell(self, cycle: Cycle) -> None:
        """Show the newest run; warn of its faults and of those of each active run."""
        self._warn(cycle)
        newest = self.newest
        if newest is not None:
            shown = state(newest)
            cycle.report.published = dataclasses.replace(cycle.report.published, run=shown)
            cycle.report.set_condition("run", _mark(newest), described(newest))
            if newest.outcome is not None:
                cycle.report.warn(*warnings(newest.info.run_id, newest.info.fab_id, newest.outcome))
        for name, watch in self._watched.items():
            still_s = cycle.seen.monotonic - watch.round_at
            if watch.info.active and stands_still(watch, still_s, self._scale):
                cycle.report.warn(_still(name, watch, still_s))
        cycle.report.warn(*self._apps.findings())


_RESULTS = {"failed": Result.FAILED, "stopped": Result.STOPPED}


def _app(run: RunInfo) -> str:
    return f"{run.fab_id} {run.fab_version}".strip()


def state(run: Followed) -> str:
    """Return a run's state for others: ``running 3 of 10``, ``failed: ValueError``."""
    if run.outcome is not None:
        return run.outcome.public()
    progress = str(run.progress)
    return f"running {progress}" if progress else str(run.info.status)


def described(run: Followed) -> str:
    """Return a run in one line of the status."""
    measured = rounds.summary(run.progress)
    more = f": {measured}" if measured and (run.outcome is None or not run.outcome.cause) else ""
    app = f"{run.info.fab_id} {run.info.fab_version}".strip()
    return f"{state(run)}{more}; run {run.info.run_id}{f' of {app}' if app else ''}"


def warnings(run_id: str, app: str, ended: Outcome) -> list[Any]:
    """Return warnings about the end of a run, without the app's data."""
    named = f"run {run_id}{f' of {app}' if app else ''}"
    hint = f"flower-agent runs show {run_id}"
    if ended.end == "failed":
        why = f": {ended.shown}" if ended.shown else ""
        return [warning("run.failed", f"{named} failed{why}", hint)]
    if ended.end == "finished" and ended.shown:
        return [warning("run.clients_failed", f"{named}: {ended.shown}", hint)]
    return []


def stands_still(watch: _Watch, still_s: float, scale: float) -> bool:
    """Return whether a round takes too long, compared with the rounds before it."""
    progress = watch.journal.progress
    last = progress.total is not None and progress.number >= progress.total
    # After the last round the app may evaluate and plot for an unknown time.
    if watch.seen_round == 0 or watch.longest_s == 0.0 or last:
        return still_s > STILL_FIRST_S * scale
    return still_s > max(STILL_S * scale, STILL_FACTOR * watch.longest_s)


def _still(name: str, watch: _Watch, still_s: float) -> Any:
    where = f"round {watch.journal.progress}" if watch.seen_round else "the first round"
    before = f"; the longest round before took {watch.longest_s:.0f} s" if watch.longest_s else ""
    message = f"run {name}: {where} has made no progress for {still_s / 60:.0f} min{before}"
    return warning("run.stalled", message, f"flower-agent runs show {name}")


def _mark(run: Followed) -> Mark:
    if run.outcome is None:
        return Mark.WAITING
    return Mark.BAD if run.outcome.end == "failed" else Mark.OK


def _is_gone(error: AgentError | None) -> bool:
    """Return whether the SuperLink does not know a run, which is no error."""
    return isinstance(error, ControlRefusedError)


def _progress(rows: object) -> Progress:
    """Return the rounds of a ``run.json`` that a summary needs."""
    found = []
    for each in rows if isinstance(rows, list) else []:
        if isinstance(each, Mapping) and isinstance(each.get("round"), int):
            metrics = {p: each[p] for p in ("train", "evaluate", "server") if p in each}
            found.append(rounds.Round(each["round"], metrics))
    return Progress(total=len(found) or None, rounds=tuple(found))
