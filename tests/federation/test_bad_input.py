"""Bad contexts: said everywhere alike, nothing started, and mended without a reboot."""

import base64
import datetime
import json

import pytest
from watched import docker, wait_for

from flower_agent.model.secret import Secret
from flower_agent.tls import own_ca

pytestmark = [pytest.mark.engine, pytest.mark.federation]

GOOD = {
    "FLOWER_ROLE": "server",
    "FLOWER_ADDRESS": "127.0.0.1",
    "FLOWER_FLEET_PORT": "31402",
    "FLOWER_SERVERAPPIO_PORT": "31401",
    "FLOWER_CONTROL_ADDRESS": "127.0.0.1:31403",
    "FLOWER_HEALTH_PORT": "31407",
    "FLOWER_ISOLATION": "subprocess",
}


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def given(*hosts, key=None):
    now = datetime.datetime.now(datetime.UTC)
    authority = own_ca.make_ca(now)
    leaf = own_ca.make_leaf(authority, hosts, now)
    return {
        "TLS_CA_CERT": encoded(authority.certificate_pem),
        "TLS_CERT": encoded(leaf.certificate_pem),
        "TLS_KEY": encoded((key or leaf.key).reveal()),
    }


def another_key():
    now = datetime.datetime.now(datetime.UTC)
    return own_ca.make_leaf(own_ca.make_ca(now), ["10.9.9.9"], now).key


BAD = {
    "an unknown role": ({"FLOWER_ROLE": "srver"}, "setting.invalid"),
    "no role": ({"FLOWER_ROLE": ""}, "setting.missing"),
    "two values for one variable": (
        {"ONEAPP_FLOWER_VERSION": "1.26.0", "FLOWER_VERSION": "1.25.0"},
        "setting.conflict",
    ),
    "a bad port": ({"FLOWER_FLEET_PORT": "99999"}, "setting.invalid"),
    "a version that is too old": ({"FLOWER_VERSION": "1.20.0"}, "setting.invalid"),
    "a version that is none": ({"FLOWER_VERSION": "latest"}, "setting.invalid"),
    "junk base64": ({"TLS_CERT": "!!junk!!", "TLS_KEY": "!!junk!!"}, "setting.invalid"),
    "a key of another certificate": (given("127.0.0.1", key=another_key()), "tls.key_mismatch"),
    "a certificate without the published address": (
        {**given("10.9.9.9"), "FLOWER_PUBLIC_ADDRESS": "10.8.8.8"},
        "tls.not_covered",
    ),
    "a value of a megabyte": ({"FLOWER_TLS_SANS": "a" * 1_000_000}, "setting.invalid"),
}


@pytest.fixture
def vm(lone):
    federation = lone(31400, "badinput", scale=0.05)
    machine = federation.superlink
    machine.root.mkdir(parents=True)
    token = federation.cloud.add_vm(machine.vmid, machine.name, "superlink", 7)
    return federation, machine, token


def said(federation, machine):
    return (federation.status(machine).get("error") or {}).get("code")


def test_each_bad_context_is_said_everywhere_and_the_mended_one_becomes_ready(vm):
    federation, machine, token = vm
    federation.write_context(machine, {**GOOD, "FLOWER_ROLE": "none"}, token=token)
    federation.start_agent(machine)
    for story, (changes, code) in BAD.items():
        federation.write_context(machine, {**GOOD, **changes}, token=token)
        wait_for(lambda code=code: said(federation, machine) == code, f"{code} for {story}")
        found = federation.status(machine)
        assert found["state"] == "failed", story
        assert found["error"]["hint"], story
        checked = json.loads(federation.agent(machine, "check", "--json").stdout)
        assert code in {f["code"] for f in checked["findings"]}, story
        shown = federation.agent(machine, "status")
        assert (shown.returncode, code in shown.stdout) == (1, True), story
        assert code in federation.log(machine), story
        wait_for(
            lambda code=code: code in federation.attributes(machine).get("FLOWER_ERROR", ""),
            f"{code} at OneGate for {story}",
        )
    assert docker("ps", "-aq", "--filter", "label=org.flower-agent.name=badinput-superlink") == ""
    assert not (machine.root / "var/lib/flower-agent/tls").exists()
    assert not any("READY=YES" in body for _, body, _ in federation.cloud.updates(machine.vmid))
    federation.write_context(machine, GOOD, token=token)
    federation.wait_ready(machine)
    assert (
        federation.attributes(machine)["FLOWER_ERROR"] == '""'
        or not federation.attributes(machine)["FLOWER_ERROR"]
    )


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "context.missing"),
        (b"", "setting.missing"),
        (b"\x7fELF\0\x01\xff", "context.malformed"),
    ],
    ids=["missing", "empty", "binary"],
)
def test_a_context_file_that_is_none_is_said_and_starts_nothing(lone, content, code):
    federation = lone(31440, "nocontext")
    machine = federation.superlink
    directory = machine.root / "run/one-context"
    directory.mkdir(parents=True)
    if content is not None:
        (directory / "context.sh.network").write_bytes(content)
    federation.start_agent(machine)
    wait_for(lambda: said(federation, machine) == code, code)
    expected = "starting" if content is None else "failed"  # a context may come late in a boot
    assert federation.status(machine)["state"] == expected
    assert code in federation.agent(machine, "check").stdout


def test_a_bad_value_leaves_the_running_containers_alone_until_it_is_mended(lone):
    federation = lone(31460, "mended")
    machine = federation.superlink
    federation.deploy(machine)
    federation.wait_ready(machine)
    name = f"{machine.prefix}-flower-superlink"
    before = docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", name)
    federation.write_context(machine, {**machine.variables, "FLOWER_HEALTH_PORT": "no"})
    wait_for(lambda: federation.status(machine)["state"] == "failed", "failed")
    federation.write_context(machine, machine.variables)
    wait_for(lambda: federation.status(machine)["state"] == "ready", "ready again")
    assert docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", name) == before


def test_secrets_of_given_material_are_shown_nowhere(lone):
    federation = lone(31480, "given")
    machine = federation.superlink
    material = given("127.0.0.1")
    token = federation.cloud.add_vm(machine.vmid, machine.name, "superlink", 7)
    federation.write_context(machine, {**machine.variables, **material}, token=token)
    federation.start_agent(machine)
    federation.wait_ready(machine)
    key = Secret(base64.b64decode(material["TLS_KEY"]).decode())
    body = key.reveal().splitlines()[1]
    seen = federation.log(machine) + json.dumps(federation.status(machine))
    seen += docker("inspect", f"{machine.prefix}-flower-superlink")
    seen += json.dumps(federation.attributes(machine))
    assert body not in seen
    assert material["TLS_KEY"] not in seen
