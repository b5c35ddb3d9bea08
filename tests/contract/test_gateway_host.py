"""The agent's care for a gateway: its files, its frontend, its certificate, whether it answers."""

import contextlib
import datetime
import grp
import json
import socket
import stat
import threading
import time

import pytest
from cycles import cycle_of, seeing

from flower_agent.background import Threads
from flower_agent.config import parsing
from flower_agent.config.flower_versions import Transport
from flower_agent.flower import container_spec
from flower_agent.flower.health import Prober
from flower_agent.host.machine import HostFacts
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError, StateFileError
from flower_agent.paths import Paths
from flower_agent.proxy.fleet_proxy import FleetProxy
from flower_agent.roles import gateway_host, gateway_look
from flower_agent.roles.gateway_host import GatewayHost, GatewayTrust
from flower_agent.roles.gateway_look import GatewayQuestion
from flower_agent.tls import own_ca, trust
from flower_agent.tls.store import Keyring

NOW = datetime.datetime.now(datetime.UTC)
HOST = "127.0.0.1"
SETTINGS_FRAME = b"\0\0\0\4\0\0\0\0\0"


def free_port():
    with socket.create_server((HOST, 0)) as taken:
        return taken.getsockname()[1]


class Asked:
    """Stands for the agent's socket."""

    def __init__(self):
        self.serving = False
        self.trouble = None

    def serve(self):
        if self.trouble is not None:
            raise self.trouble
        self.serving = True

    def stop(self):
        self.serving = False


class Vm:
    """A SuperLink's VM, as far as its gateway goes."""

    def __init__(self, root, **context):
        self.paths = Paths(root)
        self.port = free_port()
        self.context = {
            "FLOWER_ROLE": "server",
            "FLOWER_GATEWAY": "YES",
            "FLOWER_GATEWAY_ADDRESS": f"{HOST}:{self.port}",
            **context,
        }
        programs = root / "sbin"
        programs.mkdir()
        (programs / "haproxy").write_text("#!/bin/sh\n")
        (programs / "haproxy").chmod(0o755)
        self.asked = Asked()
        self.now = 1000.0
        self.proxy = FleetProxy(self.paths, Prober(), places=str(programs))
        self.host = self.again()
        keyring = Keyring(self.paths.tls)
        spec = trust.CertificateSpec(source=trust.CertificateSource.OWN, hosts=frozenset({HOST}))
        for step in trust.steps(spec, keyring.held(spec, NOW), NOW):
            keyring.apply(step, spec, NOW)
        self.keyring = keyring

    def again(self):
        """Return the care of an agent that starts."""
        return GatewayHost(self.paths, Threads(lambda: None), self.proxy, self.asked)

    def cycle(self, **context):
        return cycle_of(
            settings=parsing.parse({**self.context, **context}, {}).settings,
            variables={},
            host=HostFacts((), None, 2**31, "boot"),
            keyring=self.keyring,
            client=None,
            now=NOW,
            monotonic=self.now,
        )

    def turn(self, after_s=0.0, *, dry=False, **context):
        """Do a cycle's part; return the cycle."""
        self.now += after_s
        cycle = seeing(self.cycle(**context), dry=dry)
        settings = cycle.seen.settings
        places = container_spec.endpoints(settings, HOST)
        shown = None if dry else self.host.frontend(cycle, HOST, HOST)
        believed = GatewayTrust(server_hostname="localhost", ca_pem=self.keyring.held_ca())
        self.host.follow(cycle, places, believed, HOST, shown)
        if self.host._look.running:
            self.host._look.wait(10)
        return cycle

    def settled(self, **context):
        """Return the cycle that has the answer of the look which this one starts."""
        self.turn(gateway_host.LOOK_S, **context)
        return self.turn(**context)

    def told(self):
        return json.loads((self.paths.gateway / "gateway.json").read_text())


def said(cycle):
    mark = cycle.report.conditions["gateway"].mark.value if cycle.report.conditions else None
    return mark, [finding.code for finding in cycle.report.warnings]


