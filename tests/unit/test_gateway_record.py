"""The gateway's events in the record."""

import pytest

from flower_agent.agent import gateway_record
from flower_agent.agent.gateway_requests import GatewayEvent
from flower_agent.model.record import Event, Result
from flower_agent.record_file import Record


def entry(name="gateway.stop_run", **fields):
    return gateway_record.to_entry(GatewayEvent(name, fields))


def test_an_event_becomes_an_entry():
    found = entry(who="account:ann", origin="192.0.2.1", run_id="7", result="ok", message="")
    assert (found.what, found.who, found.run) == (Event.GATEWAY_STOP_RUN, "account:ann", "7")
    assert (found.result, found.message) == (Result.DONE, "from 192.0.2.1")


def test_a_refusal_has_its_words():
    found = entry(
        who="account:ann", origin="192.0.2.1", result="refused", message="The run is of ben"
    )
    assert found.result is Result.REFUSED
    assert found.message == "The run is of ben; from 192.0.2.1"


@pytest.mark.parametrize("who", ["local:root", "agent", "context", "", "ann"])
def test_a_gateway_speaks_for_accounts_alone(who):
    assert entry(who=who).who == "unknown"


def test_what_the_record_does_not_know_stays_in_the_journal():
    assert entry("gateway.nonsense") is None
    assert entry("gateway.started", who="account:ann") is None


def test_it_is_written(tmp_path):
    write = gateway_record.recorder(Record(tmp_path / "audit.jsonl"))
    write(GatewayEvent("gateway.login", {"who": "account:ann", "result": "ok"}))
    write(GatewayEvent("gateway.nonsense", {}))
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert '"what":"gateway.login"' in line
    assert '"who":"account:ann"' in line
