"""Whether an NVIDIA GPU is wanted and can be handed to a container. Pure."""

import dataclasses
from collections.abc import Collection

from .errors import Finding
from .host import HostFacts
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


def judge(mode: GpuMode, host: HostFacts, runtimes: Collection[str]) -> Gpu:
    """Return whether to use a GPU. `runtimes` are Docker's; they need not be known for NO."""
    count = len(host.nvidia_devices)
    shown = f"{count} NVIDIA GPU{'s' if count != 1 else ''}" if count else "no NVIDIA GPU"
    if mode is GpuMode.NO:
        return Gpu(used=False, detail=f"not used (GPU_ENABLED=NO); {shown} found")
    if not count:
        return Gpu(
            used=False, detail=shown, finding=Finding("gpu.none", "the VM has no NVIDIA GPU")
        )
    if host.nvidia_driver is None:
        reason = f"{shown}, but no NVIDIA driver is loaded"
        return Gpu(used=False, detail=reason, finding=Finding("gpu.no_driver", reason))
    if RUNTIME not in runtimes:
        reason = f"{shown}, but Docker knows no runtime named {RUNTIME}"
        return Gpu(used=False, detail=reason, finding=Finding("gpu.no_toolkit", reason))
    return Gpu(used=True, detail=f"{shown}, driver {host.nvidia_driver}")
