"""What the daemon puts into the record: settings, versions, a cycle's work, and a full disk."""

import datetime
import json

import pytest
import structlog
from cycles import cycle_of

from flower_agent import __version__, record_file
from flower_agent.agent import record_keeper
from flower_agent.agent.record_keeper import RecordKeeper
from flower_agent.config.sources import Intake
from flower_agent.host.machine import HostFacts
from flower_agent.model import record
from flower_agent.model.record import Entry, Event
from flower_agent.model.state import State
from flower_agent.paths import Paths
from flower_agent.tls.store import Keyring

SECRET = "hunter2-hunter2"


class Daemon:
    """A keeper with a context that changes, and a clock."""

    def __init__(self, root):
        self.paths, self.now = Paths(root), 0.0
        self.context = {"FLOWER_ROLE": "server", "FLOWER_VERSION": "1.25.0"}
        self.restart()

    def restart(self):
        self.keeper = RecordKeeper(self.paths, clock=lambda: self.now)
        self.intake = Intake(self.paths)

    def read(self, **changes):
        """Read a context with other variables."""
        self.context |= changes
        text = "".join(f"{name}='{value}'\n" for name, value in self.context.items() if value)
        self.paths.context.mkdir(parents=True, exist_ok=True)
        (self.paths.context / "context.sh.network").write_text(text)
        self.keeper.read(self.intake, new=self.intake.read())
        if self.intake.good is not None:
            self.cycle()

    def cycle(self, *entries, before=None, **after):
        made = cycle_of(
            settings=self.intake.good, variables={}, client=None,
            host=HostFacts((), None, 1 << 32, "b"),
            keyring=Keyring(self.paths.tls), state=State(**after), monotonic=self.now,
            now=datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC),
        )  # fmt: skip
        for entry in entries:
            made.note(entry)
        self.keeper.took(made)
        self.keeper.settle(made, before or State())
        return made

    def entries(self):
        with record_file.reading(self.paths.audit) as (lines, _):
            return [json.loads(held.data) for held in lines]

    def said(self):
        return [(each["what"], each.get("message", "")) for each in self.entries()]


@pytest.fixture
def daemon(tmp_path):
    return Daemon(tmp_path)


def test_the_agents_version_is_recorded_once(daemon):
    daemon.read()
    daemon.restart()
    daemon.read()
    assert [words for what, words in daemon.said() if what == "agent.version"] == [__version__]


def test_another_version_of_the_agent_is_recorded(daemon, monkeypatch):
    daemon.read()
    monkeypatch.setattr(record_keeper, "__version__", "9.9.9")
    daemon.restart()
    daemon.read()
    assert daemon.said()[2:] == [("agent.version", f"from {__version__} to 9.9.9")]


def test_the_record_is_linked_beside_the_logs(daemon):
    daemon.read()
    assert daemon.paths.audit_link.readlink() == daemon.paths.audit
    assert daemon.paths.audit_link.read_bytes() == daemon.paths.audit.read_bytes()


def test_nothing_is_written_before_the_first_cycle(daemon):
    daemon.keeper.read(daemon.intake, new=daemon.intake.read())
    daemon.keeper.end()
    assert not daemon.paths.state.exists()


def test_the_names_of_changed_variables_are_recorded_and_never_a_value(daemon):
    daemon.read(FLOWER_HTTP_PROXY=f"http://u:{SECRET}@proxy.example.org:3128")
    daemon.read(FLOWER_VERSION="1.26.1", ONEAPP_FL_MIN_CLIENTS="3", FLOWER_HTTP_PROXY="")
    found = daemon.entries()
    assert {each["who"] for each in found[1:]} == {"context"}
    assert daemon.said()[1:] == [
        ("settings.changed", "set: FLOWER_HTTP_PROXY, FLOWER_ROLE, FLOWER_VERSION"),
        ("settings.changed", "set: FL_MIN_CLIENTS"),
        ("settings.changed", "changed: FLOWER_VERSION"),
        ("settings.changed", "removed: FLOWER_HTTP_PROXY"),
    ]
    written = b"".join(p.read_bytes() for p in daemon.paths.state.iterdir() if p.is_file())
    assert SECRET.encode() not in written
    assert b"1.26.1" not in written


def test_a_restart_records_no_setting_again_and_a_change_meanwhile_is_seen(daemon):
    daemon.read()
    daemon.restart()
    daemon.read()
    assert len(daemon.said()) == 2
    daemon.restart()
    daemon.read(FL_CONFIG_LEARNING_RATE="0.1")
    assert daemon.said()[2:] == [("settings.changed", "set: FL_CONFIG_LEARNING_RATE")]


def test_a_new_secret_of_the_same_name_is_a_change(daemon):
    daemon.read(FLOWER_HTTP_PROXY=f"http://u:{SECRET}@proxy.example.org:3128")
    daemon.restart()
    daemon.read(FLOWER_HTTP_PROXY="http://u:other@proxy.example.org:3128")
    assert daemon.said()[-1] == ("settings.changed", "changed: FLOWER_HTTP_PROXY")


