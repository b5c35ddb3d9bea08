"""The containers of this VM: their state in Docker, their images, and the steps to change them.

Joins the pure `plan` and `restart_policy` with the Engine. Docker's events only wake the loop; the
state always comes from a list.
"""

import dataclasses
import datetime
import random
import threading
from collections.abc import Callable, Mapping

import structlog
import tenacity

from flower_agent.background import AT_ONCE, Background, Threads
from flower_agent.docker.client import Engine
from flower_agent.docker.containers import Container, Existing
from flower_agent.docker.image_references import Image, Registry, pinned
from flower_agent.host import machine, network
from flower_agent.model.errors import (
    AgentError,
    ContainerExitedError,
    ContainerRefusedError,
    GpuError,
    ImagePullError,
    PortTakenError,
)
from flower_agent.reconcile import plan, restart_policy
from flower_agent.reconcile.exit_analysis import ExitAnalysis
from flower_agent.reconcile.plan import Action, Step
from flower_agent.reconcile.restart_policy import Trouble

log = structlog.get_logger()


def require_free_ports(
    want: tuple[Container, ...],
    steps: tuple[Step, ...],
    existing: Callable[[str], Existing | None],
) -> None:
    """Raise AgentError ``port.taken`` for a port in use by another process.

    Flower says it too, but only in a log, after its imports, and by exiting. Where a container
    of the agent's own is stopped first, the port may be one that it gives back.
    """
    if any(step.action is Action.STOP for step in steps):
        return
    starting = {step.name for step in steps if step.action is Action.START}
    starting -= {name for name in starting if (found := existing(name)) and found.running}
    wanted = [
        (container, address)
        for container in want
        if container.name in starting
        for address in container.listens
    ]
    ports = {address.port for _, address in wanted}
    seen = tuple(machine.read_sockets(ports=ports)) if ports else ()
    for container, address in wanted:
        if network.taken(seen, address.host, address.port):
            who = machine.listener(address.port) or "another process"
            message = f"{container.name} cannot listen at {address}: {who} does"
            raise PortTakenError("port.taken", message, port_hint(address.port), retryable=True)


def port_hint(port: int) -> str:
    """Return the remedy for a port in use by another process."""
    return (
        f"Find the process as root (ss -ltnp 'sport = :{port}'), and stop it if you do not need "
        "it; or set another port: FLOWER_FLEET_PORT, FLOWER_SERVERAPPIO_PORT, "
        "FLOWER_CLIENTAPPIO_PORT, FLOWER_HEALTH_PORT."
    )


RETRY_WATCH_S = 1.0
RETRY_PULL_S = (10.0, 60.0)
SETTLING_S = 20.0
LIST_EVERY_S = 5.0
PATIENCE_S = 1.0
"""The loop waits this long for Docker's steps; longer ones continue beside the loop."""

_STEPS = "steps"
"""One request for all steps: an answer is never dropped, since it shows what was done."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Pull:
    """How an image is pulled: the digest, empty for none, and the credentials."""

    digest: str
    registry: Registry | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    """A step, and the image's name if the step creates a container."""

    step: Step
    image: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Done:
    """The steps that were done, and the first failure."""

    steps: tuple[Step, ...]
    failed: Step | None = None
    error: AgentError | None = None


