"""The kernel's table of TCP sockets."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.host import network
from flower_agent.host.network import Socket, TcpState

ANY = "0.0.0.0"  # noqa: S104  # nothing is bound, it is compared
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
TAIL = " 00000000:00000000 00:00000000 00000000 49999 0 13084 1 0 100 0 0 10 0\n"


def table(*lines):
    return HEAD + "".join(f"   {at}: {line}{TAIL}" for at, line in enumerate(lines))


def hexed(packed):
    return b"".join(packed[at : at + 4][::-1] for at in range(0, len(packed), 4)).hex().upper()


def test_a_listener_and_a_connection_are_read():
    text = table("0100007F:2383 00000000:0000 0A", "0100007F:C350 0100007F:2383 01")
    assert network.parse(text) == (
        Socket(("127.0.0.1", 9091), (ANY, 0), TcpState.LISTEN),
        Socket(("127.0.0.1", 50000), ("127.0.0.1", 9091), TcpState.ESTABLISHED),
    )


def test_whom_a_listener_took_is_told_apart_from_whom_this_machine_dialled():
    text = table(
        "0100007F:2383 00000000:0000 0A",
        "0100007F:2383 0200007F:C350 01",
        "0100007F:2383 0300007F:C351 06",
        "0100007F:C352 0400007F:2383 01",
    )
    assert network.accepted(network.parse(text), 9091) == ("127.0.0.2",)


def test_a_loopback_grpc_server_in_tcp6_is_given_as_ipv4():
    line = "0000000000000000FFFF00000100007F:2383 00000000000000000000000000000000:0000 0A"
    assert network.listens(network.parse(table(line)), 9091) == ("127.0.0.1",)


def test_an_ipv6_address_is_written_in_its_short_form():
    line = f"{hexed(socket.inet_pton(socket.AF_INET6, 'fd00::2'))}:2384 {'0' * 32}:0000 0A"
    assert network.listens(network.parse(table(line)), 9092) == ("fd00::2",)


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_is_read_back(address):
    text = table(f"{hexed(address.packed)}:0001 00000000:0000 0A")
    assert network.listens(network.parse(text), 1) == (str(address),)


def test_all_listeners_of_a_port_are_named():
    text = table("00000000:2384 00000000:0000 0A", "0100007F:2384 00000000:0000 0A")
    assert network.listens(network.parse(text), 9092) == (ANY, "127.0.0.1")
    assert network.listens(network.parse(text), 9093) == ()


def test_a_connection_to_the_port_at_one_of_the_addresses_counts():
    found = network.parse(table("0100007F:C350 0100007F:2383 01"))
    assert network.established_to(found, ["10.0.0.1", "127.0.0.1"], 9091)
    assert not network.established_to(found, ["10.0.0.1"], 9091)
    assert not network.established_to(found, ["127.0.0.1"], 9092)


def test_an_ipv6_address_is_compared_as_a_value():
    packed = hexed(socket.inet_pton(socket.AF_INET6, "fd00::2"))
    found = network.parse(table(f"{packed}:C350 {packed}:2383 01"))
    assert network.established_to(found, ["fd00:0:0::2"], 9091)


def test_the_servers_own_end_of_a_connection_does_not_count():
    found = network.parse(table("0100007F:2383 0100007F:C350 01"))
    assert not network.established_to(found, ["127.0.0.1"], 9091)


@pytest.mark.parametrize("state", ["02", "06", "08", "0A"])
def test_a_connection_that_is_not_established_does_not_count(state):
    found = network.parse(table(f"0100007F:C350 0100007F:2383 {state}"))
    assert not network.established_to(found, ["127.0.0.1"], 9091)


def test_a_state_of_a_newer_kernel_stays_text():
    (found,) = network.parse(table("0100007F:C350 0100007F:2383 0F"))
    assert found.state == "0F"


@pytest.mark.parametrize("text", ["", HEAD, HEAD + "\n", HEAD + "   0: junk\n", HEAD + "a b c d\n"])
def test_an_empty_or_torn_table_has_no_sockets(text):
    assert network.parse(text) == ()