def test_very_many_names_become_entries_without_a_cut_name(daemon):
    names = [f"FL_CONFIG_A_RATHER_LONG_NAME_{n:03}" for n in range(100)]
    daemon.read(**dict.fromkeys(names, "1"))
    said = [words for what, words in daemon.said() if what == "settings.changed"]
    assert all(len(words) <= record.MESSAGE_MAX for words in said)
    seen = {name for words in said for name in words.removeprefix("set: ").split(", ")}
    assert set(names) <= seen


def test_a_refused_context_is_recorded_once(daemon):
    for _ in range(3):
        daemon.read(FLOWER_FLEET_PORT="99999")
    daemon.read(FLOWER_FLEET_PORT="")
    (refused,) = [each for each in daemon.entries() if each["what"] == "settings.refused"]
    assert (refused["what"], refused["result"]) == ("settings.refused", "refused")
    assert refused["message"].startswith("setting.invalid: FLOWER_FLEET_PORT")


def test_a_context_that_is_late_is_no_entry(daemon):
    daemon.keeper.read(daemon.intake, new=daemon.intake.read())
    daemon.read()
    assert [what for what, _ in daemon.said()] == ["agent.version", "settings.changed"]


def test_what_a_cycle_did_and_what_it_changed_is_written_at_its_end(daemon):
    daemon.read()
    registered = Entry(what=Event.KEY_REGISTERED, node="7", key="SHA256:x", message="VM 42")
    daemon.cycle(registered, ca_pin="a" * 64)
    assert [each["what"] for each in daemon.entries()[2:]] == ["key.registered", "trust.ca_pinned"]
    daemon.cycle(before=State(ca_pin="a" * 64), ca_pin="a" * 64)
    assert len(daemon.entries()) == 4


def test_a_record_that_cannot_be_written_is_a_warning_of_each_cycle_until_it_can(daemon):
    daemon.read()
    daemon.paths.audit.unlink()
    daemon.paths.audit.mkdir()
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            made = daemon.cycle(Entry(what=Event.RUN_ENDED, run="7"))
            assert [found.code for found in made.report.warnings] == ["record.unwritable"]
    assert [each["event"] for each in logged] == ["record.unwritable"]
    daemon.paths.audit.rmdir()
    daemon.now += record_file.RETRY_S
    assert daemon.cycle().report.warnings == []
    assert [each.get("run") for each in daemon.entries()[-2:]] == ["7", "7"]


def test_a_change_whose_entry_was_never_written_is_found_after_a_restart(daemon):
    daemon.read()
    daemon.paths.audit.rename(daemon.paths.state / "aside")
    daemon.paths.audit.mkdir()
    daemon.read(FL_NUM_ROUNDS="7")
    daemon.restart()
    daemon.paths.audit.rmdir()
    (daemon.paths.state / "aside").rename(daemon.paths.audit)
    daemon.read()
    assert daemon.said()[2:] == [("settings.changed", "set: FL_NUM_ROUNDS")]


def test_the_journal_gets_the_head_hourly_and_at_the_end(daemon):
    def heads():
        return [each["seq"] for each in logged if each["event"] == "record.head"]

    with structlog.testing.capture_logs() as logged:
        daemon.restart()
        daemon.read()
        daemon.cycle(Entry(what=Event.RUN_ENDED, run="7"))
        assert heads() == []
        daemon.now += record_keeper.HEAD_S
        daemon.cycle(Entry(what=Event.RUN_ENDED, run="8"))
        daemon.cycle()
        assert heads() == [4]
        daemon.cycle(Entry(what=Event.RUN_ENDED, run="9"))
        daemon.keeper.end()
        daemon.keeper.end()
        assert heads() == [4, 5]
    shown = [each["sha256"] for each in logged if each["event"] == "record.head"]
    with record_file.reading(daemon.paths.audit) as (lines, head):
        assert record.walk(lines, head, shown[0]).fault == ""


def test_the_journal_gets_the_head_of_each_rotation(daemon):
    daemon.read()
    daemon.keeper._record._file_bytes = 1
    with structlog.testing.capture_logs() as logged:
        daemon.cycle(Entry(what=Event.RUN_ENDED, run="7"))
        daemon.cycle(Entry(what=Event.RUN_ENDED, run="8"))
    assert len([each for each in logged if each["event"] == "record.head"]) == 2


def test_a_torn_line_is_said_once(daemon):
    daemon.read()
    with daemon.paths.audit.open("ab") as file:
        file.write(b"{")
    with structlog.testing.capture_logs() as logged:
        daemon.cycle(Entry(what=Event.RUN_ENDED, run="6"))
        daemon.cycle(Entry(what=Event.RUN_ENDED, run="7"))
    assert [each["event"] for each in logged].count("record.recovered") == 1


def test_a_damaged_file_of_known_settings_records_them_again(daemon):
    daemon.read()
    daemon.paths.audit.with_suffix(".settings.json").write_text('{"key": 7, "settings": [')
    daemon.restart()
    daemon.read()
    assert [what for what, _ in daemon.said()] == ["agent.version", "settings.changed"] * 2


def test_a_dry_agent_writes_nothing(tmp_path):
    paths = Paths(tmp_path)
    keeper = RecordKeeper(paths, dry=True)
    keeper.read(Intake(paths), new=False)
    keeper.end()
    assert list(tmp_path.iterdir()) == []
