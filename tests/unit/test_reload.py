"""The loop's view of the inputs: read on change, the last good settings kept."""

import pytest
import structlog

from flower_agent.config import sources
from flower_agent.config.sources import Intake
from flower_agent.config.types import Role
from flower_agent.model.lifecycle import Phase
from flower_agent.paths import Paths

GOOD = "FLOWER_ROLE='superlink'\n"
BAD = "FLOWER_ROLE='captain'\n"
SECRET = "hunter2"


class Machine:
    """A VM whose files change."""

    def __init__(self, root):
        self.paths = Paths(root)
        self.paths.context.mkdir(parents=True)
        self.paths.config.parent.mkdir(parents=True)
        self.context = self.paths.context / "context.sh.network"
        self.intake = Intake(self.paths)

    def write(self, content):
        """Give the VM another context, as a new file."""
        new = self.context.with_name("new")
        new.write_text(content)
        new.replace(self.context)

    def read(self, content):
        self.write(content)
        assert self.intake.changed()
        new = self.intake.read()
        assert not self.intake.changed()
        return new

    def refusal(self, now=0.0):
        return self.intake.refusal(now=now, scale=1.0)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def codes(findings):
    return [found.code for found in findings]


def test_a_good_context_is_taken_once(machine):
    assert machine.intake.changed()
    assert machine.read(GOOD)
    assert machine.intake.good.role is Role.SUPERLINK
    assert machine.refusal() is None
    assert not machine.intake.read()


def test_the_same_settings_in_a_new_file_are_no_news(machine):
    machine.read(GOOD)
    assert not machine.read("# another comment\n" + GOOD)
    assert not machine.read(GOOD + "UNRELATED='1'\n")


def test_new_settings_are_news(machine):
    machine.read(GOOD)
    assert machine.read(GOOD + "FL_NUM_ROUNDS='7'\n")
    assert machine.intake.good.num_rounds == 7


def test_a_bad_context_keeps_the_last_good_settings(machine):
    machine.read(GOOD)
    good = machine.intake.good
    for content in (BAD, "", "FLOWER_ROLE='superlink\n", "\1\2\3"):
        assert not machine.read(content)
        assert machine.intake.good is good
        assert machine.intake.errors
        refusal = machine.refusal()
        assert (refusal.phase, refusal.fatal) == (Phase.CONTEXT, True)


def test_a_context_that_recovers_is_taken(machine):
    assert not machine.read(BAD)
    assert machine.intake.good is None
    assert machine.read(GOOD)
    assert machine.intake.errors == ()
    assert machine.refusal() is None


def test_a_context_that_goes_back_to_what_is_in_use_is_no_news_and_well(machine):
    machine.read(GOOD)
    machine.read(BAD)
    assert not machine.read(GOOD)
    assert machine.refusal() is None


def test_a_late_context_is_waited_for_and_then_missed(machine):
    machine.intake.read()
    assert codes(machine.intake.errors) == ["context.missing"]
    assert not machine.refusal(now=1000.0).fatal
    assert not machine.refusal(now=1000.0 + sources.MISSING_CONTEXT_S).fatal
    assert machine.refusal(now=1001.0 + sources.MISSING_CONTEXT_S).fatal
    assert machine.read(GOOD)


def test_a_context_that_vanishes_keeps_the_settings(machine):
    machine.read(GOOD)
    machine.context.unlink()
    assert machine.intake.changed()
    assert not machine.intake.read()
    assert machine.intake.good is not None
    assert codes(machine.intake.errors) == ["context.missing"]


def test_a_context_that_is_written_anew_changes_no_state_and_one_that_stays_away_does(machine):
    machine.read(GOOD)
    for gone in (1000.0, 5000.0):
        machine.context.unlink()
        machine.intake.read()
        assert machine.refusal(now=gone) is None
        assert machine.refusal(now=gone + sources.MISSING_CONTEXT_S) is None
        machine.read(GOOD)
        assert machine.refusal(now=gone + sources.MISSING_CONTEXT_S + 1) is None
    machine.context.unlink()
    machine.intake.read()
    assert machine.refusal(now=9000.0) is None
    found = machine.refusal(now=9001.0 + sources.MISSING_CONTEXT_S)
    assert (found.finding.code, found.fatal) == ("context.missing", True)


def test_a_bad_config_refuses_a_good_context(machine):
    machine.paths.config.write_text("- a\n")
    assert not machine.read(GOOD)
    assert codes(machine.intake.errors) == ["config.invalid"]
    machine.paths.config.write_text("fl_num_rounds: 9\n")
    assert machine.intake.changed()
    assert machine.intake.read()
    assert machine.intake.good.num_rounds == 9


def test_the_context_wins_over_the_config(machine):
    machine.paths.config.write_text("flower_role: supernode\nfl_num_rounds: 9\n")
    machine.read(GOOD)
    assert (machine.intake.good.role, machine.intake.good.num_rounds) == (Role.SUPERLINK, 9)


def test_a_number_in_the_config_keeps_its_zero(machine):
    machine.paths.config.write_text("fl_config_learning_rate: 0.10\n")
    machine.read(GOOD)
    assert machine.intake.good.run_config == (("learning-rate", "0.10"),)


def test_a_switch_in_the_config_may_be_written_as_yaml_does(machine):
    for text, wanted in (("no", False), ("true", True), ("off", False), ("YES", True)):
        machine.paths.config.write_text(f"tls_enabled: {text}\n")
        machine.read(GOOD)
        assert machine.intake.good.tls is wanted


def test_the_first_error_speaks_for_all(machine):
    machine.read(BAD + "FL_NUM_ROUNDS='many'\nTLS_ENABLED='perhaps'\n")
    assert len(machine.intake.errors) == 3
    assert machine.refusal().finding is machine.intake.errors[0]


def test_warnings_refuse_nothing(machine):
    assert machine.read(GOOD + "FLOWER_ROLL='x'\n")
    assert codes(machine.intake.warnings) == ["setting.near_miss"]
    assert machine.intake.errors == ()
    assert machine.refusal() is None


def test_a_reread_needs_no_changed_file(machine):
    machine.read(GOOD)
    machine.intake.reread()
    assert machine.intake.changed()
    assert not machine.intake.read()
    assert not machine.intake.changed()


def test_a_finding_is_logged_when_it_comes_and_not_again(machine):
    with structlog.testing.capture_logs() as logs:
        machine.read(BAD)
        machine.intake.read()
        machine.read(BAD + "A='1'\n")
        machine.read(GOOD)
        machine.read(GOOD + "FL_NUM_ROUNDS='7'\n")
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("context.finding", "error"),
        ("context.read", "info"),
        ("context.changed", "info"),
    ]


def test_no_secret_is_logged_or_told(machine):
    with structlog.testing.capture_logs() as logs:
        machine.read(
            f"FLOWER_ROLE='superlink'\nTLS_KEY='{SECRET}'\nFLOWER_REGISTRY_PASSWORD='{SECRET}'\n"
        )
    assert machine.intake.errors
    assert SECRET not in repr(logs) + repr(machine.intake.findings) + str(machine.refusal())


def test_a_context_file_of_the_operator_is_judged_alike(machine, tmp_path):
    mine = tmp_path / "mine.sh"
    mine.write_text(GOOD)
    own = Intake(machine.paths, mine)
    assert own.read()
    assert own.good.role is Role.SUPERLINK


def test_judging_needs_no_loop(machine):
    machine.write(BAD)
    settings, findings = sources.judge(sources.read(machine.paths))
    assert settings is None
    assert codes(findings) == ["setting.invalid"]
