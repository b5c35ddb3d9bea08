"""A gateway's process before a SuperLink, as clients see it behind HAProxy."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

import grpc

from flower_agent.config.account_roles import AccountRole
from flower_agent.config.flower_versions import Transport
from flower_agent.flower import wire
from flower_agent.gateway.accounts import Accounts
from flower_agent.gateway.control_methods import METHODS
from flower_agent.gateway.database import Database
from flower_agent.gateway.gateway_config import DATABASE_FILE

URL = "https://federation.example:9443"
PASSWORD = "correct horse battery"
PATHS = {method.name: method.path for method in METHODS}
START_S = 60
VERSIONS = {Transport.GRPC: "1.25.0", Transport.HTTP: "1.42.0"}


class Refusal(Exception):  # noqa: N818  # an answer
    """A status and its words."""

    def __init__(self, status, words):
        self.status, self.words = status, words
        super().__init__(status, words)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("gateway", timeout=30)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


class RunningGateway:
    """A gateway before the SuperLink at `control`; an account for each role."""

    def __init__(
        self, directory, transport, control, *, oidc=None, environment=None, url=URL,
        version="", ca=None,
    ):  # fmt: skip
        self.directory, self.transport = pathlib.Path(directory), transport
        self.state, self.sockets = self.directory / "state", self.directory / "sockets"
        for path in (self.state, self.sockets):
            path.mkdir(exist_ok=True)
        self.url = url
        self.config = self.directory / "gateway.json"
        said = {
            "version": version or VERSIONS[transport], "transport": str(transport),
            "control": str(control),
            "ca": ca and str(ca), "server_hostname": ca and "localhost", "url": url,
            "oidc": oidc,
        }  # fmt: skip
        self.config.write_text(json.dumps(said))
        self.agent = self.directory / "agent.sock"
        self.process = None
        self.environment = {**os.environ, **(environment or {})}

    def add_accounts(self):
        with contextlib.closing(Database(self.state / DATABASE_FILE)) as database:
            for role in AccountRole:
                Accounts(database).add(str(role), role, PASSWORD)

    def start(self):
        command = [
            sys.executable, "-m", "flower_agent.gateway.service", "--config", self.config,
            "--agent", self.agent, "--state", self.state, "--sockets", self.sockets,
        ]  # fmt: skip
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=self.environment)
        ends = time.monotonic() + START_S
        while time.monotonic() < ends:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/health")[0] == 200:
                    return self
            assert self.process.poll() is None, (self.directory / "log").read_text()
            time.sleep(0.1)
        raise AssertionError(f"silent for {START_S} s: {(self.directory / 'log').read_text()}")

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(30)

    def log(self):
        return (self.directory / "log").read_text()

    # -- a browser

    def ask(self, method, path, form=None, *, cookie="", origin=None, source="192.0.2.1", **more):
        """Return status, headers and text of a browser's request."""
        headers = {"X-Forwarded-For": source, **more}
        if cookie:
            headers["Cookie"] = cookie
        body = None
        if form is not None:
            body = urllib.parse.urlencode(form)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            if origin != "":
                headers["Origin"] = self.url if origin is None else origin
        with contextlib.closing(UnixConnection(self.sockets / "http.sock")) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            # Of several cookies the first is ours; a browser keeps all.
            seen = dict(reversed(response.getheaders()))
            return response.status, seen, response.read()

    def sign_in(self, name, password=PASSWORD, **more):
        """Return the cookie of a browser that signed in; raises Refusal."""
        form = {"name": name, "password": password, "code": ""}
        status, headers, text = self.ask("POST", "/sign-in", form, **more)
        if status != 303:
            raise Refusal(status, text.decode())
        return headers["set-cookie"].partition(";")[0]

    def form_token(self, cookie, code):
        _, _, text = self.ask("GET", f"/login?code={code}", cookie=cookie)
        found = re.search(r'name="token" value="([0-9a-f]{64})"', text.decode())
        return found and found[1]

    # -- flwr

    def call(self, name, body=b"", *, access="", refresh="", source="192.0.2.1"):
        """Return the reply to one Control call; raises Refusal."""
        if self.transport is Transport.GRPC:
            return self.call_grpc(name, body, access, refresh, source)[0]
        return self.call_http(PATHS.get(name, name), body, access, source)

    def call_http(self, path, body, access, source):
        headers = {"Content-Type": "application/protobuf", "X-Forwarded-For": source}
        if access:
            headers["Authorization"] = f"Bearer {access}"
        with contextlib.closing(UnixConnection(self.sockets / "http.sock")) as connection:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise Refusal(response.status, text.decode())
            return text

    def call_grpc(self, name, body, access, refresh, source):
        metadata = [("x-forwarded-for", source)]
        if access:
            metadata += [
                ("flwr-oidc-access-token", access), ("flwr-oidc-refresh-token", refresh or "none"),
            ]  # fmt: skip
        with self.channel() as channel:
            ask = channel.unary_unary(f"/flwr.proto.Control/{name}")
            try:
                reply, call = ask.with_call(body, timeout=30, metadata=metadata)
            except grpc.RpcError as error:
                raise Refusal(error.code().name, error.details()) from None
            return reply, dict(call.initial_metadata())

    def channel(self):
        return grpc.insecure_channel(
            f"unix:{self.sockets / 'grpc.sock'}", [("grpc.max_send_message_length", -1)]
        )

    def login(self, name):
        """Return the tokens of a ``flwr login`` as an account."""
        details = wire.decode(self.call("GetLoginDetails"))
        code = urllib.parse.parse_qs(urllib.parse.urlsplit(details.text(3)).query)["code"][0]
        cookie = self.sign_in(name)
        form = {"code": code, "token": self.form_token(cookie, code), "answer": "allow"}
        assert self.ask("POST", "/approve", form, cookie=cookie)[0] == 200
        tokens = wire.decode(self.call("GetAuthTokens", wire.encode((1, details.text(2)))))
        return tokens.text(1), tokens.text(2)
