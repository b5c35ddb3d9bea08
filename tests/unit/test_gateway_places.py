"""Where a gateway listens, by which URL people reach it, and what its process is told."""

import json

import pytest

from flower_agent.config import parsing
from flower_agent.flower import container_spec
from flower_agent.model.address import Address
from flower_agent.roles import gateway_places

OWN = "10.0.0.5"


def settings(**context):
    return parsing.parse({"FLOWER_ROLE": "server", "FLOWER_GATEWAY": "YES", **context}, {}).settings


@pytest.mark.parametrize(
    ("context", "fleet", "listen", "url"),
    [
        ({}, OWN, Address(OWN, 9443), "https://10.0.0.5:9443"),
        ({}, "0.0.0.0", Address("0.0.0.0", 9443), "https://10.0.0.5:9443"),  # noqa: S104
        ({}, "::", Address("::", 9443), "https://10.0.0.5:9443"),
        ({}, "fd00::5", Address("fd00::5", 9443), "https://[fd00::5]:9443"),
        (
            {"FLOWER_PUBLIC_ADDRESS": "fl.example.org:19092"},
            OWN,
            Address(OWN, 9443),
            "https://fl.example.org:9443",
        ),
        (
            {"FLOWER_GATEWAY_ADDRESS": "10.1.0.5:8443"},
            OWN,
            Address("10.1.0.5", 8443),
            "https://10.1.0.5:8443",
        ),
        (
            {"FLOWER_GATEWAY_ADDRESS": "127.0.0.1", "FLOWER_GATEWAY_URL": "https://x.example.org/"},
            OWN,
            Address("127.0.0.1", 9443),
            "https://x.example.org",
        ),
        (
            {"FLOWER_GATEWAY_ADDRESS": "10.1.0.5:443"},
            OWN,
            Address("10.1.0.5", 443),
            "https://10.1.0.5",
        ),
    ],
)
def test_where_it_listens_and_how_people_reach_it(context, fleet, listen, url):
    found = settings(**context)
    assert gateway_places.listen(found, fleet) == listen
    assert gateway_places.url(found, listen, OWN) == url


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://fl.example.org", "fl.example.org"),
        ("https://fl.example.org:444", "fl.example.org"),
        ("https://[fd00::5]", "fd00::5"),
        ("https://[fd00::5]:444", "fd00::5"),
    ],
)
def test_the_host_that_a_certificate_must_name(url, host):
    found = settings(FLOWER_GATEWAY_URL=url)
    assert gateway_places.host(found, Address(OWN, 9443), OWN) == host


@pytest.mark.parametrize(
    ("version", "transport", "control"),
    [
        ("1.25.0", "grpc", "127.0.0.1:9093"),
        ("1.25.0-py3.13-ubuntu24.04", "grpc", "127.0.0.1:9093"),
        ("1.39.0", "http", "127.0.0.1:9093"),
        ("1.42.0", "http", "127.0.0.1:9093"),
    ],
)
def test_the_document_says_which_superlink_is_behind(version, transport, control):
    found = settings(FLOWER_VERSION=version)
    places = container_spec.endpoints(found, OWN)
    text = gateway_places.document(
        found, places, url="https://x", ca_file="/ca", ca_fingerprint="ab", server_hostname="h"
    )
    assert json.loads(text) == {
        "version": version.partition("-")[0],
        "transport": transport,
        "control": control,
        "ca": "/ca",
        "ca_fingerprint": "ab",
        "server_hostname": "h",
        "url": "https://x",
    }


def test_without_tls_no_name_is_expected():
    found = settings()
    text = gateway_places.document(
        found,
        container_spec.endpoints(found, OWN),
        url="https://x",
        ca_file=None,
        ca_fingerprint=None,
        server_hostname="h",
    )
    told = json.loads(text)
    assert (told["ca"], told["server_hostname"]) == (None, None)
