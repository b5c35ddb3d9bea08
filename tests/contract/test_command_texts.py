"""What `runs`, `nodes` and `tls show` print, to the letter: text and JSON as they stand in cases/.

``REGENERATE=1`` writes them anew; what differs each time is masked. The other commands have theirs
in tests/cases/{status,doctor,templates,good,bad}, tests/contract/test_daemon.py (`plan`) and
test_logs.py.
"""

import os
import pathlib
import re

import pytest
import superlink_vm
from endpoints import authority, issue

from flower_agent.commands.own_superlink import reach
from flower_agent.model.state import Pin, State
from flower_agent.runs.store import RunFiles
from flower_agent.runs.submission import Submission
from flower_agent.state_file import StateFile
from flower_agent.tls.store import Keyring

CASES = pathlib.Path(__file__).parents[1] / "cases/commands"
MASKS = (
    (r"\b\d{19,20}\b", lambda found: f"{'1234567890' * 2}"[: len(found.group())]),
    (r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d)?(\.\d+)?(\+00:00)?", lambda _: "2026-01-02T03:04:05"),
    (r"SHA256:[\w+/]{43}", lambda _: "SHA256:" + "k" * 43),
    (r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}", lambda _: ":".join(["AB"] * 32)),
    (r"\d+ days left", lambda _: "90 days left"),
)


@pytest.fixture(params=superlink_vm.VERSIONS)
def vm(request, tmp_path, capsys):
    with superlink_vm.running(request.param, tmp_path, capsys) as made:
        yield made


def same(name, text):
    for pattern, masked in MASKS:
        text = re.sub(pattern, masked, text)
    if os.environ.get("REGENERATE"):
        (CASES / name).write_text(text)
    assert (CASES / name).read_text() == text


def both(link, name, *words):
    for ending, more in (("txt", ()), ("json", ("--json",))):
        code, out, err = link.command(*words, *more)
        assert (code, err) == (0, "")
        same(f"{name}.{ending}", out)


@pytest.fixture
def link(vm):
    vm.command("runs")  # writes the context
    return vm


def test_runs(link):
    with reach(link.paths) as own:
        first, second, _ = (own.api.start_run(b"x", (), "default", 5) for _ in range(3))
        own.api.stop_run(first, 5)
    known = Submission(key="", vmid=None, source="", commit="", app="", bundle="", run_id=second)
    RunFiles(link.paths.runs).keep(known)
    both(link, "runs", "runs")


def test_nodes(link):
    known, other = link.key(), link.key()
    for key in (known, other):
        link.run("register", key)
    StateFile(link.paths.record).keep(State(pins=(Pin("42", known, own=True),)))
    both(link, "nodes", "nodes", "list")


def test_tls_show(link):
    ca = authority()
    leaf = issue("superlink", ca, hosts=("127.0.0.1", "fl.example"))
    (link.paths.tls / "server.pem").write_text(leaf.pem)
    assert Keyring(link.paths.tls).held_chain()
    code, out, err = link.command("tls", "show")
    assert (code, err) == (0, "")
    same("tls-show.txt", out)
