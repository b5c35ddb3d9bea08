"""A day on a SuperLink's VM: commands and the daemon, and whether the record says who did what."""

import contextlib
import datetime
import json
import pathlib

import jsonschema
import pytest
import superlink_vm
from app_repository import Repository
from cycles import cycle_of
from inline import Inline

from flower_agent import record_file
from flower_agent.agent.record_keeper import RecordKeeper
from flower_agent.commands import own_superlink, recording, submit
from flower_agent.config import sources
from flower_agent.config.sources import Intake
from flower_agent.cycle import AppHost, Running
from flower_agent.host.machine import HostFacts
from flower_agent.model import pem, record
from flower_agent.model.errors import AgentError
from flower_agent.model.record import Entry, Event
from flower_agent.model.state import State
from flower_agent.runs.app_directories import AppDirectories
from flower_agent.runs.follower import IDLE_LIST_S, SUBMITTER_S, Follower
from flower_agent.runs.store import RunFiles
from flower_agent.runs.submitter import Submitter
from flower_agent.tls.store import Keyring

SCHEMA = json.loads((pathlib.Path(__file__).parents[2] / "docs/audit.schema.json").read_text())
IMAGE = "flwr/superlink:1.25.0"


class Day:
    """A SuperLink's VM with its daemon's part in the record."""

    def __init__(self, vm):
        self.vm, self.paths, self.now, self.state = vm, vm.paths, 1000.0, State()
        self._stack, self.api = contextlib.ExitStack(), None
        self.restart()

    def restart(self):
        self.keeper = RecordKeeper(self.paths, clock=lambda: self.now)
        self.intake = Intake(self.paths)
        files, threads = RunFiles(self.paths.runs), Inline()
        apps = AppDirectories(self.paths, threads, None)
        self.follower = Follower(threads, files, apps)
        self.submitter = Submitter(threads, Repository(), self, files, self.follower)

    def build(self, _image, files):
        return json.dumps({name: data.decode() for name, data in files.items()}).encode()

    def lacking(self, *_):
        return ()

    def context(self, **changes):
        """Change the context, and let the daemon read it."""
        self.vm.context |= changes
        self.vm.command("runs")
        self.keeper.read(self.intake, new=self.intake.read())
        if self.api is None:
            self.api = self._stack.enter_context(own_superlink.reach(self.paths)).api
        self.turn()

    def turn(self, times=1):
        for _ in range(times):
            made = cycle_of(
                settings=self.intake.good, variables={}, client=None,
                host=HostFacts((), None, 2**31, "boot"), keyring=Keyring(self.paths.tls),
                now=datetime.datetime.now(datetime.UTC), monotonic=self.now, state=self.state,
            )  # fmt: skip
            running = Running(made.seen.now, None, IMAGE, AppHost(IMAGE, made.seen.now, keeps=True))
            self.follower.follow(made, running, lambda: _Kept(self.api), 1 << 30)
            self.submitter.follow(made, 2, IMAGE, lambda: _Kept(self.api))
            self.keeper.took(made)
            self.keeper.settle(made, self.state)
            self.state = made.state
            self.now += 1

    def by_flwr(self):
        """Submit a run as ``flwr run`` does through a tunnel."""
        self.now += IDLE_LIST_S
        with own_superlink.reach(self.paths) as own:
            return own.api.start_run(b"x", (), "default", 5)

    def by_command(self):
        """Submit a run as ``flower-agent submit`` does, but for the bundle."""
        self.now += IDLE_LIST_S
        entry = Entry(what=Event.RUN_SUBMITTED, app="ab" * 32, name="digits 1.0.0")
        with (
            own_superlink.reach(self.paths) as own,
            recording.attempted(self.paths, entry) as noted,
        ):
            run_id = own.api.start_run(b"y", (), "default", 5)
            noted.add(run=run_id)
        RunFiles(self.paths.runs).submitted(run_id, {"by": recording.caller()})
        return run_id

    def end(self, run_id, how="completed"):
        self.vm.link.runs[int(run_id)].end(how)
        self.turn(3)

    def entries(self):
        with record_file.reading(self.paths.audit) as (lines, _):
            return [json.loads(held.data) for held in lines]

    def story(self, *more):
        keys = ("who", "what", "result", *more)
        return [tuple(each.get(key, "") for key in keys) for each in self.entries()]


