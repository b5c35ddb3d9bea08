"""The gateway's part of the proxy's configuration: word for word, and what the Fleet's keeps."""

import dataclasses
import os
import pathlib
import re

import pytest

from flower_agent.model.address import Address
from flower_agent.proxy import gateway_frontend, haproxy_config
from flower_agent.proxy.gateway_frontend import GatewayFrontend
from flower_agent.proxy.haproxy_config import ProxySpec

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "haproxy"
GATEWAY = GatewayFrontend(
    listen=Address("10.0.0.5", 9443),
    certificate_file="/run/flower-agent/proxy/gateway.pem",
    digest="77aa01",
)
FLEET = ProxySpec(
    fleet=Address("10.0.0.5", 8000),
    superlink=Address("127.0.0.1", 9093),
    certificate_file="/run/flower-agent/proxy/fleet.pem",
    ca_file="/run/flower-agent/proxy/superlink-ca.crt",
    digest="5f70bf18",
)
CASES = {
    "gateway-alone": (None, GATEWAY),
    "gateway-beside-the-fleet": (FLEET, GATEWAY),
    "gateway-everywhere": (None, dataclasses.replace(GATEWAY, listen=Address("::", 9443))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_text_is(name):
    text, file = gateway_frontend.config(*CASES[name]), GOLDEN / f"{name}.cfg"
    if os.environ.get("REGENERATE"):
        file.write_text(text)
    assert text == file.read_text()


def test_the_fleets_part_differs_only_in_how_many_connections_there_may_be():
    alone = haproxy_config.config(FLEET).splitlines()
    both = gateway_frontend.config(FLEET, GATEWAY).splitlines()
    changed = [(a, b) for a, b in zip(alone, both, strict=False) if a != b]
    assert changed == [("    maxconn 4100", "    maxconn 5100")]
    assert both[len(alone) + 1].startswith("# The gateway's certificate")


def test_whom_a_client_says_it_is_is_replaced():
    text = gateway_frontend.config(None, GATEWAY)
    assert re.search(r"http-request set-header X-Forwarded-For %\[src", text)
    for name in ("Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "Upgrade"):
        assert f"http-request del-header {name}\n" in text


def test_streams_and_grpc_may_be_silent_for_a_day_and_nothing_else():
    text = gateway_frontend.config(None, GATEWAY)
    assert "\nbackend gateway_grpc\n    timeout server 24h\n" in text
    assert "timeout client 60s" in text
    assert "timeout http-request 10s" in text
    assert "set-timeout server 24h if METH_POST streams" in text


def test_another_certificate_makes_another_text():
    other = dataclasses.replace(GATEWAY, digest="0e1f")
    assert gateway_frontend.config(None, other) != gateway_frontend.config(None, GATEWAY)


@pytest.mark.parametrize("listen", [Address("10.0.0.5", 9443), Address("::", 9443)])
def test_a_text_tells_where_its_gateway_listens(listen):
    text = gateway_frontend.config(FLEET, dataclasses.replace(GATEWAY, listen=listen))
    assert gateway_frontend.binds(text, listen)
    for other in (Address("10.0.0.5", 8000), Address("10.0.0.5", 944), Address("10.0.0.6", 9443)):
        assert not gateway_frontend.binds(text, other)
    assert not gateway_frontend.binds(haproxy_config.config(FLEET), listen)
