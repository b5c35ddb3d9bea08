"""Which firewall is active, and when SuperNodes that do not come make it a warning."""

import datetime
import pathlib
import subprocess

import pytest
from cycles import cycle_of

from flower_agent.background import Threads
from flower_agent.config import parsing
from flower_agent.cycle import Running
from flower_agent.flower.container_spec import RoleSpec
from flower_agent.host import firewall
from flower_agent.host.firewall import Firewalls
from flower_agent.host.machine import HostFacts
from flower_agent.host.network import Interface
from flower_agent.model.address import Address
from flower_agent.model.state import State
from flower_agent.model.status import Mark
from flower_agent.paths import Paths
from flower_agent.roles import superlink
from flower_agent.tls.store import Keyring

FLEET = Address("10.77.0.10", 9092)
NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
ON, OFF = "# ufw\nENABLED=yes\n", "# ENABLED=yes\nENABLED=no\n"


@pytest.mark.parametrize(
    ("states", "ufw_conf", "names"),
    [
        ("inactive\ninactive\ninactive\n", "", ()),
        ("active\ninactive\ninactive\n", "", ("firewalld",)),
        ("inactive\nactive\ninactive\n", ON, ("ufw",)),
        ("inactive\nactive\ninactive\n", OFF, ()),  # its unit is active all the same
        ("failed\nactivating\nactive\n", ON, ("nftables",)),
        ("active\nactive\nactive\n", ON, ("firewalld", "ufw", "nftables")),
        ("", ON, None),
        ("active\n", ON, None),
    ],
)
def test_the_firewalls_that_systemd_calls_active_are_known(states, ufw_conf, names):
    assert firewall.active(states, ufw_conf) == names


def test_a_person_reads_which_are_active():
    assert firewall.describe(()) == "none is active of firewalld, ufw, nftables"
    assert firewall.describe(("ufw",)) == "ufw is active"
    assert firewall.describe(("firewalld", "nftables")) == "firewalld and nftables are active"


@pytest.mark.parametrize(
    ("before", "expected", "online", "since"),
    [(None, 2, 0, 9.0), (3.0, 2, 0, 3.0), (3.0, 2, 1, None), (3.0, 0, 0, None)],
)
def test_nobody_is_missed_where_one_is_there_or_none_is_expected(before, expected, online, since):
    assert firewall.absent_since(before, 9.0, expected=expected, online=online) == since


@pytest.mark.parametrize(
    ("name", "host", "hint"),
    [
        ("firewalld", "10.0.0.5", "family=ipv4 source address=SUBNET port port=9092 "),
        ("firewalld", "fd00::5", "family=ipv6 source address=SUBNET port port=9092 "),
        ("ufw", "10.0.0.5", "ufw allow proto tcp from SUBNET to any port 9092"),
        ("nftables", "10.0.0.5", "/usr/share/doc/flower-agent/examples/fleet-port.nft"),
    ],
)
def test_the_warning_has_the_commands_of_that_firewall(name, host, hint):
    found = firewall.drops((name,), Address(host, 9092), 2)
    assert found.code == "firewall.drops"
    assert found.message == (
        f"{name} is active and none of 2 expected SuperNodes is connected: it may block TCP "
        "port 9092"
    )
    assert hint in found.hint


class AtOnce(Threads):
    """Threads whose calls end before the loop goes on."""

    def start(self, _name, run):
        run()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A root of a VM that systemd runs, with firewalld."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setattr(firewall, "_PATH", str(programs))
    program(tmp_path, "systemctl", "printf 'active\\ninactive\\ninactive\\n'; exit 3")
    return tmp_path


def program(root, name, does):
    place = root / "bin" / name
    place.write_text(f"#!/bin/sh\n{does}\n")
    place.chmod(0o755)


def watch(root, **more):
    return Firewalls(root, AtOnce(lambda: None), **more)


def code(seen):
    return seen[1].code if seen and seen[1] else None


def test_an_active_firewall_is_named_when_expected_supernodes_stay_away(machine):
    seen = watch(machine)
    seen.look(FLEET, 0.0, expected=2, online=0)  # asks
    assert seen.look(FLEET, 1.0, expected=2, online=0) == ("firewalld is active", None)
    assert code(seen.look(FLEET, 119.0, expected=2, online=0)) is None
    assert code(seen.look(FLEET, 120.0, expected=2, online=0)) == "firewall.drops"
    assert code(seen.look(FLEET, 121.0, expected=2, online=1)) is None
    assert code(seen.look(FLEET, 122.0, expected=2, online=0)) is None  # two minutes anew
    assert code(seen.look(FLEET, 242.0, expected=2, online=0)) == "firewall.drops"


