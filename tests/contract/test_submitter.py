"""A SuperLink's run of the context: once, whatever is killed, lost, moved or changed.

The Control API is spoken for real with a small SuperLink; git and the bundler are small doubles
(test_git and test_bundler hold the real ones). The clock is the tests'; calls beside the loop are
done at once.
"""

import datetime
import hashlib
import json

import pytest
from app_repository import PYPROJECT, Repository
from cycles import attributes_of, cycle_of
from fake_superlink import FakeSuperLink
from inline import Held, Inline

from flower_agent.config import parsing
from flower_agent.config.flower_versions import Transport
from flower_agent.cycle import AppHost, Running
from flower_agent.flower.control_client import Control
from flower_agent.host.machine import HostFacts
from flower_agent.model import errors
from flower_agent.model.errors import CloneError
from flower_agent.model.state import State
from flower_agent.model.status import Mark, Node
from flower_agent.paths import Paths
from flower_agent.runs.app_directories import AppDirectories
from flower_agent.runs.follower import Follower
from flower_agent.runs.store import RunFiles
from flower_agent.runs.submission import AGAIN_MAX_S, AGAIN_S
from flower_agent.runs.submitter import WATCH_S, Submitter
from flower_agent.tls.store import Keyring

REPO = {"CUSTOM_APP_REPO": "https://bot:hunter2@git.example.org/app@main"}
IMAGE = "flwr/superlink:1.25.0"
ROUND = "INFO : [ROUND {}/3]\nINFO :   └──> Aggregated MetricRecord: {{'loss': {}}}\n"


class Vm:
    """A SuperLink's VM: its submitter turns, its agent may be restarted."""

    def __init__(self, directory, superlink, address):
        self.superlink = superlink
        self.repository = Repository()
        self.variables = {"FLOWER_ROLE": "server", **REPO}
        self.online = 2
        self.now = 1000.0
        self.vmid = "41"
        self.built = []
        self.looked = []
        self._directory = directory
        self._address = address
        self.restart()

    def restart(self, threads=None):
        files, threads = RunFiles(self._directory / "runs"), threads or Inline()
        apps = AppDirectories(Paths(self._directory / "root"), threads, None)
        self.follower = Follower(threads, files, apps)
        self.submitter = Submitter(threads, self.repository, self, files, self.follower)

    def build(self, image, files):
        self.built.append(image)
        return json.dumps({name: data.decode() for name, data in files.items()}).encode()

    def lacking(self, image, dependencies):
        self.looked.append((image, *dependencies))
        return tuple(need for need in dependencies if need.startswith("torch"))

    def turn(self, times=1, **more):
        """Make turns; return the last."""
        parsed = parsing.parse(self.variables, {})
        for _ in range(times):
            turn = cycle_of(
                settings=parsed.settings,
                variables={},
                host=HostFacts((), None, 2**31, "boot"),
                keyring=Keyring(self._directory / "tls"),
                client=None,
                now=datetime.datetime.now(datetime.UTC),
                monotonic=self.now,
                state=State(vmid=self.vmid),
                **more,
            )
            connect = lambda: Control(self._address, Transport.GRPC, None)  # noqa: E731
            apps = AppHost(IMAGE, turn.seen.now, keeps=True)
            self.follower.follow(turn, Running(turn.seen.now, None, IMAGE, apps), connect, 1 << 30)
            self.submitter.follow(turn, self.online, IMAGE, connect)
            self.now += 1
        return turn

    def told(self, times=1):
        return attributes_of(self.turn(times)).get("FLOWER_RUN")

    def warnings(self):
        return {found.code: found for found in self.turn().report.warnings}

    @property
    def run(self):
        (run,) = self.superlink.runs.values()
        return run

    def file(self, name):
        return next((self._directory / "runs").glob(name)).read_text()


@pytest.fixture
def vm(tmp_path):
    superlink = FakeSuperLink()
    with superlink.serve(Transport.GRPC) as address:
        yield Vm(tmp_path, superlink, address)


