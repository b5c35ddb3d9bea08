"""Pulls from a private registry, a real one, and from registries that answer badly."""

import contextlib
import http.client
import http.server
import json
import shutil
import threading
import uuid

import pytest
from private_registry import (
    PASSWORD,
    USER,
    Answer,
    PrivateRegistry,
    clear,
    publish,
)
from real_engine import client

from flower_agent.commands.doctor_checks import Inspector
from flower_agent.docker.client import Engine
from flower_agent.docker.image_references import Registry, pinned
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret

pytestmark = pytest.mark.engine


RIGHT = Registry(USER, Secret(PASSWORD))
WRONG = Registry(USER, Secret("close sesame 42"))
REPOSITORY = "flwr/superlink"


@pytest.fixture(scope="module")
def api(docker_url):
    with client(docker_url) as api:
        yield api


@pytest.fixture(scope="module")
def registry(missing, tmp_path_factory):
    if shutil.which("docker-registry") is None:
        missing("no docker-registry; run: apt-get install docker-registry")
    registry = PrivateRegistry(tmp_path_factory.mktemp("registry"))
    try:
        registry.up()
        yield registry
    finally:
        registry.down()


@pytest.fixture
def engine(docker_url):
    with contextlib.closing(Engine("test", url=docker_url)) as engine:
        yield engine


@pytest.fixture
def reference(registry, api):
    """A tag of the test's own in the registry; what it brought here goes away with the test."""
    yield f"{registry.host}/{REPOSITORY}:{uuid.uuid4().hex[:8]}"
    clear(api, registry.host)


@pytest.fixture
def published(api, reference):
    """A reference that the registry has and this Engine has not."""
    publish(api, reference)
    return reference


def refusal(engine, reference, **wishes):
    """Return the error of a pull, and hold that it shows no password."""
    with pytest.raises(AgentError) as caught:
        engine.pull(reference, **wishes)
    for registry in (RIGHT, WRONG):
        assert registry.password.reveal() not in f"{caught.value}{caught.value.__cause__}"
    assert reference in caught.value.finding.message
    return caught.value


class Meddler:
    """Stands between Docker and the registry and spoils the answers."""

    def __init__(self, registry):
        meddler = self
        self.spoils = "nothing"
        """Which paths, by a part of them."""

        self.spoil = lambda honest: honest

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                answer = registry.ask(self.command, self.path, self.headers)
                if meddler.spoils in self.path:
                    answer = meddler.spoil(answer)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)

            def do_HEAD(self):
                self.do_GET()

        self._registry = registry
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def through(self, reference):
        """Return the reference by which Docker comes here."""
        return reference.replace(self._registry.host, self.host)

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def meddler(api, registry):
    with contextlib.closing(Meddler(registry)) as meddler:
        yield meddler
    clear(api, meddler.host)


