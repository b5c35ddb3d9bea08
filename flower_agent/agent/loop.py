"""The loop: observe, decide, act, report. `assembly` creates its parts.

Every cycle observes everything again, so the next one completes an interrupted one. A cycle starts
when something happens (a container's end, a changed context, a slow call's answer, a signal), and
otherwise every ten seconds.
"""

import dataclasses
import datetime
import random
import threading
import time

import structlog

from flower_agent import __version__, files
from flower_agent import log as logging
from flower_agent.agent import assembly
from flower_agent.agent.assembly import Options
from flower_agent.agent.operator_requests import RequestFiles, Requests
from flower_agent.agent.record_keeper import RecordKeeper
from flower_agent.agent.state_mount import StateMount
from flower_agent.background import Threads
from flower_agent.config import app_environment
from flower_agent.config.data_source import DataKind
from flower_agent.config.settings import Settings
from flower_agent.config.sources import Intake
from flower_agent.config.types import Role
from flower_agent.cycle import Cycle, Observation, Report
from flower_agent.flower import health
from flower_agent.host import machine, nvidia
from flower_agent.model import deduplication, lifecycle
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError, Finding, warning
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.model.published import Published
from flower_agent.model.status import Mark, Status
from flower_agent.onegate.publisher import OneGatePublisher
from flower_agent.reporting import publisher, status_builder
from flower_agent.reporting.metrics import Exporter
from flower_agent.reporting.systemd import Notifier
from flower_agent.state_file import StateFile
from flower_agent.tls.store import Keyring

log = structlog.get_logger()

IDLE_S = 10.0
WAITING_S = 1.0
SETTLING_PAUSE_S = 0.02
"""Pause between two checks of new containers; a fiftieth of their age is added."""

SETTLING = (Unmet(Phase.HEALTH), Unmet(Phase.PEER))
"""Phases that usually take seconds: the loop checks more often."""

OPENING_LOOK_S = 0.01
"""Until a container's port is open, only the port is checked: Flower loads on the same cores."""

READY_TIMEOUT_S = 600.0


