"""What ``flower-agent doctor`` makes of what it saw; whole answers are in tests/cases/doctor."""

import datetime
import json
import os
import pathlib
import re

import jsonschema
import pytest

from flower_agent.commands import doctor_results
from flower_agent.commands.doctor_results import GIB, MIB, Room, Verdict
from flower_agent.host.network import Interface
from flower_agent.model.address import Address
from flower_agent.model.errors import Finding
from flower_agent.reporting import status_text

ROOT = pathlib.Path(__file__).parents[2]
CASES = ROOT / "tests/cases/doctor"
SCHEMA = json.loads((ROOT / "docs/doctor.schema.json").read_text())
NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
RULES = {
    "nftables": (
        "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; "
        "policy drop;\n\t\ttcp dport { 22, 9092 } accept\n\t}\n}\n"
    )
}


SURE = {
    "agent": doctor_results.well("agent", "ready for 3 hours (SuperLink, Flower 1.25.0)"),
    "docker": doctor_results.docker("28.5.1", live_restore=True),
    "disk": doctor_results.disk(Room("/var/lib/docker", 20 * GIB, 40 * GIB, 1000), GIB),
    "memory": doctor_results.memory(3 * GIB, 4 * GIB),
    "clock": doctor_results.clock(-0.4, synchronized=True),
    "firewall": doctor_results.judge(RULES, Address("10.0.0.5", 9092)),
}
ANSWERS = {
    "all-well": [*SURE.values(), doctor_results.skipped("dns", "no name to resolve")],
    "with-a-warning": [
        *SURE.values(),
        doctor_results.docker("20.10.24", live_restore=False),
        doctor_results.clock(None, synchronized=False),
    ],
    "in-trouble": [
        *SURE.values(),
        doctor_results.disk(Room("/var/lib/docker", 100 * MIB, 40 * GIB), GIB),
        doctor_results.clock(12.0, synchronized=True),
        doctor_results.memory(100 * MIB, 4 * GIB),
        doctor_results.judge(RULES, Address("10.0.0.5", 9095)),
        doctor_results.found(
            "superlink",
            Finding(
                "endpoint.untrusted",
                "The certificate at 10.0.0.5:9092 was not issued by the trusted CA (self-signed)",
            ),
        ),
    ],
}


def same(path, text):
    if os.environ.get("REGENERATE"):
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("name", ANSWERS)
def test_the_text_is_that_of_the_case(name):
    shown = doctor_results.render(ANSWERS[name])
    assert max(map(len, shown.splitlines())) <= status_text.WIDTH
    same(CASES / f"{name}.txt", shown + "\n")
    assert re.sub("\x1b\\[[0-9]+m", "", doctor_results.render(ANSWERS[name], color=True)) == shown


@pytest.mark.parametrize("name", ANSWERS)
def test_the_json_is_that_of_the_case_and_of_the_schema(name):
    document = doctor_results.document(ANSWERS[name], NOW)
    jsonschema.validate(document, SCHEMA)
    same(CASES / f"{name}.json", json.dumps(document, indent=1) + "\n")


@pytest.mark.parametrize(
    ("name", "code"), [("all-well", 0), ("with-a-warning", 0), ("in-trouble", 1)]
)
def test_only_what_is_wrong_fails(name, code):
    assert doctor_results.exit_code(ANSWERS[name]) == code


@pytest.mark.parametrize(
    ("room", "verdict"),
    [
        (Room("/x", GIB, 2 * GIB), Verdict.OK),
        (Room("/x", GIB - 1, 2 * GIB), Verdict.BAD),
        (Room("/x", 0, 0), Verdict.BAD),
        (Room("/x", 2 * GIB, 2 * GIB, 0), Verdict.BAD),
    ],
)
def test_a_disk_wants_room_and_inodes(room, verdict):
    assert doctor_results.disk(room, GIB).verdict is verdict


@pytest.mark.parametrize(
    ("skew_s", "synchronized", "verdict"),
    [
        (None, None, Verdict.OK),
        (4.9, True, Verdict.OK),
        (-5.1, True, Verdict.BAD),
        (5.1, None, Verdict.BAD),
        (0.0, False, Verdict.OK),
        (None, False, Verdict.WARNING),
        (60.0, False, Verdict.BAD),
    ],
)
def test_a_clock_agrees_with_onegate_and_is_set_by_somebody(skew_s, synchronized, verdict):
    assert doctor_results.clock(skew_s, synchronized=synchronized).verdict is verdict