def test_an_app_is_fetched_waits_for_nodes_is_submitted_and_followed_to_its_end(vm):
    vm.online = 0
    assert vm.told() == "preparing"
    assert vm.told() == "waiting 0 of 2 nodes"
    vm.online = 1
    assert vm.told() == "waiting 1 of 2 nodes"
    vm.online = 2
    assert vm.told() == "submitting"
    assert vm.told() == "submitted"
    assert vm.told(2) == "pending"
    vm.run.status = "running"
    assert vm.told(2) == "running"
    vm.run.say(ROUND.format(1, 0.5))
    assert vm.told(2) == "running 1 of 3"
    vm.run.say(ROUND.format(2, 0.25))
    turn = vm.turn(2)
    assert attributes_of(turn)["FLOWER_RUN"] == "running 2 of 3"
    assert "loss 0.25" in turn.report.conditions["run"].detail
    vm.run.end("completed")
    turn = vm.turn(2)
    assert attributes_of(turn)["FLOWER_RUN"] == "finished"
    assert turn.report.conditions["run"].mark is Mark.OK
    assert turn.report.warnings == []


def test_the_bundle_and_the_config_reach_the_superlink_and_no_login_does(vm):
    vm.variables |= {"FL_NUM_ROUNDS": "7", "FL_CONFIG_LR": "1"}
    vm.turn(4)
    assert vm.built == [IMAGE]
    assert json.loads(vm.run.bundle)["pyproject.toml"] == PYPROJECT.decode()
    assert vm.run.config == {"num-server-rounds": ((8, 14),), "lr": ((1, 1.0),)}
    assert "hunter2" not in vm.file("context.json")


def test_log_metrics_and_end_are_kept_as_files(vm):
    vm.turn(4)
    vm.run.status = "running"
    vm.run.say(ROUND.format(1, 0.5) + ROUND.format(2, 0.25))
    vm.turn(2)
    vm.run.end("completed")
    vm.turn(2)
    assert vm.file("[0-9]*/log.txt") == ROUND.format(1, 0.5) + ROUND.format(2, 0.25)
    rows = [json.loads(line) for line in vm.file("[0-9]*/metrics.jsonl").splitlines()]
    assert rows == [
        {"round": 1, "train": {"loss": 0.5}},
        {"round": 2, "train": {"loss": 0.25}},
    ]
    end = json.loads(vm.file("[0-9]*/run.json"))
    assert (end["end"], end["commit"]) == ("finished", "a" * 40)
    assert end["source"] == "https://git.example.org/app@main"


def node(node_id, vmid, state="online"):
    return Node(node_id=node_id, vmid=vmid, state=state, gpu=None, seen_at=None)


def test_the_nodes_that_were_connected_while_a_run_was_active_are_kept(vm):
    there = node("11", "42")
    later, away = node("12", None), node("13", "44", "offline")
    vm.turn(4)
    vm.run.status = "running"
    vm.turn(supernodes=(there, away))
    vm.turn(supernodes=(later,))
    vm.run.end("completed")
    vm.turn(2)
    vm.turn(supernodes=(node("14", "45"),))
    kept = json.loads(vm.file("[0-9]*/run.json"))["nodes"]
    assert kept == [{"node_id": "11", "vmid": "42"}, {"node_id": "12", "vmid": None}]


@pytest.mark.parametrize("turns", range(1, 9))
def test_an_agent_killed_at_any_turn_submits_once(vm, turns):
    for _ in range(turns):
        vm.turn()
        vm.restart()
    vm.turn(6)
    vm.run.end("completed")
    vm.turn(2)
    vm.restart()
    assert vm.told() == "finished"
    assert len(vm.superlink.runs) == 1


def test_a_submission_whose_answer_was_lost_is_found_and_not_made_again(vm):
    vm.superlink.lose_reply = True
    vm.turn(3)
    vm.restart()
    vm.turn(3)
    assert vm.told() == "pending"
    assert len(vm.superlink.runs) == 1


