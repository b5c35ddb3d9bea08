"""When the run of the context is due, and that it is submitted once."""

import dataclasses
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.config import parsing
from flower_agent.config.types import parse_app_source
from flower_agent.flower.control_messages import RunInfo
from flower_agent.runs import submission
from flower_agent.runs.submission import Due, Submission

KNOWN = Submission(
    key="k", vmid="41", source="https://h/app", commit="c" * 40, app="me/mine 1", bundle="b" * 64
)
SUBMITTED = dataclasses.replace(KNOWN, run_id="7", asked_at=1_000_000.0)
FINISHED = dataclasses.replace(SUBMITTED, end="finished")


def due(known, *, key="k", vmid="41", online=2, least=2, short=False):
    return submission.due(known, key, vmid, online=online, least=least, short=short)


def test_an_app_is_prepared_then_waits_for_nodes_then_is_submitted_then_followed():
    assert due(None) is Due.PREPARE
    assert due(KNOWN, online=1) is Due.WAIT
    assert due(KNOWN) is Due.SUBMIT
    assert due(SUBMITTED) is Due.FOLLOW
    assert due(FINISHED) is Due.NOTHING


def test_a_run_whose_app_lacks_something_is_held_back_and_one_that_was_submitted_is_not():
    assert due(None, short=True) is Due.PREPARE
    assert due(KNOWN, online=1, short=True) is Due.WAIT
    assert due(KNOWN, short=True) is Due.IMAGE
    assert due(SUBMITTED, short=True) is Due.FOLLOW
    assert due(FINISHED, short=True) is Due.NOTHING


def test_nodes_that_leave_do_not_touch_a_run_that_was_submitted():
    assert due(SUBMITTED, online=0) is Due.FOLLOW


@pytest.mark.parametrize("end", ["finished", "failed", "stopped", "lost"])
def test_a_run_that_ended_is_not_submitted_again(end):
    assert due(dataclasses.replace(SUBMITTED, end=end)) is Due.NOTHING


def test_a_changed_context_is_prepared_once_the_active_run_has_ended():
    assert due(SUBMITTED, key="other") is Due.FOLLOW
    assert due(FINISHED, key="other") is Due.PREPARE
    assert due(KNOWN, key="other") is Due.PREPARE


def test_a_cloned_disk_submits_its_own_and_a_lost_token_does_not():
    assert due(FINISHED, vmid="99") is Due.PREPARE
    assert due(FINISHED, vmid=None) is Due.NOTHING


def parsed(**variables):
    return parsing.parse({"FLOWER_ROLE": "server", **variables}, {}).settings


def key(text="https://h/app@main", **variables):
    return submission.key_of(parsed(**variables), parse_app_source(text))


@pytest.mark.parametrize(
    "variables",
    [
        {"FL_NUM_ROUNDS": "4"},
        {"FL_STRATEGY": "FedProx"},
        {"FL_MIN_CLIENTS": "3"},
        {"FL_CONFIG_LR": "0.1"},
    ],
)
def test_each_variable_of_a_run_makes_it_another(variables):
    assert key(**variables) != key()


@pytest.mark.parametrize(
    "variables", [{"FL_NUM_ROUNDS": "3"}, {"FL_STRATEGY": "FedAvg"}, {"FL_MIN_CLIENTS": "2"}]
)
def test_to_set_what_older_agents_passed_anyway_is_a_change(variables):
    assert key(**variables) != key()


def older_key(rounds=3, strategy="FedAvg", clients=2, config=()):
    """Return the key that agents wrote which passed 3 rounds and FedAvg where nothing was set."""
    asked = ("https://h/app@main", rounds, strategy, clients, config)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def carried(known, **variables):
    return submission.carried(known, parsed(**variables), parse_app_source("https://h/app@main"))


@pytest.mark.parametrize(
    ("older", "variables"),
    [
        ({}, {}),
        ({}, {"FL_NUM_ROUNDS": "3"}),
        ({"rounds": 9, "strategy": "Krum"}, {"FL_NUM_ROUNDS": "9", "FL_STRATEGY": "Krum"}),
        ({"clients": 5}, {"FL_MIN_CLIENTS": "5"}),
        ({"config": (("lr", "1"),)}, {"FL_CONFIG_LR": "1"}),
    ],
)
def test_an_upgrade_of_the_agent_submits_no_run_again(older, variables):
    known = dataclasses.replace(FINISHED, key=older_key(**older))
    now = carried(known, **variables)
    assert now.key == key(**variables)
    assert due(now, key=key(**variables)) is Due.NOTHING
    assert carried(now, **variables) == now


