"""Files of the agent's state that are damaged, each in turn, and a disk that was cloned.

What can be made again is made again. The CA never is, and whom a node trusts is never forgotten.
"""

import dataclasses
import pathlib

import pytest
from federation import SERVICE
from vms import (
    SUBPROCESS,
    encoded,
    error,
    held_ca,
    ids,
    main,
    pair,
    published,
    put,
    ready,
    restart,
    running,
    said,
    says,
    start,
    state,
    state_file,
    warnings,
    warns,
)
from watched import WatchedFederation, docker, wait_for

from flower_agent.tls import certificates, own_ca

pytestmark = [pytest.mark.engine, pytest.mark.federation]

DAMAGES = {
    "empty": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "garbage": lambda _: b"\x00\xff{[-----BEGIN CERTIFICATE-----\nnonsense" * 50,
}
damaged = pytest.mark.parametrize("damage", DAMAGES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, images):
    federation = WatchedFederation(
        tmp_path_factory.mktemp("state"),
        name="fo-state",
        base_port=26480,
        variables=SUBPROCESS,
        environment={"FLOWER_AGENT_TIME_SCALE": "0.05"},
        say=lambda _: None,
    )
    federation.start_onegate()
    try:
        yield federation, *pair(federation)
    finally:
        federation.down()


@pytest.fixture
def vms(whole):
    """A SuperLink and a SuperNode that are ready, with the same CA before and after."""
    federation, link, node = whole
    ca = held_ca(link)
    yield whole
    for machine in (link, node):
        ready(federation, machine)
        assert held_ca(machine) == ca


def spoil(path, damage):
    """Damage a file in place, as a disk does; return what it held."""
    data = path.read_bytes()
    path.write_bytes(DAMAGES[damage](data))
    return data


@damaged
@pytest.mark.parametrize("role", ["superlink", "supernode"])
def test_a_damaged_record_is_begun_anew_and_restarts_nothing(vms, role, damage):
    federation, link, node = vms
    machine = link if role == "superlink" else node
    before, partition = ids(machine), published(federation, node, "FLOWER_PARTITION")
    federation.stop_agent(machine)
    spoil(state_file(machine, "state.json"), damage)
    corrupt = said(federation, machine, "state.corrupt")
    start(federation, machine)
    ready(federation, machine)
    assert said(federation, machine, "state.corrupt") == corrupt + 1
    assert ids(machine) == before
    assert published(federation, node, "FLOWER_PARTITION") == partition


@damaged
def test_whom_a_node_trusts_outlives_its_damaged_record(vms, damage):
    federation, link, node = vms
    before = ids(node)
    federation.stop_agent(link)
    forged = own_ca.make_ca(certificates.inspect(held_ca(link)).not_before)
    token = next(m.token for m in federation.cloud.machines() if m.vmid == node.vmid)
    put(federation, token, node.vmid, link.vmid, FLOWER_CA_CERT=encoded(forged.certificate_pem))
    federation.stop_agent(node)
    spoil(state_file(node, "state.json"), damage)
    start(federation, node)
    says(federation, node, "tls.ca_changed")
    assert held_ca(node) == held_ca(link)
    assert ids(node) == before
    put(federation, token, node.vmid, link.vmid, FLOWER_CA_CERT=encoded(held_ca(link)))
    start(federation, link)


@damaged
@pytest.mark.parametrize("name", ["ca.crt", "server.pem", "server.key"])
def test_a_damaged_certificate_is_made_again_by_the_same_ca(vms, name, damage):
    federation, link, node = vms
    ca = held_ca(link)
    federation.stop_agent(link)
    spoil(state_file(link, f"tls/{name}"), damage)
    start(federation, link)
    ready(federation, link)
    assert held_ca(link) == ca
    restart(federation, node)
    ready(federation, node)


@pytest.mark.parametrize("role", ["superlink", "supernode"])
def test_a_deleted_ca_file_is_written_again_and_restarts_nothing(vms, role):
    federation, link, node = vms
    before, machine = (ids(link), ids(node)), link if role == "superlink" else node
    path = state_file(machine, "tls/ca.crt")
    content = path.read_bytes()
    path.unlink()
    wait_for(path.exists, "the file is there again")
    ready(federation, machine)
    assert path.read_bytes() == content
    assert (ids(link), ids(node)) == before


@damaged
def test_a_nodes_damaged_ca_is_fetched_again_and_is_the_trusted_one(vms, damage):
    federation, link, node = vms
    before = ids(node)
    federation.stop_agent(node)
    spoil(state_file(node, "tls/ca.crt"), damage)
    start(federation, node)
    ready(federation, node)
    assert held_ca(node) == held_ca(link)
    assert ids(node) == before


@pytest.mark.parametrize("damage", [*DAMAGES, "absent"])
def test_a_lost_ca_is_never_made_anew_and_a_backup_mends_it(vms, damage):
    federation, link, node = vms
    before = ids(link), ids(node)
    path = state_file(link, "tls/ca/ca.pem")
    federation.stop_agent(link)
    backup = path.read_bytes()
    path.unlink() if damage == "absent" else spoil(path, damage)
    start(federation, link)
    says(federation, link, "tls.ca_lost")
    assert state(federation, link) == "failed"
    assert (ids(link), ids(node)) == before  # without a restart Flower needs no file
    assert path.exists() is (damage != "absent")
    assert state(federation, node) == "ready"
    path.write_bytes(backup)
    ready(federation, link)
    assert (ids(link), ids(node)) == before


