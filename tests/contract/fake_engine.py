"""A Docker Engine in memory, with the public methods of `flower_agent.docker.client.Engine`.

`test_engine` runs the same tests on this and on a real Engine, so what it says and how it refuses
is what Docker does. What a test may do to it beside that: `end`, `say`, `foreign`, `offer`,
`mislabel`, `spoil`, `forget_image`, and the switches `down`, `lose_reply`, `refuse_start` and
`pulling`.
"""

import dataclasses
import datetime
import itertools
import pathlib
import threading

from flower_agent.docker.containers import CPU_SHARES, CPU_SHARES_STARTING, Container, Existing
from flower_agent.docker.image_references import Image, Reference, locked_reference
from flower_agent.host import gpu
from flower_agent.host.gpu import Offers
from flower_agent.model import errors
from flower_agent.model.errors import AgentError, DockerDownError, ImageDeniedError

KILLED = 137
STOPPED = 143
"""How docker-init ends for a program that SIGTERM ends."""

PULL_LIMIT_S = 10


@dataclasses.dataclass
class Kept:
    """A container with what Docker does not show in one look."""

    shown: Existing
    spec: Container | None = None
    said: list = dataclasses.field(default_factory=list)


def utc_now():
    return datetime.datetime.now(datetime.UTC)


def written(at, text, stamped):
    """Return a line as Docker gives it, with nanoseconds where it is stamped."""
    return f"{at:%Y-%m-%dT%H:%M:%S.%f}000Z {text}" if stamped else text


