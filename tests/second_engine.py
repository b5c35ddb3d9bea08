"""A Docker Engine of the tests' own, to be stopped, killed, hung and cut off from its power.

It lives in a process and mount namespace of its own, with a tmpfs at ``/run``: dockerd, containerd,
shims and containers see no others, and the end of the namespace's first process ends them all, with
their mounts and their ``/run``, as a power cut does. Data root and API socket lie in a directory
outside. The network is the machine's, or that of a network namespace. It reads no ``/etc/docker``
and touches no firewall rule.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence

STARTS_WITHIN_S = 60.0
"""Without live-restore dockerd first stops what survived it."""

FIRST = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print(flush=True)\n"
FIRST += "while True: signal.pause()"
"""The namespace's first process: reaps, and does nothing else."""


class SecondEngine:
    """One pretended VM's Docker; `start` boots the VM where it is off. `close` leaves nothing."""

    def __init__(
        self, *, network: Sequence[str] = (), hosts: Mapping[str, str] | None = None
    ) -> None:
        """Prepare it; `network` is the command that enters a network namespace.

        `hosts` are names that mean an address in it.
        """
        self._network = tuple(network)
        self._hosts = hosts or {}
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="fd-", dir="/var/tmp"))
        self.url = f"unix://{self.directory}/docker.sock"
        self._first: subprocess.Popen[bytes] | None = None
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def hosts_file(self) -> pathlib.Path:
        """What is ``/etc/hosts`` there."""
        return self.directory / "hosts"

    @property
    def is_on(self) -> bool:
        """Whether dockerd was started and not ended."""
        return "dockerd" in self._daemons

    def start(self, *, live_restore: bool = False) -> None:
        """Start dockerd, and what it needs, and wait until it answers."""
        if self._first is None:
            self._boot()
        options = {
            "hosts": [self.url],
            "data-root": f"{self.directory}/docker",
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "containerd": "/run/containerd/containerd.sock",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": f"/{self.directory.name}",
            "live-restore": live_restore,
            "bridge": "none",
            "iptables": False,
            "ip-masq": False,
            "ip-forward": False,
        }
        (self.directory / "daemon.json").write_text(json.dumps(options))
        self._run("dockerd", "--config-file", f"{self.directory}/daemon.json")
        self.wait()

    def wait(self) -> None:
        """Wait until dockerd answers."""
        end = time.monotonic() + STARTS_WITHIN_S
        while not self.answers():
            assert self._daemons["dockerd"].poll() is None, self._log("dockerd").read_text()[-2000:]
            assert time.monotonic() < end, "the second dockerd does not answer"
            time.sleep(0.1)

    def stop(self) -> None:
        """End dockerd as ``systemctl stop docker`` does, which leaves containerd."""
        self._signal("dockerd", "TERM")
        self._daemons.pop("dockerd").wait(60)

    def kill(self) -> None:
        """Kill dockerd alone: containerd, shims and containers live on."""
        self._signal("dockerd", "KILL")
        self._daemons.pop("dockerd").wait(10)

    def freeze(self) -> None:
        """Let dockerd hang: its socket takes connections, and nothing is answered."""
        self._signal("dockerd", "STOP")

    def thaw(self) -> None:
        """Let it go on."""
        self._signal("dockerd", "CONT")
        self._daemons["dockerd"].send_signal(signal.SIGCONT)

    def power_off(self) -> None:
        """Shut the VM down in order."""
        self.stop()
        self._signal("containerd", "TERM")
        self._daemons.pop("containerd").wait(30)
        self.power_cut()

    def power_cut(self) -> None:
        """End every process of the VM at once; what is in ``/run`` is gone, the data stays."""
        if self._first is None:
            return
        self._first.kill()  # the kernel kills the whole namespace with its first process
        self._first.communicate()
        for daemon in self._daemons.values():
            daemon.kill()  # what stands for it out here; it stops with a daemon that is frozen
            daemon.wait(10)
        self._daemons.clear()
        self._first = None
        self._sweep_cgroups()

    def load(self, images: Iterable[str]) -> None:
        """Bring images over from the machine's Docker."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
            subprocess.run(
                ["docker", "--host", self.url, "load", "--quiet"],
                stdin=save.stdout,
                check=True,
                timeout=300,
            )
        assert save.returncode == 0

    def docker(self, *arguments: str) -> str:
        """Return what the Docker CLI says about this engine."""
        done = subprocess.run(
            ["docker", "--host", self.url, *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout.strip()

    def running(self) -> list[str]:
        """Return the names of the containers that run."""
        return sorted(self.docker("ps", "--format", "{{.Names}}").split())

    def starts(self) -> list[str]:
        """Return the ids of the containers that this dockerd has started, oldest first."""
        span = ["--since", "1", "--until", str(int(time.time()) + 1)]
        return self.docker(
            "events", *span, "--filter", "event=start", "--format", "{{.ID}}"
        ).split()

    def answers(self) -> bool:
        """Return whether dockerd answers."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.docker("version")
            return True
        return False

    def close(self) -> None:
        """End everything and remove every trace."""
        self.power_cut()
        shutil.rmtree(self.directory)

    def _boot(self) -> None:
        namespace = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
        self._first = subprocess.Popen(
            [*self._network, *namespace, sys.executable, "-c", FIRST], stdout=subprocess.PIPE
        )
        assert self._first.stdout is not None
        self._first.stdout.readline()
        self._inside("mount", "-t", "tmpfs", "run", "/run")
        if self._hosts:
            rows = {"localhost": "127.0.0.1", **self._hosts}
            lines = "".join(f"{address} {name}\n" for name, address in rows.items())
            self.hosts_file.write_text(lines)
            self._inside("mount", "--bind", str(self.hosts_file), "/etc/hosts")
        (self.directory / "docker.sock").unlink(missing_ok=True)
        settings = 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        settings += f'root = "{self.directory}/containerd"\nstate = "/run/containerd"\n'
        (self.directory / "containerd.toml").write_text(settings)
        self._run("containerd", "--config", f"{self.directory}/containerd.toml")

    def _run(self, program: str, *arguments: str) -> None:
        """Start a daemon in the namespace; its process id there stands in a file."""
        told = 'echo $$ >"$0"; exec "$@"'
        inside = [*self._enter(), "sh", "-c", told, str(self._pid(program)), program, *arguments]
        with self._log(program).open("ab") as log:
            environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
            environment.pop("NOTIFY_SOCKET", None)
            self._daemons[program] = subprocess.Popen(
                inside, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def _signal(self, program: str, name: str) -> None:
        self._inside("sh", "-c", f'kill -{name} "$(cat "$0")"', str(self._pid(program)))

    def _inside(self, *command: str) -> None:
        subprocess.run([*self._enter(), *command], check=True, timeout=30)

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", self._target(), "--pid", "--mount", "--net", "--"]

    def _target(self) -> str:
        """Return the id of the namespace's first process."""
        assert self._first is not None
        children = pathlib.Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children")
        return children.read_text().split()[0]

    def _log(self, program: str) -> pathlib.Path:
        return self.directory / f"{program}.log"

    def _pid(self, program: str) -> pathlib.Path:
        return self.directory / f"{program}.pid"

    def _sweep_cgroups(self) -> None:
        """Remove the containers' cgroups, once the last process has left them.

        The kernel forgets them at its own end only.
        """
        end = time.monotonic() + 10
        roots = [path for path in _folders("/sys/fs/cgroup") if path.name == self.directory.name]
        while any(root.exists() for root in roots):
            assert time.monotonic() < end, "the second engine's containers do not end"
            for path in [path for root in roots for path in _folders(root)]:
                with contextlib.suppress(OSError):
                    path.rmdir()


def _folders(top: str | pathlib.Path) -> list[pathlib.Path]:
    """Return the directories under one, it included, the deepest first.

    One that another test's container takes away meanwhile is passed over.
    """
    return [pathlib.Path(here) for here, _, _ in os.walk(top, topdown=False)]
