"""The package comes, changes and goes on a VM that runs its role."""

import pytest
import vm
from service import SUPERLINK, SUPERNODE

STATE = "/var/lib/flower-agent"
CONFIG = "/etc/flower-agent/config.yaml"
PROGRAM = "/usr/bin/flower-agent"


def put(machine, package):
    """Copy a package into a VM; return its path there."""
    place = f"/root/{package.name}"
    machine.copy(package, place)
    return place


def version(machine):
    return machine.run("dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", "flower-agent")


def warnings(machine):
    """Return the codes of what its status warns of."""
    return {each["code"] for each in machine.status()["warnings"]}


def daemon_reloads(machine):
    """Return how often systemd read its units anew."""
    return machine.journal("_PID=1").splitlines().count("Reloading.")


@pytest.mark.parametrize("role", [SUPERLINK, SUPERNODE])
def test_an_upgrade_and_a_downgrade_keep_the_federation_running(two, packages, role):
    made, target = packages
    machine = two.vms[role]
    before, pid = machine.containers(), machine.show("MainPID")
    reloaded = daemon_reloads(machine)
    machine.run("sh", "-c", f"echo 'fl_num_rounds: 5' >>{CONFIG}")
    for name in ("old", "new"):
        machine.run("dpkg", "--install", put(machine, made[name]))
        assert machine.show("MainPID") not in {"0", pid}
        pid = machine.show("MainPID")
        two.wait_ready(role)
        assert machine.containers() == before
        assert "fl_num_rounds: 5" in machine.run("cat", CONFIG)
        assert machine.show("NeedDaemonReload") == "no"
    assert target.release in version(machine)
    assert target.release in machine.run("flower-agent", "--version")
    assert daemon_reloads(machine) == reloaded
    machine.run("sed", "-i", "/fl_num_rounds/d", CONFIG)


def test_an_upgrade_with_another_unit_makes_systemd_read_it(two, packages):
    made, _ = packages
    machine = two.supernode
    unit = "/usr/lib/systemd/system/flower-agent.service"
    machine.run("sed", "-i", "s/^RestartSec=.*/RestartSec=3/", unit)
    machine.run("systemctl", "daemon-reload")
    assert machine.show("RestartUSec") == "3s"
    before = machine.containers()
    machine.run("dpkg", "--install", put(machine, made["new"]))
    assert machine.show("RestartUSec") == "1s"
    two.wait_ready(SUPERNODE)
    assert machine.containers() == before


def test_an_upgrade_leaves_a_stopped_and_disabled_agent_alone(two, packages):
    made, _ = packages
    machine = two.supernode
    machine.run("systemctl", "disable", "--now", "flower-agent.service")
    machine.run("dpkg", "--install", put(machine, made["new"]))
    assert machine.show("ActiveState") == "inactive"
    assert machine.try_("systemctl", "is-enabled", "flower-agent.service")[1] == "disabled\n"
    machine.run("systemctl", "enable", "--now", "flower-agent.service")
    two.wait_ready(SUPERNODE)


def test_a_removal_takes_the_containers_and_keeps_the_state(two, packages):
    made, _ = packages
    machine = two.superlink
    ca = two.attributes(SUPERLINK)["FLOWER_CA_FINGERPRINT"]
    machine.run("sh", "-c", f"echo '# mine' >>{CONFIG}")
    machine.run("dpkg", "--remove", "flower-agent")
    assert machine.containers() == {}
    assert machine.run("docker", "ps", "-aq") == ""
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend") == ""
    assert machine.try_("test", "-e", PROGRAM)[0] == 1
    assert machine.try_("test", "-e", "/usr/lib/flower-agent")[0] == 1
    assert "# mine" in machine.run("cat", CONFIG)
    assert machine.run("cat", "/etc/one-appliance/status") == "install_success\n"
    assert machine.run("cat", "/etc/motd") == ""
    machine.run("/etc/one-context.d/net-90-flower-agent")  # it is configuration, and still there
    machine.run("dpkg", "--install", put(machine, made["new"]))
    machine.run("systemctl", "start", "flower-agent.service")
    two.wait_ready(SUPERLINK)
    assert two.attributes(SUPERLINK)["FLOWER_CA_FINGERPRINT"] == ca
    two.wait_ready(SUPERNODE)


def test_a_purge_leaves_nothing_but_the_training_data(two, packages):
    made, _ = packages
    machine = two.supernode
    old_node = two.attributes(SUPERNODE)["FLOWER_NODE_ID"]
    machine.run("sh", "-c", f"echo 1 >{STATE}/data/mine.csv")
    machine.run("dpkg", "--purge", "flower-agent")
    assert machine.run("find", STATE).split() == [STATE, f"{STATE}/data", f"{STATE}/data/mine.csv"]
    left = "find / -xdev -name '*flower?agent*' -not -path '/proc/*' -not -path '/root/*'"
    found = set(machine.run("sh", "-c", left).split()) - {STATE}
    assert {path for path in found if not path.startswith("/var/lib/docker")} == set()
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend") == ""
    machine.run("dpkg", "--install", put(machine, made["new"]))
    machine.reboot()
    # Its key went, too, and the SuperLink pinned the first one of this VM.
    vm.wait_for(lambda: "enrol.key_changed" in warnings(two.superlink), "the refusal")
    two.superlink.run("flower-agent", "nodes", "unregister", old_node)
    two.wait_ready(SUPERNODE)
    assert two.attributes(SUPERNODE)["FLOWER_NODE_ID"] != old_node
    vm.wait_for(lambda: two.attributes(SUPERLINK)["FLOWER_NODES"] == "1", "one node")
    vm.wait_for(lambda: "enrol.key_changed" not in warnings(two.superlink), "content")
