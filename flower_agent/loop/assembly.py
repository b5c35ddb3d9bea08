"""Puts the agent's parts together, once: every edge, every duty, and the loop's stages."""

import dataclasses
import functools
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence

from flower_agent.background import Threads
from flower_agent.config.parsers import Role
from flower_agent.machine.firewall_tools import Firewalls
from flower_agent.paths import Paths
from flower_agent.pki.certificate_files import CertificateFiles
from flower_agent.pki.node_keys import NodeKeys
from flower_agent.pki.server_certificate import ServerCertificate
from flower_agent.probes.health import Prober
from flower_agent.runs.app_runs import CODE, AppRuns
from flower_agent.runs.bundler import Bundler
from flower_agent.runs.follower import Follower
from flower_agent.runs.git import Git
from flower_agent.runs.run_files import RunFiles
from flower_agent.runs.submitter import Submitter
from flower_agent.service.attach import Search
from flower_agent.service.connections import Connections
from flower_agent.service.enroller import Enroller
from flower_agent.service.finder import Finder
from flower_agent.service.liveness import Liveness
from flower_agent.service.look import Look
from flower_agent.service.node_reports import NodeReports
from flower_agent.service.registrar import Registrar
from flower_agent.steps import one_shot
from flower_agent.steps.accelerator import Accelerator
from flower_agent.steps.app_supply import AppSupply
from flower_agent.steps.baker import Baker, Source
from flower_agent.steps.bakery import Bakery
from flower_agent.steps.data_supply import DataSupply
from flower_agent.steps.data_volumes import DataVolumes
from flower_agent.steps.engine import Engine
from flower_agent.steps.supply import Supply
from flower_agent.steps.upgrader import Upgrader
from flower_agent.steps.workbench import Workbench
from flower_agent.steps.workload import Workload
from flower_agent.wanted.app_environment import Proxies

from .converge import Converger
from .superexec import SuperExec
from .superlink import SuperLink
from .supernode import SuperNode


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How this process was started."""

    paths: Paths
    name: str = ""
    """Prefix of the containers' names, so that several agents run side by side."""

    docker_url: str = "unix:///var/run/docker.sock"
    context_file: pathlib.Path | None = None
    """Read instead of the VM's context; for `preview`."""

    wheels: Source | None = None
    """Where the wheels of framework images come from."""

    notify_socket: str = ""
    tty: bool = False
    scale: float = 1.0
    """Shortens every wait; for tests only."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What the loop speaks to by name; the rest is reached through these."""

    converger: Converger
    workload: Workload
    prober: Prober
    finder: Finder
    supernode: SuperNode
    bakery: Bakery
    apps: AppSupply
    app_runs: AppRuns
    gits: tuple[Git, ...]

    def through(self, proxies: Proxies) -> None:
        """Fetch apps and wheels through the context's proxies from now on."""
        for each in self.gits:
            each.through(proxies.variables())
        proxy = proxies.https or proxies.http
        for fetcher in (self.apps, self.bakery):
            fetcher.through(proxy.reveal() if proxy is not None else "")


def assemble(
    options: Options, threads: Threads, *, wake: Callable[[], None], rng: random.Random, dry: bool
) -> Parts:
    """Return the parts of one agent; nothing is read or begun yet."""
    paths, scale = options.paths, options.scale
    engine = Engine(options.name or "default", url=options.docker_url)
    workload = Workload(engine, threads, wake=wake, scale=scale)
    app_git, run_git = Git(paths.app), Git(paths.runs)
    oven, bundler = Baker(engine, Workbench(engine), paths.bake), Bundler(engine)
    apps = AppSupply(engine, threads, app_git, bundler, oven, where=options.wheels, scale=scale)
    bakery = Bakery(oven, threads, options.wheels, scale=scale)
    prober, finder = Prober(), Finder(threads, rng=rng, scale=scale)
    connections = Connections(threads, scale=scale)
    look = Look(threads, prober, rng=rng, scale=scale)
    liveness = Liveness(wake, rng=rng, scale=scale)
    app_runs = AppRuns(paths, threads, functools.partial(_one_shot, engine), scale=scale)
    registrar, submits = Registrar(threads, rng=rng, scale=scale), (run_git, bundler)
    superlink = _superlink(options, threads, registrar, submits, prober=prober, apps=app_runs)
    home = Look(threads, prober, rng=rng, scale=scale, name="endpoint-home")
    supernode = SuperNode(
        prober,
        finder,
        NodeKeys(paths.keys),
        look,
        connections,
        liveness=liveness,
        home=home,
        apps=app_runs,
        scale=scale,
    )
    search = Search(threads, rng=rng, scale=scale)
    superexec = SuperExec(
        prober, search, look, connections, liveness=liveness, apps=app_runs, paths=paths
    )
    converger = Converger(
        paths,
        options.name,
        workload,
        {Role.SUPERLINK: superlink, Role.SUPERNODE: supernode, Role.SUPEREXEC: superexec},
        connections=connections,
        accelerator=Accelerator(engine, threads, scale=scale),
        upgrader=Upgrader(options.name, paths, workload, finder, threads, scale=scale),
        supplies=Supply(paths.images_lock, workload, bakery, apps),
        data=DataSupply(DataVolumes(engine), threads, paths.data, scale=scale),
        dry=dry,
        scale=scale,
    )
    return Parts(
        converger, workload, prober, finder, supernode, bakery, apps, app_runs, (app_git, run_git)
    )


def _superlink(
    options: Options,
    threads: Threads,
    registrar: Registrar,
    submits: tuple[Git, Bundler],
    *,
    prober: Prober,
    apps: AppRuns,
) -> SuperLink:
    paths, scale = options.paths, options.scale
    run_files = RunFiles(paths.runs)
    follower = Follower(threads, run_files, apps, scale=scale)
    return SuperLink(
        prober,
        Enroller(registrar, scale=scale),
        Submitter(threads, *submits, run_files, follower, scale=scale),
        ServerCertificate(CertificateFiles(paths.certificates)),
        firewalls=Firewalls(paths.root, threads, scale=scale),
        follower=follower,
        reports=NodeReports(threads, scale=scale),
        paths=paths,
    )


def _one_shot(
    engine: Engine, image: str, command: Sequence[str], mounts: Mapping[str, tuple[str, bool]]
) -> bytes:
    return one_shot.run(engine, image, command, mounts=mounts, code=CODE)
