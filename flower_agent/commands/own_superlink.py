"""The SuperLink of this VM, as commands reach it: its settings and its Control API."""

import contextlib
import dataclasses
from collections.abc import Iterator

from flower_agent.config import sources
from flower_agent.config.settings import Settings
from flower_agent.config.sources import OneGateAccess
from flower_agent.config.types import Role
from flower_agent.flower import container_spec
from flower_agent.flower.control_client import Control
from flower_agent.host import machine
from flower_agent.model import errors
from flower_agent.model.errors import AgentError
from flower_agent.paths import Paths
from flower_agent.roles import superlink
from flower_agent.tls.store import Keyring


@dataclasses.dataclass(frozen=True, slots=True)
class OwnSuperLink:
    """A SuperLink and what its context says."""

    settings: Settings
    api: Control
    access: OneGateAccess | None = None
    """OneGate, where the context names one."""


@contextlib.contextmanager
def reach(paths: Paths) -> Iterator[OwnSuperLink]:
    """Give this VM's SuperLink.

    Raises AgentError ``setting.conflict`` on a VM that is none, or what is wrong with its context.
    """
    read = sources.read(paths)
    settings, findings = sources.judge(read)
    if settings is None:
        first = findings[0]
        raise errors.of(first)
    if settings.role is not Role.SUPERLINK:
        hint = "Run the command on the SuperLink's VM."
        raise AgentError("setting.conflict", f"this VM is a {settings.role}", hint)
    own = superlink.own_address(settings.address, machine.observe(), read.variables or {})
    public = superlink.published(settings, own)
    name, ca_pem = superlink.control_trust(settings, public, Keyring(paths.tls))
    with contextlib.closing(
        superlink.connect(container_spec.endpoints(settings, own), name, ca_pem)
    ) as api:
        yield OwnSuperLink(settings, api, read.access)
