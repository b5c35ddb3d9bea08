"""A SuperLink goes to another Flower version on an Engine in memory, and back where it must."""

import contextlib
import datetime
import socket
import threading
import time

import pytest
from cycles import cycle_of
from fake_engine import FakeEngine
from real_engine import until

from flower_agent.agent.gpu_setup import GpuSetup
from flower_agent.agent.image_resolver import ImageResolver
from flower_agent.agent.stages import Stages
from flower_agent.background import Threads
from flower_agent.config import parsing
from flower_agent.config.types import Role
from flower_agent.cycle import Preparation
from flower_agent.flower import container_spec
from flower_agent.flower.container_spec import RoleSpec
from flower_agent.host.connections import Connections
from flower_agent.host.machine import HostFacts
from flower_agent.images.builder import BackgroundBuilder
from flower_agent.model.errors import ControlUnavailableError
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.model.state import State
from flower_agent.paths import Paths
from flower_agent.reconcile.reconciler import Reconciler
from flower_agent.tls import trust
from flower_agent.tls.store import Keyring
from flower_agent.upgrade.upgrader import GIVE_UP_S, PROBATION_S, Upgrader

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
MAIN = "flower-superlink"
OLD, NEW, NEWER, NEWEST = "1.25.0", "1.34.0", "1.36.0", "1.42.0"


class Serving:
    """A SuperLink's duty; `broken` are the versions that never answer."""

    def __init__(self):
        self.broken = ()

    def prepare(self, _):
        return Preparation(
            trust=trust.CertificateSpec(source=trust.CertificateSource.OFF), spec=RoleSpec()
        )

    def may_start(self, _):
        pass

    def check(self, turn, _):
        if str(turn.seen.settings.version) in self.broken:
            raise ControlUnavailableError(
                "control.unavailable", "it does not answer", retryable=True
            )


class Gated(Threads):
    """Calls beside the loop, of which copies of the database begin when the gate is open."""

    def __init__(self):
        super().__init__(lambda: None)
        self.gate = threading.Event()
        self.gate.set()

    def start(self, name, run):
        gated = name == "database"
        super().start(name, (lambda: self.gate.wait(10) and run()) if gated else run)


class Vm:
    """A SuperLink's VM; `reboot` gives it a new agent that knows only what is on disk."""

    def __init__(self, root, ports):
        self.paths, self._ports = Paths(root), ports
        self.now, self.monotonic, self.record = START, 1000.0, State()
        self.engine, self.controller = FakeEngine(now=lambda: self.now), Serving()
        self.database = self.paths.superlink / "state.db"
        self._sockets = contextlib.ExitStack()
        self.set(OLD)
        self.reboot()

    def set(self, version, *, images=True):
        context = {
            "FLOWER_ROLE": "server",
            "TLS_ENABLED": "NO",
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_VERSION": version,
            "FLOWER_FLEET_PORT": str(self._ports[0]),
            "FLOWER_SERVERAPPIO_PORT": str(self._ports[1]),
            "FLOWER_CONTROL_ADDRESS": f"127.0.0.1:{self._ports[0 if version == NEWEST else 2]}",
        }
        self.settings = parsing.parse(context, {}).settings
        for image in container_spec.images(self.settings) if images else ():
            self.engine.hold(image)

    def reboot(self):
        threads = self.threads = Gated()
        reconciler = Reconciler(self.engine, threads, wake=lambda: None)
        self.stages = Stages(
            self.paths,
            "",
            reconciler,
            {Role.SUPERLINK: self.controller},
            connections=Connections(threads),
            gpu_setup=GpuSetup(self.engine, threads),
            upgrader=Upgrader("", self.paths, reconciler, None, threads),
            image_resolver=ImageResolver(
                self.paths.images_lock, reconciler, BackgroundBuilder(None, threads)
            ),
        )
        self.reset_backoff = reconciler.reset_backoff

    def change(self, version, **how):
        """Set another version as the loop would take it."""
        self.set(version, **how)
        self.reset_backoff()

    def turn(self):
        """Turn until the database is where it should be, however long that takes."""
        while (unmet := self.look()) == Unmet(Phase.CONTAINER):
            time.sleep(0.001)
        return unmet

    def look(self):
        """Turn once."""
        self.last = cycle_of(
            settings=self.settings,
            variables={},
            host=HostFacts((), None, 2**31, "boot"),
            keyring=Keyring(self.paths.tls),
            client=None,
            now=self.now,
            monotonic=self.monotonic,
            state=self.record,
        )
        unmet = self.stages.run(self.last)
        self.record = self.last.state
        return unmet

    def settle(self):
        """Turn, a second each, until all has worked for a while."""
        worked = 0
        for _ in range(400):
            worked = worked + 1 if self.turn() is None else 0
            if worked > PROBATION_S + 1:
                return
            self.pass_time(1)
        raise AssertionError("it never works")

    def boot(self):
        self.turn()
        self.database.write_text(f"of {OLD}")
        self._sockets.enter_context(socket.create_server(("127.0.0.1", self._ports[1])))
        self._sockets.enter_context(socket.create_connection(("127.0.0.1", self._ports[1])))
        self.settle()

    def close(self):
        """Give the ports of the pretended Flower back."""
        self._sockets.close()

    def pass_time(self, seconds):
        self.now += datetime.timedelta(seconds=seconds)
        self.monotonic += seconds

    @property
    def version(self):
        image = self.engine.kept[MAIN].spec.image
        return image.partition(":")[2].partition("-")[0]

    def copies(self):
        return sorted(path.name for path in self.paths.copies.glob("*"))


