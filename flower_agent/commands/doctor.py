"""``flower-agent doctor``: live looks at all that the agent depends on; changes nothing.

What is seen becomes verdicts in `doctor_results`. Each look has a time limit, a resolver its own.
"""

import contextlib
import ctypes
import dataclasses
import datetime
import json
import os
import pathlib
import re
import socket
import struct
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

from flower_agent import log
from flower_agent.agent import image_resolver
from flower_agent.commands import doctor_checks, doctor_results, status
from flower_agent.commands.doctor_checks import Inspector
from flower_agent.commands.doctor_results import Check, Room, found, mild, skipped, well
from flower_agent.config import sources
from flower_agent.config.settings import Settings
from flower_agent.config.sources import Inputs
from flower_agent.config.types import GpuMode, Role
from flower_agent.docker.client import socket_url
from flower_agent.flower import container_spec, frameworks
from flower_agent.host import gpu, machine, network, nvidia
from flower_agent.model.address import is_ip
from flower_agent.model.errors import (
    AgentError,
    Finding,
    ImageDeniedError,
    NoServiceError,
    PortTakenError,
)
from flower_agent.onegate import discovery, superlink_search
from flower_agent.onegate.client import OneGate
from flower_agent.paths import Paths

TIMEOUT_S = 5.0
SYNCHRONIZED_US = 16_000_000
"""The kernel's estimate of its clock's error above which nobody sets it (as timedatectl)."""

DOCKER_HUB = "registry-1.docker.io"


@dataclasses.dataclass(slots=True)
class Patient:
    """The facts that the checks share."""

    paths: Paths
    engine: Inspector
    read: Inputs
    settings: Settings | None
    client: OneGate | None
    images_here: bool | None = None
    """None: Docker does not say."""

    docker_root: str = ""
    registry_answered: bool = False
    """Docker got an answer of the registry, or asks it by a proxy: its name is no matter here."""

    skew_s: float | None = None


def run(paths: Paths, name: str, *, as_json: bool) -> int:
    """Print what was looked at; return 1 when something is wrong."""
    log.configure("CRITICAL", tty=False)
    checks = list(examine(paths, name))
    if as_json:
        document = doctor_results.document(checks, datetime.datetime.now(datetime.UTC))
        print(json.dumps(document, indent=1))
    else:
        print(doctor_results.render(checks, color=status.colored(sys.stdout, os.environ)))
    return doctor_results.exit_code(checks)


def examine(paths: Paths, name: str) -> Iterator[Check]:
    """Yield every check, in the order of a start."""
    read = sources.read(paths)
    settings, findings = sources.judge(read)
    access = read.access
    client = OneGate(access, connect_s=TIMEOUT_S, read_s=TIMEOUT_S) if access else None
    patient = Patient(paths, Inspector(name or "default", url=socket_url()), read, settings, client)
    with contextlib.ExitStack() as ends:
        ends.callback(patient.engine.close)
        if client is not None:
            ends.callback(client.close)
        yield _agent(paths)
        yield from _context(read, settings, findings)
        yield from _docker(patient)
        yield from _disks(patient)
        yield doctor_results.memory(*_memory())
        yield _cpu(settings)
        onegate = list(_onegate(patient))
        yield doctor_results.clock(patient.skew_s, synchronized=_synchronized())
        yield from _images(patient)
        yield from _mtus(read)
        yield from _names(patient)
        yield from onegate
        yield from _gpu(patient)
        if settings is not None:
            now = datetime.datetime.now(datetime.UTC)
            yield from doctor_checks.examine_key_files(paths, settings, read.vmid, now)
            yield from doctor_checks.examine(paths, read, settings, client)


def _agent(paths: Paths) -> Check:
    try:
        document, running = status.look(paths)
    except AgentError as error:
        return found("agent", error.finding)
    starts = not running and status.being_started(paths)
    now = datetime.datetime.now(datetime.UTC)
    check = doctor_results.agent(document, running=running, now=now, being_started=starts)
    who = _holder(check)
    return dataclasses.replace(check, detail=f"{check.detail}; it is {who}") if who else check


def _holder(check: Check) -> str:
    """Return who has the port that the agent misses: its unit may not see other processes."""
    if check.finding is None or not check.finding.is_a(PortTakenError):
        return ""
    port = re.search(r":([0-9]{1,5})\b", check.finding.message)
    return machine.listener(int(port[1])) if port else ""


def _context(
    read: Inputs, settings: Settings | None, findings: tuple[Finding, ...]
) -> Iterator[Check]:
    yield from (found("context", finding) for finding in findings)
    if settings is None:
        return
    if not findings:
        yield well("context", f"VM {read.vmid or 'without an id'}, a {settings.role}")


def _docker(patient: Patient) -> Iterator[Check]:
    try:
        about = patient.engine.about()
    except AgentError as error:
        yield found("docker", error.finding)
        return
    patient.docker_root = about.root
    patient.registry_answered = bool(about.proxy)
    yield doctor_results.docker(about.version, live_restore=about.live_restore, proxy=about.proxy)
    if patient.settings is not None:
        wanted = _wanted(patient.settings)
        with contextlib.suppress(AgentError):
            patient.images_here = all(patient.engine.image(name) for name in wanted)


def _wanted(settings: Settings) -> tuple[str, ...]:
    cuda = container_spec.wants_cuda(settings, devices=bool(nvidia.look().devices))
    return container_spec.images(settings, cuda=cuda)


def _disks(patient: Patient) -> Iterator[Check]:
    fetch = doctor_results.DOCKER_ROOM if patient.images_here else doctor_results.IMAGES_ROOM
    wanted = {str(patient.paths.state): doctor_results.STATE_ROOM, str(patient.paths.runtime): 1}
    if patient.docker_root:
        wanted[patient.docker_root] = fetch
    for path, room in wanted.items():
        seen = _room(pathlib.Path(path))
        yield doctor_results.disk(seen, room) if seen else skipped("disk", f"{path} cannot be seen")


