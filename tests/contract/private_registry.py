"""A real registry that wants a login."""

import contextlib
import http.client
import http.server
import json
import socket
import subprocess
import uuid
from typing import NamedTuple

import docker
from real_engine import load_image, until

USER, PASSWORD = "agent", "open sesame 42"


HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuZFjH57Rl3EXSetbREE0bqBhcUkJQP6u\n"
"""What ``htpasswd -nB agent`` makes of the password; registries take bcrypt only."""


class PrivateRegistry:
    """Debian's docker-registry on a port of loopback, where Docker allows plain HTTP."""

    def __init__(self, folder):
        self._folder = folder
        self.port = closed_port()
        self.host = f"127.0.0.1:{self.port}"
        self._process = None
        (folder / "htpasswd").write_text(HTPASSWD)
        settings = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.host},
            "auth": {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}},
        }
        (folder / "config.yml").write_text(json.dumps(settings))

    def up(self):
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self._folder / "config.yml")],
                stdout=log,
                stderr=log,
            )
        assert until(self._answers, 20), (self._folder / "log").read_text()

    def down(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def ask(self, method, path, headers):
        """Return what the registry answers to a request."""
        wanted = ("Authorization", "Accept")
        with contextlib.closing(http.client.HTTPConnection(self.host, timeout=5)) as connection:
            sent = {name: headers[name] for name in wanted if name in headers}
            connection.request(method, path, headers=sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())

    def _answers(self):
        try:
            return self.ask("GET", "/v2/", {}).status == http.HTTPStatus.UNAUTHORIZED
        except OSError:
            return False


class Answer(NamedTuple):
    status: int
    headers: dict
    body: bytes


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def clear(api, host):
    """Take all images of a registry away from this Engine."""
    for image in api.images():
        for name in (*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())):
            if name.startswith(f"{host}/"):
                # A digest goes with its image's last tag.
                with contextlib.suppress(docker.errors.ImageNotFound):
                    api.remove_image(name)


def publish(api, reference):
    """Let the tag be a new image in the registry, which is not here; return its digest."""
    load_image(api, reference, {"/content": uuid.uuid4().bytes})
    repository, _, tag = reference.rpartition(":")
    auth = {"username": USER, "password": PASSWORD}
    events = list(api.push(repository, tag=tag, auth_config=auth, stream=True, decode=True))
    digests = [event["aux"]["Digest"] for event in events if "aux" in event]
    assert digests, events
    clear(api, reference.partition("/")[0])
    return digests[0]
