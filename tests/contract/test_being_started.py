"""``flower-agent status`` while systemd starts the unit, by a systemctl of the test's own."""

import argparse
import json
import pathlib

import pytest

from flower_agent.commands import status
from flower_agent.paths import Paths

HERE = Paths(pathlib.Path("/"))


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """Let a program answer in the place of systemctl; `say` gives its words."""
    program = tmp_path / "systemctl"

    def say(script):
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{script}\n')
        program.chmod(0o755)

    monkeypatch.setattr(status, "SYSTEMCTL", program)
    monkeypatch.setattr(status, "look", lambda _: (None, False))
    monkeypatch.setattr(status, "GRACE_S", 0.2)
    say.asked = tmp_path / "asked"
    return say


def ask(paths, capsys, *, wait=False):
    options = argparse.Namespace(watch=False, wait=wait, timeout=1.5, json=True)
    code = status.run(paths, options)
    return code, json.loads(capsys.readouterr().out)


def test_a_unit_that_is_being_started_is_starting(systemctl, capsys):
    systemctl("printf 'ActiveState=inactive\\nSubState=dead\\nJob=41\\n'")
    assert ask(HERE, capsys) == (5, {"running": False, "being_started": True})
    asked = systemctl.asked.read_text()
    assert asked == "show --property=ActiveState,SubState,Job flower-agent.service\n"
    assert ask(HERE, capsys, wait=True)[0] == 124, "it is waited for, to the end"


@pytest.mark.parametrize(
    "script", ["printf 'ActiveState=inactive\\nJob=0\\n'", "exit 1", "exec sleep 60"]
)
def test_a_unit_that_is_not_started_is_not_running(systemctl, capsys, monkeypatch, script):
    monkeypatch.setattr(status, "SYSTEMD_S", 0.3)
    systemctl(script)
    assert ask(HERE, capsys) == (3, {"running": False})
    assert ask(HERE, capsys, wait=True)[0] == 3


def test_of_another_root_systemd_knows_nothing(systemctl, tmp_path, capsys):
    systemctl("printf 'ActiveState=activating\\n'")
    assert ask(Paths(tmp_path), capsys) == (3, {"running": False})
    assert not systemctl.asked.exists()
