#!/usr/bin/env python3
"""Write the wheel locks that `flower-agent bake` installs: flower_agent/locks/.

One file for each framework and Python, made with `uv` from what pip's settings give as package
index. A lock leaves out what every Flower image brings itself, so that a derived image adds to
Flower and changes nothing of it; that the two fit is resolved here for each Flower version of
FLOWER. PyTorch's CPU wheels are in its own index only, so their digests stand in CPU_TORCH, as
that index gives them in its links.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import tomllib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LOCKS = REPOSITORY / "flower_agent" / "locks"
VENV = REPOSITORY / "build" / "uv"
PYTHONS = ("3.11", "3.12", "3.13")
FLOWER = ("1.23.0", "1.25.0", "1.29.0", "1.34.0", "1.36.0", "1.39.0", "1.42.0")
TOO_OLD = {"tensorflow": ("1.23.0",), "tensorflow-cuda": ("1.23.0",)}
"""Flower 1.23 wants a protobuf below 5, TensorFlow one from 6.31 on."""

TORCH = "2.13.0"
TENSORFLOW = "tensorflow{extra}==2.21.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CPU_TORCH = {
    "3.11": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "3.12": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    "3.13": "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
}
CPU_TORCH_BYTES = 191_800_000
FRAMEWORKS = {
    "sklearn": ("scikit-learn==1.9.1",),
    # What the CPU wheel's metadata requires.
    "pytorch": ("filelock", "setuptools>=77.0.3", "sympy>=1.13.3", "networkx", "jinja2", "fsspec"),
    "pytorch-cuda": (f"torch=={TORCH}",),
    "tensorflow": (TENSORFLOW.format(extra=""),),
    "tensorflow-cuda": (TENSORFLOW.format(extra="[and-cuda]"),),
}
TARGET = "x86_64-manylinux_2_28"

Wheels = dict[str, tuple[str, str, int]]
"""Name → version, SHA-256 and size in bytes of its one wheel for the target."""


def main() -> None:
    """Write every lock anew."""
    LOCKS.mkdir(exist_ok=True)
    if not (VENV / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(VENV / "bin" / "pip"), "install", "-q", "uv"], check=True)
    for python in PYTHONS:
        brought = [set(resolve((f"flwr=={version}",), python)) for version in FLOWER]
        always = set.intersection(*brought)
        for framework, wanted in FRAMEWORKS.items():
            path = LOCKS / f"{framework}-py{python}.txt"
            path.write_text(lock(framework, wanted, python, always), encoding="utf-8")
            print(path.relative_to(REPOSITORY))


def lock(framework: str, wanted: tuple[str, ...], python: str, always: set[str]) -> str:
    """Return the text of one lock, after a look whether each Flower version can live with it."""
    fits = [version for version in FLOWER if version not in TOO_OLD.get(framework, ())]
    found = resolve((*wanted, f"flwr=={fits[-1]}"), python)
    pins = {name: found[name] for name in resolve(wanted, python) if name not in always}
    exact = tuple(f"{name}=={version}" for name, (version, _, _) in pins.items())
    for version in fits:
        resolve((*exact, f"flwr=={version}"), python)
    lines = [
        f"{name}=={version} --hash=sha256:{digest}  # {size} bytes"
        for name, (version, digest, size) in sorted(pins.items())
    ]
    if framework == "pytorch":
        digest = CPU_TORCH[python]
        lines += [f"# from {CPU_INDEX}"]
        lines += [f"torch=={TORCH}+cpu --hash=sha256:{digest}  # {CPU_TORCH_BYTES} bytes"]
    return "\n".join(
        (f"# {framework}, Python {python}, {TARGET}; by contrib/images/lock.py", *lines, "")
    )


def resolve(requirements: tuple[str, ...], python: str) -> Wheels:
    """Return the wheels that satisfy all requirements together."""
    with tempfile.TemporaryDirectory() as work:
        wanted, made = pathlib.Path(work) / "in", pathlib.Path(work) / "pylock.toml"
        wanted.write_text("\n".join(requirements), encoding="utf-8")
        command = [str(VENV / "bin" / "uv"), "pip", "compile", "--quiet", "--no-header"]
        command += ["--python-version", python, "--python-platform", TARGET]
        command += ["--only-binary", ":all:", "--no-binary", "iterators"]  # it has no wheel
        command += ["--format", "pylock.toml", "--output-file", str(made), str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"lock.py: {' '.join(requirements)} for Python {python}:\n{done.stderr}")
        packages = tomllib.loads(made.read_text(encoding="utf-8"))["packages"]
    return {package["name"]: wheel(package) for package in packages}


def wheel(package: dict[str, object]) -> tuple[str, str, int]:
    """Return version, digest and size; a package without a wheel is one of Flower's own."""
    version = str(package["version"])
    for found in package.get("wheels", ()):  # one: uv leaves only what the target takes
        return version, found["hashes"]["sha256"], found["size"]
    return version, "", 0


if __name__ == "__main__":
    main()
