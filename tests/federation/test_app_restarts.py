"""What a run wrote is kept through restarts of agent, container, Docker and VM."""

import json
import re
import shutil
import signal

import pytest
import small_apps
from second_engine import SecondEngine
from watched import WatchedFederation, docker, wait_for

from flower_agent.config import flower_versions

pytestmark = [pytest.mark.engine, pytest.mark.federation]

LIGHT = {"ML_FRAMEWORK": ""}
SLOW = """
import time
open("early.bin", "w").write("e")
for _ in range(seconds * 10):
    time.sleep(0.1)
open("late.bin", "w").write("l")
"""


@pytest.fixture
def ready(lone):
    """Make a federation that is connected, in which apps are submitted by hand."""

    def make(base_port, name, **variables):
        federation = lone(base_port, name, scale=0.2, **LIGHT, **variables)
        for machine in federation.machines:
            federation.deploy(machine)
        for machine in federation.machines:
            federation.wait_ready(machine)
        assert federation.connected() == len(federation.supernodes)
        return federation

    return make


class OwnDocker(WatchedFederation):
    """A federation whose SuperLink's VM has a Docker of its own, which is broken for real."""

    def __init__(self, directory, engine, **options):
        super().__init__(directory, base_port=25800, variables=LIGHT, say=lambda _: None, **options)
        self._engine = engine

    def command(self, machine, *arguments):
        command = super().command(machine, *arguments)
        if machine is not self.superlink:
            return command
        return ["env", f"DOCKER_HOST={self._engine.url}", *command]

    def cut_power(self):
        """End all that runs on the SuperLink's VM at once; what was in /run is gone."""
        self.stop_agent(self.superlink, signal.SIGKILL)
        self._engine.power_cut()
        shutil.rmtree(self.superlink.root / "run/flower-agent")

    def boot(self):
        """Start the SuperLink's VM again: Docker and agent, with the same context."""
        self._engine.start()
        self.start_agent(self.superlink)


@pytest.fixture(scope="module")
def second_engine(images):
    engine = SecondEngine()
    try:
        engine.start()
        version = flower_versions.parse_version(flower_versions.DEFAULT)
        engine.load(
            [flower_versions.image("flwr", part, version) for part in ("superlink", "superexec")]
        )
        yield engine
    finally:
        engine.close()


@pytest.fixture
def own_docker(second_engine, tmp_path):
    """A federation that is connected; the SuperLink's VM has a Docker of its own."""
    scale = {"FLOWER_AGENT_TIME_SCALE": "0.2"}
    federation = OwnDocker(tmp_path / "vms", second_engine, name="owndocker", environment=scale)
    try:
        federation.up()
        assert federation.connected() == len(federation.supernodes)
        yield federation
    finally:
        if not second_engine.is_on:
            second_engine.start()
        federation.down()


def begin(federation, place, seconds):
    """Submit an app that writes, waits and writes again; return its run once it has written."""
    app = small_apps.write(place, "slow", server=SLOW.replace("seconds", str(seconds)))
    done = federation.agent(federation.superlink, "submit", str(app), "--detach")
    run = re.search(r"^run (\d+):", done.stdout, re.MULTILINE)[1]
    live = runs(federation) / "live" / run
    wait_for(lambda: list(live.rglob("early.bin")), "the first file", 90)
    return run


def runs(federation):
    return federation.superlink.root / "var/lib/flower-agent/runs"


def kept(federation, run):
    """Return how the run ended, and the files that are kept of it, once both are written."""
    place = runs(federation) / run
    for name in ("run.json", "outputs.json"):
        wait_for((place / name).exists, name, 120)
    listed = json.loads((place / "outputs.json").read_text())["files"]
    assert all((place / "outputs" / each["name"]).is_file() for each in listed)
    return json.loads((place / "run.json").read_text())["end"], {each["name"] for each in listed}


