"""A changed context, for real: exactly the containers that a variable reaches are replaced.

Which those are for every variable is a table in tests/unit/test_container_spec.py; here Docker is
asked for six of them, at a SuperLink and a SuperNode with a SuperExec each.
"""

import json
import subprocess
import time

import pytest
from vms import ids, main, pair, published, ready, running, says, state, warnings
from watched import WatchedFederation, docker, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.federation]

PREFIX = "fo-images"
"""The images of this test's own registry; in it 1.25.1 is 1.25.0 once more."""

OFFICIAL = {
    "superlink": "1.25.0-py3.13-ubuntu24.04",
    "supernode": "1.25.0-py3.13-ubuntu24.04",
    "superexec": "1.25.0",
}
LOOKS_S = 3.0
"""The agent looks at its files five times a second here, and turns every 2 s."""

NOTHING, BOTH = frozenset(), frozenset({"superlink", "supernode", "superexec"})


@pytest.fixture(scope="module")
def own_images(images):
    names = []
    for part, tag in OFFICIAL.items():
        for version in ("1.25.0", "1.25.1"):
            names.append(f"{PREFIX}/{part}:{tag.replace('1.25.0', version)}")
            docker("tag", f"flwr/{part}:{tag}", names[-1])
    yield
    subprocess.run(["docker", "rmi", *names], check=False, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, own_images):
    federation = WatchedFederation(
        tmp_path_factory.mktemp("context"),
        name="fo-context",
        base_port=26420,
        variables={"FLOWER_IMAGE_PREFIX": PREFIX, "ML_FRAMEWORK": ""},
        environment={"FLOWER_AGENT_TIME_SCALE": "0.2"},
        say=lambda _: None,
    )
    federation.start_onegate()
    try:
        yield federation, *pair(federation)
    finally:
        federation.down()


@pytest.fixture
def vms(whole):
    """A SuperLink and a SuperNode that were ready before; afterwards they are as before."""
    federation, link, node = whole
    yield whole
    change(federation, (link, node), {})


def change(federation, machines, variables):
    """Set variables on some VMs; return when they have what these ask for and are ready."""
    for machine in machines:
        federation.write_context(machine, {**machine.variables, **variables})
    for machine in machines:
        settled(federation, machine)


def settled(federation, machine):
    """Wait until nothing stands between the context and the containers, and the VM is ready."""
    wait_for(
        lambda: (
            "nothing to do" in federation.agent(machine, "plan").stdout
            and state(federation, machine) == "ready"
        ),
        f"{machine.name}: nothing to do, and ready",
        90,
    )


def replaced(before, after):
    """Return whose container is another one; a SuperExec may end by itself with its SuperLink."""
    return {part for part in before if before[part].split()[:1] != after[part].split()[:1]}


def arguments(machine):
    """Return the arguments of a VM's first container; none while it is being replaced."""
    seen = ["docker", "inspect", "-f", "{{json .Args}}", main(machine)]
    done = subprocess.run(seen, check=False, capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout.strip() or "[]")


def node_misses_its_superlink(federation, node):
    wait_for(lambda: state(federation, node) != "ready", "the SuperNode misses its SuperLink")


# Variable, its value, what is replaced at the SuperLink and at the SuperNode.
CHANGES = {
    "log level": ({"FLOWER_LOG_LEVEL": "DEBUG"}, BOTH, BOTH),
    "the agent's own log level": ({"FLOWER_LOG_LEVEL": "WARNING"}, NOTHING, NOTHING),
    "version": ({"FLOWER_VERSION": "1.25.1"}, BOTH, BOTH),
    "framework": ({"ML_FRAMEWORK": "sklearn"}, {"superexec"}, {"superexec"}),
}


@pytest.mark.parametrize("story", CHANGES)
def test_a_changed_variable_replaces_what_it_reaches_and_nothing_else(vms, story):
    federation, link, node = vms
    variables, *expected = CHANGES[story]
    before = ids(link), ids(node)
    change(federation, (link, node), variables)
    time.sleep(LOOKS_S)
    for machine, old, parts in zip((link, node), before, expected, strict=True):
        assert replaced(old, ids(machine)) == parts & old.keys()


def test_a_changed_node_config_replaces_the_supernode_alone(vms):
    federation, link, node = vms
    before = ids(link), ids(node)
    config = {"FLOWER_NODE_CONFIG": "partition-id=0 num-partitions=2 site=berlin"}
    change(federation, (node,), config)
    assert replaced(before[0], ids(link)) == NOTHING
    assert replaced(before[1], ids(node)) == {"supernode"}
    assert 'partition-id=0 num-partitions=2 site="berlin"' in arguments(node)