def test_a_lost_answer_without_a_restart_is_found_too(vm):
    vm.superlink.lose_reply = True
    vm.turn(3)
    assert vm.told().startswith("failed: control.unavailable")
    vm.now += AGAIN_S
    vm.turn(3)
    assert vm.told() == "pending"
    assert len(vm.superlink.runs) == 1


def test_a_moved_branch_is_shown_and_not_run(vm):
    vm.turn(4)
    vm.run.end("completed")
    vm.turn(2)
    assert "run.moved" not in vm.warnings()
    vm.repository.commit = "b" * 40
    vm.restart()
    vm.turn(2)
    found = vm.warnings()["run.moved"]
    assert found.message.startswith("https://git.example.org/app@main is at bbbbbbbbbb now")
    assert len(vm.superlink.runs) == 1
    assert vm.repository.fetched == ["main"]


def test_a_run_waits_for_what_its_app_wants_and_is_then_submitted_once(vm):
    held = vm.turn(3, app_lacks=True)
    assert attributes_of(held)["FLOWER_RUN"] == "waiting for the app image"
    assert vm.superlink.runs == {}
    vm.turn(3)
    assert len(vm.superlink.runs) == 1


def test_a_branch_that_moves_while_nodes_are_awaited_is_not_run(vm):
    vm.online = 0
    vm.turn(2)
    vm.repository.commit = "b" * 40
    vm.restart()
    vm.online = 2
    vm.turn(4)
    assert "a" * 40 in vm.file("context.json")
    assert "run.moved" in vm.warnings()


def test_a_branch_is_asked_for_seldom_and_a_silent_host_says_nothing(vm):
    asked = []
    resolve = vm.repository.resolve
    vm.repository.resolve = lambda source: asked.append(source) or resolve(source)
    vm.turn(100)
    assert len(asked) == 1
    vm.now += WATCH_S
    vm.repository.trouble = CloneError("run.clone", "away", retryable=True)
    vm.turn(2)
    assert len(asked) == 2
    assert "run.clone" not in vm.warnings()


def test_a_commit_never_moves_and_is_never_asked_for(vm):
    vm.variables["CUSTOM_APP_REPO"] = f"https://git.example.org/app@{'c' * 40}"
    vm.repository.resolve = None
    vm.turn(6)
    assert vm.told() == "pending"


def test_a_changed_context_is_submitted_after_the_active_run(vm):
    vm.turn(5)
    vm.variables["FL_NUM_ROUNDS"] = "9"
    turn = vm.turn(3)
    assert turn.report.conditions["next_run"].detail == "the changed context applies after this run"
    assert len(vm.superlink.runs) == 1
    vm.run.end("completed")
    vm.turn(6)
    first, second = vm.superlink.runs.values()
    assert (first.config, second.config) == ({}, {"num-server-rounds": ((8, 18),)})
    assert vm.told() == "pending"


def test_an_upgraded_agent_submits_no_run_again(vm, tmp_path):
    vm.turn(4)
    vm.run.end("completed")
    vm.turn(2)
    kept = tmp_path / "runs/context.json"
    asked = ("https://git.example.org/app@main", 3, "FedAvg", 2, ())
    older = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "key": older}))
    vm.restart()
    vm.turn(4)
    assert len(vm.superlink.runs) == 1
    vm.restart()
    vm.variables["FL_NUM_ROUNDS"] = "3"
    vm.turn(6)
    assert len(vm.superlink.runs) == 2


def test_a_changed_branch_takes_the_newest_commit(vm):
    vm.turn(5)
    vm.run.end("completed")
    vm.turn(2)
    vm.repository.commit = "b" * 40
    vm.variables["FL_NUM_ROUNDS"] = "9"
    vm.turn(4)
    assert "b" * 40 in vm.file("context.json")


