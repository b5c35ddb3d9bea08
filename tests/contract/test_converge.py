"""Turns of the loop on an Engine in memory: what changes the state of a VM, and what must not."""

import contextlib
import datetime
import socket

import pytest
from fake_engine import FakeEngine
from real_engine import until

from flower_agent import roles, settings, trust
from flower_agent.address import Address
from flower_agent.arguments import Trust
from flower_agent.containers import Container, Part
from flower_agent.converge import Converger
from flower_agent.discovery import SuperLink
from flower_agent.errands import Errands
from flower_agent.errors import AgentError
from flower_agent.host import HostFacts
from flower_agent.keyring import Keyring
from flower_agent.life import Phase
from flower_agent.parsers import Role
from flower_agent.paths import Paths
from flower_agent.record import Record
from flower_agent.turn import Prepared, Turn
from flower_agent.workload import Workload

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
SUPERNODE = "flower-supernode"


class Found:
    """A SuperNode's duty that has found its SuperLink; `error` is what its check meets."""

    def __init__(self):
        self.error, self.hung = None, False

    def prepare(self, _):
        known = SuperLink(Address("10.0.0.5", 9092))
        site = {"superlink": known, "trust": Trust.INSECURE, "node_config": ()}
        return Prepared(trust=trust.Wanted(source=trust.Source.OFF), site=site)

    def may_start(self, _):
        pass

    def check(self, turn, _):
        turn.phase = Phase.PEER
        turn.hung = self.hung
        if self.error:
            raise self.error

    def close(self):
        pass


class Vm:
    """A SuperNode's VM with an Engine in memory, and one turn after another."""

    def __init__(self, root, appio_port):
        self.paths = Paths(root)
        self.now, self.monotonic = START, 1000.0
        self.engine = FakeEngine(now=lambda: self.now)
        self.duty = Found()
        workload = Workload(self.engine, Errands(lambda: None), wake=lambda: None)
        self.converger = Converger(self.paths, "", workload, {Role.SUPERNODE: self.duty})
        context = {
            "FLOWER_ROLE": "client",
            "TLS_ENABLED": "NO",
            "FLOWER_SERVER_ADDRESS": "10.0.0.5",
            "FLOWER_CLIENTAPPIO_PORT": str(appio_port),
        }
        self.settings = settings.parse(context, {}).settings
        self.images = roles.images(self.settings)
        self._sockets = contextlib.ExitStack()

    def turn(self):
        """Return what is unmet after one turn."""
        self.last = Turn(
            settings=self.settings,
            variables={},
            host=HostFacts((), None, 2**31, (), None, "boot"),
            keyring=Keyring(self.paths.tls),
            client=None,
            now=self.now,
            monotonic=self.monotonic,
            record=Record(),
        )
        return self.converger.turn(self.last)

    def boot(self):
        """Let the images be there, the containers run for a minute and the SuperExec attach."""
        for image in self.images:
            self.engine.hold(image)
        self.turn()
        self.attach()
        self.pass_time(60)

    def attach(self):
        """Listen at the AppIo's port and hold a connection to it, as two containers would."""
        address = ("127.0.0.1", self.settings.clientappio_port)
        self._sockets.enter_context(socket.create_server(address))
        self._sockets.enter_context(socket.create_connection(address))

    def close(self):
        self._sockets.close()

    def pass_time(self, seconds):
        self.now += datetime.timedelta(seconds=seconds)
        self.monotonic += seconds


@pytest.fixture
def vm(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    made = Vm(tmp_path, port)
    yield made
    made.close()


def test_everything_that_works_leaves_nothing_unmet(vm):
    vm.boot()
    assert vm.turn() is None
    assert vm.last.told["FLOWER_BUSY"] == "0"


def test_a_vm_without_ps_is_ready_though_nobody_can_tell_whether_it_computes(vm):
    def refuse(_):
        raise AgentError("docker.refused", 'exec: "ps": executable file not found in $PATH')

    vm.engine.processes = refuse
    vm.boot()
    assert vm.turn() is None


def test_the_mode_of_a_data_directory_that_is_there_is_the_operators(vm):
    vm.paths.data.mkdir(parents=True)
    vm.paths.data.chmod(0o750)
    vm.boot()
    assert vm.turn() is None
    assert vm.paths.data.stat().st_mode & 0o7777 == 0o750


def test_an_image_that_the_registry_denies_is_a_failure_and_no_waiting(vm):
    vm.turn()
    assert until(lambda: vm.turn().finding is not None)
    unmet = vm.turn()
    assert unmet.finding.code == "image.denied"
    assert unmet.fatal


def test_a_young_container_may_take_its_time(vm):
    vm.duty.error = AgentError("peer.waiting", "not yet", retryable=True)
    vm.boot()
    vm.turn()
    vm.pass_time(-50)
    unmet = vm.turn()
    assert (unmet.phase, unmet.finding) == (Phase.PEER, None)


def test_a_clock_that_was_set_back_makes_no_container_young_for_hours(vm):
    vm.boot()
    vm.duty.error = AgentError("peer.waiting", "lost", retryable=True)
    vm.now -= datetime.timedelta(hours=5)
    assert vm.turn().finding.code == "peer.waiting"


def test_a_port_that_somebody_else_has_is_named_before_anything_starts(vm):
    for image in vm.images:
        vm.engine.hold(image)
    vm.attach()
    assert vm.turn().finding.code == "port.taken"
    assert vm.engine.calls == []


def test_a_port_that_an_own_container_gives_back_keeps_nothing_from_changing(vm):
    for image in vm.images:
        vm.engine.hold(image)
    vm.engine.create(
        Container(name="flower-superlink", part=Part.SUPERLINK, image=vm.images[0], command=()),
        vm.images[0],
    )
    vm.engine.start("flower-superlink")
    vm.attach()
    vm.turn()
    assert "remove flower-superlink" in vm.engine.calls


def test_a_container_is_not_judged_in_the_turn_that_starts_it_again(vm):
    for image in vm.images:
        vm.engine.hold(image)
    vm.turn()
    vm.duty.error = AgentError("peer.waiting", "what its last start said", retryable=True)
    vm.engine.end(SUPERNODE)
    unmet = vm.turn()
    assert (unmet.phase, unmet.finding) == (Phase.HEALTH, None)
    assert vm.engine.calls[-1] == f"start {SUPERNODE}"


def test_a_container_that_hangs_after_its_end_is_stopped_and_its_next_start_has_time(vm):
    for image in vm.images:
        vm.engine.hold(image)
    vm.turn()
    vm.duty.error, vm.duty.hung = AgentError("peer.lost", "it gave up", retryable=True), True
    vm.turn()
    vm.pass_time(19)
    vm.engine.end(SUPERNODE)
    vm.turn()
    vm.pass_time(19)
    vm.turn()
    assert f"stop {SUPERNODE}" not in vm.engine.calls
    vm.pass_time(21)
    vm.turn()
    assert vm.engine.calls[-1] == f"stop {SUPERNODE}"
