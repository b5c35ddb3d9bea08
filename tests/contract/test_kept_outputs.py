"""What running apps leave on a VM, with the program that Flower's user runs on it in a container.

The program runs here as a process; in its container it is tried in tests/federation.
"""

import datetime
import json
import os
import subprocess
import sys

import pytest
from inline import Inline

from flower_agent.config import parsing
from flower_agent.cycle import AppHost
from flower_agent.model.errors import AgentError
from flower_agent.paths import Paths
from flower_agent.runs import app_directories
from flower_agent.runs.app_directories import AppDirectories

NOW = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
T = NOW.timestamp()
TREES = """\
import sys
from flower_agent.launcher import trees
trees.RUNS = {runs!r}
trees.main()
"""


class Vm:
    """A VM whose apps ended before the container that ran them."""

    def __init__(self, place, root):
        self.paths = Paths(place)
        found = parsing.parse({"FLOWER_ROLE": "server"}, {}).settings
        app_directories.prepare(self.paths, found)
        self.live, self.runs = self.paths.live_runs, self.paths.runs
        self.done = []
        self.trouble = {}
        self.made_anew = ()
        self.monotonic = 1000.0
        self._root = root
        self.apps = AppDirectories(self.paths, Inline(), self.one_shot)
        self.host = AppHost("image", NOW - datetime.timedelta(hours=30), keeps=True)

    def one_shot(self, image, command, mounts):
        assert image == "image"
        assert mounts["/runs"] == (str(self.runs), True)
        words = command[4:]
        self.done.append(" ".join(words[:2]))
        if words[1:2] and words[1] in self.trouble:
            raise AgentError("run.outputs", "no room", retryable=True)
        text = TREES.format(runs=str(self.runs))
        done = subprocess.run(
            [sys.executable, "-c", text, *words], capture_output=True, check=False, cwd=self._root
        )
        for name in self.made_anew:
            (self.live / name).mkdir(exist_ok=True)
        if done.returncode:
            raise AgentError("run.outputs", done.stderr.decode()[-200:], retryable=True)
        return done.stdout

    def run(self, name, **end):
        """Let a run be there: its directory with a model, and its process' end."""
        (self.live / name / "work").mkdir(parents=True)
        (self.live / name / "work/model.bin").write_bytes(b"model")
        self.end(name, **end)

    def end(self, name, began_at=T - 100, ended_at=T - 50, program="flwr-serverapp", **more):
        document = {"run": name, "program": program, "began_at": began_at, "own": True, **more}
        document["ended_at"] = ended_at
        path = self.live / f"ends/{name}.{len(self.done)}-{began_at:.0f}.json"
        path.write_text(json.dumps(document))

    def settle(self, times=2, *, finished=(), limit=0):
        for _ in range(times):
            self.apps.settle(self.host, NOW, self.monotonic, limit, finished)
            self.monotonic += 1

    def kept(self):
        return sorted(path.parent.name for path in self.runs.glob("*/outputs.json"))


@pytest.fixture
def vm(tmp_path, request):
    return Vm(tmp_path, request.config.rootpath)


def test_a_run_that_is_over_is_taken_away_and_listed(vm):
    vm.run("7")
    vm.settle()
    assert vm.kept() == ["7"]
    assert (vm.runs / "7/outputs/model.bin").read_bytes() == b"model"
    assert not (vm.live / "7").exists()
    assert vm.done == ["archive 7", "live 7"]
    vm.settle(5)
    assert vm.done == ["archive 7", "live 7"]


@pytest.mark.parametrize("end", [{"ended_at": None}, {"ended_at": None, "began_at": T}])
def test_a_run_whose_process_lives_is_left_alone(vm, end):
    vm.run("7", **end)
    vm.settle()
    assert vm.done == []


@pytest.mark.parametrize(
    "end",
    [{"ended_at": None}, {"began_at": T + 1e6, "ended_at": None}, {"ended_at": T + 1e6}],
)
def test_what_flower_calls_finished_is_over_whatever_its_process_wrote(vm, end):
    vm.run("7", **end)
    vm.settle(finished={"7"})
    assert vm.kept() == ["7"]


def test_an_end_in_the_future_keeps_nothing_for_ever(vm):
    vm.run("7", began_at=T + 1e6, ended_at=None)
    vm.run("8", ended_at=T + 1e6)
    vm.settle(4)
    assert vm.kept() == ["7", "8"]


def test_a_container_that_was_restarted_ended_its_apps(vm):
    vm.run("7", ended_at=None)
    vm.host = AppHost("image", NOW, keeps=True)
    vm.settle()
    assert vm.kept() == ["7"]


