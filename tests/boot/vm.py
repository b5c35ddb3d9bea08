"""A VM without a VM: systemd as process 1 in name spaces and control groups of its own.

Only what the tests need of a machine: power, a shell, its files, its journal.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import tree

CALL_S = 120
BOOT_S = 90


def wait_for(true, what, timeout_s=90.0):
    """Wait until `true()` and return it; the bound keeps a broken VM from hanging the tests."""
    end = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end, f"never came: {what() if callable(what) else what}"
        time.sleep(0.1)
    return found


class Vm:
    """One VM in the network name space `network`, its disk an overlay over the common tree."""

    def __init__(self, name, base, work, network):
        self.name = name
        self.work = work / name
        self._base = base
        self._network = network
        self._process = None
        self.root = self.work / "root"
        self.docker = tree.CACHE / f"docker-{name}"
        self.devices = ()
        """Block devices of this machine that it has, too."""

    def make(self):
        """Put the disk together."""
        for part in ("root", "upper", "scratch"):
            (self.work / part).mkdir(parents=True)
        self.docker.mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={self._base},upperdir={self.work}/upper,workdir={self.work}/scratch"
        tree.call("mount", "-t", "overlay", "-o", layers, "overlay", self.root)

    def install(self, package):
        """Install a package as an image builder does: nothing runs in the tree."""
        shutil.copy(package, self.root / "root")
        tree.call("chroot", self.root, "dpkg", "--install", f"/root/{package.name}")

    def write(self, place, text, mode=0o644):
        """Write a file of the VM, on or off."""
        path = self.root / place.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def boot(self):
        """Switch it on; return once systemd answers."""
        command, environment = tree.nspawn()
        options = (
            "--boot", f"--directory={self.root}", f"--machine={self.name}", "--register=no",
            "--keep-unit", f"--network-namespace-path=/run/netns/{self._network}",
            "--capability=all", "--system-call-filter=@known", "--link-journal=no",
            "--console=pipe", f"--bind={self.docker}:/var/lib/docker",
            *(f"--bind={device}" for device in self.devices),
        )  # fmt: skip
        with (self.work / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                preexec_fn=self._enter_cgroups,  # noqa: PLW1509 - before any thread
                start_new_session=True,
            )
        wait_for(self.answers, f"{self.name} boots: see {self.work}/console.log", BOOT_S)

    def _enter_cgroups(self):
        for group in self._cgroups():
            with contextlib.suppress(OSError):
                group.mkdir(exist_ok=True)
                _inherit_cpuset(group)
                (group / "cgroup.procs").write_text("0")

    def _cgroups(self):
        at = pathlib.Path("/sys/fs/cgroup")
        if (at / "cgroup.procs").exists():
            return [at / f"flower-boot-{self.name}"]
        return [each / f"flower-boot-{self.name}" for each in at.iterdir() if each.is_dir()]

    @property
    def init(self):
        """Process id of its process 1 as this machine counts; None while it is off."""
        if self._process is None or self._process.poll() is not None:
            return None
        pid = self._process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in map(int, children):
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{child}/comm").read_text() in {"systemd\n", "init\n"}:
                    return child
        return None

    def answers(self):
        """Return whether systemd takes orders."""
        if self._process.poll() is not None:
            raise AssertionError(f"it went off: {(self.work / 'console.log').read_text()[-2000:]}")
        return self.init is not None and self.try_("systemctl", "show", "-p", "Version")[0] == 0

    def try_(self, *command):
        """Run a command in it; return its exit status and its words."""
        init = self.init
        if init is None:
            return -1, "it is off"
        inside = ["nsenter", f"--target={init}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        inside += ["--cgroup", "--", "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        done = subprocess.run(
            [*inside, "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *map(str, command)],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=CALL_S,
        )
        return done.returncode, done.stdout

    def run(self, *command):
        """Run a command that must succeed; return its words."""
        code, words = self.try_(*command)
        assert code == 0, f"{self.name}: {' '.join(map(str, command))} ended {code}: {words}"
        return words

    def copy(self, path, place):
        """Copy a file into a VM that runs."""
        shutil.copy(path, f"/proc/{self.init}/root{place}")

    def show(self, name, unit="flower-agent.service"):
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def journal(self, *options):
        """Return lines of this boot's journal, without their heads."""
        return self.run("journalctl", "--no-pager", "-b", "-o", "cat", *options)

    def events(self):
        """Return what the agent logged in this boot."""
        lines = self.journal("-t", "flower-agent").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def status(self):
        """Return the status document; empty before there is one."""
        init = self.init
        try:
            path = pathlib.Path(f"/proc/{init}/root/run/flower-agent/status.json")
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return {}

    def containers(self):
        """Return which starts of which containers run, by name."""
        form = "{{.Name}} {{.Id}} {{.State.StartedAt}}"
        _, ids = self.try_("docker", "ps", "-q", "--no-trunc")
        found = {}
        for each in ids.split():
            name, rest = self.run("docker", "inspect", "-f", form, each).split(" ", 1)
            found[name.lstrip("/")] = rest.strip()
        return found

    def reboot(self):
        """Shut it down in order and switch it on again; systemd-nspawn's own reboot fails here."""
        self.try_("systemctl", "poweroff")
        wait_for(lambda: self._process.poll() is not None, f"{self.name} shuts down", BOOT_S)
        self.boot()

    def power_cut(self):
        """End everything in it at once."""
        init = self.init
        if init is not None:
            os.kill(init, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(30)
        self._process = None

    def remove(self):
        """Switch it off and take its disk apart; Docker's images stay for the next time."""
        if self.init is not None:
            self.try_("sh", "-c", "docker rm -f $(docker ps -aq)")
        self.power_cut()
        if self.root.is_mount():
            tree.call("umount", self.root)
        for group in self._cgroups():
            _remove_cgroups(group)


def _inherit_cpuset(group):
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).exists() and not (group / name).read_text().strip():
            (group / name).write_text((group.parent / name).read_text())


def _remove_cgroups(group):
    if group.is_dir():
        for child in group.iterdir():
            if child.is_dir():
                _remove_cgroups(child)
        with contextlib.suppress(OSError):
            group.rmdir()