def test_what_others_said_reaches_the_terminal_printable():
    shown = doctor_results.render([doctor_results.well("dns", "\x1b[2J\r")])
    assert all(c.isprintable() or c == "\n" for c in shown)


@pytest.mark.parametrize(
    ("wanted", "verdict", "code"),
    [(1500, Verdict.OK, None), (1400, Verdict.BAD, "nic.mtu"), (9000, Verdict.WARNING, "nic.mtu")],
)
def test_a_nic_that_sends_too_large_packets_is_bad_and_one_that_could_send_more_is_not(
    wanted, verdict, code
):
    nic = Interface("ens3", "02:00:00:00:00:01", ("10.0.0.7",), 1500)
    (check,) = doctor_results.mtus([nic], [("ETH0", nic, wanted)])
    assert (check.verdict, check.finding.code if check.finding else None) == (verdict, code)
    assert "ens3" in check.detail
    if check.finding:
        assert f"ip link set ens3 mtu {wanted}" in check.finding.hint
        assert check.detail == f"ens3 sends packets of 1500 bytes, ETH0_MTU is {wanted}"


def test_every_nic_of_another_mtu_is_told_and_what_nobody_tells_is_no_trouble():
    one, two = (Interface(name, "", ("10.0.0.7",), 9000) for name in ("ens3", "ens4"))
    told = [("ETH0", one, 1500), ("ETH1", two, 1500)]
    assert [check.verdict for check in doctor_results.mtus([one, two], told)] == [Verdict.BAD] * 2
    (check,) = doctor_results.mtus([one, two], [])
    assert check.detail == "ens3 9000, ens4 9000"
    assert [check.verdict for check in doctor_results.mtus([], [])] == [Verdict.OK]


# The agent's own status


def says(state, code=None, *, at=NOW):
    """Return the status file of an agent."""
    error = {"code": code, "message": "10.0.0.5:9092 is mute", "hint": "do this"} if code else None
    stamp = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"schema": 1, "state": state, "since": stamp, "written_at": stamp, "error": error}


@pytest.mark.parametrize("state", ["failed", "degraded"])
def test_doctor_is_never_better_than_the_status(state):
    found = doctor_results.agent(says(state, "endpoint.timeout"), running=True, now=NOW)
    assert doctor_results.exit_code([found]) == 1
    assert found.finding.code == "endpoint.timeout"
    assert "10.0.0.5:9092 is mute" in found.detail
    assert found.finding.hint == "do this"


@pytest.mark.parametrize(
    ("document", "running", "verdict", "code"),
    [
        (says("ready"), True, Verdict.OK, None),
        (says("starting"), True, Verdict.OK, None),
        (says("starting", "docker.down"), True, Verdict.WARNING, "docker.down"),
        (says("failed", "word.of_tomorrow"), True, Verdict.BAD, "agent.silent"),
        (says("ready", at=NOW - datetime.timedelta(minutes=5)), True, Verdict.BAD, "agent.silent"),
        (None, True, Verdict.BAD, "agent.silent"),
        (says("failed", "docker.down"), False, Verdict.WARNING, "agent.stopped"),
        (None, False, Verdict.WARNING, "agent.stopped"),
    ],
)
def test_the_agents_row_is_what_its_status_says(document, running, verdict, code):
    found = doctor_results.agent(document, running=running, now=NOW)
    assert (found.verdict, found.finding and found.finding.code) == (verdict, code)


def test_clocks_that_agree_are_well_whoever_sets_them():
    found = doctor_results.clock(0.4, synchronized=False)
    assert found.verdict is Verdict.OK
    assert "nothing synchronizes it" in found.detail
    assert doctor_results.clock(None, synchronized=False).verdict is Verdict.WARNING


def test_the_proxy_of_docker_is_named():
    found = doctor_results.docker("28.5.1", live_restore=True, proxy="http://proxy:3128")
    assert found.detail == "28.5.1 answers; pulls by the proxy http://proxy:3128"