def test_a_later_app_cannot_add_to_a_run_that_is_kept(vm):
    vm.run("7")
    vm.settle()
    before = (vm.runs / "7/outputs.json").read_bytes()
    vm.run("7")
    (vm.live / "7/work/evil.bin").write_bytes(b"x" * 10)
    vm.settle(limit=6)
    assert (vm.runs / "7/outputs.json").read_bytes() == before
    assert [path.name for path in (vm.runs / "7/outputs").iterdir()] == ["model.bin"]
    assert not (vm.live / "7").exists()


def test_what_cannot_be_done_for_one_run_holds_up_no_other_and_rests(vm):
    vm.run("1")
    vm.run("2")
    vm.trouble = {"1"}
    vm.settle(10)
    assert vm.kept() == ["2"]
    assert vm.done.count("archive 1") == 1
    assert [found.code for found in vm.apps.findings()] == []  # the last one went well
    vm.trouble = {}
    vm.monotonic += app_directories.RETRY_S
    vm.settle()
    assert vm.kept() == ["1", "2"]


@pytest.mark.parametrize("name", ["7", "junk"])
def test_what_an_app_makes_anew_at_once_is_not_removed_at_once(vm, name):
    vm.made_anew = (name,)
    vm.run("7")
    vm.settle(3, finished=("7",))
    once = list(vm.done)
    vm.settle(10, finished=("7",))
    assert vm.done == once
    assert len(once) <= 3
    vm.made_anew = ()
    vm.monotonic += 100
    vm.settle(3, finished=("7",))
    assert list(vm.live.glob(name)) == []


def test_an_agent_that_ends_in_between_lists_the_outputs_again(vm):
    vm.run("7")
    (vm.runs / "7").mkdir()
    words = ("python", "-I", "-S", "trees.py", "archive", "7", "0")
    vm.one_shot("image", words, {"/runs": (str(vm.runs), True)})
    assert vm.kept() == []
    vm.settle()
    assert vm.kept() == ["7"]
    assert json.loads((vm.runs / "7/outputs.json").read_text())["count"] == 1


def test_a_node_keeps_the_directory_while_its_run_may_go_on(vm):
    vm.host = AppHost("image", vm.host.started_at, keeps=False)
    vm.run("7", program="flwr-clientapp", ended_at=T - 2 * app_directories.IDLE_S)
    vm.settle()
    assert vm.done == []
    vm.end("8", program="flwr-clientapp", began_at=T - 10, ended_at=None)
    vm.settle()
    assert vm.done == ["live 7"]
    assert vm.kept() == []


def test_a_node_forgets_the_directory_after_a_day(vm):
    vm.host = AppHost("image", vm.host.started_at, keeps=False)
    vm.run("7", program="flwr-clientapp", began_at=T - 100_000, ended_at=T - 90_000)
    vm.settle()
    assert vm.done == ["live 7"]


@pytest.mark.parametrize("name", ["launches.json", "usage.json"])
@pytest.mark.parametrize("text", ["[" * 8192, "{", "[]", '{"bytes": -1, "unknown": 7}', '"x"'])
def test_what_an_app_puts_there_is_bounded_and_survived(vm, name, text):
    (vm.live / name).write_text(text)
    vm.run("7")
    assert vm.apps.live_bytes() == 0
    assert len(str(vm.apps.findings())) < 1000
    vm.settle()
    assert vm.kept() == ["7"]


def test_pipes_links_and_foreign_files_among_the_ends_are_passed_by(vm):
    vm.run("7")
    os.mkfifo(vm.live / "ends/pipe.json")
    (vm.live / "ends/link.json").symlink_to("/etc/passwd")
    (vm.live / "ends/large.json").write_bytes(b"x" * 10_000_000)
    (vm.live / "ends/directory.json").mkdir()
    assert [end.run for end in vm.apps.ends()] == ["7"]


def test_what_lies_beside_the_runs_is_swept_once_no_app_runs(vm):
    (vm.live / "junk").mkdir()
    (vm.live / "big.bin").write_bytes(b"x")
    vm.run("7", ended_at=None)
    vm.settle()
    assert vm.done == []
    vm.settle(6, finished={"7"})
    assert sorted(path.name for path in vm.live.iterdir()) == ["ends"]


def test_an_unknown_way_of_starting_apps_is_a_warning_in_our_words(vm):
    (vm.live / "launches.json").write_text('{"unknown": "patient 4711"}')
    (found,) = vm.apps.findings()
    assert found.code == "run.launch_unknown"
    assert "4711" not in found.message


def test_a_change_is_seen_once(vm):
    vm.apps.ends()
    assert not vm.apps.changed()
    vm.run("7")
    assert vm.apps.changed()
    vm.apps.ends()
    assert not vm.apps.changed()
