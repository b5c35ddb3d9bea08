"""How a run ended, in truth."""

import pytest

from flower_agent.flower.control_messages import RunInfo, RunStatus
from flower_agent.runs import outcome, rounds
from flower_agent.runs.outcome import SERVERAPP, AppEnd, Outcome

LOG = """\
INFO :      [ROUND 1/2]
INFO :      aggregate_train: Received {0} results and {1} failures
{2}INFO :      aggregate_evaluate: Received {3} results and {4} failures
"""
REPLY = "INFO :      \t> Received error in reply from node 42: {}\n"
NO_AGE = REPLY.format("<class 'ValueError'>:<'no column 'age''>")


def run(sub_status, details=""):
    return RunInfo(run_id="7", status=RunStatus.FINISHED, sub_status=sub_status, details=details)


def completed(log):
    return outcome.of(run("completed"), rounds.follow(rounds.Progress(), log), None)


def test_a_run_that_goes_on_has_no_end():
    going = RunInfo(run_id="7", status=RunStatus.RUNNING)
    assert outcome.of(going, rounds.Progress(), None) is None


def test_all_replies_counted_is_finished():
    assert completed(LOG.format(2, 0, "", 2, 0)) == Outcome("finished")
    assert completed("no strategy of Flower's\n") == Outcome("finished")


def test_no_reply_that_counted_is_failed():
    found = completed(LOG.format(0, 2, NO_AGE, 0, 0))
    assert found.end == "failed"
    assert found.words() == "failed: round 1: 0 of 2 results: ValueError: no column 'age'"
    assert found.public() == "failed: round 1: 0 of 2 results: ValueError"


def test_some_replies_that_failed_are_finished_with_failures():
    found = completed(LOG.format(1, 1, NO_AGE, 2, 0))
    assert found.end == "finished"
    assert found.words() == (
        "finished with failures: round 1: 1 of 2 results: ValueError: no column 'age'"
    )


def test_failures_of_the_evaluation_alone_are_told_as_such():
    found = completed(LOG.format(2, 0, "", 0, 2) + NO_AGE)
    assert found.shown == "round 1: 0 of 2 results of the evaluation: ValueError"


def test_a_serverapp_that_trips_over_an_untrained_model_is_told_after_its_clients():
    log = LOG.format(0, 2, NO_AGE, 0, 0) + "KeyError: '0'\n"
    found = outcome.of(run("failed"), rounds.follow(rounds.Progress(), log), None)
    assert found.words() == (
        "failed: round 1: 0 of 2 results: ValueError: no column 'age'; then KeyError: '0'"
    )
    assert found.public() == "failed: round 1: 0 of 2 results: ValueError; then KeyError"


def test_a_serverapp_that_breaks_off_after_replies_that_counted_is_told_alone():
    log = LOG.format(1, 1, NO_AGE, 2, 0) + "KeyError: '0'\n"
    found = outcome.of(run("failed"), rounds.follow(rounds.Progress(), log), None)
    assert found.words() == "failed: KeyError: '0'"


def test_a_stopped_run_needs_no_cause():
    assert outcome.of(run("stopped"), rounds.Progress(cause="ValueError: x"), None) == Outcome(
        "stopped"
    )


@pytest.mark.parametrize(
    ("server", "log", "details", "cause", "shown"),
    [
        (None, "ValueError: x\n", "No heartbeat", "ValueError: x", "ValueError"),
        (None, "", "No heartbeat", "No heartbeat", ""),
        (None, "", "", "its log does not say why", ""),
        ({"error": "RuntimeError", "text": "size mismatch"}, "", "No heartbeat",
         "RuntimeError: size mismatch", "RuntimeError"),
        ({"signal": 9, "oom": True}, "", "No heartbeat",
         "was killed: the memory limit was reached", "was killed: the memory limit was reached"),
        ({"error": "LimitReachedError", "text": "t", "reason": "it wrote more than 1 GiB"}, "", "",
         "it wrote more than 1 GiB", "LimitReachedError"),
    ],
)  # fmt: skip
def test_a_failure_is_told_by_its_process_else_its_log_else_by_flower(
    server, log, details, cause, shown
):
    end = server and AppEnd(
        run="7", program=SERVERAPP, began_at=1.0, ended_at=2.0, own="signal" not in server, **server
    )
    found = outcome.of(run("failed", details), rounds.follow(rounds.Progress(), log), end)
    assert (found.end, found.cause, found.shown) == ("failed", cause, shown)


@pytest.mark.parametrize(
    ("cause", "name"),
    [
        ("ValueError: x", "ValueError"),
        ("builtins.ValueError: x", "ValueError"),
        ("torch.cuda.OutOfMemoryError: x", "OutOfMemoryError"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("An exception was raised when loading", ""),
        ("patient Smith: 47 years", ""),
        ("", ""),
    ],
)
def test_only_the_class_of_an_exception_is_shown(cause, name):
    assert outcome.class_of(cause) == name


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("<class 'ValueError'>:<'no column 'age''>", "ValueError: no column 'age'"),
        ("<class 'my.pkg.Odd'>:<''>", "Odd"),
        ("An exception was raised when attempting to load `ClientApp`",
         "An exception was raised when attempting to load `ClientApp`"),
    ],
)  # fmt: skip
def test_a_replys_reason_reads_as_python_says_it(reason, cause):
    assert rounds.cause_of(reason) == cause
