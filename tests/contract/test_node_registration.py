"""Nodes are registered and unregistered: the same tests on a fake and on Flower's own SuperLink."""

import contextlib
import datetime
import functools
import itertools
import pathlib
import subprocess
import sys
import time

import pytest
from endpoints import authority, loopback_leaf
from fake_superlink import FakeSuperLink

from flower_agent.config.flower_versions import Transport
from flower_agent.enrolment import node_key, policy
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.flower.control_client import Control
from flower_agent.flower.control_messages import NodeStatus
from flower_agent.model import pem
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError
from flower_agent.tls import own_ca

ROOT = pathlib.Path(__file__).parents[2]
VERSION = "1.25.0"
IMAGE = f"flwr/superlink:{VERSION}-py3.13-ubuntu24.04"
NAME = "flower-agent-test-registration"
PORT = 20900
START_S = 60.0


class Keys:
    """New key pairs, each as a SuperNode's agent makes one."""

    def __init__(self, directory):
        self._directory, self._numbers = directory, itertools.count(1)

    def new(self):
        """Return a public key in OpenSSH form."""
        return NodeKeys(self._directory / str(next(self._numbers))).own("42").public


def docker(*arguments):
    done = subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout


@contextlib.contextmanager
def fake(transport):
    link = FakeSuperLink()
    with link.serve(transport, loopback_leaf()) as address:
        yield Control(address, transport, authority().pem.encode())


@contextlib.contextmanager
def real(folder):
    """Give Flower's own SuperLink, with TLS and node authentication, in a container."""
    build = [sys.executable, ROOT / "contrib/images/build.py", "--flower", VERSION]
    subprocess.run(build, check=True, capture_output=True)
    ca = own_ca.make_ca(now := datetime.datetime.now(datetime.UTC))
    leaf = own_ca.make_leaf(ca, ["127.0.0.1"], now)
    files = {"ca": ca.certificate_pem, "pem": leaf.certificate_pem, "key": leaf.key.reveal()}
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o444)
    ports = [f"127.0.0.1:{PORT + offset}" for offset in range(4)]
    with contextlib.suppress(subprocess.CalledProcessError):
        docker("rm", "-f", NAME)
    docker(
        *("run", "-d", "--name", NAME, "--network", "host", "-e", "FLWR_TELEMETRY_ENABLED=0"),
        *("-v", f"{folder}:/c:ro", IMAGE, "--isolation", "process", "--enable-supernode-auth"),
        *("--ssl-ca-certfile", "/c/ca", "--ssl-certfile", "/c/pem", "--ssl-keyfile", "/c/key"),
        *("--serverappio-api-address", ports[1], "--fleet-api-address", ports[2]),
        *("--control-api-address", ports[3]),
    )
    api = Control(Address("127.0.0.1", PORT + 3), Transport.GRPC, ca.certificate_pem.encode())
    try:
        end = time.monotonic() + START_S
        while True:
            try:
                api.list_nodes(5)
                break
            except AgentError:
                assert time.monotonic() < end, docker("logs", NAME)
                time.sleep(0.2)
        yield api
    finally:
        docker("rm", "-f", NAME)


@pytest.fixture(
    scope="module",
    params=["fake gRPC", "fake HTTP", pytest.param("Flower", marks=pytest.mark.engine)],
)
def api(request, tmp_path_factory):
    if request.param == "Flower":
        request.getfixturevalue("docker_url")
        folder = tmp_path_factory.mktemp("certificates")
        folder.chmod(0o755)
        made = real(folder)
    else:
        made = fake(Transport.GRPC if request.param == "fake gRPC" else Transport.HTTP)
    with made as api:
        yield api
        api.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys"))


def register(api, key):
    return api.register_node(pem.node_key_pem(key), 5)


def found(api, key):
    return policy.node_of(key, policy.by_key(api.list_nodes(5)))


def refusal(call, *arguments):
    with pytest.raises(AgentError) as caught:
        call(*arguments)
    return caught.value


def test_a_registered_key_is_listed_byte_for_byte(api, keys):
    key = keys.new()
    node_id = register(api, key)
    node = found(api, key)
    assert (node.node_id, node.status) == (node_id, NodeStatus.REGISTERED)
    assert node.public_key == pem.node_key_pem(key)
    assert int(node_id) > 0


def test_a_key_that_is_registered_already_is_fine(api, keys):
    key = keys.new()
    node_id = register(api, key)
    assert register(api, key) is None
    assert found(api, key).node_id == node_id


def test_an_unregistered_key_is_listed_so_and_never_taken_again(api, keys):
    key = keys.new()
    api.unregister_node(register(api, key), 5)
    assert found(api, key).status is NodeStatus.UNREGISTERED
    assert register(api, key) is None
    assert found(api, key).status is NodeStatus.UNREGISTERED


def test_a_node_is_unregistered_once_and_an_unknown_one_not_at_all(api, keys):
    node_id = register(api, keys.new())
    api.unregister_node(node_id, 5)
    for number in (node_id, "7"):
        error = refusal(api.unregister_node, number, 5)
        assert error.finding.code == "control.refused"
        assert "Node ID not found" in error.finding.message


@pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_what_is_no_key_is_refused(api, junk):
    error = refusal(api.register_node, junk, 5)
    assert (error.finding.code, error.retryable) == ("control.refused", False)
    assert "public key is not valid" in error.finding.message


def test_decided_steps_leave_no_steps(api, keys):
    """What `enrolment` decides is what Flower does."""
    claims = [policy.Claim(str(vmid), keys.new()) for vmid in (42, 43)]
    given, gone = [keys.new()], set()
    pins = ()
    listed = functools.partial(lambda: policy.by_key(api.list_nodes(5)))
    for leaving in (None, "43"):
        gone |= {leaving} - {None}
        for steps in (3 if leaving is None else 1, 0):
            decision = policy.decide(pins, claims, given, listed(), gone=gone)
            assert len(decision.steps) == steps
            for step in decision.steps:
                if step.action is policy.KeyAction.REGISTER:
                    assert register(api, step.key)
                else:
                    api.unregister_node(step.node_id, 5)
            pins = decision.pins
    assert [pin.vmid for pin in pins] == ["42"]


def test_the_public_half_is_what_openssh_makes_of_the_private_one(keys):
    key = keys.new()
    path = next(keys._directory.glob("*/node-42.key"))
    assert pem.node_keys(node_key.public_half(path.read_bytes()))
    assert pem.node_keys(key) == (key,)