@pytest.fixture
def vm(tmp_path):
    return Vm(tmp_path)


@contextlib.contextmanager
def answering(where, words):
    """Give a server that says `words` to whoever comes, and hangs up."""
    with contextlib.closing(where):
        stop = threading.Event()

        def serve():
            where.settimeout(0.05)
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    link, _ = where.accept()
                    with link:
                        link.settimeout(1)
                        if words is None:
                            stop.wait(10)
                        else:
                            link.recv(100)
                            link.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        stop.set()
        thread.join()


def unix(place):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(place))
    made.listen(5)
    return made


@contextlib.contextmanager
def up(vm, *, http=b"HTTP/1.1 404 Not Found\r\n\r\n", grpc=SETTINGS_FRAME):
    """A gateway that answers, with HAProxy in front."""
    sockets = vm.paths.gateway_sockets
    with (
        answering(unix(sockets / "http.sock"), http),
        answering(unix(sockets / "grpc.sock"), grpc),
        socket.create_server((HOST, vm.port)),
    ):
        yield


def test_the_gateway_is_told_which_superlink_it_serves(vm):
    vm.turn()
    assert vm.told() == {
        "version": "1.25.0",
        "transport": "grpc",
        "control": "127.0.0.1:9093",
        "ca": str(vm.paths.gateway / "ca.crt"),
        "ca_fingerprint": vm.keyring.held_fingerprint(),
        "server_hostname": "localhost",
        "url": f"https://{HOST}:{vm.port}",
    }
    assert (vm.paths.gateway / "ca.crt").read_text() == vm.keyring.held_ca()
    assert vm.asked.serving


def test_only_the_gateways_group_reads_its_files(vm, monkeypatch):
    monkeypatch.setattr(gateway_host, "GROUP", "nogroup")
    vm.turn()
    group = grp.getgrnam("nogroup").gr_gid
    for path, mode in (
        (vm.paths.gateway, 0o750),
        (vm.paths.gateway / "gateway.json", 0o640),
        (vm.paths.gateway / "ca.crt", 0o640),
    ):
        seen = path.stat()
        assert (stat.S_IMODE(seen.st_mode), seen.st_gid) == (mode, group)


def test_no_key_is_among_them(vm):
    vm.turn()
    for path in vm.paths.gateway.iterdir():
        assert "PRIVATE KEY" not in path.read_text()


def test_a_settled_turn_and_a_new_agent_write_nothing(vm):
    vm.turn()
    places = (vm.paths.gateway / "gateway.json", vm.paths.proxy / "haproxy.cfg")
    before = [place.stat().st_ino for place in places]
    vm.turn(10)
    vm.host = vm.again()
    vm.turn(10)
    assert [place.stat().st_ino for place in places] == before


def test_another_ca_makes_another_document(vm):
    vm.turn()
    before = vm.told()
    pair = own_ca.make_ca(NOW)
    vm.keyring.ca.chmod(0o644)
    vm.keyring.ca.write_text(pair.certificate_pem)
    vm.turn(10)
    assert vm.told() != before
    assert (vm.paths.gateway / "ca.crt").read_text() == pair.certificate_pem


def test_switched_off_its_files_go_and_the_process_with_them(vm):
    vm.turn()
    vm.host.stop()
    assert list(vm.paths.gateway.iterdir()) == []
    assert not vm.asked.serving
    vm.host.stop()


def test_without_a_gateway_nothing_is_made(vm, tmp_path):
    cycle = vm.turn(FLOWER_GATEWAY="NO")
    vm.host.stop()
    assert (cycle.report.conditions, cycle.report.warnings) == ({}, [])
    assert not vm.paths.runtime.exists()
    assert not vm.asked.serving


def test_a_dry_look_touches_nothing(vm):
    cycle = vm.turn(dry=True)
    assert cycle.report.conditions == {}
    assert not vm.paths.runtime.exists()


