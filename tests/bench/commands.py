"""What a command costs: wall and processor time and the most memory, beside a bare interpreter."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT = "FLOWER_ROLE='server'\nFLOWER_ADDRESS='127.0.0.1'\nETH0_IP='127.0.0.1'\n"
BARE, LIBRARIES = "python3 -c pass", "python3 -c 'import docker, grpc, cryptography.x509'"


def measure(times):
    """Return the samples by name: (wall s, processor s, KiB) so many times, one after the other."""
    with tempfile.TemporaryDirectory(prefix="flower-bench-") as directory:
        context = pathlib.Path(directory) / "context.sh"
        context.write_text(CONTEXT)
        ours = [sys.executable, "-m", "flower_agent"]
        where = ["--root", directory]
        commands = {
            BARE: [sys.executable, "-c", "pass"],
            LIBRARIES: [sys.executable, "-c", "import docker, grpc, cryptography.x509"],
            "flower-agent status": [*ours, "status", *where],
            "flower-agent check": [*ours, "check", *where, "--context", str(context)],
            "flower-agent plan": [*ours, "plan", *where, "--context", str(context)],
        }
        found = {name: [] for name in commands}
        for _ in range(times):
            for name, command in commands.items():
                found[name].append(cost(command))
    return found


def begin(times):
    """Return so many times the seconds from the daemon's process to the context that is read."""
    found = []
    with tempfile.TemporaryDirectory(prefix="flower-bench-") as directory:
        place = pathlib.Path(directory) / "run/one-context"
        place.mkdir(parents=True)
        (place / "context.sh.network").write_text(CONTEXT)
        command = [sys.executable, "-m", "flower_agent", "run", "--root", directory]
        environment = {**os.environ, "DOCKER_HOST": f"unix://{directory}/no-docker.sock"}
        for _ in range(times):
            since = time.monotonic()
            with subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ) as process:
                while b"context.read" not in (line := process.stdout.readline()):
                    if b"context.missing" in line or not line:
                        process.kill()
                        raise RuntimeError(line)
                found.append(time.monotonic() - since)
                process.terminate()
                process.stdout.read()
    return found


def cost(command):
    """Return the seconds that a command takes, those of the processor, and its most KiB."""
    begin = time.monotonic()
    process = started(command)
    _, _, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    process.returncode = 0
    return wall, used.ru_utime + used.ru_stime, most_memory(command)


def most_memory(command):
    """Return what a command holds at most, by looks at /proc: rusage counts its parent's, too."""
    process, most = started(command), 0
    status = pathlib.Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        most = max(most, int(found[1]) if found else 0)
        time.sleep(0.002)
    return most


def started(command):
    null = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, stdout=null, stderr=null)
