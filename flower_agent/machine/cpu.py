"""What the processor must have for the wheels in the images. Pure.

NumPy's wheels are built for x86-64-v2 and end at their import elsewhere ("NumPy was built with
baseline optimizations"); Flower itself imports NumPy. TensorFlow's want AVX and end by SIGILL.
QEMU's default CPU model has neither: an OpenNebula template without CPU_MODEL. The levels are those
of the x86-64 psABI, the names those of ``/proc/cpuinfo``.
"""

from collections.abc import Collection, Iterator

from flower_agent.errors import Finding, warning

X86_64_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
WANTED = {"tensorflow": ("avx",), "tensorflow-cuda": ("avx",)}
"""What a framework wants beyond x86-64-v2."""


def flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of the first processor; empty on another architecture than x86."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def findings(has: Collection[str], names: Collection[str] = ()) -> Iterator[Finding]:
    """Yield a warning where the processor lacks something; nothing where it is not known."""
    if not has:
        return
    lacks = [flag for flag in X86_64_V2 if flag not in has]
    if lacks:
        yield warning("cpu.old", f"this CPU is below x86-64-v2 (no {', '.join(lacks)})")
    for name in names:
        missing = [flag for flag in WANTED.get(name, ()) if flag not in has]
        if missing:
            yield warning("cpu.old", f"{name} wants a CPU with {', '.join(missing)}")
