"""What a container says of its GPUs when CUDA itself is asked. Pure.

nvidia-smi works where CUDA does not (without the nvidia-uvm module, with MIG and no instance), and
Flower's images have Python. CUDA's functions and codes: cuda.h, ``CUresult``.
"""

import re

from .gpu import Answer, Card

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
    802: "the system is not ready: NVSwitch machines want nvidia-fabricmanager",
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
