"""A second machine: a network namespace of its own, a cable to this one, a Docker Engine in it.

OneGate is reached from both as on a hypervisor: through a proxy on an address of the host.
"""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence

from second_engine import SecondEngine

_FIRST = 2 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Each worker of the tests has addresses of its own."""

HERE, THERE = f"10.222.{_FIRST}.1", f"10.222.{_FIRST}.2"
"""The two ends of the cable."""

PUBLIC, BEHIND = f"10.222.{_FIRST + 1}.1", f"10.222.{_FIRST + 1}.2"
"""The two ends of the second cable, where a router stands at THERE; it is known as PUBLIC."""

LENGTH = 30


class FarMachine:
    """Another machine; `close` leaves nothing behind.

    With `forwards` (port of the router → port at HERE) a router with NAT stands between: neither
    side can reach the other but through those ports. `hosts` are names that mean PUBLIC over there.
    """

    def __init__(
        self, *, forwards: Mapping[int, int] | None = None, hosts: Iterable[str] = ()
    ) -> None:
        name = f"flower-{os.getpid()}"
        self._cable = f"fa{os.getpid()}b"
        with contextlib.ExitStack() as undo:
            self._undo = undo
            self.enter = self._namespace(name)
            if forwards is None:
                self._connect((), HERE, self.enter, THERE, self._cable)
            else:
                router = self._namespace(f"{name}-r")
                self._connect((), HERE, router, THERE, f"fa{os.getpid()}r")
                self._connect(router, PUBLIC, self.enter, BEHIND, self._cable)
                _nat(router, forwards)
            self.engine = SecondEngine(network=self.enter, hosts=dict.fromkeys(hosts, PUBLIC))
            undo.callback(self.engine.close)
            self.engine.start()
            self._undo = undo.pop_all()

    @property
    def enter_by_name(self) -> tuple[str, ...]:
        """The command that goes there, and knows the names of `hosts`."""
        bind = 'mount --bind "$0" /etc/hosts && exec "$@"'
        mounts = ("unshare", "--mount", "sh", "-c", bind, str(self.engine.hosts_file))
        return (*self.enter, *mounts)

    def close(self) -> None:
        """Take all away."""
        self._undo.close()

    def _namespace(self, name: str) -> tuple[str, ...]:
        """Make a network namespace; return the command that goes there."""
        _run("ip", "netns", "add", name)
        self._undo.callback(_run, "ip", "netns", "delete", name)
        enter = ("nsenter", f"--net=/run/netns/{name}", "--")
        _run(*enter, "ip", "link", "set", "lo", "up")
        return enter

    def _connect(
        self, near: Sequence[str], here: str, far: Sequence[str], there: str, cable: str
    ) -> None:
        """Lay a cable between two namespaces; it goes with the last of its ends."""
        target = far[1].removeprefix("--net=")
        near_end = f"{cable}n"
        _run(*near, "ip", "link", "add", near_end, "type", "veth", "peer", cable, "netns", target)
        if not near:
            self._undo.callback(_run, "ip", "link", "delete", near_end)
        for enter, end, address in ((near, near_end, here), (far, cable, there)):
            _run(*enter, "ip", "address", "add", f"{address}/{LENGTH}", "dev", end)
            _run(*enter, "ip", "link", "set", end, "up")


def _nat(router: Sequence[str], forwards: Mapping[int, int]) -> None:
    """Let the router forward those ports of PUBLIC, and hide whoever comes."""
    _run(*router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    nat = (*router, "iptables", "-t", "nat", "-A")
    for public, port in forwards.items():
        match = ("-d", PUBLIC, "-p", "tcp", "--dport", str(public))
        _run(*nat, "PREROUTING", *match, "-j", "DNAT", "--to-destination", f"{HERE}:{port}")
    _run(*nat, "POSTROUTING", "-j", "MASQUERADE")


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
