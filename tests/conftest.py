"""Lets tests import the doubles of the sandbox, and finds the Docker Engine."""

import http.client
import os
import signal
import socket
import sys
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("sandbox", "templates", "app", "image", "reference")
sys.path[:0] = [*(str(ROOT / "contrib" / name) for name in PLACES), str(ROOT / "tests/bench")]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background job
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that programs can be interrupted

DOCKER_SOCKET = "/var/run/docker.sock"
ALL_MUST_RUN = bool(os.environ.get("CI") or os.environ.get("FLOWER_AGENT_TESTS_REQUIRE_ALL"))
START_IT = "run contrib/sandbox/engine.sh"


def pytest_collection_modifyitems(items):
    """Mark what Hypothesis feeds, so that it can run again and again with other inputs."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("fuzz")


def pytest_sessionfinish(session):
    """Where everything must run, a test that was skipped for any reason fails the session."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if ALL_MUST_RUN and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def missing():
    """Skips a test for want of something; where everything must be there, fails it."""

    def give_up(what):
        if ALL_MUST_RUN:
            pytest.fail(what, pytrace=False)
        pytest.skip(what)

    return give_up


@pytest.fixture(scope="session")
def docker_url(missing):
    """The URL of this machine's Docker Engine; without one the test is skipped, in CI it fails."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        try:
            connection.connect(DOCKER_SOCKET)
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            status = answer.status
            answer.close()
        except (OSError, http.client.HTTPException) as error:
            status = error
    if status != http.client.OK:
        missing(f"no Docker Engine at {DOCKER_SOCKET} ({status}); {START_IT}")
    return f"unix://{DOCKER_SOCKET}"