@pytest.fixture
def vm(tmp_path):
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [server.getsockname()[1] for server in taken]
    with contextlib.closing(Vm(tmp_path, ports)) as made:
        made.boot()
        yield made


def test_the_version_that_works_is_remembered(vm):
    assert vm.record.flower == OLD
    assert vm.last.report.version == OLD


def test_the_database_is_copied_after_the_old_ended_and_before_the_new_begins(vm):
    vm.engine.calls.clear()
    seen = {}
    stop, create = vm.engine.remove, vm.engine.create

    def noting(call, word):
        def noted(*arguments):
            seen.setdefault(word, vm.copies())
            return call(*arguments)

        return noted

    vm.engine.remove, vm.engine.create = noting(stop, "remove"), noting(create, "create")
    vm.change(NEW)
    vm.turn()
    assert seen == {"remove": [], "create": [f"superlink-{OLD}+{NEW}"]}
    assert vm.version == NEW
    assert (vm.last.report.version, vm.record.flower) == (OLD, OLD)
    vm.settle()
    assert (vm.last.report.version, vm.record.flower) == (NEW, NEW)
    assert vm.copies() == [f"superlink-{OLD}+{NEW}"]


def test_a_plan_names_the_copy_where_it_is_made(vm):
    vm.stages.dry = True
    vm.set(NEW)
    vm.turn()
    planned = vm.stages.planned
    assert (
        planned.index(f"copy the database of Flower {OLD}")
        == planned.index(f"create {MAIN} (settings changed)") - 1
    )
    assert vm.copies() == []


def fails(vm):
    """Let the new version migrate the database and then never work, until it is given up."""
    vm.controller.broken = (NEW,)
    vm.change(NEW)
    vm.turn()
    vm.database.write_text(f"of {NEW}")
    vm.pass_time(GIVE_UP_S + 1)


def test_a_version_that_never_answers_is_taken_back_with_the_database_as_it_was(vm):
    fails(vm)
    vm.settle()
    assert vm.version == OLD
    assert vm.database.read_text() == f"of {OLD}"
    (warning,) = vm.last.report.warnings
    assert warning.code == "version.failed"
    assert "it does not answer" in warning.message
    assert vm.last.report.version == OLD
    assert vm.copies() == []


def test_a_version_that_ends_again_and_again_is_taken_back(vm):
    vm.controller.broken = (NEW,)
    vm.change(NEW)
    vm.turn()
    for _ in range(3):
        vm.engine.end(MAIN, 1)
        vm.pass_time(25)
        vm.turn()
    vm.settle()
    assert vm.version == OLD
    assert (
        "ended 3 times in a row, the last time with status 1" in vm.last.report.warnings[0].message
    )


def test_a_version_that_works_for_a_moment_only_is_taken_back(vm):
    vm.change(NEW)
    for _ in range(3):
        for _ in range(15):
            vm.turn()
            vm.pass_time(1)
        assert vm.last.report.version == OLD
        vm.engine.end(MAIN, 1)
    vm.turn()
    vm.settle()
    assert vm.version == OLD


def test_who_turns_back_on_the_way_gets_the_database_as_it_was(vm):
    vm.controller.broken = (NEW,)
    vm.change(NEW)
    vm.turn()
    vm.database.write_text(f"of {NEW}")
    vm.change(OLD)
    vm.settle()
    assert (vm.version, vm.database.read_text(), vm.copies()) == (OLD, f"of {OLD}", [])
    assert vm.last.report.warnings == []


def test_a_later_change_of_another_kind_leaves_the_database_alone(vm):
    vm.change(NEW)
    vm.settle()
    vm.database.write_text(f"of {NEW}")
    vm.engine.stop(MAIN)
    vm.engine.remove(MAIN)
    vm.close()
    vm.settle()
    assert vm.database.read_text() == f"of {NEW}"


def test_who_wants_yet_another_version_on_the_way_gets_it_with_the_database_of_the_first(vm):
    vm.controller.broken = (NEW,)
    vm.change(NEW)
    vm.turn()
    vm.database.write_text(f"of {NEW}")
    vm.change(NEWER)
    vm.settle()
    assert (vm.version, vm.database.read_text()) == (NEWER, f"of {OLD}")
    assert vm.copies() == [f"superlink-{OLD}+{NEWER}"]


