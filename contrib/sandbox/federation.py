#!/usr/bin/env python3
"""A whole federation on one machine: a OneGate, one SuperLink and two SuperNodes.

Each "VM" is a directory with the files that OpenNebula's contextualization leaves, and an agent of
its own (``--root``, ``--name``, own ports). Its CONTEXT is what OneFlow and oned make of the
templates in contrib/templates; ports and loopback addresses are added, since all share a machine.
The order is OneFlow's: the SuperLink's VM first, the SuperNodes' once its READY gate is open.
``contrib/sandbox/run`` calls this; tests use `Federation`.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from flower_agent.config import flower_versions
from flower_agent.model.address import is_ip

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path.append(str(REPOSITORY / "contrib" / "templates"))

import oneflow  # noqa: E402 - found beside this file, as the next in contrib/templates
import service_template  # noqa: E402
import vm_templates  # noqa: E402

APP = REPOSITORY / "contrib" / "app"
SERVICE = 7
FIRST_VMID = 41
BASE_PORT = 29000
READY_TIMEOUT_S = 180.0
RUN_TIMEOUT_S = 600.0
PORTS_A_VM = 20
PROXY = "haproxy"
GATEWAY = "gateway"


class SandboxError(Exception):
    """What went wrong, for a person."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """One pretended VM."""

    vmid: int
    name: str
    """OneFlow's name of it: ``supernode_0_(service_7)``."""

    role: str
    root: pathlib.Path
    prefix: str
    """In front of its containers' names."""

    variables: Mapping[str, str]
    """Its CONTEXT, without what OneGate adds."""

    attributes: Mapping[str, Any]
    """Its USER_TEMPLATE, without what OneGate adds."""


