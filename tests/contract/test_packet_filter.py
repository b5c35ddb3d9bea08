"""What the agent says of a firewall, and what the kernel does: two name spaces and a wire.

A case that the agent calls closed must be closed. The other way round it may keep silent, where
who sends decides.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from flower_agent.address import Address
from flower_agent.background import Threads
from flower_agent.machine import firewall, packet_filter
from flower_agent.machine.host import HostFacts
from flower_agent.machine.interfaces import Interface
from flower_agent.machine.netfilter import Packet
from flower_agent.reporting.status import Mark

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = ROOT / "contrib/package/installed/filter-rules"
SAMPLES = ROOT / "contrib/firewall"
RECORDED = ROOT / "tests/data/firewall"
HERE, THERE, PORT = "10.77.0.10", "10.77.0.20", 9092
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

    def rules(self):
        """Return what the installed program lists."""
        return self.run(PROGRAM)

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
    for name in ("nft", "iptables-restore", "ip"):
        if shutil.which(name) is None:
            missing(f"no {name}: apt-get install nftables iptables iproute2")
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


def table(rules, policy="drop", more=""):
    return f"""table inet filter {{ {more}
        chain input {{ type filter hook input priority 0; policy {policy};
            {rules}
        }}
    }}"""


CLOSED = {
    "a policy": table(""),
    "a policy behind what is always there": table("""
        ct state established,related accept
        ct state invalid drop
        iifname "lo" accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport { 22, 80-90, 443 } accept
        udp dport 9092 accept
    """),
    "a rule": table("tcp dport 9092 drop", "accept"),
    "a rule for a range": table("tcp dport 9000-9100 reject", "accept"),
    "a rule for everything but": table("tcp dport != { 22, 443 } drop", "accept"),
    "a rule for a NIC": table('iifname "eth*" tcp dport 9092 drop', "accept"),
    "a rule for an address": table("ip daddr 10.77.0.10 drop", "accept"),
    "a rule for a network": table("ip daddr 10.77.0.0/24 tcp dport 9092 drop", "accept"),
    "an early hook": (
        "table ip raw { chain pre { type filter hook prerouting priority raw; policy accept;"
        "tcp dport 9092 drop; }; }"
    ),
    "a chain of its own": table(
        "ct state vmap { established : accept, related : accept, invalid : drop }\njump services",
        more="chain services { tcp dport 22 accept; tcp dport 9092 goto no; }\nchain no { drop; }",
    ),
    "a map of ports": table(
        "tcp dport vmap { 22 : accept, 9092 : drop }\ntcp dport 9092 accept", "accept"
    ),
    "one of two tables": (
        "table ip a { chain input { type filter hook input priority 0; accept; }; }\n"
        "table ip b { chain input { type filter hook input priority 1; policy drop; }; }"
    ),
}  # fmt: skip

OPEN = {
    "nothing": "",
    "a policy": table("", "accept"),
    "the port": table("ct state established,related accept\ntcp dport 9092 accept"),
    "the port among others": table("ct state established accept\ntcp dport { 22, 9092 } accept"),
    "a range": table("ct state established accept\ntcp dport 9000-9100 accept"),
    "the port for the subnet": table(
        "ct state established accept\nip saddr 10.77.0.0/24 tcp dport 9092 accept"
    ),
    "the port for a named set": table(
        "ct state established accept\nip saddr @nodes tcp dport 9092 accept",
        more="set nodes { type ipv4_addr; flags interval; elements = { 10.77.0.0/24 }; }",
    ),
    "as often as it likes": table(
        "ct state established accept\ntcp dport 9092 limit rate 10/second accept"
    ),
    "one address less": table("ip saddr 10.77.0.30 drop", "accept"),
    "another address less": table("ip daddr 10.77.0.11 tcp dport 9092 drop", "accept"),
    "loopback less": table('iifname "lo" tcp dport 9092 drop', "accept"),
    "a jump that returns": table(
        "jump other\naccept", more="chain other { tcp dport 9092 return; drop; }"
    ),
    "a map": table("tcp dport vmap { 9092 : goto yes }", more="chain yes { accept; }").replace(
        "drop;\n", "drop; ct state established accept;\n", 1
    ),
    "a table asleep": "table ip a { flags dormant; chain input "
    "{ type filter hook input priority 0; policy drop; }; }",
    "what leaves is not what comes": "table ip a { chain output "
    "{ type filter hook output priority 0; tcp dport 9092 drop; }; }",
    "what is forwarded is not for us": "table ip a { chain forward "
    "{ type filter hook forward priority 0; policy drop; }; }",
}

IPTABLES_CLOSED = {
    "a policy": ":INPUT DROP [0:0]",
    "a rule": ":INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 9092 -j REJECT",
    "a rule for ports": ":INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m multiport --dports 80,9000:9100 "
    "-j DROP",
    "a rule for all NICs but": ":INPUT ACCEPT [0:0]\n-A INPUT ! -i lo -p tcp -j DROP",
    "a policy behind what is always there": ":INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n"
    "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p icmp -j ACCEPT\n"
    '-A INPUT -p udp -m udp --dport 9092 -m comment --comment "a b" -j ACCEPT',
    "a chain": ":INPUT ACCEPT [0:0]\n:mine - [0:0]\n-A INPUT -g mine\n"
    "-A mine -p tcp -m tcp --dport 22 -j RETURN\n-A mine -d 10.77.0.0/24 -j DROP",
}
IPTABLES_OPEN = {
    "the port for the subnet": ":INPUT DROP [0:0]\n-A INPUT -s 10.77.0.0/24 -p tcp -m tcp "
    "--dport 9092 -j ACCEPT",
    "new connections": ":INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate NEW,ESTABLISHED "
    '-m comment --comment "-j DROP" -j ACCEPT',
    "a log line first": ":INPUT ACCEPT [0:0]\n-A INPUT -m limit --limit 3/min -j LOG",
}


def claimed(wire, host=HERE):
    """Return what the agent says of the rules that are in force."""
    return firewall.judge(wire.rules(), Packet(host, PORT, "eth0"))


@pytest.mark.parametrize("name", CLOSED)
def test_what_nftables_closes_is_said(wire, name):
    wire.run("nft", "-f", "-", given=CLOSED[name])
    assert not wire.reached(HERE)
    assert claimed(wire).code == "firewall.drops"


@pytest.mark.parametrize("name", OPEN)
def test_what_nftables_lets_in_is_no_false_alarm(wire, name):
    wire.run("nft", "-f", "-", given=OPEN[name])
    assert wire.reached(HERE)
    assert claimed(wire) is None


def test_where_the_sender_decides_nothing_is_claimed(wire):
    wire.run("nft", "-f", "-", given=table("ip saddr 10.9.0.0/24 tcp dport 9092 accept"))
    assert not wire.reached(HERE)
    assert claimed(wire) is None


@pytest.mark.parametrize("name", IPTABLES_CLOSED)
def test_what_iptables_closes_is_said(wire, name):
    wire.run("iptables-restore", given=f"*filter\n{IPTABLES_CLOSED[name]}\nCOMMIT\n")
    assert not wire.reached(HERE)
    assert claimed(wire).message.startswith(
        ("iptables (chain filter ", "nftables (chain ip filter ")
    )
    assert wire.reached(HERE6)
    assert claimed(wire, HERE6) is None


@pytest.mark.parametrize("name", IPTABLES_OPEN)
def test_what_iptables_lets_in_is_no_false_alarm(wire, name):
    wire.run("iptables-restore", given=f"*filter\n{IPTABLES_OPEN[name]}\nCOMMIT\n")
    answers = "-I INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"
    wire.run("iptables", *answers.split())
    assert wire.reached(HERE)
    assert claimed(wire) is None


def test_ipv6_has_rules_of_its_own(wire):
    wire.run("ip6tables-restore", given="*filter\n:INPUT DROP [0:0]\nCOMMIT\n")
    assert not wire.reached(HERE6)
    assert claimed(wire, HERE6).message.endswith(" lets nobody reach [fd77::10]:9092")
    assert wire.reached(HERE)
    assert claimed(wire) is None


@pytest.mark.parametrize("name", sorted(path.name for path in RECORDED.iterdir()))
def test_what_firewalld_and_ufw_made_is_judged_as_the_kernel_does(wire, name):
    text = (RECORDED / name).read_text()
    if name.endswith(".json"):
        wire.run("nft", "-j", "-f", "-", given=text)
    else:
        wire.run("iptables-restore", given=text)
    assert wire.reached(HERE) == ("closed" not in name)
    assert (claimed(wire) is None) == ("closed" not in name)


def sample(name, **defines):
    """Return a sample with its definitions filled in, as its reader is told to."""
    text = (SAMPLES / name).read_text()
    for key, value in defines.items():
        text, times = re.subn(rf"(?m)^define {key} = .*", f"define {key} = {value}", text)
        assert times == 1
    return text


def test_the_sample_opens_a_ruleset_that_drops_for_the_subnet_only(wire):
    closed = CLOSED["a policy behind what is always there"]
    for subnet, opens in (("10.77.0.0/24", True), ("10.9.0.0/24", False)):
        wire.clear()
        wire.run("nft", "-f", "-", given=closed + sample("fleet-port.nft", federation=subnet))
        assert wire.reached(HERE) is opens


def test_the_hardening_lets_the_federation_in_and_nobody_else(wire):
    for subnet, opens in (("10.9.0.0/24", False), ("10.77.0.0/24", True)):
        wire.run("nft", "-f", "-", given=sample("hardening.nft", federation=subnet))
        assert wire.reached(HERE) is opens
        assert claimed(wire) is None
    wire.run("nft", "-f", "-", given=sample("hardening.nft", fleet_port="9999"))
    assert not wire.reached(HERE)
    assert claimed(wire) is not None
    assert wire.rules().count("chain flower_hardening input") <= 1


def test_the_owners_of_loopback_are_no_matter_of_the_fleet(wire):
    wire.run("nft", "-f", "-", given=sample("loopback-owners.nft", operators="4242"))
    assert wire.reached(HERE)
    assert claimed(wire) is None


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


class Notebook:
    """As much of a `Turn` as a look at the firewall writes."""

    host = HostFacts((Interface("eth0", "", (HERE,)),), "eth0", 0, "")

    def __init__(self, monotonic):
        self.monotonic = monotonic
        self.facts = {}
        self.warnings = []

    def note(self, name, mark, detail):
        self.facts[name] = (mark, detail)


@pytest.fixture
def answering(tmp_path):
    """A socket that answers each caller with a text, as systemd's does."""
    place = tmp_path / "filter-rules"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(place))
    server.listen()
    told = ["== nft\n", ""]

    def serve():
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return
            with connection:
                connection.sendall("".join(told).encode())

    thread = threading.Thread(target=serve)
    thread.start()
    yield place, told
    server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    server.close()


