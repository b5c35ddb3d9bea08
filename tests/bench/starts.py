"""From a context to READY=YES at OneGate, by the agent and by `script.sh`, one after the other.

Real Docker and Flower; both wait for the context before it is there, both are woken or look every
10 ms, both leave a VM that works. SuperNodes of both go to one SuperLink.
"""

import contextlib
import datetime
import os
import pathlib
import shutil
import signal
import subprocess
import time

import onegate
from federation import SERVICE, Federation

from flower_agent.config import flower_versions

HERE = pathlib.Path(__file__).resolve().parent
READY_S = 120.0
VARIABLES = {"FLOWER_NODE_AUTH": "NO", "ML_FRAMEWORK": ""}


class Bed(Federation):
    """A federation whose OneGate is in this process, and whose VMs may be made anew."""

    def start_onegate(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        self.cloud = onegate.OneGate()
        count = len(self.supernodes)
        self.cloud.add_service(SERVICE, "flower", [("superlink", 1), ("supernode", count)])
        self.cloud.start(port=self.base_port)

    def down(self):
        super().down()
        self.cloud.stop()

    def appear(self, machine):
        """Let the VM and its context be there; return when that was."""
        token = self.cloud.add_vm(machine.vmid, machine.name, machine.role, SERVICE)
        self.write_context(machine, machine.variables, token=token)
        return time.time()

    def boot(self, machine):
        """Start the agent of a VM that has no context yet; return once it looks for one."""
        (machine.root / "run/one-context").mkdir(parents=True)
        self.start_agent(machine)
        wait_for(lambda: self.status(machine))

    def process(self, machine):
        """Return the agent's process number."""
        return self._processes[machine.prefix].pid

    def signal(self, machine):
        """Tell the agent of its context as one-context's hook does."""
        os.kill(self.process(machine), signal.SIGHUP)

    def ready(self, machine, begin):
        """Return the seconds from `begin` until OneFlow would see the VM ready."""
        wait_for(lambda: self.cloud.gate_open(machine.vmid))
        return time.time() - begin

    def vanish(self, machine):
        """Take a VM away with all that is in it."""
        with contextlib.suppress(KeyError):
            self.cloud.remove_vm(machine.vmid)
        shutil.rmtree(machine.root, ignore_errors=True)


def by_agent(bed, machine, *, cold=False):
    """Return the seconds until the containers run, and until READY."""
    bed.boot(machine)
    if cold:
        forget()
    begin = bed.appear(machine)
    bed.signal(machine)
    ready = bed.ready(machine, begin)
    names = [f"{machine.prefix}-flower-{part}" for part in (machine.role, "superexec")]
    wait_for(lambda: all(map(started_at, names)))
    started = max(map(started_at, names)) - begin
    bed.stop_agent(machine)
    bed.agent(machine, "down")
    bed.vanish(machine)
    return started, ready


def by_script(bed, machine, *, cold=False):
    """Return the same of the script."""
    place = machine.root / "run/one-context"
    place.mkdir(parents=True)
    command = [str(HERE / "script.sh"), machine.role, str(place), machine.prefix]
    names = [f"{machine.prefix}-{part}" for part in ("superexec", machine.role)]
    with subprocess.Popen(command, env=script_environment(bed)) as process:
        try:
            time.sleep(0.5)
            if cold:
                forget()
            begin = bed.appear(machine)
            ready = bed.ready(machine, begin)
            started = max(map(started_at, names)) - begin
        finally:
            process.kill()
            subprocess.run(["docker", "stop", *names], check=False, capture_output=True)
            subprocess.run(["docker", "rm", "-f", *names], check=False, capture_output=True)
            bed.vanish(machine)
    return started, ready


def script_environment(bed):
    """Return the environment of the script: what the agent knows by itself."""
    parts = ("superlink", "supernode", "superexec")
    images = {
        f"{part.upper()}_IMAGE": flower_versions.image("flwr", part, bed.version) for part in parts
    }
    return {**os.environ, "CONTROL_ADDRESS": f"127.0.0.1:{bed.control_port}", **images}


def forget():
    """Let the kernel drop what it holds of the disk, as on a first boot."""
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def started_at(name):
    """Return since when a container runs, in seconds since 1970; 0 while it does not."""
    seen = ["docker", "inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", name]
    told = subprocess.run(seen, check=False, capture_output=True, text=True).stdout.split()
    if told[:1] != ["true"]:
        return 0.0
    return datetime.datetime.fromisoformat(told[1]).timestamp()


def wait_for(true):
    """Wait until `true()`. Raises TimeoutError."""
    end = time.monotonic() + READY_S
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.005)


def unit_environment():
    """Return the environment that the agent's unit gives to it, by name."""
    lines = (HERE.parents[1] / "systemd/flower-agent.service").read_text().splitlines()
    rows = (line.removeprefix("Environment=") for line in lines if line.startswith("Environment="))
    return dict(row.split("=", 1) for row in rows)


def make(directory, base_port, *, name="bench", variables=None):
    """Return a federation without VMs, whose OneGate answers."""
    bed = Bed(
        directory,
        name=name,
        base_port=base_port,
        supernodes=2,
        variables=VARIABLES if variables is None else variables,
        environment=unit_environment(),
        say=lambda _: None,
    )
    bed.start_onegate()
    return bed


def measure(directory, base_port, times, *, cold=False):
    """Return the samples by name: of each way and role, (started, ready) so many times."""
    bed = make(directory, base_port)
    found = {(way, role): [] for way in ("agent", "script") for role in ("superlink", "supernode")}
    ways = {"agent": by_agent, "script": by_script}
    try:
        for _ in range(times):
            for way, begin in ways.items():
                found[way, "superlink"].append(begin(bed, bed.superlink, cold=cold))
        bed.deploy(bed.superlink)
        bed.wait_ready(bed.superlink)
        for _ in range(times):
            for way, begin in ways.items():
                found[way, "supernode"].append(begin(bed, bed.supernodes[0], cold=cold))
    finally:
        bed.down()
        shutil.rmtree(directory, ignore_errors=True)
    return found