def test_a_failed_run_says_why_and_is_not_submitted_again(vm):
    vm.turn(4)
    vm.run.say("Traceback (most recent call last):\nValueError: no data in /app/data\n")
    vm.run.end("failed")
    turn = vm.turn(2)
    assert attributes_of(turn)["FLOWER_RUN"] == "failed: ValueError"
    (found,) = turn.report.warnings
    assert found.code == "run.failed"
    assert found.message.endswith("failed: ValueError")
    assert found.hint.startswith("flower-agent runs show ")
    assert "no data" not in repr(
        (attributes_of(turn), turn.report.conditions, turn.report.warnings)
    )  # others read these
    assert json.loads(vm.file("[0-9]*/run.json"))["cause"] == "ValueError: no data in /app/data"
    vm.now += 10 * AGAIN_MAX_S
    vm.restart()
    assert vm.told(3) == attributes_of(turn)["FLOWER_RUN"]
    assert len(vm.superlink.runs) == 1


def test_a_stopped_run_stays_stopped(vm):
    vm.turn(4)
    vm.run.end("stopped")
    turn = vm.turn(2)
    assert (attributes_of(turn)["FLOWER_RUN"], turn.report.warnings) == ("stopped", [])


def test_a_lost_database_is_told_and_the_run_is_not_made_again(vm):
    vm.turn(5)
    vm.superlink.lose()
    turn = vm.turn(6)
    assert (
        attributes_of(turn)["FLOWER_RUN"] == "failed: the SuperLink does not know the run any more"
    )
    assert [found.code for found in turn.report.warnings] == ["run.lost"]
    assert vm.superlink.runs == {}


def test_a_host_that_is_away_is_asked_again_with_growing_pauses(vm):
    vm.repository.trouble = CloneError("run.clone", "could not resolve host", retryable=True)
    vm.turn()
    for pause in (30, 60, 120, 240, 480, 600, 600):
        turn = vm.turn()
        assert attributes_of(turn)["FLOWER_RUN"] == "failed: run.clone: could not resolve host"
        assert turn.report.conditions["run"].mark is Mark.BAD
        assert turn.next_s <= pause
        vm.now += pause - 2
        assert vm.told() == "failed: run.clone: could not resolve host"
        assert vm.told() == "preparing"
    vm.repository.trouble = None
    vm.turn()
    vm.now += AGAIN_MAX_S
    vm.turn(4)
    assert len(vm.superlink.runs) == 1


@pytest.mark.parametrize("code", ["run.denied", "run.no_ref", "run.too_large", "run.build"])
def test_what_does_not_pass_by_itself_is_a_warning_with_its_remedy_and_asked_seldom(vm, code):
    vm.repository.trouble = errors.kind(code)(code, "so it is", retryable=True)
    turn = vm.turn(2)
    assert attributes_of(turn)["FLOWER_RUN"] == f"failed: {code}: so it is"
    (found,) = turn.report.warnings
    assert (found.code, bool(found.hint)) == (code, True)
    vm.now += AGAIN_MAX_S - 5
    assert vm.told() == f"failed: {code}: so it is"
    vm.now += 5
    assert vm.told() == "preparing"


def test_what_is_no_app_is_told(vm):
    vm.repository.files = {"README.md": b""}
    found = vm.warnings() or vm.warnings()
    assert "there is no pyproject.toml" in found["run.no_app"].message


def test_a_value_of_the_wrong_type_is_told_and_a_corrected_one_is_tried_at_once(vm):
    vm.variables["FL_CONFIG_LR"] = "fast"
    vm.turn()
    assert "FL_CONFIG_LR sets lr" in vm.warnings()["run.config"].message
    vm.variables["FL_CONFIG_LR"] = "0.5"
    vm.turn(4)
    assert vm.run.config["lr"] == ((1, 0.5),)


def test_what_the_app_does_not_read_stays_a_warning_over_restarts(vm):
    vm.variables["FL_STRATEGY"] = "FedProx"
    vm.turn(4)
    vm.run.end("completed")
    vm.turn(2)
    vm.restart()
    assert vm.warnings()["run.unread"].message.startswith("FL_STRATEGY is set, but me/mine")


def test_a_superlink_that_refuses_is_told_in_its_words(vm):
    vm.superlink.federation = "another"
    vm.turn(3)
    assert "Federation '' does not exist" in vm.warnings()["run.refused"].message