class _Kept:
    """The same API for another call, which must not close it."""

    def __init__(self, api):
        self._api = api

    def __getattr__(self, name):
        return getattr(self._api, name)

    def close(self):
        pass


@pytest.fixture
def day(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "alice")
    with superlink_vm.running("1.25.0", tmp_path, capsys) as vm:
        made = Day(vm)
        made.context()
        yield made
        made._stack.close()


def test_the_record_answers_who_ran_what_where_for_a_day(day):
    vm = day.vm
    key = vm.key()
    vm.run("register", key)
    (node,) = [node_id for node_id, _ in vm.link.nodes.values()]
    day.context(CUSTOM_APP_REPO="https://bot:hunter2@git.example.org/app@main")
    day.turn(6)
    (of_context,) = vm.link.runs
    day.end(of_context)
    by_alice = day.by_command()
    day.turn(2)
    vm.command("stop", by_alice)
    vm.command("stop", by_alice)
    day.turn(3)
    stranger = day.by_flwr()
    day.turn(int(SUBMITTER_S) + 8)
    day.end(stranger, "failed")
    vm.command("runs", "delete", str(of_context))
    vm.run("unregister", str(node))
    vm.command("tls", "trust", "ab" * 32)
    runs = {str(of_context): "context", by_alice: "alice", stranger: "stranger", "": ""}
    told = [(who, what, result, runs[run]) for who, what, result, run in day.story("run")]
    assert told == [
        ("agent", "agent.version", "done", ""),
        ("context", "settings.changed", "done", ""),
        ("local:alice", "key.registered", "done", ""),
        ("context", "settings.changed", "done", ""),
        ("context", "run.submitted", "done", "context"),
        ("context", "run.started", "done", "context"),
        ("agent", "run.ended", "done", "context"),
        ("local:alice", "run.submitted", "done", "alice"),
        ("local:alice", "run.started", "done", "alice"),
        ("local:alice", "run.stop_requested", "done", "alice"),
        ("local:alice", "run.stop_requested", "refused", "alice"),
        ("agent", "run.ended", "stopped", "alice"),
        ("unknown", "run.submitted", "done", "stranger"),
        ("unknown", "run.started", "done", "stranger"),
        ("agent", "run.ended", "failed", "stranger"),
        ("local:alice", "run.deleted", "done", "context"),
        ("local:alice", "key.unregistered", "done", ""),
        ("local:alice", "trust.requested", "done", ""),
    ]
    shown = pem.node_key_fingerprint(key)
    assert [(e["key"], e["node"]) for e in day.entries() if e["what"] == "key.registered"] == [
        (shown, str(node))
    ]
    assert vm.command("audit", "--verify")[0] == 0
    assert b"hunter2" not in day.paths.audit.read_bytes()


def test_every_entry_of_a_day_fits_the_schema(day):
    day.by_command()
    day.turn(4)
    day.context(FLOWER_FLEET_PORT="99999")
    day.vm.run("unregister", "7")
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    for each in day.entries():
        validator.validate(each)
    assert {each["result"] for each in day.entries()} == {"done", "refused"}
    assert sorted(SCHEMA["properties"]["what"]["enum"]) == sorted(map(str, Event))
    assert sorted(SCHEMA["properties"]["result"]["enum"]) == sorted(map(str, record.Result))


def test_an_agent_restarted_in_mid_run_records_its_begin_once(day):
    run_id = day.by_command()
    day.turn(3)
    day.restart()
    day.context()
    day.turn(3)
    day.end(run_id)
    day.restart()
    day.context()
    day.turn(3)
    assert [what for _, what, _ in day.story()][2:] == ["run.submitted", "run.started", "run.ended"]


def test_a_submission_that_the_superlink_refuses_is_recorded_and_counted(day):
    day.vm.link.federation = "other"
    day.context(CUSTOM_APP_REPO="https://git.example.org/app@main")
    day.turn(6)
    (refused,) = [each for each in day.entries() if each["what"] == "run.submitted"]
    assert (refused["who"], refused["result"]) == ("context", "refused")
    assert "run" not in refused


