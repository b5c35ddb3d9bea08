"""The containers that handle apps' files, against the real Engine."""

import json
import subprocess

import pytest

from flower_agent.docker import one_shot
from flower_agent.docker.client import Engine
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.model.errors import AgentError

IMAGE = "flwr/superexec:1.25.0"
OWNER = "test-one-shot"
WHO = "import json, os; print(json.dumps([os.getuid(), os.listdir('/sys/class/net')]))"


@pytest.fixture
def engine(images):
    engine = Engine(OWNER)
    yield engine
    one_shot.clear(engine)
    engine.close()


def left():
    command = ["docker", "ps", "-aq", "--filter", f"label={one_shot.LABEL}={OWNER}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def run(engine, program, timeout_s=60.0):
    command = ("python", "-I", "-c", program)
    return one_shot.run(engine, IMAGE, command, mounts={}, code="run.outputs", timeout_s=timeout_s)


def test_it_runs_as_flowers_user_without_a_network_and_is_removed(engine):
    assert json.loads(run(engine, WHO)) == [FLOWER_UID, ["lo"]]
    assert left() == []


def test_what_fails_says_why_and_is_removed(engine):
    with pytest.raises(AgentError, match="ValueError: no such run"):
        run(engine, "raise ValueError('no such run')")
    assert left() == []


def test_what_does_not_end_is_ended(engine):
    with pytest.raises(AgentError, match="did not end within 1 s"):
        run(engine, "import time; time.sleep(600)", timeout_s=1.0)
    assert left() == []


def test_what_a_killed_agent_left_is_cleared(engine):
    command = ["docker", "create", "--label", f"{one_shot.LABEL}={OWNER}", IMAGE]
    subprocess.run(command, check=True, capture_output=True)
    run(engine, "pass")
    assert len(left()) == 1  # it is young: another may be at work
    one_shot.clear(engine)
    assert left() == []
