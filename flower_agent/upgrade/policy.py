"""Which Flower version runs while FLOWER_VERSION is another than the one that worked. Pure.

A SuperLink's database is migrated by the version that opens it and cannot go back (Alembic, from
1.26 on), so the SuperLink goes first, its nodes follow, and what failed is undone.
"""

import dataclasses

from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Version
from flower_agent.config.settings import Settings
from flower_agent.flower import container_spec
from flower_agent.model.errors import Finding, warning
from flower_agent.model.state import State


@dataclasses.dataclass(frozen=True, slots=True)
class Course:
    """What the containers of this cycle run."""

    version: Version

    before: Version | None = None
    """The version that worked, while `version` is new and has not worked yet."""

    finding: Finding | None = None
    """Why it is not the wanted one; a warning."""

    @property
    def told(self) -> str:
        """The version that other VMs may count on."""
        return str(self.before or self.version)


def for_superlink(wanted: Version, record: State) -> Course:
    """Return the course of a SuperLink: forward, unless that was tried and failed."""
    held = worked(record)
    if held is None or held.release == wanted.release:
        return Course(wanted)
    if wanted.release[:2] < held.release[:2]:
        message = f"Flower {held} runs on: its database cannot go back to {wanted}"
        return Course(held, finding=warning("version.downgrade", message))
    if record.refused and record.refused[0] == str(wanted):
        message = f"the upgrade to Flower {wanted} failed, {held} runs on: {record.refused[1]}"
        return Course(held, finding=warning("version.failed", message))
    return Course(wanted, before=held)


def for_supernode(wanted: Version, record: State, superlink: str | None) -> Course:
    """Return the course of a SuperNode: it changes when its SuperLink has.

    `superlink` is the version that the SuperLink publishes; empty if unknown, None
    before OneGate has answered.
    """
    held = worked(record)
    if held is None or held.release == wanted.release or superlink == "":
        return Course(wanted)
    if superlink is None:
        return Course(held)
    if same(superlink, wanted) or not same(superlink, held):
        return Course(wanted, before=held)
    message = (
        f"Flower {held} runs on as on the SuperLink; {wanted} follows after the SuperLink's upgrade"
    )
    return Course(held, finding=warning("version.follows", message))


def settings_for(version: Version, settings: Settings) -> Settings:
    """Return the settings of another version than the one for which they were written.

    From 1.40 on FLOWER_CONTROL_ADDRESS may repeat the Fleet API's address, as a consent of former
    days; an older version would listen there twice, and gets the default.
    """
    if not flower_versions.band(version).proxied:
        listens = container_spec.control_address(settings)
        settings = dataclasses.replace(settings, control_address=listens)
    return dataclasses.replace(settings, version=version)


def same(published: str, version: Version) -> bool:
    """Return whether two versions agree in major and minor."""
    return published.split(".")[:2] == [str(version.major), str(version.minor)]


def worked(record: State) -> Version | None:
    """Return the version that last worked here."""
    try:
        return flower_versions.parse_version(record.flower) if record.flower else None
    except ValueError:
        return None
