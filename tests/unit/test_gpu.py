"""What is known of a VM's GPUs, from trees of files to one sentence.

The trees in ``tests/data/gpu`` were written by hand, in the formats that NVIDIA's manuals and
public bug reports show; no GPU was at hand to record one.
"""

import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest

from flower_agent.config.types import GpuMode
from flower_agent.host import gpu, nvidia
from flower_agent.host.gpu import Answer, Asked, Card, Files, GpuAccess, Offers
from flower_agent.model.errors import Finding, Severity

RECORDED = pathlib.Path(__file__).parents[1] / "data" / "gpu"
BARE = Offers(runtimes=frozenset({"runc", "io.containerd.runc.v2"}))
TOOLKIT = Offers(runtimes=frozenset({"runc", "nvidia"}))
CDI = Offers(
    runtimes=frozenset({"runc"}), cdi=frozenset({"nvidia.com/gpu=0", "nvidia.com/gpu=all"})
)

PROGRAM = """#!/bin/sh
case "$*" in
{cases}*) echo "unhandled: $*"; exit 99;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """Lay out a recorded machine: its files, links, and an nvidia-smi that says what it said."""

    def lay(name):
        said, root = [], tmp_path / name
        parts = re.split(r"^(?=[@$] )", (RECORDED / f"{name}.txt").read_text(), flags=re.MULTILINE)
        for part in parts[1:]:
            head, _, text = part.partition("\n")
            if head.startswith("$ nvidia-smi "):
                arguments, _, code = head.removeprefix("$ nvidia-smi ").rpartition(" = ")
                said.append((arguments, code, text))
                continue
            path, _, target = head.removeprefix("@ ").partition(" -> ")
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if target:
                (root / path).symlink_to(target)
            else:
                (root / path).write_text(text)
        if said:
            program = root / "usr/bin/nvidia-smi"
            program.parent.mkdir(parents=True, exist_ok=True)
            cases = "".join(
                f"'{a}') cat <<'END'\n{text}END\nexit {code};;\n" for a, code, text in said
            )
            program.write_text(PROGRAM.format(cases=cases))
            program.chmod(0o755)
        return nvidia.look(root), nvidia.ask(root)

    return lay


STORIES = [
    ("no-device", TOOLKIT, "gpu.none: the VM has no NVIDIA GPU"),
    ("no-driver", TOOLKIT, "gpu.no_driver: 1 NVIDIA GPU, but no NVIDIA driver is loaded"),
    ("nouveau", TOOLKIT, "gpu.no_driver: 1 NVIDIA GPU, but the driver nouveau uses it"),
    (
        "driver-not-reached",
        TOOLKIT,
        "gpu.no_driver: 1 NVIDIA GPU, but nvidia-smi cannot reach the NVIDIA driver",
    ),
    (
        "mismatch",
        TOOLKIT,
        "gpu.mismatch: driver 580.119.02 is loaded, its library is 580.126.18",
    ),
    (
        "mismatch-old",
        TOOLKIT,
        "gpu.mismatch: driver 460.56 is loaded, its library is of another version",
    ),
    (
        "no-usable-device",
        TOOLKIT,
        "gpu.unusable: 1 NVIDIA GPU, but driver 535.129.03 could not start any",
    ),
    (
        "no-toolkit",
        BARE,
        "gpu.no_toolkit: 1 NVIDIA GPU, but the NVIDIA container toolkit is not installed",
    ),
    (
        "one",
        BARE,
        (
            "gpu.not_configured: 1 NVIDIA GPU, but Docker has neither the runtime nvidia nor "
            "nvidia.com/gpu=all"
        ),
    ),
    ("mig-empty", TOOLKIT, "gpu.mig_empty: MIG is on, but no GPU has a MIG instance"),
    ("one", TOOLKIT, "toolkit: 1 NVIDIA GPU: Tesla T4 15360 MiB; driver 550.54.14"),
    ("one", CDI, "cdi: 1 NVIDIA GPU: Tesla T4 15360 MiB; driver 550.54.14"),
    (
        "mig",
        CDI,
        (
            "cdi: 2 NVIDIA GPUs: NVIDIA A100-SXM4-40GB 40960 MiB (MIG: 3g.20gb, 1g.5gb), "
            "NVIDIA A100-SXM4-40GB 40960 MiB; driver 575.57.08"
        ),
    ),
    ("old-driver", TOOLKIT, "toolkit: 1 NVIDIA GPU: Tesla V100-PCIE-16GB; driver 440.33.01"),
    ("no-nvidia-smi", TOOLKIT, "toolkit: 1 NVIDIA GPU: NVIDIA L4; driver 550.54.14"),
]


def told(found):
    return str(found.finding) if found.finding else f"{found.access}: {found.detail}"


@pytest.mark.parametrize(("name", "offers", "said"), STORIES)
def test_a_recorded_machine_is_told_in_one_sentence(machine, name, offers, said):
    seen = machine(name)
    found = gpu.judge(GpuMode.YES, *seen, offers)
    assert told(found) == said
    assert bool(found.access) is (found.finding is None)
    assert gpu.judge(GpuMode.AUTO, *seen, offers) == found


def test_every_recorded_machine_has_a_story():
    assert {path.stem for path in RECORDED.iterdir()} == {name for name, _, _ in STORIES}


@pytest.mark.parametrize(
    ("name", "shown"), [("one", "1 NVIDIA GPU"), ("no-device", "no NVIDIA GPU")]
)
def test_a_gpu_that_is_not_wanted_is_counted_and_not_used(machine, name, shown):
    found = gpu.judge(GpuMode.NO, machine(name)[0], Asked(), Offers())
    assert found == gpu.Gpu(GpuAccess.NONE, f"not used (GPU_ENABLED=NO); {shown} found")


def test_the_driver_that_has_the_gpu_is_named_in_the_remedy(machine):
    found = gpu.judge(GpuMode.YES, *machine("nouveau"), TOOLKIT)
    assert "Blacklist nouveau" in found.finding.hint


def test_a_stale_library_that_nvidia_smi_does_not_use_is_no_mismatch(machine):
    files, asked = machine("one")
    stale = dataclasses.replace(files, library="470.82.01")
    assert gpu.judge(GpuMode.YES, stale, asked, TOOLKIT).access is GpuAccess.TOOLKIT
    found = gpu.judge(GpuMode.YES, stale, Asked(), TOOLKIT)
    assert told(found) == "gpu.mismatch: driver 550.54.14 is loaded, its library is 470.82.01"


def test_an_nvidia_smi_that_fails_in_a_new_way_is_quoted(machine):
    files, _ = machine("one")
    asked = Asked(Answer(255, "Unable to determine\nthe device handle\n"), Answer(255, ""))
    found = gpu.judge(GpuMode.YES, files, asked, TOOLKIT)
    assert told(found) == (
        "gpu.unusable: 1 NVIDIA GPU, but nvidia-smi fails: Unable to determine the device handle"
    )


def test_a_damaged_inforom_is_a_warning_and_the_gpu_is_used(machine):
    files, asked = machine("one")
    words = "WARNING: infoROM is corrupted at gpu 0000:00:05.0\n"
    warned = Asked(Answer(14, asked.query.text + words), Answer(14, asked.listing.text + words))
    found = gpu.judge(GpuMode.YES, files, warned, TOOLKIT)
    sound = gpu.judge(GpuMode.YES, files, asked, TOOLKIT)
    assert (found.access, found.detail) == (sound.access, sound.detail)
    assert (found.finding.code, found.finding.severity) == ("gpu.inforom", Severity.WARNING)
    assert "infoROM is corrupted at gpu 0000:00:05.0" in found.finding.message
    assert gpu.judge(GpuMode.YES, files, Asked(Answer(14, words), None), TOOLKIT).access is (
        GpuAccess.NONE
    )


@pytest.mark.parametrize(
    "words",
    [
        "failed to fulfil mount request: open /usr/lib/libnvidia-ml.so.535: no such file",
        'error mounting "/usr/lib64/libnvidia-ml.so.550" to rootfs: stat: no such file',
    ],
)
def test_a_cdi_specification_of_another_driver_is_named_with_its_remedy(words):
    assert gpu.refusal(words) == "gpu.cdi_stale"
    assert "nvidia-ctk cdi generate" in Finding("gpu.cdi_stale", "x").hint


def test_a_missing_mount_of_something_else_is_no_matter_of_the_gpu():
    words = 'error mounting "/var/lib/data" to rootfs: no such file or directory'
    assert gpu.refusal(words) == "container.refused"


def test_an_nvidia_smi_that_hangs_is_left_alone(tmp_path):
    program = tmp_path / "usr/bin/nvidia-smi"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    assert nvidia.ask(tmp_path, timeout_s=0.2) == Asked()


def test_this_machine_can_be_looked_at():
    assert isinstance(nvidia.look(), Files)


REFUSALS = [
    ('could not select device driver "" with capabilities: [[gpu]]', "gpu.not_configured"),
    (
        (
            "failed to create task for container: CDI device injection failed: unresolvable CDI "
            "devices nvidia.com/gpu=all"
        ),
        "gpu.not_configured",
    ),
    (
        (
            "OCI runtime create failed: nvidia-container-cli: initialization error: nvml error: "
            "driver/library version mismatch: unknown"
        ),
        "gpu.mismatch",
    ),
    (
        (
            "OCI runtime create failed: nvidia-container-cli: initialization error: nvml error: "
            "driver not loaded: unknown"
        ),
        "gpu.no_driver",
    ),
    (
        (
            "OCI runtime create failed: nvidia-container-cli: initialization error: load library "
            "failed: libnvidia-ml.so.1: cannot open shared object file: no such file or directory"
        ),
        "gpu.no_driver",
    ),
    (
        "OCI runtime create failed: nvidia-container-cli: device error: 1: unknown device: unknown",
        "gpu.unusable",
    ),
    ("driver failed programming external connectivity", "container.refused"),
    ('invalid mount config for type "bind"', "container.refused"),
]


@pytest.mark.parametrize(("words", "code"), REFUSALS)
def test_dockers_reason_not_to_start_a_container_has_a_code(words, code):
    assert gpu.refusal(words) == code


@pytest.mark.parametrize("access", GpuAccess)
def test_what_was_asked_of_docker_is_read_back(access):
    assert gpu.access(gpu.requests(access)) is access
    assert gpu.access(None) is GpuAccess.NONE


def test_an_engine_that_tells_of_no_devices_offers_none():
    assert gpu.offers({"Runtimes": {"runc": {"path": "runc"}}}) == Offers(
        runtimes=frozenset({"runc"})
    )


def test_a_new_engine_offers_cdi_devices():
    told = {"Runtimes": {}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}
    assert gpu.offers(told).cdi == {"nvidia.com/gpu=all"}


# From inside a container

FAKE_CTYPES = """
class Number:
    def __init__(self): self.value = 0
