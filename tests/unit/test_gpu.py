"""Whether a GPU is used, and what is said where it is not."""

import pytest

from flower_agent import gpu
from flower_agent.parsers import GpuMode

NONE, ONE, TWO = (), ("0000:01:00.0",), ("0000:01:00.0", "0000:02:00.0")
DRIVER = "550.54.14"
TOOLKIT = frozenset({"runc", "nvidia"})
NO_TOOLKIT = frozenset({"runc"})

STORIES = [
    ("no", (NONE, None, ()), "not used (GPU_ENABLED=NO); no NVIDIA GPU found"),
    ("no", (ONE, DRIVER, TOOLKIT), "not used (GPU_ENABLED=NO); 1 NVIDIA GPU found"),
    ("yes", (TWO, DRIVER, TOOLKIT), "used: 2 NVIDIA GPUs, driver 550.54.14"),
    ("auto", (ONE, DRIVER, TOOLKIT), "used: 1 NVIDIA GPU, driver 550.54.14"),
    ("yes", (NONE, None, TOOLKIT), "gpu.none: the VM has no NVIDIA GPU"),
    ("auto", (NONE, None, TOOLKIT), "gpu.none: the VM has no NVIDIA GPU"),
    (
        "yes",
        (ONE, None, TOOLKIT),
        "gpu.no_driver: 1 NVIDIA GPU, but no NVIDIA driver is loaded",
    ),
    (
        "auto",
        (TWO, DRIVER, NO_TOOLKIT),
        "gpu.no_toolkit: 2 NVIDIA GPUs, but Docker knows no runtime named nvidia",
    ),
]


@pytest.mark.parametrize(("mode", "facts", "told"), STORIES)
def test_a_gpu_is_used_when_it_is_wanted_and_whole(mode, facts, told):
    found = gpu.judge(GpuMode(mode), *facts)
    assert str(found.finding or ("used: " if found.used else "") + found.detail) == told
    assert not (found.used and found.finding)


def test_the_first_thing_that_lacks_is_told():
    assert gpu.judge(GpuMode.YES, ONE, None, NO_TOOLKIT).finding.code == "gpu.no_driver"


def test_a_gpu_that_is_not_used_is_shown_all_the_same():
    assert gpu.judge(GpuMode.AUTO, ONE, None, TOOLKIT).detail.startswith("1 NVIDIA GPU")
