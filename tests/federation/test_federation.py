"""One SuperLink, two SuperNodes, one run: the main job, looked at from every side."""

import json
import re
import signal
import subprocess
import time

import pytest
from watched import WatchedFederation, docker, started, wait_for

from flower_agent.config.flower_versions import Transport
from flower_agent.docker.client import Engine
from flower_agent.flower.control_client import Control
from flower_agent.flower.control_messages import RunStatus
from flower_agent.host import gpu
from flower_agent.model.address import Address

pytestmark = [pytest.mark.engine, pytest.mark.federation]

PARTS = {"superlink": ("superlink", "superexec"), "supernode": ("supernode", "superexec")}


@pytest.fixture(scope="module")
def federation(tmp_path_factory, images):
    directory = tmp_path_factory.mktemp("federation")
    made = WatchedFederation(directory, name="fedtest", base_port=31000, say=lambda _: None)
    try:
        made.up()
        made.start_told = {m.vmid: bodies(made, m) for m in made.machines}
        made.start_asked = {m.vmid: asked(made, m) for m in made.machines}
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def rounds(federation):
    """The accuracies of a finished run of the reference app."""
    lines = list(federation.submit())
    return [
        float(m[1]) for line in lines if (m := re.search(r"round \d of 3: accuracy ([\d.]+)", line))
    ]


def bodies(federation, machine):
    return [body for _, body, _ in federation.cloud.updates(machine.vmid)]


def asked(federation, machine):
    mine = [r for r in federation.cloud.requests if r[2] == machine.vmid]
    return [path for method, path, _, _ in mine if method == "GET" and "sandbox" not in path]


def containers(federation, machine):
    return [f"{machine.prefix}-flower-{part}" for part in PARTS[machine.role]]


def started_at(name):
    return docker("inspect", "-f", "{{.State.StartedAt}}", name)


def said(federation, machine):
    return (federation.status(machine).get("error") or {}).get("code")


def ids(federation, machine):
    return [started(name) for name in containers(federation, machine)]


def test_three_rounds_finish_with_rising_accuracy(federation, rounds):
    assert len(rounds) == 3
    assert rounds == sorted(set(rounds))
    ca = (federation.superlink.root / "var/lib/flower-agent/tls/ca.crt").read_bytes()
    control = Control(Address("127.0.0.1", federation.control_port), Transport.GRPC, ca)
    try:
        runs = control.list_runs(10)
    finally:
        control.close()
    assert [(r.status, r.sub_status) for r in runs] == [(RunStatus.FINISHED, "completed")]


def test_status_says_ready_and_exits_0_on_every_vm(federation):
    for machine in federation.machines:
        federation.wait_ready(machine)  # one that another test killed is a ghost for a minute
        done = federation.agent(machine, "status")
        assert done.returncode == 0
        assert done.stdout.startswith("ready for ")
    wait_for(lambda: federation.status(federation.superlink)["nodes"] == 2, "two nodes", 150)


def test_partition_ids_follow_the_names_and_arrive_in_the_arguments(federation):
    for index, machine in enumerate(federation.supernodes):
        arguments = json.loads(docker("inspect", containers(federation, machine)[0]))[0]["Args"]
        config = arguments[arguments.index("--node-config") + 1]
        assert config == f"partition-id={index} num-partitions=2"
        assert federation.attributes(machine)["FLOWER_PARTITION"] == f"{index}/2"


def test_an_undisturbed_start_is_two_bodies_and_a_supernode_asks_twice(federation):
    first = federation.superlink.vmid
    for machine in federation.machines:
        starting, ready = federation.start_told[machine.vmid]
        assert "READY=NO" in starting
        assert "READY=YES" not in starting
        assert "FLOWER_STATE=ready" in ready
        assert ready.splitlines()[-1] == "READY=YES"
        looks = ["/service", f"/vms/{first}"]
        if machine is federation.superlink:  # which looks who is new until all are enrolled
            looks = ["/service", *(f"/vms/{node.vmid}" for node in federation.supernodes)]
        assert set(federation.start_asked[machine.vmid]) == set(looks)
        if machine is not federation.superlink:
            assert federation.start_asked[machine.vmid] == looks


def test_no_secret_is_in_inspect_status_log_process_list_or_environment(federation):
    secrets = []
    for machine in federation.machines:
        env = (machine.root / "run/one-context/one_env").read_text()
        secrets.append(re.search(r'TOKENTXT="(.+?)"', env)[1])
    tls = federation.superlink.root / "var/lib/flower-agent/tls"
    for file in (tls / "ca/ca.pem", tls / "server.key"):
        key = re.search(r"PRIVATE KEY-----\n(.*?)\n-----END", file.read_text(), re.DOTALL)[1]
        secrets += key.splitlines()[:-1]
    seen = subprocess.run(["ps", "axeww"], check=True, capture_output=True, text=True).stdout
    for machine in federation.machines:
        seen += federation.log(machine)
        seen += (machine.root / "run/flower-agent/status.json").read_text()
        seen += federation.agent(machine, "status").stdout
        for container in containers(federation, machine):
            seen += docker("inspect", container) + docker("logs", container)
    assert len(secrets) > 6
    assert [s for s in secrets if s in seen] == []