def test_below_1_40_haproxy_serves_the_gateway_alone(vm):
    vm.turn()
    text = (vm.paths.proxy / "haproxy.cfg").read_text()
    assert f"bind {HOST}:{vm.port} ssl crt {vm.paths.proxy}/gateway.pem" in text
    assert f"unix@{vm.paths.gateway_sockets}/http.sock" in text
    assert "frontend fleet" not in text


def test_from_1_40_on_it_is_left_to_who_serves_the_fleet(vm):
    cycle = vm.cycle(FLOWER_VERSION="1.42.0")
    shown = vm.host.frontend(cycle, HOST, HOST)
    assert shown.listen == Address(HOST, vm.port)
    assert shown.chain_pem == vm.keyring.held_chain()
    vm.turn(FLOWER_VERSION="1.42.0")
    assert not vm.paths.proxy.exists()
    assert vm.told()["transport"] == "http"


def test_it_starts_answers_falls_silent_and_comes_back(vm):
    assert said(vm.settled()) == ("waiting", [])
    with up(vm):
        cycle = vm.settled()
        assert said(cycle) == ("ok", [])
        detail = cycle.report.conditions["gateway"].detail
        assert detail == f"people log in at https://{HOST}:{vm.port}"
    assert said(vm.settled()) == ("waiting", [])
    cycle = vm.settled()
    vm.turn(gateway_host.START_S)
    assert said(vm.settled()) == ("bad", ["gateway.down"])
    with up(vm):
        assert said(vm.settled()) == ("ok", [])


def test_what_is_down_never_fails_the_superlink(vm):
    vm.turn()
    vm.turn(gateway_host.START_S + 10)
    cycle = vm.settled()
    assert [finding.severity.value for finding in cycle.report.warnings] == ["warning"]


def test_an_address_that_haproxy_cannot_have_is_kept_from_its_configuration(vm):
    with socket.create_server((HOST, vm.port)):
        cycle = vm.turn()
    assert said(cycle) == ("bad", ["gateway.address"])
    assert "taken by another process" in cycle.report.warnings[0].message
    assert not vm.paths.proxy.exists()
    assert not vm.paths.gateway.exists()
    cycle = vm.turn(FLOWER_GATEWAY_ADDRESS="192.0.2.1:9443")
    assert "no address of this VM" in cycle.report.warnings[0].message


def test_the_port_that_haproxy_has_already_is_its_own(vm):
    vm.turn()
    with socket.create_server((HOST, vm.port)):
        vm.host = vm.again()
        assert said(vm.turn(10)) == ("waiting", [])


def test_without_haproxy_the_superlink_works_and_says_what_lacks(vm, tmp_path):
    (tmp_path / "sbin" / "haproxy").unlink()
    cycle = vm.turn()
    assert said(cycle) == ("bad", ["proxy.missing"])
    assert "apt-get install haproxy" in cycle.report.warnings[0].hint


def test_a_socket_that_cannot_be_made_is_a_warning(vm):
    vm.asked.trouble = StateFileError("state.unwritable", "no room", retryable=True)
    assert said(vm.turn()) == ("bad", ["state.unwritable"])


def given(pair):
    return {
        "FLOWER_GATEWAY_CERT": pair.certificate_pem,
        "FLOWER_GATEWAY_KEY": pair.key.reveal(),
    }


def test_a_certificate_of_its_own_is_shown_instead_of_the_superlinks(vm):
    pair = own_ca.make_leaf(own_ca.make_ca(NOW), {HOST}, NOW)
    cycle = vm.turn(**given(pair))
    assert cycle.report.warnings == []
    text = (vm.paths.proxy / "gateway.pem").read_text()
    assert pair.certificate_pem.splitlines()[1] in text
    assert stat.S_IMODE((vm.paths.proxy / "gateway.pem").stat().st_mode) == 0o640


