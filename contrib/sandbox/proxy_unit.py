#!/usr/bin/env python3
"""Stands in for the package's flower-proxy units where no systemd runs: HAProxy in the sandbox.

Watches the configuration below a root as flower-proxy.path does: HAProxy starts with it, reads all
anew when it changes, and ends when it is gone or when this ends.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

LOOK_S = 0.1
END_S = 10
PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin:/sbin"


class Unit:
    """HAProxy as a child of this process."""

    def __init__(self, program: str, directory: pathlib.Path) -> None:
        self._program = program
        self._directory = directory
        self._config = directory / "haproxy.cfg"
        self._followed: bytes | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def follow(self) -> None:
        """Do what the path unit would do now."""
        try:
            now: bytes | None = self._config.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            now = None
        if self._process is not None and self._process.poll() is not None:
            print(f"haproxy ended with {self._process.returncode}", flush=True)
            self._process, self._followed = None, None
        if now == self._followed:
            return
        self._followed = now
        if now is None:
            self.end()
        elif self._process is None:
            # A relative name: a path of a UNIX socket has at most 107 bytes.
            socket = ["-S", "unix@master.sock"]
            command = [self._program, "-W", *socket, "-f", str(self._config)]
            self._process = subprocess.Popen(command, cwd=self._directory)
        else:
            self._process.send_signal(signal.SIGUSR2)

    def end(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            self._process.kill()
            self._process = None


def main() -> int:
    """Follow until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=pathlib.Path)
    options = parser.parse_args()
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:{PLACES}")
    if program is None:
        print("no haproxy here: apt-get install haproxy", file=sys.stderr)
        return 1
    unit = Unit(program, (options.root / "run/flower-agent/proxy").absolute())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while True:
            unit.follow()
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        return 0
    finally:
        unit.end()


if __name__ == "__main__":
    sys.exit(main())
