"""A second machine: a network namespace of its own, a cable to this one, a Docker Engine in it.

OneGate is reached from both as on a hypervisor: through a proxy on an address of the host.
"""

import contextlib
import os
import socket
import subprocess
import threading

from second_engine import SecondEngine

HERE, THERE = "10.222.77.1", "10.222.77.2"
"""The two ends of the cable."""

LENGTH = 30


class FarMachine:
    """`close` leaves nothing behind."""

    def __init__(self) -> None:
        self.name = f"flower-{os.getpid()}"
        self._cable = f"fa{os.getpid()}"
        self.enter = ("nsenter", f"--net=/run/netns/{self.name}", "--")
        """The command that goes there."""

        with contextlib.ExitStack() as undo:
            _run("ip", "netns", "add", self.name)
            undo.callback(_run, "ip", "netns", "delete", self.name)
            far = f"{self._cable}b"
            _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", far)
            undo.callback(_run, "ip", "link", "delete", self._cable)
            _run("ip", "link", "set", far, "netns", self.name)
            _run("ip", "address", "add", f"{HERE}/{LENGTH}", "dev", self._cable)
            _run("ip", "link", "set", self._cable, "up")
            self.run("ip", "address", "add", f"{THERE}/{LENGTH}", "dev", far)
            self.run("ip", "link", "set", far, "up")
            self.run("ip", "link", "set", "lo", "up")
            self.engine = SecondEngine(network=self.enter)
            undo.callback(self.engine.close)
            self.engine.start()
            self._undo = undo.pop_all()

    def run(self, *command: str) -> str:
        """Run a command there; return what it printed."""
        return _run(*self.enter, *command)

    def unplug(self) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        self.run("ip", "link", "set", f"{self._cable}b", "down")

    def plug(self) -> None:
        """Put it back."""
        self.run("ip", "link", "set", f"{self._cable}b", "up")

    def close(self) -> None:
        """Take all away."""
        self._undo.close()


class Proxy:
    """Hands connections on to a port of the loopback, from an address that others reach."""

    def __init__(self, address: tuple[str, int], port: int) -> None:
        self._listener = socket.create_server(address)
        self._port = port
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._hand_on, args=(near,), daemon=True).start()

    def _hand_on(self, near: socket.socket) -> None:
        with (
            near,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), 10) as far,
        ):
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        source.settimeout(None)
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout
