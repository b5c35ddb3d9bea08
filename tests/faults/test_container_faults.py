"""A container dies in each way that Docker knows, a SuperLink goes and comes, a port is taken."""

import itertools
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest
from agents import (
    bodies,
    catches,
    causes,
    children,
    events,
    go_on,
    hang,
    ids,
    logged,
    names,
    node_id,
    ready_anew,
    runs,
    said,
)
from watched import docker, started, wait_for

from flower_agent.config.flower_versions import Transport
from flower_agent.flower.control_client import Control
from flower_agent.flower.control_messages import NodeStatus
from flower_agent.model.address import Address
from flower_agent.reconcile import restart_policy

pytestmark = [pytest.mark.engine, pytest.mark.federation]

PAIR = ("fa-pair", 24500)
SCALE = 0.1
HOG = "import time; taken = bytearray(1 << 30); taken[::4096] = b'x' * (1 << 18); time.sleep(60)"
BREAKABLE = """\
FROM flwr/superlink:1.25.0-py3.13-ubuntu24.04
ENTRYPOINT ["sh", "-c", "[ ! -e /app/state/broken ] || set -- \\"$@\\" --fleet-api-address nowhere;\
 exec flower-superlink \\"$@\\"", "sh"]
"""
"""The real SuperLink; while that file is there it gets an address that it cannot parse."""


def reasons(federation, machine):
    """Return code and message of each thing that stood in the VM's way."""
    found = [e for e in events(federation, machine) if e["event"].startswith("state.")]
    return [(e["code"], e["message"]) for e in found if "code" in e]


def ready_after(federation, machine, name, before):
    """Wait until a container was started again and the VM is ready with it."""
    wait_for(lambda: runs(name) and started(name) != before, f"another start of {name}")
    wait_for(lambda: federation.status(machine)["state"] == "ready", "ready", 120)


def runs_out_of_memory(name):
    """Let a container's program take more than it may have; the kernel kills it."""
    for pid in children(name):  # of all in the container it shall take Flower, not the hog
        pathlib.Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
    command = ["docker", "exec", name, "python", "-c", HOG]
    subprocess.run(command, check=False, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, 137), (signal.SIGTERM, 0), (signal.SIGSEGV, 139)]
)
def test_a_container_that_ends_is_started_again_and_nothing_else_is(two, number, status):
    link, node = two.machines
    name, other = names(node)
    before, kept = started(name), [*ids(link), started(other)]
    if number == signal.SIGTERM:  # Flower sets its handler some time after it connected
        wait_for(lambda: all(catches(pid, number) for pid in children(name)), "Flower's handler")
    for pid in children(name):
        os.kill(pid, number)
    ready_after(two, node, name, before)
    assert causes(two, node, name)[-1] == f"exited {status}"
    assert [*ids(link), started(other)] == kept


def test_a_container_that_runs_out_of_memory_is_started_again_and_the_cause_is_named(lone):
    federation = lone(24600, "fa-memory", scale=SCALE, FLOWER_MEMORY_LIMIT="256M")
    machine = federation.superlink
    federation.deploy(machine)
    federation.wait_ready(machine)
    link, name = names(machine)
    kept = started(link)
    for _ in range(2):
        before = started(name)
        runs_out_of_memory(name)
        ready_after(federation, machine, name, before)
        assert causes(federation, machine, name)[-1] == "out of memory"
    told = [e for e in reasons(federation, machine) if name in e[1]]
    ended = [message for code, message in told if code == "container.exited"]
    assert ended[-1].endswith("it was killed because it ran out of memory")
    # On a slow machine it is back, and not attached yet.
    assert {code for code, _ in told} <= {"container.exited", "superexec.detached"}
    assert started(link) == kept


LOOK_S = 0.4
"""A rest counts from the beginning of the look that saw the end, which may have been before it."""