class FakeEngine:
    """Keeps containers, images and a registry; refuses what it does not know."""

    def __init__(self, owner="default", *, now=utc_now):
        self.owner = owner
        self.calls = []
        """What was asked that changes something, such as ``create flower-superlink``."""

        self.slow = ""
        """Name of a call that takes until `door` opens."""

        self.door = threading.Event()
        self.lose_reply = ""
        """Name of a call that is done but not answered, once."""

        self.refuse_start = ""
        """Why a start fails; empty: it does not."""

        self.offered = Offers(runtimes=frozenset({"runc", "io.containerd.runc.v2"}))
        """What it can hand over."""

        self.programs = {}
        """How a program in a container ends: command line → Answer."""

        self.listings = 0
        """How often the containers were listed."""

        self.pulling = threading.Event()
        """Cleared, pulls hang until it is set."""

        self.pulling.set()
        self.credentials = []
        self.kept = {}
        self.local = {}
        self._offered = {}
        self._now = now
        self._numbers = itertools.count(1)
        self._down = False
        self._changes = 0
        self._changed = threading.Condition(threading.RLock())

    def __getattr__(self, name):
        raise AssertionError(f"unhandled call: {name}")

    # What Engine has.

    def offers(self):
        self._answer()
        return self.offered

    def containers(self):
        self._answer()
        with self._changed:
            self.listings += 1
            return tuple(kept.shown for kept in self.kept.values())

    def create(self, container, image):
        what = self._begin("create", container.name)
        if container.name in self.kept:
            raise AgentError("docker.busy", f"Docker still works: {what}", retryable=True)
        if self._find(image) is None:
            raise refused(what, f"No such image: {image}")
        for mount in container.mounts:
            if not mount.volume and not pathlib.Path(mount.source).exists():
                words = f"bind source path does not exist: {mount.source}"
                raise refused(what, f'invalid mount config for type "bind": {words}')
        self._keep(
            Existing(
                name=container.name,
                container_id=f"{next(self._numbers):064x}",
                mine=True,
                fingerprint=container.fingerprint,
                image=image,
                status="created",
                exit_code=0,
                cpu_shares=CPU_SHARES_STARTING if container.yields_cpu else 0,
                gpu=container.gpu,
            ),
            container,
        )
        self._reply("create")

    def start(self, name):
        what = self._begin("start", name)
        kept = self._known(name, what)
        why = self.refuse_start or self._no_gpu(kept.spec)
        if why:
            self._show(name, error=why)
            raise refused(what, why)
        if not kept.shown.running:
            self._show(
                name, status="running", exit_code=0, oom_killed=False, started_at=self._now()
            )
        self._reply("start")

    def stop(self, name):
        self._begin("stop", name)
        if name in self.kept and self.kept[name].shown.running:
            self.end(name, STOPPED)
        self._reply("stop")

    def remove(self, name):
        what = self._begin("remove", name)
        if name in self.kept and self.kept[name].shown.running:
            raise refused(what, "You cannot remove a running container", "docker.refused")
        if self.kept.pop(name, None):
            self._happen()
        self._reply("remove")

    def give_cpu(self, name):
        self._known(name, self._begin("update", name), "docker.refused")
        self._show(name, cpu_shares=CPU_SHARES)
        self._reply("give_cpu")

    def logs(self, name, *, since=None, tail=None, stamped=False):
        self._answer()
        said = self._known(name, f"read the logs of {name}", "docker.refused").said
        lines = [written(at, text, stamped) for at, text in said if since is None or at >= since]
        return "".join(lines if tail is None else lines[len(lines) - tail :])

    def processes(self, name):
        self._answer()
        what = f"list the processes of {name}"
        kept = self._known(name, what, "docker.refused")
        if not kept.shown.running:
            raise refused(what, f"Container {name} is not running", "docker.refused")
        return (" ".join(("/bin/sh -c", *kept.spec.command)),)

    def execute(self, name, command):
        self._answer()
        what = f"run {command[0]} in {name}"
        if not self._known(name, what, "docker.refused").shown.running:
            raise refused(what, f"Container {name} is not running", "docker.refused")
        return self.programs[command]

    def follow(self, name, *, tail, stamped=False):
        self._answer()
        kept = self._known(name, f"follow the logs of {name}", "docker.refused")
        told = max(len(kept.said) - tail, 0)
        while True:
            with self._changed:
                new = kept.said[told:]
                told += len(new)
                over = not kept.shown.running
            yield from (written(at, text, stamped) for at, text in new)
            if over:
                return
            with self._changed:
                self._changed.wait(0.01)

    def image(self, reference):
        self._answer()
        return self._find(reference)

    def pull(self, reference, *, digest="", registry=None, progress=lambda _: None):
        self._answer()
        self.calls.append(f"pull {reference}" + (f" by {digest}" if digest else ""))
        self.credentials.append(registry)
        progress("Pulling fs layer")
        if not self.pulling.wait(PULL_LIMIT_S):
            raise AssertionError(f"nobody let the pull of {reference} go on")
        self._answer()
        wanted = Reference.parse(reference)
        found = self._offered.get((wanted.repository, digest or wanted.tag))
        if isinstance(found, AgentError):
            raise found
        if found is None:
            words = f"the registry does not give {reference}: manifest unknown"
            raise ImageDeniedError("image.denied", words)
        self.local[reference] = found

    def watch(self, wake):
        self._answer()
        with self._changed:
            seen = self._changes
        wake()
        while True:
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._down or self._changes != seen)
                if self._down:
                    return
                seen = self._changes
            wake()

    def close(self):
        pass

    # What a test does to it.

    @property
    def down(self):
        """Whether the daemon is gone; its containers then stay as they are."""
        return self._down

    @down.setter
    def down(self, down):
        with self._changed:
            self._down = down
            self._changed.notify_all()

    def end(self, name, exit_code=KILLED, *, oom_killed=False):
        """Let a container's process end by itself."""
        self._show(
            name,
            status="exited",
            exit_code=exit_code,
            oom_killed=oom_killed,
            finished_at=self._now(),
        )

    def say(self, name, text):
        """Let a container write a line."""
        with self._changed:
            self.kept[name].said.append((self._now(), text + "\n"))
            self._changed.notify_all()

    def foreign(self, name):
        """Make a container of somebody else."""
        self._keep(Existing(name=name, container_id=f"{next(self._numbers):064x}", mine=False))

    def hold(self, reference):
        """Have an image that was built here."""
        self.local[reference] = Image(f"sha256:{next(self._numbers):064x}", ())

    def offer(self, reference):
        """Let the registry's tag be a new image from now on; return its digest."""
        wanted = Reference.parse(reference)
        digest = f"sha256:{next(self._numbers):064x}"
        image = Image(f"sha256:{next(self._numbers):064x}", (locked_reference(reference, digest),))
        self._offered[wanted.repository, wanted.tag] = image
        self._offered[wanted.repository, digest] = image
        return digest

    def mislabel(self, reference, digest):
        """Let the registry give an image that does not bear the digest it was asked for."""
        wanted = Reference.parse(reference)
        self.offer(reference)
        self._offered[wanted.repository, digest] = self._offered[wanted.repository, wanted.tag]

    def spoil(self, reference, error):
        """Let pulls of a tag fail until it is offered again."""
        wanted = Reference.parse(reference)
        self._offered[wanted.repository, wanted.tag] = error

    def forget_image(self, reference):
        """Lose a local image, as ``docker system prune`` does."""
        del self.local[reference]

    # Parts of both.

    def _answer(self):
        if self._down:
            words = "Docker does not answer at fake: its socket is not there"
            raise DockerDownError("docker.down", words, retryable=True)

    def _begin(self, call, name):
        self._answer()
        self.calls.append(f"{call} {name}")
        if self.slow == call:
            assert self.door.wait(30)
        return f"{call} {name}"

    def _reply(self, call):
        if self.lose_reply == call:
            self.lose_reply = ""
            raise DockerDownError(
                "docker.down", "Docker does not answer at fake: timed out", retryable=True
            )

    def _known(self, name, what, code="container.refused"):
        if name not in self.kept:
            raise refused(what, f"No such container: {name}", code)
        return self.kept[name]

    def _no_gpu(self, spec):
        if spec and spec.gpu and not (self.offered.cdi or "nvidia" in self.offered.runtimes):
            return 'could not select device driver "" with capabilities: [[gpu]]'
        return ""

    def _find(self, reference):
        if reference in self.local:
            return self.local[reference]
        named = (i for i in self.local.values() if reference in (i.image_id, *i.digests))
        return next(named, None)

    def _keep(self, shown, spec=None):
        with self._changed:
            self.kept[shown.name] = Kept(shown, spec)
            self._happen(mine=shown.mine)

    def _show(self, name, **changes):
        with self._changed:
            kept = self.kept[name]
            kept.shown = dataclasses.replace(kept.shown, **changes)
            self._happen(mine=kept.shown.mine)

    def _happen(self, *, mine=True):
        with self._changed:
            self._changes += mine
            self._changed.notify_all()


def refused(what, reason, code="container.refused"):
    code = gpu.refusal(reason) if code == "container.refused" else code
    return errors.kind(code)(code, f"Docker refused to {what}: {reason}", retryable=True)
