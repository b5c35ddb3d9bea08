"""What the daemon costs while nothing happens, and how soon it starts a killed container again.

Beside: a Python process that only imports the agent's libraries, and Docker's own restart policy.
Both containers are killed by their process, and Docker's own times of their end and start count.
"""

import datetime
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import starts

from flower_agent.config import flower_versions

LIBRARIES = "import docker, grpc, cryptography.x509, structlog, tenacity, yaml"
OTHER = "bench-by-docker"
MIB = 1024


def measure(directory, base_port, times, idle_s):
    """Return ``memory`` (MiB: agent, libraries), ``cpu`` (of one core), ``restarts`` (s: both)."""
    bed = starts.make(directory, base_port)
    image = flower_versions.image("flwr", "superlink", bed.version)
    try:
        bed.deploy(bed.superlink)
        bed.wait_ready(bed.superlink)
        memory, cpu = idle(bed.process(bed.superlink), idle_s)
        options = ("--network", "host", "--restart", "always", "--entrypoint", "sleep")
        command = ["docker", "run", "-d", "--name", OTHER, *options, image, "infinity"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        name = f"{bed.superlink.prefix}-flower-superlink"
        restarts = {"agent": [], "docker": []}
        for _ in range(times):
            restarts["agent"].append(restarted(name))
            restarts["docker"].append(restarted(OTHER))
            bed.stop_agent(bed.superlink)  # the next end is a first one again
            bed.start_agent(bed.superlink)
            bed.wait_ready(bed.superlink)
            time.sleep(10)  # for Docker, too
    finally:
        subprocess.run(["docker", "rm", "-f", OTHER], check=False, capture_output=True)
        bed.down()
        shutil.rmtree(directory, ignore_errors=True)
    return {"memory": (memory, libraries()), "cpu": cpu, "restarts": restarts}


def idle(pid, seconds):
    """Return resident memory (MiB) after a while, and the part of a core that was used in it."""
    before, begin = processor_s(pid), time.monotonic()
    time.sleep(seconds)
    used = processor_s(pid) - before
    return resident_mib(pid), used / (time.monotonic() - begin)


def libraries():
    """Return the memory (MiB) of a process that has the agent's libraries and does nothing."""
    command = [sys.executable, "-c", f"{LIBRARIES}; print(flush=True); input()"]
    pipe = subprocess.PIPE
    environment = {**os.environ, **starts.unit_environment()}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as process:
        process.stdout.readline()
        found = resident_mib(process.pid)
        process.communicate(b"\n")
    return found


def restarted(name):
    """Kill a container's process; return the seconds from its end to its next start."""
    before = state(name)
    os.kill(before["Pid"], signal.SIGKILL)
    starts.wait_for(lambda: state(name)["StartedAt"] != before["StartedAt"])
    found = state(name)
    return at(found["StartedAt"]) - at(found["FinishedAt"])


def state(name):
    told = subprocess.run(
        ["docker", "inspect", "-f", "{{json .State}}", name], check=True, capture_output=True
    )
    return json.loads(told.stdout)


def at(text):
    """Return Docker's time in seconds since 1970."""
    return datetime.datetime.fromisoformat(text).timestamp()


def resident_mib(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / MIB


def processor_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
