"""OneGate away, broken, or lost by the context: Flower works on, and no storm follows.

At a scale of 0.05 ten minutes of an outage are 30 s.
"""

import http.server
import threading
import time

import pytest
from federation import SERVICE, context_text, replace
from vms import (
    SUBPROCESS,
    calm,
    error,
    ids,
    pair,
    published,
    ready,
    restart,
    said,
    says,
    state,
    warns,
)
from watched import WatchedFederation, wait_for

from flower_agent.onegate import superlink_search

pytestmark = [pytest.mark.engine, pytest.mark.federation]

SCALE = 0.05
STORM_S = 5.0
"""After a recovery it is watched for so long what comes: 100 s of the real pace."""

FEW = 6
"""Requests of one VM in that time: what had waited, a look-up, a look at its own, two spare."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, images):
    """A SuperLink and a SuperNode that every fault below finds, and leaves, well."""
    federation = WatchedFederation(
        tmp_path_factory.mktemp("gate"),
        name="fo-gate",
        base_port=26000,
        variables=SUBPROCESS,
        environment={"FLOWER_AGENT_TIME_SCALE": str(SCALE)},
        say=lambda _: None,
    )
    federation.start_onegate()
    try:
        yield federation, *pair(federation)
    finally:
        federation.down()


@pytest.fixture
def vms(whole):
    federation, *machines = whole
    yield whole
    federation.cloud.heal()
    for machine in machines:
        federation.write_context(machine, machine.variables)
        calm(federation, machine)


def poke(federation, machine):
    """Change what a VM has to tell, and nothing that a container is made of."""
    federation.write_context(machine, {**machine.variables, "FLOWER_ROLL": "server"})


def requests_of(federation, machine):
    return [request for request in federation.cloud.requests if request.vmid == machine.vmid]


def recovers_without_a_storm(federation, machines):
    """Heal OneGate; see that what had waited is told, the recovery said, and little asked."""
    before = [len(requests_of(federation, machine)) for machine in machines]
    recoveries = [said(federation, machine, "onegate.recovered") for machine in machines]
    federation.cloud.heal()
    for machine in machines:
        wait_for(
            lambda machine=machine: told_of_the_poke(federation, machine),
            f"what {machine.name} had to tell",
        )
    time.sleep(STORM_S)
    for machine, asked, told in zip(machines, before, recoveries, strict=True):
        came = requests_of(federation, machine)[asked:]
        assert len(came) <= FEW, came
        assert said(federation, machine, "onegate.recovered") == told + 1
        assert state(federation, machine) == "ready"


def told_of_the_poke(federation, machine):
    warning = published(federation, machine, "FLOWER_WARNING")
    return "setting.near_miss" in warning and "onegate." not in warning


FAULTS = {
    "401": ({"kind": "401"}, "onegate.refused"),
    "500": ({"kind": "500"}, "onegate.refused"),
    "closed": ({"kind": "down"}, "onegate.down"),
    "web page": ({"kind": "garbage", "body": "html"}, "onegate.garbage"),
    "half an answer": ({"kind": "garbage", "body": "truncated"}, "onegate.garbage"),
    "plain text": ({"kind": "garbage", "body": "plain"}, "onegate.garbage"),
    "hangs": ({"kind": "hang"}, "onegate.down"),
}


ALIKE = ("500", "closed", "web page", "plain text")


@pytest.mark.parametrize(
    "fault",
    [pytest.param(name, marks=[pytest.mark.long] if name in ALIKE else []) for name in FAULTS],
)
def test_a_onegate_that_fails_stops_nothing_and_is_told_all_when_it_is_well(vms, fault):
    federation, link, node = vms
    options, code = FAULTS[fault]
    before = ids(link), ids(node)
    federation.cloud.fault(**options)
    for machine in (link, node):
        restart(federation, machine)  # an agent that remembers nothing asks at once
        poke(federation, machine)
    for machine in (link, node):
        warns(federation, machine, code)
        ready(federation, machine)
    assert (ids(link), ids(node)) == before
    recovers_without_a_storm(federation, (link, node))
    assert (ids(link), ids(node)) == before


@pytest.mark.long
def test_onegate_away_for_ten_minutes_is_asked_seldom_and_told_once_it_is_back(vms):
    federation, link, node = vms
    before = ids(link), ids(node)
    federation.cloud.fault("down")
    asked = len(federation.cloud.requests)
    for machine in (link, node):
        poke(federation, machine)
    warns(federation, link, "onegate.down")
    time.sleep(600 * SCALE)
    tried = federation.cloud.requests[asked:]
    assert 0 < len(tried) < 60  # 2 s doubling to 120 s with jitter: some ten of each VM, at most 30
    assert (state(federation, link), state(federation, node)) == ("ready", "ready")
    assert published(federation, link, "FLOWER_WARNING") == ""
    recovers_without_a_storm(federation, (link, node))
    assert (ids(link), ids(node)) == before


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another host, which writes down what it was sent."""

    def do_GET(self):
        self.server.heard.append((self.path, dict(self.headers)))
        self.send_error(404)

    do_PUT = do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def elsewhere():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.heard = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_redirect_to_another_host_is_not_followed_and_never_gets_the_token(vms, elsewhere):
    federation, link, node = vms
    before = ids(link), ids(node)
    federation.cloud.fault("redirect", to=f"http://127.0.0.1:{elsewhere.server_port}/vm")
    for machine in (link, node):
        restart(federation, machine)
        poke(federation, machine)
    for machine in (link, node):
        warns(federation, machine, "onegate.refused")
        ready(federation, machine)
    assert elsewhere.heard == []
    recovers_without_a_storm(federation, (link, node))
    assert elsewhere.heard == []
    assert (ids(link), ids(node)) == before