def test_after_an_upgrade_a_changed_context_is_one():
    known = carried(dataclasses.replace(FINISHED, key=older_key()))
    assert due(carried(known, FL_NUM_ROUNDS="3"), key=key(FL_NUM_ROUNDS="3")) is Due.PREPARE
    known = dataclasses.replace(FINISHED, key=older_key(rounds=9))
    assert carried(known) == known


def test_what_an_older_agent_only_prepared_is_prepared_anew_and_what_it_asked_for_is_not():
    prepared = dataclasses.replace(KNOWN, key=older_key())
    assert due(carried(prepared), key=key()) is Due.PREPARE
    asked = dataclasses.replace(prepared, asked_at=1.0)
    assert due(carried(asked), key=key()) is Due.SUBMIT


def test_repository_ref_and_directory_make_it_another_and_a_new_token_does_not():
    texts = ("https://h/app@main", "https://h/app@dev", "https://h/b@main", "https://h/app@main#x")
    assert len({key(text) for text in texts}) == len(texts)
    assert key("https://u:new@h/app@main") == key()


def test_what_no_run_reads_makes_no_other():
    assert key(FLOWER_LOG_LEVEL="DEBUG") == key()


def test_an_end_reads_as_the_contract_says():
    def words(end, shown=""):
        return submission.words(dataclasses.replace(SUBMITTED, end=end, shown=shown))

    assert words("finished") == "finished"
    assert words("stopped") == "stopped"
    assert words("failed", "ValueError") == "failed: ValueError"
    failures = "round 2: 0 of 2 results: ValueError"
    assert words("finished", failures) == f"finished with failures: {failures}"
    assert words("lost") == "failed: the SuperLink does not know the run any more"


def test_a_file_of_another_version_of_the_agent_is_read():
    document = json.loads(submission.dump(FINISHED))
    del document["shown"], document["unread"]
    document |= {"cause": "of an older agent", "colour": "of a newer one"}
    assert submission.load(json.dumps(document).encode()) == FINISHED


def at(seconds):
    return f"1970-01-12T13:46:{40 + seconds:02d}+00:00"


def test_a_request_without_an_answer_is_found_by_its_bundle_and_time():
    asked = dataclasses.replace(KNOWN, asked_at=1_000_000.0)
    old = RunInfo(run_id="1", status="finished", fab_hash=KNOWN.bundle, pending_at=at(-30))
    other = RunInfo(run_id="2", status="running", fab_hash="x", pending_at=at(1))
    mine = RunInfo(run_id="3", status="running", fab_hash=KNOWN.bundle, pending_at=at(1))
    assert submission.adopted(asked, (old, other, mine)) == "3"
    assert submission.adopted(asked, (old, other)) is None
    assert submission.adopted(KNOWN, (mine,)) is None
    assert submission.adopted(asked, (dataclasses.replace(mine, pending_at="?"),)) == "3"


scalars = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())


@given(
    st.builds(
        Submission,
        key=st.text(),
        vmid=st.none() | st.text(),
        source=st.text(),
        commit=st.text(),
        app=st.text(),
        bundle=st.text(),
        overrides=st.lists(st.tuples(st.text(), scalars)).map(tuple),
        unread=st.lists(st.tuples(st.text(), st.text())).map(tuple),
        dependencies=st.lists(st.text()).map(tuple),
        asked_at=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        run_id=st.none() | st.integers(0, 2**64).map(str),
        end=st.sampled_from(["", "finished", "failed", "stopped", "lost"]),
        shown=st.text(),
    )
)
def test_what_is_kept_is_read_as_it_was(known):
    assert submission.load(submission.dump(known)) == known


@given(
    st.binary().filter(lambda data: not data.strip().startswith(b"{"))
    | st.recursive(st.none() | st.integers(), st.lists).map(lambda v: repr(v).encode())
)
def test_anything_else_is_a_value_error(data):
    with pytest.raises(ValueError, match="not a submission"):
        submission.load(data)


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text()))
def test_what_another_version_left_out_or_added_is_no_damage(more):
    known = {field.name for field in dataclasses.fields(submission.Submission)}
    document = {name: value for name, value in more.items() if name not in known}
    found = submission.load(json.dumps(document).encode())
    assert (found.key, found.run_id, found.vmid) == ("", None, None)
