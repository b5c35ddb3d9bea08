"""A container as we want it and as Docker has it. Values only; Docker itself is `client`."""

import dataclasses
import datetime
import enum
import hashlib
import json
from typing import Any

from flower_agent.host import gpu as host_gpu
from flower_agent.host.gpu import GpuAccess
from flower_agent.model.address import Address

LABEL_NAME = "org.flower-agent.name"
"""The owner of a container: the agent touches only containers with its own value."""

LABEL_ROLE = "org.flower-agent.role"
LABEL_FINGERPRINT = "org.flower-agent.fingerprint"

FLOWER_UID = 49999
"""User and group of Flower's images."""

CPU_SHARES = 1024
"""Docker's default weight."""

CPU_SHARES_STARTING = 2
"""The weight of a SuperExec until the first container answers, so that it does not slow it."""

CPU_PERIOD_US = 100_000
CPU_QUOTA_STARTING_US = 20_000
"""What it may take of one core until then: cores that look apart share memory, caches and host."""


class Component(enum.StrEnum):
    """Which of Flower's long-running programs a container runs."""

    SUPERLINK = "superlink"
    SUPERNODE = "supernode"
    SUPEREXEC = "superexec"


@dataclasses.dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount, whose missing source is refused by Docker and never made; or a volume."""

    source: str
    """Absolute path on the VM; of a volume its name."""

    target: str
    """Absolute path in the container."""

    read_only: bool = True

    digest: str = ""
    """Hex SHA-256 of a file's content; a file that changed replaces the container."""

    propagation: str = "rprivate"

    volume: tuple[tuple[str, str], ...] = ()
    """Options of Docker's ``local`` driver for a volume; empty: a bind mount."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container as we want it. Every field that is compared reaches Docker."""

    name: str
    """Docker name; also the key that finds it again after a lost reply."""

    part: Component

    image: str
    """Reference with tag, such as ``flwr/superlink:1.25.0-py3.13-ubuntu24.04``."""

    command: tuple[str, ...]
    """Arguments behind the image's entry point."""

    entrypoint: tuple[str, ...] = ()
    """Program and first arguments in the place of the image's own; empty: the image's."""

    environment: tuple[tuple[str, str], ...] = ()
    """Names and values; never a secret, since ``docker inspect`` shows them."""

    mounts: tuple[Mount, ...] = ()

    tmpfs: tuple[tuple[str, str], ...] = ()
    """Path and mount options of each writable place beside the mounts."""

    hosts: tuple[tuple[str, str], ...] = ()
    """Names that mean an IP address inside, and that address."""

    memory_bytes: int | None = None

    shm_bytes: int | None = None
    """Size of ``/dev/shm``; None: Docker's own 64 MiB."""

    gpu: GpuAccess = GpuAccess.NONE

    listens: tuple[Address, ...] = dataclasses.field(default=(), compare=False)
    """Where its program listens, on the VM's own network; `command` says so too."""

    yields_cpu: bool = False
    """Starts with `CPU_SHARES_STARTING` and `CPU_QUOTA_STARTING_US`; a step frees it later."""

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of what reaches Docker. Differs from the label: the container is replaced.

        What has its default is left out, so that an agent which knows a field more replaces none.
        """
        return hashlib.sha256(json.dumps(_spec(self), sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """A container as Docker has it (``GET /containers/ID/json``)."""

    name: str

    container_id: str

    mine: bool
    """Carries this agent's name label."""

    fingerprint: str = ""
    """The label; empty where there is none."""

    image: str = ""

    status: str = "running"
    """Docker ``State.Status``: created, running, paused, restarting, removing, exited or dead."""

    exit_code: int | None = None

    oom_killed: bool = False

    error: str = ""
    """Docker ``State.Error``: why a start failed."""

    started_at: datetime.datetime | None = None

    finished_at: datetime.datetime | None = None

    cpu_shares: int = 0

    gpu: GpuAccess = GpuAccess.NONE
    """How it was given GPUs (Docker ``HostConfig.DeviceRequests``)."""

    @property
    def running(self) -> bool:
        """Return whether its process lives."""
        return self.status in ("running", "paused")


def inspected(row: dict[str, Any]) -> Existing:
    """Return the agent's container in an answer of ``GET /containers/ID/json``."""
    state, labels = row["State"], row["Config"].get("Labels") or {}
    return Existing(
        name=str(row["Name"]).lstrip("/"),
        container_id=str(row["Id"]),
        mine=True,
        fingerprint=labels.get(LABEL_FINGERPRINT, ""),
        image=str(row["Config"].get("Image", "")),
        status=str(state.get("Status", "")),
        exit_code=state.get("ExitCode"),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        started_at=_time(state.get("StartedAt")),
        finished_at=_time(state.get("FinishedAt")),
        cpu_shares=int(row["HostConfig"].get("CpuShares") or 0),
        gpu=host_gpu.access(row["HostConfig"].get("DeviceRequests")),
    )


def _spec(value: Any) -> Any:
    """Return a value of this module as JSON takes it, without what is not compared or default."""
    if isinstance(value, Container | Mount):
        fields = [f for f in dataclasses.fields(value) if f.compare]
        found = {f.name: (getattr(value, f.name), f.default) for f in fields}
        return {name: _spec(now) for name, (now, default) in found.items() if now != default}
    return [_spec(each) for each in value] if isinstance(value, tuple) else value


def _time(text: str | None) -> datetime.datetime | None:
    """Parse Docker's RFC 3339 with nanoseconds; its zero time means never."""
    if not text or text.startswith("0001-"):
        return None
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.datetime.fromisoformat(f"{whole}.{(fraction + '000000')[:6]}+00:00")
