"""The built image boots without KVM, comes to ready, takes a changed CD and powers off.

Takes about ten minutes. The image has its containers inside and a stand-in for one-context, and the
VM has no network beyond QEMU's own: a first boot needs nothing from outside.
"""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
from guest import Guest, write_context

ROOT = pathlib.Path(__file__).parents[2]
BUILD_S = 2 * 3600
NOT_RUNNING = 3
"""Exit code of ``flower-agent status``."""

STARTED_S = 900
"""How long an agent may take to run, on a machine that emulates the processor."""

SUPERLINK, SUPEREXEC = "flwr/superlink:1.25.0-py3.13-ubuntu24.04", "flwr/superexec:1.25.0"
BAKED = (SUPERLINK, "flwr/supernode:1.25.0-py3.13-ubuntu24.04", SUPEREXEC)
CONTEXT = {
    "ETH0_IP": "10.0.2.15",
    "ETH0_MAC": "52:54:00:12:34:56",
    "FLOWER_ROLE": "server",
    "FLOWER_ADDRESS": "127.0.0.1",
    "FLOWER_READY_TIMEOUT": "1200",
    "NETWORK": "YES",
}

pytestmark = [pytest.mark.long, pytest.mark.engine]


@pytest.fixture(scope="module")
def image(docker_url, tmp_path_factory):
    """The image in FLOWER_AGENT_TEST_IMAGE, else one built from this checkout."""
    if given := os.environ.get("FLOWER_AGENT_TEST_IMAGE"):
        return pathlib.Path(given)
    output = tmp_path_factory.mktemp("image") / "flower.qcow2"
    command = [str(ROOT / "contrib/image/build")]
    command += [word for name in BAKED for word in ("--image", name)]
    subprocess.run([*command, "--output", str(output)], check=True, timeout=BUILD_S)
    return output


@pytest.fixture
def booted(image, tmp_path):
    """Boots a VM of the image with the CONTEXT; the VMs end with the test."""
    made = []

    def boot(firmware):
        write_context(tmp_path, CONTEXT)
        made.append(Guest(image, tmp_path, firmware=firmware))
        return made[-1]

    yield boot
    for guest in made:
        guest.close()


def ready(guest):
    """Wait for ready and return the status; Docker alone may take minutes to start here."""
    end, code, text = time.monotonic() + STARTED_S, NOT_RUNNING, ""
    while code == NOT_RUNNING and time.monotonic() < end:
        code, text = guest.run("/usr/bin/flower-agent", "status", "--wait", "--timeout", "10m")
    assert code == 0, text + guest.run("/usr/bin/journalctl", "-b", "-n", "40", "--no-pager")[1]
    return json.loads(guest.run("/usr/bin/flower-agent", "status", "--json")[1])


def timeline(guest, status):
    """Return what was reached how many seconds after the kernel began."""
    show = ("/usr/bin/systemctl", "show", "--value", "-p", "ActiveEnterTimestampMonotonic")
    units = {"context": "flower-image-context", "docker": "docker", "agent": "flower-agent"}
    reached = {name: int(guest.run(*show, unit)[1]) / 1e6 for name, unit in units.items()}
    uptime = float(guest.run("/bin/cat", "/proc/uptime")[1].split()[0])
    now = float(guest.run("/bin/date", "+%s.%N")[1])
    inspect = ("/usr/bin/docker", "inspect", "-f", "{{.State.StartedAt}}", "flower-superlink")
    started = guest.run(*inspect)[1].strip()
    for name, text in (("container", started[:26] + "Z"), ("ready", status["since"])):
        at = datetime.datetime.fromisoformat(text).timestamp()
        reached[name] = at - (now - uptime)
    return reached


def runs_what_was_baked(guest):
    """Hold that the image's lock names all of Flower's, and that the containers are of these."""
    text = guest.run("/bin/cat", "/usr/share/flower-agent/images.lock")[1]
    lock = json.loads(text)["images"]
    assert sorted(lock) == sorted(BAKED)
    ask = ("/usr/bin/docker", "inspect", "-f", "{{.Image}}", "flower-superlink", "flower-superexec")
    assert guest.run(*ask)[1].split() == [lock[SUPERLINK], lock[SUPEREXEC]]


def test_it_boots_comes_to_ready_takes_a_changed_cd_and_powers_off(booted, tmp_path, capsys):
    guest = booted("bios")
    status = ready(guest)
    assert status["role"] == "superlink"
    runs_what_was_baked(guest)
    lines = [f"  {at:6.1f} s  {name}\n" for name, at in timeline(guest, status).items()]
    with capsys.disabled():
        sys.stdout.write("\n" + "".join(lines))
    assert guest.run("/bin/cat", "/etc/machine-id")[1].strip()
    assert guest.run("/bin/ls", "/etc/ssh/ssh_host_ed25519_key")[0] == 0
    assert guest.run("/usr/bin/systemctl", "--failed", "--no-legend")[1] == ""

    changed = {**CONTEXT, "FLOWER_TLS_SANS": "fl.example.org"}
    guest.change_cd(write_context(tmp_path, changed))
    look = (
        "for i in $(seq 120); do flower-agent tls show | grep -q fl.example && exit; sleep 1; done"
    )
    shown = ("/bin/sh", "-c", f"{look}; exit 1")
    assert guest.run(*shown)[0] == 0, "the certificate names what the new CD says"
    ready(guest)

    guest.run("/bin/sh", "-c", "systemctl --no-block poweroff")
    assert guest.wait_off() == 0


def test_it_boots_with_uefi_as_a_vm_with_a_gpu_does(booted):
    guest = booted("uefi")
    assert ready(guest)["role"] == "superlink"
    assert guest.run("/bin/ls", "/sys/firmware/efi")[0] == 0
