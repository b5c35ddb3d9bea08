"""Stock ``flwr`` of PyPI through HAProxy and the gateway, before PyPI's own SuperLink.

No container and no change: each version is installed into an environment of its own, once.
"""

import contextlib
import datetime
import os
import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time
import venv

import pytest
from gateways import PASSWORD, RunningGateway

from flower_agent.commands import accounts
from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Transport
from flower_agent.gateway.gateway_config import read_config
from flower_agent.model.address import Address
from flower_agent.proxy import gateway_frontend
from flower_agent.proxy.gateway_frontend import GatewayFrontend
from flower_agent.tls import own_ca

LONG = pytest.mark.long
VERSIONS = ["1.42.0", *(pytest.param(v, marks=LONG) for v in (
    "1.23.0", "1.25.0", "1.30.0", "1.36.0", "1.39.0"))]  # fmt: skip
BUILD = pathlib.Path(__file__).parents[2] / "build"
HOST = "127.0.0.1"
WAIT_S = 180
APP = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "hello"
version = "1.0.0"
description = "Says hello."
license = "Apache-2.0"
dependencies = ["flwr>=1.23"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "hello.server_app:app"
clientapp = "hello.client_app:app"
[tool.flwr.app.config]
""",
    "hello/__init__.py": "",
    "hello/client_app.py": "from flwr.clientapp import ClientApp\n\napp = ClientApp()\n",
    "hello/server_app.py": """
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print("hello from the ServerApp")
""",
}


@pytest.fixture(scope="module", params=VERSIONS)
def programs(request, missing):
    """The folder with ``flwr`` and ``flower-superlink`` of one version."""
    folder = BUILD / f"flwr-{request.param}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        install = [folder / "bin/pip", "install", "-q", f"flwr=={request.param}"]
        done = subprocess.run(install, check=False, capture_output=True, text=True, timeout=600)
        if done.returncode:
            missing(f"flwr {request.param} cannot be fetched: {done.stderr[-300:]}")
        (folder / "complete").touch()
    return request.param, folder / "bin"


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class Laptop:
    """A SuperLink with its gateway, and somebody's machine with ``flwr``."""

    def __init__(self, version, programs, directory):
        self.version, self._programs, self.directory = version, programs, directory
        self._band = flower_versions.band(flower_versions.parse_version(version))
        self.fleet, self.control, self.appio, self.outside = free_ports(4)
        self.environment = {
            **os.environ, "HOME": str(directory), "FLWR_HOME": str(directory / "home"),
            "PATH": f"{programs}:{os.environ['PATH']}", "BROWSER": "true",
            "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        self.environment.pop("PYTHONPATH", None)
        now = datetime.datetime.now(datetime.UTC)
        ca = own_ca.make_ca(now)
        leaf = own_ca.make_leaf(ca, {"localhost", HOST}, now)
        for name, text in {
            "ca.crt": ca.certificate_pem, "server.crt": leaf.certificate_pem,
            "server.key": leaf.key.reveal(),
            "server.pem": leaf.certificate_pem + leaf.key.reveal(),
        }.items():  # fmt: skip
            (directory / name).write_text(text)
        self.gateway = RunningGateway(
            directory, self._band.control, Address(HOST, self.control),
            url=f"https://localhost:{self.outside}", version=version, ca=directory / "ca.crt",
        )  # fmt: skip

    def superlink(self):
        tls = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt",
               "--ssl-keyfile", "server.key"]  # fmt: skip
        if self._band.control is Transport.HTTP:
            places = ["--host", HOST, "--port", str(self.control)]
        else:
            places = ["--fleet-api-address", f"{HOST}:{self.fleet}",
                      "--control-api-address", f"{HOST}:{self.control}"]  # fmt: skip
            if flower_versions.parse_version(self.version).release < (1, 35):
                places += ["--serverappio-api-address", f"{HOST}:{self.appio}"]
            else:
                places += ["--host", HOST, "--port", str(self.appio)]
        return [self._programs / "flower-superlink", *tls, *places]

    def haproxy(self):
        frontend = GatewayFrontend(
            listen=Address(HOST, self.outside), sockets=str(self.gateway.sockets),
            certificate_file=str(self.directory / "server.pem"),
        )  # fmt: skip
        (self.directory / "haproxy.cfg").write_text(gateway_frontend.config(None, frontend))
        return ["/usr/sbin/haproxy", "-f", str(self.directory / "haproxy.cfg")]

    def lay_out(self):
        """Write the app, and what `accounts snippet` says."""
        app = self.directory / "app"
        (app / "hello").mkdir(parents=True)
        (self.directory / "home").mkdir(exist_ok=True)
        for name, text in APP.items():
            (app / name).write_text(text)
        said = accounts.snippet_text(read_config(self.gateway.config))
        table = re.search(r"^\[.*?(?=\n\n)", said, re.DOTALL | re.MULTILINE)[0]
        table = table.replace('"ca.crt"', f'"{self.directory}/ca.crt"') + "\n"
        if flower_versions.parse_version(self.version).release < flower_versions.CONFIG_TOML_SINCE:
            with (app / "pyproject.toml").open("a") as file:
                file.write(table)
            return [str(app), "federation"]
        (self.directory / "home/config.toml").write_text(table)
        return ["federation"]

    def flwr(self, *arguments):
        done = subprocess.run(
            [self._programs / "flwr", *arguments], check=False, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, env=self.environment, cwd=self.directory, timeout=WAIT_S,
        )  # fmt: skip
        return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)

    def log_in(self, where, name):
        said = []
        with subprocess.Popen(
            [self._programs / "flwr", "login", *where], stdout=subprocess.PIPE, text=True,
            stderr=subprocess.STDOUT, env=self.environment, cwd=self.directory,
        ) as client:  # fmt: skip
            reader = threading.Thread(target=lambda: said.extend(client.stdout))
            reader.start()
            try:
                code = until(lambda: _code("".join("".join(said).split())))
                cookie = self.gateway.sign_in(name)
                form = {"code": code, "token": self.gateway.form_token(cookie, code)}
                form["answer"] = "allow"
                assert self.gateway.ask("POST", "/approve", form, cookie=cookie)[0] == 200
                client.wait(WAIT_S)
            finally:
                client.kill()
            reader.join()
        return "".join(said)