def test_a_changed_address_replaces_the_superlink_and_its_supernodes_but_no_superexec(vms):
    federation, link, node = vms
    before = ids(link), ids(node)
    change(federation, (link,), {"FLOWER_ADDRESS": "127.0.0.4"})
    endpoint = f"127.0.0.4:{link.variables['FLOWER_FLEET_PORT']}"
    wait_for(lambda: published(federation, node, "FLOWER_ENDPOINT") == endpoint, "found anew")
    settled(federation, node)
    assert replaced(before[0], ids(link)) == {"superlink"}
    assert replaced(before[1], ids(node)) == {"supernode"}
    assert endpoint in arguments(node)
    change(federation, (link,), {})
    endpoint = f"127.0.0.1:{link.variables['FLOWER_FLEET_PORT']}"
    wait_for(lambda: published(federation, node, "FLOWER_ENDPOINT") == endpoint, "found again")


@pytest.mark.parametrize("first", ["SuperLink", "SuperNode"])
def test_tls_goes_off_and_on_again_whichever_vm_hears_of_it_first(vms, first):
    federation, link, node = vms
    ca = (link.root / "var/lib/flower-agent/tls/ca.crt").read_text()
    order = (link, node) if first == "SuperLink" else (node, link)
    for wanted, flag in (("NO", "--insecure"), ("YES", "--root-certificates")):
        before = ids(link), ids(node)
        federation.write_context(order[0], {**order[0].variables, "TLS_ENABLED": wanted})
        if order[0] is node:
            says(federation, node, "tls.mismatch")
            assert replaced(before[1], ids(node)) == NOTHING
        else:
            node_misses_its_superlink(federation, node)
        federation.write_context(order[1], {**order[1].variables, "TLS_ENABLED": wanted})
        wait_for(lambda flag=flag: flag in arguments(node), "the SuperNode's other container", 90)
        for machine in (link, node):
            settled(federation, machine)
            assert ("tls.disabled" in warnings(federation, machine)) is (wanted == "NO")
        assert replaced(before[0], ids(link)) == {"superlink"}
        assert replaced(before[1], ids(node)) == {"supernode"}
    assert (link.root / "var/lib/flower-agent/tls/ca.crt").read_text() == ca


def acted(text):
    """Return the lines of an agent's log that tell of a context read or of a step taken.

    A change of state alone is none: on a loaded machine a probe may be late.
    """
    return [
        line
        for line in text.splitlines()
        if any(event in line for event in ("context.", "container.", "tls."))
    ]


def quiet(federation, machine):
    """Wait until an agent has read what was written before and does nothing for `LOOKS_S`."""

    def nothing_new():
        length = len(federation.log(machine))
        time.sleep(LOOKS_S)
        return not acted(federation.log(machine)[length:])

    wait_for(nothing_new, f"{machine.name}: nothing done for {LOOKS_S} s", 90)


def test_the_same_context_again_does_nothing(vms):
    federation, link, node = vms
    for machine in (link, node):
        settled(federation, machine)
        quiet(federation, machine)
    before = ids(link), ids(node)
    told = [len(federation.log(machine)) for machine in (link, node)]
    for machine in (link, node):
        federation.write_context(machine, machine.variables)
    time.sleep(LOOKS_S)
    assert (ids(link), ids(node)) == before
    for machine, length in zip((link, node), told, strict=True):
        assert acted(federation.log(machine)[length:]) == []
        settled(federation, machine)


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"FLOWER_VERSION": "latest"}, "setting.invalid"),
        ({"FLOWER_FLEET_PORT": "no"}, "setting.invalid"),
        ({"FLOWER_ROLE": ""}, "setting.missing"),
    ],
    ids=["version", "port", "role"],
)
def test_a_bad_value_leaves_the_federation_running_until_a_good_one_comes(vms, variables, code):
    federation, link, node = vms
    before = ids(link), ids(node)
    for machine in (link, node):
        federation.write_context(machine, {**machine.variables, **variables})
    for machine in (link, node):
        says(federation, machine, code)
        assert state(federation, machine) == "failed"
        wait_for(
            lambda machine=machine: code in published(federation, machine, "FLOWER_ERROR"),
            "the finding at OneGate",
        )
        settings = next(f for f in federation.status(machine)["facts"] if f["name"] == "settings")
        assert "continue with the previous settings" in settings["detail"]
    assert (ids(link), ids(node)) == before
    superexec = f"{node.prefix}-flower-superexec"
    docker("kill", superexec)
    wait_for(lambda: running(superexec), "its SuperExec, under the good settings")
    before = ids(link), ids(node)
    for machine in (link, node):
        federation.write_context(machine, machine.variables)
        ready(federation, machine)
        wait_for(
            lambda machine=machine: published(federation, machine, "FLOWER_ERROR") == "",
            "no finding at OneGate",
        )
    assert (ids(link), ids(node)) == before


def test_a_version_without_an_image_leaves_the_old_one_running_and_says_so(vms):
    federation, link, _ = vms
    before = ids(link)
    federation.write_context(link, {**link.variables, "FLOWER_VERSION": "1.25.9"})
    wait_for(
        lambda: (
            f"{PREFIX}/superlink:1.25.9"
            in (federation.status(link)["error"] or {}).get("message", "")
        ),
        "the image that is not to be had",
    )
    assert federation.status(link)["error"]["code"].startswith("image.")
    assert ids(link) == before
    change(federation, (link,), {})
    assert ids(link) == before
