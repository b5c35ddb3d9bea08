"""The files of the proxy: whole, private, and touched only when something differs."""

import dataclasses
import stat

import pytest

from flower_agent.model.address import Address
from flower_agent.model.secret import Secret
from flower_agent.proxy.haproxy_config import ProxySpec
from flower_agent.proxy.proxy_files import GatewayShown, ProxyFiles, Shown

SPEC = ProxySpec(fleet=Address("10.0.0.5", 8000), superlink=Address("127.0.0.1", 9093))
SHOWN = Shown("CHAIN\n", Secret("KEY\n"), "CA\n")
GATEWAY = GatewayShown(Address("10.0.0.5", 9443), "GATE\n", Secret("ITS KEY\n"))


@pytest.fixture
def place(tmp_path):
    return tmp_path / "run" / "proxy"


def seen(place):
    return {path.name: (path.stat().st_ino, path.read_text()) for path in place.iterdir()}


def test_certificate_and_key_are_one_file_that_only_the_proxys_group_reads(place):
    assert ProxyFiles(place).write(SPEC, SHOWN)
    assert (place / "fleet.pem").read_text() == "CHAIN\nKEY\n"
    assert (place / "superlink-ca.crt").read_text() == "CA\n"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place, *place.iterdir())}
    assert modes == {
        "proxy": 0o750,
        "fleet.pem": 0o640,
        "superlink-ca.crt": 0o640,
        "haproxy.cfg": 0o640,
    }


def test_the_key_is_not_in_the_configuration(place):
    ProxyFiles(place).write(SPEC, SHOWN)
    text = (place / "haproxy.cfg").read_text()
    assert "KEY" not in text
    assert f"crt {place}/fleet.pem" in text


def test_a_settled_turn_writes_nothing(place):
    files = ProxyFiles(place)
    files.write(SPEC, SHOWN)
    before = seen(place)
    assert not files.write(SPEC, SHOWN)
    assert not ProxyFiles(place).write(SPEC, SHOWN), "an agent that starts again"
    assert seen(place) == before


def test_a_renewed_certificate_changes_the_watched_file_too(place):
    files = ProxyFiles(place)
    files.write(SPEC, SHOWN)
    before = (place / "haproxy.cfg").read_text()
    assert files.write(SPEC, dataclasses.replace(SHOWN, key_pem=Secret("ANOTHER\n")))
    assert (place / "haproxy.cfg").read_text() != before


def test_what_a_killed_agent_left_half_written_is_made_whole(place):
    files = ProxyFiles(place)
    files.write(SPEC, SHOWN)
    (place / "fleet.pem").unlink()
    assert files.write(SPEC, SHOWN)
    assert (place / "fleet.pem").exists()


def test_without_tls_there_is_no_key(place):
    ProxyFiles(place).write(SPEC, None)
    assert [path.name for path in place.iterdir()] == ["haproxy.cfg"]


def test_what_is_not_wanted_any_more_is_removed(place):
    files = ProxyFiles(place)
    files.write(SPEC, SHOWN)
    assert files.clear()
    assert list(place.iterdir()) == []
    assert not files.clear()
    assert not ProxyFiles(place.parent / "never").clear()


def test_a_gateway_has_a_file_of_its_own_and_takes_it_along(place):
    files = ProxyFiles(place)
    files.write(SPEC, SHOWN)
    before = seen(place)
    assert files.write(SPEC, SHOWN, GATEWAY)
    assert (place / "gateway.pem").read_text() == "GATE\nITS KEY\n"
    assert stat.S_IMODE((place / "gateway.pem").stat().st_mode) == 0o640
    assert not files.write(SPEC, SHOWN, GATEWAY)
    assert files.write(SPEC, SHOWN)
    assert {name: text for name, (_, text) in seen(place).items()} == {
        name: text for name, (_, text) in before.items()
    }, "as if there had never been one"


def test_the_gateways_renewed_certificate_changes_the_watched_file(place):
    files = ProxyFiles(place)
    files.write(None, None, GATEWAY)
    before = files.text()
    assert files.write(None, None, dataclasses.replace(GATEWAY, key_pem=Secret("NEW\n")))
    assert files.text() != before
    assert "NEW" not in files.text()


def test_below_1_40_haproxy_has_the_gateway_alone(place):
    files = ProxyFiles(place)
    files.write(None, None, GATEWAY)
    assert sorted(path.name for path in place.iterdir()) == ["gateway.pem", "haproxy.cfg"]
    assert "frontend fleet" not in files.text()


def test_a_fleet_port_is_given_back_and_a_gateway_alone_stays(place):
    files = ProxyFiles(place)
    files.write(SPEC, SHOWN, GATEWAY)
    assert files.clear(but_the_gateway=True), "a SuperLink below 1.40 wants the Fleet port"
    files.write(None, None, GATEWAY)
    assert not files.clear(but_the_gateway=True)
    assert files.clear()
    assert list(place.iterdir()) == []


def test_nothing_to_serve_is_no_configuration(place):
    with pytest.raises(ValueError, match="Fleet or a gateway"):
        ProxyFiles(place).write(None, None)