def _code(text):
    found = re.search(r"/login\?code=([A-Z]{4}-[A-Z]{4})", text)
    return found and found[1]


def until(true):
    ends = time.monotonic() + WAIT_S
    while not (found := true()):
        assert time.monotonic() < ends
        time.sleep(0.2)
    return found


def listening(port):
    with socket.socket() as tried:
        return tried.connect_ex((HOST, port)) == 0


@pytest.fixture(scope="module")
def laptop(programs, missing, tmp_path_factory):
    if not pathlib.Path("/usr/sbin/haproxy").exists():
        missing("haproxy is needed: apt-get install haproxy")
    made = Laptop(*programs, tmp_path_factory.mktemp("stock"))
    made.gateway.add_accounts()
    with contextlib.ExitStack() as ends:
        for name, command in (("superlink", made.superlink()), ("haproxy", made.haproxy())):
            log = ends.enter_context((made.directory / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=made.environment, cwd=made.directory
            )
            ends.callback(process.wait, 30)
            ends.callback(process.terminate)
        until(lambda: listening(made.control) and listening(made.outside))
        made.gateway.start()
        ends.callback(made.gateway.stop)
        yield made


def test_login_run_log_pull_stop(laptop):
    where = laptop.lay_out()
    assert "flwr login" in laptop.flwr("ls", *where)
    assert "Login successful" in laptop.log_in(where, "viewer")
    app = str(laptop.directory / "app")
    assert "viewer" in laptop.flwr("run", app, "federation")
    assert "Login successful" in laptop.log_in(where, "submitter")
    said = laptop.flwr("run", app, "federation", "--stream")
    run = re.search(r"started run (\d+)", said)[1]
    assert "hello from the ServerApp" in said
    assert run[:6] in laptop.flwr("ls", *where)
    assert "hello from the ServerApp" in laptop.flwr("log", run, *where, "--show")
    assert "Node ID" in laptop.flwr("supernode", "list", *where)
    by_name = ["--run-id"] if len(where) > 1 and laptop.version < "1.26" else []
    pulled = "".join(laptop.flwr("pull", *by_name, run, *where).split())
    assert f"{laptop.gateway.url}/outputs/" in pulled
    assert "already finished" in laptop.flwr("stop", run, *where)
    assert PASSWORD not in laptop.gateway.log()
