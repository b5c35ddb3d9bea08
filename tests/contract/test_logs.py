"""``flower-agent logs``: containers and agent in one story, and ends that come too early."""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import jsonschema
import pytest
from fake_engine import FakeEngine

from flower_agent import cli
from flower_agent.commands import logs
from flower_agent.docker.containers import Component, Container
from flower_agent.model.errors import DockerDownError
from flower_agent.paths import Paths

ROOT = pathlib.Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/logs.schema.json").read_text())


@pytest.fixture
def engine(monkeypatch):
    """An Engine in memory with a running SuperLink and SuperExec, whom the command asks."""
    found = FakeEngine()
    for part in (Component.SUPERLINK, Component.SUPEREXEC):
        found.hold(part.value)
        found.create(
            Container(name=f"flower-{part}", part=part, image=part.value, command=()), part.value
        )
        found.start(f"flower-{part}")
    monkeypatch.setattr(logs, "_engine", lambda _: found)
    return found


@pytest.fixture
def events(tmp_path):
    """The agent's own lines, as its process writes them."""
    path = tmp_path / "events"
    path.write_text("")

    def write(event, **fields):
        at = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{at % 1:.6f}"[2:] + "Z"
        line = json.dumps({**fields, "event": event, "level": "info", "timestamp": stamp})
        with path.open("a") as file:
            file.write(line + "\n")

    write.path = path
    return write


def ask(capsys, *words, root="/nowhere"):
    code = cli.main(["--root", root, "logs", *words])
    return code, capsys.readouterr()


def told(text):
    """Return who said what, line by line, without the times."""
    return [line[25:] for line in text.splitlines()]


def test_all_lines_stand_by_time_whoever_wrote_them(engine, events, capsys):
    engine.say("flower-superlink", "one")
    events("container.start", name="flower-superexec", cause="not there")
    engine.say("flower-superexec", "three")
    engine.say("flower-superlink", "\x1b[91mfour\x1b[0m")
    code, said = ask(capsys, "--events", str(events.path))
    assert code == 0
    assert told(said.out) == [
        "flower-superlink | one",
        'agent | container.start name=flower-superexec cause="not there"',
        "flower-superexec | three",
        "flower-superlink | four",
    ]


def test_one_alone_is_told_as_it_is(engine, events, capsys):
    engine.say("flower-superlink", "one")
    engine.say("flower-superlink", "two")
    events("agent.start")
    assert ask(capsys, "superlink", "-n", "1")[1].out == "two\n"
    assert ask(capsys, "agent", "--events", str(events.path))[1].out == "agent.start\n"


def test_json_has_time_writer_and_text(engine, capsys):
    engine.say("flower-superlink", "one")
    (line,) = ask(capsys, "--json")[1].out.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, SCHEMA)
    assert (found["from"], found["text"]) == ("flower-superlink", "one")
    assert found["at"].endswith("+00:00")


POLLS = (
    "\x1b[92mINFO \x1b[0m:      ControlServicer.ListNodes",
    "INFO :      ControlServicer.List",
    (
        "2026-11-30T16:30:22.610Z INFO [uvicorn.access] 127.0.0.1:54080 - "
        '"POST /v1/control/list-nodes HTTP/1.1" 200'
    ),
)


def test_the_agents_own_polls_are_hidden_and_push_nothing_out(engine, capsys):
    engine.say("flower-superlink", "first")
    for _ in range(100):
        for poll in POLLS:
            engine.say("flower-superlink", poll)
    engine.say("flower-superlink", "INFO :      ControlServicer.StartRun")
    shown = ask(capsys, "superlink")[1].out.splitlines()
    assert shown == ["first", "INFO :      ControlServicer.StartRun"]
    assert ask(capsys, "superlink", "--polls", "-n", "2")[1].out.count("\n") == 2
    assert "first" not in ask(capsys, "superlink", "--polls")[1].out


def test_lines_are_picked_by_text_whatever_its_case(engine, events, capsys):
    engine.say("flower-superlink", "a ValueError of an app")
    engine.say("flower-superexec", "nothing")
    events("state.cause", code="valueerror")
    code, said = ask(capsys, "--grep", "VALUEerror", "--events", str(events.path))
    assert code == 0
    assert told(said.out) == [
        "flower-superlink | a ValueError of an app",
        "agent | state.cause code=valueerror",
    ]
    assert ask(capsys, "--grep", "(a+)+$") == (0, ("", ""))


