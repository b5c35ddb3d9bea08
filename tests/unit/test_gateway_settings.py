"""The variables of the gateway: what they become, and what is wrong with them."""

import base64

import pytest

from flower_agent.config import parsing
from flower_agent.config.types import origin
from flower_agent.model.address import Address

SERVER = {"FLOWER_ROLE": "server"}
ON = {**SERVER, "FLOWER_GATEWAY": "YES"}


def pem(label):
    body = base64.encodebytes(b"x" * 100).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"


CERT = {"FLOWER_GATEWAY_CERT": pem("CERTIFICATE")}
KEY = {"FLOWER_GATEWAY_KEY": pem("PRIVATE KEY")}


def codes(variables):
    return [finding.code for finding in parsing.parse(variables, {}).findings]


def test_a_superlink_has_no_gateway_unless_somebody_wants_one():
    found = parsing.parse(SERVER, {}).settings
    assert found.gateway is False
    assert (found.gateway_address, found.gateway_url) == (None, None)
    assert (found.gateway_cert, found.gateway_key) == (None, None)


def test_the_gateway_is_switched_on_and_needs_nothing_else():
    assert codes(ON) == []
    assert parsing.parse(ON, {}).settings.gateway is True


@pytest.mark.parametrize("role", ["client", "superexec"])
def test_other_roles_ignore_it(role):
    context = {**ON, **CERT, "FLOWER_ROLE": role, "FLOWER_APPIO_ADDRESS": "10.0.0.5:9091"}
    parsed = parsing.parse(context, {})
    assert parsed.settings.gateway is False
    assert {"setting.missing", "setting.no_effect"}.isdisjoint(f.code for f in parsed.findings)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5", Address("10.0.0.5", 9443)),
        ("10.0.0.5:8443", Address("10.0.0.5", 8443)),
        ("[fd00::5]:8443", Address("fd00::5", 8443)),
        ("::", Address("::", 9443)),
    ],
)
def test_the_address_may_come_without_a_port(text, address):
    parsed = parsing.parse({**ON, "FLOWER_GATEWAY_ADDRESS": text}, {})
    assert parsed.settings.gateway_address == address


@pytest.mark.parametrize("text", ["fl.example.org", "fl.example.org:9443", "fe80::1%eth0", "ETH1"])
def test_the_address_is_no_name_since_nobody_looks_one_up(text):
    assert codes({**ON, "FLOWER_GATEWAY_ADDRESS": text}) == ["setting.invalid"]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://fl.example.org", "https://fl.example.org"),
        ("https://FL.Example.org:443/", "https://fl.example.org"),
        ("HTTPS://fl.example.org:9443", "https://fl.example.org:9443"),
        ("https://10.0.0.5:9443/", "https://10.0.0.5:9443"),
        ("https://[FD00:0::5]:9443", "https://[fd00::5]:9443"),
        ("https://[fd00::5]", "https://[fd00::5]"),
    ],
)
def test_the_url_has_the_form_that_browsers_send(text, url):
    assert origin(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "http://fl.example.org",
        "fl.example.org:9443",
        "https://",
        "https://fl.example.org/flower",
        "https://fl.example.org?x",
        "https://fl.example.org#x",
        "https://user@fl.example.org",
        "https://fl.example.org:0",
        "https://fl.example.org:65536",
        "https://fl.example.org\\evil",
        "https://fl example.org",
        "https://fl.example.org\n",
        "https://0.0.0.0:9443",
        "https://[::]:9443",
        "https://[fe80::1%25eth0]",
        "https://-x",
        "https://12.34",
    ],
)
def test_any_other_url_is_refused(text):
    with pytest.raises(ValueError, match=r"^want "):
        origin(text)
    assert codes({**ON, "FLOWER_GATEWAY_URL": f"x{text}"}) == ["setting.invalid"]


def test_half_a_pair_is_refused():
    for half, lacks in ((CERT, "FLOWER_GATEWAY_KEY"), (KEY, "FLOWER_GATEWAY_CERT")):
        (finding,) = parsing.parse({**ON, **half}, {}).findings
        assert finding.code == "setting.missing"
        assert finding.message.endswith(f"without {lacks}")


def test_a_gateway_without_any_certificate_is_refused():
    off = {"TLS_ENABLED": "NO"}
    assert "setting.conflict" in codes({**ON, **off})
    assert "setting.conflict" not in codes({**ON, **off, **CERT, **KEY})


@pytest.mark.parametrize(
    ("other", "value"),
    [
        ("FLOWER_FLEET_PORT", "9443"),
        ("FLOWER_CONTROL_ADDRESS", "127.0.0.1:9443"),
        ("FLOWER_SERVERAPPIO_PORT", "9443"),
        ("FLOWER_HEALTH_PORT", "9442"),
    ],
)
def test_a_port_that_another_setting_has_is_refused(other, value):
    (finding,) = parsing.parse({**ON, other: value}, {}).findings
    assert finding.code == "setting.conflict"
    assert "FLOWER_GATEWAY_ADDRESS" in finding.message
    assert other in finding.message
    assert codes({**SERVER, other: value}) == [], "without a gateway the port is free"


@pytest.mark.parametrize("version", ["1.25.0", "1.38.0", "1.42.0"])
def test_the_fleet_port_is_not_the_gateways_in_any_version(version):
    context = {**ON, "FLOWER_VERSION": version, "FLOWER_GATEWAY_ADDRESS": "10.0.0.5:8000"}
    assert codes({**context, "FLOWER_FLEET_PORT": "8000"}) == ["setting.conflict"]


def test_what_is_said_of_a_gateway_that_is_off_is_a_warning():
    context = {**SERVER, **CERT, **KEY, "FLOWER_GATEWAY_URL": "https://fl.example.org"}
    found = parsing.parse(context, {}).findings
    assert [finding.code for finding in found] == ["setting.no_effect"] * 3
    assert parsing.parse(context, {}).settings is not None


def test_the_key_is_in_no_finding():
    found = parsing.parse({**ON, **CERT, "FLOWER_GATEWAY_KEY": "hunter2"}, {}).findings
    assert [finding.code for finding in found] == ["setting.invalid"]
    assert "hunter2" not in repr(found)


OIDC = {
    "FLOWER_OIDC_ISSUER": "https://login.example.org/realms/ml",
    "FLOWER_OIDC_CLIENT_ID": "federation",
    "FLOWER_OIDC_ALLOW": "domain:example.org=viewer",
}


def test_a_provider_is_named_by_three_variables_and_a_secret():
    assert codes({**ON, **OIDC}) == []
    assert codes({**ON, **OIDC, "FLOWER_OIDC_CLIENT_SECRET": "hush"}) == []


@pytest.mark.parametrize("left_out", OIDC)
def test_a_provider_that_lacks_one_is_refused_and_the_missing_named(left_out):
    given = {name: value for name, value in OIDC.items() if name != left_out}
    (finding,) = parsing.parse({**ON, **given}, {}).findings
    assert finding.code == "setting.missing"
    assert finding.message.endswith(f"without {left_out}")


@pytest.mark.parametrize(
    "text", ["http://login.example.org", "login.example.org", "https://a.org?x=1", "https://a b"]
)
def test_an_issuer_is_a_plain_https_address(text):
    assert codes({**ON, **OIDC, "FLOWER_OIDC_ISSUER": text}) == ["setting.invalid"]


def test_a_provider_without_a_gateway_has_no_effect():
    context = {**SERVER, **OIDC}
    assert set(codes(context)) == {"setting.no_effect"}
