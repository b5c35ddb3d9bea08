"""What is installed, in bytes: the package beside the wheels of its libraries, and the VM image."""

import json
import pathlib
import subprocess
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET, PYTHON = "debian12", "3.11"
SUPEREXEC = "flower-agent/superexec:1.25.0-sklearn"
"""It holds nearly all that Flower's other images hold, in the same layers."""


def package(out):
    """Return ``deb``, ``installed``, ``own``, ``wheels`` and ``unpacked`` of the deb, in bytes."""
    build = ROOT / "contrib/package/build"
    command = [str(build), TARGET, "--arch", "amd64", "--out", str(out)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    deb = pathlib.Path(told.split()[-1])
    wheels = list((ROOT / f"build/package/wheels/{PYTHON}-x86_64").glob("*.whl"))
    files = members(deb)
    return {
        "deb": deb.stat().st_size,
        "installed": sum(files.values()),
        "own": sum(size for name, size in files.items() if "/flower_agent/" in name),
        "wheels": sum(wheel.stat().st_size for wheel in wheels),
        "unpacked": sum(map(unpacked, wheels)),
    }


def members(deb):
    """Return the size of each file in a deb by its name."""
    told = subprocess.run(
        ["dpkg-deb", "--contents", str(deb)], check=True, capture_output=True, text=True
    )
    rows = (line.split(maxsplit=5) for line in told.stdout.splitlines() if line.startswith("-"))
    return {row[5]: int(row[2]) for row in rows}


def unpacked(wheel):
    """Return the bytes of all files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return sum(info.file_size for info in archive.infolist())


def image(file):
    """Return the bytes of a VM image, and those of the SuperExec image as Docker counts them."""
    command = ["docker", "image", "inspect", SUPEREXEC]
    told = subprocess.run(command, check=True, capture_output=True).stdout
    return pathlib.Path(file).stat().st_size, json.loads(told)[0]["Size"]
