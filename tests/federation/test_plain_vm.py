"""VMs without OneGate and without a token: the agent comes up all the same."""

import base64

import pytest
from watched import docker, wait_for

from flower_agent import settings

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
