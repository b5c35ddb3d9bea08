"""What the agent costs an app, and how soon it tells of one that died.

Two federations of one SuperLink and two SuperNodes, up at the same time: the agent's, and one that
`script.sh` started, without agent and launcher, from the same images. The reference app's three
rounds run on the one and on the other in turn, both submitted over the Control API with the same
bundle; the SuperLink's own dates count. Then ClientApps of the agent's federation are killed.
"""

import contextlib
import datetime
import os
import pathlib
import shutil
import signal
import subprocess
import time

import federation
import starts

from flower_agent.config import flower_versions
from flower_agent.docker.client import Engine, socket_url
from flower_agent.flower.control_client import Control
from flower_agent.flower.control_messages import RunStatus
from flower_agent.model.address import Address
from flower_agent.runs import git
from flower_agent.runs.bundle import Bundler

APART = 100
"""Ports between the two federations."""

VARIABLES = {"FLOWER_NODE_AUTH": "NO", "ML_FRAMEWORK": "sklearn"}
NODES = 2
SETTLE_S = 1.0
"""Between two runs; what the agent does after one is waited for."""

LIMIT_S = 300.0
LOOK_S = 0.2
TIMEOUT_S = 10.0
TRAINS = "trains"
STUCK = f"""\
    import pathlib
    import time

    pathlib.Path("{TRAINS}").touch()
    time.sleep(3600)
"""
"""What a ClientApp of the killed runs does instead of its training."""

CLIENTAPP = b"flwr-clientapp"


class Fleet:
    """One of the two federations: where its SuperLink is, and what runs on it."""

    def __init__(self, bed, ca):
        self.bed = bed
        self.federation = flower_versions.band(bed.version).federation
        self._ca = ca

    @contextlib.contextmanager
    def control(self):
        """Give a Control API of one's own."""
        address = Address("127.0.0.1", self.bed.control_port)
        band = flower_versions.band(self.bed.version)
        with contextlib.closing(Control(address, band.control, self._ca.read_bytes())) as api:
            yield api

    def nodes_online(self):
        """Return whether all nodes are connected."""
        with self.control() as api:
            return sum(str(n.status) == "online" for n in api.list_nodes(TIMEOUT_S)) == NODES

    def start(self, bundle):
        """Submit a run and return its id."""
        with self.control() as api:
            return api.start_run(bundle, (), self.federation, TIMEOUT_S)

    def run(self, bundle):
        """Submit a run; return the seconds from its submission to its end as the SuperLink has it.

        What the agent keeps of it is waited for, so that it is not done beside the next run. Raises
        RuntimeError where the run did not complete.
        """
        run_id = self.start(bundle)
        end = time.monotonic() + LIMIT_S
        with self.control() as api:
            while time.monotonic() < end:
                (found,) = api.list_runs(TIMEOUT_S, run_id=run_id)
                if found.status is RunStatus.FINISHED:
                    if found.sub_status != "completed":
                        raise RuntimeError(f"run {run_id} {found.sub_status}: {found.details}")
                    starts.wait_for(lambda: not self.unsettled(run_id))
                    time.sleep(SETTLE_S)
                    return took_s(found.pending_at, found.finished_at)
                time.sleep(LOOK_S)
        raise TimeoutError(f"run {run_id} did not end")

    def unsettled(self, run_id):
        """Return whether the agent still has to keep what a run left; the script keeps nothing."""
        runs = self.bed.superlink.root / "var/lib/flower-agent/runs"
        kept = (runs / run_id / "run.json").exists() and not (runs / "live" / run_id).exists()
        return runs.exists() and not kept

    def stop(self, run_id):
        with self.control() as api:
            api.stop_run(run_id, TIMEOUT_S)


def took_s(begin, end):
    """Return the seconds between two of Flower's dates."""
    first, last = map(datetime.datetime.fromisoformat, (begin, end))
    return (last - first).total_seconds()


def measure(directory, base_port, times):
    """Return ``run`` of each way, and ``killed``: seconds, so many times."""
    found = {("run", "agent"): [], ("run", "script"): [], "killed": []}
    with by_agent(directory / "agent", base_port) as ours:
        whole, stuck = bundles(ours.bed)
        with by_script(directory / "script", base_port + APART) as its:
            ways = {"agent": ours, "script": its}
            for turn in range(times + 1):
                for way, fleet in ways.items():
                    took = fleet.run(whole)
                    if turn:  # the first one is not warm
                        found["run", way].append(took)
        for _ in range(times):
            found["killed"].append(killed(ours, stuck))
    shutil.rmtree(directory, ignore_errors=True)
    return found


