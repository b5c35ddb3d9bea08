"""The status as metrics, held to Prometheus' own parser and to what its linter wants."""

import dataclasses
import datetime
import os
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from status_samples import NOW, SCREENS

from flower_agent.model.status import Condition, Mark
from flower_agent.reporting import metrics
from flower_agent.reporting.metrics import Measured

ROOT = pathlib.Path(__file__).parents[2]
CASES = ROOT / "tests/cases/metrics"
ENDS = {
    "server": NOW + datetime.timedelta(days=90),
    "ca": NOW + datetime.timedelta(days=3650, hours=12),
}
MEASURED = Measured(health_s=0.00123, ends=ENDS)


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(status, measured=MEASURED):
    """Return what a status gives: metric and labels to value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(metrics.render(status, measured)).values()
        for sample in family.samples
    }


def lint(text):
    """Hold what ``promtool check metrics`` and the textfile collector hold."""
    assert text.endswith("\n")
    seen, last = set(), None
    for line in text.splitlines():
        name = re.match(r"(?:# (?:HELP|TYPE) )?([a-z_][a-z0-9_]*)", line)[1]
        if name != last:
            assert name not in seen, "one group of lines for each metric"
            assert line.startswith(f"# HELP {name} "), "help comes first"
        seen.add(name)
        last = name
    for family in families(text).values():
        assert family.type == "gauge"
        assert family.documentation.endswith(".")
        assert not re.search(r"_(total|count|sum|bucket)$", family.name)
        assert not re.search(r"(milli|minutes|hours|kilo|mega)", family.name)
        labels = [tuple(sorted(sample.labels.items())) for sample in family.samples]
        assert len(labels) == len(set(labels))
        assert all(sample.timestamp is None for sample in family.samples)


@pytest.mark.parametrize("name", SCREENS)
def test_the_metrics_are_those_of_the_case_and_well_formed(name):
    text = metrics.render(SCREENS[name], MEASURED)
    lint(text)
    if os.environ.get("REGENERATE"):
        CASES.mkdir(parents=True, exist_ok=True)
        (CASES / f"{name}.prom").write_text(text)
    assert (CASES / f"{name}.prom").read_text() == text


def test_exactly_one_state_is_true():
    for status in SCREENS.values():
        found = {k[1][0][1]: v for k, v in values(status).items() if k[0] == "flower_agent_state"}
        assert {state for state, value in found.items() if value} == {status.state}
        assert len(found) == 4


def test_what_is_not_known_is_absent():
    found = {name for name, _ in values(SCREENS["context-refused"], Measured())}
    assert found == {
        *("flower_agent_info", "flower_agent_state", "flower_agent_state_start_time_seconds"),
        *("flower_agent_error", "flower_agent_warnings"),
    }


@pytest.mark.parametrize(("mark", "value"), [(Mark.OK, 1), (Mark.WAITING, 0), (Mark.BAD, 0)])
def test_a_connection_is_what_the_status_says_of_it(mark, value):
    facts = (Condition("peer", mark, ""), Condition("onegate", mark, ""))
    found = values(dataclasses.replace(SCREENS["supernode-ready"], facts=facts))
    assert found["flower_peer_connected", ()] == value
    assert found["flower_onegate_up", ()] == value


def test_the_days_of_a_certificate_are_counted_from_the_status():
    found = values(SCREENS["superlink-ready"])
    days = found["flower_certificate_left_days", (("certificate", "server"),)]
    assert days == pytest.approx(90, abs=0.001)


@given(st.text(max_size=30))
def test_a_label_is_read_back_as_it_was(word):
    status = dataclasses.replace(SCREENS["superlink-ready"], version=word)
    text = metrics.render(status, MEASURED)
    (info,) = families(text)["flower_agent_info"].samples
    if not any(letter in word for letter in "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
        assert info.labels["flower"] == word
    assert metrics.render(status, MEASURED).count("\n") == text.count("\n")


def test_the_page_has_every_metric():
    page = (ROOT / "docs/metrics.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    given_ = {name for status in SCREENS.values() for name, _ in values(status)}
    assert listed == given_