def test_lines_are_picked_by_time(engine, capsys):
    engine._now = lambda: datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)
    engine.say("flower-superlink", "old")
    engine._now = lambda: datetime.datetime.now(datetime.UTC)
    engine.say("flower-superlink", "new")
    hour_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    for since in ("10m", f"{hour_ago:%Y-%m-%dT%H:%M:%SZ}"):
        assert ask(capsys, "superlink", "--since", since)[1].out == "new\n"
    assert ask(capsys, "superlink", "--since", "3h")[1].out == "old\nnew\n"
    with pytest.raises(SystemExit) as caught:
        ask(capsys, "--since", "yesterday")
    assert caught.value.code == 64


def test_the_agents_lines_are_found_below_a_root_without_a_journal(
    engine, events, tmp_path, capsys
):
    events("agent.start")
    place = tmp_path / "var/log/flower-agent"
    place.mkdir(parents=True)
    (place / "agent.log").symlink_to(events.path)
    assert ask(capsys, "agent", root=str(tmp_path))[1].out == "agent.start\n"


def test_without_docker_the_agent_still_tells(engine, events, capsys):
    engine.down = True
    events("agent.start")
    code, said = ask(capsys, "--events", str(events.path))
    assert (code, told(said.out)) == (0, ["agent | agent.start"])
    assert "docker.down" in said.err
    assert ask(capsys)[0] == 1


def test_neither_containers_nor_events_is_no_success(engine, events, capsys):
    for part in (Component.SUPERLINK, Component.SUPEREXEC):
        engine.stop(f"flower-{part}")
        engine.remove(f"flower-{part}")
    code, said = ask(capsys, "--events", str(events.path))
    assert (code, said.out) == (1, "")
    assert "--name NAME" in said.err


def test_what_is_not_there_is_told(engine, capsys):
    code, said = ask(capsys, "supernode")
    assert (code, said.out) == (1, "")
    assert "there is flower-superlink, flower-superexec" in said.err
    assert ask(capsys, "--events", "/nowhere/at/all")[0] == 1


@pytest.mark.parametrize(
    "error", [DockerDownError("docker.down", "gone", retryable=True), BrokenPipeError()]
)
def test_logs_that_are_followed_end_with_the_error_of_any_container(engine, error, capsys):
    follow = engine.follow

    def breaks(name, *, tail, stamped):
        if name == "flower-superexec":
            raise error
        yield from follow(name, tail=tail, stamped=stamped)  # would go on for ever

    engine.follow = breaks
    options = argparse.Namespace(
        name="",
        container=None,
        lines=9,
        follow=True,
        json=False,
        events=None,
        since=None,
        grep="",
        polls=True,
    )
    with pytest.raises(type(error)):
        logs.run(Paths(pathlib.Path("/nowhere")), options)


def test_logs_that_are_followed_end_with_the_containers(engine, capsys):
    engine.say("flower-superlink", "first")

    def go_on():
        time.sleep(0.2)
        engine.say("flower-superexec", "second")
        engine.say("flower-superlink", "third")
        for part in ("superlink", "superexec"):
            engine.end(f"flower-{part}")

    thread = threading.Thread(target=go_on)
    thread.start()
    code, said = ask(capsys, "-f")
    thread.join()
    assert code == 0
    assert told(said.out) == [
        "flower-superlink | first",
        "flower-superexec | second",
        "flower-superlink | third",
    ]


def test_the_agents_events_are_followed_in_their_file(events, tmp_path):
    events("agent.start")
    command = [sys.executable, "-m", "flower_agent", "--root", str(tmp_path), "logs", "agent", "-f"]
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}
    with subprocess.Popen(
        [*command, "--events", str(events.path)], env=environment, stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout.readline() == "agent.start\n"
        events("state.ready", after_s=1.5)
        assert following.stdout.readline() == "state.ready after_s=1.5\n"
        following.kill()
