"""One turn of the loop: what it may look at, and what it found. The parts hand it on."""

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from typing import Protocol

from flower_agent.config.settings import Settings
from flower_agent.flower import container_spec
from flower_agent.host.gpu import Files
from flower_agent.host.machine import HostFacts
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError, Finding
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.model.state import State
from flower_agent.model.status import Condition, Link, Mark, Node
from flower_agent.onegate.client import OneGate
from flower_agent.reconcile.exit_analysis import Wait
from flower_agent.runs.app_directories import AppHost
from flower_agent.tls.certificates import format_fingerprint
from flower_agent.tls.store import Keyring
from flower_agent.tls.trust import CertificateSpec


@dataclasses.dataclass(slots=True, kw_only=True)
class Turn:
    """The state of the world at one moment, and a notebook beside it."""

    settings: Settings
    variables: Mapping[str, str]
    """The context, for what is no setting: the MACs and addresses of its NICs."""

    host: HostFacts
    keyring: Keyring
    client: OneGate | None
    now: datetime.datetime
    monotonic: float

    record: State
    """May be replaced; the agent saves it."""

    gpu: Files = dataclasses.field(default_factory=Files)
    """The VM's NVIDIA GPUs."""

    renew: bool = False
    """The operator asked for a new certificate."""

    renewed: bool = False
    """It was made, or there is none to make here."""

    data_propagation: str = "rprivate"
    """How the data directory is mounted: `mounts.follows`."""

    running: bool = False
    """The container that others attach to lives."""

    fleet_host: str = "127.0.0.1"
    """Where a SuperLink's Fleet API listens; set by its `prepare`."""

    app_image: str = ""
    """In which apps run, where it is not the image of the role; set by the turn."""

    app_short: bool = False
    """The context's app lacks something in that image, as far as is known; set by the turn."""

    dry: bool = False
    """Nothing may be changed: `plan` asks."""

    node_auth: bool = False
    """SuperLink: SuperNodes need keys; set by its `prepare`."""

    wait: Wait | None = None
    """SuperNode: that its SuperLink turns it away, again and again."""

    awaited: str = ""
    """SuperNode: what stands in its status while its key is not known; set by its `prepare`."""

    next_s: float = float("inf")
    """Seconds until the role wants another turn."""

    phase: Phase = Phase.DOCKER
    facts: dict[str, Condition] = dataclasses.field(default_factory=dict)
    warnings: list[Finding] = dataclasses.field(default_factory=list)
    told: dict[str, str] = dataclasses.field(default_factory=dict)
    """Attributes for OneGate beside those of every role."""

    superlink: Link | None = None
    supernodes: tuple[Node, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()

    ca_fingerprint: str | None = None
    """Of the CA that nodes trust, or that this node trusts."""

    version_told: str = ""
    """The Flower version that other VMs may count on, where it is not that of the settings."""

    opening: Address | None = None
    """Where the first container opens its port when it has loaded; set while that is awaited."""

    hung: bool = False
    """The first container's process lives but will never work again: it wants a restart."""

    @property
    def cuda(self) -> bool:
        """Whether apps here get the CUDA variant of their framework."""
        return container_spec.wants_cuda(self.settings, devices=bool(self.gpu.devices))

    def trusts(self, fingerprint: str) -> None:
        """Write down the CA, whole, so that two VMs can be compared."""
        self.ca_fingerprint = fingerprint
        shown = format_fingerprint(fingerprint)
        half = len(shown) // 2
        self.note("ca", Mark.OK, f"{shown[: half + 1]} {shown[half + 1 :]}")  # two lines of text

    def note(self, name: str, mark: Mark, detail: str) -> None:
        """Write one line of the status."""
        self.facts[name] = Condition(name, mark, detail)

    def unmet(self, error: AgentError) -> Unmet:
        """Return what `error` means in this phase."""
        waits = error.finding.code in ("enrol.waiting", "enrol.mismatch")
        phase = Phase.ENROL if waits else self.phase
        return Unmet(phase, self._located(error.finding), fatal=not error.retryable)

    def _located(self, found: Finding) -> Finding:
        """Return a finding about a file with the VM that has it: OneGate shows it to others."""
        if not found.code.startswith("state.") or self.record.vmid is None:
            return found
        message = f"VM {self.record.vmid}: {found.message}"
        return dataclasses.replace(found, message=message)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What a role needs before its containers can be named."""

    trust: CertificateSpec
    appio: CertificateSpec | None = None
    """SuperNode: the certificates of the AppIo that it offers."""

    loopback: CertificateSpec | None = None
    """SuperLink behind HAProxy: the certificates that it shows there."""

    site: Mapping[str, object]
    """Fields of `roles.Site` that this role knows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """The container that others attach to, while its process lives."""

    started_at: datetime.datetime

    read_log: Callable[[datetime.datetime], str]
    """Gives its output since a moment."""

    image: str = ""
    """By which reference it was made."""

    apps: AppHost | None = None
    """The container that runs apps, where one does on this VM."""


class RoleController(Protocol):
    """What a role does beside its containers."""

    def prepare(self, turn: Turn) -> Preparation:
        """Return what the role needs. Raises AgentError while it cannot be known."""

    def may_start(self, turn: Turn) -> None:
        """Raise AgentError while a start of the first container would be in vain."""

    def check(self, turn: Turn, running: Running) -> None:
        """Raise AgentError for the first thing that does not work."""
