"""The user's Docker configuration has no say: what Docker is asked is what the daemon would ask."""

import contextlib
import http.server
import json
import socketserver
import threading

import pytest

from flower_agent.commands.doctor_checks import Inspector
from flower_agent.docker.image_references import Registry
from flower_agent.model.secret import Secret

IMAGE = "registry.example/flwr/superlink:1.25.0"
LOGIN = {"registry.example": {"auth": "cm9vdDpodW50ZXIy"}}
CONFIGS = {
    "a login": json.dumps({"auths": LOGIN}),
    "a store whose helper is missing": json.dumps({"credsStore": "no-such-helper"}),
    "a helper for this registry that is missing": json.dumps(
        {"credHelpers": {"registry.example": "no-such-helper"}}
    ),
    "a proxy": json.dumps({"proxies": {"default": {"httpProxy": "http://proxy:1"}}}),
    "a list": "[]",
    "a login that is none": json.dumps({"auths": {"registry.example": {"auth": "%"}}}),
    "nests": "[" * 50_000,
    "bytes": "\udcff",
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Docker's socket, as far as is asked here."""

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        body = {"ApiVersion": "1.41", "MinAPIVersion": "1.12"} if "version" in self.path else {}
        self.answer(json.dumps(body | {"Id": "sha256:" + "0" * 64, "RepoTags": []}).encode())

    def do_POST(self):
        self.server.seen.append((self.path, dict(self.headers)))
        self.answer(b'{"status": "pulled"}\n')

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "docker"

    def log_message(self, *_):
        """Say nothing on stderr."""


@pytest.fixture
def docker(tmp_path):
    """What listens as Docker, with all that it is asked."""
    server = socketserver.ThreadingUnixStreamServer(str(tmp_path / "docker.sock"), Handler)
    server.daemon_threads, server.seen = True, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with contextlib.closing(Inspector("x", url=f"unix://{tmp_path}/docker.sock")) as engine:
        server.engine = engine
        yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("by", ["HOME", "DOCKER_CONFIG"])
def test_the_users_docker_configuration_is_not_read(docker, tmp_path, monkeypatch, text, by):
    folder = tmp_path / ".docker"
    folder.mkdir()
    (folder / "config.json").write_text(text, errors="surrogateescape")
    monkeypatch.setenv("HOME", str(tmp_path))
    if by == "DOCKER_CONFIG":
        monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    docker.engine.ask_registry(IMAGE, None)
    docker.engine.pull(IMAGE)
    asked = [headers for path, headers in docker.seen if "version" not in path]
    assert len(asked) == 3
    assert not any("X-Registry-Auth" in headers for headers in asked)


def test_the_login_of_the_settings_is_sent(docker):
    docker.engine.pull(IMAGE, registry=Registry("robot", Secret("what")))
    assert any("X-Registry-Auth" in headers for _, headers in docker.seen)
