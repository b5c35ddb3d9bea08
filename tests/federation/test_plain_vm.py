"""VMs without OneGate and without a token: the agent comes up all the same."""

import base64
import os
import pathlib
import shlex
import shutil
import subprocess

import pytest
import yaml
from federation import context_text, replace
from watched import docker, wait_for

from flower_agent.config import settings

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = [pytest.mark.engine, pytest.mark.federation]


def boot(federation, machine, **changes):
    """Write a context as on a plain VM, without one_env, and start the agent."""
    directory = machine.root / "run/one-context"
    directory.mkdir(parents=True, exist_ok=True)
    federation.write_context(machine, {**machine.variables, **changes})
    federation.start_agent(machine)


def test_a_superlink_and_a_supernode_with_address_and_ca_become_ready(lone):
    federation = lone(31500, "plain")
    boot(federation, federation.superlink)
    wait_for(lambda: federation.agent(federation.superlink, "status").returncode == 0, "SuperLink")
    ca = (federation.superlink.root / "var/lib/flower-agent/tls/ca.crt").read_bytes()
    node = federation.supernodes[0]
    boot(
        federation,
        node,
        FLOWER_SERVER_ADDRESS="127.0.0.1:31502",
        TLS_CA_CERT=base64.b64encode(ca).decode(),
    )
    wait_for(lambda: federation.agent(node, "status").returncode == 0, "SuperNode")
    found = federation.status(node)
    assert found["partition"] == "0/1"
    assert [w["code"] for w in found["warnings"]] == ["partition.default"]


def test_a_supernode_whose_superlink_is_away_waits_and_says_so(lone):
    federation = lone(31540, "away")
    boot(federation, federation.superlink)
    wait_for(lambda: federation.agent(federation.superlink, "status").returncode == 0, "SuperLink")
    ca = (federation.superlink.root / "var/lib/flower-agent/tls/ca.crt").read_bytes()
    federation.stop_agent(federation.superlink)
    docker("stop", f"{federation.superlink.prefix}-flower-superlink")
    node = federation.supernodes[0]
    boot(
        federation,
        node,
        FLOWER_SERVER_ADDRESS="127.0.0.1:31542",
        TLS_CA_CERT=base64.b64encode(ca).decode(),
    )
    wait_for(
        lambda: (federation.status(node).get("error") or {}).get("code") == "endpoint.refused",
        "endpoint.refused",
    )
    shown = federation.agent(node, "status")
    assert shown.returncode == 5
    assert "127.0.0.1:31542" in shown.stdout
    assert docker("ps", "-aq", "--filter", f"label=org.flower-agent.name={node.prefix}") == ""
    federation.start_agent(federation.superlink)
    wait_for(lambda: federation.agent(node, "status").returncode == 0, "SuperNode, once it is back")


def test_a_client_without_any_way_to_its_superlink_fails_and_says_what_to_set(lone):
    federation = lone(31520, "nowhere")
    node = federation.supernodes[0]
    boot(federation, node, ETH0_IP="127.0.0.1")
    wait_for(lambda: federation.status(node).get("state") == "failed", "failed")
    assert federation.status(node)["error"]["code"] == "discover.no_source"
    assert "FLOWER_SERVER_ADDRESS and no TLS_CA_CERT" in federation.status(node)["error"]["message"]
    assert "discover.no_source" in federation.agent(node, "check").stdout
    assert docker("ps", "-aq", "--filter", f"label=org.flower-agent.name={node.prefix}") == ""


def test_everything_empty_except_the_role_is_a_working_superlink(lone):
    federation = lone(31580, "defaults")
    machine = federation.superlink
    (machine.root / "run/one-context").mkdir(parents=True)
    empty = {row.name: "" for row in settings.SETTINGS if "<" not in row.name}
    federation.write_context(machine, {**empty, "FLOWER_ROLE": "server"})
    federation.start_agent(machine)
    wait_for(lambda: federation.agent(machine, "status").returncode == 0, "ready with defaults")
    assert federation.status(machine)["endpoint"].endswith(":9092")


def test_the_marketplaces_harness_certifies_a_vm_of_its_own(lone, tmp_path, missing):
    if shutil.which("rspec") is None:
        missing("no rspec; run apt-get install ruby-rspec")
    federation = lone(24300, "harness")
    machine = federation.superlink
    harness = tmp_path / "appliances/flower"
    shutil.copytree(ROOT / "contrib/marketplace", harness)
    told = yaml.safe_load((harness / "metadata.yaml").read_text())[":app"][":context"][":params"]
    given = {name.removeprefix(":"): value for name, value in told.items()}
    kept = ("_PORT", "_ADDRESS", "ETH0_IP")
    ports = {name: text for name, text in machine.variables.items() if name.endswith(kept)}
    directory = machine.root / "run/one-context"
    directory.mkdir(parents=True)
    replace(directory / "context.sh.network", context_text({**ports, **given}))
    federation.start_agent(machine)

    (tmp_path / "lib/community").mkdir(parents=True)
    shutil.copy(ROOT / "tests/data/marketplace/app_handler.rb", tmp_path / "lib/community")
    (tmp_path / "bin").mkdir()
    # --root and --name stand in front of nothing else, as the VM's own command has neither.
    program = shlex.join(federation.command(machine, "COMMAND")).replace("COMMAND", '"$verb"')
    scripts = {"flower-agent": f'verb=$1; shift; exec {program} "$@"', "systemctl": "exit 0"}
    for name, text in scripts.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SSH": "sh -c"}
    done = subprocess.run(
        ["rspec", "tests/00-flower_basic.rb"],
        check=False, capture_output=True, text=True, timeout=240, cwd=harness,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ", 0 failures" in done.stdout, done.stdout + done.stderr
