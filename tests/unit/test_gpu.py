"""Whether a GPU is used, and what is said where it is not."""

import pytest

from flower_agent import gpu
from flower_agent.host import HostFacts
from flower_agent.parsers import GpuMode


def host(devices=1, driver="550.54.14"):
    return HostFacts(
        interfaces=(),
        default_interface=None,
        memory_bytes=0,
        nvidia_devices=tuple(f"0000:0{number}:00.0" for number in range(devices)),
        nvidia_driver=driver,
        boot_id="",
    )


BARE, USABLE, TWO = host(devices=0, driver=None), host(), host(devices=2)
DRIVERLESS = host(driver=None)
TOOLKIT = frozenset({"runc", "nvidia"})
NO_TOOLKIT = frozenset({"runc"})

STORIES = [
    # mode, host, runtimes, used, finding, what is shown
    ("no", BARE, (), False, None, "not used (GPU_ENABLED=NO); no NVIDIA GPU found"),
    ("no", USABLE, TOOLKIT, False, None, "not used (GPU_ENABLED=NO); 1 NVIDIA GPU found"),
    ("yes", BARE, TOOLKIT, False, "gpu.none", "no NVIDIA GPU"),
    ("yes", DRIVERLESS, TOOLKIT, False, "gpu.no_driver",
     "1 NVIDIA GPU, but no NVIDIA driver is loaded"),
    ("yes", TWO, NO_TOOLKIT, False, "gpu.no_toolkit",
     "2 NVIDIA GPUs, but Docker knows no runtime named nvidia"),
    ("yes", TWO, TOOLKIT, True, None, "2 NVIDIA GPUs, driver 550.54.14"),
    ("auto", BARE, TOOLKIT, False, "gpu.none", "no NVIDIA GPU"),
    ("auto", USABLE, NO_TOOLKIT, False, "gpu.no_toolkit",
     "1 NVIDIA GPU, but Docker knows no runtime named nvidia"),
    ("auto", USABLE, TOOLKIT, True, None, "1 NVIDIA GPU, driver 550.54.14"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "facts", "runtimes", "used", "code", "shown"), STORIES)
def test_a_gpu_is_used_when_it_is_wanted_and_whole(mode, facts, runtimes, used, code, shown):
    found = gpu.judge(GpuMode(mode), facts, runtimes)
    assert (found.used, found.detail) == (used, shown)
    assert (found.finding.code if found.finding else None) == code


def test_the_first_thing_that_lacks_is_told():
    assert gpu.judge(GpuMode.YES, DRIVERLESS, NO_TOOLKIT).finding.code == "gpu.no_driver"


@pytest.mark.parametrize("facts", [BARE, DRIVERLESS])
def test_a_finding_says_what_to_do(facts):
    assert gpu.judge(GpuMode.AUTO, facts, TOOLKIT).finding.hint