def test_a_superlink_comes_up_without_onegate_and_reports_when_it_is_there(lone):
    federation = lone(26060, "fo-boot", scale=SCALE, **SUBPROCESS)
    link, node = federation.superlink, federation.supernodes[0]
    for machine in (link, node):
        token = federation.cloud.add_vm(machine.vmid, machine.name, machine.role, SERVICE)
        federation.write_context(machine, machine.variables, token=token)
    federation.cloud.stop()
    for machine in (link, node):
        federation.start_agent(machine)
    ready(federation, link)
    warns(federation, link, "onegate.down")
    says(federation, node, "onegate.down")
    assert ids(node)["supernode"] == ""
    before, began = ids(link), time.monotonic()
    federation.cloud.start(port=federation.base_port)
    for machine in (link, node):
        federation.wait_ready(machine)
        calm(federation, machine)
    lookups = (time.monotonic() - began) / (
        superlink_search.RETRY_S[0] * SCALE
    )  # until there is a SuperLink
    assert ids(link) == before
    first = [request for request in federation.cloud.requests if request.vmid == node.vmid]
    assert len(first) <= FEW + 2 * lookups


@pytest.fixture
def lost(lone):
    """A SuperLink whose context was replaced by one without TOKEN, VMID and endpoint."""
    federation = lone(26120, "fo-lost", scale=SCALE, **SUBPROCESS)
    machine = federation.superlink
    federation.deploy(machine)
    federation.wait_ready(machine)
    before = ids(machine)
    directory = machine.root / "run/one-context"
    env = (directory / "one_env").read_text()
    replace(
        directory / "one_env", 'export TOKENTXT=""\nexport VMID=""\nexport ONEGATE_ENDPOINT=""\n'
    )
    for stage in ("local", "online", "network"):
        text = context_text({**machine.variables, "TARGET": "hda"})
        replace(directory / f"context.sh.{stage}", text)
    return federation, machine, before, env


def test_a_context_that_lost_its_token_leaves_the_last_one_in_use(lost):
    federation, machine, before, env = lost
    warns(federation, machine, "context.token_lost")
    wait_for(
        lambda: "context.token_lost" in published(federation, machine, "FLOWER_WARNING"),
        "the warning at OneGate, by the last token",
    )
    restart(federation, machine)
    warns(federation, machine, "context.token_lost")
    ready(federation, machine)
    seen = published(federation, machine, "FLOWER_SEEN")
    wait_for(
        lambda: published(federation, machine, "FLOWER_SEEN") != seen, "a heartbeat by a new agent"
    )
    replace(machine.root / "run/one-context/one_env", env)
    federation.write_context(machine, machine.variables)
    calm(federation, machine)
    wait_for(lambda: published(federation, machine, "FLOWER_WARNING") == "", "no warning there")
    assert ids(machine) == before
    assert error(federation, machine) is None
