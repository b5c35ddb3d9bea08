"""Docker late, restarted, killed or hung; the VM rebooted or cut off from its power.

The VM has a Docker of the tests' own, which is broken for real; DOCKER_HOST sends there what the
tests ask, too.
"""

import shutil
import signal
import socket
import threading
import time

import pytest
from second_engine import SecondEngine
from watched import docker, started, wait_for

from flower_agent.config import parsing
from flower_agent.flower import container_spec

pytestmark = [pytest.mark.engine, pytest.mark.federation]

ALONE = {"FLOWER_ISOLATION": "subprocess", "ML_FRAMEWORK": ""}
"""One container a VM, of the official image."""


@pytest.fixture(scope="module")
def second_engine(images):
    engine = SecondEngine()
    try:
        engine.start()
        engine.load({image for role in ("superlink", "supernode") for image in needed(role)})
        yield engine
    finally:
        engine.close()


@pytest.fixture
def engine(second_engine, monkeypatch):
    """The second engine, off; the agents and the Docker CLI talk to it."""
    second_engine.power_cut()
    monkeypatch.setenv("DOCKER_HOST", second_engine.url)
    return second_engine


@pytest.fixture
def vm(engine, lone):
    """Makes a SuperLink's VM without an agent, whose waits are a fifth as long."""

    def make(base_port, name, scale=0.2, **variables):
        return Vm(engine, lone(base_port, name, scale, **ALONE, **variables))

    yield make
    if engine.is_on:
        engine.thaw()
    else:
        engine.start()  # what is left can then be removed


class Vm:
    """A SuperLink's VM as these tests see it."""

    def __init__(self, engine, federation):
        self.engine = engine
        self.federation = federation
        self.machine = federation.superlink
        self.container = f"{self.machine.prefix}-flower-superlink"

    def deploy(self):
        self.federation.deploy(self.machine)
        self.wait_ready()

    def wait_ready(self):
        wait_for(lambda: self.state == "ready" and self.attributes["READY"] == "YES", "ready")

    def wait_error(self, code):
        wait_for(lambda: self.error == code, code)

    @property
    def state(self):
        return self.federation.status(self.machine).get("state")

    @property
    def error(self):
        return (self.federation.status(self.machine).get("error") or {}).get("code")

    @property
    def attributes(self):
        return self.federation.attributes(self.machine)

    @property
    def bodies(self):
        return [body for _, body, _ in self.federation.cloud.updates(self.machine.vmid)]

    @property
    def log(self):
        return self.federation.log(self.machine)

    @property
    def container_id(self):
        return started(self.container).split()[0]

    @property
    def answers(self):
        """Whether Flower's Fleet port takes a connection."""
        with socket.socket() as connection:
            connection.settimeout(5)
            port = int(self.machine.variables["FLOWER_FLEET_PORT"])
            return connection.connect_ex(("127.0.0.1", port)) == 0

    def lose_run(self):
        """Empty the VM's /run, as every boot does; return the token that its context had."""
        one_env = (self.machine.root / "run/one-context/one_env").read_text()
        shutil.rmtree(self.machine.root / "run")
        return one_env.split('TOKENTXT="')[1].split('"')[0]


def needed(role):
    """Return the images of a VM of that role."""
    parsed = parsing.parse({"FLOWER_ROLE": role, "FLOWER_VERSION": "1.25.0", **ALONE}, {})
    return container_spec.images(parsed.settings)


# Docker is not there at boot


def test_a_docker_that_comes_late_is_awaited_even_past_the_time_limit(vm, engine):
    late = vm(25000, "fd-late", scale=0.1, FLOWER_READY_TIMEOUT="60")
    late.federation.deploy(late.machine)
    late.wait_error("docker.down")
    assert late.state == "starting"
    wait_for(lambda: late.attributes.get("FLOWER_PHASE") == "docker", "OneGate was told")
    assert "READY=NO" in late.bodies[0]
    late.wait_error("ready.timeout")
    assert late.state == "failed"
    assert "docker.down" in late.federation.agent(late.machine, "status").stdout
    engine.start(live_restore=True)
    late.wait_ready()
    assert '"event": "image.pull"' not in late.log


