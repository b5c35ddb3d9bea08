"""Creates the agent's parts, once: every edge, every role, and the loop's stages."""

import dataclasses
import functools
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence

from flower_agent.agent import gateway_record
from flower_agent.agent.app_data import AppData
from flower_agent.agent.gateway_interface import GatewayInterface
from flower_agent.agent.gpu_setup import GpuSetup
from flower_agent.agent.image_resolver import ImageResolver
from flower_agent.agent.stages import Stages
from flower_agent.background import Threads
from flower_agent.config.app_environment import Proxies
from flower_agent.config.types import Role
from flower_agent.docker import one_shot
from flower_agent.docker.client import Engine
from flower_agent.docker.one_shot import DataVolumes
from flower_agent.enrolment.enroller import Enroller
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.enrolment.node_reports import NodeReports
from flower_agent.enrolment.partition_watch import PartitionWatch
from flower_agent.enrolment.registrar import Registrar
from flower_agent.flower.endpoint_check import EndpointCheck
from flower_agent.flower.health import Prober
from flower_agent.flower.peer_check import Liveness
from flower_agent.host.connections import Connections
from flower_agent.host.firewall import Firewalls
from flower_agent.images.build_container import BuildContainers
from flower_agent.images.builder import BackgroundBuilder, ImageBuilder, WheelSource
from flower_agent.onegate.appio_discovery import AppIoSearch
from flower_agent.onegate.superlink_search import SuperLinkSearch
from flower_agent.paths import Paths
from flower_agent.proxy.fleet_proxy import FleetProxy
from flower_agent.reconcile.reconciler import Reconciler
from flower_agent.record_file import Record
from flower_agent.roles.gateway_host import GatewayHost
from flower_agent.roles.server_certificate import ServerCertificate
from flower_agent.roles.superexec import SuperExecController
from flower_agent.roles.superlink import SuperLinkController
from flower_agent.roles.supernode import SuperNodeController
from flower_agent.runs.app_directories import CODE, AppDirectories
from flower_agent.runs.app_image import AppImageResolver
from flower_agent.runs.bundle import Bundler
from flower_agent.runs.follower import Follower
from flower_agent.runs.git import Git
from flower_agent.runs.store import RunFiles
from flower_agent.runs.submitter import Submitter
from flower_agent.tls.provided import CertificateFiles
from flower_agent.upgrade.upgrader import Upgrader


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How this process was started."""

    paths: Paths
    name: str = ""
    """Prefix of the containers' names, so that several agents run side by side."""

    docker_url: str = "unix:///var/run/docker.sock"
    context_file: pathlib.Path | None = None
    """Read instead of the VM's context; for `preview`."""

    wheels: WheelSource | None = None
    """Where the wheels of framework images come from."""

    notify_socket: str = ""
    tty: bool = False
    scale: float = 1.0
    """Shortens every wait; for tests only."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What the loop speaks to by name; the rest is reached through these."""

    stages: Stages
    reconciler: Reconciler
    prober: Prober
    superlink_search: SuperLinkSearch
    supernode: SuperNodeController
    background_builder: BackgroundBuilder
    apps: AppImageResolver
    app_runs: AppDirectories
    gits: tuple[Git, ...]

    def through(self, proxies: Proxies) -> None:
        """Fetch apps and wheels through the context's proxies from now on."""
        for each in self.gits:
            each.through(proxies.variables())
        proxy = proxies.https or proxies.http
        for fetcher in (self.apps, self.background_builder):
            fetcher.through(proxy.reveal() if proxy is not None else "")