c_int = c_size_t = Number
class Buffer(Number):
    def __len__(self): return 96
def create_string_buffer(size): return Buffer()
def byref(number): return number
def set_(number, value):
    number.value = value
    return 0
class CDLL:
    def __init__(self, name):
        if {missing}: raise OSError(name + ": cannot open shared object file")
    def cuInit(self, flags): return {init}
    def cuDeviceGetCount(self, count): return set_(count, {count})
    def cuDeviceGet(self, device, index): return set_(device, index)
    def cuDeviceGetName(self, name, size, device): return set_(name, b"NVIDIA L4")
    def cuDeviceTotalMem_v2(self, size, device): return set_(size, 24 << 30)
"""


def probe(tmp_path, *, missing=False, init=0, count=1):
    """Run the probe against a CUDA library of our own."""
    (tmp_path / "ctypes.py").write_text(FAKE_CTYPES.format(missing=missing, init=init, count=count))
    done = subprocess.run(
        [sys.executable, "-c", gpu.PROBE],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    return gpu.probed(Answer(done.returncode, done.stdout))


def test_the_probe_counts_the_gpus_that_cuda_has(tmp_path):
    assert probe(tmp_path, count=2) == ((Card("NVIDIA L4", 24576),) * 2, "")


@pytest.mark.parametrize(
    ("library", "why"),
    [
        ({"missing": True}, "libcuda.so.1: cannot open shared object file"),
        ({"init": 100}, "cuInit: CUDA error 100 (no device)"),
        ({"init": 803}, "cuInit: CUDA error 803 (driver and CUDA library do not match)"),
        ({"init": 701}, "cuInit: CUDA error 701"),
        ({"count": 0}, "CUDA counts no device"),
    ],
)
def test_the_probe_says_why_it_counts_none(tmp_path, library, why):
    assert probe(tmp_path, **library) == ((), why)


def test_a_probe_that_was_killed_saw_nothing():
    assert gpu.probed(Answer(142, "")) == ((), "it ended with 142")