def test_a_bundle_that_was_damaged_is_made_anew_of_the_same_commit(vm, tmp_path):
    vm.online = 0
    vm.turn(2)
    (tmp_path / "runs/context.fab").write_bytes(b"damaged")
    vm.repository.commit = "b" * 40
    vm.online = 2
    vm.turn(5)
    assert vm.repository.fetched == ["main", "a" * 40]
    assert json.loads(vm.run.bundle)["pyproject.toml"] == PYPROJECT.decode()


def test_without_an_app_nothing_is_said_and_a_taken_away_one_is_followed_to_its_end(vm):
    del vm.variables["CUSTOM_APP_REPO"]
    turn = vm.turn()
    assert (dict(attributes_of(turn)), dict(turn.report.conditions)) == ({}, {})
    vm.variables |= REPO
    vm.turn(4)
    del vm.variables["CUSTOM_APP_REPO"]
    assert vm.told(2) == "pending"
    vm.run.end("completed")
    assert vm.told(3) == "finished"
    assert json.loads(vm.file("[0-9]*/run.json"))["by"] == "context"


def test_an_app_that_was_taken_away_before_its_submission_is_never_submitted(vm):
    vm.online = 0
    vm.turn(2)
    del vm.variables["CUSTOM_APP_REPO"]
    vm.online = 2
    vm.turn(3)
    assert vm.superlink.runs == {}


def test_a_cloned_disk_submits_its_own_run(vm):
    vm.turn(4)
    vm.run.end("completed")
    vm.turn(2)
    vm.vmid = "99"
    vm.restart()
    vm.turn(4)
    assert len(vm.superlink.runs) == 2


def test_the_next_vm_of_a_state_disk_does_not_submit_the_run_again(vm):
    vm.turn(4, state_outlives_vm=True)
    vm.run.end("completed")
    vm.turn(2, state_outlives_vm=True)
    vm.vmid = "99"
    vm.restart()
    vm.turn(4, state_outlives_vm=True)
    assert len(vm.superlink.runs) == 1


NEEDS = PYPROJECT.replace(
    b'version = "1.0"', b'version = "1.0"\ndependencies = ["numpy", "torch>=2"]'
)


def test_what_the_image_lacks_is_a_warning_until_the_run_is_over(vm):
    vm.repository.files = {"pyproject.toml": NEEDS}
    vm.turn(4)
    found = vm.warnings()["run.dependency"]
    assert found.message == "me/mine 1.0 needs torch>=2, which flwr/superexec:1.25.0 lacks"
    vm.turn(20)
    assert vm.looked == [("flwr/superexec:1.25.0", "numpy", "torch>=2")]
    vm.run.end("completed")
    vm.turn(2)
    assert "run.dependency" not in vm.warnings()


def test_another_image_is_looked_at_anew(vm):
    vm.online = 0
    vm.repository.files = {"pyproject.toml": NEEDS}
    vm.turn(4)
    vm.variables["ML_FRAMEWORK"] = "pytorch"
    vm.now += AGAIN_MAX_S
    vm.turn(3)
    assert [image for image, *_ in vm.looked] == [
        "flwr/superexec:1.25.0",
        "flower-agent/superexec:1.25.0-pytorch",
    ]


def test_where_apps_run_elsewhere_no_image_is_looked_at(vm):
    vm.variables["FLOWER_APPIO_LISTEN"] = "10.0.0.5:9091"
    vm.repository.files = {"pyproject.toml": NEEDS}
    vm.turn(4)
    assert vm.looked == []


def test_plan_touches_nothing(vm, tmp_path):
    turn = vm.turn(3, dry=True)
    assert dict(attributes_of(turn)) == {}
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_a_warning(vm, tmp_path):
    (tmp_path / "runs").write_text("no directory")
    turn = vm.turn(2)
    assert [found.code for found in turn.report.warnings] == ["state.unwritable"]


def test_a_superlink_that_is_away_for_a_while_loses_no_run(vm):
    vm.turn(5)
    vm.superlink.trouble = ("UNAVAILABLE", 503, 1, "away")
    turn = vm.turn(3)
    assert "control.unavailable" in {found.code for found in turn.report.warnings}
    assert attributes_of(turn)["FLOWER_RUN"] == "pending"
    vm.superlink.trouble = None
    vm.run.end("completed")
    assert vm.told(8) == "finished"


