"""A SuperLink's agent and its gateway: what a cycle hands on, and when everything goes again."""

import datetime
import json
import socket
import types

import pytest
from cycles import cycle_of, seeing

from flower_agent.agent.stages import Stages
from flower_agent.background import Threads
from flower_agent.config import parsing
from flower_agent.cycle import Running
from flower_agent.flower.container_spec import RoleSpec
from flower_agent.host.machine import HostFacts
from flower_agent.model.errors import AgentError
from flower_agent.model.state import State
from flower_agent.paths import Paths
from flower_agent.proxy.proxy_files import ProxyFiles
from flower_agent.roles import superlink
from flower_agent.roles.gateway_host import GatewayHost
from flower_agent.roles.server_certificate import ServerCertificate
from flower_agent.tls import own_ca, trust
from flower_agent.tls.provided import CertificateFiles
from flower_agent.tls.store import Keyring

NOW = datetime.datetime.now(datetime.UTC)
HOST = "127.0.0.1"


class Beside:
    """What a SuperLink does beside its gateway, left out here; it keeps what HAProxy is told."""

    active, claims, members, expected, names = frozenset(), {}, None, 2, {}
    kept = None

    def close(self):
        """Nothing is open."""

    def list_nodes(self, _timeout_s):
        return ()

    def follow(self, *_):
        return []

    def look(self, *_, **__):
        return None

    def probe(self, *_, **__):
        return types.SimpleNamespace(not_after=NOW)

    def keep(self, *_, gateway, **__):
        self.kept = gateway

    def keep_gateway(self, gateway):
        self.kept = gateway

    def serves_gateway(self, _listen):
        return False

    def serve(self):
        """It serves."""

    def stop(self):
        """It serves no more."""

    def wants_keys(self, _cycle):
        return False

    probe_serving = probe_tcp = probe_tls = enrol = growing = check = probe


class Vm:
    """A SuperLink's VM whose Flower works."""

    def __init__(self, root, monkeypatch):
        self.paths, self.beside = Paths(root), Beside()
        self.paths.runs.mkdir(parents=True)
        with socket.create_server((HOST, 0)) as free:
            self.port = free.getsockname()[1]
        self.keyring = Keyring(self.paths.tls)
        for keyring in (self.keyring, self.keyring.loopback):
            spec = trust.CertificateSpec(
                source=trust.CertificateSource.OWN, hosts=frozenset({HOST})
            )
            for step in trust.steps(spec, keyring.held(spec, NOW), NOW):
                keyring.apply(step, spec, NOW)
        monkeypatch.setattr(superlink, "connect", lambda *_: self.beside)
        self.gateway = GatewayHost(self.paths, Threads(lambda: None), self.beside, self.beside)
        files = CertificateFiles(self.paths.certificates)
        self.controller = superlink.SuperLinkController(
            self.beside,
            self.beside,
            self.beside,
            ServerCertificate(files),
            firewalls=self.beside,
            follower=self.beside,
            reports=self.beside,
            paths=self.paths,
            gateway=self.gateway,
        )
        self.controller._proxy = self.beside

    def cycle(self, **context):
        given = {
            "FLOWER_ROLE": "server",
            "FLOWER_ADDRESS": HOST,
            "FLOWER_NODE_AUTH": "NO",
            "FLOWER_GATEWAY": "YES",
            "FLOWER_GATEWAY_ADDRESS": f"{HOST}:{self.port}",
            **context,
        }
        facts = HostFacts((), None, 2**31, "boot")
        return cycle_of(
            settings=parsing.parse(given, {}).settings,
            variables={},
            host=facts,
            keyring=self.keyring,
            client=None,
            now=NOW,
            monotonic=1000.0,
            state=State(),
        )

    def check(self, **context):
        cycle = self.cycle(**context)
        self.controller.check(cycle, Running(NOW, str, spec=RoleSpec(fleet_host=HOST)))
        if self.gateway._look.running:
            self.gateway._look.wait(10)
        return cycle

    def give_back(self, **context):
        """Do what each cycle does before it wants a container."""
        stages = Stages(
            self.paths, "", None, {}, connections=None, gpu_setup=None, upgrader=None,
            image_resolver=None, gateway=self.gateway,
        )  # fmt: skip
        stages._give_back(self.cycle(**context).seen.settings)

    def told(self):
        return json.loads((self.paths.gateway / "gateway.json").read_text())


