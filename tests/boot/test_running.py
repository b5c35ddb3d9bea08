"""What happens to a VM that runs: a new context, a hung agent, a restarted Docker."""

import json
import re

import pytest
import vm
from contexts import reconfigure
from service import SUPERLINK, SUPERNODE

AGENT = "flower-agent.service"


def reloads(machine):
    return machine.journal("-u", AGENT).count("Reloading flower-agent.service")


def test_a_recontextualization_restarts_what_it_reaches_and_nothing_else(two):
    machine = two.superlink
    before, told = machine.containers(), reloads(machine)
    reconfigure(two, SUPERLINK, FLOWER_MEMORY_LIMIT="1500m")
    vm.wait_for(
        lambda: machine.containers().get("flower-superexec") not in
        (None, before["flower-superexec"]),
        "another superexec",
    )  # fmt: skip
    two.wait_ready(SUPERLINK)
    assert machine.containers()["flower-superlink"] == before["flower-superlink"]
    assert reloads(machine) == told + 1
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend") == ""


def test_the_same_context_again_restarts_nothing(two):
    machine = two.superlink
    before = machine.containers()
    machine.run("rm", "/run/one-context/context.sh.network")
    machine.run("/usr/sbin/one-contextd", "all", "reconfigure")
    vm.wait_for(lambda: machine.show("ActiveState") == "active", "the reload")
    two.wait_ready(SUPERLINK)
    assert machine.containers() == before


def test_a_new_context_starts_a_stopped_agent_and_leaves_a_disabled_one(two):
    machine = two.supernode
    before = machine.containers()
    machine.run("systemctl", "stop", AGENT)
    assert machine.containers() == before
    reconfigure(two, SUPERNODE, FLOWER_LOG_LEVEL="WARNING")
    vm.wait_for(lambda: machine.show("ActiveState") == "active", "the agent")
    machine.run("systemctl", "disable", "--now", AGENT)
    reconfigure(two, SUPERNODE, FLOWER_LOG_LEVEL="INFO")
    assert machine.show("ActiveState") == "inactive"
    machine.run("systemctl", "enable", "--now", AGENT)
    two.wait_ready(SUPERNODE)
    assert machine.containers() == before


def test_the_hook_returns_at_once_though_the_agent_does_not_answer(two):
    """one-contextd holds a lock of two minutes while its scripts run."""
    machine = two.superlink
    pid = machine.show("MainPID")
    machine.run("kill", "-STOP", pid)
    try:
        machine.run("timeout", "5", "/etc/one-context.d/net-90-flower-agent", "network", "")
    finally:
        machine.run("kill", "-CONT", pid)
    two.wait_ready(SUPERLINK)


def test_a_frozen_agent_is_killed_and_started_again_and_the_containers_stay(two):
    machine = two.superlink
    shorter = "/etc/systemd/system/flower-agent.service.d/shorter.conf"
    machine.run("mkdir", "-p", shorter.rpartition("/")[0])
    machine.run(
        "sh", "-c", f"printf '[Service]\\nWatchdogSec=15\\nTimeoutAbortSec=1\\n' >{shorter}"
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", AGENT)
    two.wait_ready(SUPERLINK)
    before, pid = machine.containers(), machine.show("MainPID")
    machine.run("kill", "-STOP", pid)
    vm.wait_for(lambda: machine.show("MainPID") not in {"0", pid}, "another agent", 60)
    two.wait_ready(SUPERLINK)
    assert "Watchdog timeout" in machine.journal("-u", AGENT)
    assert machine.containers() == before
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend") == ""
    machine.run("rm", "-r", shorter.rpartition("/")[0])
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", AGENT)


@pytest.mark.parametrize("signal", ["KILL", "ABRT", "TERM"])
def test_an_agent_that_ends_is_back_within_seconds_and_the_containers_stay(two, signal):
    machine = two.supernode
    before, pid = machine.containers(), machine.show("MainPID")
    machine.run("kill", f"-{signal}", pid)
    vm.wait_for(lambda: machine.show("MainPID") not in {"0", pid}, "another agent", 20)
    two.wait_ready(SUPERNODE)
    assert machine.containers() == before
    assert machine.try_("sh", "-c", "ls /var/lib/flower-agent/core* /core* 2>/dev/null")[1] == ""


def test_a_restarted_docker_leaves_the_containers_running(two):
    """live-restore, which the package set beside what an administrator had written."""
    machine = two.superlink
    config = json.loads(machine.run("cat", "/etc/docker/daemon.json"))
    assert config == {"live-restore": True, "bridge": "none", "iptables": False}
    before = machine.containers()
    machine.run("systemctl", "restart", "docker.service")
    two.wait_ready(SUPERLINK)
    assert machine.containers() == before
    assert machine.show("ActiveState") == "active"


def test_a_bad_context_is_reported_and_harms_nothing(two):
    machine = two.superlink
    before = machine.containers()
    reconfigure(two, SUPERLINK, FLOWER_FLEET_PORT="none")
    vm.wait_for(lambda: machine.status().get("state") == "failed", "failed")
    assert machine.containers() == before
    assert re.match(r"setting\.\w+", machine.status()["error"]["code"])
    assert machine.run("cat", "/etc/one-appliance/status") == "configure_failure\n"
    assert "ready to serve" not in machine.run("cat", "/etc/motd")
    reconfigure(two, SUPERLINK, FLOWER_FLEET_PORT="")
    two.wait_ready(SUPERLINK)
    assert machine.containers() == before


def test_an_active_firewall_is_named_and_doctor_tells_whether_it_opens_the_port(two):
    machine = two.superlink

    def firewall():
        machine.run("systemctl", "restart", AGENT)
        two.wait_ready(SUPERLINK)
        vm.wait_for(lambda: fact(machine, "firewall"), "a look at the firewalls")
        return fact(machine, "firewall")["detail"]

    def verdict():
        told = json.loads(machine.try_("flower-agent", "doctor", "--json")[1])
        return next(c["verdict"] for c in told["checks"] if c["name"] == "firewall")

    assert firewall() == "none is active of firewalld, ufw, nftables"
    machine.run("systemctl", "start", "firewalld.service")
    try:
        assert firewall() == "firewalld is active"
        assert verdict() == "warning"
        rule = "rule family=ipv4 source address=10.77.0.0/24 service name=flower-fleet accept"
        machine.run("firewall-cmd", f"--add-rich-rule={rule}")
        assert verdict() == "ok"
    finally:
        machine.run("systemctl", "stop", "firewalld.service")
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend") == ""


def fact(machine, name):
    """Return a fact of its status, None where it has none of that name."""
    return next((fact for fact in machine.status()["facts"] if fact["name"] == name), None)
