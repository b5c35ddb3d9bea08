"""A SuperLink's run of the context: fetches the app, submits it once, follows it.

Joins the decisions of `submission` with git, the bundler and the Control API. Slow calls run in the
background. A failure here never changes the SuperLink's own state, which depends on no run.
"""

import dataclasses
import hashlib
from typing import Any

import structlog

from flower_agent.background import Background, Threads, after_failure
from flower_agent.config import flower_versions
from flower_agent.config.types import AppSource, parse_app_source
from flower_agent.cycle import Cycle
from flower_agent.flower import container_spec
from flower_agent.model.errors import AgentError, ControlRefusedError, Finding, warning
from flower_agent.model.record import CONTEXT, Entry, Event, Result
from flower_agent.model.status import Mark
from flower_agent.runs import calls, submission
from flower_agent.runs import follower as runs_follower
from flower_agent.runs.calls import Bundles, Connect, PreparedRun, Repository
from flower_agent.runs.follower import LOOK_S, Follower
from flower_agent.runs.store import RunFiles
from flower_agent.runs.submission import AGAIN_MAX_S, Due, Submission

log = structlog.get_logger()

WATCH_S = 600.0
"""Interval between two checks whether a branch has new commits."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Wish:
    """A bundle to prepare: the context's key, the source, and the image with Flower."""

    key: str
    source: AppSource
    image: str


