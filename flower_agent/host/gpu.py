"""Whether an NVIDIA GPU is wanted, can be given to a container, and works inside it. Pure.

nvidia-smi works where CUDA does not (without the nvidia-uvm module, with MIG and no instance), and
Flower's images have Python. CUDA's functions and codes: cuda.h, ``CUresult``.

`judge` decides from one look at the machine (`nvidia`) and from what Docker offers. The texts are
those of nvidia-smi (nvidia-smi(1)), of dockerd and of libnvidia-container.
"""

import csv
import dataclasses
import enum
import re
from collections.abc import Iterator
from typing import Any

from flower_agent.config.types import GpuMode
from flower_agent.model.errors import Finding, warning

RUNTIME = "nvidia"
"""Name under which the NVIDIA container toolkit registers itself with Docker."""

CDI_ALL = "nvidia.com/gpu=all"
"""CDI's name for every GPU, as ``nvidia-ctk cdi generate`` writes it."""

QUERY = ("--query-gpu=name,memory.total,mig.mode.current", "--format=csv,noheader,nounits")
LIST = ("-L",)

ENVIRONMENT = (("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),)
"""What the toolkit puts into a container: CUDA, and nvidia-smi with NVML."""

_LISTED = re.compile(r"GPU \d+: (?P<name>.+?) \(UUID: \S+\)")
INFOROM = 14
"""nvidia-smi's exit code where a GPU's infoROM is damaged: a warning, its rows are right."""

USABLE = (0, INFOROM)
_VERSION = re.compile(r"\d+(\.\d+)+")
_INSTANCE = re.compile(r"\s+MIG (?P<profile>\S+)\s+Device\s+\d+:")


class GpuAccess(enum.StrEnum):
    """How Docker hands GPUs to a container."""

    NONE = ""
    TOOLKIT = "toolkit"
    """A device request that the NVIDIA container toolkit's hook fulfils, like ``--gpus all``."""

    CDI = "cdi"
    """By the Container Device Interface's name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """An NVIDIA GPU on the PCI bus."""

    slot: str
    """PCI address, ``0000:01:00.0``."""

    bound_to: str = ""
    """Kernel driver that has it: nvidia, nouveau, vfio-pci; empty: none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """How a program ended: its status, and what it wrote to both outputs."""

    code: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What sysfs, procfs and the file system say; cheap to read."""

    devices: tuple[Device, ...] = ()

    driver: str | None = None
    """Version of the loaded kernel module (``/proc/driver/nvidia/version``)."""

    models: tuple[str, ...] = ()
    """Names of the GPUs that the driver has (``/proc/driver/nvidia/gpus``)."""

    library: str | None = None
    """Version of libnvidia-ml, from the name of the file that it links to."""

    toolkit: bool = False
    """The NVIDIA container toolkit's programs are installed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What nvidia-smi answered; None: it is not there, or it hung."""

    query: Answer | None = None
    """To `QUERY`."""

    listing: Answer | None = None
    """To `LIST`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """What Docker can hand over (``GET /info``)."""

    runtimes: frozenset[str] = frozenset()

    cdi: frozenset[str] = frozenset()
    """``DiscoveredDevices`` of source cdi; Docker lists them from 28.2 on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """One GPU."""

    name: str
    memory_mib: int | None = None

    mig: tuple[str, ...] | None = None
    """Profiles of its MIG instances; None: MIG is off or not a thing of it."""

    def __str__(self) -> str:
        memory = f" {self.memory_mib} MiB" if self.memory_mib is not None else ""
        mig = "" if self.mig is None else f" (MIG: {', '.join(self.mig) or 'no instance'})"
        return f"{self.name}{memory}{mig}"


@dataclasses.dataclass(frozen=True, slots=True)
class Gpu:
    """What was found, and what is done with it."""

    access: GpuAccess
    detail: str
    finding: Finding | None = None
    """Why it cannot be used; an error only where GPU_ENABLED=YES."""


def judge(
    mode: GpuMode, files: Files, asked: Asked, offers: Offers, held: GpuAccess = GpuAccess.NONE
) -> Gpu:
    """Return whether and how a GPU is used; for NO only `files.devices` must be known.

    A container that runs with a GPU, `held`, keeps it as it is: CUDA works on in what runs when a
    driver's files are replaced on the VM, and a new start would end what it computes.
    """
    count = len(files.devices)
    shown = f"{count} NVIDIA GPU{'s' if count != 1 else ''}" if count else "no NVIDIA GPU"
    if mode is GpuMode.NO:
        return Gpu(GpuAccess.NONE, f"not used (GPU_ENABLED=NO); {shown} found")
    if not count:
        return Gpu(GpuAccess.NONE, shown, Finding("gpu.none", "the VM has no NVIDIA GPU"))
    found = cards(files, asked)
    finding = (
        _driver_trouble(shown, files, asked)
        or _mig_trouble(found)
        or _docker_trouble(shown, files, offers)
    )
    if finding is not None:
        return Gpu(held, finding.message, finding)
    offered = GpuAccess.CDI if CDI_ALL in offers.cdi else GpuAccess.TOOLKIT
    names = ", ".join(map(str, found)) or shown
    return Gpu(held or offered, f"{shown}: {names}; driver {files.driver}", _mild_trouble(asked))


def offers(info: Any) -> Offers:
    """Return what Docker can hand over, of its answer to ``GET /info``."""
    discovered = info.get("DiscoveredDevices") or ()
    return Offers(
        runtimes=frozenset(info.get("Runtimes") or ()),
        cdi=frozenset(str(d.get("ID")) for d in discovered if d.get("Source") == "cdi"),
    )


def requests(access: GpuAccess) -> list[dict[str, Any]]:
    """Return the ``DeviceRequests`` of a container."""
    match access:
        case GpuAccess.NONE:
            return []
        case GpuAccess.TOOLKIT:
            return [{"Count": -1, "Capabilities": [["gpu"]]}]
        case GpuAccess.CDI:
            return [{"Driver": "cdi", "DeviceIDs": [CDI_ALL]}]


def access(requests: Any) -> GpuAccess:
    """Return how a container was given GPUs, of its ``DeviceRequests``."""
    if not requests:
        return GpuAccess.NONE
    return GpuAccess.CDI if requests[0].get("Driver") == "cdi" else GpuAccess.TOOLKIT


def cards(files: Files, asked: Asked) -> tuple[Card, ...]:
    """Return the GPUs with what is known of them."""
    listed = _listed(asked.listing)
    queried = list(_queried(asked.query))
    if not queried:
        return tuple(Card(name, mig=mig or None) for name, mig in listed) or tuple(
            map(Card, files.models)
        )
    profiles = [mig for _, mig in listed] + [()] * len(queried)
    return tuple(
        dataclasses.replace(card, mig=mig) if card.mig is not None else card
        for card, mig in zip(queried, profiles, strict=False)
    )


def refusal(words: str) -> str:
    """Return the code for Docker's reason not to start a container."""
    text = words.lower()
    missing = "failed to fulfil mount request" in text or "error mounting" in text
    if missing and "nvidia" in text and "no such file" in text:
        return "gpu.cdi_stale"
    if "could not select device driver" in text or "unresolvable cdi devices" in text:
        return "gpu.not_configured"
    if "nvidia-container-cli" not in text and "nvml" not in text:
        return "container.refused"
    if "version mismatch" in text:
        return "gpu.mismatch"
    if "driver not loaded" in text or "libnvidia-ml.so" in text:
        return "gpu.no_driver"
    return "gpu.unusable"


def _no_driver(shown: str, files: Files) -> Finding:
    bound = sorted({d.bound_to for d in files.devices} - {"", "nvidia"})
    if not bound:
        return Finding("gpu.no_driver", f"{shown}, but no NVIDIA driver is loaded")
    hint = f"Blacklist {bound[0]} and install the NVIDIA driver in the image, then reboot."
    return Finding("gpu.no_driver", f"{shown}, but the driver {bound[0]} uses it", hint)


def _driver_trouble(shown: str, files: Files, asked: Asked) -> Finding | None:
    if files.driver is None:
        return _no_driver(shown, files)
    text = "\n".join(a.text for a in (asked.query, asked.listing) if a is not None)
    works = bool(_listed(asked.listing)) or any(_queried(asked.query))
    differ = not works and _differ(files.driver, files.library)
    if "Driver/library version mismatch" in text or differ:
        said = re.search(r"NVML library version: (\S+)", text)
        library = files.library or (said[1] if said else "of another version")
        return Finding("gpu.mismatch", f"driver {files.driver} is loaded, its library is {library}")
    if "couldn't communicate with the NVIDIA driver" in text:
        return Finding("gpu.no_driver", f"{shown}, but nvidia-smi cannot reach the NVIDIA driver")
    if "No devices were found" in text:
        return Finding("gpu.unusable", f"{shown}, but driver {files.driver} could not start any")
    if asked.query is not None and asked.query.code and not works:
        words = " ".join(asked.query.text.split())[:200] or f"status {asked.query.code}"
        return Finding("gpu.unusable", f"{shown}, but nvidia-smi fails: {words}")
    return None


def _mild_trouble(asked: Asked) -> Finding | None:
    """Return a warning about GPUs that can be used."""
    if asked.query is None or asked.query.code != INFOROM:
        return None
    lines = (line.strip() for line in asked.query.text.split("\n"))
    said = next((line for line in lines if "inforom" in line.lower()), "")
    return warning("gpu.inforom", f"nvidia-smi ends with {INFOROM}: {said[:200] or 'infoROM'}")


def _mig_trouble(found: tuple[Card, ...]) -> Finding | None:
    """CUDA leaves out a GPU whose MIG mode is on and that has no instance."""
    if found and all(card.mig == () for card in found):
        return Finding("gpu.mig_empty", "MIG is on, but no GPU has a MIG instance")
    return None


def _docker_trouble(shown: str, files: Files, offers: Offers) -> Finding | None:
    if CDI_ALL in offers.cdi or RUNTIME in offers.runtimes:
        return None
    if files.toolkit:
        message = f"{shown}, but Docker has neither the runtime {RUNTIME} nor {CDI_ALL}"
        return Finding("gpu.not_configured", message)
    return Finding("gpu.no_toolkit", f"{shown}, but the NVIDIA container toolkit is not installed")


def _differ(driver: str, library: str | None) -> bool:
    """Return whether both are versions, and not the same one."""
    both = library is not None and _VERSION.fullmatch(driver) and _VERSION.fullmatch(library)
    return bool(both) and driver != library


def _queried(answer: Answer | None) -> Iterator[Card]:
    """Yield the rows of a table of `QUERY`: ``NVIDIA A100-PCIE-40GB, 40960, Enabled``."""
    if answer is None or answer.code not in USABLE:
        return
    for row in csv.reader(answer.text.splitlines(), skipinitialspace=True):
        if len(row) == 3:  # noqa: PLR2004  # the fields of QUERY
            name, memory, mig = row
            size = int(memory) if memory.isdigit() else None
            yield Card(name, size, () if mig == "Enabled" else None)


def _listed(answer: Answer | None) -> list[tuple[str, tuple[str, ...]]]:
    """Return each GPU of `LIST` with its MIG profiles, which follow it indented."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for line in answer.text.splitlines() if answer and answer.code in USABLE else ():
        if listed := _LISTED.match(line):
            found.append((listed["name"], ()))
        elif found and (instance := _INSTANCE.match(line)):
            name, profiles = found[-1]
            found[-1] = (name, (*profiles, instance["profile"]))
    return found


PROBE = """\
import ctypes, signal
signal.alarm(60)
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    raise SystemExit(str(error))
def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status:
        raise SystemExit(f"{name}: CUDA error {status}")
call("cuInit", 0)
count = ctypes.c_int()
call("cuDeviceGetCount", ctypes.byref(count))
for index in range(count.value):
    device, size, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(96)
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDeviceGetName", name, len(name), device)
    call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
    print(f"{name.value.decode()}, {size.value >> 20}")
"""
"""Prints one line a GPU: ``NVIDIA A100-PCIE-40GB, 40326`` (MiB)."""

COMMAND = ("python", "-c", PROBE)

_CUDA = {
    34: "libcuda is a stub",
    100: "no device",
    802: "the system is not ready: NVSwitch machines need nvidia-fabricmanager",
    803: "driver and CUDA library do not match",
    999: "unknown: the nvidia-uvm module may be missing",
}


def probed(answer: Answer) -> tuple[tuple[Card, ...], str]:
    """Return the GPUs that `PROBE` saw inside a container, or none and why."""
    if answer.code:
        words = " ".join(answer.text.split())[-200:]
        status = re.search(r"CUDA error (\d+)", words)
        meaning = _CUDA.get(int(status[1]), "") if status else ""
        return (), f"{words} ({meaning})" if meaning else words or f"it ended with {answer.code}"
    rows = (line.rpartition(", ") for line in answer.text.splitlines())
    found = tuple(Card(name, int(size)) for name, _, size in rows if size.isdigit())
    return found, "" if found else "CUDA counts no device"
