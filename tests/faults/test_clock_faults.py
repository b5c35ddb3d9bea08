"""Clocks that are wrong: of a SuperNode, of a SuperLink's CA, of the agent itself.

libfaketime turns the clock of a process, in an image made from Flower's for this test, by what a
file says at that moment; the monotonic clock is left alone, as when a real clock is set.
"""

import datetime
import os
import subprocess
import time

import pytest
from vms import (
    SUBPROCESS,
    calm,
    error,
    held_ca,
    ids,
    main,
    pair,
    published,
    ready,
    restart,
    says,
    state,
    state_file,
    warns,
)
from watched import WatchedFederation, docker, wait_for

from flower_agent.model.secret import Secret
from flower_agent.tls import own_ca
from flower_agent.tls.store import Keyring

pytestmark = [pytest.mark.engine, pytest.mark.federation]

PREFIX = "fo-clocks"
TAGS = {"superlink": "1.25.0-py3.13-ubuntu24.04", "supernode": "1.25.0-py3.13-ubuntu24.04"}
TURNED = """
FROM flwr/supernode:{tag}
COPY libfaketime.so.1 /usr/local/lib/
ENV LD_PRELOAD=/usr/local/lib/libfaketime.so.1 DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1 \
    FAKETIME_TIMESTAMP_FILE=/app/data/clock
"""
LONG = pytest.mark.long
DAY = datetime.timedelta(days=1)


def now():
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="session")
def faketime(tmp_path_factory, missing):
    """The library, as this machine's distribution has it."""
    directory = tmp_path_factory.mktemp("faketime")
    fetch = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "libfaketime"]
    refresh = ["apt-get", "-qq", "update"]
    for command in (fetch, refresh, fetch):
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=directory, timeout=300
        )
        packages = list(directory.glob("libfaketime_*.deb"))
        if packages:
            break
    else:
        missing(f"libfaketime cannot be fetched: {done.stderr}")
    subprocess.run(["dpkg", "-x", packages[0], directory], check=True)
    return next(directory.rglob("libfaketime.so.1"))


@pytest.fixture(scope="module")
def turned(images, faketime):
    """Images of Flower, among them a SuperNode whose clock its data directory turns."""
    names = {part: f"{PREFIX}/{part}:{tag}" for part, tag in TAGS.items()}
    docker("tag", f"flwr/superlink:{TAGS['superlink']}", names["superlink"])
    dockerfile = faketime.with_name("Dockerfile")
    dockerfile.write_text(TURNED.format(tag=TAGS["supernode"]))
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", names["supernode"], faketime.parent],
        check=True,
        capture_output=True,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        timeout=120,
    )
    yield {"FLOWER_IMAGE_PREFIX": PREFIX, **SUBPROCESS}
    command = ["docker", "rmi", "-f", *names.values()]
    subprocess.run(command, check=False, capture_output=True, timeout=60)


def turn(machine, by):
    """Set the clock of a VM's container; it is read at every look at it."""
    path = state_file(machine, "data/clock")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    path.write_text(by)
    path.chmod(0o644)


@pytest.fixture
def vms(lone, turned):
    """A SuperLink and a SuperNode that is connected, both with the right time."""
    federation = lone(26600, "fo-clock", scale=0.1, **turned)
    link, node = federation.superlink, federation.supernodes[0]
    turn(node, "+0")
    federation.deploy(link)
    federation.wait_ready(link)
    return federation, link, node


@pytest.mark.parametrize(
    "by",
    [pytest.param("+10", id="10 s ahead"), pytest.param("-400", id="400 s behind", marks=LONG)],
)
def test_a_supernode_with_a_wrong_clock_is_refused_named_and_comes_back(vms, by):
    federation, _, node = vms
    turn(node, by)
    federation.deploy(node)
    says(federation, node, "peer.clock")
    assert (
        "timedatectl" in federation.status(node)["error"]["hint"]
        or "chrony" in (federation.status(node)["error"]["hint"])
    )
    wait_for(lambda: "peer.clock" in published(federation, node, "FLOWER_ERROR"), "at OneGate")
    assert not federation.cloud.gate_open(node.vmid)
    turn(node, "+0")
    wait_for(
        lambda: state(federation, node) == "ready" and error(federation, node) is None,
        "ready again, with nothing wrong",
        120,
    )


def test_a_clock_that_goes_wrong_later_is_named_and_mended_too(vms):
    federation, link, node = vms
    federation.deploy(node)
    federation.wait_ready(node)
    turn(node, "+10")
    says(federation, node, "peer.clock", timeout_s=120)
    assert state(federation, node) == "degraded"
    turn(node, "+0")
    ready(federation, node)
    assert state(federation, link) == "ready"


