"""Flower 1.42 behind HAProxy: a federation with node keys, and who is shut out."""

import contextlib
import datetime
import json
import os
import pathlib
import re
import signal
import ssl
import subprocess
import sys
import threading
import time

import pytest
from federation import REPOSITORY, SERVICE, Machine
from watched import WatchedFederation, docker, started, wait_for

from flower_agent.tls import own_ca

pytestmark = [pytest.mark.engine, pytest.mark.federation, pytest.mark.long]

VERSION = "1.42.0"
BASE = 38000
HERE, THERE = "10.222.250.1", "10.222.250.2"
"""The two ends of a cable to another network namespace."""

FLEET = BASE + 2
SUPERLINK = "px-superlink-flower-superlink"
SUPEREXEC = "px-superlink-flower-superexec"
OTHERS = (
    "POST /v1/control/list-nodes", "POST /v1/control/start-run", "POST /v1/control/register-node",
    "POST /v1/control/list-runs", "POST /v1/runtime/acquire-task", "POST /v1/runtime/pull-messages",
    "GET /docs", "GET /redoc", "GET /openapi.json", "GET /health", "GET /",
    "POST /v1/fleet/../control/list-nodes", "POST /v1/fleet/%2e%2e/control/list-nodes",
    "POST //v1/control/list-nodes",
)  # fmt: skip
ASK = """
import http.client, ssl, sys
host, port = sys.argv[1], int(sys.argv[2])
for line in sys.argv[3:]:
    method, path = line.split(" ", 1)
    context = ssl._create_unverified_context()
    asked = http.client.HTTPSConnection(host, port, timeout=20, context=context)
    asked.request(method, path, b"", {"Content-Type": "application/protobuf"})
    print(asked.getresponse().status, line)
"""
KNOCK = """
import socket, sys
for port in sys.argv[2:]:
    try:
        socket.create_connection((sys.argv[1], int(port)), 2).close()
    except OSError:
        continue
    print(port)
"""


@pytest.fixture(scope="module")
def elsewhere():
    """The command that goes to another machine: a network namespace with a cable to this one."""
    name, cable = f"px-{os.getpid()}", f"px{os.getpid()}"
    with contextlib.ExitStack() as undo:
        ip("netns", "add", name)
        undo.callback(ip, "netns", "delete", name)
        ip("link", "add", f"{cable}n", "type", "veth", "peer", f"{cable}f", "netns", name)
        undo.callback(ip, "link", "delete", f"{cable}n")
        ip("address", "add", f"{HERE}/30", "dev", f"{cable}n")
        ip("link", "set", f"{cable}n", "up")
        ip("-n", name, "address", "add", f"{THERE}/30", "dev", f"{cable}f")
        ip("-n", name, "link", "set", f"{cable}f", "up")
        yield ["nsenter", f"--net=/run/netns/{name}", "--", sys.executable, "-c"]


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def up(images, elsewhere, tmp_path_factory):
    """A federation of 1.42, up: the Fleet API at the cable's end, all else on loopback."""
    build = [sys.executable, REPOSITORY / "contrib/images/build.py", "--flower", VERSION]
    subprocess.run([*build, "--framework", "sklearn"], check=True)
    federation = WatchedFederation(
        tmp_path_factory.mktemp("px"),
        name="px",
        base_port=BASE,
        variables={"FLOWER_VERSION": VERSION},
        say=lambda _: None,
    )
    federation.superlink.variables["FLOWER_ADDRESS"] = HERE
    try:
        federation.up()
        yield federation
    finally:
        federation.down()


@pytest.fixture
def proxied(up):
    """That federation, once all is well in it."""

    def well():
        status = up.status(up.superlink)
        return status["state"] == "ready" and not status["warnings"] and len(ids(up)) == 2

    wait_for(well, "all is well", 120)
    return up


def ids(federation):
    """Return the ids of the SuperNodes that are online."""
    listed = federation.status(federation.superlink)["supernodes"]
    return sorted(node["node_id"] for node in listed if node["state"] == "online")


def code(federation, machine):
    return (federation.status(machine)["error"] or {}).get("code")


def haproxy(federation, sign):
    """Send a signal to HAProxy's master."""
    unit = federation._processes["haproxy"].pid
    children = pathlib.Path(f"/proc/{unit}/task/{unit}/children").read_text().split()
    os.kill(int(children[0]), sign)


def shown(federation):
    """Return the certificate that nodes see."""
    assert federation
    return ssl.get_server_certificate((HERE, FLEET), timeout=10)


