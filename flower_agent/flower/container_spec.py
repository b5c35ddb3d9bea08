"""From settings and facts to the containers that this VM should run. Pure.

The containers use the host's network: every API is bound by a flag of Flower's own, nothing is
NATed. What each may touch is mounted singly, the CA's key never.
"""

import dataclasses
from collections.abc import Mapping

from flower_agent.config import flower_versions
from flower_agent.config.settings import Settings
from flower_agent.config.types import GpuMode, Isolation, LogLevel, Plugin, Role
from flower_agent.docker.containers import FLOWER_UID, Component, Container, Mount
from flower_agent.flower import command_line, frameworks
from flower_agent.flower.command_line import Endpoint, Endpoints, Trust
from flower_agent.host.gpu import ENVIRONMENT, GpuAccess
from flower_agent.model.address import Address

LOOPBACK = "127.0.0.1"
KEPT_FREE_BYTES = 512 * 1024 * 1024
"""Left to the system and the agent when an app takes all it may."""

MEMORY_STEP_BYTES = 128 * 1024 * 1024

LEAST_BYTES = 256 * 1024 * 1024

TMPFS = (
    (flower_versions.HOME, f"uid={FLOWER_UID},gid={FLOWER_UID},mode=700"),
    ("/tmp", "mode=1777"),  # noqa: S108  # in the container, private to it
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    """What a VM's role knows that shapes its containers."""

    appio_name: str = ""
    """SuperLink: by which name its SuperExec dials it, where the certificate names no address."""

    fleet_host: str = LOOPBACK
    """SuperLink: where its Fleet API listens."""

    superlink: Address | None = None
    """SuperNode: the Fleet API to dial."""

    trust: Trust = Trust.CA
    """SuperNode, SuperExec: whom it believes."""

    node_config: tuple[tuple[str, str], ...] = ()

    node_auth: bool = False
    """SuperLink: it wants a registered key of every SuperNode."""

    node_key_file: str = ""
    """SuperNode: its private key; empty: it needs none."""

    node_key_digest: str = ""
    """Hex SHA-256 of that file."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The facts beside the settings that shape the containers."""

    prefix: str = ""
    """In front of every container name, so that several agents run side by side."""

    ca_file: str
    chain_file: str
    key_file: str
    appio_ca_file: str = ""
    appio_chain_file: str = ""
    appio_key_file: str = ""
    """SuperNode: of its AppIo, where that is offered to a SuperExec elsewhere with TLS."""

    own_ca_file: str = ""
    own_chain_file: str = ""
    own_key_file: str = ""
    """SuperLink behind HAProxy: of the certificate that it shows there, of the agent's CA."""

    superlink_dir: str
    data_dir: str
    launcher_dir: str
    """The programs that start apps: `flower_agent.launcher`."""

    runs_dir: str
    """Where running apps write."""

    caches_dir: str
    """The directory of apps' downloads."""

    digests: Mapping[str, str]
    """Hex SHA-256 of each existing certificate file, by path."""

    role: RoleSpec = RoleSpec()
    """What the VM's role knows."""

    memory_bytes: int = 0
    """The VM's memory."""

    gpu: GpuAccess = GpuAccess.NONE
    """How containers get NVIDIA GPUs, if wanted and usable."""

    cuda: bool = False
    """Apps run in the CUDA variant of their framework's image."""

    app_image: str = ""
    """The image with the context's app's dependencies; empty: not needed, or not available."""

    environment_file: str = ""
    """The file with the environment of app processes; empty: nothing is set."""

    environment_digest: str = ""
    """Hex SHA-256 of that file."""

    data_mount: Mount | None = None
    """The mount for ``/app/data``, if it is not `data_dir`."""

    data_propagation: str = "rslave"
    """``rprivate`` if the directory's mount is not shared: Docker refuses ``rslave`` then."""


def containers(settings: Settings, site: Site) -> tuple[Container, ...]:
    """Return the wanted containers; the first one is the one that others connect to."""
    match settings.role:
        case Role.SUPERLINK:
            return _superlink(settings, site)
        case Role.SUPERNODE:
            return _supernode(settings, site)
        case Role.SUPEREXEC:
            return _lone_superexec(settings, site)


def images(settings: Settings, *, cuda: bool = False) -> tuple[str, ...]:
    """Return the images of `containers`, which are known before all other facts."""
    role = settings.role
    main = () if role is Role.SUPEREXEC else (_image(settings, Component(role.value), cuda=cuda),)
    superexec = role is Role.SUPEREXEC or has_superexec(settings)
    return (*main, *((_image(settings, Component.SUPEREXEC, cuda=cuda),) if superexec else ()))


def wants_cuda(settings: Settings, *, devices: bool) -> bool:
    """Return whether apps get the CUDA variant of their framework; `devices`: the VM has a GPU."""
    may = settings.gpu is GpuMode.AUTO and devices
    return settings.role is not Role.SUPERLINK and (settings.gpu is GpuMode.YES or may)


def runs_apps(settings: Settings) -> bool:
    """Return whether apps run on this VM."""
    return settings.appio_listen is None


def app_parent(settings: Settings, *, cuda: bool = False) -> str:
    """Return the image for apps, without an app's own packages."""
    return images(settings, cuda=cuda)[-1]


def parent_image(settings: Settings) -> str:
    """Return Flower's own SuperExec image, the base of images with a framework."""
    return flower_versions.image(settings.image_prefix, Component.SUPEREXEC.value, settings.version)


def endpoints(settings: Settings, fleet_host: str) -> Endpoints:
    """Return the addresses of the SuperLink's APIs."""
    return command_line.superlink_endpoints(
        settings.version,
        fleet=Address(fleet_host, fleet_port(settings)),
        control=control_address(settings),
        serverappio=settings.appio_listen or Address(LOOPBACK, settings.serverappio_port),
        tls=settings.tls,
        appio_tls=settings.appio_listen is not None,
    )


def proxied(settings: Settings) -> bool:
    """Return whether HAProxy stands in front of this VM's SuperLink."""
    return settings.role is Role.SUPERLINK and flower_versions.band(settings.version).proxied


def control_address(settings: Settings) -> Address:
    """Return where the SuperLink's Control API listens."""
    given, port = settings.control_address, settings.fleet_port
    return flower_versions.control_listen(settings.version, given, port)


def fleet_port(settings: Settings) -> int:
    """Return the SuperLink's Fleet port."""
    return settings.fleet_port or flower_versions.default_fleet_port(settings.version)


def clientappio(settings: Settings) -> Endpoint:
    """Return the address of a SuperNode's AppIo; on loopback it needs no TLS."""
    return command_line.supernode_appio(
        settings.version,
        settings.appio_listen or Address(LOOPBACK, settings.clientappio_port),
        tls=settings.tls and settings.appio_listen is not None,
    )


def attach_address(settings: Settings, fleet_host: str) -> Address:
    """Return the AppIo of the SuperExec on a SuperLink's or SuperNode's VM."""
    if settings.role is Role.SUPERLINK:
        return endpoints(settings, fleet_host).appio.dial
    return clientappio(settings).dial


def appio_hosts(settings: Settings, fleet_host: str, appio_name: str = "") -> tuple[str, ...]:
    """Return the host names with which the apps of this VM reach their AppIo."""
    if settings.appio_address is not None:
        return (settings.appio_address.host,)
    host = attach_address(settings, fleet_host).host
    return (host, appio_name) if appio_name else (host,)


def health(settings: Settings, part: Component) -> Address:
    """Return the health service of a container: three loopback ports in a row."""
    return Address(LOOPBACK, settings.health_port + list(Component).index(part))


def name(prefix: str, part: Component) -> str:
    """Return the Docker name of a container."""
    return f"{prefix}-flower-{part}" if prefix else f"flower-{part}"


def _superlink(settings: Settings, site: Site) -> tuple[Container, ...]:
    places = endpoints(settings, site.role.fleet_host)
    listens: tuple[Address, ...] = (places.fleet.listen, places.control.listen, places.appio.listen)
    if proxied(settings):  # what it shows is between it, HAProxy and this VM
        listens = (places.control.listen,)
        site = dataclasses.replace(
            site,
            ca_file=site.own_ca_file,
            chain_file=site.own_chain_file,
            key_file=site.own_key_file,
        )
    mounts = [Mount(site.superlink_dir, flower_versions.STATE, read_only=False)]
    if settings.tls:
        mounts += [
            _file(site, site.ca_file, flower_versions.CA_FILE),
            _file(site, site.chain_file, flower_versions.CERTIFICATE_FILE),
            _file(site, site.key_file, flower_versions.KEY_FILE),
        ]
    main = _container(
        settings,
        site,
        Component.SUPERLINK,
        command_line.superlink_command(
            settings.version,
            fleet=places.fleet.listen,
            control=places.control.listen,
            serverappio=places.appio.listen,
            health=health(settings, Component.SUPERLINK),
            tls=settings.tls,
            isolation=settings.isolation.value,
            node_auth=site.role.node_auth,
            appio_tls=places.appio.tls,
        ),
        mounts,
        listens=listens,
    )
    if not has_superexec(settings):
        return (main,)
    trust = Trust.CA if places.appio.tls else Trust.INSECURE
    dial = places.appio.dial
    if not site.role.appio_name:
        return main, _superexec(settings, site, Plugin.SERVERAPP, dial, trust)
    called = Address(site.role.appio_name, dial.port)
    apps = _superexec(settings, site, Plugin.SERVERAPP, called, trust)
    return main, dataclasses.replace(apps, hosts=((called.host, dial.host),))


def _supernode(settings: Settings, site: Site) -> tuple[Container, ...]:
    if site.role.superlink is None:
        raise ValueError("a SuperNode needs a SuperLink")
    appio = clientappio(settings)
    mounts = (
        [_file(site, site.ca_file, flower_versions.CA_FILE)] if site.role.trust is Trust.CA else []
    )
    if appio.tls:
        mounts += [
            _file(site, site.appio_ca_file, flower_versions.APPIO_CA_FILE),
            _file(site, site.appio_chain_file, flower_versions.APPIO_CERTIFICATE_FILE),
            _file(site, site.appio_key_file, flower_versions.APPIO_KEY_FILE),
        ]
    if site.role.node_key_file:
        mounts.append(
            Mount(
                site.role.node_key_file,
                flower_versions.NODE_KEY_FILE,
                digest=site.role.node_key_digest,
            )
        )
    main = _container(
        settings,
        site,
        Component.SUPERNODE,
        command_line.supernode_command(
            settings.version,
            superlink=site.role.superlink,
            clientappio=appio.listen,
            health=health(settings, Component.SUPERNODE),
            trust=site.role.trust,
            isolation=settings.isolation.value,
            node_config=site.role.node_config,
            private_key=bool(site.role.node_key_file),
            appio_tls=appio.tls,
        ),
        mounts,
        listens=(appio.listen,),
    )
    if not has_superexec(settings):
        return (main,)
    trust = Trust.INSECURE  # a SuperNode's AppIo is plaintext on loopback
    return main, _superexec(settings, site, Plugin.CLIENTAPP, appio.dial, trust)


def _lone_superexec(settings: Settings, site: Site) -> tuple[Container, ...]:
    if settings.appio_address is None:
        raise ValueError("a SuperExec VM needs the address of an AppIo")
    plugin = settings.superexec_plugin
    return (_superexec(settings, site, plugin, settings.appio_address, site.role.trust),)


def _superexec(
    settings: Settings, site: Site, plugin: Plugin, attach: Address, trust: Trust
) -> Container:
    command = command_line.superexec_command(
        settings.version,
        plugin=plugin.value,
        attach=attach,
        health=health(settings, Component.SUPEREXEC),
        trust=trust,
    )
    mounts = [_file(site, site.ca_file, flower_versions.CA_FILE)] if trust is Trust.CA else []
    container = _container(settings, site, Component.SUPEREXEC, command, mounts)
    # Beside another program the SuperExec starts with little CPU, so that the other is ready first.
    alone = settings.role is Role.SUPEREXEC
    return container if alone else dataclasses.replace(container, yields_cpu=True)


def _container(
    settings: Settings,
    site: Site,
    part: Component,
    command: tuple[str, ...],
    mounts: list[Mount],
    *,
    listens: tuple[Address, ...] = (),
) -> Container:
    for_apps = part is Component.SUPEREXEC or settings.isolation is Isolation.SUBPROCESS
    computes = for_apps and settings.role is not Role.SUPERLINK  # ServerApps get no GPU
    if for_apps:
        mounts = [*mounts, *_app_mounts(site)]
    access = site.gpu if computes else GpuAccess.NONE
    debug = settings.log_level is LogLevel.DEBUG
    environment = flower_versions.environment(settings.version, debug=debug)
    if for_apps:
        launch = flower_versions.band(settings.version).launch
        environment = (*environment, ("FLOWER_AGENT_LAUNCH", launch))
    return Container(
        name=name(site.prefix, part),
        part=part,
        image=(site.app_image if for_apps else "") or _image(settings, part, cuda=site.cuda),
        command=command,
        entrypoint=_launching(part) if for_apps else (),
        environment=tuple(sorted((*environment, *(ENVIRONMENT if access else ())))),
        mounts=tuple(mounts),
        tmpfs=TMPFS,
        memory_bytes=_memory(settings, site) if for_apps else None,
        shm_bytes=_shm(settings, site) if for_apps else None,
        gpu=access,
        listens=tuple(dict.fromkeys((*listens, health(settings, part)))),
    )


def _launching(part: Component) -> tuple[str, ...]:
    """Return the command that starts Flower's program with a launcher for each app."""
    return "python", f"{flower_versions.LAUNCHER}/program.py", f"flower-{part}"


def _app_mounts(site: Site) -> tuple[Mount, ...]:
    environment = Mount(
        site.environment_file, flower_versions.ENVIRONMENT, digest=site.environment_digest
    )
    own = Mount(site.data_dir, flower_versions.DATA, propagation=site.data_propagation)
    return (
        *((environment,) if site.environment_file else ()),
        site.data_mount or own,
        Mount(site.launcher_dir, flower_versions.LAUNCHER),
        Mount(site.runs_dir, flower_versions.RUNS, read_only=False),
        Mount(site.caches_dir, flower_versions.CACHES, read_only=False),
    )


def _image(settings: Settings, part: Component, *, cuda: bool) -> str:
    if part is Component.SUPEREXEC and settings.framework:
        name = frameworks.variant(settings.framework.value, cuda=cuda)
        return frameworks.image(settings.version.release, name)
    return flower_versions.image(settings.image_prefix, part.value, settings.version)


def _memory(settings: Settings, site: Site) -> int | None:
    if settings.memory_limit is not None:
        return settings.memory_limit
    # In steps: a kernel update that counts a little differently must not replace containers.
    rest = (site.memory_bytes - KEPT_FREE_BYTES) // MEMORY_STEP_BYTES * MEMORY_STEP_BYTES
    return rest if rest >= LEAST_BYTES else None


def _shm(settings: Settings, site: Site) -> int | None:
    """Return the size of ``/dev/shm``: with Docker's 64 MiB, DataLoader workers end with SIGBUS."""
    if settings.shm_size is not None:
        return settings.shm_size
    limit = _memory(settings, site)
    if limit is not None:
        return limit // 2
    return site.memory_bytes // 2 // MEMORY_STEP_BYTES * MEMORY_STEP_BYTES or None


def has_superexec(settings: Settings) -> bool:
    """Return whether a SuperExec runs on the SuperLink's or SuperNode's VM."""
    return settings.isolation is Isolation.PROCESS and settings.appio_listen is None


def _file(site: Site, source: str, target: str) -> Mount:
    return Mount(source, target, digest=site.digests.get(source, ""))
