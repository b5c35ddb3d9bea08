#!/usr/bin/env python3
"""Stands in for the package's flower-gateway units where no systemd runs: the gateway's process.

Watches what the agent writes for the gateway below a root, as flower-gateway.path does: the gateway
starts with it, starts anew when it changes, and ends when it is gone or when this ends.
"""

import argparse
import contextlib
import pathlib
import signal
import subprocess
import sys
import time

LOOK_S = 0.1
END_S = 10


class Unit:
    """The gateway as a child of this process."""

    def __init__(self, root: pathlib.Path) -> None:
        self._told = root / "run/flower-agent/gateway"
        self._sockets = root / "run/flower-gateway"
        self._state = root / "var/lib/flower-agent/gateway"
        self._followed: bytes | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def follow(self) -> None:
        """Do what the path unit would do now."""
        now: bytes | None = None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            now = (self._told / "gateway.json").read_bytes()
        if self._process is not None and self._process.poll() is not None:
            print(f"the gateway ended with {self._process.returncode}", flush=True)
            self._process, self._followed = None, None
        if now == self._followed:
            return
        self._followed = now
        self.end()
        if now is not None:
            self._start()

    def _start(self) -> None:
        self._sockets.mkdir(parents=True, exist_ok=True)
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Relative names: a path of a UNIX socket has at most 107 bytes.
        places = ["--sockets", ".", "--agent", "../flower-agent/gateway/agent.sock"]
        places += ["--config", str(self._told / "gateway.json"), "--state", str(self._state)]
        command = [sys.executable, "-m", "flower_agent.gateway.service", *places]
        self._process = subprocess.Popen(command, cwd=self._sockets)

    def end(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> int:
    """Follow until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=pathlib.Path)
    unit = Unit(parser.parse_args().root.absolute())
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
