"""A SuperNode that its SuperLink turns away waits; everything else that ends is a failure."""

import datetime
import pathlib
import random

import pytest

from flower_agent.docker.containers import Existing
from flower_agent.reconcile import restart_policy
from flower_agent.reconcile.exit_analysis import AGAIN_S, FIRST_AGAIN_S, ExitAnalysis
from flower_agent.reconcile.restart_policy import Trouble

NAME = "flower-supernode"
LOGS = pathlib.Path(__file__).parents[1] / "data" / "flower" / "logs"
START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)


class Engine:
    """An engine whose containers have one log."""

    def __init__(self, log):
        self.log, self.reads = log, 0

    def logs(self, name, *, tail):
        assert (name, tail) == (NAME, 30)
        self.reads += 1
        return "\n".join(self.log.splitlines()[-tail:])


class Container:
    """A container that ends again and again, and what is made of it."""

    def __init__(self, log, exit_code=1):
        text = (LOGS / f"{log}.log").read_text() if log else ""
        self.engine = Engine(text)
        self.ends = ExitAnalysis(self.engine, rng=random.Random(1))
        self.exit_code, self.now, self.troubles = exit_code, 0.0, {}

    def end(self):
        """End once more; return the seconds until it may be started again."""
        self.now += 20
        finished = START + datetime.timedelta(seconds=self.now)
        found = Existing(
            name=NAME,
            container_id="c",
            mine=True,
            status="exited",
            exit_code=self.exit_code,
            started_at=finished - datetime.timedelta(seconds=1),
            finished_at=finished,
        )
        new = restart_policy.count(self.troubles, (found,), now=self.now)[NAME]
        judged = self.ends.judge(found, self.troubles.get(NAME), new, self.now)
        self.troubles = {NAME: judged}
        return judged.not_before - self.now


@pytest.mark.parametrize("log", ["1.25.0-node-unregistered", "1.39.0-node-unregistered"])
def test_a_node_whose_key_is_not_known_is_tried_again_every_5_to_15_s_for_ever(log):
    container = Container(log)
    assert FIRST_AGAIN_S[0] <= container.end() <= FIRST_AGAIN_S[1]
    pauses = [container.end() for _ in range(200)]
    assert all(AGAIN_S[0] <= pause <= AGAIN_S[1] for pause in pauses)
    assert max(pauses) - min(pauses) > 8, "no jitter"
    assert container.troubles[NAME].failures == 0
    assert container.ends.waiting(NAME).error.finding.code == "enrol.waiting"
    assert container.ends.waiting(NAME).since == 20


def test_a_node_without_a_key_waits_too():
    container = Container("1.25.0-node-without-key")
    assert container.end() >= AGAIN_S[0]
    assert container.ends.waiting(NAME).error.finding.code == "enrol.mismatch"


def test_a_node_whose_last_connection_is_taken_for_alive_waits_too():
    container = Container("1.30.0-node-ghost")
    assert container.end() >= AGAIN_S[0]
    wait = container.ends.waiting(NAME)
    assert wait.finding("the key X is not known").code == "peer.ghost"
    assert "counts its last connection as active" in wait.finding("the key X is not known").message


@pytest.mark.parametrize("exit_code", [0, 143])
def test_one_that_the_agent_stopped_since_it_had_given_up_goes_on_waiting(exit_code):
    container = Container("1.36.0-node-unregistered")
    container.end()
    container.exit_code, container.engine.log = exit_code, "INFO : nothing said"
    assert container.end() >= AGAIN_S[0]
    assert container.troubles[NAME].failures == 0


@pytest.mark.parametrize("exit_code", [0, 1, 137, 143])
def test_any_other_end_is_a_failure(exit_code):
    container = Container("", exit_code)
    assert [container.end() for _ in range(3)] == [0, 10, 20]
    assert container.ends.waiting(NAME) is None


def test_a_kill_while_it_waits_is_a_failure():
    container = Container("1.25.0-node-unregistered")
    container.end()
    container.exit_code = 137
    assert container.end() == 0
    assert container.troubles[NAME].failures == 1


def test_a_wait_of_another_cause_begins_anew():
    container = Container("1.30.0-node-ghost")
    container.end()
    container.end()
    container.engine.log = (LOGS / "1.25.0-node-unregistered.log").read_text()
    container.end()
    wait = container.ends.waiting(NAME)
    assert (wait.error.finding.code, wait.since, wait.ends) == ("enrol.waiting", 60, 1)


def test_failures_before_the_wait_are_kept():
    container = Container("")
    container.end()
    container.engine.log = (LOGS / "1.25.0-node-unregistered.log").read_text()
    container.end()
    assert container.troubles[NAME].failures == 1


def test_a_killed_container_is_started_again_without_a_look_at_its_log():
    container = Container("1.25.0-node-unregistered", exit_code=137)
    assert container.end() == 0
    assert container.engine.reads == 0


def test_what_was_let_in_waits_no_more():
    container = Container("1.25.0-node-unregistered")
    container.end()
    container.ends.forget(NAME)
    assert container.ends.waiting(NAME) is None
    container.end()
    container.ends.forget()
    assert container.ends.waiting(NAME) is None


def test_the_status_says_the_same_all_the_while():
    container = Container("1.25.0-node-unregistered")
    container.end()
    wait = container.ends.waiting(NAME)
    assert wait.finding("the key X is not known").message == "the key X is not known"
    assert "does not know this node's key" in wait.finding("").message


def test_a_wait_leaves_the_count_of_failures():
    assert restart_policy.waits(None, Trouble(1, START, 5), not_before=9) == Trouble(0, START, 9)
    known = Trouble(4, None, 1)
    assert restart_policy.waits(known, Trouble(5, START, 5), not_before=9) == Trouble(4, START, 9)
