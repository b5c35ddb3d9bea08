"""A VM that is taken down on purpose says so: to OneGate, in its status, to who logs in."""

import datetime
import gc
import json
import time

import onegate as sandbox
import pytest
from endpoints import silent_server
from real_engine import unique

from flower_agent import cli
from flower_agent.config.sources import OneGateAccess
from flower_agent.model.secret import Secret
from flower_agent.onegate import publisher
from flower_agent.onegate.publisher import Acknowledged
from flower_agent.paths import Paths
from flower_agent.reporting import farewell

# docker-py leaves a socket to the garbage collector where nothing listens.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
VM = 42


@pytest.fixture
def collected():
    """Let what the test left be collected while its warnings are not heard."""
    yield
    gc.collect()


@pytest.fixture
def gate():
    with sandbox.OneGate() as gate:
        gate.token = gate.add_vm(VM, "loner", user_template={"READY": "YES", "FLOWER_PHASE": "x"})
        yield gate


@pytest.fixture
def vm(tmp_path):
    """The places of an agent that was ready."""
    paths = Paths(tmp_path)
    paths.runtime.mkdir(parents=True)
    paths.appliance.mkdir(parents=True)
    paths.motd.write_text("All set and ready to serve 8)\n")
    paths.status.write_text(
        json.dumps({"schema": 1, "state": "ready", "role": "superlink", "version": "1.25.0"})
    )
    return paths


def remembers(vm, endpoint, token=""):
    told = {"FLOWER_STATE": "ready", "READY": "YES", "FLOWER_ROLE": "superlink"}
    publisher.remember(
        vm.onegate, Acknowledged(OneGateAccess(endpoint, str(VM), Secret(token)), told)
    )


def test_onegate_gets_one_last_body(vm, gate):
    remembers(vm, gate.url, gate.token)
    assert farewell.to_onegate(vm, NOW) == ""
    told = gate.attributes(VM)
    assert (told["READY"], told["FLOWER_STATE"]) == ("NO", "stopped")
    assert len(gate.requests) == 1


def test_the_next_agent_of_this_boot_tells_that_it_is_ready_again(vm, gate):
    remembers(vm, gate.url, gate.token)
    farewell.to_onegate(vm, NOW)
    assert publisher.recall(vm.onegate).attributes == {"FLOWER_ROLE": "superlink"}


@pytest.mark.parametrize("kind", ["down", "500", "drop_reply"])
def test_a_onegate_that_fails_is_named_and_ends_nothing(vm, gate, kind):
    remembers(vm, gate.url, gate.token)
    gate.fault(kind)
    assert "OneGate" in farewell.to_onegate(vm, NOW)
    assert "READY" not in publisher.recall(vm.onegate).attributes


def test_a_onegate_that_says_nothing_costs_five_seconds_at_most(vm):
    with silent_server() as address:
        remembers(vm, f"http://{address}")
        began = time.monotonic()
        assert farewell.to_onegate(vm, NOW)
        assert time.monotonic() - began < farewell.WAIT_S + 1


def test_without_a_token_nothing_is_sent(vm):
    assert farewell.to_onegate(vm, NOW) == ""


@pytest.mark.parametrize("before", [None, "[" * 50_000, '{"schema": 1, "facts": 7}'])
def test_whatever_the_status_was_it_is_stopped_then(vm, capsys, before):
    vm.status.write_text(before or vm.status.read_text())
    farewell.to_files(vm, NOW)
    assert cli.main(["--root", str(vm.root), "status"]) == 3
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("stopped for ")
    assert ("SuperLink, Flower 1.25.0" in line) is (before is None)
    assert (vm.appliance / "status").read_text() == "install_success\n"
    assert "ready" not in vm.motd.read_text()
    assert "stopped" in vm.motd.read_text()


def test_down_tells_onegate_even_where_docker_is_down(vm, gate, capsys, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{vm.root}/none.sock")
    remembers(vm, gate.url, gate.token)
    assert cli.main(["--root", str(vm.root), "--name", unique("down"), "down"]) == 1
    assert "docker.down" in capsys.readouterr().err
    assert gate.attributes(VM)["READY"] == "NO"
    assert json.loads(vm.status.read_text())["state"] == "ready"


@pytest.mark.parametrize("words", [("down",), ("reset", "--yes")])
def test_the_command_takes_the_vm_down_and_says_so(vm, gate, docker_url, monkeypatch, words):
    monkeypatch.setenv("DOCKER_HOST", docker_url)
    remembers(vm, gate.url, gate.token)
    assert cli.main(["--root", str(vm.root), "--name", unique("down"), *words]) == 0
    assert gate.attributes(VM)["FLOWER_STATE"] == "stopped"
    assert json.loads(vm.status.read_text())["state"] == "stopped"
    assert vm.onegate.exists() is (words == ("down",))
