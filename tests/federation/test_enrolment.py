"""SuperNode authentication with real Flower: who is let in, who waits, and what each VM says.

At a scale of 0.1 the watch of 5 s is one of half a second.
"""

import base64
import json
import shutil

import pytest
from watched import WatchedFederation, docker, started, wait_for

from flower_agent.enrolment.node_key import public_half
from flower_agent.model import pem

pytestmark = [pytest.mark.engine, pytest.mark.federation]

LIGHT = {"FLOWER_ISOLATION": "subprocess", "ML_FRAMEWORK": ""}


@pytest.fixture(scope="module")
def federation(tmp_path_factory, images):
    """A SuperLink and two SuperNodes in a service; a third VM is not deployed."""
    made = WatchedFederation(
        tmp_path_factory.mktemp("enrolment"),
        name="fenrol",
        base_port=20100,
        supernodes=3,
        variables=LIGHT,
        environment={"FLOWER_AGENT_TIME_SCALE": "0.1"},
        say=lambda _: None,
    )
    try:
        made.start_onegate()
        made.deploy(made.superlink)
        made.wait_ready(made.superlink)
        made.told_when_alone = made.attributes(made.superlink)
        for machine in made.supernodes[:2]:
            made.deploy(machine)
        for machine in made.supernodes[:2]:
            made.wait_ready(machine)
        made.first_keys = [public_half(key_file(m).read_bytes()) for m in made.supernodes[:2]]
        yield made
    finally:
        made.down()


@pytest.fixture
def vms(federation):
    """The federation, ready; and made ready again for the next test."""
    yield federation, federation.superlink, *federation.supernodes[:2]
    for machine in federation.machines[:3]:
        federation.write_context(machine, machine.variables)
        federation.wait_ready(machine)


def key_file(machine):
    return next((machine.root / "var/lib/flower-agent/keys").glob("*.key"))


def fingerprint(machine):
    return pem.node_key_fingerprint(public_half(key_file(machine).read_bytes()))


def container(machine):
    return f"{machine.prefix}-flower-{machine.role}"


def nodes(federation):
    """Return what ``flower-agent nodes`` says on the SuperLink, by key."""
    done = federation.agent(federation.superlink, "nodes", "list", "--json")
    assert done.returncode == 0, done.stderr
    return {row["key"]: row for row in json.loads(done.stdout)["nodes"]}


def node_id(federation, machine):
    return federation.status(machine).get("node_id")


def error(federation, machine):
    return (federation.status(machine).get("error") or {}).get("code")


def warnings(federation, machine):
    return {found["code"] for found in federation.status(machine).get("warnings", ())}


def ready(federation, machine, timeout_s=60.0):
    what = f"{machine.name} ready"
    wait_for(lambda: federation.status(machine).get("state") == "ready", what, timeout_s)


def restart(federation, machine):
    federation.stop_agent(machine)
    (machine.root / "run/flower-agent/status.json").unlink()
    federation.start_agent(machine)


def test_the_superlink_is_ready_before_any_node_and_wants_keys(federation):
    told = federation.told_when_alone
    assert (told["READY"], told["FLOWER_NODE_AUTH"], told["FLOWER_NODES"]) == ("YES", "YES", "0")
    arguments = json.loads(docker("inspect", container(federation.superlink)))[0]["Args"]
    assert "--enable-supernode-auth" in arguments


def test_each_node_of_the_service_is_enrolled_under_the_key_that_it_made(vms):
    federation, _, *pair = vms
    found = nodes(federation)
    for machine in pair:
        row = found[fingerprint(machine)]
        assert (row["status"], row["vmid"]) == ("online", str(machine.vmid))
        assert row["node_id"] == node_id(federation, machine)
        public = public_half(key_file(machine).read_bytes())
        assert federation.attributes(machine)["FLOWER_NODE_KEY"] == public


def test_the_first_body_of_a_boot_has_the_key(vms):
    federation, _, node, _ = vms
    first = federation.cloud.updates(node.vmid)[0].body
    assert "FLOWER_STATE=starting" in first
    assert f"FLOWER_NODE_KEY={federation.first_keys[0]}" in first


def test_the_private_key_is_nowhere_but_in_its_file(vms):
    federation, link, node, _ = vms
    secrets = [
        line
        for line in key_file(node).read_text().splitlines()[3:-1]  # before: the public half
        if len(line) > 40
    ]
    seen = federation.log(node) + federation.log(link) + json.dumps(federation.status(node))
    seen += docker("inspect", container(node)) + docker("logs", container(node))
    seen += json.dumps(federation.attributes(node)) + federation.agent(node, "status").stdout
    assert secrets
    assert [line for line in secrets if line in seen] == []


def test_a_restart_of_agents_and_containers_keeps_keys_and_ids(vms):
    federation, link, node, other = vms
    before = [node_id(federation, m) for m in (node, other)]
    for machine in (link, node):
        restart(federation, machine)
    docker("kill", container(other))
    wait_for(lambda: error(federation, other) == "peer.ghost", "peer.ghost")
    assert federation.status(other)["phase"] == "peer"
    for machine in (link, node, other):
        federation.wait_ready(machine)
    wait_for(lambda: nodes(federation)[fingerprint(other)]["status"] == "online", "online")
    assert [node_id(federation, m) for m in (node, other)] == before


def warned(federation, machine):
    return {found["code"]: found["message"] for found in federation.status(machine)["warnings"]}


def connected(federation, link):
    facts = federation.status(link)["facts"]
    return next((f["detail"] for f in facts if f["name"] == "nodes"), "")


