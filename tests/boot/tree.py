"""A Debian system to boot: made once, kept below build/boot, with systemd-nspawn beside it.

systemd-nspawn is unpacked and not installed: its package would upgrade the systemd of this machine.
"""

import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "contrib" / "images"))

import system  # noqa: E402

CACHE = ROOT / "build" / "boot"
HERE = pathlib.Path(__file__).resolve().parent
STEP_S = 900
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "docker.io", "apparmor", "git", "ca-certificates",
    "init-system-helpers", "iproute2", "procps", "nftables", "python3-firewall",
    "python3-nftables", "haproxy",
)  # fmt: skip
"""What a cloud image has, and what the package depends on: nothing is fetched when it boots."""

UNPACKED = ("firewalld",)
"""Unpacked only, as debootstrap cannot configure the polkit that it depends on; off by default."""

IMAGES = (
    "flwr/superlink:1.25.0-py3.13-ubuntu24.04",
    "flwr/supernode:1.25.0-py3.13-ubuntu24.04",
    "flwr/superexec:1.25.0",
)
UNITS = {
    # Only under systemd-nspawn: version 1 controllers are mounted read-only in there.
    "writable-cgroups.service": """\
[Unit]
DefaultDependencies=no
Before=containerd.service docker.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for at in /sys/fs/cgroup/*/; do mount -o remount,rw,bind $at || true; done'
[Install]
WantedBy=multi-user.target
""",
}
DAEMON_JSON = '{\n    "bridge": "none",\n    "iptables": false\n}\n'
"""An administrator's: both VMs share a network here."""


def call(*command, **options):
    """Run a program to its end; its words are shown when it fails."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=STEP_S, **options
    )
    if done.returncode:
        pieces = " ".join(map(str, command))
        raise AssertionError(f"{pieces} ended {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def base(python):
    """Return the tree with one-context's stand-ins, without our package."""
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    wanted = json.dumps([codename, python, PACKAGES, UNPACKED, UNITS, DAEMON_JSON])
    for path in sorted((HERE / "one-context").rglob("*")):
        wanted += path.read_text() if path.is_file() else path.name
    name = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    tree = CACHE / f"{codename}-{name}"
    if not tree.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = CACHE / f"making-{os.getpid()}"
        packages = ",".join((*PACKAGES, f"python{python}"))
        call(
            "debootstrap", "--variant=minbase", f"--include={packages}", codename, making,
            system.find_mirror(platform.freedesktop_os_release()["ID"], codename),
            env=os.environ | system.apt_proxy(),
        )  # fmt: skip
        for name in UNPACKED:
            unpack(name, making)
        furnish(making)
        making.rename(tree)
    return tree


def unpack(name, place):
    """Put a package's files below `place`; nothing of it runs."""
    with tempfile.TemporaryDirectory() as folder:
        call("apt-get", "-q", "download", name, cwd=folder)
        (package,) = pathlib.Path(folder).glob("*.deb")
        # dpkg-deb --extract would put a directory in the place of the link /lib.
        files = f"{folder}/files.tar"
        call("sh", "-c", f"dpkg-deb --fsys-tarfile {package} >{files}")
        call("tar", "-x", "--keep-directory-symlink", "-f", files, "-C", place)


def furnish(tree):
    """Add what makes a VM of it."""
    units = tree / "usr/lib/systemd/system"
    shutil.copytree(HERE / "one-context" / "units", units, dirs_exist_ok=True)
    shutil.copy(HERE / "one-context" / "one-contextd", tree / "usr/sbin/one-contextd")
    for name, text in UNITS.items():
        (units / name).write_text(text)
    contexts = [f"one-context{stage}.service" for stage in ("-local", "-online", "")]
    call("systemctl", f"--root={tree}", "enable", *UNITS, *contexts)
    # The distribution's own; ours starts HAProxy where a SuperLink needs it.
    call("systemctl", f"--root={tree}", "disable", "haproxy.service")
    (tree / "etc/docker/daemon.json").parent.mkdir(exist_ok=True)
    (tree / "etc/docker/daemon.json").write_text(DAEMON_JSON)
    for place in ("etc/machine-id", "var/lib/dbus/machine-id"):
        (tree / place).unlink(missing_ok=True)
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/hostname").write_text("vm\n")
    (tree / "etc/fstab").write_text("")


def nspawn():
    """Return the command of systemd-nspawn and its environment."""
    installed = shutil.which("systemd-nspawn")
    if installed:
        return [installed], {}
    place = CACHE / "nspawn"
    if not place.exists():
        making = CACHE / f"nspawn-{os.getpid()}"
        making.mkdir(parents=True)
        for name in ("systemd-container", "libsystemd-shared"):
            unpack(name, making)
        making.rename(place)
    libraries = next(place.glob("usr/lib/*/systemd"))
    return [str(place / "usr/bin/systemd-nspawn")], {"LD_LIBRARY_PATH": str(libraries)}