# Docker is restarted


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_with_live_restore_flower_never_notices_a_restart_of_docker(vm, engine, end):
    kept = vm(25020 if end == "stop" else 25040, f"fd-kept-{end}")
    engine.start(live_restore=True)
    kept.deploy()
    before, told = started(kept.container), len(kept.bodies)
    getattr(engine, end)()
    kept.wait_error("docker.down")
    assert kept.state == "degraded"
    assert kept.federation.agent(kept.machine, "status").returncode == 2
    wait_for(lambda: kept.attributes["READY"] == "NO", "OneGate was told")
    assert kept.attributes["FLOWER_ERROR"].startswith("docker.down")
    assert kept.answers
    engine.start(live_restore=True)
    kept.wait_ready()
    assert started(kept.container) == before
    assert kept.bodies[told:][-1].endswith("READY=YES")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_without_live_restore_the_agent_starts_at_once_what_docker_stopped(vm, engine, end):
    stopped = vm(25060 if end == "stop" else 25080, f"fd-stopped-{end}", scale=1.0)
    engine.start()
    stopped.deploy()
    before = started(stopped.container)
    getattr(engine, end)()
    engine.start()  # after a kill it is now that dockerd stops what survived
    wait_for(lambda: engine.running() == [stopped.container], "started again", 5)
    stopped.wait_ready()
    assert started(stopped.container).split()[0] == before.split()[0]
    assert started(stopped.container) != before
    assert '"cause": "exited 0"' in stopped.log


def test_docker_itself_starts_nothing_while_the_agent_is_away(vm, engine):
    alone = vm(25100, "fd-alone")
    engine.start()
    alone.deploy()
    alone.federation.stop_agent(alone.machine)
    engine.stop()
    engine.start()
    time.sleep(1)
    assert engine.running() == engine.starts() == []
    alone.federation.start_agent(alone.machine)
    wait_for(lambda: engine.running() == [alone.container], "started by the agent")
    alone.wait_ready()


def test_an_agent_that_was_away_while_docker_restarted_finds_its_containers(vm, engine):
    away = vm(25120, "fd-away")
    engine.start(live_restore=True)
    away.deploy()
    before, told = started(away.container), len(away.bodies)
    away.federation.stop_agent(away.machine)
    engine.stop()
    engine.start(live_restore=True)
    away.federation.start_agent(away.machine)
    wait_for(lambda: away.federation.agent(away.machine, "status").returncode == 0, "ready")
    assert started(away.container) == before
    assert not any("READY=NO" in body for body in away.bodies[told:])


def test_containers_are_watched_anew_after_a_restart_of_docker(vm, engine):
    watched = vm(25140, "fd-watched", scale=1.0)
    engine.start(live_restore=True)
    watched.deploy()
    engine.stop()
    engine.start(live_restore=True)
    time.sleep(2)
    before = started(watched.container)
    docker("kill", watched.container)
    wait_for(lambda: engine.running() and started(watched.container) != before, "a new start", 4)


def test_nothing_is_started_in_a_docker_that_shuts_down(vm, engine):
    late = vm(25200, "fd-shutdown")
    engine.start()
    late.deploy()
    (image,) = needed("superlink")
    deaf = ["--name", "fd-deaf", "--network", "none", "--stop-timeout", "4"]
    docker("run", "-d", "--rm", *deaf, "--entrypoint", "sleep", image, "600")
    stopping = threading.Thread(target=engine.stop)
    stopping.start()  # the SuperLink ends at once, and Docker waits for the other one
    late.wait_error("docker.down")
    time.sleep(1.5)
    assert not late.answers
    stopping.join()
    engine.start()
    wait_for(lambda: engine.running() == [late.container], "started again")
    late.wait_ready()


def test_superlink_and_supernode_find_each_other_after_a_restart_of_docker(vm, engine):
    both = vm(25160, "fd-both")
    federation, node = both.federation, both.federation.supernodes[0]
    engine.start()
    both.deploy()
    federation.deploy(node)
    federation.wait_ready(node)
    wait_for(lambda: both.attributes["FLOWER_NODES"] == "1", "a node")
    before = federation.attributes(node)["FLOWER_NODE_ID"]
    engine.stop()
    engine.start()
    both.wait_ready()
    # What was killed is a ghost to the SuperLink for up to a minute; until then it is not let in.
    again = '"event": "state.ready"'
    wait_for(lambda: federation.log(node).count(again) > 1, "ready anew", 150)
    wait_for(lambda: federation.agent(node, "status").returncode == 0, "the SuperNode")
    assert federation.attributes(node)["FLOWER_NODE_ID"] == before  # its key is known