def test_a_damaged_lock_of_images_is_said_and_stops_nothing(vms):
    federation, link, _ = vms
    before = ids(link)
    path = link.root / "usr/share/flower-agent/images.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in (b"", b'{"images": [', b"\xff\xfe\x00", b'{"images": 3}'):
        path.write_bytes(content)
        says(federation, link, "state.corrupt")
        assert "images.lock" in federation.status(link)["error"]["message"]
        assert ids(link) == before
        path.unlink()
        ready(federation, link)
    assert ids(link) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00\n", b"ab" * 31, b"0" * 100_000],
    ids=["empty", "bytes", "short", "large"],
)
def test_an_order_that_is_none_is_not_followed_and_harms_nothing(vms, content):
    federation, _, node = vms
    before, bugs = ids(node), said(federation, node, "agent.bug")
    path = state_file(node, "orders/trust")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    restart(federation, node)
    ready(federation, node)
    assert ids(node) == before
    assert said(federation, node, "agent.bug") == bugs
    path.unlink()


def test_a_file_in_place_of_the_orders_harms_nothing(vms):
    federation, _, node = vms
    before, requests = ids(node), state_file(node, "orders")
    if requests.is_dir():
        requests.rmdir()
    requests.write_bytes(b"no directory")
    restart(federation, node)
    ready(federation, node)
    assert ids(node) == before
    told = federation.agent(node, "tls", "trust", "ab" * 32)
    assert (told.returncode, "state.unwritable" in told.stderr) == (1, True)
    requests.unlink()


@damaged
@pytest.mark.parametrize("name", ["onegate.json", "status.json"])
def test_a_damaged_file_of_this_boot_is_written_anew(vms, name, damage):
    federation, link, _ = vms
    before, path = ids(link), link.root / "run/flower-agent" / name
    federation.stop_agent(link)
    spoil(path, damage)
    shown = federation.agent(link, "status")
    assert shown.returncode in (3, 4)
    assert "Traceback" not in shown.stderr
    federation.start_agent(link)
    wait_for(lambda: state(federation, link) == "ready", "ready")
    wait_for(lambda: federation.agent(link, "status").returncode == 0, "status says ready")
    wait_for(lambda: path.stat().st_size > 100, f"a whole {name}")  # it is written after the report
    assert ids(link) == before


def test_files_of_this_boot_that_are_damaged_under_a_running_agent_come_back(vms):
    federation, link, _ = vms
    path = link.root / "run/flower-agent/status.json"
    spoil(path, "garbage")
    assert federation.agent(link, "status").returncode in (0, 4)
    federation.write_context(link, {**link.variables, "FLOWER_ROLL": "server"})
    warns(federation, link, "setting.near_miss")
    federation.write_context(link, link.variables)
    wait_for(lambda: not warnings(federation, link), "no warning")


def clone(federation, machine, vmid, name):
    """Boot a VM from the disk of another: its state is there, nothing of its boot is."""
    federation.stop_agent(machine)
    docker("rm", "-f", main(machine))
    for path in (machine.root / "run/flower-agent").iterdir():
        path.unlink()
    copy = dataclasses.replace(machine, vmid=vmid, name=name)
    token = federation.cloud.add_vm(vmid, name, machine.role, SERVICE)
    federation.write_context(copy, machine.variables, token=token)
    federation.start_agent(copy)
    return copy


def database(machine):
    return {path.name for path in pathlib.Path(state_file(machine, "superlink")).iterdir()}


def test_a_cloned_node_has_a_partition_of_its_own_and_keeps_its_trust(lone):
    federation = lone(26540, "fo-clone", scale=0.05, **SUBPROCESS)
    link, node = pair(federation)
    assert published(federation, node, "FLOWER_PARTITION") == "0/2"
    copy = clone(federation, node, 50, "supernode_1_(service_7)")
    ready(federation, copy)
    assert "state.other_vm" in warnings(federation, copy)
    assert federation.status(copy)["partition"] == "1/2"
    assert held_ca(copy) == held_ca(link)
    forged = own_ca.make_ca(certificates.inspect(held_ca(link)).not_before)
    token = next(m.token for m in federation.cloud.machines() if m.vmid == 50)
    federation.stop_agent(link)
    put(federation, token, 50, link.vmid, FLOWER_CA_CERT=encoded(forged.certificate_pem))
    restart(federation, copy)
    says(federation, copy, "tls.ca_changed")
    assert running(main(copy))


def test_a_cloned_superlink_keeps_ca_and_database_and_says_so(lone):
    federation = lone(26540, "fo-clone", scale=0.05, **SUBPROCESS)
    link, _ = pair(federation)
    ca, key = held_ca(link), state_file(link, "tls/ca/ca.pem").read_bytes()
    kept = database(link)
    assert kept
    copy = clone(federation, link, 51, "superlink_0_(service_7)")
    ready(federation, copy)
    assert "state.other_vm" in warnings(federation, copy)
    assert (held_ca(copy), state_file(copy, "tls/ca/ca.pem").read_bytes()) == (ca, key)
    assert kept <= database(copy)
    assert federation.status(copy)["nodes"] >= 1  # whom the database knows
    assert error(federation, copy) is None
