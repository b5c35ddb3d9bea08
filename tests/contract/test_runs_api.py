"""Runs over both transports of the Control API: submit, list one, read its log, stop."""

import contextlib

import pytest
from endpoints import authority, loopback_leaf
from fake_superlink import FakeSuperLink

from flower_agent.config.flower_versions import Transport
from flower_agent.flower.control_client import Control
from flower_agent.model.errors import AgentError

CONFIG = (("rounds", 3), ("offset", -7), ("lr", 0.5), ("flag", True), ("name", "ü"))
ZIGZAG = {"rounds": ((8, 6),), "offset": ((8, 13),)}


@pytest.fixture(params=[(t, tls) for t in Transport for tls in (True, False)], ids=str)
def served(request):
    transport, tls = request.param
    superlink = FakeSuperLink()
    ca = authority().pem.encode() if tls else None
    with (
        superlink.serve(transport, loopback_leaf() if tls else None) as address,
        contextlib.closing(Control(address, transport, ca)) as api,
    ):
        yield superlink, api


def refusal(call, *args, **more):
    with pytest.raises(AgentError) as caught:
        call(*args, **more)
    return caught.value.finding


def test_a_run_is_submitted_with_its_config_in_flowers_types(served):
    superlink, api = served
    run_id = api.start_run(b"bundle", CONFIG, "default", 5)
    run = superlink.runs[int(run_id)]
    assert run.bundle == b"bundle"
    assert run.config == {
        **ZIGZAG, "lr": ((1, 0.5),), "flag": ((13, 1),), "name": ((14, "ü".encode()),)
    }  # fmt: skip


def test_one_run_is_listed_by_its_id_and_an_unknown_one_is_refused(served):
    _, api = served
    first, _ = (api.start_run(b"x", (), "default", 5) for _ in range(2))
    (found,) = api.list_runs(5, run_id=first)
    assert (found.run_id, found.status) == (first, "pending")
    assert refusal(api.list_runs, 5, run_id="9").code == "control.refused"


def test_a_refused_submission_is_told_in_flowers_words(served):
    _, api = served
    found = refusal(api.start_run, b"x", (), "other", 5)
    assert found.code == "control.refused"
    assert "Federation '' does not exist" in found.message


def test_a_log_is_read_in_pieces_and_nothing_comes_twice(served):
    superlink, api = served
    run_id = api.start_run(b"x", (), "default", 5)
    run = superlink.runs[int(run_id)]
    run.say("one\n")
    run.say("two\n")
    (piece,) = api.stream_logs(run_id, 0.0, 2)
    assert (piece.text, piece.latest) == ("one\ntwo\n", 2.0)
    assert list(api.stream_logs(run_id, piece.latest, 2)) == []
    run.say("three\n")
    assert [each.text for each in api.stream_logs(run_id, piece.latest, 2)] == ["three\n"]


def test_the_log_of_an_unknown_run_is_refused(served):
    _, api = served
    found = refusal(lambda: list(api.stream_logs("9", 0.0, 2)))
    assert found.code == "control.refused"
    assert "Run ID not found" in found.message


def test_a_run_is_stopped_once(served):
    superlink, api = served
    run_id = api.start_run(b"x", (), "default", 5)
    api.stop_run(run_id, 5)
    assert superlink.runs[int(run_id)].sub_status == "stopped"
    assert refusal(api.stop_run, run_id, 5).code == "control.refused"