def test_a_run_goes_on_and_its_files_are_kept_while_the_agent_is_restarted(ready, tmp_path):
    federation = ready(25800, "agentstop")
    run = begin(federation, tmp_path, seconds=8)
    federation.stop_agent(federation.superlink)
    federation.start_agent(federation.superlink)
    assert kept(federation, run) == ("finished", {"early.bin", "late.bin"})


def test_a_run_that_ends_while_no_agent_runs_is_kept_later(ready, tmp_path):
    federation = ready(25800, "agentaway")
    run = begin(federation, tmp_path, seconds=2)
    live = runs(federation) / "live" / run
    federation.stop_agent(federation.superlink)
    wait_for(lambda: list(live.rglob("late.bin")), "the last file")
    assert not (runs(federation) / run / "outputs").exists()
    federation.start_agent(federation.superlink)
    assert kept(federation, run) == ("finished", {"early.bin", "late.bin"})


def test_what_was_written_is_kept_when_the_container_is_restarted(ready, tmp_path):
    federation = ready(25800, "execrestart")
    run = begin(federation, tmp_path, seconds=300)
    docker("restart", "-t", "1", f"{federation.superlink.prefix}-flower-superexec")
    end, files = kept(federation, run)
    assert (end, "early.bin" in files, "late.bin" in files) == ("failed", True, False)
    again = begin(federation, tmp_path / "again", seconds=0)
    assert kept(federation, again) == ("finished", {"early.bin", "late.bin"})


def assert_all_is_kept(federation, run, place):
    """See that a run which something ended has all its files, and that the next run works."""
    end, files = kept(federation, run)
    assert (end, "early.bin" in files, "late.bin" in files) == ("failed", True, False)
    assert (runs(federation) / run / "log.txt").read_text()
    wait_for(lambda: federation.status(federation.superlink)["state"] == "ready", "ready again")
    link = federation.superlink
    assert re.search(rf"^{run} +failed ", federation.agent(link, "runs").stdout, re.MULTILINE)
    assert "early.bin" in federation.agent(link, "runs", "show", run).stdout
    federation.agent(link, "runs", "fetch", run, "early.bin", "-o", str(place / "fetched"))
    assert [path.read_text() for path in (place / "fetched").rglob("early.bin")] == ["e"]
    again = begin(federation, place / "again", seconds=0)
    assert kept(federation, again) == ("finished", {"early.bin", "late.bin"})


def test_what_was_written_is_kept_when_docker_is_restarted(own_docker, second_engine, tmp_path):
    run = begin(own_docker, tmp_path, seconds=300)
    second_engine.stop()  # without live-restore it takes the containers with it
    assert not (runs(own_docker) / run / "outputs").exists()
    second_engine.start()
    assert_all_is_kept(own_docker, run, tmp_path)


def test_what_was_written_is_kept_when_the_power_fails(own_docker, tmp_path):
    run = begin(own_docker, tmp_path, seconds=300)
    own_docker.cut_power()
    assert not (runs(own_docker) / run / "outputs").exists()
    own_docker.boot()
    assert_all_is_kept(own_docker, run, tmp_path)


def test_a_stopped_run_keeps_what_it_wrote(ready, tmp_path):
    federation = ready(25800, "stopped")
    run = begin(federation, tmp_path, seconds=300)
    assert federation.agent(federation.superlink, "stop", run).returncode == 0
    end, files = kept(federation, run)
    assert (end, files) == ("stopped", {"early.bin"})


def test_outputs_are_kept_where_superlink_and_supernode_run_the_apps(ready, tmp_path):
    federation = ready(25800, "inprocess", FLOWER_ISOLATION="subprocess")
    run = begin(federation, tmp_path, seconds=1)
    assert kept(federation, run) == ("finished", {"early.bin", "late.bin"})
    names = docker("ps", "--format", "{{.Names}}").split()
    assert f"{federation.superlink.prefix}-flower-superlink" in names
    assert f"{federation.superlink.prefix}-flower-superexec" not in names
    shown = federation.agent(federation.superlink, "runs", "show", run).stdout
    assert re.search(r"early.bin .* sha256:[0-9a-f]{64}", shown)
