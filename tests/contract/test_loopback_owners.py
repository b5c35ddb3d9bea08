"""The sample that keeps local accounts off the SuperLink's loopback, with real sockets."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

SAMPLE = pathlib.Path(__file__).parents[2] / "contrib/firewall/loopback-owners.nft"
FLOWER, NOBODY, OPERATORS, GATEWAY = 49999, 1000, 4242, 901
DIAL = """
import json, os, socket, subprocess, sys

def dial(host, port, uid, gid, groups=()):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups(list(groups)); os.setgid(gid); os.setuid(uid)
        try:
            with socket.create_connection((host, port), 3) as found:
                told = found.recv(9).decode()
        except OSError as error:
            told = type(error).__name__
        os.write(writer, told.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as told:
        return told.read()

"x".encode("idna")  # the codec's file may not be read by others later
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "address", "add", "10.77.0.10/32", "dev", "lo"], check=True)
if not os.fork():
    servers = [
        socket.create_server((host, port), family=family)
        for port in (9091, 9093, 9092)
        for host, family in (("0.0.0.0", socket.AF_INET), ("::1", socket.AF_INET6))
    ]
    print("listens", flush=True)
    import selectors
    ready = selectors.DefaultSelector()
    for server in servers:
        ready.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            with key.fileobj.accept()[0] as found:
                found.sendall(b"welcome")
for line in sys.stdin:
    asked = json.loads(line)
    if "rules" in asked:
        done = subprocess.run(["nft", "-f", "-"], input=asked["rules"], text=True,
                              capture_output=True)
        print(json.dumps(done.stderr), flush=True)
    else:
        print(json.dumps(dial(**asked)), flush=True)
"""


class Vm:
    """A network of its own in which Flower's ports are open."""

    def __init__(self):
        command = ["unshare", "-n", "--pid", "--fork", "--kill-child", sys.executable, "-Sc", DIAL]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout.readline() == "listens\n"

    def ask(self, **words):
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def load(self, **defines):
        text = SAMPLE.read_text()
        for key, value in defines.items():
            text, times = re.subn(rf"(?m)^define {key} = .*", f"define {key} = {value}", text)
            assert times == 1
        return self.ask(rules=text)

    def dials(self, port, uid, gid, *, host="127.0.0.1", groups=()):
        return self.ask(host=host, port=port, uid=uid, gid=gid, groups=groups)

    def end(self):
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def vm(missing):
    if os.getuid() != 0:
        missing("network name spaces need root")
    for name in ("nft", "ip", "unshare"):
        if shutil.which(name) is None:
            missing(f"no {name}: apt-get install nftables iproute2 util-linux")
    made = Vm()
    try:
        for port in (9091, 9092, 9093):
            assert made.dials(port, NOBODY, NOBODY) == "welcome", "before there are rules"
        assert made.load(gateway=GATEWAY, operators=OPERATORS) == ""
        yield made
    finally:
        made.end()


HOSTS = ("127.0.0.1", "::1", "10.77.0.10")


@pytest.mark.parametrize(
    ("port", "uid", "gid", "passes"),
    [
        (9093, 0, 0, True),
        (9093, NOBODY, OPERATORS, True),
        (9093, GATEWAY, GATEWAY, True),
        (9093, NOBODY, NOBODY, False),
        (9093, FLOWER, FLOWER, False),
        (9091, 0, 0, True),
        (9091, FLOWER, FLOWER, True),
        (9091, NOBODY, NOBODY, False),
        (9091, NOBODY, OPERATORS, False),
        (9091, GATEWAY, GATEWAY, False),
        (9092, NOBODY, NOBODY, True),
    ],
)
def test_each_port_is_for_those_who_need_it(vm, port, uid, gid, passes):
    told = {host: vm.dials(port, uid, gid, host=host) for host in HOSTS}
    assert set(told.values()) == {"welcome" if passes else "ConnectionRefusedError"}, told


def test_a_further_group_does_not_count_as_the_sample_says(vm):
    told = vm.dials(9093, NOBODY, NOBODY, groups=(OPERATORS,))
    assert told == "ConnectionRefusedError"
    assert "no further groups" in SAMPLE.read_text()


def test_loaded_again_it_takes_the_place_of_itself(vm):
    assert vm.load(gateway=GATEWAY, operators=OPERATORS, control_port=9092) == ""
    try:
        assert vm.dials(9092, NOBODY, NOBODY) == "ConnectionRefusedError"
        assert vm.dials(9093, NOBODY, NOBODY) == "welcome"
    finally:
        vm.load(gateway=GATEWAY, operators=OPERATORS)


def test_without_its_group_it_is_refused_as_a_whole(vm):
    assert "no-such-group" in vm.load(gateway=GATEWAY, operators="no-such-group")
    assert vm.dials(9093, NOBODY, NOBODY) == "ConnectionRefusedError"


def test_where_control_and_appio_share_a_port_the_sample_and_security_say_that_it_fails():
    security = (SAMPLE.parents[2] / "SECURITY.md").read_text()
    for text in (SAMPLE.read_text(), security):
        assert "From Flower 1.37 on" in text