class Agent:
    """One agent; `run` is the daemon, `preview` a dry cycle that changes nothing."""

    def __init__(self, options: Options, *, dry: bool = False) -> None:
        self._options = options
        self._paths = options.paths
        self._scale = options.scale
        self._wake = threading.Event()
        self._threads = Threads(self._wake.set)
        rng = random.SystemRandom()
        self._parts = parts = assembly.assemble(
            options, self._threads, wake=self._wake.set, rng=rng, dry=dry
        )
        self._stages = parts.stages
        self._keyring = Keyring(self._paths.tls)
        memory, now = self._paths.onegate, time.monotonic()
        self._reporter = OneGatePublisher(
            memory, self._threads, now=now, rng=rng, scale=options.scale
        )
        notifier = Notifier(options.notify_socket)
        self._publisher = publisher.Publisher(self._paths, notifier, self._reporter)
        self._journal = publisher.LifecycleLog()
        self._exporter = Exporter(self._paths, self._keyring)
        self._life = lifecycle.born(_now(), now)
        self._intake = Intake(options.paths, options.context_file)
        self._state_mount = StateMount(options.paths)
        self._state_file = StateFile(options.paths.record)
        self._record = RecordKeeper(options.paths, dry=dry)
        self._requests = RequestFiles(options.paths.requests)
        self._cycle: Cycle | None = None
        self._opening: Address | None = None
        self._settling_at = float("inf")
        self._cycle_bug = self._publish_bug = ""

    def run(self, stop: threading.Event) -> None:
        """Run cycles until `stop` is set; the containers then continue."""
        files.sweep(self._paths.runtime)
        log.info("agent.start", version=__version__, root=str(self._paths.root))
        self._parts.reconciler.watch(stop)
        while not stop.is_set():
            pause = self._cycle_safely()
            self._rest(pause, stop)
        self._publisher.stopping()
        self._exporter.remove()
        self._record.end()
        log.info("agent.stop", containers="left running")

    def wake(self, *, again: bool = False) -> None:
        """Run a cycle now; with `again` read the inputs even if no file changed."""
        if again:
            self._intake.reread()
        self._wake.set()

    def preview(self, timeout_s: float) -> tuple[Unmet | None, list[str]]:
        """Return what the next cycle waits for and its steps, without doing them."""
        end = time.monotonic() + timeout_s
        while True:
            unmet = self._look()
            if unmet is None or not self._threads.busy() or time.monotonic() > end:
                return unmet, list(self._stages.planned)
            self._wake.wait(0.2)
            self._wake.clear()

    def _cycle_safely(self) -> float:
        """Do one cycle and publish; return the seconds until the next is due."""
        try:
            unmet = self._look()
        except Exception as error:  # the only one: a bug must not end the care for the containers
            bug = f"{type(error).__name__}: {error}"
            if deduplication.gist(bug) != self._cycle_bug:  # not again each cycle
                log.exception("agent.bug")
            self._cycle_bug = deduplication.gist(bug)
            unmet = Unmet(Phase.CONTEXT, Finding("agent.bug", bug))
        now, monotonic = _now(), time.monotonic()
        before = self._life
        good = self._intake.good
        limit = good.ready_timeout_s if good else READY_TIMEOUT_S
        self._life = lifecycle.step(
            before, unmet, now=now, monotonic=monotonic, ready_timeout_s=limit * self._scale
        )
        self._journal.note(before, self._life, monotonic)
        self._publish_safely(now, monotonic)
        return self._pause_s(unmet, monotonic)

    def _look(self) -> Unmet | None:
        """Read changed inputs, do a cycle, and store the new state."""
        if self._intake.changed():
            first = self._intake.inputs is None
            new = self._intake.read()
            self._record.read(self._intake, new=new)
            if self._intake.inputs is not None:
                self._reporter.use(self._intake.inputs.access)
            if new and self._intake.good is not None:
                self._take(self._intake.good)
            if first:  # OneGate learns of the boot before the first slow step
                self._publish_safely(_now(), time.monotonic())
        refusal = self._intake.refusal(now=time.monotonic(), scale=self._scale)
        if self._intake.good is None:
            return refusal
        # Nothing below the state directory is read or written before its disk is there.
        if away := self._state_mount.check(self._intake.good):
            return refusal or Unmet(Phase.CONTEXT, away.finding, fatal=not away.retryable)
        requests = self._requests.read()
        self._cycle = cycle = self._begin(self._intake.good, requests)
        try:
            unmet = self._stages.run(cycle)
        finally:
            self._record.took(cycle)
        if refusal is not None and cycle.running:
            told = "not applied: the containers continue with the previous settings"
            cycle.report.set_condition("settings", Mark.WAITING, told)
        if not self._stages.dry:
            saved = self._remember(cycle)
            # An order for a new CA stays until the pin is on the disk.
            trust = requests.trust if saved else None
            done = dataclasses.replace(requests, renew=cycle.renewed, trust=trust)
            if done.renew or done.trust:
                self._requests.done(done)
                log.info("orders.done", renew=done.renew, trust=done.trust)
        return refusal or unmet

    def _remember(self, cycle: Cycle) -> bool:
        """Store the new state; a disk that cannot be written is a warning, not a failure."""
        self._record.settle(cycle, self._state_file.recall(cycle.state.vmid))
        try:
            self._state_file.keep(cycle.state)
        except AgentError as error:
            found = error.finding
            cycle.report.warn(warning(found.code, found.message, found.hint))
            return False
        return True

    def _begin(self, good: Settings, requests: Requests) -> Cycle:
        vmid = self._intake.inputs.vmid if self._intake.inputs else None
        given = good.data.where if good.data and good.data.kind is DataKind.DIRECTORY else ""
        follows = machine.follows(machine.mountinfo(), given or str(self._paths.data))
        state = self._state_file.recall(vmid)
        if requests.trust is not None:
            state = dataclasses.replace(state, ca_pin=requests.trust)
        elif self._state_file.damaged and state.ca_pin is None:  # the CA's own file is still a pin
            state = dataclasses.replace(state, ca_pin=self._keyring.held_fingerprint())
        seen = Observation(
            settings=good,
            renew=requests.renew,
            variables=(self._intake.inputs.variables if self._intake.inputs else None) or {},
            host=machine.observe(),
            gpu=nvidia.look(),
            keyring=self._keyring,
            client=self._reporter.client,
            now=_now(),
            monotonic=time.monotonic(),
            data_propagation="rslave" if follows else "rprivate",
            state_outlives_vm=self._state_mount.mounted,
            dry=self._stages.dry,
        )
        cycle = Cycle(seen=seen, state=state)
        cycle.report.warn(*self._state_mount.findings(good))
        if where := self._state_mount.words():
            cycle.report.set_condition("state", Mark.OK, where)
        return cycle

    def _take(self, good: Settings) -> None:
        """Use new settings from now on."""
        # Old failures and old answers belong to the old settings: start from zero.
        logging.configure(good.log_level.value, tty=self._options.tty)
        self._parts.superlink_search.forget()
        self._parts.reconciler.reset_backoff()
        self._parts.background_builder.forget()
        self._parts.apps.forget()
        self._parts.through(app_environment.proxies(good))
        self._life = lifecycle.restarted(self._life, time.monotonic())

    def _publish_safely(self, now: datetime.datetime, monotonic: float) -> None:
        try:
            self._publish(now, monotonic)
        except Exception as error:  # a failed report must not stop the care for the containers
            bug = deduplication.gist(f"{type(error).__name__}: {error}")
            if bug != self._publish_bug:
                log.exception("agent.bug")
            self._publish_bug = bug

    def _publish(self, now: datetime.datetime, monotonic: float) -> None:
        if self._stages.dry:
            return
        published = self._cycle.report.published if self._cycle else self._introduced()
        found, good = self._status(now), self._intake.good
        self._publisher.publish(found, published, monotonic=monotonic, wall=now)
        self._exporter.publish(
            found,
            wanted=good is not None and good.metrics,
            health_s=self._parts.prober.health_s,
            monotonic=monotonic,
        )

    def _introduced(self) -> Published:
        """Return what the first body of a start can tell besides that it starts."""
        good, read = self._intake.good, self._intake.inputs
        if good is None or read is None or good.role is not Role.SUPERNODE:
            return Published()
        return self._parts.supernode.introduction(good, self._state_file.recall(read.vmid).vmid)

    def _status(self, now: datetime.datetime) -> Status:
        return status_builder.build(
            life=self._life,
            intake=self._intake,
            report=self._cycle.report if self._cycle else Report(),
            reconciler=self._parts.reconciler,
            reporter=self._reporter,
            # A disk of its own is there to be taken over by the next VM.
            other_vm=self._state_file.other_vm and not self._state_mount.mounted,
            name=self._options.name,
            now=now,
        )

    def _pause_s(self, unmet: Unmet | None, monotonic: float) -> float:
        # While containers start, cycles are frequent at first and rarer the longer it takes.
        if unmet in SETTLING:
            self._settling_at = min(self._settling_at, monotonic)
            pause = min(SETTLING_PAUSE_S + (monotonic - self._settling_at) / 50, WAITING_S)
        else:
            self._settling_at = float("inf")
            pause = IDLE_S if unmet is None or unmet.fatal else WAITING_S
        self._opening = self._cycle.opening if self._cycle else None
        if self._opening is not None and not health.opened(self._opening):
            pause = WAITING_S
        else:
            self._opening = None
        pause = min(pause * self._scale, self._reporter.wait_s(monotonic))
        due = self._cycle.next_s if self._cycle else float("inf")
        return max(min(pause, due, self._parts.reconciler.rest_s(monotonic)), 0.01)

    def _rest(self, pause_s: float, stop: threading.Event) -> None:
        """Wait for the next cycle; check each second whether the inputs changed."""
        end = time.monotonic() + pause_s
        look_s = WAITING_S * self._scale
        if self._opening is not None:
            look_s = OPENING_LOOK_S
            self._parts.prober.warm()
        while not stop.is_set():
            left = end - time.monotonic()
            if left <= 0 or self._wake.wait(min(left, look_s)):
                break
            if self._intake.changed() or self._parts.app_runs.changed():
                break
            if self._opening is not None and health.opened(self._opening):
                break
        self._wake.clear()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
