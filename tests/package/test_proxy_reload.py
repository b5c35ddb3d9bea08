"""What the -reload services call: HAProxy and the gateway follow a file, whatever changes."""

import subprocess

import pytest
from conftest import ROOT

INSTALLED = ROOT / "contrib/package/installed"
PROXY = ("proxy-reload", "/run/flower-agent/proxy/haproxy.cfg", "flower-proxy.service")
GATEWAY = ("gateway-reload", "/run/flower-agent/gateway/gateway.json", "flower-gateway.service")


@pytest.fixture(params=[PROXY, GATEWAY], ids=["proxy", "gateway"])
def follow(tmp_path, request):
    """Runs the script with another file and a systemctl that only tells what it was asked."""
    name, place, unit = request.param
    config, told = tmp_path / "haproxy.cfg", tmp_path / "told"
    script = tmp_path / "script"
    script.write_text((INSTALLED / name).read_text().replace(place, str(config)))

    def run(meanwhile=""):
        systemctl = tmp_path / "systemctl"
        systemctl.write_text(f'#!/bin/sh\necho "$@" >>{told}\ncd {tmp_path}\n{meanwhile}\n')
        systemctl.chmod(0o755)
        told.write_text("")
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        subprocess.run(["sh", script], check=True, env=path, timeout=30)
        return told.read_text().splitlines()

    run.config = config
    # HAProxy reads all anew; the gateway begins again, which disturbs nobody's run.
    run.again = f"{'reload-or-restart' if request.param is PROXY else 'restart'} {unit}"
    run.stop = f"stop {unit}"
    return run


def test_a_written_file_starts_or_reloads_it(follow):
    follow.config.write_text("one")
    assert follow() == [follow.again]


def test_a_file_that_is_gone_stops_it(follow):
    assert follow() == [follow.stop]


def test_a_change_during_the_call_is_followed_too(follow):
    follow.config.write_text("one")
    assert follow("echo two >haproxy.cfg") == [follow.again] * 2
    assert follow("rm -f haproxy.cfg") == [follow.again, follow.stop]