# Docker hangs


def test_a_docker_that_hangs_is_named_and_flower_works_on(vm, engine):
    hung = vm(25240, "fd-hung")
    engine.start(live_restore=True)
    hung.deploy()
    before = started(hung.container)
    engine.freeze()
    wait_for(lambda: hung.error == "docker.down", "docker.down", 15)
    assert hung.state == "degraded"
    wait_for(lambda: hung.attributes["READY"] == "NO", "OneGate was told", 5)
    assert "timed out" in hung.attributes["FLOWER_ERROR"]
    assert hung.answers
    engine.thaw()
    hung.wait_ready()
    assert started(hung.container) == before


def test_the_agent_ends_and_boots_beside_a_docker_that_hangs(vm, engine):
    hung = vm(25260, "fd-frozen")
    engine.start(live_restore=True)
    hung.deploy()
    before = started(hung.container)
    engine.freeze()
    time.sleep(3)  # the loop now waits for an answer
    begin = time.monotonic()
    hung.federation.stop_agent(hung.machine)
    assert time.monotonic() - begin < 5  # the call would wait for at least 6 more
    hung.federation.start_agent(hung.machine)
    hung.wait_error("docker.down")
    assert hung.state == "starting"
    engine.thaw()
    wait_for(lambda: hung.federation.agent(hung.machine, "status").returncode == 0, "ready")
    hung.wait_ready()
    assert started(hung.container) == before


# The VM is rebooted, or loses its power


@pytest.mark.parametrize("live_restore", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("orderly", [True, False], ids=["reboot", "power-cut"])
def test_after_a_boot_nothing_runs_before_the_context_nor_as_the_old_one_said(
    vm, engine, orderly, live_restore
):
    place = 2 * orderly + live_restore
    booted = vm(25300 + 20 * place, f"fd-boot-{place}")
    engine.start(live_restore=live_restore)
    booted.deploy()
    old, told, known = booted.container_id, len(booted.bodies), booted.attributes
    token = lose_the_vm(booted, orderly=orderly)
    engine.start(live_restore=live_restore)
    booted.federation.start_agent(booted.machine)
    wait_for(lambda: booted.error == "context.missing", "context.missing")
    time.sleep(1)
    assert engine.running() == engine.starts() == []
    changed = {**booted.machine.variables, "FLOWER_LOG_LEVEL": "DEBUG"}
    booted.federation.write_context(booted.machine, changed, token=token)
    wait_for(lambda: len(booted.bodies) > told, "the first word of this boot")
    assert "READY=NO" in booted.bodies[told]
    booted.wait_ready()
    assert old not in engine.starts()
    assert engine.starts() == [booted.container_id]
    assert booted.bodies[-1].endswith("READY=YES")
    same = ("FLOWER_CA_FINGERPRINT", "FLOWER_ENDPOINT")
    assert [booted.attributes[name] for name in same] == [known[name] for name in same]
    assert '"event": "image.pull"' not in booted.log


def test_after_a_power_cut_the_same_context_brings_the_same_container_back(vm, engine):
    cut = vm(25400, "fd-cut")
    engine.start(live_restore=True)
    cut.deploy()
    before, told = started(cut.container), len(cut.bodies)
    token = lose_the_vm(cut, orderly=False)
    cut.federation.write_context(cut.machine, cut.machine.variables, token=token)
    cut.federation.start_agent(cut.machine)  # its unit does not wait for Docker's
    cut.wait_error("docker.down")
    engine.start(live_restore=True)
    wait_for(lambda: engine.running() == [cut.container], "started again")
    cut.wait_ready()
    assert cut.container_id == before.split()[0]
    assert started(cut.container) != before
    assert "READY=NO" in cut.bodies[told]
    assert '"cause": "exited 255"' in cut.log


def lose_the_vm(vm, *, orderly):
    """Shut the VM down or cut its power; return its token."""
    vm.federation.stop_agent(vm.machine, signal.SIGTERM if orderly else signal.SIGKILL)
    if orderly:
        vm.engine.power_off()
    else:
        vm.engine.power_cut()
    return vm.lose_run()