@pytest.mark.parametrize(("days", "code"), [(360, "tls.expires_soon"), (400, "tls.expired")])
def test_a_certificate_that_ends_is_a_warning_and_served_all_the_same(vm, days, code):
    then = NOW - datetime.timedelta(days=days)
    pair = own_ca.make_leaf(own_ca.make_ca(then), {HOST}, then)
    cycle = vm.turn(**given(pair))
    assert [finding.code for finding in cycle.report.warnings] == [code]
    assert (vm.paths.proxy / "gateway.pem").exists()


def test_a_pair_that_does_not_fit_is_an_error_before_anything_starts(vm):
    ca = own_ca.make_ca(NOW)
    one, other = (own_ca.make_leaf(ca, {HOST}, NOW) for _ in range(2))
    mixed = given(one) | {"FLOWER_GATEWAY_KEY": other.key.reveal()}
    with pytest.raises(AgentError) as refused:
        vm.host.require(vm.cycle(**mixed), HOST, HOST)
    assert refused.value.finding.code == "tls.key_mismatch"
    vm.host.require(vm.cycle(**given(one)), HOST, HOST)
    vm.host.require(vm.cycle(**mixed, FLOWER_GATEWAY="NO"), HOST, HOST)


def test_a_name_that_the_certificate_lacks_is_a_warning(vm):
    url = {"FLOWER_GATEWAY_URL": "https://fl.example.org"}
    cycle = vm.turn(**url)
    assert [finding.code for finding in cycle.report.warnings] == ["tls.not_covered"]
    pair = own_ca.make_leaf(own_ca.make_ca(NOW), {"fl.example.org"}, NOW)
    assert vm.turn(10, **url, **given(pair)).report.warnings == []


def test_the_superlinks_own_certificate_names_what_people_dial(vm):
    settings = vm.cycle(FLOWER_GATEWAY_URL="https://fl.example.org").seen.settings
    assert vm.host.names(settings, HOST, HOST) == ("fl.example.org", HOST)
    assert vm.host.names(vm.cycle(FLOWER_GATEWAY="NO").seen.settings, HOST, HOST) == ()
    pair = own_ca.make_leaf(own_ca.make_ca(NOW), {HOST}, NOW)
    assert vm.host.names(vm.cycle(**given(pair)).seen.settings, HOST, HOST) == ()


@pytest.mark.parametrize(
    ("http", "grpc", "transport", "words"),
    [
        (b"SSH-2.0-x\r\n", SETTINGS_FRAME, Transport.GRPC, "http.sock"),
        (b"", SETTINGS_FRAME, Transport.GRPC, "hangs up"),
        (b"HTTP/1.1 404\r\n", b"HTTP/1.1 400\r\n", Transport.GRPC, "grpc.sock"),
        (b"HTTP/1.1 404\r\n", b"", Transport.HTTP, ""),
    ],
)
def test_each_socket_must_say_what_it_is_for(vm, http, grpc, transport, words):
    question = GatewayQuestion(
        str(vm.paths.gateway_sockets), Address(HOST, vm.port), grpc=transport is Transport.GRPC
    )
    with up(vm, http=http, grpc=grpc):
        if not words:
            gateway_look.look(question)
            return
        with pytest.raises(AgentError, match="gateway") as found:
            gateway_look.look(question)
    assert words in str(found.value)


def test_a_gateway_that_hangs_is_told_from_one_that_works(vm, monkeypatch):
    monkeypatch.setattr(gateway_look, "TIMEOUT_S", 0.2)
    question = GatewayQuestion(str(vm.paths.gateway_sockets), Address(HOST, vm.port), grpc=True)
    began = time.monotonic()
    with up(vm, http=None), pytest.raises(AgentError, match="timed out"):
        gateway_look.look(question)
    assert time.monotonic() - began < 15


def test_haproxy_that_does_not_listen_is_said(vm):
    question = GatewayQuestion(str(vm.paths.gateway_sockets), Address(HOST, free_port()), grpc=True)
    with up(vm), pytest.raises(AgentError, match="HAProxy does not listen"):
        gateway_look.look(question)
