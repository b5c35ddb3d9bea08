"""Rounds, metrics and causes from what real ServerApps wrote."""

import itertools
import json
import pathlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.runs import rounds
from flower_agent.runs.rounds import Progress

LOGS = pathlib.Path(__file__).parents[1] / "data/flower/runs"
LOG = (LOGS / "1.25.0-finished.log").read_text("utf-8")


def read(text):
    return rounds.follow(Progress(), text)


def rows(progress):
    return [json.loads(line) for line in rounds.document(progress).splitlines()]


def test_a_finished_run_has_its_rounds_and_their_metrics():
    progress = read(LOG)
    assert (progress.number, progress.total, str(progress)) == (2, 2, "2 of 2")
    first, second = rows(progress)
    assert first["round"] == 1
    assert first["train"] == {"loss": 1.8569609396053868, "accuracy": 0.46166666666666667}
    assert first["evaluate"]["accuracy"] == 0.5
    assert second["server"] == {"loss": 1.5526196222024067, "accuracy": 0.6262626262626263}
    assert rounds.summary(progress) == "accuracy 0.6263, loss 1.553"
    assert progress.cause == ""


def test_the_newest_flower_is_followed_as_the_default_one():
    progress = read((LOGS / "1.42.0-finished.log").read_text("utf-8"))
    assert str(progress) == "2 of 2"
    assert [sorted(row) for row in rows(progress)] == [["replies", "round", "server", "train"]] * 2
    assert rounds.summary(progress) == "accuracy 0.8384, loss 0.7033"


def test_a_serverapp_that_failed_says_why():
    progress = read((LOGS / "1.42.0-failed.log").read_text("utf-8"))
    assert progress.cause.startswith("ValueError: strategy is 'FedNone': want one of FedAvg")
    assert progress.rounds == ()


@given(st.lists(st.integers(1, len(LOG) - 1), max_size=8))
def test_a_log_may_come_in_any_pieces(cuts):
    progress = Progress()
    marks = [0, *sorted(cuts), len(LOG)]
    for begin, end in itertools.pairwise(marks):
        progress = rounds.follow(progress, LOG[begin:end])
    assert rounds.document(progress) == rounds.document(read(LOG))


def test_before_the_first_round_the_total_is_known_and_nothing_is_said():
    progress = read("INFO :  \t├── Number of rounds: 10\n")
    assert (progress.total, str(progress)) == (10, "")
    assert str(rounds.follow(progress, "INFO : [ROUND 3/10]\n")) == "3 of 10"


def test_the_older_server_is_followed_too():
    progress = read(
        "INFO :      Starting Flower ServerApp, config: num_rounds=5, no round_timeout\n"
        "INFO :      [ROUND 1]\n"
        "INFO :      aggregate_fit: received 2 results and 0 failures\n"
        "INFO :      fit progress: (1, 0.51, {'accuracy': 0.9}, 12.3)\n"
    )
    assert str(progress) == "1 of 5"
    row = {"round": 1, "server": {"loss": 0.51, "accuracy": 0.9}}
    assert rows(progress) == [row | {"replies": {"train": {"results": 2, "failures": 0}}}]


@pytest.mark.parametrize(
    ("record", "want"),
    [
        ("{'loss': nan, 'accuracy': -inf}", {"loss": None, "accuracy": None}),
        ("{'loss': np.float64(0.5)}", {"loss": 0.5}),
        ("{'per-class': [0.1, 0.2]}", {"per-class": [0.1, 0.2]}),
        ("{'loss': 1, 'note': 'x'}", {"loss": 1}),
    ],
)
def test_what_json_lacks_is_null_and_what_is_no_metric_is_left_out(record, want):
    progress = read(f"[ROUND 1/1]\n└──> Aggregated MetricRecord: {record}\n")
    assert rows(progress)[0]["train"] == want


@pytest.mark.parametrize("record", ["{broken", "{'a': __import__('os')}", "{1 + 1: 2}", "{}"])
def test_a_record_that_is_none_runs_nothing_and_is_left_out(record):
    progress = read(f"[ROUND 1/1]\n└──> Aggregated MetricRecord: {record}}}\n")
    assert rows(progress) == [{"round": 1}]


def test_the_last_error_is_the_cause_in_one_line():
    progress = read(
        "Traceback (most recent call last):\n"
        '  File "/app/x.py", line 3, in main\n'
        "    raise ValueError('no')\n"
        "ValueError: strategy is 'FedNone': want one of FedAvg\n"
        "During handling of the above exception, another exception occurred:\n"
        "flwr.common.exit.RunError: it ended\n"
    )
    assert progress.cause == "flwr.common.exit.RunError: it ended"


@given(st.text())
def test_any_output_is_survived(text):
    rounds.document(read(text + "\n"))


FAILED = (
    "INFO :      [ROUND 1/2]\n"
    "INFO :      aggregate_train: Received 0 results and 2 failures\n"
    "INFO :      \t> Received error in reply from node 42: <class 'ValueError'>:<'no age'>\n"
    "INFO :      \t> Received error in reply from node 43: <class 'ValueError'>:<'no age'>\n"
)


def test_replies_that_failed_are_counted_with_their_causes():
    (found,) = read(FAILED).rounds
    assert rounds.replies(found) == "0 results, 2 failures: ValueError: no age"
    (row,) = rows(read(FAILED))
    assert row["replies"] == {"train": {"results": 0, "failures": 2}}
    assert row["causes"] == ["ValueError: no age"]


def test_a_round_in_which_all_went_in_has_nothing_to_say():
    (found,) = read("[ROUND 1]\naggregate_fit: received 2 results and 0 failures\n").rounds
    assert (found.failed, rounds.replies(found)) == (False, "")


HOSTILE = {
    "rounds and progress": "[ROUND 77/78]\n" + "fit progress: (1, 1, {" * 60_000,
    "rounds": "[ROUND 1/2]\n" * 90_000,
    "records": "└──> MetricRecord: {" * 60_000,
    "nested": "[ROUND 1]\n└──> MetricRecord: " + "{'a': [" * 100_000 + "}\n",
    "a record": "[ROUND 1]\n└──> MetricRecord: {" + "'a': 1, " * 120_000 + "}\n",
    "numpy": "[ROUND 1]\n└──> MetricRecord: {" + "np.float64(" * 90_000 + "}\n",
    "names": "A" * 1_000_000 + "\n",
    "dots": "a." * 500_000 + "Error\n",
    "reasons": "[ROUND 1]\n" + "Received error in reply from node 1: <class '" * 20_000,
    "causes": "[ROUND 1]\n"
    + "".join(f"Received error in reply from node 1: cause {n}\n" for n in range(20_000)),
    "empty lines": "\n" * 1_000_000,
    "short lines": ":\n" * 500_000,
    "escapes": "\x1b[" * 500_000 + "[ROUND 1]",
    "one line": "x" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_mebibyte_of_the_worst_is_read_in_a_second_and_little_is_kept(name):
    begin = time.process_time()
    progress = rounds.follow(rounds.Progress(), HOSTILE[name])
    rounds.follow(progress, "\n")
    assert time.process_time() - begin < 5  # a second on a quiet machine; quadratic takes minutes
    assert len(progress.rounds) <= rounds.ROUNDS_MAX
    assert all(len(each.causes) <= rounds.CAUSES_MAX for each in progress.rounds)
    assert len(progress.rest) <= rounds.LINE_MAX
    assert len(rounds.document(progress)) < 2_000_000
