"""What the samples of rules for nftables let through: two name spaces and a wire."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SAMPLES = ROOT / "contrib/firewall"
HERE, THERE = "10.77.0.10", "10.77.0.20"
HERE6, THERE6 = "fd77::10", "fd77::20"
SERVE = (
    "import socket; s = socket.create_server(('::', 9092), family=socket.AF_INET6,"
    "dualstack_ipv6=True); print('listens', flush=True)\nwhile True: s.accept()[0].close()"
)
KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], 9092), 0.4)"


class Wire:
    """A VM that listens, and one that dials."""

    def __init__(self):
        pid = os.getpid()
        self._inside, self._outside = f"fw-in-{pid}", f"fw-out-{pid}"
        self._server = None

    def start(self):
        for name in (self._inside, self._outside):
            run("ip", "netns", "add", name)
        run(
            "ip", "-n", self._inside, "link", "add", "eth0", "type", "veth",
            "peer", "name", "eth0", "netns", self._outside,
        )  # fmt: skip
        for name, four, six in ((self._inside, HERE, HERE6), (self._outside, THERE, THERE6)):
            run("ip", "-n", name, "address", "add", f"{four}/24", "dev", "eth0")
            run("ip", "-n", name, "address", "add", f"{six}/64", "dev", "eth0", "nodad")
            for link in ("lo", "eth0"):
                run("ip", "-n", name, "link", "set", link, "up")
        inside = ["ip", "netns", "exec", self._inside, sys.executable, "-c", SERVE]
        self._server = subprocess.Popen(inside, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout.readline() == "listens\n"
        assert self.reached(HERE)
        assert self.reached(HERE6)

    def run(self, *command, given=""):
        """Run a program on the VM that listens."""
        return run("ip", "netns", "exec", self._inside, *command, given=given)

    def clear(self):
        """Take all rules away."""
        self.run("nft", "flush", "ruleset")

    def reached(self, host):
        """Dial as a SuperNode does."""
        there = ["ip", "netns", "exec", self._outside, sys.executable, "-Sc", KNOCK, host]
        return subprocess.run(there, check=False, stderr=subprocess.DEVNULL).returncode == 0

    def end(self):
        if self._server is not None:
            self._server.kill()
            self._server.wait(10)
            self._server.stdout.close()
        for name in (self._inside, self._outside):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def run(*command, given=""):
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, input=given, timeout=30
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def machines(missing):
    if os.getuid() != 0:
        missing("network name spaces need root")
    for name in ("nft", "ip"):
        if shutil.which(name) is None:
            missing(f"no {name}: apt-get install nftables iproute2")
    made = Wire()
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.fixture
def wire(machines):
    machines.clear()
    return machines


CLOSED = """table inet filter {
    chain input { type filter hook input priority 0; policy drop;
        ct state established,related accept
        ct state invalid drop
        iifname "lo" accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport { 22, 80-90, 443 } accept
        udp dport 9092 accept
    }
}"""


def sample(name, **defines):
    """Return a sample with its definitions filled in, as its reader is told to."""
    text = (SAMPLES / name).read_text()
    for key, value in defines.items():
        text, times = re.subn(rf"(?m)^define {key} = .*", f"define {key} = {value}", text)
        assert times == 1
    return text


def test_the_sample_opens_a_ruleset_that_drops_for_the_subnet_only(wire):
    for subnet, opens in (("10.77.0.0/24", True), ("10.9.0.0/24", False)):
        wire.clear()
        wire.run("nft", "-f", "-", given=CLOSED + sample("fleet-port.nft", federation=subnet))
        assert wire.reached(HERE) is opens


def test_the_hardening_lets_the_federation_in_and_nobody_else(wire):
    for subnet, opens in (("10.9.0.0/24", False), ("10.77.0.0/24", True)):
        wire.run("nft", "-f", "-", given=sample("hardening.nft", federation=subnet))
        assert wire.reached(HERE) is opens
    wire.run("nft", "-f", "-", given=sample("hardening.nft", fleet_port="9999"))
    assert not wire.reached(HERE)


def test_the_owners_of_loopback_are_no_matter_of_the_fleet(wire):
    wire.run("nft", "-f", "-", given=sample("loopback-owners.nft", operators="4242", gateway="901"))
    assert wire.reached(HERE)


def test_the_hardening_refuses_mail_at_once_and_nothing_else(wire):
    wire.run("nft", "-f", "-", given=sample("hardening.nft", federation="10.77.0.0/24"))
    dial = "import socket, sys; socket.create_connection(('10.77.0.20', int(sys.argv[1])), 5)"
    for port in ("25", "465", "587"):
        begun = time.monotonic()
        with pytest.raises(AssertionError, match="Connection refused"):
            wire.run(sys.executable, "-Sc", dial, port)
        assert time.monotonic() - begun < 4
    counted = json.loads(wire.run("nft", "-j", "list", "table", "inet", "flower_hardening"))
    chain = [e["rule"]["expr"] for e in counted["nftables"] if "rule" in e]
    outward = [
        e["rule"]["expr"]
        for e in counted["nftables"]
        if "rule" in e and e["rule"]["chain"] == "output"
    ]
    assert len(chain) > len(outward)
    assert "reject" in outward[0][-1]  # before anything accepts
