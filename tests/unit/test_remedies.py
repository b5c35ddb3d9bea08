"""Remedies as an operator reads them at night: the safest first, whole paths, nothing lost."""

import pathlib

import pytest
from cycles import cycle_of

from flower_agent.host.machine import HostFacts
from flower_agent.model import deduplication
from flower_agent.model.error_codes import CATALOGUE
from flower_agent.model.errors import AgentError
from flower_agent.model.state import State
from flower_agent.reconcile import reconciler

LOSES = ("flower-agent reset", "rm -", "mkfs", "unregister")
"""What cannot be taken back."""


def hint(code):
    return CATALOGUE[code][1]


def test_a_lost_ca_is_restored_or_trusted_anew_and_nothing_is_reset():
    words = hint("tls.ca_lost")
    assert "reset" not in words
    restore, move, trust = (
        words.index("Restore /var/lib/flower-agent/tls/ca/ca.pem"),
        words.index("mv /var/lib/flower-agent/tls "),
        words.index("flower-agent tls trust"),
    )
    assert restore < move < trust


@pytest.mark.parametrize("code", CATALOGUE)
def test_what_loses_something_is_never_the_first_thing_to_do(code):
    words = hint(code)
    for loss in LOSES:
        assert loss not in words.partition(".")[0].partition(";")[0], code


@pytest.mark.parametrize("code", CATALOGUE)
def test_docker_is_restarted_only_between_two_runs(code):
    words = hint(code)
    for restart in ("systemctl restart docker", "docker restart", "Reboot"):
        if restart in words:
            assert "between two runs" in words.replace("Between", "between")


def test_a_key_that_a_node_lost_is_said_on_both_sides():
    assert "backup" in hint("enrol.key_damaged")
    assert "nodes unregister NODE" in hint("enrol.key_damaged")
    assert "lost its key?" in hint("enrol.key_changed")


def test_a_taken_port_has_the_command_that_finds_its_owner():
    assert "ss -ltnp 'sport = :9092'" in reconciler.hint(9092)
    assert "listens" not in CATALOGUE["port.taken"][0]


def turn(vmid):
    return cycle_of(
        settings=None,
        variables={},
        host=HostFacts((), None, 2**31, "boot"),
        keyring=None,
        client=None,
        now=None,
        monotonic=0.0,
        state=State(vmid=vmid),
    )


@pytest.mark.parametrize("code", ["state.corrupt", "state.unwritable"])
def test_a_file_that_is_in_trouble_is_named_with_its_vm(code):
    error = AgentError(code, "/var/lib/flower-agent/state.json cannot be read: Input/output error")
    found = turn("42").unmet(error).finding
    assert found.message == f"VM 42: {error.finding.message}"
    assert turn(None).unmet(error).finding == error.finding
    other = AgentError("docker.down", "gone")
    assert turn("42").unmet(other).finding == other.finding


def test_the_time_of_the_next_try_makes_no_new_cause():
    one, other = (
        AgentError("container.crash_loop", f"x ended 3 times in a row; next try at {at} UTC")
        for at in ("09:10:11", "10:11:12")
    )
    assert deduplication.same(one.finding, other.finding)


def test_the_docs_name_files_that_there_are():
    page = (pathlib.Path(__file__).parents[2] / "docs/errors.md").read_text()
    assert "tls/ca/ca.key" not in page