def rests(name):
    """Return how long a container lay after each of its ends but the last, by Docker's clock."""
    command = ["events", "--since", "1h", "--until", "0s", "--filter", f"container={name}"]
    lines = docker(*command, "--format", "{{.TimeNano}} {{.Status}}").splitlines()
    marks = [(int(at) / 1e9, what) for at, what in (line.split(" ", 1) for line in lines)]
    marks = [mark for mark in marks if mark[1] in ("die", "start")]
    return [
        later[0] - earlier[0]
        for earlier, later in itertools.pairwise(marks)
        if (earlier[1], later[1]) == ("die", "start")
    ]


def test_a_crash_loop_rests_longer_each_time_is_explained_and_is_forgiven_after_health(
    lone, tmp_path
):
    (tmp_path / "Dockerfile").write_text(BREAKABLE)
    docker("build", "-q", "-t", "fa-loop/superlink:1.25.0-py3.13-ubuntu24.04", str(tmp_path))
    docker("tag", "flwr/superexec:1.25.0", "fa-loop/superexec:1.25.0")
    scale = 0.05
    federation = lone(
        24640,
        "fa-loop",
        scale=scale,
        FLOWER_IMAGE_PREFIX="fa-loop",
        ML_FRAMEWORK="",
        FLOWER_READY_TIMEOUT="86400",
    )
    machine = federation.superlink
    name = names(machine)[0]
    broken = machine.root / "var/lib/flower-agent/superlink/broken"
    broken.parent.mkdir(parents=True)
    broken.touch()
    federation.deploy(machine)
    try:
        wait_for(lambda: len(rests(name)) >= 4, "four rests", 120)
        meaning = "an address is not of the form host:port"
        wait_for(lambda: said(federation, machine) == "container.crash_loop", "the crash loop")
        told = reasons(federation, machine)
        assert (
            "container.exited",
            f"{name} ended 2 times in a row, the last time with status 1: {meaning}",
        ) in told
        looped = f"{name} ended 3 times in a row, the last time with status 1: {meaning}; next try"
        assert any(code == "container.crash_loop" and looped in why for code, why in told)
        assert "\x1b[91mERROR" in docker("logs", name)  # the code stands nowhere else
        wait_for(
            lambda: "container.crash_loop" in federation.attributes(machine).get("FLOWER_ERROR"),
            "the crash loop at OneGate",
        )
        wait_for(
            lambda: meaning in " ".join(federation.agent(machine, "status").stdout.split()),
            "its meaning in the status",
        )
        for failures, rest in enumerate(rests(name)[:4], 1):
            assert rest >= restart_policy.delay_s(failures) * scale - LOOK_S, rests(name)
        broken.unlink()
        federation.wait_ready(machine)
        count = federation.status(machine)["containers"][0]["restarts"]
        assert count >= 4
        healthy_s = restart_policy.FORGIVEN_AFTER_S * scale
        time.sleep(healthy_s + 0.5)  # the life that is to be forgiven for
        before = started(name)
        docker("kill", name)
        ready_after(federation, machine, name, before)
        # The start is seen before the turn that made it has written its status.
        wait_for(
            lambda: federation.status(machine)["containers"][0]["restarts"] == 1, "one restart"
        )
    finally:
        federation.down()
        docker(
            "rmi", "-f", "fa-loop/superlink:1.25.0-py3.13-ubuntu24.04", "fa-loop/superexec:1.25.0"
        )


def test_an_end_without_a_known_code_is_told_with_its_last_line(lone, tmp_path):
    image = "fa-words/superlink:1.25.0-py3.13-ubuntu24.04"
    script = '["sh", "-c", "echo the cat ate the power cord; exit 7"]'
    text = f"FROM flwr/superlink:1.25.0-py3.13-ubuntu24.04\nENTRYPOINT {script}\n"
    (tmp_path / "Dockerfile").write_text(text)
    docker("build", "-q", "-t", image, str(tmp_path))
    docker("tag", "flwr/superexec:1.25.0", "fa-words/superexec:1.25.0")
    variables = {"FLOWER_IMAGE_PREFIX": "fa-words", "ML_FRAMEWORK": ""}
    federation = lone(24680, "fa-words", scale=SCALE, **variables)
    machine = federation.superlink
    try:
        federation.deploy(machine)
        wait_for(lambda: said(federation, machine) == "container.crash_loop", "the crash loop")
        assert "after: the cat ate the power cord" in federation.status(machine)["error"]["message"]
        federation.write_context(machine, {**machine.variables, "FLOWER_IMAGE_PREFIX": "flwr"})
        federation.wait_ready(machine)
    finally:
        federation.down()
        docker("rmi", "-f", image, "fa-words/superexec:1.25.0")


