#!/usr/bin/env python3
"""A OneGate for one machine, with the quirks of OpenNebula 7.4 and faults on request.

Tests use the class `OneGate`; the sandbox runs this file. It listens on loopback only. The file
that it is given declares the same as `add_service` and `add_vm`:

    {"services": [{"id": 1, "name": "flower", "roles": [["superlink", 1], ["supernode", 2]]}],
     "vms": [{"id": 28, "name": "superlink_0_(service_1)", "role": "superlink", "service_id": 1,
              "token": "…", "nic": {"IP": "127.0.0.1"}, "context": {}, "user_template": {}}]}

Paths below /sandbox/, which are not OneGate's and ask for no token:

    GET    /sandbox/vms     attributes and READY gate of each VM
    POST   /sandbox/vms     a VM as above; 201 with its token
    PUT    /sandbox/fault   {"kind": "slow", "seconds": 3, "vmid": 29, "count": 1, …}
    DELETE /sandbox/fault   ends every fault
"""

import argparse
import ipaddress
import json
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onegate_faults as faults
from onegate_cloud import HISTORY, Cloud
from onegate_documents import Machine
from onegate_http import Request, Server, add_declared


class OneGate(Cloud):
    """A Cloud behind HTTP.

    VMs may be added and faults switched before, while and after it listens; `stop` and a `start`
    on the same port are an outage in which connections are refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self._faults = faults.Faults()
        self._requests: deque[Request] = deque(maxlen=HISTORY)
        self._server: Server | None = None

    def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen on a loopback address, port 0 for any free one, and return the URL."""
        if not ipaddress.IPv4Address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address")
        if self._server is not None:
            raise RuntimeError(f"listening already on {self.url}")
        self._server = Server((host, port), self, self._faults, self._requests)
        return self.url

    def stop(self) -> None:
        """Close the port and all connections; what is known stays."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What a VM has as ONEGATE_ENDPOINT."""
        if self._server is None:
            raise RuntimeError("not started")
        return "http://{}:{}".format(*self._server.socket.getsockname())

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests that came, oldest first."""
        return tuple(self._requests)

    def fault(
        self, kind: str, vmid: int | None = None, count: int | None = None, **options: Any
    ) -> None:
        """Let requests fail, of one VM or of all, `count` of them or until `heal`.

        Kinds are those of onegate_faults.Kind. Options: `method` ("PUT": only those), `seconds`
        (slow), `body` (garbage: "html", "truncated", "plain"), `to` (redirect). The newest fault
        wins.
        """
        self._faults.add(faults.fault(kind, vmid, **options), count)

    def heal(self) -> None:
        """End all faults; requests that hang lose their connection."""
        self._faults.heal()


class KeptOneGate(OneGate):
    """A OneGate whose VMs are declared in a file and outlive its process.

    What the VMs published, whether OneFlow took them for ready, and VMs that were added later are
    kept in `NAME.user_templates.json` beside the declaring `NAME.json`.
    """

    def __init__(self, declaring: Path) -> None:
        super().__init__()
        self._kept_in = declaring.with_suffix(".user_templates.json")
        self._loading = True
        declared = json.loads(declaring.read_text())
        for service in declared.get("services", []):
            self.add_service(service["id"], service["name"], service["roles"])
        for machine in declared.get("vms", []):
            add_declared(self, machine)
        self._declared = frozenset(machine.vmid for machine in self.machines())
        if self._kept_in.exists():
            self._take_back(json.loads(self._kept_in.read_text()))
        self._loading = False

    def changed(self) -> None:
        """Write down what a restart needs."""
        if not self._loading:
            kept = {str(machine.vmid): self._kept(machine) for machine in self.machines()}
            _write_atomic(self._kept_in, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")

    def _kept(self, machine: Machine) -> dict[str, Any]:
        kept = {"gate_open": machine.gate_open, "USER_TEMPLATE": machine.attributes}
        if machine.vmid not in self._declared:
            kept["added"] = {
                "id": machine.vmid,
                "name": machine.name,
                "role": machine.role,
                "service_id": machine.service_id,
                "nic": machine.nics,
                "context": machine.context,
                "token": machine.token,
            }
        return kept

    def _take_back(self, kept: Mapping[str, Mapping[str, Any]]) -> None:
        for entry in kept.values():
            if "added" in entry:
                add_declared(self, entry["added"])
        for machine in self.machines():
            entry = kept.get(str(machine.vmid), {})
            machine.attributes = entry.get("USER_TEMPLATE", machine.attributes)
            machine.gate_open = entry.get("gate_open", machine.gate_open)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a OneGate until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A OneGate for one machine.")
    parser.add_argument("--state", type=Path, required=True, help="JSON: services and VMs")
    parser.add_argument(
        "--host", default="127.0.0.1", help="loopback address (default %(default)s)"
    )
    parser.add_argument("--port", type=int, required=True, help="0 for any free one")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    gate = KeptOneGate(options.state)
    print(f"onegate: listening on {gate.start(options.host, options.port)}", flush=True)
    stop.wait()
    gate.stop()
    return 0


def _write_atomic(path: Path, words: str) -> None:
    # Without fsync: a machine that dies takes the sandbox with it. mkstemp's 0600 hides the tokens.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(words)
    Path(temporary).replace(path)


if __name__ == "__main__":
    sys.exit(main())
