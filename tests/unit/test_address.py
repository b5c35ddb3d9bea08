"""Addresses as people write them, and back as Flower's flags take them."""

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from flower_agent.model import address
from flower_agent.model.address import Address, parse_address, parse_host, parse_port

PORTS = st.integers(1, 65535)
HOSTS = st.ip_addresses().map(str) | st.from_regex(
    r"[a-z]([a-z0-9-]{0,9}[a-z0-9])?(\.[a-z]{1,9}){0,3}", fullmatch=True
)


@effort(max_examples=40)
@given(HOSTS, PORTS)
def test_what_is_written_is_read_back(host, port):
    assert parse_address(str(Address(host, port))) == Address(host, port)


@effort(max_examples=40)
@given(HOSTS, PORTS)
def test_a_host_alone_gets_the_usual_port(host, port):
    assert parse_address(host, port) == Address(host, port)


@given(st.text() | st.text("[]:.0123456789abf%-", max_size=30))
def test_any_text_is_an_address_or_a_value_error(text):
    try:
        found = parse_address(text, 9092)
    except ValueError as error:
        want = str(error)
    else:
        assert parse_address(str(found)) == found
        return
    assert want.startswith("want ")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.5:9092", "10.0.0.5", 9092),
        ("[fd00::1]:9092", "fd00::1", 9092),
        ("[fd00::1]", "fd00::1", 1),
        ("fd00::1", "fd00::1", 1),
        ("fd00::1:9092", "fd00::1:9092", 1),
        ("fl_1.example.org.", "fl_1.example.org.", 1),
    ],
)
def test_an_ipv6_address_with_a_port_wants_brackets(text, host, port):
    assert parse_address(text, 1) == Address(host, port)


@pytest.mark.parametrize("text", ["host", "10.0.0.5", "fd00::1", "[fd00::1]"])
def test_without_a_usual_port_one_must_be_given(text):
    with pytest.raises(ValueError, match=r"^want host:port or \[v6\]:port$"):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            ":9092",
            "host:",
            "host:0",
            "host:65536",
            "host:\N{FULLWIDTH DIGIT NINE}",
            "host:+1",
            "host: 1",
        ),
        *("[fd00::1", "fd00::1]", "[fd00::1]9092", "[fd00::1]x:1", "[host]:1", "[]:1"),
        *("1.2.3:1", "1.2.3.4.5:1", "256.1.1.1:1", "ho st:1", "host/:1", "-host:1", "a..b:1"),
        *("http://host:1", "fe80::1%eth0", "[fe80::1%eth0]:1", "x" * 64 + ":1", "host:1\n"),
    ],
)
def test_what_cannot_be_dialled_is_refused(text):
    with pytest.raises(ValueError, match=r"^want "):
        parse_address(text, 9092)


def test_a_refused_part_says_which_form_the_whole_should_have():
    with pytest.raises(ValueError, match=r"^want a port from 1 to 65535 in host:port or \[v6\]"):
        parse_address("host:x")


@pytest.mark.parametrize("text", ["1", "65535"])
def test_the_first_and_the_last_port_are_ports(text):
    assert str(parse_port(text)) == text


def test_a_name_of_253_letters_is_the_longest():
    longest = ".".join(["x" * 61] * 4)[:253]
    assert parse_host(longest) == longest
    with pytest.raises(ValueError, match="DNS name"):
        parse_host("yyyyyyy." + longest)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_has_many_names(host):
    assert address.is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "::", "localhost.example.org", "1127.0.0.1", ""])
def test_nothing_else_is_loopback(host):
    assert not address.is_loopback(host)


@pytest.mark.parametrize(
    ("host", "every"),
    [("0.0.0.0", True), ("::", True), ("::1", False), ("0", False)],  # noqa: S104 - a value
)
def test_two_addresses_stand_for_every_one(host, every):
    assert address.is_any(host) is every