@contextlib.contextmanager
def by_agent(directory, base_port):
    """Give the federation of the agent, whose nodes are connected."""
    bed = starts.make(directory, base_port, variables=VARIABLES)
    try:
        for machine in bed.machines:
            bed.deploy(machine)
            bed.wait_ready(machine)
        fleet = Fleet(bed, bed.superlink.root / "var/lib/flower-agent/tls/ca.crt")
        starts.wait_for(fleet.nodes_online)
        yield fleet
    finally:
        bed.down()


@contextlib.contextmanager
def by_script(directory, base_port):
    """Give the same of the script."""
    bed = starts.make(directory, base_port, name="bench-script", variables=VARIABLES)
    image = flower_versions.image("flower-agent", "superexec", bed.version) + "-sklearn"
    names = []
    try:
        for number, machine in enumerate((bed.superlink, *bed.supernodes), -1):
            place = machine.root / "run/one-context"
            place.mkdir(parents=True)
            names += [f"{machine.prefix}-{part}" for part in ("superexec", machine.role)]
            environment = starts.script_environment(bed) | {
                "SUPEREXEC_IMAGE": image,
                "NODE_CONFIG": f"partition-id={max(number, 0)} num-partitions={NODES}",
            }
            command = [str(starts.HERE / "script.sh"), machine.role, str(place), machine.prefix]
            bed.appear(machine)
            subprocess.run(command, env=environment, check=True, timeout=LIMIT_S)
        fleet = Fleet(bed, bed.superlink.root / "run/one-context/ca.crt")
        starts.wait_for(fleet.nodes_online)
        yield fleet
    finally:
        subprocess.run(["docker", "rm", "-f", *names], check=False, capture_output=True)
        bed.down()


def bundles(bed):
    """Return the bundle of the reference app, and of one whose ClientApp on node 0 waits."""
    files = git.read(federation.APP)
    with contextlib.closing(Engine("bench", url=socket_url())) as engine:
        build, image = (
            Bundler(engine).build,
            flower_versions.image("flwr", "superlink", bed.version),
        )
        return build(image, files), build(image, {**files, CLIENT: waiting(files[CLIENT])})


CLIENT = "digits/client_app.py"


def waiting(source):
    """Return the ClientApp's source with a training that does not end on node 0."""
    head, line, rest = source.partition(b"    partition_id, num_partitions = config.partition(")
    if not line:
        raise ValueError("the reference app's ClientApp is another one by now")
    stuck = '    if context.node_config["partition-id"] == 0:\n'
    stuck += "".join(f"    {each}\n" if each else "\n" for each in STUCK.splitlines())
    return head + stuck.encode() + line + rest


def killed(fleet, bundle):
    """Kill a ClientApp that trains; return the seconds until its node's status file warns of it.

    One that has not taken its message yet would be started again by Flower, half a minute later.
    """
    bed, node = fleet.bed, fleet.bed.supernodes[0]
    run_id = fleet.start(bundle)
    live = node.root / "var/lib/flower-agent/runs/live" / run_id
    starts.wait_for((live / "work" / TRAINS).exists)
    os.kill(app(f"{node.prefix}-flower-superexec"), signal.SIGKILL)
    begin = time.monotonic()
    starts.wait_for(lambda: warned(bed.status(node), run_id))
    took = time.monotonic() - begin
    fleet.stop(run_id)
    time.sleep(SETTLE_S)
    return took


def warned(status, run_id):
    """Return whether a status document warns of a ClientApp of this run that died."""
    return any(
        each["code"] == "run.client_died" and f"run {run_id} " in each["message"]
        for each in status.get("warnings", ())
    )


def app(container):
    """Return the process of the ClientApp itself in a container, not its launcher; else None."""
    told = subprocess.run(
        ["docker", "top", container, "-eo", "pid"], check=True, capture_output=True, text=True
    )
    for pid in told.stdout.split()[1:]:
        with contextlib.suppress(OSError):
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if is_app(words):
                return int(pid)
    return None


def is_app(words):
    """Return whether a command line is that of a ClientApp: Flower's program, by program.py."""
    names = [word.rpartition(b"/")[2] for word in words]
    return b"program.py" in names and CLIENTAPP in names
