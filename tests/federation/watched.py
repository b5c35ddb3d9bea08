"""A federation that tests can look into: real Docker, real Flower, OneGate in this process."""

import subprocess
import time
from collections.abc import Callable

import onegate
from federation import SERVICE, Federation, Machine


class WatchedFederation(Federation):
    """A federation whose OneGate can be asked what it was told, and be taken away."""

    def start_onegate(self) -> None:
        """Start it in this process."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.cloud = onegate.OneGate()
        self.cloud.add_service(
            SERVICE, "flower", [("superlink", 1), ("supernode", len(self.supernodes))]
        )
        self.cloud.start(port=self.base_port)

    def down(self) -> None:
        super().down()
        self.cloud.stop()

    def log(self, machine: Machine) -> str:
        """Return what a VM's agent logged."""
        return (self.directory / f"{machine.prefix}.log").read_text()


def wait_for(true: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Wait until `true()`; the bound only keeps a broken agent from hanging the tests."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.05)


def started(name: str) -> str:
    """Return a container's id and start, which change when it is restarted; empty when absent."""
    seen = ["docker", "inspect", "-f", "{{.Id}} {{.State.StartedAt}}", name]
    return subprocess.run(seen, check=False, capture_output=True, text=True, timeout=60).stdout


def docker(*arguments: str) -> str:
    """Return the output of the Docker CLI, which knows nothing of the agent."""
    done = subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr
