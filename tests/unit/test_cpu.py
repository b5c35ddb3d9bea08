"""Which processors the wheels in the images end on."""

import pytest

from flower_agent.host import machine

QEMU64 = (
    "fpu de pse tsc msr mmx fxsr sse sse2 ht syscall nx lm cpuid hypervisor lahf_lm svm pni cx16"
)
"""What QEMU's default model has, as a guest's ``/proc/cpuinfo`` shows it."""

V2 = f"{QEMU64} ssse3 sse4_1 sse4_2 popcnt"


def cpuinfo(flags):
    return f"processor\t: 0\nmodel name\t: QEMU Virtual CPU\nflags\t\t: {flags}\n\n"


def told(flags, *names):
    return [str(finding) for finding in machine.findings(machine.flags(cpuinfo(flags)), names)]


def test_qemus_default_model_is_told_with_what_it_lacks():
    assert told(QEMU64) == [
        "cpu.old: this CPU is below x86-64-v2 (no popcnt, sse4_1, sse4_2, ssse3)"
    ]


def test_a_processor_of_that_level_is_well():
    assert told(V2, "pytorch", "sklearn") == []


@pytest.mark.parametrize("name", ["tensorflow", "tensorflow-cuda"])
def test_tensorflow_wants_avx(name):
    assert told(V2, name) == [f"cpu.old: {name} needs a CPU with avx"]
    assert told(f"{V2} avx", name) == []


def test_of_another_architecture_nothing_is_claimed():
    assert (
        list(machine.findings(machine.flags("processor : 0\nFeatures : fp asimd\n"), ["pytorch"]))
        == []
    )


def test_the_warning_says_what_to_change_in_the_template():
    found = next(iter(machine.findings(machine.flags(cpuinfo(QEMU64)))))
    assert "CPU_MODEL" in found.hint
