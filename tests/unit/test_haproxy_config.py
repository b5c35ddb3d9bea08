"""The proxy's configuration: word for word, and what it must never say."""

import dataclasses
import os
import pathlib
import re

import pytest

from flower_agent.model.address import Address
from flower_agent.proxy import haproxy_config
from flower_agent.proxy.haproxy_config import ProxySpec

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "haproxy"
FILES = {
    "certificate_file": "/run/flower-agent/proxy/fleet.pem",
    "ca_file": "/run/flower-agent/proxy/superlink-ca.crt",
    "digest": "5f70bf18",
}
PLAIN = ProxySpec(fleet=Address("10.0.0.5", 8000), superlink=Address("127.0.0.1", 9093))
TLS = dataclasses.replace(PLAIN, **FILES)
SPECS = {
    "tls": TLS,
    "without-tls": PLAIN,
    "appio-at-the-fleet-address": dataclasses.replace(TLS, runtime=TLS.fleet),
    "appio-elsewhere": dataclasses.replace(TLS, runtime=Address("10.0.0.5", 9091)),
    "ipv6": dataclasses.replace(TLS, fleet=Address("fd00::5", 8000)),
    "every-address": dataclasses.replace(
        TLS, fleet=Address("::", 8000), runtime=Address("10.0.0.5", 8000)
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_the_text_is(name):
    text, file = haproxy_config.config(SPECS[name]), GOLDEN / f"{name}.cfg"
    if os.environ.get("REGENERATE"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", SPECS)
def test_no_node_is_ever_answered_what_makes_it_give_up(name):
    text = haproxy_config.config(SPECS[name])
    assert set(re.findall(r"deny_status (\d+)", text)) == {"404", "503"}
    assert "reject" not in text, "a handshake that ends early is given up"
    assert "errorfile 408 /dev/null" in text


def test_what_is_no_fleet_call_is_refused_before_any_limit_is_asked():
    text = haproxy_config.config(TLS)
    first = re.findall(r"http-request deny deny_status (\d+ .*)", text)[0]
    assert first == "404 unless passes METH_POST"


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/v1/fleet/pull-messages", True),
        ("/v1/control/list-nodes", False),
        ("/v1/runtime/acquire-task", False),
        ("/v1/fleet/", False),
        ("/v1/fleet/../control/list-nodes", False),
        ("/v1/fleet/%2e%2e", False),
        ("//v1/fleet/get-run", False),
        ("/v1/fleet/get-run/x", False),
        ("/V1/fleet/get-run", False),
        ("/docs", False),
    ],
)
def test_the_fleet_apis_paths_pass_and_no_other(path, passes):
    assert bool(re.search(haproxy_config.FLEET, path)) is passes


def test_another_certificate_makes_another_text():
    other = dataclasses.replace(TLS, digest="0e1f")
    assert haproxy_config.config(other) != haproxy_config.config(TLS)


def test_the_superlinks_certificate_is_verified():
    text = haproxy_config.config(TLS)
    assert f" ssl verify required ca-file {TLS.ca_file} verifyhost localhost " in text


def test_an_appio_at_the_fleets_port_needs_no_second_frontend():
    both = haproxy_config.config(dataclasses.replace(TLS, runtime=TLS.fleet))
    assert both.count("frontend ") == 1
    assert haproxy_config.RUNTIME in both
    assert haproxy_config.RUNTIME not in haproxy_config.config(TLS)