def test_a_supernode_that_boots_before_its_superlink_waits_without_a_container(pair):
    status, containers = pair.before
    assert (status["state"], status["phase"]) == ("starting", "discover")
    assert status["error"]["hint"]
    assert containers == ""


def nodes(federation):
    """Return the nodes as the SuperLink's Control API tells them; killed ones stay for a minute."""
    ca = (federation.superlink.root / "var/lib/flower-agent/tls/ca.crt").read_bytes()
    control = Control(Address("127.0.0.1", federation.control_port), Transport.GRPC, ca)
    try:
        return control.list_nodes(10)
    finally:
        control.close()


def begin_anew(federation):
    """Take a SuperLink's database away while its agent is down, and start it again."""
    link = federation.superlink
    federation.stop_agent(link)
    docker("stop", names(link)[0])
    shutil.rmtree(link.root / "var/lib/flower-agent/superlink")
    begun = len(events(federation, link))
    federation.start_agent(link)
    ready_anew(federation, link, begun)


def test_a_superlink_restarted_with_its_database_keeps_its_nodes(two):
    link, node = two.machines
    before, kept = node_id(two, node), ids(node)
    name = names(link)[0]
    start, begun = started(name), len(events(two, node))
    docker("kill", name)
    ready_after(two, link, name, start)
    wait_for(lambda: "state.degraded" in logged(two, node, begun), "the node saw it")
    ready_anew(two, node, begun)
    assert node_id(two, node) == before

    def online():
        """The SuperLink counts it again at its next heartbeat, which comes each 30 s."""
        return [n.status for n in nodes(two) if n.node_id == before] == [NodeStatus.ONLINE]

    wait_for(online, "the same node is online")
    assert ids(node) == kept


def test_a_superlink_with_a_fresh_database_gets_its_nodes_back_under_new_ids(two):
    link, node = two.machines
    name = names(node)[0]
    before, start = node_id(two, node), started(name)
    partition = two.status(node)["partition"]
    begin_anew(two)
    ready_after(two, node, name, start)
    # Now and then its Flower hangs at its end instead, and the agent stops it.
    assert causes(two, node, name)[-1] in ("exited 0", "exited 143")
    wait_for(lambda: two.status(node)["node_id"] not in (None, before), "another node id")
    wait_for(lambda: two.status(link)["nodes"] == 1, "one node counted")
    assert two.status(node)["partition"] == partition


def test_a_supernode_that_was_forgotten_and_hangs_instead_of_ending_is_restarted(lone, tmp_path):
    image = "fa-stays/supernode:1.25.0-py3.13-ubuntu24.04"
    script = '["sh", "-c", "flower-supernode \\"$@\\"; exec sleep 600", "sh"]'
    text = f"FROM flwr/supernode:1.25.0-py3.13-ubuntu24.04\nENTRYPOINT {script}\n"
    (tmp_path / "Dockerfile").write_text(text)
    docker("build", "-q", "-t", image, str(tmp_path))
    federation = lone(24560, "fa-stays", scale=SCALE)
    link, node = federation.superlink, federation.supernodes[0]
    node.variables["FLOWER_IMAGE_PREFIX"] = "fa-stays"
    try:
        for machine in (link, node):
            federation.deploy(machine)
            federation.wait_ready(machine)
        before = started(names(node)[0])
        begin_anew(federation)
        ready_after(federation, node, names(node)[0], before)
        stops = [e["cause"] for e in events(federation, node) if e["event"] == "container.stop"]
        assert set(stops) == {"its Flower gave up"}  # on a slow machine more than once
    finally:
        federation.down()
        docker("rmi", "-f", image)