def assemble(
    options: Options, threads: Threads, *, wake: Callable[[], None], rng: random.Random, dry: bool
) -> Parts:
    """Return the parts of one agent; nothing is read or begun yet."""
    paths, scale = options.paths, options.scale
    engine = Engine(options.name or "default", url=options.docker_url)
    reconciler = Reconciler(engine, threads, wake=wake, scale=scale)
    app_git, run_git, bundler = Git(paths.app), Git(paths.runs), Bundler(engine)
    builder = ImageBuilder(engine, BuildContainers(engine), paths.bake)
    apps = AppImageResolver(
        engine, threads, app_git, bundler, builder, where=options.wheels, scale=scale
    )
    background_builder = BackgroundBuilder(builder, threads, options.wheels, scale=scale)
    prober, superlink_search = Prober(), SuperLinkSearch(threads, rng=rng, scale=scale)
    connections, gateway = Connections(threads, scale=scale), _gateway(options, threads, prober)
    app_runs = AppDirectories(paths, threads, functools.partial(_one_shot, engine), scale=scale)
    registrar = Registrar(threads, rng=rng, scale=scale)
    submits, looks = (run_git, bundler), (prober, gateway)
    superlink = _superlink(options, threads, registrar, submits, looks, apps=app_runs)
    liveness = Liveness(wake, rng=rng, scale=scale)
    look = EndpointCheck(threads, prober, rng=rng, scale=scale)
    checks = (look, connections, liveness)
    supernode = _supernode(
        options, threads, prober, superlink_search, rng=rng, checks=checks, apps=app_runs
    )
    superexec = _superexec(options, threads, prober, rng=rng, checks=checks, apps=app_runs)
    stages = Stages(
        paths,
        options.name,
        reconciler,
        {Role.SUPERLINK: superlink, Role.SUPERNODE: supernode, Role.SUPEREXEC: superexec},
        connections=connections,
        gpu_setup=GpuSetup(engine, threads, scale=scale),
        upgrader=Upgrader(options.name, paths, reconciler, superlink_search, threads, scale=scale),
        image_resolver=ImageResolver(paths.images_lock, reconciler, background_builder, apps),
        data=AppData(DataVolumes(engine), threads, paths.data, scale=scale),
        gateway=gateway,
        dry=dry,
        scale=scale,
    )
    return Parts(
        stages,
        reconciler,
        prober,
        superlink_search,
        supernode,
        background_builder,
        apps,
        app_runs,
        (app_git, run_git),
    )


def _superlink(
    options: Options,
    threads: Threads,
    registrar: Registrar,
    submits: tuple[Git, Bundler],
    looks: tuple[Prober, GatewayHost],
    *,
    apps: AppDirectories,
) -> SuperLinkController:
    paths, scale = options.paths, options.scale
    prober, gateway = looks
    run_files = RunFiles(paths.runs)
    follower = Follower(threads, run_files, apps, scale=scale)
    return SuperLinkController(
        prober,
        Enroller(registrar, scale=scale),
        Submitter(threads, *submits, run_files, follower, scale=scale),
        ServerCertificate(CertificateFiles(paths.certificates)),
        firewalls=Firewalls(paths.root, threads, scale=scale),
        follower=follower,
        reports=NodeReports(threads, scale=scale),
        paths=paths,
        gateway=gateway,
    )


def _gateway(options: Options, threads: Threads, prober: Prober) -> GatewayHost:
    paths = options.paths
    record = gateway_record.recorder(Record(paths.audit))
    asked = GatewayInterface(paths.gateway / "agent.sock", paths.runs, record)
    return GatewayHost(paths, threads, FleetProxy(paths, prober), asked, scale=options.scale)


def _supernode(
    options: Options,
    threads: Threads,
    prober: Prober,
    search: SuperLinkSearch,
    *,
    rng: random.Random,
    checks: tuple[EndpointCheck, Connections, Liveness],
    apps: AppDirectories,
) -> SuperNodeController:
    look, connections, liveness = checks
    scale = options.scale
    return SuperNodeController(
        prober,
        search,
        NodeKeys(options.paths.keys),
        look,
        connections,
        liveness=liveness,
        home=EndpointCheck(threads, prober, rng=rng, scale=scale, name="endpoint-home"),
        apps=apps,
        assigned=PartitionWatch(threads, rng=rng, scale=scale),
        scale=scale,
    )


def _superexec(
    options: Options,
    threads: Threads,
    prober: Prober,
    *,
    rng: random.Random,
    checks: tuple[EndpointCheck, Connections, Liveness],
    apps: AppDirectories,
) -> SuperExecController:
    look, connections, liveness = checks
    search = AppIoSearch(threads, rng=rng, scale=options.scale)
    return SuperExecController(
        prober, search, look, connections, liveness=liveness, apps=apps, paths=options.paths
    )


def _one_shot(
    engine: Engine, image: str, command: Sequence[str], mounts: Mapping[str, tuple[str, bool]]
) -> bytes:
    return one_shot.run(engine, image, command, mounts=mounts, code=CODE)