class Federation:
    """A OneGate and agents as processes of this machine; `up` begins, `down` ends all."""

    control_host = "127.0.0.1"
    """How the Control API is called: a name, which is loopback then, or another address."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        name: str = "sandbox",
        base_port: int = BASE_PORT,
        supernodes: int = 2,
        variables: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        app: pathlib.Path = APP,
        say: Callable[[str], None] = lambda text: print(text, flush=True),
    ) -> None:
        self.directory = directory
        self.base_port = base_port
        self.version = flower_versions.parse_version(
            (variables or {}).get("FLOWER_VERSION", flower_versions.DEFAULT)
        )
        self._name = name
        self._app = app
        self._say = say
        self._environment = {**os.environ, **(environment or {})}
        self._common = {"ML_FRAMEWORK": "sklearn", **(variables or {})}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._templates = deployable()
        self.superlink = self._machine(0, "superlink", 0)
        self.supernodes = tuple(self._machine(i + 1, "supernode", i) for i in range(supernodes))

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The SuperLink's VM first."""
        return self.superlink, *self.supernodes

    @property
    def control_port(self) -> int:
        """Loopback port of the Control API."""
        return self.base_port + 3

    @property
    def proxied(self) -> bool:
        """Return whether HAProxy stands in front of the SuperLink."""
        return flower_versions.band(self.version).proxied

    @property
    def onegate_url(self) -> str:
        """Where the pretended OneGate listens."""
        return f"http://127.0.0.1:{self.base_port}"

    def up(self) -> None:
        """Bring everything to READY, in OneFlow's order. Raises SandboxError."""
        self.start_onegate()
        self._say("SuperLink: context written, agent started")
        self.deploy(self.superlink)
        self.wait_ready(self.superlink)
        self._say(f"SuperNodes: the SuperLink is ready, {len(self.supernodes)} VMs are deployed")
        for machine in self.supernodes:
            self.deploy(machine)
        for machine in self.supernodes:
            self.wait_ready(machine)

    def start_onegate(self) -> None:
        """Start the OneGate with the service declared and no VM in it yet."""
        self.directory.mkdir(parents=True, exist_ok=True)
        state = self.directory / "onegate.json"
        roles = [["superlink", 1], ["supernode", len(self.supernodes)]]
        declared = {"services": [{"id": SERVICE, "name": "flower", "roles": roles}], "vms": []}
        state.write_text(json.dumps(declared))
        state.with_suffix(".user_templates.json").unlink(missing_ok=True)
        program = [HERE / "onegate.py", "--state", state, "--port", self.base_port]
        self._start("onegate", [sys.executable, *map(str, program)])
        for _ in range(100):
            with contextlib.suppress(OSError):
                self.onegate("GET", "/sandbox/vms")
                self._check_alive()
                return
            time.sleep(0.05)
        raise SandboxError(f"the OneGate did not start: see {self._log('onegate')}")

    def _check_alive(self) -> None:
        """Refuse a port that another OneGate has: ours would have ended."""
        time.sleep(0.3)
        if self._processes["onegate"].poll() is not None:
            raise SandboxError(
                f"port {self.base_port} is taken by another program: end it (another sandbox: "
                "its own run --down), or use --base-port"
            )

    def deploy(self, machine: Machine) -> None:
        """Do what OneFlow and OpenNebula do: add the VM, hand it its context, boot it."""
        declared = {
            "id": machine.vmid,
            "name": machine.name,
            "role": machine.role,
            "service_id": SERVICE,
            "user_template": machine.attributes,
        }
        token = self.onegate("POST", "/sandbox/vms", declared)["token"]
        self.write_context(machine, machine.variables, token=token)
        self.start_agent(machine)

    def write_context(
        self, machine: Machine, variables: Mapping[str, str], *, token: str | None = None
    ) -> None:
        """Write the context files as one-contextd leaves them."""
        directory = machine.root / "run/one-context"
        directory.mkdir(parents=True, exist_ok=True)
        env = {"VMID": str(machine.vmid), "ONEGATE_ENDPOINT": self.onegate_url}
        whole = {**variables, **env, "TOKEN": "YES", "NETWORK": "YES", "TARGET": "hda"}
        if token is not None:
            lines = {"TOKENTXT": token, **env}
            text = "".join(f'export {k}="{v}"\n' for k, v in lines.items())
            replace(directory / "one_env", text)
        for stage in ("local", "online", "network"):
            replace(directory / f"context.sh.{stage}", context_text(whole))

    def start_agent(self, machine: Machine) -> None:
        """Start the agent of a VM, as its unit would; its root has a name of its log."""
        link = machine.root / "var/log/flower-agent/agent.log"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self._log(machine.prefix).absolute())
        self._start(machine.prefix, self.command(machine, "run"))
        if machine is self.superlink and PROXY not in self._processes:
            self.start_proxy()
            if machine.variables.get("FLOWER_GATEWAY") == "YES":
                self.start_gateway()

    def start_gateway(self) -> None:
        """Do what the package's units do: the gateway follows the file of the SuperLink's agent."""
        command = [sys.executable, str(HERE / "gateway_unit.py"), str(self.superlink.root)]
        self._start(GATEWAY, command)

    def stop_gateway(self, sign: int = signal.SIGTERM) -> None:
        """End it."""
        self._stop(GATEWAY, sign)

    def start_proxy(self) -> None:
        """Do what the package's units do: HAProxy follows the files of the SuperLink's agent."""
        command = [sys.executable, str(HERE / "proxy_unit.py"), str(self.superlink.root)]
        self._start(PROXY, command)

    def stop_proxy(self, sign: int = signal.SIGTERM) -> None:
        """End it, and HAProxy with it."""
        self._stop(PROXY, sign)

    def stop_agent(self, machine: Machine, sign: int = signal.SIGTERM) -> None:
        """End the agent of a VM; its containers stay."""
        self._stop(machine.prefix, sign)

    def command(self, machine: Machine, *arguments: str) -> list[str]:
        """Return the command line of ``flower-agent`` on that VM."""
        where = ["--root", str(machine.root), "--name", machine.prefix]
        return [sys.executable, "-m", "flower_agent", arguments[0], *where, *arguments[1:]]

    def agent(self, machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``flower-agent`` on that VM."""
        command = self.command(machine, *arguments)
        return subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=120, cwd=REPOSITORY
        )

    def status(self, machine: Machine) -> dict[str, Any]:
        """Return the status document of a VM's agent; empty before there is one."""
        path = machine.root / "run/flower-agent/status.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def wait_ready(self, machine: Machine, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until OneFlow would see the VM ready, telling each phase. Raises SandboxError."""
        begin, told = time.monotonic(), ""
        while time.monotonic() < begin + timeout_s:
            found = self.status(machine)
            error = found.get("error") or {}
            now = f"{found.get('state')} {found.get('phase')} {error.get('code')}"
            if now != told:
                reason = f" ({error['code']}: {error['message']})" if error else ""
                took = time.monotonic() - begin
                phase = f", phase {found['phase']}" if found.get("phase") else ""
                state = found.get("state", "booting")
                self._say(f"  {took:5.1f} s  {machine.name}: {state}{phase}{reason}")
                told = now
            if self.gate_open(machine) and found.get("state") == "ready":
                return
            process = self._processes.get(machine.prefix)
            if process is not None and process.poll() is not None:
                raise SandboxError(f"the agent ended: see {self._log(machine.prefix)}")
            time.sleep(0.1)
        raise SandboxError(
            f"{machine.name} is not ready after {timeout_s:.0f} s: {self.status(machine)}"
        )

    def connected(self, timeout_s: float = 60.0) -> int:
        """Return how many SuperNodes the SuperLink's agent counts, once it counts them all."""
        end, wanted = time.monotonic() + timeout_s, len(self.supernodes)
        while True:
            found = int(self.status(self.superlink).get("nodes") or 0)
            if found >= wanted or time.monotonic() > end:
                return found
            time.sleep(0.5)

    def gate_open(self, machine: Machine) -> bool:
        """Return whether OneFlow's READY gate of that VM is open."""
        return bool(self.onegate("GET", "/sandbox/vms")[str(machine.vmid)]["gate_open"])

    def attributes(self, machine: Machine) -> dict[str, str]:
        """Return what OneGate knows of a VM."""
        return dict(self.onegate("GET", "/sandbox/vms")[str(machine.vmid)]["attributes"])

    def onegate(self, method: str, path: str, body: Any = None) -> Any:
        """Call the OneGate's own paths below /sandbox/."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.onegate_url + path, data=data, method=method)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def submit(self, config: str = "") -> Iterator[str]:
        """Submit the reference app with the image's own ``flwr``; yield its output line by line.

        Raises SandboxError when the CLI fails or no end comes.
        """
        work = self._submission()
        name = f"{self._name}-flwr-run"
        command = ["docker", "run", "--rm", "--name", name, "--network", "host"]
        environment = {
            "FLWR_HOME": "/app/work/home",
            **dict(flower_versions.environment(self.version, debug=False)),
        }
        for variable, value in environment.items():
            command += ["-e", f"{variable}={value}"]
        if not is_ip(self.control_host):
            command += ["--add-host", f"{self.control_host}:127.0.0.1"]
        command += ["-v", f"{work}:/app/work", "-w", "/app/work/app"]
        command += [
            "--entrypoint",
            "flwr",
            flower_versions.image("flwr", "superexec", self.version),
        ]
        command += ["run", ".", "sandbox", "--stream"]
        command += ["--run-config", config] if config else []
        subprocess.run(["docker", "rm", "-f", name], check=False, capture_output=True, timeout=60)
        end = time.monotonic() + RUN_TIMEOUT_S
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                for line in process.stdout or ():
                    yield re.sub(r"\x1b\[[0-9;]*m", "", line.decode("utf-8", "replace")).rstrip()
                    if time.monotonic() > end:
                        raise SandboxError(f"the run did not end within {RUN_TIMEOUT_S:.0f} s")
                if process.wait(30) != 0:
                    raise SandboxError(f"flwr run ended with {process.returncode}")
            finally:
                process.kill()

    def _submission(self) -> pathlib.Path:
        """Return a directory with the app and with what ``flwr`` must know of the SuperLink."""
        work = self.directory / "submit"
        shutil.rmtree(work, ignore_errors=True)
        app = work / "app"
        shutil.copytree(self._app, app, ignore=shutil.ignore_patterns("__pycache__"))
        tls = self.superlink.root / "var/lib/flower-agent/tls"
        shutil.copy((tls / "loopback" if self.proxied else tls) / "ca.crt", work / "ca.crt")
        host = "127.0.0.1" if self.proxied else self.control_host
        told = f'address = "{host}:{self.control_port}"\nroot-certificates = '
        if self.version.release < flower_versions.CONFIG_TOML_SINCE:
            with (app / "pyproject.toml").open("a") as file:
                file.write(f'\n[tool.flwr.federations.sandbox]\n{told}"../ca.crt"\n')
        else:
            (work / "home").mkdir()
            config = f'[superlink.sandbox]\n{told}"/app/work/ca.crt"\n'
            (work / "home" / "config.toml").write_text(config)
        for path in (work, *work.rglob("*")):
            os.chown(path, flower_versions.UID, flower_versions.UID)
        return work

    def down(self) -> None:
        """End the agents and the OneGate, remove the containers; the directory stays."""
        for machine in self.machines:
            self._stop(machine.prefix)
            self.agent(machine, "down")
        self.stop_gateway()
        self.stop_proxy()
        self._stop("onegate")

    def _machine(self, index: int, role: str, number: int) -> Machine:
        port = self.base_port + index * PORTS_A_VM
        name = f"{role}_{number}_(service_{SERVICE})"
        booted = oneflow.boot(self._templates[role], name=name)
        variables = {
            **booted.context,
            "FLOWER_HEALTH_PORT": str(port + 7),
            "ETH0_IP": "127.0.0.1",
            **self._common,
        }
        if role == "superlink":
            variables |= {
                "FLOWER_ADDRESS": "127.0.0.1",
                "FLOWER_SERVERAPPIO_PORT": str(port + 1),
                "FLOWER_FLEET_PORT": str(port + 2),
                "FLOWER_CONTROL_ADDRESS": f"127.0.0.1:{self.control_port}",
            }
        else:
            variables |= {"FLOWER_CLIENTAPPIO_PORT": str(port + 4)}
        short = role if role == "superlink" else f"{role}-{number}"
        return Machine(
            vmid=FIRST_VMID + index,
            name=name,
            role=role,
            root=self.directory / short,
            prefix=f"{self._name}-{short}",
            variables=variables,
            attributes=booted.attributes,
        )

    def _log(self, name: str) -> pathlib.Path:
        return self.directory / f"{name}.log"

    def _pid(self, name: str) -> pathlib.Path:
        return self.directory / f"{name}.pid"

    def _start(self, name: str, command: list[str]) -> None:
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env=self._environment,
                start_new_session=True,
            )
        self._processes[name] = process
        self._pid(name).write_text(str(process.pid))

    def _stop(self, name: str, sign: int = signal.SIGTERM) -> None:
        """End a process of this object, or of the one that wrote the pid file."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(sign)
            process.wait(10)
        elif self._pid(name).exists():
            pid = int(self._pid(name).read_text())
            command = pathlib.Path(f"/proc/{pid}/cmdline")
            ours = command.exists() and str(self.directory).encode() in command.read_bytes()
            if ours:
                os.kill(pid, sign)
                for _ in range(100):
                    if not command.exists():
                        break
                    time.sleep(0.05)
        self._pid(name).unlink(missing_ok=True)


def deployable() -> dict[str, str]:
    """Return for each role the text with which OneFlow would ask for its VMs, inputs left empty."""
    cloud = vm_templates.Cloud(network="private")
    kinds = {kind.name: vm_templates.attributes(kind, cloud) for kind in vm_templates.KINDS}
    service = service_template.service({role: number for number, role in enumerate(kinds)}, 0)
    values = service_template.values(service)["user_inputs_values"]
    oneflow.check(service, values)
    more = oneflow.contents(service, values, {service_template.NETWORK: "0"})
    return {role: oneflow.raw(kinds[role], more[role]) for role in service_template.ROLES}


def context_text(variables: Mapping[str, str]) -> str:
    """Return a context.sh as oned writes it: sorted, in single quotes."""
    lines = ["# Context variables generated by OpenNebula"]
    for name, value in sorted(variables.items()):
        quoted = value.replace("'", "'\\''")
        lines.append(f"{name}='{quoted}'")
    return "\n".join(lines) + "\n"


def replace(path: pathlib.Path, text: str) -> None:
    """Write a file of the context: 0400, whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.chmod(0o400)
    temporary.replace(path)


def main() -> int:
    """Run the main job; return its exit code."""
    parser = argparse.ArgumentParser("contrib/sandbox/run", description=__doc__)
    parser.add_argument("--directory", type=pathlib.Path, default=REPOSITORY / "build" / "sandbox")
    parser.add_argument("--keep", action="store_true", help="leave it running at the end")
    parser.add_argument("--down", action="store_true", help="take down what --keep left")
    parser.add_argument("--base-port", type=int, default=BASE_PORT)
    options = parser.parse_args()
    federation = Federation(options.directory.resolve(), base_port=options.base_port)
    if options.down:
        federation.down()
        print("The federation is down.")
        return 0
    lock = only_one(options.directory)
    federation.down()  # what a run that was cut off may have left
    shutil.rmtree(federation.directory, ignore_errors=True)
    try:
        federation.up()
        accuracy = show_run(federation)
        kept = show_outputs(federation)
        show_status(federation)
    except (SandboxError, OSError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    finally:
        if not options.keep:
            federation.down()
        lock.close()
    where = f"--root {federation.superlink.root} --name {federation.superlink.prefix}"
    state = "it runs on" if options.keep else "federation taken down"
    print(f"\n{state}; accuracy {accuracy}; model, log and metrics in {kept}")
    if options.keep:
        print(f"Look at it: build/venv/bin/flower-agent status {where}")
        print(f"Fetch the model: build/venv/bin/flower-agent runs {where} fetch {kept.name}")
        print(f"Take it down: {HERE.relative_to(REPOSITORY)}/run --down")
    return 0


def only_one(directory: pathlib.Path) -> TextIO:
    """Return the lock of the sandbox of this directory; two runs would take each other down."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = directory.with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"FAILED: another run uses {directory}; wait for its end, or use --directory")
    return lock


def show_run(federation: Federation) -> str:
    """Submit the app and show its rounds; return the accuracy that the last line tells."""
    print("\nRun: the reference app is submitted")
    seen = []
    for line in federation.submit():
        match = re.search(r"(round \d+ of \d+: .*|finished: .*)", line)
        if match:
            seen.append(match[1])
            print(f"  {match[1]}")
    if not any(line.startswith("finished") for line in seen):
        raise SandboxError("the run did not say that it finished")
    return seen[-1].rpartition("accuracy ")[2]


def show_outputs(federation: Federation) -> pathlib.Path:
    """Show what the run left, once the agent keeps it; return its directory."""
    runs = federation.superlink.root / "var/lib/flower-agent/runs"
    end = time.monotonic() + READY_TIMEOUT_S
    while (
        not (found := sorted(runs.glob("*/outputs.json")))
        or not found[0].with_name("run.json").exists()
    ):
        if time.monotonic() > end:
            raise SandboxError(f"the run's outputs are not in {runs}")
        time.sleep(0.2)
    run = found[0].parent
    for arguments in (("runs",), ("runs", "show", run.name)):
        print(f"\n$ flower-agent {' '.join(arguments)}      # on {federation.superlink.name}")
        print(federation.agent(federation.superlink, *arguments).stdout.rstrip())
    return run


def show_status(federation: Federation) -> None:
    """Print ``flower-agent status`` of each VM."""
    for machine in federation.machines:
        print(f"\n$ flower-agent status      # on {machine.name}")
        print(federation.agent(machine, "status").stdout.rstrip())


if __name__ == "__main__":
    sys.exit(main())
