"""The program of flower-state.service: it mounts the disk of FLOWER_STATE_DISK before the agent.

It runs as root without walls, so of the context it takes FLOWER_ROLE and FLOWER_STATE_DISK only,
and of the disks `host.state_disk` decides. The agent reads what it leaves in
``/run/flower-agent-state``, which is gone with the boot.
"""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping

from flower_agent import files
from flower_agent.agent.state_mount import read_result
from flower_agent.config import names, sources
from flower_agent.config.state_disk import DiskName, StateDisk, parse_state_disk
from flower_agent.config.types import Role
from flower_agent.host import block_devices, machine, state_disk
from flower_agent.host.state_disk import (
    Disk,
    DiskAction,
    DiskDecision,
    DiskOutcome,
    DiskResult,
    DisksSeen,
)
from flower_agent.model.errors import AgentError
from flower_agent.paths import Paths

TRY_AGAIN = 75
"""EX_TEMPFAIL: the unit runs it again."""

MAX_BYTES = 1 << 20
MOST_LOOKS = 20

SERVERS = frozenset({"server", Role.SUPERLINK.value})


def main(paths: Paths | None = None) -> int:
    """Do what the context wants; return 75 while a wanted disk is not mounted."""
    os.umask(0o077)
    paths = paths or Paths(pathlib.Path("/"))
    result = None
    # The path unit does not see a change while this runs.
    for _ in range(MOST_LOOKS):
        stamp = sources.stamp(paths)
        result = apply(paths)
        if sources.stamp(paths) == stamp:
            break
    if result is None or result.outcome in (DiskOutcome.OWN, DiskOutcome.MOUNTED):
        return 0
    print(f"{state_disk.CODES[result.outcome]}: {result.message}", file=sys.stderr)
    return TRY_AGAIN


def apply(
    paths: Paths, observe: Callable[[], tuple[Disk, ...]] = block_devices.observe_disks
) -> DiskResult | None:
    """Look once, act, and leave the result; None if this VM is no SuperLink as far as is known."""
    context = _superlink_context(paths)
    if context is None:
        return None
    text, wanted = context
    if text and wanted is None:
        return None  # the agent says what is wrong with it
    before = read_result(paths)
    try:
        seen = _look(paths, wanted, before, observe)
        decision = state_disk.decide(wanted, seen)
        result = _act(paths, wanted, seen, decision)
    except AgentError as error:
        found = error.finding
        result = DiskResult(
            outcome=DiskOutcome.FAILED, wanted=text, message=found.message, hint=found.hint
        )
    if result != before:
        files.directory(paths.state_disk.parent, 0o755)
        files.write_atomic(paths.state_disk, state_disk.dump_result(result), 0o644, durable=False)
    return result


def _superlink_context(paths: Paths) -> tuple[str, StateDisk | None] | None:
    """Return FLOWER_STATE_DISK as text and parsed; None where this VM is no SuperLink."""
    read = sources.read(paths)
    if read.variables is None:
        return None
    role = _value("FLOWER_ROLE", read.variables, read.config)
    if role is None or role.lower() not in SERVERS:
        return None
    text = _value("FLOWER_STATE_DISK", read.variables, read.config)
    if text is None:
        return None
    try:
        return text, parse_state_disk(text) if text else None
    except ValueError:
        return text, None


def _value(name: str, context: Mapping[str, str], config: Mapping[str, str]) -> str | None:
    """Return a value, empty where it is not set, None where it is set twice."""
    found = names.look_up(name, context, config)
    if found is None:
        return ""
    return found.value if isinstance(found, names.SetValue) else None


def _look(
    paths: Paths,
    wanted: StateDisk | None,
    before: DiskResult | None,
    observe: Callable[[], tuple[Disk, ...]],
) -> DisksSeen:
    """Return what is there; without a wanted disk no device is touched."""
    named = wanted.name if wanted and wanted.kind is DiskName.DEVICE else ""
    return DisksSeen(
        disks=observe() if wanted else (),
        named=block_devices.resolve(named) if named else "",
        mount=state_disk.top_mount(machine.mountinfo(), str(paths.state)),
        before=before,
        serving=before is None and _serves(paths),
    )


def _serves(paths: Paths) -> bool:
    """Return whether the agent's status shows the containers of a SuperLink.

    An upgrade of the package may bring this program to a VM that runs.
    """
    try:
        document = json.loads(files.read(paths.status, MAX_BYTES) or b"{}")
    except (AgentError, ValueError, RecursionError):
        return False
    if not isinstance(document, dict):
        return False
    return document.get("role") == Role.SUPERLINK.value and bool(document.get("containers"))


def _act(
    paths: Paths, wanted: StateDisk | None, seen: DisksSeen, decision: DiskDecision
) -> DiskResult:
    """Do what was decided. Raises AgentError ``state.disk_failed``."""
    text, disk = wanted.text if wanted else "", decision.disk
    if decision.action is DiskAction.OWN:
        return seen.before or DiskResult(outcome=DiskOutcome.OWN)
    if decision.action is DiskAction.KEEP and disk is None and seen.before is not None:
        return seen.before
    if disk is None:
        missing = decision.action is DiskAction.WAIT
        return DiskResult(
            outcome=DiskOutcome.MISSING if missing else DiskOutcome.REFUSED,
            wanted=text,
            message=decision.message,
            hint=decision.hint,
        )
    beneath = False
    if decision.action is not DiskAction.KEEP:
        files.directory(paths.state, 0o755)
        beneath = (paths.tls / "ca/ca.pem").exists()
        if decision.action is DiskAction.FORMAT:
            disk = _format(paths, disk)
        block_devices.mount_disk(disk.uuid, paths.state)
        paths.state.chmod(0o755)
        print(f"{disk.path} (UUID {disk.uuid}) is mounted at {paths.state}", file=sys.stderr)
    mount = state_disk.top_mount(machine.mountinfo(), str(paths.state))
    return DiskResult(
        outcome=DiskOutcome.MOUNTED,
        wanted=text,
        device=disk.path,
        uuid=disk.uuid,
        number=mount.number if mount else "",
        beneath=beneath,
    )


def _format(paths: Paths, disk: Disk) -> Disk:
    """Return an empty disk with its new file system."""
    print(f"{disk.path} is empty: it gets a file system", file=sys.stderr)
    folder = paths.state_disk.parent
    files.directory(folder, 0o755)
    block_devices.format_disk(disk.path, state_disk.LABEL, folder)
    made = block_devices.probe_file_system(disk.path)
    return dataclasses.replace(disk, label=made.get("LABEL", ""), uuid=made.get("UUID", ""))
