"""``flower-agent runs``, ``stop`` and what ``submit`` refuses, against a small SuperLink.

What needs Flower itself, a bundle and a run, is in tests/federation/test_runs.py.
"""

import json
import os
import pathlib
import subprocess

import endpoints
import pytest
import superlink_vm

from flower_agent.commands.own_superlink import reach
from flower_agent.model.errors import AgentError
from flower_agent.runs import git
from flower_agent.runs.store import RunFiles
from flower_agent.runs.submission import Submission

APP = pathlib.Path(__file__).parents[2] / "contrib/app"


@pytest.fixture(params=superlink_vm.VERSIONS)
def vm(request, tmp_path, capsys):
    with superlink_vm.running(request.param, tmp_path, capsys) as made:
        yield made


@pytest.fixture
def link(vm):
    """A SuperLink's VM; `submit` lets a run be there, as ``flwr run`` does."""
    vm.command("runs")  # writes the context

    def submit():
        with reach(vm.paths) as own:
            return own.api.start_run(b"x", (), "default", 5)

    vm.submit = submit
    return vm


def test_a_superlink_without_runs_says_so(link):
    assert link.command("runs") == (0, "the SuperLink has no runs\n", "")
    assert json.loads(link.command("runs", "--json")[1]) == {"schema": 1, "runs": []}


def test_runs_are_listed_and_the_one_of_the_context_is_marked(link):
    first, second = link.submit(), link.submit()
    known = Submission(key="", vmid=None, source="", commit="", app="", bundle="", run_id=second)
    RunFiles(link.paths.runs).keep(known)
    _, out, _ = link.command("runs")
    head, *rows = (line.split() for line in out.splitlines())
    assert head == ["RUN", "STATUS", "SUBMITTED", "TOOK", "ROUND", "METRICS", "APP", "BY"]
    assert [(row[0], row[1], row[-1] == "context") for row in rows] == [
        (first, "pending", False),
        (second, "pending", True),
    ]
    rows = json.loads(link.command("runs", "--json")[1])["runs"]
    assert [row["by"] for row in rows] == ["", "context"]


def test_a_run_is_stopped_once(link):
    run_id = link.submit()
    assert link.command("stop", run_id) == (0, f"run {run_id} is stopped\n", "")
    assert "stopped" in link.command("runs")[1]
    code, _, said = link.command("stop", run_id)
    assert code == 1
    assert said.startswith("control.refused: The SuperLink refused StopRun: ")
    assert "already finished" in said
    assert "fix:" in said


def test_an_unknown_run_cannot_be_stopped(link):
    code, _, said = link.command("stop", "7")
    assert (code, "Run ID not found" in said) == (1, True)


@pytest.mark.parametrize("run_id", ["", "x", "-7", "99999999999999999999"])
def test_what_is_no_id_is_a_usage_error(link, run_id):
    assert link.command("stop", run_id)[0] == 64


def test_submit_leaves_no_directory_of_git_and_removes_those_of_killed_commands(link):
    link.paths.runs.mkdir(parents=True, exist_ok=True)
    over = subprocess.Popen(["/bin/true"])
    over.wait()
    for name in (f"git-{over.pid}", f"git-{os.getppid()}", "git-notes"):
        (link.paths.runs / name / "git").mkdir(parents=True)
    address = endpoints.closed_port()
    code, _, said = link.command("submit", f"https://{address}/app")
    assert (code, said.startswith("run.clone: ")) == (1, True)
    left = sorted(path.name for path in link.paths.runs.glob("git-*"))
    assert left == sorted([f"git-{os.getppid()}", "git-notes"])


def test_submit_without_an_app_says_what_to_name(link):
    code, _, said = link.command("submit")
    assert code == 1
    assert said.startswith("run.no_app: no APP is named and CUSTOM_APP_REPO is not set")


def test_submit_of_what_is_no_app_is_refused(link, tmp_path):
    code, _, said = link.command("submit", str(tmp_path))
    assert (code, "there is no pyproject.toml" in said) == (1, True)
    code, _, said = link.command("submit", str(tmp_path / "none"))
    assert (code, "is neither a directory nor a repository" in said) == (1, True)


def test_submit_refuses_a_key_that_the_app_does_not_declare_or_of_another_type(link):
    code, _, said = link.command("submit", str(APP), "-c", "colour=blue")
    assert (code, "does not declare colour" in said) == (1, True)
    assert "num-server-rounds" in said
    code, _, said = link.command("submit", str(APP), "-c", "local-epochs=many")
    assert (code, "local-epochs sets local-epochs, which the app declares as int" in said) == (
        1,
        True,
    )
    assert link.command("submit", str(APP), "-c", "local-epochs")[0] == 64
    assert link.link.runs == {}


@pytest.mark.parametrize("command", [("runs",), ("stop", "7"), ("submit",)])
def test_on_a_vm_of_another_role_they_say_where_to_run_them(link, command):
    link.context = {
        "FLOWER_ROLE": "client",
        "FLOWER_SERVER_ADDRESS": "127.0.0.1",
        "TLS_CA_CERT": "system",
    }
    code, _, said = link.command(*command)
    assert code == 1
    assert said.startswith("setting.conflict: this VM is a supernode")
    assert "Run the command on the SuperLink's VM." in said


def test_a_directory_is_read_as_data_without_links_and_environments(tmp_path):
    for name in ("pyproject.toml", "mine/a.py", ".git/x.py", ".venv/lib/y.py", "data.bin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "passwd.py").symlink_to("/etc/passwd")
    (tmp_path / "etc").symlink_to("/etc")
    assert sorted(git.read(tmp_path)) == ["mine/a.py", "pyproject.toml"]


def test_a_directory_that_is_too_large_is_refused(tmp_path):
    for number in range(2001):
        (tmp_path / f"{number}.md").write_text("")
    with pytest.raises(AgentError) as caught:
        git.read(tmp_path)
    assert caught.value.finding.code == "run.too_large"
