"""The agent dies, is replaced, or meets another: the containers, and a run in them, do not care."""

import shutil
import signal
import socket
import subprocess
import threading

import pytest
from agents import (
    bodies,
    children,
    drive,
    end,
    events,
    go_on,
    hang,
    ids,
    logged,
    names,
    ready_anew,
    runs,
    said,
)
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from watched import docker, started, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.federation]

PAIR = ("fa-two", 24000)
SOON_S = 5.0
"""The agent's own limit is two seconds; what is more is only for a machine that is busy."""


def whole(machine):
    """Return whether a VM's containers run and have their full CPU share."""
    form = "{{.State.Running}} {{.HostConfig.CpuShares}}"
    command = ["docker", "inspect", "-f", form, *names(machine)]
    seen = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return seen.stdout.splitlines() in (["true 0", "true 1024"], ["true 1024"] * 2)


def kill_after_each_step(federation, machine, told, done):
    """Kill each agent after its first step until `done`; return the steps. No healthy one moves."""
    healthy, steps = {}, []
    while not done():
        process = drive(federation, machine, after=1, told=told)
        wait_for(lambda p=process: p.poll() is not None, f"a step after {steps}")
        assert process.returncode == -signal.SIGKILL, federation.log(machine)
        steps = told.read_text().splitlines()
        now = dict(zip(names(machine), ids(machine), strict=True))
        for name, before in healthy.items():
            assert now[name] == before, (name, steps)
        action, _, name = steps[-1].partition(" ")
        if action == "start":
            healthy[name] = now[name]
    return steps


def settle(federation, machine):
    """Start and end the agent as it is; it must find nothing to do."""
    before, begun = ids(machine), len(events(federation, machine))
    federation.start_agent(machine)
    done = ready_anew(federation, machine, begun)
    federation.stop_agent(machine)
    assert not [event for event in done if event.startswith(("container.", "tls."))]
    assert federation.agent(machine, "plan").stdout.startswith("nothing to do")
    assert ids(machine) == before


def declared(federation, machine, **changes):
    """Add a VM and write its context; start nothing."""
    token = federation.cloud.add_vm(machine.vmid, machine.name, machine.role, 7)
    federation.write_context(machine, {**machine.variables, **changes}, token=token)


def test_an_agent_killed_after_each_step_of_a_start_and_of_a_change_comes_to_the_same_end(
    lone, tmp_path
):
    federation = lone(24200, "fa-steps", scale=0.1)
    machine = federation.superlink
    link, executor = names(machine)
    declared(federation, machine)
    told = tmp_path / "first"
    steps = kill_after_each_step(federation, machine, told, lambda: whole(machine))
    assert steps == [
        "make CA",
        "issue certificate",
        f"create {link}",
        f"start {link}",
        f"create {executor}",
        f"start {executor}",
        f"update {executor}",
    ]
    settle(federation, machine)
    before = ids(machine)
    federation.write_context(machine, {**machine.variables, "FLOWER_LOG_LEVEL": "DEBUG"})
    told = tmp_path / "change"
    steps = kill_after_each_step(
        federation,
        machine,
        told,
        lambda: whole(machine) and not set(ids(machine)) & set(before),
    )
    for name in (link, executor):
        mine = [step.partition(" ")[0] for step in steps if step.endswith(f" {name}")]
        wanted = ["stop", "remove", "create", "start", *(["update"] if name == executor else [])]
        assert mine in (wanted, wanted[1:])  # a SuperExec may end with its SuperLink
    settle(federation, machine)


@pytest.mark.long
@pytest.mark.parametrize("after", range(1, 8))
def test_a_start_that_was_killed_once_is_finished_by_the_next_agent(lone, after):
    federation = lone(24240, "fa-once", scale=0.1)
    machine = federation.superlink
    declared(federation, machine)
    process = drive(federation, machine, after=after)
    wait_for(lambda: process.poll() is not None, f"the end after step {after}")
    running = [seen for seen in ids(machine) if seen and "0001-01-01" not in seen]
    federation.start_agent(machine)
    wait_for(lambda: whole(machine), "both containers as wanted")
    federation.wait_ready(machine)
    assert set(running) <= set(ids(machine))
    assert federation.agent(machine, "plan").stdout.startswith("nothing to do")


