"""``flower-agent doctor`` against what it looks at: OneGate, endpoints, Docker, disks, nftables."""

import base64
import contextlib
import gc
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import jsonschema
import pytest
from endpoints import (
    authority,
    closed_port,
    grpc_server,
    issue,
    loopback_leaf,
    narrow_path,
    tcp_server,
)
from fake_superlink import FakeSuperLink
from onegate import OneGate as Gate

from flower_agent import cli, files, process, state_file
from flower_agent.commands import doctor
from flower_agent.commands.doctor_checks import About
from flower_agent.config import sources
from flower_agent.config.flower_versions import Transport
from flower_agent.docker.image_references import Image
from flower_agent.flower import endpoint_check
from flower_agent.host import machine
from flower_agent.model import errors
from flower_agent.model.address import parse_address
from flower_agent.model.secret import Secret
from flower_agent.model.state import State
from flower_agent.onegate import client, status_attributes
from flower_agent.paths import Paths
from flower_agent.tls.store import Keyring

# docker-py leaves a socket to the garbage collector where nothing listens.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]

ROOT = pathlib.Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/doctor.schema.json").read_text())
LINK, NODE, LONER = 28, 42, 99
PASSWORD = "open sesame 42"


class Vm:
    """A VM of a service with a OneGate, and a root of its own."""

    def __init__(self, folder, gate, capsys):
        self.paths, self.gate, self._capsys = Paths(folder), gate, capsys
        gate.add_service(7, "flower", [("superlink", 1), ("supernode", 1)])
        self._link = gate.add_vm(LINK, "superlink_0_(service_7)", "superlink", 7)
        self.tokens = {NODE: gate.add_vm(NODE, "supernode_0_(service_7)", "supernode", 7)}
        self.tokens[LONER] = gate.add_vm(LONER, "loner")
        self.vmid = NODE
        self.context = {"FLOWER_ROLE": "client"}

    def publish(self, **attributes):
        """Let the SuperLink's VM publish."""
        told = {"FLOWER_ROLE": "superlink", "FLOWER_VERSION": "1.25.0", **attributes}
        with contextlib.closing(
            client.OneGate(sources.OneGateAccess(self.gate.url, str(LINK), Secret(self._link)))
        ) as guest:
            guest.update(status_attributes.render(told))

    def write(self):
        self.paths.context.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{name}='{value}'\n" for name, value in self.context.items())
        (self.paths.context / "context.sh.network").write_text(text)
        head = {"TOKENTXT": self.tokens[self.vmid], "VMID": self.vmid}
        head["ONEGATE_ENDPOINT"] = self.gate.url
        lines = "".join(f'export {name}="{value}"\n' for name, value in head.items())
        (self.paths.context / "one_env").write_text(lines)

    def run(self):
        """Return the exit code, and each check by its name; the last of several."""
        self.write()
        self._capsys.readouterr()
        code = cli.main(["--root", str(self.paths.root), "doctor", "--json"])
        out = self._capsys.readouterr().out
        for secret in (*self.tokens.values(), PASSWORD):
            assert secret not in out
        document = json.loads(out)
        jsonschema.validate(document, SCHEMA)
        return code, {check["name"]: check for check in document["checks"]}

    def check(self, name):
        return self.run()[1][name]


@pytest.fixture
def collected():
    """Let what the test left be collected while its warnings are not heard."""
    yield
    gc.collect()