def test_submit_records_the_hash_that_flower_has(day, monkeypatch):
    app = pathlib.Path(__file__).parents[2] / "contrib/app"
    monkeypatch.setattr(submit, "_bundle", lambda *_: b"the bundle")
    monkeypatch.setattr(submit, "sentences", lambda *_, **__: ())
    code, out, _ = day.vm.command("submit", str(app), "--detach")
    assert code == 0
    (entry,) = [each for each in day.entries() if each["what"] == "run.submitted"]
    assert entry["run"] in out
    assert entry["who"] == "local:alice"
    assert entry["app"] == record.hashlib.sha256(b"the bundle").hexdigest()
    assert entry["message"] == str(app)


def test_a_command_works_where_the_record_cannot_be_written(day):
    run_id = day.by_flwr()
    day.paths.audit.unlink()
    day.paths.audit.mkdir()
    code, out, said = day.vm.command("stop", run_id)
    assert (code, out) == (0, f"run {run_id} is stopped\n")
    assert said.startswith("warning: record.unwritable: ")
    assert "  fix: " in said


def test_a_failed_command_is_recorded_with_its_error(day):
    day.vm.command("stop", "7")
    last = day.entries()[-1]
    assert (last["what"], last["run"], last["result"]) == ("run.stop_requested", "7", "refused")
    assert last["message"].startswith("control.refused: ")


def test_the_record_is_printed_for_a_person_and_as_it_is(day):
    code, out, _ = day.vm.command("audit")
    assert code == 0
    assert "  context         settings.changed  set: " in out
    assert day.vm.command("audit", "--json")[1] == day.paths.audit.read_text()
    assert day.vm.command("audit", "--since", "2999-01-01T00:00:00Z")[1] == (
        "the record has no entry since\n"
    )
    assert day.vm.command("audit", "--since", "1h")[1] == out


def test_verify_names_the_first_line_that_is_wrong(day):
    whole = day.paths.audit.read_bytes()
    code, out, _ = day.vm.command("audit", "--verify")
    head = json.loads(whole.splitlines()[-1])["hash"]
    assert (code, out) == (0, f"2 entries, none removed, changed or cut\nhead  2  {head}\n")
    assert day.vm.command("audit", "--head", head)[0] == 0
    code, _, said = day.vm.command("audit", "--verify", "--head", "a" * 64)
    assert (code, f"no entry has the hash {'a' * 64}" in said) == (1, True)
    day.paths.audit.write_bytes(whole.replace(b"context", b"nobody!"))
    code, _, said = day.vm.command("audit", "--verify")
    assert code == 1
    assert said.startswith("record.damaged: audit.jsonl line 2 was changed: its hash is not")
    day.paths.audit.write_bytes(whole.splitlines(keepends=True)[0])
    assert "entry 2 was removed from the end" in day.vm.command("audit", "--verify")[2]
    day.paths.audit.write_bytes(whole[:-20])
    assert "audit.jsonl line 2 was cut" in day.vm.command("audit", "--verify")[2]
    assert "? audit.jsonl line 2 is no entry" in day.vm.command("audit")[1]


def test_a_vm_without_a_record_says_so(tmp_path, capsys):
    with superlink_vm.running("1.25.0", tmp_path, capsys) as vm:
        assert vm.command("audit") == (0, "the record has no entries\n", "")
        assert vm.command("audit", "--verify") == (0, "the record has no entries\n", "")


def test_the_settings_of_a_wrong_role_change_nothing_in_the_record(day):
    before = len(day.entries())
    day.vm.context["FLOWER_ROLE"] = "client"
    day.vm.context |= {"FLOWER_SERVER_ADDRESS": "127.0.0.1", "TLS_CA_CERT": "system"}
    assert day.vm.command("stop", "7")[0] == 1
    assert len(day.entries()) == before
    with pytest.raises(AgentError), own_superlink.reach(day.paths):
        sources.read(day.paths)
