"""A SuperLink's run of the context: fetches the app, submits it once, follows it.

Joins what `submission` decides with git, the bundler and the Control API. Everything slow is an
errand. A failure here never changes the SuperLink's own state, which depends on no run.
"""

import dataclasses
import hashlib

import structlog

from flower_agent.config.app_source import Source, parse_source
from flower_agent.errands import Done, Errands
from flower_agent.errors import AgentError, Finding, warning
from flower_agent.loop.turn import Turn
from flower_agent.reporting.status import Mark
from flower_agent.wanted import flower, roles

from . import follower, run_config, run_errands, run_failure, run_needs, submission
from .follower import LOOK_S, Follower
from .run_errands import Bundles, Connect, Prepared, Repository
from .run_failure import AGAIN_MAX_S, Failure
from .run_files import RunFiles
from .submission import Due, Submission

WATCH_S = 600.0
"""So often a branch is looked at for whether it moved."""

_PREPARE, _SUBMIT, _WATCH = "run-prepare", "run-submit", "run-watch"
_NEEDS = "run-needs"

log = structlog.get_logger()


class Submitter:
    """The run of one SuperLink's context."""

    def __init__(
        self,
        errands: Errands,
        repository: Repository,
        bundler: Bundles,
        files: RunFiles,
        follower: Follower,
        *,
        scale: float = 1.0,
    ) -> None:
        self._errands = errands
        self._repository = repository
        self._bundler = bundler
        self._files = files
        self._follower = follower
        self._scale = scale
        self._known: Submission | None = None
        self._loaded = False
        self._failure: Failure | None = None
        self._moved = ""
        self._watch_at = self._needs_at = float("-inf")
        self._lacking: tuple[object, tuple[str, ...]] = (None, ())
        """An image with an app's dependencies, and what it lacks of them."""

    def follow(self, turn: Turn, online: int, image: str, connect: Connect) -> None:
        """Go on with the run of the context; what cannot be done is a warning.

        `online` SuperNodes are connected, `image` is the SuperLink's.
        """
        if turn.dry:
            return
        try:
            self._follow(turn, online, image, connect)
        except AgentError as error:
            _warn(turn, error.finding)

    def _follow(self, turn: Turn, online: int, image: str, connect: Connect) -> None:
        if not self._loaded:
            self._known, self._loaded = self._files.load(), True
        if turn.settings.app_repo is None:
            self._without_app(turn)
            return
        source = parse_source(turn.settings.app_repo)
        key, least = submission.key_of(turn.settings, source), turn.settings.min_clients
        self._carry(turn, source)
        self._take(turn, key, source)
        vmid, short = turn.record.vmid, turn.app_short
        match submission.due(self._known, key, vmid, online=online, least=least, short=short):
            case Due.PREPARE:
                self._prepare(turn, key, source, image)
            case Due.WAIT | Due.IMAGE:
                self._tell(turn, Mark.WAITING, submission.awaited(online, least))
                turn.next_s = min(turn.next_s, LOOK_S * self._scale)
            case Due.SUBMIT:
                self._submit(turn, key, source, image, connect)
            case Due.FOLLOW | Due.NOTHING:
                self._tell_run(turn)
        if self._known is not None and self._known.key == key:
            self._watch(turn, source)
            self._needs(turn, self._known)
        elif self._known is not None and self._known.active:
            turn.note("next_run", Mark.WAITING, "the changed context waits for this run's end")

    def _carry(self, turn: Turn, source: Source) -> None:
        """Take over what an older agent submitted."""
        if self._known is not None:
            carried = submission.carried(self._known, turn.settings, source)
            if carried != self._known:
                self._keep(carried)

    def _without_app(self, turn: Turn) -> None:
        """Follow a run whose context is gone to its end."""
        self._take_end()
        if self._known is not None and self._known.active:
            self._tell_run(turn)
        elif self._follower.newest is None and self._known is not None:
            turn.told["FLOWER_RUN"] = ""

    def _take(self, turn: Turn, key: str, source: Source) -> None:
        """Take what the errands brought."""
        if (done := self._errands.take(_PREPARE)) is not None:
            self._take_prepared(turn, done, key, source)
        if (done := self._errands.take(_SUBMIT)) is not None:
            self._take_submitted(turn, done, key)
        self._take_end()
        done = self._errands.take(_WATCH)
        if done is not None and done.error is None and self._known is not None:
            self._moved = "" if done.value == self._known.commit else done.value

    def _take_prepared(self, turn: Turn, done: Done, key: str, source: Source) -> None:
        if done.error is not None:
            self._fail(turn, key, done.error)
            return
        prepared: Prepared = done.value
        if prepared.key != key:
            return  # the context changed meanwhile
        try:
            fitted = run_config.fit(turn.settings, prepared.app)
        except AgentError as error:
            self._fail(turn, key, error)
            return
        known = Submission(
            key=key,
            vmid=turn.record.vmid,
            source=str(source),
            commit=prepared.commit,
            app=str(prepared.app),
            bundle=hashlib.sha256(prepared.bundle).hexdigest(),
            overrides=fitted.overrides,
            unread=tuple((f.message, f.hint) for f in fitted.findings),
            dependencies=prepared.app.dependencies,
        )
        self._files.keep(known, prepared.bundle)
        self._known, self._failure, self._moved = known, None, ""
        log.info("run.prepared", source=known.source, commit=known.commit, app=known.app)

    def _take_submitted(self, turn: Turn, done: Done, key: str) -> None:
        if done.error is not None:
            self._fail(turn, key, done.error)
        elif self._known is not None:
            self._failure = None
            self._keep(dataclasses.replace(self._known, run_id=done.value))
            self._follower.expect()
            self._note_submitted(self._known)
            log.info("run.submitted", run=done.value, commit=self._known.commit)

    def _take_end(self) -> None:
        """Take the end of the context's run from what follows all runs."""
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
        """Write beside the run what was submitted, and for whom."""
        document = {"by": "context", "app": known.app, "commit": known.commit}
        more = {"source": known.source, "config": dict(known.overrides)}
        self._files.submitted(known.run_id or "", {**document, **more})

    def _keep(self, known: Submission) -> None:
        self._known = known
        self._files.keep(known)

    def _prepare(self, turn: Turn, key: str, source: Source, image: str) -> None:
        if self._rests(turn, key):
            return
        repository, build = self._repository, self._bundler.build
        begun = self._errands.start(
            _PREPARE, lambda: run_errands.prepare(repository, build, source, key=key, image=image)
        )
        if begun:
            log.info("run.prepare", source=str(source))
        turn.told["FLOWER_RUN"] = "preparing"
        turn.note("run", Mark.WAITING, f"fetches {source} and bundles it")

    def _submit(self, turn: Turn, key: str, source: Source, image: str, connect: Connect) -> None:
        known = self._known
        if self._rests(turn, key):
            return
        if known is not None and not self._errands.running(_SUBMIT):
            bundle = self._files.bundle(known)
            if bundle is None:  # lost: made anew, of the same commit
                source = dataclasses.replace(source, ref=known.commit)
                self._prepare(turn, key, source, image)
                return
            if known.asked_at is None:
                self._keep(dataclasses.replace(known, asked_at=turn.now.timestamp()))
            federation = flower.band(turn.settings.version).federation
            self._errands.start(
                _SUBMIT, lambda: run_errands.start(connect, known, bundle, federation)
            )
        self._tell(turn, Mark.WAITING, "submitting")

    def _watch(self, turn: Turn, source: Source) -> None:
        """Look whether the branch moved, now and then."""
        if not source.fixed and turn.monotonic >= self._watch_at:
            self._watch_at = turn.monotonic + WATCH_S * self._scale
            self._errands.start(_WATCH, lambda: self._repository.resolve(source))
        if self._moved and self._known is not None:
            taken, now = self._known.commit[:10], self._moved[:10]
            message = f"{source} is at {now} now; {taken} was taken, and no other is run"
            turn.warnings.append(warning("run.moved", message))

    def _fail(self, turn: Turn, key: str, error: AgentError) -> None:
        last = self._failure
        new = run_failure.failed(last, key, error, turn.monotonic, scale=self._scale)
        if last is None or last.finding != new.finding:
            log.warning("run.trouble", code=new.finding.code, message=new.finding.message)
        self._failure = new

    def _rests(self, turn: Turn, key: str) -> bool:
        """Tell whether nothing is tried just now, and why."""
        failure = self._failure
        if failure is None or not failure.rests(key, turn.monotonic):
            return False
        turn.next_s = min(turn.next_s, failure.again_at - turn.monotonic)
        turn.told["FLOWER_RUN"] = f"failed: {failure.finding}"
        turn.note("run", Mark.BAD, "the app cannot be submitted: see the warning")
        _warn(turn, failure.finding)
        return True

    def _needs(self, turn: Turn, known: Submission) -> None:
        """Warn of dependencies that the image lacks, where apps run on this VM."""
        if known.end or not known.dependencies or turn.settings.appio_listen is not None:
            return
        asked = (turn.app_image or roles.app_parent(turn.settings), known.dependencies)
        done = self._errands.take(_NEEDS)
        if done is not None and done.error is None:
            self._lacking = done.value
        if self._lacking[0] != asked and turn.monotonic >= self._needs_at:
            self._needs_at = turn.monotonic + AGAIN_MAX_S * self._scale
            self._errands.start(_NEEDS, lambda: (asked, self._bundler.lacking(*asked)))
        known_lacks = self._lacking[1] if self._lacking[0] == asked else ()
        if run_needs.on_its_way(turn.facts.get("app")):
            return
        for lack in known_lacks:
            message = f"{known.app} wants {lack}, which {asked[0]} lacks"
            turn.warnings.append(warning("run.dependency", message))

    def _tell_run(self, turn: Turn) -> None:
        """Tell of the context's run, unless a newer one is told of already."""
        known = self._known
        if known is None or known.run_id is None:
            return
        newest, found = self._follower.newest, self._follower.of(known.run_id)
        if newest is not None and newest.info.run_id != known.run_id:
            return
        if found is not None:
            detail = f"{follower.described(found)} at {known.commit[:10]}"
            mark = turn.facts["run"].mark if "run" in turn.facts else Mark.WAITING
            self._tell(turn, mark, follower.state(found), detail)
        elif known.end:
            words, failed = submission.words(known), known.end in ("failed", "lost")
            detail = f"{words}; run {known.run_id} of {known.app} at {known.commit[:10]}"
            self._tell(turn, Mark.BAD if failed else Mark.OK, words, detail)
        else:
            self._tell(turn, Mark.WAITING, "submitted")
        if known.end == "lost":
            message = f"run {known.run_id} of {known.app}: {submission.words(known)}"
            turn.warnings.append(warning("run.lost", message))

    def _tell(self, turn: Turn, mark: Mark, words: str, detail: str = "") -> None:
        known = self._known
        if known is None:
            return
        turn.told["FLOWER_RUN"] = words
        turn.note("run", mark, detail or f"{words}; {known.app} at {known.commit[:10]}")
        for message, hint in known.unread:
            turn.warnings.append(warning("run.unread", message, hint))


def _warn(turn: Turn, found: Finding) -> None:
    turn.warnings.append(warning(found.code, found.message, found.hint))