def test_a_superlink_names_a_node_that_went_away_and_one_that_does_not_work(vms):
    federation, link, node, other = vms
    wait_for(lambda: connected(federation, link).startswith("2 of 2"), "2 of 2")
    federation.stop_agent(node)
    docker("stop", container(node))
    docker("pause", container(other))
    try:
        wait_for(
            lambda: (
                f"VM {other.vmid} reports degraded, container.paused"
                in warned(federation, link).get("node.degraded", "")
            ),
            "node.degraded",
        )
        wait_for(
            lambda: f"VM {node.vmid} since " in warned(federation, link).get("node.offline", ""),
            "node.offline",
        )
        assert connected(federation, link).partition(" of ")[2].startswith("2 ")
        assert federation.status(link)["state"] == "ready"
    finally:
        docker("unpause", container(other))
        federation.start_agent(node)
    wait_for(lambda: connected(federation, link).startswith("2 of 2"), "2 of 2 again", 150)
    wait_for(lambda: not {"node.offline", "node.degraded"} & set(warned(federation, link)), "well")


def test_a_superlink_that_lost_its_database_registers_all_keys_again(vms):
    federation, link, *pair = vms
    before = {m.vmid: node_id(federation, m) for m in pair}
    federation.stop_agent(link)
    docker("rm", "-f", container(link))
    database = link.root / "var/lib/flower-agent/superlink"
    shutil.rmtree(database)
    federation.start_agent(link)
    for machine in pair:
        wait_for(
            lambda m=machine: node_id(federation, m) not in (None, before[m.vmid]),
            "a new node id",
            90,
        )
        ready(federation, machine)
    found = nodes(federation)
    assert [found[fingerprint(m)]["vmid"] for m in pair] == [str(m.vmid) for m in pair]


def test_a_node_that_nobody_enrols_waits_in_enrol_until_the_operator_registers_it(vms):
    federation, link, *_ = vms
    stranger = federation.supernodes[2]
    ca = (link.root / "var/lib/flower-agent/tls/ca.crt").read_bytes()
    (stranger.root / "run/one-context").mkdir(parents=True)
    federation.write_context(
        stranger,
        {
            **stranger.variables,
            "FLOWER_SERVER_ADDRESS": f"127.0.0.1:{federation.base_port + 2}",
            "TLS_CA_CERT": base64.b64encode(ca).decode(),
        },
    )
    federation.start_agent(stranger)  # without a token: nothing tells it that it needs a key
    wait_for(lambda: error(federation, stranger) == "enrol.waiting", "enrol.waiting")
    ends = set()

    def tried_again():
        ends.add(started(container(stranger)))
        return len(ends) > 4

    wait_for(tried_again, "four more tries")
    found = federation.status(stranger)
    assert (found["state"], found["phase"]) == ("starting", "enrol")
    assert fingerprint(stranger) in found["error"]["message"]
    assert "flower-agent nodes register" in found["error"]["hint"]
    assert [c["restarts"] for c in found["containers"]] == [0]
    shown = federation.agent(stranger, "status")
    assert shown.returncode == 5
    assert "enrol.waiting" in shown.stdout
    key = public_half(key_file(stranger).read_bytes())
    done = federation.agent(link, "nodes", "register", key)
    assert (done.returncode, fingerprint(stranger) in done.stdout) == (0, True)
    ready(federation, stranger)
    assert nodes(federation)[fingerprint(stranger)]["vmid"] is None
    again = federation.agent(link, "nodes", "register", key)
    assert (again.returncode, "known already" in again.stdout) == (0, True)


def test_another_key_of_a_pinned_vm_is_refused_and_said_until_the_old_one_goes(vms):
    federation, link, node, _ = vms
    old, old_id = fingerprint(node), node_id(federation, node)
    federation.stop_agent(node)
    docker("stop", container(node))
    key_file(node).unlink()
    (node.root / "run/flower-agent/status.json").unlink()
    federation.start_agent(node)
    wait_for(lambda: "enrol.key_changed" in warnings(federation, link), "the SuperLink's warning")
    wait_for(lambda: error(federation, node) == "enrol.waiting", "the node's error")
    new = fingerprint(node)
    (said,) = (w for w in federation.status(link)["warnings"] if w["code"] == "enrol.key_changed")
    assert f"VM {node.vmid}" in said["message"]
    assert old in said["message"]
    assert new in said["message"]
    assert federation.status(link)["state"] == "ready"
    assert new not in nodes(federation)
    assert federation.agent(link, "nodes", "unregister", old_id).returncode == 0
    ready(federation, node)
    assert nodes(federation)[old]["status"] == "unregistered"
    assert nodes(federation)[new]["vmid"] == str(node.vmid)
    wait_for(lambda: not warnings(federation, link), "no warning any more")
    refused = federation.agent(link, "nodes", "unregister", old_id)
    assert (refused.returncode, "Node ID not found" in refused.stderr) == (1, True)


def test_a_node_that_is_told_to_show_no_key_says_that_the_two_differ(vms):
    federation, _, node, _ = vms
    before = started(container(node))
    federation.write_context(node, {**node.variables, "FLOWER_NODE_AUTH": "NO"})
    restart(federation, node)  # OneGate is asked by one that starts
    wait_for(lambda: error(federation, node) == "enrol.mismatch", "enrol.mismatch")
    assert federation.status(node)["phase"] == "enrol"
    assert started(container(node)) == before


def test_the_nodes_command_says_where_it_belongs(vms):
    federation, _, node, _ = vms
    done = federation.agent(node, "nodes")
    assert done.returncode == 1
    assert "this VM is a supernode" in done.stderr
