"""One look at the NVIDIA GPUs of this machine: PCI, the driver's files, and nvidia-smi.

A GPU is a PCI device of NVIDIA (vendor 0x10de) of the display class 0x03, whether a driver is
loaded or not. Everything is read below a root, so that tests use recorded trees. What it means is
decided in `gpu`.
"""

import pathlib
import re
import subprocess
from collections.abc import Iterator

from flower_agent.host import gpu

SMI_TIMEOUT_S = 60.0
"""Without persistence mode the driver starts every GPU for each call."""

_VENDOR = "0x10de"
_DISPLAY = "0x03"
_TOOLKIT = ("nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-ctk")
_PROGRAMS = ("usr/bin", "usr/local/bin", "bin")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib")
_LIBRARY = re.compile(r"libnvidia-ml\.so\.(\d+(?:\.\d+)+)")


def look(root: pathlib.Path = pathlib.Path("/")) -> gpu.Files:
    """Return the facts from files; they are missing on a machine without a GPU."""
    devices = tuple(sorted(_devices(root / "sys/bus/pci/devices"), key=lambda found: found.slot))
    if not devices:
        return gpu.Files()
    proc = root / "proc/driver/nvidia"
    return gpu.Files(
        devices=devices,
        driver=_version(_text(proc / "version")),
        models=tuple(_models(proc / "gpus")),
        library=_library(root),
        toolkit=any(_program(root, name) is not None for name in _TOOLKIT),
    )


def ask(root: pathlib.Path = pathlib.Path("/"), timeout_s: float = SMI_TIMEOUT_S) -> gpu.Asked:
    """Return nvidia-smi's answer. It may take seconds, so it runs beside the loop."""
    program = _program(root, "nvidia-smi")
    if program is None:
        return gpu.Asked()
    query = _run(program, gpu.QUERY, timeout_s)
    return gpu.Asked(query, _run(program, gpu.LIST, timeout_s) if query is not None else None)


def _devices(folder: pathlib.Path) -> Iterator[gpu.Device]:
    for device in folder.glob("*"):
        vendor, kind = _text(device / "vendor").strip(), _text(device / "class")
        if vendor == _VENDOR and kind.startswith(_DISPLAY):
            driver = device / "driver"
            yield gpu.Device(device.name, driver.readlink().name if driver.is_symlink() else "")


def _models(folder: pathlib.Path) -> Iterator[str]:
    for card in sorted(folder.glob("*")):
        model = re.search(r"^Model:\s*(.+?)\s*$", _text(card / "information"), re.MULTILINE)
        if model:
            yield model[1]


def _version(text: str) -> str | None:
    """Return the version in ``/proc/driver/nvidia/version``: the first dotted number."""
    if not text:
        return None
    version = re.search(r"\b\d+\.\d+(\.\d+)*\b", text)
    return version[0] if version else "unknown"


def _library(root: pathlib.Path) -> str | None:
    for folder in _LIBRARIES:
        link = root / folder / "libnvidia-ml.so.1"
        if link.is_symlink() and (found := _LIBRARY.fullmatch(link.readlink().name)):
            return found[1]
    return None


def _program(root: pathlib.Path, name: str) -> pathlib.Path | None:
    places = (root / folder / name for folder in _PROGRAMS)
    return next((path for path in places if path.is_file()), None)


def _run(program: pathlib.Path, arguments: tuple[str, ...], timeout_s: float) -> gpu.Answer | None:
    try:
        done = subprocess.run(
            [program, *arguments],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return gpu.Answer(done.returncode, done.stdout.decode("utf-8", "replace"))


def _text(path: pathlib.Path) -> str:
    """Return a small file of the kernel; empty when it is not there."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
