"""What ends the loop's rest between two turns. Each rest here would last an hour."""

import socket
import threading

import endpoints
import pytest

from flower_agent.agent.assembly import Options
from flower_agent.agent.loop import Agent
from flower_agent.paths import Paths

HOUR_S = 3600.0


class Resting:
    """An agent that waits for its next turn."""

    def __init__(self, root):
        self.agent = Agent(Options(paths=Paths(root)))
        self.agent._intake.read()
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self.agent._rest, args=(HOUR_S, self.stop))

    def begin(self, opening=None):
        self.agent._opening = opening
        self._thread.start()

    def ends(self):
        self._thread.join(30)
        return not self._thread.is_alive()

    def lasts(self):
        self._thread.join(0.2)
        return self._thread.is_alive()


@pytest.fixture
def resting(tmp_path):
    made = Resting(tmp_path)
    yield made
    made.stop.set()
    made.agent.wake()


def test_an_event_ends_it(resting):
    resting.begin()
    assert resting.lasts()
    resting.agent.wake()
    assert resting.ends()


def test_a_changed_context_ends_it(resting, tmp_path):
    resting.begin()
    assert resting.lasts()
    directory = tmp_path / "run/one-context"
    directory.mkdir(parents=True)
    (directory / "context.sh.network").write_text("FLOWER_ROLE='server'\n")
    assert resting.ends()


def test_the_port_that_a_container_opens_ends_it(resting):
    address = endpoints.closed_port()
    resting.begin(address)
    assert resting.lasts()
    with socket.create_server((address.host, address.port)):
        assert resting.ends()