def test_without_an_active_firewall_nobody_is_blamed(machine):
    program(machine, "systemctl", "printf 'inactive\\ninactive\\ninactive\\n'; exit 3")
    seen = watch(machine, scale=0.01)
    seen.look(FLEET, 0.0, expected=2, online=0)
    told = seen.look(FLEET, 2.0, expected=2, online=0)
    assert told == ("none is active of firewalld, ufw, nftables", None)


def test_what_was_started_since_is_seen(machine):
    (machine / "etc/ufw").mkdir(parents=True)
    (machine / "etc/ufw/ufw.conf").write_text(ON)
    seen = watch(machine, scale=0.01)
    seen.look(FLEET, 0.0, expected=0, online=0)
    program(machine, "systemctl", "printf 'inactive\\nactive\\ninactive\\n'; exit 3")
    seen.look(FLEET, 2.9, expected=0, online=0)
    assert seen.look(FLEET, 2.95, expected=0, online=0) == ("firewalld is active", None)
    seen.look(FLEET, 3.0, expected=0, online=0)
    seen.look(FLEET, 6.0, expected=0, online=0)
    assert seen.look(FLEET, 6.1, expected=0, online=0) == ("ufw is active", None)


@pytest.mark.parametrize("answer", ["exit 1", "echo 'Failed to connect to bus' >&2; exit 1"])
def test_a_systemd_that_does_not_answer_is_no_fact(machine, answer):
    program(machine, "systemctl", answer)
    seen = watch(machine)
    seen.look(FLEET, 0.0, expected=2, online=0)
    assert seen.look(FLEET, 500.0, expected=2, online=0) is None


def test_a_systemctl_that_hangs_is_given_up(machine, monkeypatch):
    monkeypatch.setattr(firewall, "ASK_S", 0.1)
    program(machine, "systemctl", "exec sleep 30")
    assert firewall.ask_systemd(machine) is None


def test_where_no_systemd_runs_or_nobody_else_may_dial_nothing_is_asked(machine, monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(subprocess, "run", never)
    loopback = Address("127.0.0.1", 9092)
    assert watch(machine).look(loopback, 0.0, expected=2, online=0) is None
    assert watch(pathlib.Path("/nowhere")).look(FLEET, 0.0, expected=2, online=0) is None


def test_the_tools_are_asked_in_english_and_one_that_fails_tells_nothing(machine):
    program(machine, "firewall-cmd", "echo FirewallD is not running >&2; exit 252")
    program(machine, "ufw", 'echo "$LC_ALL $*"')
    assert firewall.ask_tools() == {"ufw": "C status verbose\n"}


class Beside:
    """What a SuperLink does beside its nodes, left out here."""

    active, claims, names, members, expected = frozenset(), {}, {}, None, 2

    def close(self):
        """Nothing is open."""

    def list_nodes(self, _timeout_s):
        return ()

    def follow(self, *_):
        return []

    def probe(self, *_, **__):
        """All is well."""

    probe_serving = probe_tcp = enrol = growing = probe


def test_a_superlink_whose_expected_vms_do_not_come_says_so(machine, monkeypatch):
    beside, firewalls, paths = Beside(), watch(machine), Paths(machine)
    paths.runs.mkdir(parents=True)
    monkeypatch.setattr(superlink, "connect", lambda *_: beside)
    controller = superlink.SuperLinkController(
        beside, beside, beside, beside,
        firewalls=firewalls, follower=beside, reports=beside, paths=paths,
    )  # fmt: skip

    def turn(monotonic):
        context = {"FLOWER_ROLE": "server", "TLS_ENABLED": "NO", "FLOWER_ADDRESS": "10.77.0.10"}
        made = cycle_of(
            settings=parsing.parse(context, {}).settings,
            variables={},
            host=HostFacts((Interface("eth0", "", ("10.77.0.10",)),), "eth0", 0, ""),
            keyring=Keyring(machine),
            client=None,
            now=NOW,
            monotonic=monotonic,
            state=State(),
        )
        controller.check(
            made, Running(NOW, str, spec=RoleSpec(fleet_host="10.77.0.10", node_auth=True))
        )
        return made

    turn(0.0)
    calm, late = turn(1.0), turn(120.0)
    assert calm.report.conditions["firewall"].mark is Mark.OK
    assert (late.report.conditions["firewall"].mark, late.report.warnings[-1].code) == (
        Mark.WAITING,
        "firewall.drops",
    )