def test_twenty_runs_are_kept(vm, tmp_path):
    for rounds in range(1, 24):
        vm.variables["FL_NUM_ROUNDS"] = str(rounds)
        vm.turn(4)
        newest = list(vm.superlink.runs.values())[-1]
        newest.say("hello\n")
        newest.end("completed")
        vm.turn(2)
    vm.turn(10)
    runs = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert len([run for run in runs if (run / "log.txt").exists()]) == 20
    pruned = sorted(run.name for run in runs if not (run / "log.txt").exists())
    assert pruned == sorted(run.name for run in runs)[:3]
    note = json.loads((tmp_path / "runs" / pruned[0] / "run.json").read_text())
    assert (note["end"], note["outputs_gone"]) == (
        "finished",
        "removed to make room for newer runs",
    )


@pytest.fixture
def slow(vm):
    """Return a VM whose calls beside the loop end when the test lets them."""
    vm.threads = Held()
    vm.restart(vm.threads)
    return vm


def released(vm, *names):
    """Let the calls of those names end, and turn."""
    for name in names:
        vm.turn()
        vm.threads.release("run-list")
        vm.threads.release(name)
    return vm.turn()


def test_a_run_that_was_asked_for_stays_with_its_own_context(slow):
    released(slow, "run-prepare", "run-list")
    assert slow.told() == "submitting"
    slow.variables |= {"CUSTOM_APP_REPO": "https://git.example.org/another@main"}
    turn = slow.turn()
    assert attributes_of(turn)["FLOWER_RUN"] == "submitting", (
        "which run comes of it is not known yet"
    )
    assert slow.repository.fetched == ["main"]
    slow.threads.release("run-submit")
    turn = slow.turn()
    known = json.loads(slow.file("context.json"))
    assert known["source"] == "https://git.example.org/app@main"
    assert known["run_id"] == str(next(iter(slow.superlink.runs)))
    assert turn.report.conditions["next_run"].detail == "the changed context applies after this run"
    slow.run.end("completed")
    slow.now += 60
    turn = released(slow, "run-list", f"run-look-{known['run_id']}", "run-prepare")
    assert json.loads(slow.file("context.json"))["source"] == "https://git.example.org/another@main"
    assert json.loads(slow.file("context.json"))["run_id"] is None


def test_a_corrected_repository_does_not_inherit_the_error_of_the_old_one(slow):
    slow.repository.trouble = CloneError("run.clone", "no such repository")
    slow.turn()
    slow.variables |= {"CUSTOM_APP_REPO": "https://git.example.org/right@main"}
    slow.turn()
    slow.threads.release("run-prepare")
    slow.repository.trouble = None
    turn = slow.turn()
    assert attributes_of(turn)["FLOWER_RUN"] == "preparing"
    assert [found.code for found in turn.report.warnings] == []
    turn = released(slow, "run-prepare")
    assert json.loads(slow.file("context.json"))["source"] == "https://git.example.org/right@main"


def test_an_app_that_was_prepared_for_another_context_is_not_kept(slow):
    slow.turn()
    slow.variables |= {"FL_CONFIG_LR": "0.5"}
    slow.turn()
    slow.threads.release("run-prepare")
    assert slow.told() == "preparing"
    released(slow, "run-prepare")
    assert json.loads(slow.file("context.json"))["overrides"] == [["lr", 0.5]]


def test_a_branch_that_was_looked_at_for_another_context_moved_nothing(slow):
    released(slow, "run-prepare")
    assert any(name == "run-watch" for name, _ in slow.threads.late)
    slow.repository.commit = "b" * 40
    slow.variables |= {"CUSTOM_APP_REPO": "https://git.example.org/another@main"}
    slow.threads.release("run-watch")
    turn = released(slow, "run-prepare")
    assert [found.code for found in turn.report.warnings] == []
