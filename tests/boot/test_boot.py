"""A VM boots into its role, and comes back from whatever ends it."""

import re

import pytest
import vm
from service import SUPERLINK, SUPERNODE

AGENT = "flower-agent.service"
ROLES = (SUPERLINK, SUPERNODE)


def untroubled(machine):
    """Return what is wrong with this boot: failed units, cycles, warnings of the agent."""
    failed = machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    cycles = [line for line in machine.journal().splitlines() if "ordering cycle" in line]
    loud = [e for e in machine.events() if e["level"] in {"warning", "error", "critical"}]
    return failed.split(), cycles, loud


@pytest.mark.parametrize("role", ROLES)
def test_a_vm_boots_into_its_role(two, role):
    machine = two.vms[role]
    assert two.attributes(role)["READY"] == "YES"
    assert two.attributes(role)["FLOWER_STATE"] == "ready"
    names = {SUPERLINK: "flower-superlink", SUPERNODE: "flower-supernode"}
    assert set(machine.containers()) == {names[role], "flower-superexec"}
    assert machine.show("ActiveState") == "active"


def test_the_node_found_the_superlink_by_itself(two):
    assert two.attributes(SUPERLINK)["FLOWER_ENDPOINT"] == "10.77.0.10:9092"
    vm.wait_for(lambda: two.attributes(SUPERLINK)["FLOWER_NODES"] == "1", "one node")


def test_what_one_apps_look_for_is_there_and_true(two):
    machine = two.superlink
    assert machine.run("cat", "/etc/one-appliance/status") == "bootstrap_success\n"
    assert "All set and ready to serve 8)" in machine.run("cat", "/etc/motd")
    assert "endpoint       = 10.77.0.10:9092" in machine.run("cat", "/etc/one-appliance/config")
    assert machine.run("stat", "-c", "%a", "/etc/one-appliance/config") == "600\n"
    log = machine.run("cat", "/var/log/one-appliance/bootstrap.log").splitlines()
    assert log[-1].endswith("bootstrap_success: All set and ready to serve 8)")


@pytest.mark.parametrize("role", ROLES)
def test_a_boot_without_trouble_says_nothing(fresh, role):
    assert untroubled(fresh.vms[role]) == ([], [], [])


def test_the_agent_starts_beside_one_contexts_last_stage_not_after_it(fresh):
    machine = fresh.superlink
    began = int(machine.show("ExecMainStartTimestampMonotonic"))
    last = int(machine.show("ExecMainStartTimestampMonotonic", "one-context.service"))
    online = int(machine.show("ExecMainExitTimestampMonotonic", "one-context-online.service"))
    assert online < began < last


def test_the_agent_is_shut_in(two):
    machine = two.superlink
    pid = machine.show("MainPID")
    status = machine.run("cat", f"/proc/{pid}/status")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{name}:\t0+$", status, re.MULTILINE), name
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
    names = ("flower-proxy", "flower-gateway")
    others = {machine.run("getent", "group", name).split(":")[2] for name in names}
    (groups,) = re.findall(r"^Groups:\t(.*)$", status, re.MULTILINE)
    assert set(groups.split()) == {"49999", *others}  # Flower's, and who reads files of the agent
    # The kernel lets nobody in here lower the value itself: no CAP_SYS_RESOURCE.
    assert machine.show("OOMScoreAdjust") == "-900"


def test_its_libraries_are_compiled_so_that_a_start_is_quick(two):
    place = "/usr/lib/flower-agent/python/flower_agent"
    modules = two.superlink.run("find", place, "-name", "*.py")
    compiled = two.superlink.run("find", place, "-path", "*/__pycache__/*.pyc")
    assert len(compiled.split()) == len(modules.split())


def test_any_user_may_ask_for_the_status(two):
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    code, words = two.superlink.try_(*nobody, "flower-agent", "status")
    assert (code, words.startswith("ready for")) == (0, True), words


@pytest.mark.parametrize("role", ROLES)
def test_a_reboot_ends_in_ready(two, role):
    machine = two.vms[role]
    ca = two.attributes(SUPERLINK)["FLOWER_CA_FINGERPRINT"]
    before = machine.containers()
    machine.reboot()
    two.wait_ready(role)
    assert set(machine.containers()) == set(before)
    assert not set(machine.containers().values()) & set(before.values())
    assert two.attributes(SUPERLINK)["FLOWER_CA_FINGERPRINT"] == ca
    assert untroubled(machine)[:2] == ([], [])


@pytest.mark.parametrize("role", ROLES)
def test_a_power_cut_ends_in_ready(two, role):
    machine = two.vms[role]
    machine.power_cut()
    machine.boot()
    two.wait_ready(role)
    assert untroubled(machine)[:2] == ([], [])
    for each in ROLES:
        two.wait_ready(each)


@pytest.mark.long
@pytest.mark.parametrize("phase", ["context", "docker", "image", "container", "health"])
def test_a_power_cut_in_the_middle_of_a_start_ends_in_ready(two, phase):
    """At the first sight of a phase or, where it passes unseen, of one after it."""
    order = ["context", "docker", "discover", "tls", "image", "container", "health"]
    later = set(order[order.index(phase) :]) | {"ready"}
    machine = two.superlink

    def seen():
        found = machine.status()
        return {found.get("phase"), found.get("state")} & later

    machine.power_cut()
    machine.boot()
    vm.wait_for(seen, phase)
    machine.power_cut()
    machine.boot()
    two.wait_ready(SUPERLINK)
    two.wait_ready(SUPERNODE)
    assert untroubled(machine)[:2] == ([], [])


def test_units_that_need_a_working_role_wait_and_hold_up_nothing(two):
    machine = two.supernode
    machine.write(
        "/etc/systemd/system/needs-flower.service",
        "[Unit]\nWants=flower-agent-online.target\nAfter=flower-agent-online.target\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=/bin/sh -c 'flower-agent status >/run/needs-flower'\n"
        "[Install]\nWantedBy=flower-agent-online.target\n",
    )
    machine.run("systemctl", "enable", "needs-flower.service", "flower-agent-online.target")
    machine.reboot()
    two.wait_ready(SUPERNODE)
    unit = "needs-flower.service"
    vm.wait_for(lambda: machine.show("ActiveState", unit) == "active", unit)
    assert machine.run("cat", "/run/needs-flower").startswith("ready for")
    began = int(machine.show("ExecMainStartTimestampMonotonic", unit))
    up = int(machine.show("ActiveEnterTimestampMonotonic", "multi-user.target"))
    assert up < began
    assert untroubled(machine)[:2] == ([], [])
    machine.run("systemctl", "disable", "--now", unit, "flower-agent-online.target")
    machine.run("rm", "/etc/systemd/system/needs-flower.service")
