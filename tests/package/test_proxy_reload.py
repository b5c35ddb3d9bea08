"""What flower-proxy-reload.service calls: HAProxy follows its file, whatever changes meanwhile."""

import subprocess

import pytest
from conftest import ROOT

SCRIPT = ROOT / "contrib/package/installed/proxy-reload"
CONFIG = "/run/flower-agent/proxy/haproxy.cfg"


@pytest.fixture
def follow(tmp_path):
    """Runs the script with another file and a systemctl that only tells what it was asked."""
    config, told = tmp_path / "haproxy.cfg", tmp_path / "told"
    script = tmp_path / "script"
    script.write_text(SCRIPT.read_text().replace(CONFIG, str(config)))

    def run(meanwhile=""):
        systemctl = tmp_path / "systemctl"
        systemctl.write_text(f'#!/bin/sh\necho "$@" >>{told}\ncd {tmp_path}\n{meanwhile}\n')
        systemctl.chmod(0o755)
        told.write_text("")
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        subprocess.run(["sh", script], check=True, env=path, timeout=30)
        return told.read_text().splitlines()

    run.config = config
    return run


RELOAD, STOP = "reload-or-restart flower-proxy.service", "stop flower-proxy.service"


def test_a_written_file_starts_or_reloads_it(follow):
    follow.config.write_text("one")
    assert follow() == [RELOAD]


def test_a_file_that_is_gone_stops_it(follow):
    assert follow() == [STOP]


def test_a_change_during_the_call_is_followed_too(follow):
    follow.config.write_text("one")
    assert follow("echo two >haproxy.cfg") == [RELOAD, RELOAD]
    assert follow("rm -f haproxy.cfg") == [RELOAD, STOP]