@pytest.mark.parametrize(
    ("ahead_s", "side"), [(60, "behind"), pytest.param(-60, "ahead of", marks=LONG)]
)
def test_a_clock_that_differs_from_onegates_is_a_warning_before_flower_trips(lone, ahead_s, side):
    federation = lone(26660, "fo-skew", scale=0.05, **SUBPROCESS)
    link = federation.superlink
    federation.cloud.ahead_s = ahead_s
    federation.deploy(link)
    federation.wait_ready(link)
    warns(federation, link, "clock.skew")
    message = next(
        found["message"]
        for found in federation.status(link)["warnings"]
        if found["code"] == "clock.skew"
    )
    assert f"s {side} OneGate's" in message
    assert 50 < int(message.split(" s ")[0].split()[-1]) < 70
    federation.cloud.ahead_s = 0
    calm(federation, link)


# Certificates from the future


def in_the_future(seconds):
    """Return the moment at which to make what becomes valid in so many seconds."""
    return now() + DAY + datetime.timedelta(seconds=seconds)


def test_a_ca_that_is_not_valid_yet_is_named_until_it_is(lone):
    federation = lone(26720, "fo-early", scale=0.1, **SUBPROCESS)
    link = federation.superlink
    directory = state_file(link, "tls/ca")
    directory.mkdir(parents=True, mode=0o700)
    early = own_ca.make_ca(in_the_future(12))
    (directory / "ca.pem").write_text(early.key.reveal() + early.certificate_pem)
    federation.deploy(link)
    says(federation, link, "endpoint.expired")
    assert not federation.cloud.gate_open(link.vmid)
    assert published(federation, link, "FLOWER_CA_CERT") == ""
    federation.wait_ready(link)
    assert held_ca(link) == early.certificate_pem


def test_a_supernode_behind_its_superlinks_certificate_waits_and_says_so(lone):
    federation = lone(26780, "fo-young", scale=0.1, **SUBPROCESS)
    link, node = federation.superlink, federation.supernodes[0]
    federation.deploy(link)
    federation.wait_ready(link)
    federation.stop_agent(link)  # it would mend it at once
    key, begin, rest = state_file(link, "tls/ca/ca.pem").read_text().partition("-----BEGIN CERT")
    own = own_ca.Pair(begin + rest, Secret(key))
    young = own_ca.make_leaf(own, ["127.0.0.1"], in_the_future(12))
    Keyring(state_file(link, "tls"))._write(own.certificate_pem, young.certificate_pem, young.key)
    docker("restart", main(link))
    federation.deploy(node)
    says(federation, node, "endpoint.expired")
    assert ids(node)["supernode"] == ""
    federation.wait_ready(node)


# The agent's own clock


@pytest.fixture
def jumping(tmp_path, images, faketime):
    """A federation whose agents have a clock that `clock` turns; Flower's is right."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    federation = WatchedFederation(
        tmp_path / "vms",
        name="fo-jump",
        base_port=26840,
        variables=SUBPROCESS,
        environment={
            "FLOWER_AGENT_TIME_SCALE": "0.05",
            "LD_PRELOAD": str(faketime),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        },
        say=lambda _: None,
    )
    federation.start_onegate()
    federation.cloud.ahead_s = 0
    try:
        yield federation, *pair(federation), clock
    finally:
        federation.down()


@pytest.mark.parametrize(
    "jump", [pytest.param("+3600", id="forward", marks=LONG), pytest.param("-3600", id="back")]
)
def test_a_clock_that_jumps_by_an_hour_stops_nothing_and_is_said(jumping, jump):
    federation, link, node, clock = jumping
    before = ids(link), ids(node)
    clock.write_text(jump)
    for machine in (link, node):
        warns(federation, machine, "clock.skew")
        assert state(federation, machine) == "ready"
    asked = len(federation.cloud.requests)
    if jump == "-3600":
        # What is timed by the clock must still end. Ahead of Docker's, which is not turned here as
        # it is on a VM, the agent would ask for lines that are still to come.
        docker("kill", main(node))
        wait_for(lambda: ids(node) != before[1], "a new start")
        ready(federation, node)
    restart(federation, node)
    ready(federation, node)
    time.sleep(5)  # 100 s of the agents' pace
    assert len(federation.cloud.requests) - asked < 30
    assert ids(link) == before[0]
    clock.write_text("+0")
    after = ids(node)
    for machine in (link, node):
        calm(federation, machine)
        assert state(federation, machine) == "ready"
    assert (ids(link), ids(node)) == (before[0], after)
