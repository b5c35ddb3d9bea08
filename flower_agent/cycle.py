"""One cycle of the loop: what was observed, what is remembered, and what is reported.

The loop makes a frozen `Observation` and hands one `Cycle` through the stages. Each stage adds what
it found to the `Report`; the status and OneGate's attributes are rendered from it at the end.
"""

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from typing import Protocol

from flower_agent.config.settings import Settings
from flower_agent.flower import container_spec
from flower_agent.flower.container_spec import RoleSpec
from flower_agent.host.gpu import Files
from flower_agent.host.machine import HostFacts
from flower_agent.model.address import Address
from flower_agent.model.errors import (
    AgentError,
    Finding,
    KeyMismatchError,
    KeyUnknownError,
)
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.model.published import Published
from flower_agent.model.record import Entry
from flower_agent.model.state import State
from flower_agent.model.status import Condition, Link, Mark, Node
from flower_agent.onegate.client import OneGate
from flower_agent.reconcile.exit_analysis import Wait
from flower_agent.tls.certificates import format_fingerprint
from flower_agent.tls.store import Keyring
from flower_agent.tls.trust import CertificateSpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the agent knew when the cycle began."""

    settings: Settings
    variables: Mapping[str, str]
    """The context, for values that are not settings: MACs and addresses of its NICs."""

    host: HostFacts
    keyring: Keyring
    client: OneGate | None
    """None on a VM whose context has no token."""

    now: datetime.datetime
    monotonic: float

    gpu: Files = dataclasses.field(default_factory=Files)
    """The VM's NVIDIA GPUs."""

    renew: bool = False
    """The operator asked for a new certificate."""

    data_propagation: str = "rprivate"
    """How the data directory is mounted: `machine.follows`."""

    state_outlives_vm: bool = False
    """The state is on the disk of FLOWER_STATE_DISK, which the next VM takes over."""

    dry: bool = False
    """Nothing may be changed: `plan` asks."""

    @property
    def cuda(self) -> bool:
        """Whether apps here get the CUDA variant of their framework."""
        return container_spec.wants_cuda(self.settings, devices=bool(self.gpu.devices))


@dataclasses.dataclass(slots=True)
class Report:
    """What one cycle found, for the status and OneGate; each stage adds to it."""

    conditions: dict[str, Condition] = dataclasses.field(default_factory=dict)
    """By name, in the order in which they were first set."""

    warnings: list[Finding] = dataclasses.field(default_factory=list)
    published: Published = dataclasses.field(default_factory=Published)

    superlink: Link | None = None
    supernodes: tuple[Node, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    """What an operator may want to run, each with its purpose."""

    ca_fingerprint: str | None = None
    """SHA-256 of the CA that nodes trust, or that this node trusts."""

    version: str = ""
    """The Flower version that other VMs may count on, where it is not that of the settings."""

    def set_condition(self, name: str, mark: Mark, detail: str) -> None:
        """Set one line of the status."""
        self.conditions[name] = Condition(name, mark, detail)

    def warn(self, *findings: Finding) -> None:
        """Add warnings to the status."""
        self.warnings.extend(findings)

    def trusts(self, fingerprint: str) -> None:
        """Write down the CA, whole, so that two VMs can be compared."""
        self.ca_fingerprint = fingerprint
        shown = format_fingerprint(fingerprint)
        half = len(shown) // 2
        # Two lines of the status.
        self.set_condition("ca", Mark.OK, f"{shown[: half + 1]} {shown[half + 1 :]}")


@dataclasses.dataclass(slots=True, kw_only=True)
class Cycle:
    """One cycle on its way through the stages."""

    seen: Observation
    state: State
    """What is remembered; replaced whole, and saved by the loop."""

    report: Report = dataclasses.field(default_factory=Report)

    phase: Phase = Phase.DOCKER
    """The stage that the cycle has reached."""

    running: bool = False
    """The container that others attach to lives."""

    renewed: bool = False
    """The certificate that the operator asked for was made, or there is none to make here."""

    app_image: str = ""
    """The image in which apps run; empty: the image of the role."""

    app_lacks: bool = False
    """The context's app lacks something in that image, as far as is known."""

    app_image_due: bool = False
    """An image with what the app needs is on its way."""

    wait: Wait | None = None
    """SuperNode: its SuperLink refuses it, again and again."""

    awaited: str = ""
    """SuperNode: what the status says while the SuperLink does not know its key."""

    opening: Address | None = None
    """The first container's port, while the cycle waits for the program to load."""

    hung: bool = False
    """The first container's process lives but gave up: it needs a restart."""

    next_s: float = float("inf")
    """Seconds until somebody wants another cycle."""

    entries: list[Entry] = dataclasses.field(default_factory=list)
    """What the cycle did and the record keeps; the loop writes it."""

    def note(self, entry: Entry) -> None:
        """Add an entry to the record, after something was done or refused."""
        self.entries.append(entry)

    def look_again_in(self, seconds: float) -> None:
        """Ask for another cycle within so many seconds."""
        self.next_s = min(self.next_s, seconds)

    def unmet(self, error: AgentError) -> Unmet:
        """Return what `error` means in this phase."""
        keyless = isinstance(error, (KeyUnknownError, KeyMismatchError))
        phase = Phase.ENROL if keyless else self.phase
        return Unmet(phase, error.finding, fatal=not error.retryable)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What a role needs before its containers are known."""

    trust: CertificateSpec
    appio: CertificateSpec | None = None
    """SuperNode: the certificates of its AppIo for a SuperExec VM."""

    loopback: CertificateSpec | None = None
    """SuperLink behind HAProxy: the certificates that it shows there."""

    spec: RoleSpec


@dataclasses.dataclass(frozen=True, slots=True)
class AppHost:
    """The container in which apps run."""

    image: str
    started_at: datetime.datetime
    keeps: bool
    """What an app wrote is kept: ServerApps run there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """The first container, while its process lives."""

    started_at: datetime.datetime

    read_log: Callable[[datetime.datetime], str]
    """Returns its output since a time."""

    image: str = ""
    """The reference of its image."""

    apps: AppHost | None = None
    """The container that runs apps, if it is on this VM."""

    spec: RoleSpec = dataclasses.field(default_factory=RoleSpec)
    """What the role wanted of it in this cycle."""


class RoleController(Protocol):
    """The work of a role apart from its containers."""

    def prepare(self, cycle: Cycle) -> Preparation:
        """Return what the role needs. Raises AgentError while it cannot be known."""

    def may_start(self, cycle: Cycle) -> None:
        """Raise AgentError while a start of the first container would be in vain."""

    def check(self, cycle: Cycle, running: Running) -> None:
        """Raise AgentError for the first thing that does not work."""
