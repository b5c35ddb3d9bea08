"""One cycle from settings to working containers: each stage observes, decides, acts, or ends it.

The phases of the status are the stages of `_stages`, in order. The VM waits for the first that is
not complete; before a container starts, the SuperLink is asked once more (`discover`). An early end
of a cycle never stops a container.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import structlog

from flower_agent import files
from flower_agent.agent.app_data import AppData
from flower_agent.agent.gpu_setup import GpuSetup
from flower_agent.agent.image_resolver import ImageResolver, word
from flower_agent.config import app_environment, flower_versions
from flower_agent.config.settings import Settings
from flower_agent.config.types import Plugin, Role
from flower_agent.cycle import AppHost, Cycle, Preparation, RoleController, Running
from flower_agent.docker.containers import FLOWER_UID, Component, Container, Existing
from flower_agent.flower import container_spec
from flower_agent.flower.container_spec import RoleSpec, Site
from flower_agent.host.connections import Connections
from flower_agent.host.gpu import GpuAccess
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError, GpuError, TurnedAwayError
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.model.record import Entry, Event
from flower_agent.model.status import Mark
from flower_agent.paths import Paths
from flower_agent.proxy.proxy_files import ProxyFiles
from flower_agent.reconcile import plan, reconciler
from flower_agent.reconcile.reconciler import SETTLING_S, Reconciler
from flower_agent.roles.gateway_host import GatewayHost
from flower_agent.runs import app_directories
from flower_agent.runs.app_image import Choice
from flower_agent.tls import certificates, trust
from flower_agent.tls.store import Keyring
from flower_agent.upgrade.upgrader import Upgrader

log = structlog.get_logger()

DETACHED_AFTER_S = 60.0
DETACHED_LOOK_S = 1.0
LOADS = (datetime.timedelta(), datetime.timedelta(seconds=0.4))
"""A SuperExec needs at least this long to load and connect, so nobody looks before."""

ATTACHED_LOOK_S = 30.0
"""A seen connection of the SuperExec counts for this long: each check costs milliseconds."""

BEFORE_CONTAINERS = (Phase.DISCOVER, Phase.TLS, Phase.IMAGE, Phase.DATA)

HUNG_AFTER_S = 20.0
"""Time for a SuperNode that gave up to end by itself; some versions never end."""

TURNED_AWAY_S = 2.0
"""The same time, if the SuperLink does not know the node's key yet."""

BUSY_LOOK_S = 20.0
BUSY_FOR_S = 60.0
"""A node stays busy this long after an app: rounds have pauses, and OneGate needs few reports."""


