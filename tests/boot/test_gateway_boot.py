"""The gateway's and HAProxy's units in a booted VM: they start, follow and end with their files."""

import json
import re

import pytest
import service
import vm
from contexts import reconfigure

URL = f"https://{service.ADDRESS}:9443"
ASK = (
    "import ssl, sys, urllib.request as u; c = ssl._create_unverified_context();"
    "o = u.build_opener(u.ProxyHandler({}), u.HTTPSHandler(context=c));"
    "print(o.open(sys.argv[1], timeout=10).read().decode())"
)
UNITS = ("flower-gateway.service", "flower-proxy.service")
USERS = {"flower-gateway.service": "flower-gateway", "flower-proxy.service": "flower-proxy"}


@pytest.fixture(scope="module")
def link(booted):
    """The SuperLink's VM with a gateway; afterwards it has none."""
    machine = booted.superlink
    change(booted, "YES")
    vm.wait_for(lambda: fact(machine).startswith("people log in"), "the gateway answers", 120)
    machine.run("flower-agent", "accounts", "add", "ann", "--role", "viewer")
    yield machine
    change(booted, "NO")


def change(booted, switch):
    reconfigure(booted, service.SUPERLINK, FLOWER_GATEWAY=switch)


def fact(machine):
    rows = machine.status().get("facts", [])
    return next((row["detail"] for row in rows if row["name"] == "gateway"), "")


def page(machine, path=""):
    return machine.try_("python3", "-c", ASK, URL + path)


def test_it_answers_through_haproxy_with_the_superlinks_certificate(link):
    assert fact(link) == f"people log in at {URL}"
    code, text = page(link)
    assert code == 0, text
    assert "Sign in" in text


@pytest.mark.parametrize("unit", UNITS)
def test_each_has_a_user_of_its_own_and_no_capability(link, unit):
    pid = link.show("MainPID", unit)
    status = link.run("cat", f"/proc/{pid}/status")
    said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert link.run("id", "-u", USERS[unit]).strip() == said["Uid"].split()[0]
    assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == 0


def test_root_makes_accounts_and_the_files_stay_the_gateways(link):
    words = link.run("flower-agent", "open")
    assert URL in words
    assert "password" in words
    assert "added eve" in link.run("flower-agent", "accounts", "add", "eve", "--role", "viewer")
    listed = json.loads(link.run("flower-agent", "accounts", "list", "--json"))["accounts"]
    assert {row["name"] for row in listed} == {"admin", "ann", "eve"}
    places = ("/var/lib/flower-agent/gateway", "/var/lib/flower-agent/gateway/gateway.sqlite")
    owners = link.run("stat", "-c", "%U %a", *places).splitlines()
    assert owners == ["flower-gateway 700", "flower-gateway 600"]
    assert "Sign in" in page(link)[1]


@pytest.mark.parametrize(
    "place",
    [
        "/var/lib/flower-agent/gateway/gateway.sqlite",
        "/run/flower-agent/gateway/gateway.json",
        "/run/flower-agent/proxy/gateway.pem",
    ],
)
def test_other_users_read_none_of_its_files(link, place):
    assert link.try_("test", "-s", place)[0] == 0
    assert link.try_("setpriv", "--reuid=nobody", "--clear-groups", "test", "-r", place)[0] != 0


@pytest.mark.parametrize(
    "place", ["/run/flower-gateway/http.sock", "/run/flower-gateway/grpc.sock"]
)
def test_haproxys_user_alone_reaches_its_sockets(link, place):
    dial = f"import socket; socket.socket(socket.AF_UNIX).connect('{place}')"
    status = link.run("cat", f"/proc/{link.show('MainPID', 'flower-proxy.service')}/status")
    groups = ",".join(re.search(r"^Groups:\s*(.*)$", status, re.MULTILINE)[1].split())
    for user, more, reached in (("nobody", "--clear-groups", False),
                                ("flower-proxy", f"--groups={groups}", True)):  # fmt: skip
        code, words = link.try_("setpriv", f"--reuid={user}", more, "python3", "-c", dial)
        assert (code == 0) is reached, words


def test_a_killed_gateway_comes_back_and_the_federation_does_not_notice(link, booted):
    before = booted.superlink.containers()
    link.run("systemctl", "kill", "--signal=SIGKILL", "flower-gateway.service")
    vm.wait_for(lambda: "Sign in" in page(link)[1], "the page is back", 60)
    assert "ann" in link.run("flower-agent", "accounts", "list")
    assert link.containers() == before
    assert link.status()["state"] == "ready"


def test_switched_off_it_is_gone_and_switched_on_again_it_has_its_accounts(link, booted):
    before = link.containers()
    change(booted, "NO")
    vm.wait_for(lambda: page(link)[0] != 0, "nothing listens", 120)
    for unit in UNITS:
        vm.wait_for(lambda u=unit: link.show("ActiveState", u) == "inactive", f"{unit} ends", 60)
    change(booted, "YES")
    vm.wait_for(lambda: "Sign in" in page(link)[1], "it is back", 120)
    assert "ann" in link.run("flower-agent", "accounts", "list")
    assert link.containers() == before