class Submitter:
    """The run of one SuperLink's context."""

    def __init__(
        self,
        threads: Threads,
        repository: Repository,
        bundler: Bundles,
        files: RunFiles,
        follower: Follower,
        *,
        scale: float = 1.0,
    ) -> None:
        pause = submission.policy(scale)
        self._wish: _Wish | None = None
        self._preparing: Background[_Wish, PreparedRun] = Background(
            threads, "run-prepare", pause, good_for_s=0.0
        )
        self._submitting: Background[tuple[str, str], str] = Background(
            threads, "run-submit", pause, good_for_s=0.0
        )
        """The request is a context's key and a bundle's hash; the answer is the run's id."""

        watch_s = WATCH_S * scale
        self._watching: Background[AppSource, str] = Background(
            threads, "run-watch", after_failure(watch_s), good_for_s=watch_s
        )
        self._weighing: Background[tuple[str, tuple[str, ...]], tuple[str, ...]] = Background(
            threads, "run-needs", after_failure(AGAIN_MAX_S * scale)
        )
        """Finds the dependencies of an app that an image lacks."""

        self._repository = repository
        self._bundler = bundler
        self._files = files
        self._follower = follower
        self._scale = scale
        self._known: Submission | None = None
        self._loaded = False
        self._said: Finding | None = None
        """The last logged error."""

    def follow(self, cycle: Cycle, online: int, image: str, connect: Connect) -> None:
        """Follow the run of the context; a failure is a warning.

        `online` SuperNodes are connected; `image` is the SuperLink's image.
        """
        if cycle.seen.dry:
            return
        try:
            self._follow(cycle, online, image, connect)
        except AgentError as error:
            _warn(cycle, error.finding)

    def _follow(self, cycle: Cycle, online: int, image: str, connect: Connect) -> None:
        if not self._loaded:
            self._known, self._loaded = self._files.load(), True
        if cycle.seen.settings.app_repo is None:
            self._without_app(cycle)
            return
        source = parse_app_source(cycle.seen.settings.app_repo)
        key, least = submission.key_of(cycle.seen.settings, source), cycle.seen.settings.min_clients
        # Ended calls first: the decision below needs the newest state.
        self._carry(cycle, source)
        self._take_prepared(cycle, key, source, image)
        self._take_submitted(cycle)
        self._take_end()
        # On a state disk the run of the VM before is this VM's run: it is not submitted again.
        vmid = None if cycle.seen.state_outlives_vm else cycle.state.vmid
        short = cycle.app_lacks
        due = submission.due(self._known, key, vmid, online=online, least=least, short=short)
        if self._submitting.running:
            due = Due.SUBMIT  # the id of this run must be known before another run may start
        match due:
            case Due.PREPARE:
                self._prepare(cycle, key, source, image)
            case Due.WAIT | Due.IMAGE:
                self._tell(cycle, Mark.WAITING, submission.awaited(online, least))
                cycle.look_again_in(LOOK_S * self._scale)
            case Due.SUBMIT:
                self._submit(cycle, key, source, image, connect)
            case Due.FOLLOW | Due.NOTHING:
                self._tell_run(cycle)
        if self._known is not None and self._known.key == key:
            self._watch(cycle, source, self._known)
            self._needs(cycle, self._known)
        elif self._known is not None and self._known.active:
            cycle.report.set_condition(
                "next_run", Mark.WAITING, "the changed context applies after this run"
            )

    def _carry(self, cycle: Cycle, source: AppSource) -> None:
        """Take over the submission of an older agent."""
        if self._known is not None:
            carried = submission.carried(self._known, cycle.seen.settings, source)
            if carried != self._known:
                self._keep(carried)

    def _without_app(self, cycle: Cycle) -> None:
        """Follow a run to its end after its variables were removed."""
        self._take_submitted(cycle)
        self._take_end()
        if self._known is not None and self._known.active:
            self._tell_run(cycle)
        elif self._follower.newest is None and self._known is not None:
            cycle.report.published = dataclasses.replace(cycle.report.published, run="")

    def _take_prepared(self, cycle: Cycle, key: str, source: AppSource, image: str) -> None:
        wish = self._wish
        if wish is None or (wish.key, wish.image) != (key, image):
            return
        ended = self._preparing.take(wish, cycle.seen.monotonic)
        if ended is None or ended.answer is None:
            self._note(ended.error if ended else None)
            return
        prepared = ended.answer
        known = Submission(
            key=key,
            vmid=cycle.state.vmid,
            source=str(source),
            commit=prepared.commit,
            app=str(prepared.app),
            bundle=hashlib.sha256(prepared.bundle).hexdigest(),
            overrides=prepared.fitted.overrides,
            unread=tuple((f.message, f.hint) for f in prepared.fitted.findings),
            dependencies=prepared.app.dependencies,
        )
        self._files.keep(known, prepared.bundle)
        self._known, self._said, self._wish = known, None, None
        log.info("run.prepared", source=known.source, commit=known.commit, app=known.app)

    def _take_submitted(self, cycle: Cycle) -> None:
        """Take the id of the run of the known submission, and of no other."""
        known = self._known
        if known is None:
            return
        ended = self._submitting.take((known.key, known.bundle), cycle.seen.monotonic)
        if ended is None:
            return
        entry = Entry(
            what=Event.RUN_SUBMITTED,
            who=CONTEXT,
            app=known.bundle,
            name=known.app,
            message=f"{known.source} {known.commit}",
        )
        if ended.answer is None:
            refused = isinstance(ended.error, ControlRefusedError)
            result = Result.REFUSED if refused else Result.FAILED
            cycle.note(dataclasses.replace(entry, result=result, message=str(ended.error)))
            self._note(self._submitting.error)
            return
        cycle.note(dataclasses.replace(entry, run=ended.answer))
        self._said = None
        self._keep(dataclasses.replace(known, run_id=ended.answer))
        self._follower.expect()
        self._note_submitted(dataclasses.replace(known, run_id=ended.answer))
        log.info("run.submitted", run=ended.answer, commit=known.commit)

    def _take_end(self) -> None:
        """Take the end of the context's run from the follower."""
        known = self._known
        if known is None or known.run_id is None or known.end:
            return
        found = self._follower.of(known.run_id)
        if found is not None and found.outcome is not None:
            ended = found.outcome
            self._keep(dataclasses.replace(known, end=ended.end, shown=ended.shown))
        elif found is None and self._follower.knows(known.run_id) is False:
            self._keep(dataclasses.replace(known, end="lost"))

    def _note_submitted(self, known: Submission) -> None:
        """Record in the run's directory what was submitted, and by whom."""
        document = {"by": "context", "app": known.app, "commit": known.commit}
        more = {"source": known.source, "config": dict(known.overrides)}
        self._files.submitted(known.run_id or "", {**document, **more})

    def _keep(self, known: Submission) -> None:
        self._known = known
        self._files.keep(known)

    def _prepare(self, cycle: Cycle, key: str, source: AppSource, image: str) -> None:
        self._wish = wish = _Wish(key, source, image)
        repository, build, settings = self._repository, self._bundler.build, cycle.seen.settings
        self._preparing.take(wish, cycle.seen.monotonic)
        if self._rests(cycle, self._preparing):
            return
        begun = self._preparing.start(
            wish,
            lambda: calls.prepare(repository, build, source, settings, image=image),
            cycle.seen.monotonic,
        )
        if begun:
            log.info("run.prepare", source=str(source))
        cycle.report.published = dataclasses.replace(cycle.report.published, run="preparing")
        cycle.report.set_condition("run", Mark.WAITING, f"fetches {source} and bundles it")

    def _submit(
        self, cycle: Cycle, key: str, source: AppSource, image: str, connect: Connect
    ) -> None:
        known = self._known
        if self._rests(cycle, self._submitting):
            return
        if known is not None and not self._submitting.running:
            bundle = self._files.bundle(known)
            if bundle is None:  # the file is lost: build it again from the same commit
                source = dataclasses.replace(source, ref=known.commit)
                self._prepare(cycle, key, source, image)
                return
            # Stored before the request: after a lost answer the run is searched for, not repeated.
            if known.asked_at is None:
                self._keep(dataclasses.replace(known, asked_at=cycle.seen.now.timestamp()))
            federation = flower_versions.band(cycle.seen.settings.version).federation
            self._submitting.start(
                (known.key, known.bundle),
                lambda: calls.start(connect, known, bundle, federation),
                cycle.seen.monotonic,
            )
        self._tell(cycle, Mark.WAITING, "submitting")

    def _watch(self, cycle: Cycle, source: AppSource, known: Submission) -> None:
        """Check sometimes whether the branch has new commits."""
        if source.fixed:
            return
        self._watching.ask(source, lambda: self._repository.resolve(source), cycle.seen.monotonic)
        moved = self._watching.answer
        if moved is not None and moved != known.commit:
            taken, now = known.commit[:10], moved[:10]
            message = f"{source} is at {now} now; the run used {taken}, and no other run starts"
            cycle.report.warn(warning("run.moved", message))

    def _note(self, error: AgentError | None) -> None:
        """Log an error once."""
        if error is None:
            return
        found = submission.finding(error)
        if self._said != found:
            log.warning("run.trouble", code=found.code, message=found.message)
        self._said = found

    def _rests(self, cycle: Cycle, work: Background[Any, Any]) -> bool:
        """Return whether the agent waits before the next try; show the reason."""
        if work.error is None or cycle.seen.monotonic >= work.due_at:
            return False
        found = submission.finding(work.error)
        cycle.look_again_in(work.due_at - cycle.seen.monotonic)
        cycle.report.published = dataclasses.replace(cycle.report.published, run=f"failed: {found}")
        cycle.report.set_condition("run", Mark.BAD, "the app cannot be submitted: see the warning")
        _warn(cycle, found)
        return True

    def _needs(self, cycle: Cycle, known: Submission) -> None:
        """Warn of dependencies that the image lacks, if apps run on this VM."""
        if known.end or not known.dependencies or cycle.seen.settings.appio_listen is not None:
            return
        asked = (
            cycle.app_image or container_spec.app_parent(cycle.seen.settings),
            known.dependencies,
        )
        self._weighing.ask(asked, lambda: self._bundler.lacking(*asked), cycle.seen.monotonic)
        if cycle.app_image_due:
            return
        for lack in self._weighing.answer or ():
            message = f"{known.app} needs {lack}, which {asked[0]} lacks"
            cycle.report.warn(warning("run.dependency", message))

    def _tell_run(self, cycle: Cycle) -> None:
        """Show the context's run, unless a newer run is shown already."""
        known = self._known
        if known is None or known.run_id is None:
            return
        newest, found = self._follower.newest, self._follower.of(known.run_id)
        if newest is not None and newest.info.run_id != known.run_id:
            return
        if found is not None:
            detail = f"{runs_follower.described(found)} at {known.commit[:10]}"
            mark = (
                cycle.report.conditions["run"].mark
                if "run" in cycle.report.conditions
                else Mark.WAITING
            )
            self._tell(cycle, mark, runs_follower.state(found), detail)
        elif known.end:
            words, failed = submission.words(known), known.end in ("failed", "lost")
            detail = f"{words}; run {known.run_id} of {known.app} at {known.commit[:10]}"
            self._tell(cycle, Mark.BAD if failed else Mark.OK, words, detail)
        else:
            self._tell(cycle, Mark.WAITING, "submitted")
        if known.end == "lost":
            message = f"run {known.run_id} of {known.app}: {submission.words(known)}"
            cycle.report.warn(warning("run.lost", message))

    def _tell(self, cycle: Cycle, mark: Mark, words: str, detail: str = "") -> None:
        known = self._known
        if known is None:
            return
        cycle.report.published = dataclasses.replace(cycle.report.published, run=words)
        cycle.report.set_condition(
            "run", mark, detail or f"{words}; {known.app} at {known.commit[:10]}"
        )
        for message, hint in known.unread:
            cycle.report.warn(warning("run.unread", message, hint))


def _warn(cycle: Cycle, found: Finding) -> None:
    cycle.report.warn(warning(found.code, found.message, found.hint))