class Reconciler:
    """The containers of one agent and their images."""

    def __init__(
        self, engine: Engine, threads: Threads, *, wake: Callable[[], None], scale: float = 1.0
    ) -> None:
        self.engine = engine
        self.ends = ExitAnalysis(engine, rng=random.SystemRandom(), scale=scale)
        self._threads = threads
        self._wake = wake
        self._scale = scale
        self._have: tuple[Existing, ...] = ()
        self._listed_at = float("-inf")
        self._now = 0.0
        self._dirty = True
        self._watching = False
        self._troubles: dict[str, Trouble] = {}
        self._images: dict[str, Image] = {}
        self._refusals: dict[str, AgentError] = {}
        self._pulls: dict[str, Background[_Pull, None]] = {}
        self._next: dict[str, tuple[float, str]] = {}
        """Time of a container's next try, in monotonic seconds and as text."""

        self.progress = ""
        """The last progress message of the running pull."""

        self._doing: Background[str, _Done] = Background(threads, "docker-steps", good_for_s=0.0)
        self._late: _Done | None = None
        """Steps that took long and failed; the cycle that still needs them reports the failure."""

        self._step = ""
        self.started: frozenset[str] = frozenset()
        """Containers whose start ended since the last look."""

    @property
    def have(self) -> tuple[Existing, ...]:
        """The agent's own containers as last listed."""
        return tuple(c for c in self._have if c.mine)

    def existing(self, name: str) -> Existing | None:
        """Return the container of that name as last listed."""
        return next((c for c in self.have if c.name == name), None)

    def restarts(self, name: str) -> int:
        """Return the recent restarts of a container."""
        found = self.existing(name)
        return max(self.failures(name) - (found is None or not found.running), 0)

    def failures(self, name: str) -> int:
        """Return how often a container ended or was refused, for any reason."""
        return self._troubles[name].total if name in self._troubles else 0

    def observe(self, now: float) -> None:
        """List the containers if anything may have changed. Raises AgentError ``docker.…``."""
        self._now = now
        self.started, self._late = frozenset(), None
        late = self._take(now)
        self._late = late if late is not None and late.failed is not None else None
        # With a working event stream and no event, the last list is still right for a while.
        fresh = self._watching and not self._dirty
        if fresh and now - self._listed_at < LIST_EVERY_S * self._scale:
            return
        self._dirty = False  # before the list: an event meanwhile sets it again
        try:
            self._have = self.engine.containers()
        except AgentError:
            self._dirty = True
            raise
        self._listed_at = now
        before = self._troubles
        counted = restart_policy.count(before, self._have, now=now, scale=self._scale)
        self._troubles = {
            name: trouble if trouble == before.get(name) else self._judge(name, trouble, now)
            for name, trouble in counted.items()
        }

    def watch(self, stop: threading.Event) -> None:
        """Follow Docker's events in a separate thread until `stop`; each event wakes the loop.

        The stream of events blocks, so it cannot be in the loop.
        """

        def follow() -> None:
            while not stop.is_set():
                try:
                    self._watching = True
                    self.engine.watch(self._changed)
                except AgentError:
                    pass  # the loop meets the same and reports it
                self._watching = False
                self._changed()
                stop.wait(RETRY_WATCH_S * self._scale)

        threading.Thread(target=follow, name="docker-events", daemon=True).start()

    def missing_images(self, images: tuple[str, ...], pins: Mapping[str, str]) -> tuple[str, ...]:
        """Return those of `images` that are missing, or differ from their pin."""
        absent = []
        for reference in images:
            if reference not in self._images:
                found = self.engine.image(reference)
                if found is None or pinned(reference, found, pins.get(reference, "")) is None:
                    absent.append(reference)
                    continue
                self._images[reference] = found
                pull = self._pulls.pop(reference, None)
                if pull is not None and pull.began_at > AT_ONCE:
                    log.info("image.pulled", image=reference)
        return tuple(absent)

    def reset_backoff(self) -> None:
        """Forget past failures and refusals: with other settings the containers may start."""
        self._troubles.clear()
        self._refusals.clear()
        self.ends.forget()
        self._dirty = True

    def fetch(
        self,
        images: tuple[str, ...],
        pins: Mapping[str, str],
        registry: Registry | None,
        now: float,
    ) -> AgentError | None:
        """Begin to pull missing images, one at a time; return why the last try failed.

        After a failure the agent pulls again after a pause, or at once with other credentials.
        """
        failed: AgentError | None = None
        for reference in images:
            pull, request = self._puller(reference), _Pull(pins.get(reference, ""), registry)
            ended = pull.take(request, now)
            if ended is not None and ended.error is not None:
                log.warning("image.pull_failed", image=reference, reason=str(ended.error))
            failed = failed or pull.error
        due = [reference for reference in images if now >= self._puller(reference).due_at]
        if due and not any(self._puller(reference).running for reference in images):
            self._pull(due[0], _Pull(pins.get(due[0], ""), registry), now)
        return failed

    def digest(self, reference: str) -> str:
        """Return ``sha256:…`` of a pulled image; empty for a locally built image."""
        image = self._images.get(reference)
        name = pinned(reference, image) if image else None
        return name.partition("@")[2] if name else ""

    def steps(self, want: tuple[Container, ...], *, settled: bool, now: float) -> tuple[Step, ...]:
        """Return the steps from Docker's containers to `want`.

        Raises AgentError ``container.foreign`` if another container has one of the names.
        """
        for taken in plan.foreign(want, self._have):
            raise AgentError(
                "container.foreign",
                f"container {taken.name} belongs to somebody else: it lacks this agent's label",
                f"docker rename {taken.name} {taken.name}-old: the agent then creates its own.",
            )
        resting = {name for name, t in self._troubles.items() if now < t.not_before}
        return plan.plan(want, self._have, resting=resting, settled=settled)

    @property
    def doing(self) -> str:
        """The step that takes long in Docker; empty if there is none."""
        return self._step if self._doing.running else ""

    def apply(self, steps: tuple[Step, ...], pins: Mapping[str, str], now: float) -> bool:
        """Do the steps in order; return whether all are done, False while some still run.

        If Docker takes long, the steps continue beside the loop: a container that does not stop
        delays nothing else. Raises the AgentError of the first failed step.
        """
        late, self._late = self._late, None
        # A failure of an earlier cycle counts only while the same step is still needed.
        if late is not None and late.error is not None and _is_next(late.failed, steps):
            raise late.error
        if not steps:
            return not self._doing.running
        if not self._doing.running:
            calls = tuple(_Call(step, self._image(step, pins)) for step in steps)
            self._doing.start(_STEPS, lambda: self._do_all(calls), now)
            self._doing.wait(PATIENCE_S)
        done = self._take(now)
        if done is not None and done.error is not None and done.failed in steps:
            raise done.error
        return done is not None and done.failed is None

    def rest_s(self, now: float) -> float:
        """Return the seconds until the next container may be started again."""
        waits = [t.not_before - now for t in self._troubles.values() if t.not_before > now]
        return min(waits, default=float("inf"))

    def ended(self, name: str) -> AgentError:
        """Return why a container does not run, and the time of the next try."""
        error, trouble = self._ended(name), self._troubles.get(name)
        left_s = trouble.not_before - self._now if trouble else 0.0
        if trouble is None or left_s <= 0 or trouble.failures < restart_policy.LOOP_AT:
            return error
        if self._next.get(name, (0.0, ""))[0] != trouble.not_before:  # keep the same text meanwhile
            at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=left_s)
            self._next[name] = trouble.not_before, f"{at:%H:%M:%S} UTC"
        message = f"{error.finding.message}; next try at {self._next[name][1]}"
        return error.reworded(message)

    def _ended(self, name: str) -> AgentError:
        found = self.existing(name)
        # Docker's own reason is better than the state that follows from it.
        if name in self._refusals:
            return self._refusals[name]
        if found is None:
            return ContainerExitedError(
                "container.exited", f"{name} does not exist", retryable=True
            )
        if found.status == "created":
            said = found.error or "it was created but not started"
            return ContainerRefusedError(
                "container.refused", f"{name} did not start: {said}", retryable=True
            )
        known = self._troubles.get(name)
        return self.ends.why(found, known.failures if known else 0)

    def _judge(self, name: str, new: Trouble, now: float) -> Trouble:
        found = self.existing(name)
        return self.ends.judge(found, self._troubles.get(name), new, now) if found else new

    def _puller(self, reference: str) -> Background[_Pull, None]:
        if reference not in self._pulls:
            passing_s, final_s = (wait_s * self._scale for wait_s in RETRY_PULL_S)

            def pause(error: AgentError | None, _: int) -> float:
                return final_s if error is not None and not error.retryable else passing_s

            name = f"pull {reference}"
            self._pulls[reference] = Background(self._threads, name, pause, good_for_s=0.0)
        return self._pulls[reference]

    def _pull(self, reference: str, request: _Pull, now: float) -> None:
        def say(text: str) -> None:
            self.progress = text

        def again(tried: tenacity.RetryCallState) -> None:
            error = tried.outcome.exception() if tried.outcome else None
            log.warning("image.pull_failed", image=reference, reason=str(error))
            say(f"tries again after: {error}")

        def pull() -> None:
            patience(again, self._scale)(
                self.engine.pull,
                reference,
                digest=request.digest,
                registry=request.registry,
                progress=say,
            )

        if self._puller(reference).start(request, pull, now):
            log.info("image.pull", image=reference)

    def _image(self, step: Step, pins: Mapping[str, str]) -> str:
        """Return the image's name for a step that creates a container.

        Called before the first step, so that a missing image stops nothing. Raises AgentError
        ``image.pull``.
        """
        if step.container is None:
            return ""
        reference = step.container.image
        image = self._images.get(reference) or self.engine.image(reference)
        name = pinned(reference, image, pins.get(reference, "")) if image else None
        if name is None:
            self._images.pop(reference, None)
            raise ImagePullError("image.pull", f"{reference} was removed", retryable=True)
        return name

    def _do_all(self, calls: tuple[_Call, ...]) -> _Done:
        """Do the steps; runs beside the loop."""
        done: list[Step] = []
        for call in calls:
            step = call.step
            self._step = str(step)
            event = f"container.{step.action}"
            log.info(event, name=step.name, cause=step.cause)
            try:
                self._do(call)
            except AgentError as error:
                return _Done(tuple(done), step, error)
            done.append(step)
        return _Done(tuple(done))

    def _do(self, call: _Call) -> None:
        step = call.step
        match step.action:
            case Action.CREATE:
                if step.container is None:
                    raise ValueError(f"{step} has no container")
                self.engine.create(step.container, call.image)
            case Action.START:
                self.engine.start(step.name)
            case Action.STOP:
                self.engine.stop(step.name)
            case Action.REMOVE:
                self.engine.remove(step.name)
            case Action.UPDATE:
                self.engine.give_cpu(step.name)

    def _take(self, now: float) -> _Done | None:
        """Return the result of ended steps, once, and record its consequences."""
        ended = self._doing.take(_STEPS, now)
        if ended is None:
            return None
        self._dirty = True
        if ended.error is not None:  # a bug: the result of the steps is unknown
            raise ended.error
        done = ended.answer or _Done(())
        for step in done.steps:
            # A removed container starts from zero, without the pauses of its predecessor.
            if step.action is Action.REMOVE:
                self._troubles.pop(step.name, None)
                self._refusals.pop(step.name, None)
            elif step.action is Action.START:
                self._refusals.pop(step.name, None)
                self.started |= {step.name}
        if done.failed is not None and done.error is not None:
            if done.failed.container is not None:  # its image may be missing: check again
                self._images.pop(done.failed.container.image, None)
            if done.failed.action in (Action.CREATE, Action.START):
                self._note_refusal(done.failed.name, done.error)
        return done

    def _note_refusal(self, name: str, error: AgentError) -> None:
        """Let a refused container wait like one that ended, and store the reason."""
        if isinstance(error, (ContainerRefusedError, GpuError)):
            known = self._troubles.get(name)
            self._troubles[name] = restart_policy.refused(
                known, now=self._listed_at, scale=self._scale
            )
            self._refusals[name] = error

    def _changed(self) -> None:
        self._dirty = True
        self._wake()


def _is_next(failed: Step | None, steps: tuple[Step, ...]) -> bool:
    """Return whether the failed step is the next step now, for any cause."""
    asked = [(step.action, step.name, step.container) for step in steps[:1]]
    return failed is not None and (failed.action, failed.name, failed.container) in asked


def patience(
    before_sleep: Callable[[tenacity.RetryCallState], None], scale: float
) -> tenacity.Retrying:
    """Return a policy of three tries with random pauses, so that VMs do not retry together."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda e: isinstance(e, AgentError) and e.retryable),
        wait=tenacity.wait_random_exponential(multiplier=2 * scale, min=scale, max=30 * scale),
        stop=tenacity.stop_after_attempt(3),
        before_sleep=before_sleep,
        reraise=True,
    )