def test_other_settings_on_the_way_leave_what_the_new_version_wrote(vm):
    vm.change(NEW)
    vm.turn()
    vm.database.write_text(f"of {NEW}")
    vm.engine.stop(MAIN)
    vm.engine.remove(MAIN)
    vm.close()
    vm.settle()
    assert (vm.version, vm.database.read_text()) == (NEW, f"of {NEW}")


def test_a_copy_that_takes_long_keeps_neither_the_loop_nor_the_upgrade(vm):
    vm.threads.gate.clear()
    vm.change(NEW)
    for _ in range(3):
        assert vm.look() == Unmet(Phase.CONTAINER)
        vm.pass_time(GIVE_UP_S)
    assert MAIN not in vm.engine.kept
    vm.threads.gate.set()
    vm.settle()
    assert (vm.version, vm.copies()) == (NEW, [f"superlink-{OLD}+{NEW}"])


def test_who_turns_back_during_the_copy_starts_nothing_before_it_ended(vm):
    vm.threads.gate.clear()
    vm.change(NEW)
    vm.look()
    vm.close()
    vm.change(OLD)
    assert vm.look() == Unmet(Phase.CONTAINER)
    assert MAIN not in vm.engine.kept
    vm.threads.gate.set()
    vm.settle()
    assert (vm.version, vm.database.read_text(), vm.copies()) == (OLD, f"of {OLD}", [])


def test_a_copy_of_long_ago_is_not_put_back_over_what_came_since(vm):
    later = OLD.replace(".0", ".1")
    for version in (later, OLD, later):
        vm.change(version)
        vm.settle()
        vm.database.write_text(f"of {version}, again")
    vm.engine.stop(MAIN)
    vm.engine.remove(MAIN)
    vm.close()
    vm.settle()
    assert vm.database.read_text() == f"of {later}, again"


def test_what_failed_is_not_tried_again_before_something_else_was_wanted(vm):
    fails(vm)
    vm.settle()
    vm.controller.broken = ()
    vm.reboot()
    vm.settle()
    assert vm.version == OLD
    vm.change(OLD)
    vm.settle()
    assert vm.last.report.warnings == []
    vm.change(NEW)
    vm.settle()
    assert vm.version == NEW


@pytest.mark.parametrize("killed_in", ["stop", "remove", "create", "start"])
def test_an_agent_that_is_killed_within_goes_on(vm, killed_in):
    vm.change(NEW)
    vm.engine.lose_reply = killed_in
    vm.turn()
    vm.reboot()
    vm.settle()
    assert (vm.version, vm.copies()) == (NEW, [f"superlink-{OLD}+{NEW}"])


@pytest.mark.parametrize("killed_in", ["stop", "remove", "create", "start"])
def test_an_agent_that_is_killed_while_it_goes_back_goes_on(vm, killed_in):
    fails(vm)
    vm.turn()
    vm.engine.lose_reply = killed_in
    vm.turn()
    vm.reboot()
    vm.settle()
    assert (vm.version, vm.database.read_text()) == (OLD, f"of {OLD}")


def test_an_image_that_is_not_there_leaves_the_old_version_running_and_says_why(vm):
    before = vm.engine.kept[MAIN].shown
    vm.change(NEW, images=False)
    assert until(lambda: vm.turn() is None)
    assert vm.engine.kept[MAIN].shown == before
    assert vm.last.report.warnings[0].code == "version.failed"
    assert f"superlink:{NEW}" in vm.last.report.warnings[0].message


def test_an_old_version_that_runs_on_keeps_fleet_and_control_apart(vm):
    vm.change(NEWEST, images=False)
    vm.close()
    assert until(lambda: vm.turn() is None)
    assert vm.last.report.warnings[0].code == "version.failed"
    assert vm.version == OLD
    assert "127.0.0.1:9093" in map(str, vm.engine.kept[MAIN].spec.listens)


def test_a_copy_that_cannot_be_made_leaves_the_old_version_running_and_says_why(vm):
    vm.paths.copies.write_text("no directory")
    vm.change(NEW)
    vm.close()
    vm.settle()
    assert vm.version == OLD
    assert vm.database.read_text() == f"of {OLD}"
    assert "state.unwritable" in vm.last.report.warnings[0].message


def test_a_database_does_not_go_back_to_an_older_version(vm):
    vm.change(NEW)
    vm.settle()
    before = vm.engine.kept[MAIN].shown
    vm.change(OLD)
    vm.settle()
    assert vm.engine.kept[MAIN].shown == before
    assert vm.last.report.warnings[0].code == "version.downgrade"
    assert vm.last.report.version == NEW


def test_a_slow_start_is_no_failure(vm):
    vm.controller.broken = (NEW,)
    vm.change(NEW)
    vm.turn()
    vm.pass_time(GIVE_UP_S - 1)
    assert vm.turn().phase is Phase.HEALTH
    vm.controller.broken = ()
    vm.settle()
    assert vm.version == NEW
