"""A real HTTP proxy, from apt."""

import contextlib
import pathlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

START_S = 60


class Tinyproxy:
    """A proxy on loopback that writes down what it was asked for."""

    def __init__(self, port: int, log: pathlib.Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def asked(self) -> list[str]:
        """What was asked for, in order: ``host:443`` of a tunnel, else a URL."""
        return re.findall(r"Request .*?: (?:CONNECT|GET) (\S+) HTTP", self._log.read_text())


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[Tinyproxy]:
    """Run a proxy until the end of the block."""
    assert shutil.which("tinyproxy"), "tinyproxy is missing: apt-get install tinyproxy"
    log = folder / "proxy.log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    lines = (
        f"Port {port}", "Listen 127.0.0.1", "Allow 127.0.0.1", f'LogFile "{log}"',
        "LogLevel Connect", "Timeout 60", "MaxClients 20",
    )  # fmt: skip
    (folder / "proxy.conf").write_text("\n".join(lines) + "\n")
    command = ["tinyproxy", "-d", "-c", str(folder / "proxy.conf")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + START_S
            while not _listens(port):
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.05)
            yield Tinyproxy(port, log)
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
