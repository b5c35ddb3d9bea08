"""One VM: its stages on an Engine in memory, and a clock that tests move."""

import contextlib
import datetime
import socket
import threading

from cycles import cycle_of
from fake_engine import FakeEngine
from real_engine import until

from flower_agent.agent.app_data import AppData
from flower_agent.agent.gpu_setup import GpuSetup
from flower_agent.agent.image_resolver import ImageResolver
from flower_agent.agent.stages import Stages
from flower_agent.background import Threads
from flower_agent.config import parsing
from flower_agent.config.types import Role
from flower_agent.cycle import Preparation
from flower_agent.flower import container_spec
from flower_agent.flower.command_line import Trust
from flower_agent.flower.container_spec import RoleSpec
from flower_agent.host.connections import Connections
from flower_agent.host.gpu import Asked, Files
from flower_agent.host.machine import HostFacts
from flower_agent.images.builder import BackgroundBuilder
from flower_agent.model.address import Address
from flower_agent.model.errors import (
    DataRefusedError,
)
from flower_agent.model.lifecycle import Phase
from flower_agent.model.state import State
from flower_agent.paths import Paths
from flower_agent.reconcile.reconciler import Reconciler
from flower_agent.tls import trust
from flower_agent.tls.store import Keyring
from flower_agent.upgrade.upgrader import Upgrader

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


SUPERNODE = "flower-supernode"


SUPEREXEC = "flower-superexec"


class Found:
    """A SuperNode's duty that has found its SuperLink; `error` is what its check meets."""

    def __init__(self):
        self.error, self.hung, self.awaited = None, False, ""

    def prepare(self, turn):
        turn.awaited = self.awaited
        known = Address("10.0.0.5", 9092)
        spec = RoleSpec(superlink=known, trust=Trust.INSECURE)
        return Preparation(
            trust=trust.CertificateSpec(source=trust.CertificateSource.OFF), spec=spec
        )

    def may_start(self, _):
        pass

    def check(self, turn, _):
        turn.phase = Phase.PEER
        turn.hung = self.hung
        if self.error:
            raise self.error

    def close(self):
        pass


class Searched:
    """What a search found of the SuperLink."""

    published, asked = "", 0

    def version(self, _):
        return self.published

    def forget(self):
        self.asked += 1


class Oven:
    """Makes an image in the Engine in memory, when `door` opens; `error` is how it fails."""

    def __init__(self, engine):
        self._engine = engine
        self.error, self.made, self.door = None, [], threading.Event()
        self.door.set()

    def ensure(self, reference, parent, *, progress, **_):
        self.made.append((reference, parent))
        progress("3 of 6 wheels")
        assert self.door.wait(10)
        if self.error:
            raise self.error
        self._engine.hold(reference)


class Volumes:
    """Mounts data in memory, by the type of a disk's file system; `says` is what a look tells.

    A look waits for `door`; `trouble` is in Docker's own words.
    """

    owner = "default"

    def __init__(self):
        self.says, self.trouble, self.of_type = "data 3 0\n", "", ""
        self.looked, self.swept, self.door = [], [], threading.Event()
        self.door.set()

    def look(self, mount, image):
        self.looked.append((mount, image))
        assert self.door.wait(10)
        kind = dict(mount.volume).get("type")
        why = self.trouble or ("invalid argument" if kind not in (None, self.of_type) else "")
        if why:
            message = f"Docker refused to mount the data: mount /dev/vdb:/v, flags: 0xf: {why}"
            raise DataRefusedError("data.refused", message, retryable=True)
        return self.says

    def sweep(self, keep):
        self.swept.append(keep)


class Vm:
    """A SuperNode's VM with an Engine in memory, and one turn after another."""

    def __init__(self, root, appio_port, **more):
        self.paths = Paths(root)
        self.now, self.monotonic, self.record = START, 1000.0, State()
        self.engine = FakeEngine(now=lambda: self.now)
        self.builder = Oven(self.engine)
        self.controller = Found()
        self.gpu, self.asked, self.search = Files(), Asked(), Searched()
        self.cpu_flags = frozenset()
        self.volumes, self.udev = Volumes(), ""
        self.reboot()
        self._context = {
            "FLOWER_ROLE": "client",
            "TLS_ENABLED": "NO",
            "FLOWER_SERVER_ADDRESS": "10.0.0.5",
            "FLOWER_CLIENTAPPIO_PORT": str(appio_port),
        }
        self.set(**more)
        self._sockets = contextlib.ExitStack()

    def reboot(self):
        """Begin with a new agent that knows only what is on disk."""
        threads = self.threads = Threads(lambda: None)
        self.reconciler = reconciler = Reconciler(self.engine, threads, wake=lambda: None)
        gpu_setup = GpuSetup(self.engine, threads, ask=lambda: self.asked)
        controllers = {Role.SUPERNODE: self.controller}
        self.stages = Stages(
            self.paths,
            "",
            reconciler,
            controllers,
            connections=Connections(threads),
            gpu_setup=gpu_setup,
            upgrader=Upgrader("", self.paths, reconciler, self.search, threads),
            image_resolver=ImageResolver(
                self.paths.images_lock, reconciler, BackgroundBuilder(self.builder, threads)
            ),
            data=AppData(self.volumes, threads, self.paths.data, file_system=lambda _: self.udev),
        )

    def set(self, **more):
        """Change the context."""
        self._context |= more
        self.settings = parsing.parse(self._context, {}).settings
        self.images = container_spec.images(self.settings)

    def turn(self):
        """Return what is unmet after one turn."""
        self.last = cycle_of(
            settings=self.settings,
            variables={},
            host=HostFacts((), None, 2**31, "boot", cpu_flags=self.cpu_flags),
            keyring=Keyring(self.paths.tls),
            client=None,
            now=self.now,
            monotonic=self.monotonic,
            state=self.record,
            gpu=self.gpu,
        )
        unmet = self.stages.run(self.last)
        self.record = self.last.state
        return unmet

    def boot(self):
        """Let the images be there, the containers run for a minute and the SuperExec attach."""
        for image in self.images:
            self.engine.hold(image)
        self.settle(lambda _: SUPEREXEC in self.engine.kept)
        self.attach()
        self.pass_time(60)

    def attach(self):
        """Listen at the AppIo's port and hold a connection to it, as two containers would."""
        address = ("127.0.0.1", self.settings.clientappio_port)
        self._sockets.enter_context(socket.create_server(address))
        self._sockets.enter_context(socket.create_connection(address))

    def settle(self, true):
        """Turn until `true` of what is unmet: an answer from beside the loop takes a moment."""
        assert until(lambda: true(self.turn()))

    def close(self):
        self._sockets.close()

    def pass_time(self, seconds):
        self.now += datetime.timedelta(seconds=seconds)
        self.monotonic += seconds


def computing(vm):
    """Return the SuperExec as it was last created."""
    return vm.engine.kept[SUPEREXEC].spec
