"""Helpers of these tests: an agent that dies on request, and what Docker did meanwhile."""

import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from watched import WatchedFederation, docker, started, wait_for

DRIVER = pathlib.Path(__file__).with_name("kill_after.py")
PARTS = {"superlink": ("superlink", "superexec"), "supernode": ("supernode", "superexec")}


def drive(federation, machine, **options):
    """Start a VM's agent under `kill_after.py` with these options; return its process."""
    words = [word for k, v in options.items() for word in (f"--{k}", str(v))]
    _, _, _, *arguments = federation.command(machine, "run")
    federation._start(machine.prefix, [sys.executable, str(DRIVER), *words, *arguments])
    return federation._processes[machine.prefix]


def end(federation, machine):
    """End a VM's agent by SIGTERM; return its exit status and the seconds that it took."""
    process = federation._processes[machine.prefix]
    assert process.poll() is None, federation.log(machine)
    began = time.monotonic()
    federation.stop_agent(machine)
    return process.returncode, time.monotonic() - began


def said(federation, machine):
    """Return the code of what stands in a VM's way."""
    return (federation.status(machine).get("error") or {}).get("code")


def names(machine):
    return [f"{machine.prefix}-flower-{part}" for part in PARTS[machine.role]]


def ids(*machines):
    """Return id and start of each container."""
    return [started(name).strip() for machine in machines for name in names(machine)]


def events(federation, machine):
    """Return what a VM's agent logged, line by line."""
    lines = federation.log(machine).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def logged(federation, machine, begun=0):
    """Return the names of what a VM's agent logged after its first `begun` lines."""
    return {event["event"] for event in events(federation, machine)[begun:]}


def ready_anew(federation, machine, begun):
    """Wait until the agent that was started after `begun` lines says so: a status file may be old.

    Return the names of all that it logged.
    """
    wait_for(lambda: "state.ready" in logged(federation, machine, begun), "ready anew", 120)
    wait_for(lambda: federation.status(machine)["state"] == "ready", "ready in the status")
    return logged(federation, machine, begun)


def node_id(federation, machine):
    """Return the id that a SuperNode has, once it has one."""
    wait_for(lambda: federation.status(machine).get("node_id"), "a node id", 120)
    return federation.status(machine)["node_id"]


def runs(name):
    """Return whether a container is there and runs."""
    form = ["docker", "inspect", "-f", "{{.State.Running}}", name]
    return subprocess.run(form, check=False, capture_output=True, timeout=60).stdout == b"true\n"


def children(name):
    """Return the ids of Flower's processes in a container, as this machine counts them."""
    init = docker("inspect", "-f", "{{.State.Pid}}", name).strip()
    found = pathlib.Path(f"/proc/{init}/task/{init}/children").read_text()
    return [int(pid) for pid in found.split()]


def catches(pid, number):
    """Return whether a process has a handler for a signal; proc(5), ``SigCgt``."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def hang(name):
    """Let Flower hang where it is; Docker does not see it."""
    for pid in children(name):
        os.kill(pid, signal.SIGSTOP)


def go_on(name):
    """End what `hang` began."""
    for pid in children(name):
        os.kill(pid, signal.SIGCONT)


def causes(federation, machine, name):
    """Return why a VM's agent started a container, each time."""
    logged = events(federation, machine)
    return [e["cause"] for e in logged if e["event"] == "container.start" and e["name"] == name]


def bodies(federation, machine):
    return [body for _, body, _ in federation.cloud.updates(machine.vmid)]


def state(name):
    """Return Docker's state of a container."""
    return json.loads(docker("inspect", "-f", "{{json .State}}", name))


def moment(text):
    """Return Docker's time, which has nanoseconds."""
    return datetime.datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*Z$", r".\1+00:00", text))


@pytest.fixture(scope="module")
def pair(request, tmp_path_factory, images):
    """A SuperLink and a SuperNode at the name and port in the module's PAIR; the node came first.

    `before` holds the node's status, and its containers, while no SuperLink was there.
    """
    name, port = request.module.PAIR
    made = WatchedFederation(
        tmp_path_factory.mktemp(name),
        name=name,
        base_port=port,
        supernodes=1,
        variables={"FLOWER_NODE_AUTH": "NO"},  # enrolment has tests of its own
        environment={"FLOWER_AGENT_TIME_SCALE": "0.1"},
        say=lambda _: None,
    )
    link, node = made.superlink, made.supernodes[0]
    try:
        made.start_onegate()
        made.deploy(node)
        wait_for(lambda: said(made, node) == "discover.waiting", "discover.waiting")
        owner = f"label=org.flower-agent.name={node.prefix}"
        made.before = made.status(node), docker("ps", "-aq", "--filter", owner)
        made.deploy(link)
        made.wait_ready(link)
        made.wait_ready(node)
        yield made
    finally:
        made.down()


@pytest.fixture
def two(pair):
    """The pair, ready; and made ready again for the next test."""
    for machine in pair.machines:
        pair.wait_ready(machine)
    return pair