def closed(turn):
    return [found.code for found in turn.warnings]


def test_a_closed_port_is_shown_until_it_is_open(answering):
    place, told = answering
    woken = threading.Event()
    threads = Threads(woken.set)
    watch = packet_filter.PacketFilter(place, threads)
    listens = Address(HERE, PORT)

    def look(monotonic):
        noted = Notebook(monotonic)
        watch.note(noted, listens)
        if threads.busy():
            assert woken.wait(10)
            woken.clear()
        return noted

    told[1] = json.dumps({"nftables": []})
    assert look(0.0).facts == {}
    assert look(1.0).facts == {"firewall": (Mark.OK, "nothing found that closes TCP port 9092")}
    told[:] = ["== iptables\n", "*filter\n:INPUT DROP [0:0]\nCOMMIT\n"]
    assert look(300.0).warnings == []
    look(301.0)
    found = look(302.0)
    assert found.facts == {"firewall": (Mark.BAD, "closes TCP port 9092")}
    assert closed(found) == ["firewall.drops"]
    told[1] = ""
    assert closed(look(321.0)) == ["firewall.drops"]
    look(322.0)
    assert closed(look(323.0)) == []


def test_what_listens_on_loopback_is_nobody_elses(answering):
    place, _ = answering
    threads = Threads(lambda: None)
    packet_filter.PacketFilter(place, threads).note(Notebook(0.0), Address("127.0.0.1", PORT))
    assert not threads.busy()


def test_the_rules_come_over_a_socket(answering):
    place, told = answering
    told[1] = "x" * 300_000
    assert packet_filter.ask(place) == "== nft\n" + told[1]


def test_a_socket_that_nobody_serves_gives_no_rules(tmp_path):
    assert packet_filter.ask(tmp_path / "filter-rules") is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    assert packet_filter.ask(tmp_path / "left") is None