class Stages:
    """Brings the VM's containers to the wanted state, cycle by cycle."""

    def __init__(
        self,
        paths: Paths,
        prefix: str,
        reconciler: Reconciler,
        controllers: Mapping[Role, RoleController],
        *,
        connections: Connections,
        gpu_setup: GpuSetup,
        upgrader: Upgrader,
        image_resolver: ImageResolver,
        data: AppData | None = None,
        gateway: GatewayHost | None = None,
        dry: bool = False,
        scale: float = 1.0,
    ) -> None:
        self._paths = paths
        self._prefix = prefix
        self._reconciler = reconciler
        self._controllers = controllers
        self._connections = connections
        self._gpu_setup = gpu_setup
        self._upgrader = upgrader
        self._image_resolver = image_resolver
        self._data = data
        self._gateway = gateway
        self.dry = dry
        self._scale = scale
        self._settled: tuple[str, object] | None = None
        self._seen_at: dict[str, tuple[object, float]] = {}
        self._hung: tuple[Existing | None, float] = (None, 0.0)
        self._attached_at = float("-inf")
        self._placed: Settings | None = None
        self._computed_at = self._busy_look_at = float("-inf")
        self.planned: list[str] = []
        """The steps of a dry cycle, as text."""

    def run(self, cycle: Cycle) -> Unmet | None:
        """Go as far as possible; return what is not met, None when all works."""
        self.planned.clear()
        self._upgrader.begin(cycle)
        try:
            unmet = self._stages(cycle)
        except AgentError as error:
            unmet = cycle.unmet(error)
        if not self.dry:
            self._upgrader.judge(cycle, unmet)
        name = container_spec.name(self._prefix, Component(cycle.seen.settings.role.value))
        # A refused SuperNode ends and restarts all the time: show one phase, not both by turns.
        unmet = self._reconciler.ends.steady(name, unmet, cycle.awaited)
        if unmet is not None and cycle.running and unmet.phase in BEFORE_CONTAINERS:
            told = "not applied yet: the containers continue unchanged"
            cycle.report.set_condition("settings", Mark.WAITING, told)
        return unmet

    def _stages(self, cycle: Cycle) -> Unmet | None:
        cycle.phase = Phase.DOCKER
        self._reconciler.observe(cycle.seen.monotonic)
        cycle.report.set_condition("docker", Mark.OK, "answers")
        first = self._reconciler.existing(
            container_spec.name(self._prefix, Component(cycle.seen.settings.role.value))
        )
        cycle.running = first is not None and first.running
        cycle.wait = self._reconciler.ends.waiting(first.name) if first else None
        pins, missing, choice = self._images(cycle)
        computing = (c.gpu for c in self._reconciler.have if c.running and c.gpu)
        access = self._gpu_setup.choose(cycle, next(computing, GpuAccess.NONE))
        if access is None:
            return Unmet(cycle.phase)
        cycle.phase = Phase.DISCOVER
        if not self.dry:
            self._give_back(cycle.seen.settings)
        controller = self._controllers[cycle.seen.settings.role]
        prepared = controller.prepare(cycle)
        cycle.phase = Phase.TLS
        self._all_certificates(cycle, prepared)
        cycle.phase = Phase.CONTAINER
        want = container_spec.containers(
            cycle.seen.settings, self._site(cycle, prepared.spec, access)
        )
        steps = self._steps(cycle, want)
        self.planned += self._upgrader.words(cycle, steps)
        made = {step.container.image for step in steps if step.container}
        needed = tuple(reference for reference in missing if reference in made)
        self._await_start(cycle, want, steps, controller)
        if self.dry:
            return None if steps else self._check(cycle, want, controller, prepared.spec)
        if needed:
            cycle.phase = Phase.IMAGE
            error = self._image_resolver.fetch(cycle, needed, pins)
            return cycle.unmet(error) if error else Unmet(Phase.IMAGE)
        if held := self._held(cycle, want, steps, pending=choice.pending):
            return held
        self._image_resolver.record(cycle, pins)
        if not self._apply(cycle, want, steps, pins):
            return Unmet(cycle.phase)
        fresh = _starts(want[0].name, steps) or want[0].name in self._reconciler.started
        return self._check(cycle, want, controller, prepared.spec, fresh=fresh)

    def _give_back(self, settings: Settings) -> None:
        """End what the settings do not want any more, before a container wants its port."""
        if self._gateway is not None and not settings.gateway:
            self._gateway.stop()
        if not container_spec.proxied(settings):  # HAProxy gives the Fleet port back
            ProxyFiles(self._paths.proxy).clear(but_the_gateway=settings.gateway)

    def _images(self, cycle: Cycle) -> tuple[dict[str, str], tuple[str, ...], Choice]:
        """Return the pinned images, those that are missing, and the one for apps."""
        pins = self._image_resolver.pins(cycle)
        missing = self._image_resolver.missing(cycle, pins)
        self.planned += [word(reference) for reference in missing]
        if missing and not cycle.running and not self.dry:
            self._image_resolver.fetch(cycle, missing, pins)  # at the same time as the discovery
        runner = self._reconciler.existing(self._runner(cycle))
        choice = self._image_resolver.for_app(cycle, pins, runner)
        cycle.app_image, cycle.app_lacks = choice.image, choice.short
        if choice.image:
            pins[choice.image] = choice.made_of
        return pins, missing, choice

    def _held(
        self,
        cycle: Cycle,
        want: tuple[Container, ...],
        steps: tuple[plan.Step, ...],
        *,
        pending: bool,
    ) -> Unmet | None:
        """Return what delays the start of the container of apps: its image, or the data."""
        runner = self._runner(cycle)
        # The app's image is not known yet: without this wait the container would be made twice.
        if pending and _makes(runner, steps):
            return Unmet(Phase.IMAGE)
        # Only a start needs the data. A running container keeps its mount, even a broken one.
        if self._data is None or not (_makes(runner, steps) or _starts(runner, steps)):
            return None
        cycle.phase = Phase.DATA
        if not self._data.there(cycle, want[-1].image):
            return Unmet(Phase.DATA)
        cycle.phase = Phase.CONTAINER
        return None

    def _runner(self, cycle: Cycle) -> str:
        """Return the container that runs apps."""
        beside = container_spec.has_superexec(cycle.seen.settings)
        part = Component.SUPEREXEC if beside else Component(cycle.seen.settings.role.value)
        return container_spec.name(self._prefix, part)

    def _all_certificates(self, cycle: Cycle, prepared: Preparation) -> None:
        keyring = cycle.seen.keyring
        self._certificates(cycle, keyring, prepared.trust)
        if prepared.appio is not None:
            self._certificates(cycle, keyring.appio, prepared.appio)
        if prepared.loopback is not None:
            self._certificates(cycle, keyring.loopback, prepared.loopback)

    def _certificates(self, cycle: Cycle, keyring: Keyring, wanted: trust.CertificateSpec) -> None:
        if wanted.source is trust.CertificateSource.OFF:
            cycle.report.set_condition(
                "tls", Mark.OFF, "TLS is off: traffic can be read and changed"
            )
            cycle.renewed = cycle.seen.renew  # `tls renew` has nothing to do here, so it is done
            return
        steps = trust.steps(wanted, keyring.held(wanted, cycle.seen.now), cycle.seen.now)
        self.planned += [str(step) for step in steps]
        if not self.dry:
            for step in steps:
                log.info("tls.step", action=step.action.value, cause=step.cause)
                keyring.apply(step, wanted, cycle.seen.now)
                cycle.note(_recorded(step, keyring))
            cycle.renewed = cycle.seen.renew

    def _site(self, cycle: Cycle, spec: RoleSpec, access: GpuAccess) -> Site:
        if not self.dry:
            if cycle.seen.settings.role is Role.SUPERLINK:
                files.directory(self._paths.superlink, 0o770, group=FLOWER_UID)
            self._app_places(cycle.seen.settings)
            if not self._paths.data.is_dir():  # an existing one may be a mount with its own mode
                files.directory(self._paths.data, 0o755)
        appio, loopback = cycle.seen.keyring.appio, cycle.seen.keyring.loopback
        return Site(
            prefix=self._prefix,
            role=spec,
            ca_file=str(cycle.seen.keyring.ca),
            chain_file=str(cycle.seen.keyring.chain),
            key_file=str(cycle.seen.keyring.key),
            appio_ca_file=str(appio.ca),
            appio_chain_file=str(appio.chain),
            appio_key_file=str(appio.key),
            own_ca_file=str(loopback.ca),
            own_chain_file=str(loopback.chain),
            own_key_file=str(loopback.key),
            superlink_dir=str(self._paths.superlink),
            data_dir=str(self._paths.data),
            launcher_dir=str(self._paths.launcher),
            runs_dir=str(self._paths.live_runs),
            caches_dir=str(self._paths.caches),
            digests={**cycle.seen.keyring.digests(), **appio.digests(), **loopback.digests()},
            memory_bytes=cycle.seen.host.memory_bytes,
            gpu=access,
            cuda=cycle.seen.cuda,
            app_image=cycle.app_image,
            data_mount=self._data.mount(cycle) if self._data else None,
            data_propagation=cycle.seen.data_propagation,
            **self._environment(cycle, spec),
        )

    def _app_places(self, settings: Settings) -> None:
        """Create the directories that apps need; a settled cycle checks only one of them."""
        if self._placed is not settings or not self._paths.live_runs.is_dir():
            app_directories.prepare(self._paths, settings)
            self._placed = settings

    def _environment(self, cycle: Cycle, spec: RoleSpec) -> Mapping[str, Any]:
        """Return fields of the site for the environment of app processes, and keep its file."""
        settings, path = cycle.seen.settings, self._paths.app_environment
        if not container_spec.runs_apps(settings):
            return app_directories.keep(path, None, dry=self.dry)
        hosts = container_spec.appio_hosts(settings, spec.fleet_host, spec.appio_name)
        data = app_environment.document(settings, hosts)
        if data is not None:
            cycle.report.set_condition(
                "environment", Mark.OK, f"apps also have {app_environment.words(settings)}"
            )
        return app_directories.keep(path, data, dry=self.dry)

    def _steps(self, cycle: Cycle, want: tuple[Container, ...]) -> tuple[plan.Step, ...]:
        # Settled means that the last check of this very start of the container found no fault.
        main = self._reconciler.existing(want[0].name)
        settled = main is not None and self._settled == (main.container_id, main.started_at)
        return self._reconciler.steps(want, settled=settled, now=cycle.seen.monotonic)

    def _await_start(
        self,
        cycle: Cycle,
        want: tuple[Container, ...],
        steps: tuple[plan.Step, ...],
        controller: RoleController,
    ) -> None:
        """Raise AgentError while a start of the first container would fail anyway."""
        if _starts(want[0].name, steps):
            cycle.phase = Phase.DISCOVER
            controller.may_start(cycle)
        cycle.phase = Phase.CONTAINER

    def _apply(
        self,
        cycle: Cycle,
        want: tuple[Container, ...],
        steps: tuple[plan.Step, ...],
        pins: Mapping[str, str],
    ) -> bool:
        """Do the steps; return whether all are done."""
        if self._reconciler.doing:
            cycle.report.set_condition(
                "docker", Mark.WAITING, f"takes longer than usual: {self._reconciler.doing}"
            )
            return False
        if not steps:
            return True
        # Before any step: with a taken port, nothing that works is stopped.
        reconciler.require_free_ports(want, steps, self._reconciler.existing)
        try:
            done = self._upgrader.apply(cycle, steps, pins)
        except AgentError as error:
            # With GPU_ENABLED=AUTO the next cycle makes the container without a GPU.
            if isinstance(error, GpuError):
                self._gpu_setup.refuse(cycle, error.finding)
            # Docker also mounts the data, so the refusal may be about the data.
            if self._data is not None and (named := self._data.named(cycle, error)) is not error:
                cycle.phase = Phase.DATA
                raise named from error
            raise
        self._reconciler.observe(cycle.seen.monotonic)
        return done

    def _check(
        self,
        cycle: Cycle,
        want: tuple[Container, ...],
        controller: RoleController,
        spec: RoleSpec,
        *,
        fresh: bool = False,
    ) -> Unmet | None:
        existing = [self._alive(cycle, container.name) for container in want]
        main = existing[0]
        cycle.phase = Phase.HEALTH
        health = container_spec.health(
            cycle.seen.settings, Component(cycle.seen.settings.role.value)
        )
        if fresh:  # this cycle's time is before the start: its log would be of the start before
            cycle.opening = health
            return Unmet(cycle.phase)
        name, started_at = main.name, main.started_at or cycle.seen.now
        read = self._reconciler.engine.logs
        apps = self._app_host(cycle, existing[-1])
        running = Running(started_at, lambda since: read(name, since=since), main.image, apps, spec)
        try:
            controller.check(cycle, running)
        except AgentError as error:
            if self._excuses(cycle, main, error):
                cycle.opening = health
                return Unmet(cycle.phase)
            raise
        self._hung = (None, 0.0)
        self._settled = (main.container_id, main.started_at)
        # CUDA can fail inside a container while everything else works, so a program tests it.
        computes = not self.dry and any(container.gpu for container in want)
        if computes and not self._gpu_setup.check(cycle, existing[-1]):
            return Unmet(cycle.phase)
        if len(existing) > 1:
            self._superexec(cycle, spec, existing[1], main)
        if self._data is not None and not self.dry:
            data = (m for m in want[-1].mounts if m.target == flower_versions.DATA)
            self._data.settled(cycle, next(data, None))
        return None

    def _alive(self, cycle: Cycle, name: str) -> Existing:
        """Return a container that runs. Raises AgentError ``container.…`` for any other."""
        found = self._reconciler.existing(name)
        if found is None or not found.running or found.started_at is None:
            raise self._reconciler.ended(name)
        if found.status == "paused":
            hint = f"docker unpause {name}"
            raise AgentError("container.paused", f"{name} is paused", hint, retryable=True)
        self._age_s(found, cycle.seen.monotonic)  # the age counts from here, not from a failure
        return found

    def _app_host(self, cycle: Cycle, last: Existing) -> AppHost | None:
        """Return the container that runs apps: the VM's last one, unless apps run on another VM."""
        settings = cycle.seen.settings
        if settings.appio_listen is not None or self.dry:
            return None
        server = settings.role is Role.SUPERLINK or (
            settings.role is Role.SUPEREXEC and settings.superexec_plugin is Plugin.SERVERAPP
        )
        return AppHost(last.image, last.started_at or cycle.seen.now, keeps=server)

    def _excuses(self, cycle: Cycle, main: Existing, error: AgentError) -> bool:
        """Return whether a young container may still fail this way; stop one that gave up."""
        # The SuperLink refuses the node for now: no failure, but a wait.
        waits = isinstance(error, TurnedAwayError)
        if waits:
            self._reconciler.ends.wait(main.name, error, cycle.seen.monotonic)
        limit_s = (TURNED_AWAY_S if waits else HUNG_AFTER_S) * self._scale
        # Its log says that it gave up. Most versions then end by themselves; others need a stop.
        if cycle.hung and self._hung_for_s(main, cycle.seen.monotonic) > limit_s:
            stop = plan.Step(plan.Action.STOP, main.name, "its Flower gave up")
            self._reconciler.apply((stop,), {}, cycle.seen.monotonic)
        young = self._age_s(main, cycle.seen.monotonic) < SETTLING_S * self._scale
        return young and error.retryable and not waits

    def _hung_for_s(self, main: Existing, monotonic: float) -> float:
        """Return the seconds since this start of the container was seen to give up."""
        known, since = self._hung
        if known is None or known.started_at != main.started_at:
            self._hung = (main, monotonic)
            return 0.0
        return monotonic - since

    def _age_s(self, container: Existing, monotonic: float) -> float:
        """Return the age of a container's start by the monotonic clock, from its first sight."""
        start = (container.container_id, container.started_at)
        known, since = self._seen_at.get(container.name, (None, monotonic))
        if known != start:
            since = monotonic
            self._seen_at[container.name] = (start, since)
        return monotonic - since

    def _superexec(self, cycle: Cycle, spec: RoleSpec, superexec: Existing, main: Existing) -> None:
        """Note whether the local SuperExec is attached; without it no app can run.

        The time limit counts from the later start of both sides: each needs the other.
        """
        attach = container_spec.attach_address(cycle.seen.settings, spec.fleet_host)
        if self._attached(cycle, superexec, attach):
            cycle.report.set_condition("superexec", Mark.OK, f"connected to {attach}")
        else:
            cycle.report.set_condition("superexec", Mark.WAITING, f"not connected to {attach} yet")
            cycle.look_again_in(DETACHED_LOOK_S * self._scale)
            limit = DETACHED_AFTER_S * self._scale
            ages_s = [self._age_s(each, cycle.seen.monotonic) for each in (superexec, main)]
            if min(*ages_s, cycle.seen.monotonic - self._attached_at) > limit:
                raise AgentError(
                    "superexec.detached",
                    f"{superexec.name} has no connection to {attach}",
                    retryable=True,
                )
        if cycle.seen.settings.role is Role.SUPERNODE:
            self._busy(cycle, superexec.name)

    def _attached(self, cycle: Cycle, superexec: Existing, attach: Address) -> bool:
        seen_s = cycle.seen.monotonic - self._attached_at
        if seen_s < min(
            ATTACHED_LOOK_S * self._scale, self._age_s(superexec, cycle.seen.monotonic)
        ):
            return True
        # A look at the connections costs more than this: skip it while Python certainly loads.
        started_at = superexec.started_at or cycle.seen.now
        if LOADS[0] <= cycle.seen.now - started_at < LOADS[1]:
            return False
        if not self._connections.held(attach, now=cycle.seen.monotonic):
            return False
        self._attached_at = cycle.seen.monotonic
        return True

    def _busy(self, cycle: Cycle, name: str) -> None:
        if cycle.seen.monotonic >= self._busy_look_at:
            self._busy_look_at = cycle.seen.monotonic + BUSY_LOOK_S * self._scale
            running: tuple[str, ...] = ()
            with contextlib.suppress(AgentError):  # needs `ps` on the VM; a failure changes nothing
                running = self._reconciler.engine.processes(name)
            if any("flwr-clientapp" in command for command in running):
                self._computed_at = cycle.seen.monotonic
        busy = cycle.seen.monotonic - self._computed_at < BUSY_FOR_S * self._scale
        cycle.report.published = dataclasses.replace(cycle.report.published, busy=busy)


