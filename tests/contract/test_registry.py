"""Pulls from a private registry, a real one, and from registries that answer badly."""

import contextlib
import http.client
import http.server
import json
import pathlib
import shutil
import socket
import subprocess
import threading
import uuid
from typing import NamedTuple

import docker
import pytest
from conftest import missing
from real_engine import client, load_image, until

from flower_agent.engine import Engine
from flower_agent.errors import AgentError
from flower_agent.images import Registry, pinned
from flower_agent.secret import Secret

pytestmark = pytest.mark.engine

USER, PASSWORD = "agent", "open sesame 42"
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuZFjH57Rl3EXSetbREE0bqBhcUkJQP6u\n"
"""What ``htpasswd -nB agent`` makes of the password; registries take bcrypt only."""

RIGHT = Registry(USER, Secret(PASSWORD))
WRONG = Registry(USER, Secret("close sesame 42"))
REPOSITORY = "flwr/superlink"


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


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    if shutil.which("docker-registry") is None:
        missing("no docker-registry; run: apt-get install docker-registry")
    registry = PrivateRegistry(tmp_path_factory.mktemp("registry"))
    registry.up()
    yield registry
    registry.down()


@pytest.fixture(scope="module")
def api(docker_url):
    with client(docker_url) as api:
        yield api


@pytest.fixture
def engine(docker_url):
    with contextlib.closing(Engine("test", url=docker_url)) as engine:
        yield engine


@pytest.fixture
def reference(registry, api):
    """A tag of the test's own in the registry; its images go away with the test."""
    reference = f"{registry.host}/{REPOSITORY}:{uuid.uuid4().hex[:8]}"
    yield reference
    forget(api, reference)


def forget(api, reference):
    """Take an image from this Engine, under each of its names."""
    with contextlib.suppress(docker.errors.ImageNotFound):
        image = api.inspect_image(reference)
        for name in (*image["RepoTags"], *image["RepoDigests"]):
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
    forget(api, reference)
    return digests[0]


def refusal(call, *args, **wishes):
    with pytest.raises(AgentError) as caught:
        call(*args, **wishes)
    assert PASSWORD not in str(caught.value)
    assert WRONG.password.reveal() not in str(caught.value)
    print(caught.value, caught.value.retryable)
    return caught.value


def test_an_image_is_pulled_and_its_digest_known(api, engine, reference):
    digest = publish(api, reference)
    assert engine.image(reference) is None
    said = []
    engine.pull(reference, registry=RIGHT, progress=said.append)
    name = pinned(reference, engine.image(reference))
    assert name == f"{reference.rpartition(':')[0]}@{digest}"
    assert any("Download" in text for text in said)
    assert PASSWORD not in "".join(said)



class Meddler:
    """Stands between Docker and the registry and spoils what `meddle` picks out."""

    def __init__(self, registry):
        meddler = self
        self.meddle = lambda path, answer: answer
        self.paths = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                meddler.paths.append(self.path)
                answer = meddler.meddle(self.path, registry.ask(self.command, self.path, self.headers))
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)

            do_HEAD = do_GET

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_a(api, engine, reference, registry):
    import time
    digest = publish(api, reference)
    refusal(engine.pull, reference, registry=WRONG)
    refusal(engine.pull, reference)
    refusal(engine.pull, reference+"x", registry=RIGHT)
    refusal(engine.pull, reference, registry=RIGHT, digest="sha256:"+"0"*64)
    refusal(engine.pull, f"127.0.0.1:{closed_port()}/flwr/superlink:1", registry=RIGHT)
    m = Meddler(registry)
    t = time.time()
    def cut(word):
        def meddle(path, answer):
            if word in path:
                return answer._replace(body=answer.body[:len(answer.body)//2])
            return answer
        return meddle
    m.meddle = cut("manifests")
    ref = reference.replace(registry.host, m.host)
    refusal(engine.pull, ref, registry=RIGHT)
    print(time.time()-t, m.paths)
    t = time.time()
    m.meddle = cut("blobs")
    refusal(engine.pull, ref, registry=RIGHT)
    print(time.time()-t, m.paths)
    m.close()
    assert 0
