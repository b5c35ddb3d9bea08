"""Remedies as an operator reads them at night: the safest first, whole paths, nothing lost."""

import datetime
import pathlib

import pytest

from flower_agent.model import deduplication, lifecycle
from flower_agent.model.error_codes import CATALOGUE
from flower_agent.model.errors import ContainerExitedError, DockerDownError, StateFileError
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.reconcile import reconciler
from flower_agent.reporting import status_builder

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
    assert "ss -ltnp 'sport = :9092'" in reconciler.port_hint(9092)
    assert "listens" not in CATALOGUE["port.taken"][0]


NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def life_with(error, after_s=1.0):
    """Return the life of an agent that met an error and may take ten seconds."""
    unmet = Unmet(Phase.TLS, error.finding)
    born = lifecycle.born(NOW, 0.0)
    return lifecycle.step(born, unmet, now=NOW, monotonic=after_s, ready_timeout_s=10.0)


@pytest.mark.parametrize("code", ["state.corrupt", "state.unwritable"])
def test_a_file_that_is_in_trouble_is_named_with_its_vm(code):
    message = "/var/lib/flower-agent/state.json cannot be read: Input/output error"
    error = StateFileError(code, message)
    found = status_builder.located(life_with(error), "42")
    assert found.message == f"VM 42: {message}"
    assert (found.code, found.hint) == (code, error.finding.hint)
    assert status_builder.located(life_with(error), None) == error.finding
    other = DockerDownError("docker.down", "gone")
    assert status_builder.located(life_with(other), "42") == other.finding
    assert status_builder.located(lifecycle.born(NOW, 0.0), "42") is None


def test_a_file_that_took_too_long_is_named_with_its_vm():
    error = StateFileError("state.unwritable", "/var/lib/flower-agent cannot be written")
    found = status_builder.located(life_with(error, after_s=11.0), "42")
    assert found.code == "ready.timeout"
    assert found.message.endswith(
        "in phase tls: state.unwritable: VM 42: /var/lib/flower-agent cannot be written"
    )


def test_the_time_of_the_next_try_makes_no_new_cause():
    one, other = (
        ContainerExitedError(
            "container.crash_loop", f"x ended 3 times in a row; next try at {at} UTC"
        )
        for at in ("09:10:11", "10:11:12")
    )
    assert deduplication.same(one.finding, other.finding)


def test_the_docs_name_files_that_there_are():
    page = (pathlib.Path(__file__).parents[2] / "docs/errors.md").read_text()
    assert "tls/ca/ca.key" not in page