def test_an_agent_killed_after_each_file_of_its_certificates_keeps_its_ca_and_makes_a_pair(lone):
    federation = lone(24280, "fa-files")
    machine = federation.superlink
    declared(federation, machine, FLOWER_ISOLATION="subprocess")
    tls = machine.root / "var/lib/flower-agent/tls"
    for count, file in enumerate(("ca/ca.pem", "ca.crt", "server.key", "server.pem"), 1):
        shutil.rmtree(machine.root / "var", ignore_errors=True)
        process = drive(federation, machine, of="writes", after=count)
        wait_for(lambda p=process: p.poll() is not None, f"the end after {file}")
        assert (tls / file).exists()
        made = (tls / "ca/ca.pem").read_bytes()
        process = drive(federation, machine, after=1)  # the certificate, else the container
        wait_for(lambda p=process: p.poll() is not None, "the end after the next step")
        assert (tls / "ca/ca.pem").read_bytes() == made
        authority = x509.load_pem_x509_certificate((tls / "ca.crt").read_bytes())
        assert (tls / "ca.crt").read_bytes().strip() in made
        leaf = x509.load_pem_x509_certificate((tls / "server.pem").read_bytes())
        leaf.verify_directly_issued_by(authority)
        key = load_pem_private_key((tls / "server.key").read_bytes(), None)
        form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        assert key.public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form)
        assert not list(tls.rglob("*.tmp"))


def test_a_stopped_restarted_or_upgraded_agent_leaves_the_containers_and_the_readiness(two):
    link, node = two.machines
    before, told = ids(*two.machines), {m.vmid: len(bodies(two, m)) for m in two.machines}
    for machine in two.machines:
        two.stop_agent(machine)
        assert two.agent(machine, "status").returncode == 3
    assert ids(link, node) == before
    for version in ("", "99.0.0", ""):  # as it is, upgraded, and back
        for machine in two.machines:
            two.stop_agent(machine)
            begun = len(events(two, machine))
            drive(two, machine, **({"version": version} if version else {}))
            done = ready_anew(two, machine, begun)
            wait_for(
                lambda m=machine, v=version: v in ("", two.status(m)["agent_version"]),
                "its version in the status",
            )
            assert not [e for e in done if e.startswith(("container.", "tls."))]
            assert "state.degraded" not in done
    assert ids(link, node) == before
    for machine in two.machines:
        assert not any("READY=NO" in body for body in bodies(two, machine)[told[machine.vmid] :])


