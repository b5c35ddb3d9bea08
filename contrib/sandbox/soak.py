#!/usr/bin/env python3
"""A federation of this machine under small faults, for an hour or as long as asked.

Each round kills a container or an agent, or changes a log level; all must be READY again before the
next. At the end it prints what each agent holds, and fails where one grew. Descriptors rise to a
bound: docker-py keeps the connections of the last 25 URLs that it asked.
"""

import argparse
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from federation import REPOSITORY, Federation, Machine, SandboxError

READY_S = 180.0
PAUSE_S = 5.0
GROWTH_KIB = 8 * 1024
"""An agent that never restarted may hold this much more than after its first tenth of the time."""


def main() -> int:
    """Run the soak; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the order of the faults")
    options = parser.parse_args()
    federation = Federation(REPOSITORY / "build/soak", name="soak", base_port=28000)
    federation.down()  # what a run that was cut off may have left
    shutil.rmtree(federation.directory, ignore_errors=True)
    try:
        federation.up()
        return soak(federation, options.minutes * 60, random.Random(options.seed))
    except SandboxError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        federation.down()


def soak(federation: Federation, seconds: float, order: random.Random) -> int:
    """Disturb and look until the time is over."""
    begin, rounds, restarted = time.monotonic(), 0, set()
    settled: dict[str, tuple[int, int, int]] = {}
    link = federation.superlink
    while time.monotonic() - begin < seconds:
        rounds += 1
        victim = order.choice(federation.machines)
        fault = order.choice((kill_container, toggle_log_level, restart_agent))
        if fault is restart_agent and victim is link:  # one agent lives through it all
            fault = kill_container
        if fault is restart_agent:
            restarted.add(victim.prefix)
        fault(federation, victim)
        wait_well(federation)
        if not settled and time.monotonic() - begin > seconds / 10:
            settled = {m.prefix: held(federation, m) for m in federation.machines}
    return report(federation, rounds, settled, restarted)


def kill_container(_: Federation, machine: Machine) -> None:
    """Kill what runs Flower on a VM."""
    name = f"{machine.prefix}-flower-{machine.role}"
    subprocess.run(["docker", "kill", name], check=True, capture_output=True, timeout=60)


def toggle_log_level(federation: Federation, machine: Machine) -> None:
    """Recontextualize a VM: Flower's containers are replaced."""
    text = (machine.root / "run/one-context/context.sh.network").read_text()
    level = "INFO" if "FLOWER_LOG_LEVEL='DEBUG'" in text else "DEBUG"
    federation.write_context(machine, {**machine.variables, "FLOWER_LOG_LEVEL": level})


def restart_agent(federation: Federation, machine: Machine) -> None:
    """Kill an agent; its unit would start it again."""
    federation.stop_agent(machine, signal.SIGKILL)
    federation.start_agent(machine)


def wait_well(federation: Federation) -> None:
    """Wait until every VM has been ready for a while. Raises SandboxError."""
    time.sleep(PAUSE_S)
    end = time.monotonic() + READY_S
    while any(federation.status(m).get("state") != "ready" for m in federation.machines):
        if time.monotonic() > end:
            states = {m.prefix: federation.status(m) for m in federation.machines}
            raise SandboxError(f"not well again within {READY_S:.0f} s: {states}")
        time.sleep(0.5)


def held(federation: Federation, machine: Machine) -> tuple[int, int, int]:
    """Return KiB of memory, file descriptors and threads of a VM's agent."""
    pid = (federation.directory / f"{machine.prefix}.pid").read_text()
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    values = dict(re.findall(r"(VmRSS|Threads):\s+(\d+)", status))
    return (
        int(values["VmRSS"]),
        len([*pathlib.Path(f"/proc/{pid}/fd").iterdir()]),
        int(values["Threads"]),
    )


def report(
    federation: Federation,
    rounds: int,
    settled: dict[str, tuple[int, int, int]],
    restarted: set[str],
) -> int:
    """Print what each agent holds; return 1 where one that never restarted grew."""
    print(f"\n{rounds} rounds; memory (KiB), descriptors, threads: at first, now")
    worst = 0
    for machine in federation.machines:
        first, now = settled.get(machine.prefix, (0, 0, 0)), held(federation, machine)
        again = " (restarted meanwhile)" if machine.prefix in restarted else ""
        print(f"  {machine.prefix}: {first} -> {now}{again}")
        if not again:
            worst = max(worst, now[0] - first[0])
    if worst > GROWTH_KIB:
        print(f"FAILED: an agent grew by {worst} KiB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
