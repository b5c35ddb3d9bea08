"""The units by themselves: systemd takes them, orders them without a cycle, and they are shut."""

import re
import shlex
import shutil
import subprocess

import pytest
from conftest import ROOT

from flower_agent.proxy import haproxy_config

SYSTEMD = ROOT / "systemd"
UNIT = SYSTEMD / "flower-agent.service"
EXPOSURE_LIMIT = 2.0
GATEWAY = SYSTEMD / "flower-gateway.service"
GATEWAY_LIMIT = 1.5
GATEWAYS = ("flower-gateway.path", "flower-gateway.service", "flower-gateway-reload.service")
PROXY = ("flower-proxy.path", "flower-proxy.service", "flower-proxy-reload.service")
STATE = ("flower-state.path", "flower-state.service")
STAND_INS = ROOT / "tests" / "boot" / "one-context"
"""one-context's units as its package orders them."""


def settings(unit, section):
    """Return the settings of a section, each with all its values."""
    found, here = {}, False
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            here = line == f"[{section}]"
        elif here and "=" in line and line[0] != "#":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def root(tree, tmp_path):
    """A tree with the package, one-context's units, Docker's, and the host's targets."""
    target = tmp_path / "root"
    units = target / "usr/lib/systemd/system"
    units.parent.mkdir(parents=True)
    shutil.copytree("/usr/lib/systemd/system", units, symlinks=True)
    shutil.copytree(tree / "usr/lib/systemd/system", units, dirs_exist_ok=True)
    shutil.copytree(STAND_INS / "units", units, dirs_exist_ok=True)
    (units / "docker.service").write_text("[Service]\nExecStart=/usr/bin/true\n")
    for program in (
        "bin/sh",
        "bin/kill",
        "usr/bin/true",
        "usr/bin/flower-agent",
        "usr/lib/flower-agent/flower-agent-gateway",
        "usr/lib/flower-agent/gateway-reload",
        "usr/lib/flower-agent/proxy-reload",
        "usr/lib/flower-agent/state-disk",
        "usr/sbin/haproxy",
        "usr/sbin/one-contextd",
    ):
        place = target / program
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)
    wants = target / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    for name in ("flower-agent.service", "flower-agent-online.target", *one_context()):
        (wants / name).symlink_to(f"/usr/lib/systemd/system/{name}")
    (target / "etc/systemd/system/default.target").symlink_to(
        "/usr/lib/systemd/system/multi-user.target"
    )
    return target


def one_context():
    return [f"one-context{stage}.service" for stage in ("-local", "-online", "")]


def verify(program, root, *units):
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", f"--root={root}", *units],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    told = done.stdout + done.stderr
    ours = [line for line in told.splitlines() if re.search(r"flower|one-context|cycle", line)]
    return "\n".join(ours)


def test_systemd_takes_the_units_and_orders_them_without_a_cycle(program, root):
    ours = ["flower-agent.service", "flower-agent-online.target", *PROXY, *GATEWAYS, *STATE]
    units = [*ours, *one_context()]
    assert verify(program, root, "multi-user.target", *units) == ""


def test_an_ordering_after_one_context_itself_would_be_a_cycle(program, root):
    """The check above can see one."""
    unit = root / "usr/lib/systemd/system/flower-agent.service"
    unit.write_text(unit.read_text().replace("one-context-online.service", "one-context.service"))
    assert "ordering cycle" in verify(program, root, "multi-user.target")


@pytest.mark.parametrize(
    ("unit", "limit"),
    [
        (UNIT, EXPOSURE_LIMIT),
        (SYSTEMD / "flower-proxy.service", EXPOSURE_LIMIT),
        (GATEWAY, GATEWAY_LIMIT),
    ],
    ids=lambda value: getattr(value, "stem", str(value)),
)
def test_the_service_is_shut_off_from_what_it_does_not_need(program, unit, limit):
    done = subprocess.run(
        [program("systemd-analyze"), "security", "--offline=yes", "--no-pager", unit],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)[1])
    assert exposure <= limit