def run(*command):
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_nodes_come_in_by_their_keys_and_the_status_says_through_what(proxied):
    assert proxied.connected() == 2
    status = proxied.status(proxied.superlink)
    facts = {row["name"]: row["detail"] for row in status["facts"]}
    assert facts["proxy"] == f"the SuperLink answers through HAProxy at {HERE}:{FLEET}"
    assert status["warnings"] == []
    assert proxied.attributes(proxied.superlink)["FLOWER_NODE_AUTH"] == "YES"
    command = docker("inspect", "-f", "{{json .Config.Cmd}}", SUPERLINK)
    assert f'"--host","127.0.0.1","--port","{proxied.control_port}"' in command


def test_from_another_machine_the_fleet_port_alone_is_open(proxied, elsewhere):
    ports = [str(port) for port in range(BASE, BASE + 60)]
    assert run(*elsewhere, KNOCK, HERE, *ports) == [str(FLEET)]


def test_from_another_machine_nothing_but_fleet_calls_pass(proxied, elsewhere):
    told = run(*elsewhere, ASK, HERE, str(FLEET), *OTHERS)
    assert told == [f"404 {line}" for line in OTHERS]
    log = docker("logs", "--tail", "200", SUPERLINK)
    assert "openapi.json" not in log


def test_a_server_app_gets_no_more_of_the_fleet_address(proxied):
    ask = ("docker", "exec", SUPEREXEC, "python", "-c", ASK, HERE, str(FLEET))
    assert run(*ask, *OTHERS) == [f"404 {line}" for line in OTHERS]


def test_a_call_that_no_node_signed_is_the_superlinks_to_refuse(proxied, elsewhere):
    (told,) = run(*elsewhere, ASK, HERE, str(FLEET), "POST /v1/fleet/pull-messages")
    assert told.startswith("40"), told


def test_a_run_outlives_reloads_and_restarts_of_the_proxy(proxied):
    before, said = ids(proxied), []
    runs = threading.Thread(target=lambda: said.extend(proxied.submit()))
    runs.start()
    wait_for(lambda: any(re.search(r"round 1 of", line) for line in said), "the first round", 300)
    haproxy(proxied, signal.SIGUSR2)
    time.sleep(5)
    haproxy(proxied, signal.SIGUSR1)  # ends once it has answered; the unit starts it again
    runs.join(400)
    assert any(line.strip().startswith("finished") for line in said), said[-20:]
    wait_for(lambda: ids(proxied) == before, "the same nodes")
    wait_for(lambda: proxied.status(proxied.superlink)["state"] == "ready", "ready")


def test_a_renewed_certificate_is_shown_and_no_container_restarts(proxied):
    names = [SUPERLINK, *(f"{node.prefix}-flower-supernode" for node in proxied.supernodes)]
    old, runs, nodes = shown(proxied), [started(name) for name in names], ids(proxied)
    assert proxied.agent(proxied.superlink, "tls", "renew").returncode == 0
    wait_for(lambda: shown(proxied) != old, "the new certificate")
    time.sleep(10)
    assert [started(name) for name in names] == runs
    assert ids(proxied) == nodes
    assert proxied.status(proxied.superlink)["state"] == "ready"


def test_a_frozen_superlink_behind_the_proxy_is_degraded(proxied):
    processes = docker("top", SUPERLINK, "-o", "pid").split()[1:]
    for pid in processes:
        os.kill(int(pid), signal.SIGSTOP)
    try:
        wait_for(lambda: proxied.status(proxied.superlink)["state"] == "degraded", "degraded")
        for node in proxied.supernodes:
            wait_for(lambda n=node: code(proxied, n) == "peer.mute", "a node's word of it", 90)
    finally:
        for pid in processes:
            os.kill(int(pid), signal.SIGCONT)
    wait_for(lambda: proxied.status(proxied.superlink)["state"] == "ready", "ready again", 120)
    wait_for(lambda: len(ids(proxied)) == 2, "both nodes")


def test_a_proxy_that_is_away_is_told_and_its_return_too(proxied):
    proxied.stop_proxy()
    link = proxied.superlink
    wait_for(lambda: code(proxied, link) == "proxy.down", "down")
    assert "proxy.down" in proxied.agent(link, "doctor").stdout
    proxied.start_proxy()
    wait_for(lambda: proxied.status(link)["state"] == "ready", "ready again")
    checks = json.loads(proxied.agent(link, "doctor", "--json").stdout)["checks"]
    told = {check["name"]: check["verdict"] for check in checks}
    assert (told["superlink"], told["control"]) == ("ok", "ok")