@pytest.fixture
def vm(tmp_path, monkeypatch):
    return Vm(tmp_path, monkeypatch)


def test_below_1_40_the_gateway_knows_the_superlink_by_its_published_name(vm):
    cycle = vm.check()
    told = vm.told()
    assert (told["transport"], told["server_hostname"]) == ("grpc", HOST)
    assert (vm.paths.gateway / "ca.crt").read_text() == vm.keyring.held_ca()
    assert vm.beside.kept.listen.port == vm.port
    assert cycle.report.conditions["gateway"].mark.value == "waiting"


def test_from_1_40_on_by_its_certificate_of_loopback_and_haproxy_has_both(vm):
    vm.check(FLOWER_VERSION="1.42.0")
    told = vm.told()
    assert (told["transport"], told["server_hostname"]) == ("http", "localhost")
    assert (vm.paths.gateway / "ca.crt").read_text() == vm.keyring.loopback.held_ca()
    assert vm.beside.kept.chain_pem == vm.keyring.held_chain()


@pytest.mark.parametrize("version", ["1.25.0", "1.42.0"])
def test_without_a_gateway_haproxy_is_told_of_none_and_nothing_is_written(vm, version):
    cycle = vm.check(FLOWER_GATEWAY="NO", FLOWER_VERSION=version)
    assert vm.beside.kept is None
    assert not vm.paths.gateway.exists()
    assert "gateway" not in cycle.report.conditions


def test_a_control_port_without_tls_needs_no_ca(vm):
    pair = own_ca.make_leaf(own_ca.make_ca(NOW), {HOST}, NOW)
    given = {
        "FLOWER_GATEWAY_CERT": pair.certificate_pem,
        "FLOWER_GATEWAY_KEY": pair.key.reveal(),
    }
    vm.check(TLS_ENABLED="NO", **given)
    assert (vm.told()["ca"], vm.told()["server_hostname"]) == (None, None)
    assert not (vm.paths.gateway / "ca.crt").exists()


def test_the_own_certificate_names_what_people_dial_and_without_a_gateway_what_it_did(vm):
    url = {"FLOWER_GATEWAY_URL": "https://fl.example.org"}
    plain = vm.controller.prepare(vm.cycle(FLOWER_GATEWAY="NO")).trust
    wider = vm.controller.prepare(vm.cycle(**url)).trust
    assert wider.hosts - plain.hosts == {"fl.example.org"}
    assert vm.controller.prepare(vm.cycle()).trust == plain, "its own address is named already"
    alone = superlink.SuperLinkController(
        vm.beside, vm.beside, vm.beside, vm.controller._certificate,
        firewalls=vm.beside, follower=vm.beside, reports=vm.beside, paths=vm.paths,
    )  # fmt: skip
    assert alone.prepare(vm.cycle(FLOWER_GATEWAY="NO")).trust == plain


def test_a_pair_that_does_not_fit_ends_the_preparation(vm):
    ca = own_ca.make_ca(NOW)
    one, other = (own_ca.make_leaf(ca, {HOST}, NOW) for _ in range(2))
    mixed = {
        "FLOWER_GATEWAY_CERT": one.certificate_pem,
        "FLOWER_GATEWAY_KEY": other.key.reveal(),
    }
    with pytest.raises(AgentError, match=r"tls\.key_mismatch"):
        vm.controller.prepare(vm.cycle(**mixed))


def test_a_dry_look_leaves_the_gateway_alone(vm):
    cycle = seeing(vm.cycle(), dry=True)
    vm.controller.check(cycle, Running(NOW, str, spec=RoleSpec(fleet_host=HOST)))
    assert vm.beside.kept is None
    assert not vm.paths.gateway.exists()


def test_switched_off_or_another_role_the_gateways_files_go(vm):
    for gone in ({"FLOWER_GATEWAY": "NO"}, {"FLOWER_ROLE": "client"}):
        vm.check()
        ProxyFiles(vm.paths.proxy).write(None, None, vm.beside.kept)
        vm.give_back()
        assert (vm.paths.gateway / "gateway.json").exists()
        assert (vm.paths.proxy / "haproxy.cfg").exists()
        vm.give_back(**gone)
        assert [*vm.paths.gateway.iterdir(), *vm.paths.proxy.iterdir()] == []
