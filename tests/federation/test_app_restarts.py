"""What a run wrote is kept through restarts of agent and container, and without a SuperExec."""

import json
import re

import pytest
import small_apps
from watched import docker, wait_for

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