def test_a_second_agent_of_the_name_or_the_root_refuses_and_touches_nothing(two, tmp_path):
    machine = two.superlink
    before = ids(machine)
    command = two.command(machine, "run")
    for option, value in (("--root", str(tmp_path)), ("--name", "fa-another")):
        other = list(command)
        other[other.index(option) + 1] = value
        done = subprocess.run(other, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "agent.running" in done.stderr
    assert ids(machine) == before
    assert two.agent(machine, "status").returncode == 0


def test_a_foreign_container_of_our_name_is_named_and_left_alone_until_it_is_renamed(lone):
    federation = lone(24320, "fa-foreign", scale=0.1)
    machine = federation.superlink
    name, _ = names(machine)
    sleep = ["--network", "host", "--entrypoint", "sleep", "flwr/superexec:1.25.0", "600"]
    try:
        docker("run", "-d", "--name", name, *sleep)
        before = started(name)
        federation.deploy(machine)
        wait_for(lambda: said(federation, machine) == "container.foreign", "container.foreign")
        shown = federation.agent(machine, "status")
        assert shown.returncode in (1, 5)
        assert name in shown.stdout
        wait_for(
            lambda: "container.foreign" in federation.attributes(machine).get("FLOWER_ERROR", ""),
            "container.foreign at OneGate",
        )
        assert started(name) == before
        assert ids(machine)[1] == ""
        docker("rename", name, f"{name}-foreign")
        federation.wait_ready(machine)
        assert started(f"{name}-foreign") == before
    finally:
        for each in (name, f"{name}-foreign"):
            subprocess.run(["docker", "rm", "-f", each], check=False, capture_output=True)


def silent(port):
    """Return a server that accepts and never says a word."""
    return socket.create_server(("127.0.0.1", port))


def without_context(federation):
    machine = federation.superlink
    (machine.root / "run/one-context").mkdir(parents=True)
    return machine, "context"


def without_superlink(federation):
    federation.cloud.fault("hang")
    declared(federation, federation.supernodes[0])
    return federation.supernodes[0], "discover"


def with_broken_ca(federation):
    machine = federation.superlink
    directory = machine.root / "var/lib/flower-agent/tls/ca"
    directory.mkdir(parents=True)
    (directory / "ca.pem").write_text("broken")
    declared(federation, machine)
    return machine, "tls"


def with_a_silent_registry(federation):
    declared(federation, federation.superlink, FLOWER_IMAGE_PREFIX="127.0.0.1:24361/flwr")
    return federation.superlink, "image"


def with_a_taken_port(federation):
    declared(federation, federation.superlink, FLOWER_FLEET_PORT="24361")
    return federation.superlink, "container"


@pytest.mark.parametrize(
    "hinder",
    [without_context, without_superlink, with_broken_ca, with_a_silent_registry, with_a_taken_port],
)
def test_sigterm_ends_an_agent_that_waits(lone, hinder):
    federation = lone(24380, "fa-waits")
    with silent(24361):
        machine, phase = hinder(federation)
        federation.start_agent(machine)
        wait_for(lambda: federation.status(machine).get("phase") == phase, phase)
        status, seconds = end(federation, machine)
    assert status == 0
    assert seconds < SOON_S


@pytest.mark.parametrize("answers", [False, True], ids=["absent", "hung"])
def test_sigterm_ends_an_agent_without_docker_and_leaves_the_containers(two, tmp_path, answers):
    machine = two.superlink
    before = ids(machine)
    two.stop_agent(machine)
    plain, path = two._environment, tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as hung:
        if answers:
            hung.settimeout(60)
            hung.bind(str(path))
            hung.listen()
        two._environment = {**plain, "DOCKER_HOST": f"unix://{path}"}
        two.start_agent(machine)
        two._environment = plain
        if answers:
            call, _ = hung.accept()  # the agent waits for the answer now
        else:
            wait_for(lambda: said(two, machine) == "docker.down", "docker.down")
        status, seconds = end(two, machine)
        if answers:
            call.close()
    begun = len(events(two, machine))
    two.start_agent(machine)
    assert (status, seconds < SOON_S) == (0, True)
    ready_anew(two, machine, begun)
    assert ids(machine) == before


def test_sigterm_ends_an_agent_whose_container_does_not_answer_yet(lone):
    federation = lone(24420, "fa-health")
    machine = federation.superlink
    name = names(machine)[0]
    declared(federation, machine, FLOWER_ISOLATION="subprocess")
    federation.start_agent(machine)
    wait_for(lambda: runs(name) and children(name), "a running container")
    hang(name)  # keeps it from ever answering
    before = started(name)
    wait_for(lambda: federation.status(machine).get("phase") == "health", "phase health")
    status, seconds = end(federation, machine)
    assert (status, seconds < SOON_S) == (0, True)
    assert started(name) == before
    go_on(name)
    federation.start_agent(machine)
    federation.wait_ready(machine)
    assert started(name) == before


def test_sigterm_ends_a_ready_agent_and_one_that_lost_its_superlink(two):
    link, node = two.machines
    before = ids(node)
    for machine in (node, link):
        status, seconds = end(two, machine)
        assert (status, seconds < SOON_S) == (0, True)
    begun = len(events(two, node))
    two.start_agent(node)
    ready_anew(two, node, begun)
    docker("stop", names(link)[0])
    wait_for(lambda: two.status(node).get("phase") == "peer", "phase peer")
    status, seconds = end(two, node)
    assert (status, seconds < SOON_S) == (0, True)
    assert ids(node) == before
    for machine in (link, node):
        begun = len(events(two, machine))
        two.start_agent(machine)
        ready_anew(two, machine, begun)
    assert ids(node) == before


class Run(threading.Thread):
    """A run of the reference app, told line by line."""

    def __init__(self, federation, rounds):
        super().__init__(daemon=True)
        self.lines = []
        self._federation, self._config = federation, f"min-clients=1 num-server-rounds={rounds}"

    def run(self):
        for line in self._federation.submit(self._config):
            self.lines.append(line)

    def rounds(self):
        return sum(": accuracy" in line for line in self.lines)

    def finished(self):
        return any("finished: " in line for line in self.lines)


def test_a_run_survives_a_killed_agent_an_upgrade_onegate_away_and_a_context_that_is_not_its(two):
    link, node = two.machines
    before = ids(link, node)
    run = Run(two, rounds=5)
    run.start()
    try:
        wait_for(lambda: run.rounds() >= 1, "the first round", 180)
        two.cloud.stop()
        begun = [len(events(two, machine)) for machine in two.machines]
        two.stop_agent(link, signal.SIGKILL)
        two.start_agent(link)
        two.stop_agent(node)
        drive(two, node, version="99.0.0")
        for machine, count in zip(two.machines, begun, strict=True):
            ready_anew(two, machine, count)
            two.write_context(machine, {**machine.variables, "FLOWER_READY_TIMEOUT": "700"})
            wait_for(
                lambda m=machine, n=count: "context.changed" in logged(two, m, n),
                "the context taken",
            )
        assert not run.finished()
        two.cloud.start(port=two.base_port)
        wait_for(run.finished, "the end of the run", 300)
        assert run.rounds() == 5
        assert ids(link, node) == before
    finally:
        for machine in two.machines:
            two.write_context(machine, machine.variables)
        if two.cloud._server is None:
            two.cloud.start(port=two.base_port)
        run.join(60)