def _makes(name: str, steps: tuple[plan.Step, ...]) -> bool:
    """Return whether `steps` create the container of that name."""
    return any(step.name == name and step.container is not None for step in steps)


def _starts(name: str, steps: tuple[plan.Step, ...]) -> bool:
    """Return whether `steps` start the container of that name."""
    return any(step.name == name and step.action is plan.Action.START for step in steps)


_CERTIFICATE_EVENTS = {
    trust.CertificateAction.MAKE_CA: Event.CA_MADE,
    trust.CertificateAction.ISSUE: Event.CERTIFICATE_ISSUED,
    trust.CertificateAction.WRITE: Event.CERTIFICATE_WRITTEN,
    trust.CertificateAction.WRITE_CA: Event.CERTIFICATE_WRITTEN,
}


def _recorded(step: trust.CertificateStep, keyring: Keyring) -> Entry:
    """Return what the record keeps of a step, with the fingerprint that can be compared."""
    made = keyring.own_fingerprint() if step.action is trust.CertificateAction.MAKE_CA else None
    if made is None:
        with contextlib.suppress(ValueError):
            made = certificates.fingerprint(keyring.held_chain() or keyring.held_ca())
    return Entry(what=_CERTIFICATE_EVENTS[step.action], key=made or "", message=step.cause)