@pytest.fixture
def vm(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with Gate() as gate:
        yield Vm(tmp_path, gate, capsys)


@pytest.fixture
def served(vm):
    """A SuperLink's Fleet port with TLS, published with its CA."""
    with grpc_server(leaf=loopback_leaf()) as address:
        encoded = base64.b64encode(authority().pem.encode()).decode()
        vm.publish(FLOWER_ENDPOINT=str(address), FLOWER_CA_CERT=encoded, FLOWER_TLS="YES")
        yield vm


def codes(checks):
    return {name: check["code"] for name, check in checks.items() if check["code"]}


# The SuperLink, as a SuperNode dials it


def test_a_superlink_that_onegate_tells_of_is_found_and_dialled_with_its_ca(served):
    _, checks = served.run()
    assert checks["onegate"]["detail"] == "service 7 has 2 VMs"
    assert checks["discover"]["detail"].startswith("the SuperLink is VM 28, 127.0.0.1:")
    assert checks["superlink"]["detail"].endswith("answers with TLS")
    assert (checks["discover"]["verdict"], checks["superlink"]["verdict"]) == ("ok", "ok")


def test_without_onegate_the_superlink_that_the_agent_remembers_is_dialled(served):
    address = parse_address(served.check("superlink")["detail"].split()[0])
    record = State(vmid=str(NODE), superlink=address, superlink_vmid=str(LINK))
    state_file.StateFile(served.paths.record).keep(record)
    ca = Keyring(served.paths.tls).ca
    ca.parent.mkdir(parents=True, exist_ok=True)
    ca.write_text(authority().pem)
    served.gate.fault("down")
    _, checks = served.run()
    assert checks["onegate"]["code"] == "onegate.down"
    assert (
        checks["discover"]["detail"] == f"the SuperLink is VM 28, {address}, from the saved state"
    )
    assert checks["superlink"]["verdict"] == "ok"
    served.context["FLOWER_SERVER_ADDRESS"] = str(closed_port())
    assert served.check("superlink")["code"] == "endpoint.refused"


def test_a_path_that_drops_large_packets_is_told(vm, monkeypatch):
    monkeypatch.setattr(endpoint_check, "TIMEOUT_S", 0.5)
    encoded = base64.b64encode(authority().pem.encode()).decode()
    with grpc_server(leaf=loopback_leaf()) as address, narrow_path(address) as path:
        vm.publish(FLOWER_ENDPOINT=str(path), FLOWER_CA_CERT=encoded, FLOWER_TLS="YES")
        code, checks = vm.run()
    assert (code, checks["superlink"]["code"]) == (1, "peer.mtu")


def test_a_nic_that_sends_more_than_its_network_is_said_to_carry_is_told(vm):
    seen = next((nic for nic in machine.observe().interfaces if nic.fleet), None)
    if seen is None:
        pytest.skip("this machine has no NIC")
    assert f"{seen.name} {seen.mtu}" in vm.check("mtu")["detail"]
    vm.context |= {"ETH0_MAC": seen.mac, "ETH0_MTU": str(seen.mtu - 100)}
    found = vm.check("mtu")
    assert (found["verdict"], found["code"]) == ("bad", "nic.mtu")
    assert f"ip link set {seen.name} mtu {seen.mtu - 100}" in found["hint"]


def test_a_superlink_of_another_ca_is_not_trusted(served):
    other = issue("another CA")
    served.context["TLS_CA_CERT"] = base64.b64encode(other.pem.encode()).decode()
    assert served.check("superlink")["code"] == "endpoint.untrusted"


def test_a_superlink_whose_ca_is_not_the_pinned_one_is_refused(served):
    state_file.StateFile(served.paths.record).keep(State(vmid=str(NODE), ca_pin="ab" * 32))
    assert served.check("superlink")["code"] == "tls.ca_changed"


def test_a_certificate_for_another_name_is_told(vm):
    leaf = issue("superlink", authority(), hosts=("10.1.2.3",))
    with grpc_server(leaf=leaf) as address:
        vm.context["FLOWER_SERVER_ADDRESS"] = str(address)
        vm.context["TLS_CA_CERT"] = base64.b64encode(authority().pem.encode()).decode()
        assert vm.check("superlink")["code"] == "endpoint.wrong_name"


def test_a_closed_port_is_told(vm):
    vm.context["FLOWER_SERVER_ADDRESS"] = str(closed_port())
    vm.context["TLS_ENABLED"] = "NO"
    code, checks = vm.run()
    assert (code, checks["superlink"]["code"]) == (1, "endpoint.refused")


def test_a_superlink_that_has_published_nothing_is_waited_for(vm):
    assert vm.check("superlink")["code"] == "discover.waiting"


def test_a_superlink_of_another_kind_is_told_before_it_is_dialled(served):
    served.publish(FLOWER_VERSION="1.42.0")
    assert served.check("discover")["code"] == "version.mixed"


def test_a_name_that_cannot_be_resolved_is_told(vm):
    vm.context["FLOWER_SERVER_ADDRESS"] = "superlink.invalid:9092"
    _, checks = vm.run()
    assert checks["dns"]["code"] == "endpoint.unknown_host"
    assert "superlink.invalid" in checks["dns"]["detail"]


def test_a_name_that_can_be_resolved_is_told_with_its_addresses(vm):
    vm.context["FLOWER_SERVER_ADDRESS"] = "localhost:9092"
    assert "127.0.0.1" in vm.check("dns")["detail"]


def test_a_lone_superexec_dials_its_appio(vm):
    vm.context = {"FLOWER_ROLE": "superexec", "FLOWER_APPIO_ADDRESS": str(closed_port())}
    assert vm.check("appio")["code"] == "endpoint.refused"
    with tcp_server(lambda connection: connection.recv(1)) as address:
        vm.context["FLOWER_APPIO_ADDRESS"] = str(address)
        assert vm.check("appio")["verdict"] == "ok"


def test_a_superlink_looks_at_its_own_apis(vm):
    link = FakeSuperLink()
    vm.paths.tls.mkdir(parents=True)
    (vm.paths.tls / "ca.crt").write_text(authority().pem)
    with link.serve(Transport.GRPC, loopback_leaf()) as address:
        vm.context = {
            "FLOWER_ROLE": "server",
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_FLEET_PORT": str(address.port),
            "FLOWER_CONTROL_ADDRESS": "127.0.0.1:1",
        }
        _, checks = vm.run()
        assert checks["superlink"]["code"] == "control.unavailable"  # and the Fleet answered
        with link.serve(Transport.GRPC, loopback_leaf()) as control:
            vm.context["FLOWER_CONTROL_ADDRESS"] = str(control)
            _, checks = vm.run()
    assert checks["superlink"]["verdict"] == "ok"
    assert "0 SuperNodes are online" in checks["control"]["detail"]


# OneGate and the clock


def test_a_onegate_that_is_away_is_told(vm):
    vm.write()
    url = vm.gate.url
    vm.gate.stop()
    vm.gate.start(port=int(url.rpartition(":")[2]))
    assert vm.check("onegate")["verdict"] == "ok"
    vm.gate.stop()
    (vm.paths.context / "one_env").write_text(
        f'export TOKENTXT="x"\nexport VMID="42"\nexport ONEGATE_ENDPOINT="{url}"\n'
    )
    vm.write = lambda: None
    assert vm.check("onegate")["code"] == "onegate.down"


def test_a_wrong_token_is_told(vm):
    vm.tokens[NODE] = "d3Jvbmc="
    assert vm.check("onegate")["code"] == "onegate.refused"


@pytest.mark.parametrize(("address", "verdict"), [("", "bad"), ("10.0.0.5", "ok")])
def test_a_supernode_outside_a_service_needs_an_address(vm, address, verdict):
    vm.vmid = LONER
    vm.context["FLOWER_SERVER_ADDRESS"] = address
    assert vm.check("onegate")["verdict"] == verdict


@pytest.mark.parametrize("ahead_s", [60, -60])
def test_a_clock_that_differs_from_onegates_is_told(vm, ahead_s):
    vm.gate.ahead_s = ahead_s
    found = vm.check("clock")
    assert found["code"] == "clock.skew"
    assert ("behind" if ahead_s > 0 else "ahead of") in found["detail"]


# Images and their registry


class Shelf:
    """An Engine with some images, and a registry that it may reach."""

    def __init__(self):
        self.here, self.trouble, self.proxy = False, None, ""

    def __call__(self, *_, **__):
        return self

    def about(self):
        return About(version="28.5.1", root="/", live_restore=True, proxy=self.proxy)

    def image(self, _):
        return Image("sha256:1", ()) if self.here else None

    def ask_registry(self, name, _):
        if self.trouble:
            raise errors.kind(self.trouble)(
                self.trouble, f"{name} could not be pulled: no such host"
            )

    def close(self):
        """Nothing is open."""


@pytest.fixture
def shelf(vm, monkeypatch):
    found = Shelf()
    monkeypatch.setattr(doctor, "Inspector", found)
    vm.context["FLOWER_IMAGE_PREFIX"] = "registry.invalid/flwr"
    return found


def test_where_all_images_are_here_a_registry_that_is_away_is_no_matter(vm, shelf):
    shelf.here, shelf.trouble = True, "image.pull"
    _, checks = vm.run()
    assert (checks["image"]["detail"], checks["registry"]["verdict"]) == ("all are here", "skipped")
    assert "registry.invalid" not in checks["dns"]["detail"]
    shelf.here = False
    assert vm.check("registry")["code"] == "image.pull"


@pytest.mark.parametrize("trouble", [None, "image.denied"])
def test_a_registry_that_answered_needs_no_name_here(vm, shelf, trouble):
    shelf.trouble = trouble
    _, checks = vm.run()
    assert checks["registry"]["code"] == trouble
    assert checks["dns"]["verdict"] == "skipped"


def test_a_registry_that_does_not_answer_has_its_name_looked_up_unless_a_proxy_does(vm, shelf):
    shelf.trouble = "image.pull"
    assert vm.check("dns")["code"] == "endpoint.unknown_host"
    shelf.proxy = "http://proxy.example.org:3128"
    _, checks = vm.run()
    assert checks["dns"]["verdict"] == "skipped"
    assert "by the proxy http://proxy.example.org:3128" in checks["docker"]["detail"]


# This machine


def test_doctor_is_never_better_than_the_status_of_a_living_agent(vm):
    own, stamp = process.own(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    error = {"code": "superexec.detached", "message": "it has no connection", "hint": "look"}
    told = {"schema": 1, "state": "degraded", "since": stamp, "written_at": stamp, "error": error}
    vm.paths.runtime.mkdir(parents=True)
    vm.paths.status.write_text(json.dumps({**told, "pid": own.pid, "pid_started": own.started}))
    with files.lock(vm.paths.lock):
        code, checks = vm.run()
    assert (code, checks["agent"]["code"]) == (1, "superexec.detached")
    assert checks["agent"]["verdict"] == "bad"


def test_who_has_a_taken_port_is_named(vm):
    own, stamp = process.own(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    vm.paths.runtime.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        message = f"flower-supernode cannot listen at {where}: another process does"
        error = {"code": "port.taken", "message": message, "hint": "look"}
        told = {"schema": 1, "state": "failed", "since": stamp, "written_at": stamp, "error": error}
        vm.paths.status.write_text(json.dumps({**told, "pid": own.pid, "pid_started": own.started}))
        with files.lock(vm.paths.lock):
            assert f"(process {own.pid})" in vm.check("agent")["detail"]


def test_a_damaged_node_key_is_told(vm):
    vm.paths.keys.mkdir(parents=True)
    (vm.paths.keys / f"node-{NODE}.key").write_text("junk")
    assert vm.check("node key")["code"] == "enrol.key_damaged"


def test_a_docker_engine_that_is_not_there_is_told(vm):
    found = vm.check("docker")
    assert (found["code"], "docker.sock" in found["detail"]) == ("docker.down", True)


def test_a_docker_engine_that_answers_is_told_with_its_disk(vm, docker_url, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", docker_url)
    _, checks = vm.run()
    assert "answers" in checks["docker"]["detail"]
    assert checks["docker"]["code"] in (None, "docker.live_restore")
    assert "/docker has " in checks["disk"]["detail"]


def test_an_agent_that_does_not_run_is_a_warning(vm):
    assert vm.check("agent")["code"] == "agent.stopped"


def test_a_context_is_judged_too(vm):
    vm.context = {"FLOWER_ROLE": "bogus"}
    code, checks = vm.run()
    assert (code, checks["context"]["code"]) == (1, "setting.invalid")


def test_a_full_disk_is_told(vm, missing):
    if os.geteuid():
        missing("root, to mount a tmpfs")
    vm.paths.state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "x", vm.paths.state], check=True)
    try:
        vm.write()
        done = ask(vm)
    finally:
        subprocess.run(["umount", vm.paths.state], check=True)
    assert f"{vm.paths.state} has 1 MiB left of 1 MiB" in done.stdout.replace("\n" + " " * 23, " ")
    assert "disk.low" in done.stdout


def ask(vm, *before):
    """Run the command as a process of its own, under the words `before`."""
    command = [*before, sys.executable, "-m", "flower_agent", "doctor", "--root", vm.paths.root]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("tcp dport 9092 accept", "firewall    ok"),
        ("tcp dport 22 accept", "firewall    warning"),
    ],
)
def test_nft_of_this_machine_is_asked_what_is_open(vm, missing, rule, expected):
    if os.geteuid() or not pathlib.Path("/usr/sbin/nft").exists():
        missing("root and nft, to make rules in a network of its own: apt-get install nftables")
    vm.context = {"FLOWER_ROLE": "server", "FLOWER_ADDRESS": "127.0.0.1"}
    vm.write()
    chain = f"type filter hook input priority 0; policy drop;\n{rule}"
    rules = f"table inet filter {{\nchain input {{\n{chain}\n}}\n}}\n"
    (vm.paths.root / "rules").write_text(rules)
    script = f'nft -f {vm.paths.root}/rules && exec "$@"'
    done = ask(vm, "unshare", "-n", "sh", "-c", script, "sh")
    assert expected in done.stdout, done


def test_nothing_is_changed(vm, capsys):
    vm.context["FLOWER_REGISTRY_USER"] = "puller"
    vm.context["FLOWER_REGISTRY_PASSWORD"] = PASSWORD
    vm.write()
    before = sorted((str(p), p.lstat().st_mtime_ns) for p in vm.paths.root.rglob("*"))
    with contextlib.suppress(SystemExit):
        cli.main(["--root", str(vm.paths.root), "doctor"])
    assert sorted((str(p), p.lstat().st_mtime_ns) for p in vm.paths.root.rglob("*")) == before
    out = capsys.readouterr().out
    assert out.startswith("trouble: ")
    assert PASSWORD not in out