def test_a_given_certificate_is_the_proxys_and_its_renewal_restarts_nothing(lone):
    link = (federation := lone(BASE + 100, "px-given", FLOWER_VERSION=VERSION)).superlink
    now = datetime.datetime.now(datetime.UTC)
    authority = own_ca.make_ca(now)

    def give():
        leaf = own_ca.make_leaf(authority, frozenset({"127.0.0.1"}), now)
        place = link.root / "etc/flower-agent/tls"
        place.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("privkey.pem", leaf.key.reveal()),
            ("fullchain.pem", leaf.certificate_pem),
            ("root.pem", authority.certificate_pem),
        ):
            (place / name).write_text(text)
        return leaf.certificate_pem.strip()

    def shows():
        address = ("127.0.0.1", int(link.variables["FLOWER_FLEET_PORT"]))
        return ssl.get_server_certificate(address, timeout=10).strip()

    first = give()
    federation.deploy(link)
    federation.wait_ready(link)
    assert shows() == first
    before = started(f"{link.prefix}-flower-superlink")
    facts = {row["name"]: row["detail"] for row in federation.status(link)["facts"]}
    assert facts["superexec"].startswith("connected")
    second = give()
    assert federation.agent(link, "tls", "renew").returncode == 0
    wait_for(lambda: shows() == second, "the renewed certificate")
    time.sleep(5)
    assert started(f"{link.prefix}-flower-superlink") == before
    assert federation.status(link)["state"] == "ready"
    assert federation.agent(link, "nodes", "list").returncode == 0


@pytest.mark.parametrize(
    ("address", "public", "dialled"),
    [
        ("0.0.0.0", "", "127.0.0.1"),  # noqa: S104 - HAProxy's, passing the Fleet API alone
        ("::1", "", "::1"),
        ("127.0.0.1", "fl.example.org:443", "127.0.0.1"),
    ],
)
def test_the_proxy_listens_where_the_fleet_api_is_wanted(lone, address, public, dialled):
    link = (federation := lone(BASE + 300, "px-where", FLOWER_VERSION=VERSION)).superlink
    link.variables["FLOWER_ADDRESS"] = address
    if public:
        link.variables["FLOWER_PUBLIC_ADDRESS"] = public
    federation.deploy(link)
    federation.wait_ready(link)
    port = link.variables["FLOWER_FLEET_PORT"]
    calls = ["POST /v1/control/list-nodes", "GET /docs"]
    asked = run(sys.executable, "-c", ASK, dialled, port, *calls)
    assert asked == [f"404 {call}" for call in calls]
    if public:
        assert federation.status(link)["endpoint"] == public


class FarServerApps(WatchedFederation):
    """A SuperLink without nodes, whose ServerApps a SuperExec of another VM runs."""

    port = BASE + 201

    def __init__(self, directory):
        super().__init__(
            directory,
            name="px-far",
            base_port=BASE + 200,
            supernodes=0,
            variables={"FLOWER_VERSION": VERSION},
            say=lambda _: None,
        )
        where = f"127.0.0.1:{self.port}"
        self.superlink.variables["FLOWER_APPIO_LISTEN"] = where
        variables = {
            **self._common,
            "FLOWER_ROLE": "superexec",
            "FLOWER_APPIO_ADDRESS": where,
            "FLOWER_SUPEREXEC_PLUGIN": "serverapp",
            "FLOWER_HEALTH_PORT": str(BASE + 240),
        }
        self.apps = Machine(
            vmid=61,
            name=f"superexec_0_(service_{SERVICE})",
            role="superexec",
            root=self.directory / "superexec",
            prefix="px-far-superexec",
            variables=variables,
            attributes={},
        )

    @property
    def machines(self):
        return (*super().machines, self.apps)

    def start_onegate(self):
        super().start_onegate()
        self.cloud.add_service(SERVICE, "flower", [("superlink", 1), ("superexec", 1)])


def test_a_superexec_elsewhere_attaches_through_the_proxy_which_passes_appio_alone(
    images, tmp_path
):
    federation = FarServerApps(tmp_path / "far")
    try:
        federation.up()
        federation.deploy(federation.apps)
        federation.wait_ready(federation.apps)
        facts = {row["name"]: row["detail"] for row in federation.status(federation.apps)["facts"]}
        assert facts["peer"].startswith(f"connected to 127.0.0.1:{federation.port}")
        calls = ["POST /v1/control/list-nodes", "POST /v1/fleet/pull-messages", "GET /docs"]
        asked = run(sys.executable, "-c", ASK, "127.0.0.1", str(federation.port), *calls)
        assert asked == [f"404 {call}" for call in calls]
        listens = federation.status(federation.superlink)["facts"]
        assert any(row["name"] == "appio" and "with TLS" in row["detail"] for row in listens)
    finally:
        federation.down()