def test_no_unit_goes_down_with_docker_or_the_network():
    for unit in SYSTEMD.glob("flower-agent*"):
        for name in ("PartOf", "BindsTo", "Requisite", "StopPropagatedFrom"):
            assert name not in settings(unit, "Unit"), unit


def test_every_ordering_of_the_service_says_why():
    lines = UNIT.read_text().splitlines()
    ordering = [i for i, line in enumerate(lines) if re.match(r"(After|Before|Wants)=", line)]
    assert ordering
    for index in ordering:
        assert lines[index - 1].startswith("#"), lines[index]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Type", "notify"),
        ("Restart", "always"),
        ("RestartSec", "1"),
        ("WatchdogSec", "120"),
        ("OOMScoreAdjust", "-900"),
        ("LimitCORE", "0"),
        ("CapabilityBoundingSet", ""),
        ("StateDirectory", "flower-agent"),
        ("LogsDirectory", "flower-agent"),
        ("RuntimeDirectory", "flower-agent"),
    ],
)
def test_the_service_says(name, value):
    assert settings(UNIT, "Service")[name] == [value]


def test_the_proxy_has_a_user_of_its_own_whose_group_the_agent_is_in():
    sysusers = (SYSTEMD / "flower-agent.sysusers").read_text()
    assert re.search(r"^u flower-proxy - ", sysusers, re.MULTILINE)
    proxy = settings(SYSTEMD / "flower-proxy.service", "Service")
    assert (proxy["User"], proxy["CapabilityBoundingSet"]) == (["flower-proxy"], [""])
    groups = settings(UNIT, "Service")["SupplementaryGroups"]
    assert groups == ["49999 flower-proxy flower-gateway"]


def test_the_state_disk_comes_before_the_agent_which_does_not_depend_on_it():
    agent = settings(UNIT, "Unit")
    assert "flower-state.service" in agent["After"]
    assert "flower-state.service flower-state.path" in agent["Wants"]
    assert not {"Requires", "RequiresMountsFor", "BindsTo"} & set(agent)
    state = settings(SYSTEMD / "flower-state.service", "Unit")
    assert state["Before"] == ["flower-agent.service docker.service"]
    assert state["After"] == ["one-context-local.service"]


def test_the_state_disk_is_looked_for_again_when_the_context_changes_or_it_was_missing():
    watched = settings(SYSTEMD / "flower-state.path", "Path")
    assert watched["PathChanged"] == ["/run/one-context"]
    service = settings(SYSTEMD / "flower-state.service", "Service")
    assert (service["Type"], service["Restart"]) == (["oneshot"], ["on-failure"])


@pytest.mark.parametrize(
    ("text", "looks"),
    [
        ("FLOWER_ROLE='server'", True),
        ("ONEAPP_FLOWER_ROLE='superlink'", True),
        ("VMID='7'", True),
        ("ONEAPP_FLOWER_ROLE=''", True),
        ("FLOWER_ROLE='client'", False),
        ("VMID='7'\nONEAPP_FLOWER_ROLE='SuperNode'", False),
        ('FLOWER_ROLE="superexec"', False),
        (None, True),
    ],
)
def test_only_a_vm_that_may_be_a_superlink_looks_for_a_state_disk(text, looks, tmp_path):
    (command,) = settings(SYSTEMD / "flower-state.service", "Service")["ExecCondition"]
    command = command.replace("/run/one-context", str(tmp_path))
    if text is not None:
        (tmp_path / "context.sh.local").write_text(f"# Context variables\n{text}\n")
    done = subprocess.run(shlex.split(command), check=False)
    assert (done.returncode == 0) is looks