def _room(path: pathlib.Path) -> Room | None:
    """Look at the file system that has `path`, or will have it."""
    there = next((p for p in (path, *path.parents) if p.exists()), pathlib.Path("/"))
    try:
        seen = os.statvfs(there)
    except OSError:
        return None
    free = 0 if seen.f_flag & os.ST_RDONLY else seen.f_bavail * seen.f_frsize
    inodes = seen.f_favail if seen.f_files else None
    return Room(str(path), free, seen.f_blocks * seen.f_frsize, inodes)


def _memory() -> tuple[int, int]:
    text = pathlib.Path("/proc/meminfo").read_text("utf-8")
    sizes = {
        name: int(size) * 1024
        for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)
    }
    return sizes["MemAvailable"], sizes["MemTotal"]


def _cpu(settings: Settings | None) -> Check:
    name = settings.framework.value if settings and settings.framework else ""
    for finding in machine.findings(machine.cpu_flags(), (name,)):
        return mild("cpu", finding)
    return well("cpu", "has what the images want")


def _synchronized() -> bool | None:
    """Return whether the kernel's clock is set by somebody (adjtimex(2)); None: not to be known."""
    timex = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return None
    (error_us,) = struct.unpack_from("l", timex, 24)
    return bool(error_us < SYNCHRONIZED_US)


def _images(patient: Patient) -> Iterator[Check]:
    """Let Docker ask the registry; not needed if all images are on the VM."""
    if patient.settings is None or patient.images_here is None:
        yield skipped("registry", "not checked without settings and Docker")
        return
    wanted = _wanted(patient.settings)
    absent = [name for name in wanted if patient.engine.image(name) is None]
    made = [name for name in absent if name.startswith(frameworks.LOCAL)]
    if made:
        wanted = (*wanted, container_spec.parent_image(patient.settings))
    pulled = [name for name in absent if name not in made]
    shown = [f"to be pulled: {', '.join(pulled)}"] if pulled else []
    shown += [f"to be made: {', '.join(made)}"] if made else []
    yield well("image", "; ".join(shown) or "all are here")
    wanted = tuple(name for name in wanted if not name.startswith(frameworks.LOCAL))
    for name in wanted:
        try:
            patient.engine.ask_registry(name, image_resolver.registry(patient.settings))
        except AgentError as error:
            denied = isinstance(error, ImageDeniedError)
            patient.registry_answered |= denied
            if absent or denied:
                yield (found if name in absent else mild)("registry", error.finding)
            else:
                yield skipped("registry", f"not needed; {error.finding.message}")
            return
    patient.registry_answered = True
    yield well("registry", f"gives {', '.join(wanted)}")


def _mtus(read: Inputs) -> Iterator[Check]:
    nics = machine.observe().interfaces
    told = network.mtus(nics, read.variables or {})
    yield from doctor_results.mtus([nic for nic in nics if nic.fleet], told)


def _names(patient: Patient) -> Iterator[Check]:
    names = list(_hosts(patient))
    for name in dict.fromkeys(names):
        try:
            rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError as error:
            message = f"the name {name} cannot be resolved ({error.strerror})"
            yield found("dns", Finding("endpoint.unknown_host", message))
        else:
            addresses = sorted({str(row[4][0]) for row in rows})
            yield well("dns", f"{name} is {', '.join(addresses)}")
    if not names:
        yield skipped("dns", "no name to resolve")


def _hosts(patient: Patient) -> Iterator[str]:
    """Yield the names that this VM must resolve."""
    if patient.client is not None:
        with contextlib.suppress(ValueError):
            name = urlsplit(patient.client.access.endpoint).hostname
            if name and not is_ip(name):
                yield name
    settings = patient.settings
    if settings is None:
        return
    fixed = superlink_search.fixed(settings)
    if fixed and not is_ip(fixed.endpoint.host):
        yield fixed.endpoint.host
    if settings.appio_address and not is_ip(settings.appio_address.host):
        yield settings.appio_address.host
    first = settings.image_prefix.partition("/")[0]
    registry = first.partition(":")[0] if "." in first or ":" in first else DOCKER_HUB
    asks = patient.images_here is False and not patient.registry_answered
    if asks and not is_ip(registry):
        yield registry


def _onegate(patient: Patient) -> Iterator[Check]:
    client = patient.client
    if client is None:
        yield skipped("onegate", "the context has no token, VMID or ONEGATE_ENDPOINT")
        return
    try:
        service = discovery.parse_service(client.service())
    except AgentError as error:
        if not isinstance(error, NoServiceError):
            yield found("onegate", error.finding)
            return
        patient.skew_s = client.skew_s
        own = patient.settings
        needs = own and own.role is Role.SUPERNODE and superlink_search.fixed(own) is None
        yield found("onegate", error.finding) if needs else well("onegate", "in no service")
        return
    patient.skew_s = client.skew_s
    yield well("onegate", f"service {service.service_id} has {len(service.members)} VMs")


def _gpu(patient: Patient) -> Iterator[Check]:
    settings = patient.settings
    if settings is None or settings.role is Role.SUPERLINK or settings.gpu is GpuMode.NO:
        return
    try:
        offers = patient.engine.offers()
    except AgentError as error:
        yield found("gpu", error.finding)
        return
    seen = gpu.judge(settings.gpu, nvidia.look(), nvidia.ask(timeout_s=TIMEOUT_S), offers)
    if seen.finding is None:
        yield well("gpu", seen.detail)
    else:
        yield (found if settings.gpu is GpuMode.YES else mild)("gpu", seen.finding)