def half(answer):
    return answer._replace(body=answer.body[: len(answer.body) // 2])


def error(status, code, message):
    """Return an error as registries write it."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    kind = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return Answer(status, kind, body)


def test_an_image_is_pulled_and_its_digest_known(api, engine, reference):
    digest = publish(api, reference)
    assert engine.image(reference) is None
    said = []
    engine.pull(reference, registry=RIGHT, progress=said.append)
    name = pinned(reference, engine.image(reference))
    assert name == f"{reference.rpartition(':')[0]}@{digest}"
    assert any("Download" in text for text in said)
    assert PASSWORD not in "".join(said)


def test_a_wrong_password_is_a_denial_that_does_not_show_it(engine, published):
    denial = refusal(engine, published, registry=WRONG)
    assert (denial.finding.code, denial.retryable) == ("image.denied", False)
    assert "unauthorized" in denial.finding.message


def test_without_credentials_a_private_image_is_denied(engine, published):
    denial = refusal(engine, published)
    assert (denial.finding.code, denial.retryable) == ("image.denied", False)


def test_a_tag_that_does_not_exist_is_denied(engine, published):
    denial = refusal(engine, f"{published}-other", registry=RIGHT)
    assert (denial.finding.code, denial.retryable) == ("image.denied", False)
    assert "not found" in denial.finding.message


def test_a_digest_that_does_not_exist_is_denied(engine, published):
    denial = refusal(engine, published, digest=f"sha256:{'0' * 64}", registry=RIGHT)
    assert (denial.finding.code, denial.retryable) == ("image.denied", False)


def test_a_registry_that_is_away_may_come_back(engine, registry, published):
    registry.down()
    try:
        failure = refusal(engine, published, registry=RIGHT)
        assert (failure.finding.code, failure.retryable) == ("image.pull", True)
        assert "connection refused" in failure.finding.message
    finally:
        registry.up()
    engine.pull(published, registry=RIGHT)


def test_a_registry_whose_name_is_unknown_may_come_back(engine):
    failure = refusal(engine, "registry.invalid/flwr/superlink:1.25.0", registry=RIGHT)
    assert (failure.finding.code, failure.retryable) == ("image.pull", True)


def test_a_tag_that_moved_gives_the_recorded_image_by_its_digest(api, engine, reference):
    old = publish(api, reference)
    new = publish(api, reference)
    assert old != new
    engine.pull(reference, digest=old, registry=RIGHT)
    image = engine.image(reference)
    assert pinned(reference, image, old) == f"{reference.rpartition(':')[0]}@{old}"
    assert pinned(reference, image, new) is None


def test_a_tag_is_set_back_when_another_image_has_it(api, engine, reference):
    old = publish(api, reference)
    new = publish(api, reference)
    engine.pull(reference, registry=RIGHT)
    assert pinned(reference, engine.image(reference), new)
    engine.pull(reference, digest=old, registry=RIGHT)
    assert pinned(reference, engine.image(reference), old)


def test_an_image_that_is_here_may_be_pulled_again(api, engine, reference):
    digest = publish(api, reference)
    engine.pull(reference, registry=RIGHT)
    engine.pull(reference, digest=digest, registry=RIGHT)
    assert pinned(reference, engine.image(reference), digest)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(401, "UNAUTHORIZED", "authentication required"), "image.denied"),
        (error(403, "DENIED", "requested access to the resource is denied"), "image.denied"),
        (error(404, "MANIFEST_UNKNOWN", "manifest unknown"), "image.denied"),
        (error(404, "NAME_UNKNOWN", "repository name not known to registry"), "image.denied"),
        (error(429, "TOOMANYREQUESTS", "You have reached your pull rate limit"), "image.pull"),
        (error(503, "UNAVAILABLE", "try later"), "image.pull"),
        (Answer(502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>"), "image.pull"),
        (Answer(200, {"Content-Type": "text/html"}, b"<html>Log in</html>"), "image.pull"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else value,
)
def test_what_a_registry_answers_tells_whether_it_may_pass(
    engine, meddler, published, answer, code
):
    meddler.spoils, meddler.spoil = "/manifests/", lambda _: answer
    failure = refusal(engine, meddler.through(published), registry=RIGHT)
    assert failure.finding.code == code
    assert failure.retryable == (code == "image.pull")


def test_a_pull_that_was_cut_off_goes_on_next_time(engine, meddler, published):
    # Docker itself tries a cut layer six times, for 75 s: here the manifest is cut.
    meddler.spoils, meddler.spoil = "/manifests/", half
    failure = refusal(engine, meddler.through(published), registry=RIGHT)
    assert (failure.finding.code, failure.retryable) == ("image.pull", True)
    assert "unexpected EOF" in failure.finding.message
    meddler.spoils = "nothing"
    engine.pull(meddler.through(published), registry=RIGHT)


def test_a_registry_is_asked_as_a_pull_would_and_nothing_is_pulled(docker_url, engine, published):
    with contextlib.closing(Inspector("test", url=docker_url)) as inspector:
        inspector.ask_registry(published, RIGHT)
        for login, code in ((WRONG, "image.denied"), (None, "image.denied")):
            with pytest.raises(AgentError) as caught:
                inspector.ask_registry(published, login)
            assert caught.value.finding.code == code
            assert WRONG.password.reveal() not in str(caught.value)
        gone = f"{published.rpartition(':')[0]}:gone"
        with pytest.raises(AgentError) as caught:
            inspector.ask_registry(gone, RIGHT)
        assert caught.value.finding.code == "image.denied"
    assert engine.image(published) is None


def test_a_registry_that_is_away_is_told_when_it_is_asked(docker_url, registry, published):
    registry.down()
    try:
        with (
            contextlib.closing(Inspector("test", url=docker_url)) as inspector,
            pytest.raises(AgentError) as caught,
        ):
            inspector.ask_registry(published, RIGHT)
    finally:
        registry.up()
    assert caught.value.finding.code == "image.pull"