def test_a_mount_of_the_state_disk_is_seen_by_the_whole_vm():
    walls = {"PrivateMounts", "ProtectSystem", "PrivateTmp", "ProtectHome", "MountFlags"}
    assert not walls & set(settings(SYSTEMD / "flower-state.service", "Service"))


def test_the_proxys_files_are_watched_whenever_the_agent_runs():
    assert "flower-proxy.path" in settings(UNIT, "Unit")["Wants"]
    assert "flower-proxy.path" in settings(UNIT, "Unit")["After"]
    watched = settings(SYSTEMD / "flower-proxy.path", "Path")["PathChanged"]
    unit = settings(SYSTEMD / "flower-proxy.service", "Unit")
    assert watched == unit["ConditionPathExists"] == ["/run/flower-agent/proxy/haproxy.cfg"]


def test_the_gateway_has_a_user_of_its_own_and_no_group_of_others():
    sysusers = (SYSTEMD / "flower-agent.sysusers").read_text()
    assert re.search(r"^u flower-gateway - ", sysusers, re.MULTILINE)
    gateway = settings(GATEWAY, "Service")
    assert (gateway["User"], gateway["Group"]) == (["flower-gateway"], ["flower-gateway"])
    assert gateway["CapabilityBoundingSet"] == [""]
    assert gateway["NoNewPrivileges"] == ["yes"]
    assert "SupplementaryGroups" not in gateway, "neither Docker's nor HAProxy's, which has keys"
    assert gateway["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]
    assert {"MemoryMax", "TasksMax", "SystemCallFilter", "SocketBindDeny"} <= gateway.keys()
    assert "/run/docker.sock" in gateway["InaccessiblePaths"][0]


def test_only_haproxy_reaches_the_gateways_sockets():
    gateway = settings(GATEWAY, "Service")
    assert gateway["RuntimeDirectory"] == ["flower-gateway"]
    assert gateway["RuntimeDirectoryMode"] == ["0710"]
    assert gateway["StateDirectoryMode"] == ["0700"]
    proxy = settings(SYSTEMD / "flower-proxy.service", "Service")
    assert proxy["SupplementaryGroups"] == ["flower-gateway"]


def test_the_gateway_follows_what_the_agent_writes():
    for name in ("Wants", "After"):
        assert "flower-gateway.path" in settings(UNIT, "Unit")[name]
    watched = settings(SYSTEMD / "flower-gateway.path", "Path")["PathChanged"]
    assert watched == settings(GATEWAY, "Unit")["ConditionPathExists"]
    assert watched == ["/run/flower-agent/gateway/gateway.json"]


def test_the_federation_does_not_hang_on_the_gateway():
    for unit in SYSTEMD.glob("*"):
        for name in ("Requires", "BindsTo", "PartOf", "Requisite"):
            words = " ".join(settings(unit, "Unit").get(name, []))
            assert "flower-gateway" not in words, unit
    assert settings(GATEWAY, "Service")["Restart"] == ["always"]
    assert settings(GATEWAY, "Unit")["StartLimitIntervalSec"] == ["0"]


def test_a_proxy_that_is_restarted_ends_what_it_has_begun():
    proxy = settings(SYSTEMD / "flower-proxy.service", "Service")
    assert proxy["KillSignal"] == ["SIGUSR1"]  # HAProxy's soft stop
    assert proxy["ExecReload"][-1] == "/bin/kill -USR2 $MAINPID"


def test_the_proxy_may_hold_its_connections():
    limit = int(settings(SYSTEMD / "flower-proxy.service", "Service")["LimitNOFILE"][0])
    assert limit > 2 * haproxy_config.MAX_CONNECTIONS + 1000


def test_the_image_enables_the_service_and_nothing_that_waits():
    preset = (SYSTEMD / "80-flower-agent.preset").read_text().splitlines()
    rules = [line for line in preset if not line.startswith("#")]
    assert rules == ["enable flower-agent.service", "disable flower-agent-online.target"]
