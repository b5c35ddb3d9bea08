"""Turns an agent thousands of times in one process, on fake edges; prints what it holds meanwhile.

A SuperNode with a Docker Engine in memory, a SuperLink that always answers, and the sandbox's
OneGate in a process of its own. Run by `test_soak`; by hand: ``python tests/contract/soak.py``.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

from fake_engine import FakeEngine

from flower_agent import log
from flower_agent.agent import assembly
from flower_agent.agent.assembly import Options
from flower_agent.agent.loop import Agent
from flower_agent.flower import container_spec, peer_check
from flower_agent.paths import Paths

ROOT = pathlib.Path(__file__).parents[2]
SCALE = 0.001
SUPERNODE = "flower-supernode"
PORT = 22222
SUPERLINKS = 8
"""Addresses, each with a connection, as a SuperNode's to its SuperLink."""

BASE = {
    "FLOWER_ROLE": "client",
    "TLS_ENABLED": "NO",
    "FLOWER_ISOLATION": "subprocess",
    "FLOWER_SERVER_ADDRESS": f"127.0.0.1:{PORT}",
    "FLOWER_NODE_AUTH": "NO",
}


class Answering:
    """A prober that finds everything well."""

    health_s = None

    def probe_serving(self, _address, _timeout_s):
        pass

    def probe_tcp(self, _address, _timeout_s):
        pass

    def warm(self):
        pass


def context(number):
    """Return the context of a recontextualization; each differs from the last."""
    changes = (
        {"FLOWER_NODE_CONFIG": f"partition-id={number} num-partitions=100000"},
        {"FLOWER_LOG_LEVEL": "DEBUG"},
        {"FLOWER_VERSION": f"1.{23 + number % 14}.0"},
        {"FLOWER_SERVER_ADDRESS": f"127.0.0.{number % SUPERLINKS + 1}:{PORT}"},
        {"FLOWER_CLIENTAPPIO_PORT": f"no port {number}"},  # a bad value, each time another
        {"FLOWER_HEALTH_PORT": str(10_000 + number)},
    )
    return {**BASE, **changes[number % len(changes)]}


def write(paths, variables):
    paths.context.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{name}='{value}'\n" for name, value in variables.items())
    whole = paths.context / "context.sh.network"
    whole.with_name("new").write_text(text)
    whole.with_name("new").replace(whole)


def held():
    """Return Python's blocks, KiB of memory, descriptors and threads of this process, at rest."""
    end = time.monotonic() + 10
    while threading.active_count() > 1 and time.monotonic() < end:
        time.sleep(0.01)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free in the heap is no leak: malloc_trim(3)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return {
        "blocks": sys.getallocatedblocks(),
        "kib": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "descriptors": len([*pathlib.Path("/proc/self/fd").iterdir()]),
        "threads": threading.active_count(),
    }


class Soak:
    """One agent, its Engine, and one turn after another."""

    def __init__(self, directory, onegate_url):
        self.paths = Paths(directory)
        self.engine = FakeEngine()
        assembly.Engine = lambda *_, **__: self.engine
        assembly.Prober = Answering
        peer_check.answers = lambda *_, **__: True
        write(self.paths, BASE)
        self.paths.runtime.mkdir()
        token = {"TOKENTXT": "soak", "VMID": "29", "ONEGATE_ENDPOINT": onegate_url}
        text = "".join(f'export {k}="{v}"\n' for k, v in token.items())
        (self.paths.context / "one_env").write_text(text)
        self.agent = Agent(Options(paths=self.paths, scale=SCALE))
        self.states = set()
        self._node = None

    def turn(self):
        """Turn once; the Engine has every image, and Flower says that it connected."""
        good = self.agent._intake.good
        for image in container_spec.images(good) if good else ():
            if self.engine.image(image) is None:
                self.engine.hold(image)
        self.agent._cycle_safely()
        self.states.add(self.agent._life.state.value)
        kept = self.engine.kept.get(SUPERNODE)
        if kept and kept.shown.running and not kept.said:
            self.engine.say(SUPERNODE, "INFO :      SuperNode ID: 7")
        self.engine.calls.clear()

    def settle(self):
        """Turn until it is ready, or has said why not."""
        for _ in range(200):
            self.turn()
            refused = self.agent._intake.refusal(now=0.0, scale=SCALE)
            if refused or self.agent._life.state.value == "ready":
                return
            time.sleep(0.002)
        raise SystemExit(f"never ready: {self.agent._life}")


def main():
    """Run the soak; print its measures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--contexts", type=int, default=1_000)
    options = parser.parse_args()
    log.configure("INFO", tty=False)
    with contextlib.ExitStack() as sockets, tempfile.TemporaryDirectory() as directory:
        for number in range(SUPERLINKS):
            address = (f"127.0.0.{number + 1}", PORT)
            sockets.enter_context(socket.create_server(address))
            sockets.enter_context(socket.create_connection(address))
        state = pathlib.Path(directory, "onegate.json")
        service = {"id": 7, "name": "flower", "roles": [["supernode", 1]]}
        vm = {"id": 29, "name": "supernode_0_(service_7)", "role": "supernode", "service_id": 7}
        state.write_text(json.dumps({"services": [service], "vms": [{**vm, "token": "soak"}]}))
        program = [sys.executable, str(ROOT / "contrib/sandbox/onegate.py")]
        program += ["--state", str(state), "--port", "0"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as onegate:
            try:
                url = onegate.stdout.readline().split()[-1]
                soak = Soak(pathlib.Path(directory), url)
                sys.stdout.write(json.dumps(measure(soak, options)) + "\n")
            finally:
                onegate.terminate()


def measure(soak, options):
    """Turn and recontextualize; before that come as many again, for caches to fill."""
    found = {}
    for warming in (True, False):
        for number in range(options.contexts):
            write(soak.paths, context(number + options.contexts * warming))
            soak.settle()
        if warming:
            found["before"] = held()
    found["after the contexts"] = held()
    write(soak.paths, BASE)
    soak.settle()
    for _ in range(options.turns):
        soak.turn()
    found["after the turns"] = held()
    found["states"] = sorted(soak.states)
    return found


if __name__ == "__main__":
    main()