@pytest.mark.parametrize(
    ("hinder", "free", "code"),
    [
        (
            lambda name: docker("pause", name),
            lambda name: docker("unpause", name),
            "container.paused",
        ),
        (hang, go_on, "health.not_serving"),
    ],
    ids=["paused", "stopped"],
)
def test_a_superlink_that_hangs_is_named_on_both_sides_and_goes_on(two, hinder, free, code):
    link, node = two.machines
    name = names(link)[0]
    before = ids(link, node)
    hinder(name)
    try:
        wait_for(lambda: said(two, link) == code, code)
        assert two.status(link)["state"] == "degraded"
        wait_for(lambda: two.attributes(link).get("READY") == "NO", "READY=NO")
        wait_for(lambda: said(two, node) == "peer.mute", "peer.mute", 120)
        assert two.status(node)["state"] == "degraded"
    finally:
        free(name)
    for machine in (link, node):  # a SuperExec that lost its connection waits long before the next
        wait_for(lambda m=machine: two.status(m)["state"] == "ready", "ready", 150)
    wait_for(lambda: two.attributes(link).get("READY") == "YES", "READY=YES again")
    assert ids(link, node) == before


@pytest.mark.parametrize("away_s", [20, pytest.param(120, marks=pytest.mark.long)])
def test_a_superlink_that_was_away_finds_its_nodes_as_they_were(two, away_s):
    link, node = two.machines
    before, identity = ids(node), node_id(two, node)
    told = len(bodies(two, node))
    two.stop_agent(link)
    docker("stop", names(link)[0])
    back_at = time.monotonic() + away_s
    wait_for(lambda: two.status(node)["state"] == "degraded", "degraded")
    wait_for(lambda: said(two, node) == "peer.lost", "peer.lost")
    wait_for(lambda: two.attributes(node).get("READY") == "NO", "READY=NO")
    assert ids(node) == before
    time.sleep(max(back_at - time.monotonic(), 0))
    begun = len(events(two, link))
    two.start_agent(link)
    ready_anew(two, link, begun)
    wait_for(lambda: two.status(node)["state"] == "ready", "the node is ready", 120)
    wait_for(lambda: "READY=YES" in "".join(bodies(two, node)[told:]), "READY=YES again")
    assert ids(node) == before
    assert node_id(two, node) == identity


@pytest.mark.parametrize(
    "variable", ["FLOWER_FLEET_PORT", "FLOWER_CONTROL_ADDRESS", "FLOWER_HEALTH_PORT"]
)
def test_a_taken_port_is_named_before_anything_starts_and_used_when_it_is_free(lone, variable):
    federation = lone(24720, "fa-port", scale=SCALE, FLOWER_ISOLATION="subprocess")
    machine = federation.superlink
    port = int(machine.variables[variable].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        federation.deploy(machine)
        wait_for(lambda: said(federation, machine) == "port.taken", "port.taken")
        assert f"127.0.0.1:{port}" in federation.status(machine)["error"]["message"]
        assert f":{port}" in federation.agent(machine, "status").stdout
        assert not causes(federation, machine, names(machine)[0])
    federation.wait_ready(machine)


def test_a_port_that_is_taken_while_its_container_was_down_is_named_and_waited_for(two):
    node = two.supernodes[0]
    name = names(node)[0]
    port = int(node.variables["FLOWER_CLIENTAPPIO_PORT"])
    before = started(name)
    two.stop_agent(node)
    docker("kill", name)
    with socket.create_server(("127.0.0.1", port)):
        two.start_agent(node)
        wait_for(lambda: said(two, node) == "port.taken", "port.taken")
        assert f"127.0.0.1:{port}" in two.status(node)["error"]["message"]
        assert started(name) == before
    ready_after(two, node, name, before)
