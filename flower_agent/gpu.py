"""Whether an NVIDIA GPU is wanted and can be handed to a container. Pure."""

import dataclasses
from collections.abc import Collection

from .errors import Finding
from .parsers import GpuMode

RUNTIME = "nvidia"
"""Name under which the NVIDIA container toolkit registers itself with Docker."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gpu:
    """What was found, and what is done with it."""

    used: bool
    detail: str
    finding: Finding | None = None
    """Why it cannot be used; an error only where GPU_ENABLED=YES."""


def judge(
    mode: GpuMode, devices: Collection[str], driver: str | None, runtimes: Collection[str]
) -> Gpu:
    """Return whether to use a GPU.

    `devices` and `driver` are `host.HostFacts`'; `runtimes` are Docker's and need not be known
    for NO.
    """
    count = len(devices)
    shown = f"{count} NVIDIA GPU{'s' if count != 1 else ''}" if count else "no NVIDIA GPU"
    if mode is GpuMode.NO:
        return Gpu(used=False, detail=f"not used (GPU_ENABLED=NO); {shown} found")
    if not count:
        return Gpu(
            used=False, detail=shown, finding=Finding("gpu.none", "the VM has no NVIDIA GPU")
        )
    if driver is None:
        reason = f"{shown}, but no NVIDIA driver is loaded"
        return Gpu(used=False, detail=reason, finding=Finding("gpu.no_driver", reason))
    if RUNTIME not in runtimes:
        reason = f"{shown}, but Docker knows no runtime named {RUNTIME}"
        return Gpu(used=False, detail=reason, finding=Finding("gpu.no_toolkit", reason))
    return Gpu(used=True, detail=f"{shown}, driver {driver}")