def test_the_ca_key_is_in_no_container(federation):
    for machine in federation.machines:
        for container in containers(federation, machine):
            for mount in json.loads(docker("inspect", container))[0]["Mounts"]:
                assert not mount["Source"].endswith(("/tls", "/tls/ca", "/ca.pem", "flower-agent"))


def test_a_killed_container_is_seen_and_mended(federation):
    machine = federation.supernodes[0]
    name = containers(federation, machine)[0]
    before = started_at(name)
    docker("kill", name)
    wait_for(lambda: started_at(name) != before, "a new start")
    # Its key is in use, as the SuperLink sees it, for up to a minute.
    wait_for(lambda: said(federation, machine) == "peer.ghost", "peer.ghost")
    wait_for(lambda: federation.status(machine).get("state") == "ready", "ready after a kill", 120)
    log = federation.log(machine)
    assert '"cause": "exited 137"' in log
    wait_for(lambda: federation.attributes(machine).get("READY") == "YES", "READY=YES again")


def test_sigterm_ends_the_agent_soon_and_leaves_the_containers(federation):
    machine = federation.supernodes[1]
    before = ids(federation, machine)
    federation.stop_agent(machine)
    assert federation.agent(machine, "status").returncode == 3
    assert ids(federation, machine) == before
    federation.start_agent(machine)
    wait_for(lambda: federation.agent(machine, "status").returncode == 0, "ready again")
    assert ids(federation, machine) == before


def test_a_killed_agent_converges_and_tells_onegate_nothing_twice(federation):
    machine = federation.superlink
    before, told = ids(federation, machine), len(bodies(federation, machine))
    federation.stop_agent(machine, signal.SIGKILL)
    federation.start_agent(machine)
    wait_for(lambda: federation.agent(machine, "status").returncode == 0, "ready again")
    assert ids(federation, machine) == before
    assert not any("READY=NO" in body for body in bodies(federation, machine)[told:])


def test_the_same_context_again_restarts_nothing(federation):
    machine = federation.supernodes[0]
    before = ids(federation, machine)
    federation.write_context(machine, machine.variables)
    time.sleep(2)
    assert ids(federation, machine) == before
    assert federation.agent(machine, "plan").stdout.startswith("nothing to do")


def test_a_changed_variable_restarts_exactly_what_it_reaches(federation):
    machine = federation.supernodes[1]
    node, executor = ids(federation, machine)
    config = {"FLOWER_NODE_CONFIG": "partition-id=1 num-partitions=2 site=berlin"}
    federation.write_context(machine, {**machine.variables, **config})
    wait_for(lambda: ids(federation, machine)[0] not in ("", node), "a new SuperNode container")
    wait_for(lambda: federation.agent(machine, "status").returncode == 0, "ready again")
    assert ids(federation, machine)[1] == executor
    arguments = json.loads(docker("inspect", containers(federation, machine)[0]))[0]["Args"]
    assert 'partition-id=1 num-partitions=2 site="berlin"' in arguments
    federation.write_context(machine, machine.variables)
    changed = ids(federation, machine)[0]
    wait_for(lambda: ids(federation, machine)[0] not in ("", changed), "the container as before")
    wait_for(lambda: federation.agent(machine, "status").returncode == 0, "ready as before")


def test_a_second_agent_of_the_same_root_refuses(federation):
    done = federation.agent(federation.superlink, "run")
    assert done.returncode == 1
    assert "agent.running" in done.stderr


def test_down_refuses_while_the_agent_runs(federation):
    done = federation.agent(federation.superlink, "down")
    assert done.returncode == 1
    assert "agent.running" in done.stderr


def test_logs_show_each_container_and_one_alone(federation):
    both = federation.agent(federation.superlink, "logs").stdout
    assert "fedtest-superlink-flower-superlink | " in both
    alone = federation.agent(federation.superlink, "logs", "superlink", "-n", "1").stdout
    assert len(alone.splitlines()) == 1


def test_a_second_agent_of_the_same_name_refuses_under_another_root(federation, tmp_path):
    command = federation.command(federation.superlink, "run")
    command[command.index("--root") + 1] = str(tmp_path)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "with the name fedtest-superlink" in done.stderr


def test_the_gpu_probe_runs_in_a_superexec_and_says_what_a_vm_without_a_gpu_lacks(federation):
    machine = federation.supernodes[0]
    engine = Engine(machine.prefix)
    answer = engine.execute(containers(federation, machine)[1], gpu.COMMAND)
    engine.close()
    found, why = gpu.probed(answer)
    assert found == ()
    assert "libcuda.so.1: cannot open shared object file" in why
