"""Whose AppIo a lone SuperExec attaches to, found in what the VMs of its service publish."""

import base64

import pytest

from flower_agent.config import flower_versions
from flower_agent.config.types import Plugin
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError, Severity
from flower_agent.onegate import appio_discovery
from flower_agent.onegate.discovery import ServiceVm

CA, LINKS_CA = "the node's CA", "the SuperLink's CA"
NODES, LINKS = Address("10.0.0.7", 9094), Address("10.0.0.5", 9091)


def coded(text):
    return base64.b64encode(text.encode()).decode()


def supernode(vmid="42", **more):
    told = {
        "FLOWER_ROLE": "supernode",
        "FLOWER_VERSION": "1.34.0",
        "FLOWER_APPIO": str(NODES),
        "FLOWER_APPIO_CA": coded(CA),
    }
    return ServiceVm(vmid, f"supernode_{vmid}", {**told, **more})


def superlink(**more):
    told = {
        "FLOWER_ROLE": "superlink",
        "FLOWER_VERSION": "1.34.0",
        "FLOWER_APPIO": str(LINKS),
        "FLOWER_CA_CERT": coded(LINKS_CA),
    }
    return ServiceVm("41", "superlink_0", {**told, **more})


def refusal(peers, wanted=NODES, plugin=Plugin.CLIENTAPP):
    with pytest.raises(AgentError) as caught:
        appio_discovery.choose(peers, wanted, plugin)
    assert caught.value.retryable
    return caught.value.finding


def test_a_supernode_is_found_by_its_address_with_a_ca_of_its_own():
    found = appio_discovery.choose([superlink(), supernode()], NODES, Plugin.CLIENTAPP)
    assert found == appio_discovery.Offer("42", CA, "1.34.0")


def test_a_superlink_is_found_by_its_address_with_the_ca_of_all_its_apis():
    found = appio_discovery.choose([superlink(), supernode()], LINKS, Plugin.SERVERAPP)
    assert found == appio_discovery.Offer("41", LINKS_CA, "1.34.0")


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ("fd00:0::7:9094", Address("fd00::7", 9094)),  # OneGate keeps no brackets
        ("Node.Example.org:9094", Address("node.example.org", 9094)),
    ],
)
def test_addresses_are_compared_as_values(told, wanted):
    assert appio_discovery.offers(supernode(FLOWER_APPIO=told), wanted)


def test_another_name_of_the_only_offer_on_that_port_is_taken():
    dialled = Address("node.example.org", NODES.port)
    assert (
        appio_discovery.choose([superlink(), supernode()], dialled, Plugin.CLIENTAPP).vmid == "42"
    )


def test_of_two_offers_on_that_port_none_is_guessed():
    other = supernode("43", FLOWER_APPIO="10.0.0.8:9094")
    found = refusal([supernode(), other], Address("node.example.org", NODES.port))
    assert found.code == "discover.waiting"
    assert "VM 42 (supernode_42) and VM 43 (supernode_43)" in found.message


@pytest.mark.parametrize("peers", [[], [superlink()], [supernode(FLOWER_APPIO="nowhere")]])
def test_while_nobody_offers_it_one_is_waited_for(peers):
    found = refusal(peers)
    assert found.code == "discover.waiting"
    assert "10.0.0.7:9094" in found.message
    assert "FLOWER_APPIO_LISTEN" in found.hint


def test_an_offer_without_its_ca_is_waited_for():
    found = refusal([supernode(FLOWER_APPIO_CA="")])
    assert found.code == "discover.waiting"
    assert "FLOWER_APPIO_CA is not published yet" in found.message


def test_an_offer_without_tls_is_a_mismatch():
    found = refusal([supernode(FLOWER_APPIO_CA="", FLOWER_TLS="NO")])
    assert (found.code, "TLS is on here and off there" in found.message) == ("tls.mismatch", True)


def test_a_ca_that_is_no_base64_is_waited_for():
    assert refusal([supernode(FLOWER_APPIO_CA="###")]).code == "discover.waiting"


@pytest.mark.parametrize(
    ("wanted", "plugin", "right"),
    [(LINKS, Plugin.CLIENTAPP, "serverapp"), (NODES, Plugin.SERVERAPP, "clientapp")],
)
def test_the_wrong_plugin_is_named_before_flower_meets_it(wanted, plugin, right):
    found = refusal([superlink(), supernode()], wanted, plugin)
    assert found.code == "setting.conflict"
    assert f"FLOWER_SUPEREXEC_PLUGIN={right}" in found.hint


@pytest.mark.parametrize(
    ("own", "other", "severity"),
    [
        ("1.34.0", "1.34.2", None),
        ("1.34.0", "", None),
        ("1.34.0", "1.33.0", Severity.ERROR),
        ("1.29.0", "1.30.0", Severity.ERROR),
        ("1.25.0", "1.27.0", Severity.WARNING),
        ("1.34.0", "\x1b[31m", Severity.ERROR),
    ],
)
def test_from_1_30_on_both_must_be_of_one_version(own, other, severity):
    found = appio_discovery.mixed_versions(flower_versions.parse_version(own), other)
    assert (found.severity if found else None) is severity
    assert found is None or (found.code == "version.mixed" and "\x1b" not in found.message)
