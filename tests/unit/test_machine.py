"""The machine's facts from a made-up /proc and /sys, and the choice of the Fleet address."""

import dataclasses
import os
import socket

import pytest

from flower_agent.config import types
from flower_agent.host import machine as host_machine
from flower_agent.host import network
from flower_agent.host.network import Interface, TcpState, fleet_address
from flower_agent.model.errors import AgentError


def test_who_listens_at_a_port_is_named_and_who_does_not_is_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            mine = client.getsockname()[1]
            assert host_machine.listener(port).endswith(f" (process {os.getpid()})")
            assert host_machine.listener(mine) == ""


def test_where_proc_hides_the_processes_nobody_is_named(tmp_path):
    (tmp_path / "net").mkdir()
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    row = "   0: 0100007F:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1\n"
    (tmp_path / "net/tcp").write_text(head + row)
    (tmp_path / "7").mkdir()
    assert host_machine.listener(0x2384, tmp_path) == ""
    (tmp_path / "7/fd").mkdir()
    (tmp_path / "7/fd/3").symlink_to("socket:[4242]")
    (tmp_path / "7/comm").write_text("nc\n")
    assert host_machine.listener(0x2384, tmp_path) == "nc (process 7)"
    assert host_machine.listener(0x2385, tmp_path) == ""


ROUTE_HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"

LO = Interface("lo", "00:00:00:00:00:00", ("127.0.0.1", "::1"))
ETH0 = Interface("ens3", "02:00:ac:14:00:2c", ("172.20.0.44", "172.20.0.45", "fe80::1", "fd00::2"))
ETH1 = Interface("ens4", "02:00:0a:00:00:07", ("10.0.0.7",))
V6 = Interface("ens5", "02:00:00:00:00:66", ("fe80::2", "2001:db8::6"))
DOCKER = Interface("docker0", "02:42:00:00:00:01", ("172.17.0.1",))
CONTEXT = {"ETH0_MAC": "02:00:AC:14:00:2C", "ETH1_MAC": "02:00:0a:00:00:07", "ETH0_IP": "x"}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def ipv4_route(name, *, destination="00000000", mask="00000000", flags="0003", metric=0):
    return f"{name}\t{destination}\t010014AC\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


def ipv6_route(name, *, destination="0" * 32, length="00", flags="00000003", metric="00000400"):
    gap = f"{'0' * 32} 00 fd{'0' * 29}1"
    return f"{destination} {length} {gap} {metric} 00000001 00000000 {flags} {name:>8}\n"


@pytest.fixture
def machine(tmp_path):
    """A VM with two NICs."""
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    write(proc / "meminfo", "MemTotal:        8000000 kB\nMemFree: 1 kB\n")
    write(proc / "sys/kernel/random/boot_id", "78a68f60-af2f-4315-a801-8c8916675f7b\n")
    write(proc / "net/route", ROUTE_HEAD + ipv4_route("ens3"))
    write(proc / "net/ipv6_route", "")
    write(proc / "net/if_inet6", f"fd{'0' * 29}2 04 40 00 82     ens3\n")
    for index, name, mac in ((2, "ens3", "02:00:AC:14:00:2c"), (1, "lo", "00:00:00:00:00:00")):
        write(sys / "class/net" / name / "ifindex", f"{index}\n")
        write(sys / "class/net" / name / "address", f"{mac}\n")
    write(sys / "class/net/bonding_masters", "")
    return proc, sys


def observe(machine, ipv4=(("lo", "127.0.0.1"), ("ens3", "172.20.0.44"))):
    return host_machine.observe(*machine, ipv4=lambda: ipv4)


def test_a_vm_is_observed_with_its_nics_in_the_kernels_order(machine):
    facts = observe(machine)
    assert facts.interfaces == (
        Interface("lo", "00:00:00:00:00:00", ("127.0.0.1",)),
        Interface("ens3", "02:00:ac:14:00:2c", ("172.20.0.44", "fd00::2")),
    )
    assert facts.default_interface == "ens3"
    assert facts.memory_bytes == 8_192_000_000
    assert facts.boot_id == "78a68f60-af2f-4315-a801-8c8916675f7b"


def test_an_empty_machine_gives_empty_facts(tmp_path):
    assert host_machine.observe(tmp_path, tmp_path, ipv4=lambda: ()) == host_machine.HostFacts(
        interfaces=(),
        default_interface=None,
        memory_bytes=0,
        boot_id="",
    )


def test_this_machine_has_loopback_memory_and_a_boot_id():
    facts = host_machine.observe()
    assert "127.0.0.1" in next(nic for nic in facts.interfaces if nic.name == "lo").addresses
    assert facts.memory_bytes > 64 * 1024 * 1024
    assert len(facts.boot_id) == 36


def test_a_listener_of_this_machine_is_found_in_the_kernels_table():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [one for one in host_machine.read_sockets() if one.local == ("127.0.0.1", port)]
    assert [one.state for one in found] == [TcpState.LISTEN]


def test_a_machine_without_ipv6_still_has_sockets(tmp_path):
    write(tmp_path / "net/tcp", "head\n 0: 0100007F:0001 00000000:0000 0A\n")
    assert len(list(host_machine.read_sockets(tmp_path))) == 1


def test_the_default_route_with_the_lowest_metric_wins():
    route = ROUTE_HEAD + ipv4_route("wlan0", metric=600) + ipv4_route("ens3", metric=100)
    assert network.default_route(route, ipv6_route("ens9")) == "ens3"


def test_default_routes_of_one_metric_are_rivals():
    pair = ipv4_route("ens4", metric=100) + ipv4_route("ens3", metric=100)
    assert network.rival_routes(ROUTE_HEAD + pair, ipv6_route("ens9")) == ("ens3", "ens4")
    several = ipv4_route("ens3", metric=1) + ipv4_route("ens3", metric=1) + pair
    assert network.rival_routes(ROUTE_HEAD + several, "") == ()
    assert network.rival_routes(ROUTE_HEAD, "") == ()
    both = ipv6_route("ens3") + ipv6_route("ens4")
    assert network.rival_routes(ROUTE_HEAD, both) == ("ens3", "ens4")


def test_a_subnet_a_rejected_and_a_downed_route_are_no_default():
    route = (
        ROUTE_HEAD
        + ipv4_route("docker0", destination="000011AC", mask="0000FFFF")
        + ipv4_route("ens3", flags="0201")
        + ipv4_route("ens4", flags="0002")
    )
    assert network.default_route(route, ipv6_route("lo", flags="00200200")) is None


def test_an_ipv6_only_vm_has_a_default_route():
    text = ipv6_route("ens4", destination="fd" + "0" * 30, length="40") + ipv6_route("ens3")
    assert network.default_route("", text) == "ens3"


def test_ipv6_addresses_that_failed_are_left_out_and_short_lived_ones_come_last():
    lines = (("1", "01"), ("2", "08"), ("3", "40"), ("4", "20"), ("5", "80"))
    text = "".join(f"fd{'0' * 29}{end} 02 40 00 {flags} ens3\n" for end, flags in lines)
    assert network.ipv6_addresses(text) == (
        ("ens3", "fd00::5"),
        ("ens3", "fd00::1"),
        ("ens3", "fd00::4"),
    )


def choose(wanted, *nics, default="ens3", context=CONTEXT):
    return fleet_address(wanted, (LO, *nics), default, context)


ALIASES = {
    **CONTEXT,
    "ETH0_ALIAS0_IP": "172.20.0.45",
    "ETH0_ALIAS1_IP6": "fd00::45",
    "ETH0_ALIAS2_IP": "198.51.100.9",
    "ETH0_ALIAS3_IP": "",
}


@pytest.mark.parametrize(
    ("wanted", "address"), [("ETH0_ALIAS0", "172.20.0.45"), ("ETH0_ALIAS1", "fd00::45")]
)
def test_an_alias_of_the_context_is_taken_by_its_address(wanted, address):
    assert types.own_address(wanted.lower()) == wanted
    nic = Interface("ens3", "02:00:ac:14:00:2c", ("172.20.0.44", "172.20.0.45", "fd00::45"))
    assert choose(wanted, nic, context=ALIASES) == address


@pytest.mark.parametrize(
    ("wanted", "retryable"), [("ETH0_ALIAS2", True), ("ETH0_ALIAS3", False), ("ETH7_ALIAS0", False)]
)
def test_an_alias_that_is_not_here_is_named(wanted, retryable):
    nic = Interface("ens3", "02:00:ac:14:00:2c", ("172.20.0.44",))
    with pytest.raises(AgentError, match=wanted) as caught:
        choose(wanted, nic, context=ALIASES)
    assert caught.value.finding.code == "address.unknown"
    assert caught.value.retryable is retryable


def test_unset_gives_the_first_address_of_the_default_routes_nic():
    assert choose(None, ETH1, ETH0, DOCKER) == "172.20.0.44"


def test_an_ipv6_only_nic_gives_its_global_address():
    assert choose(None, V6, default="ens5") == "2001:db8::6"


def test_without_a_default_route_the_only_nic_of_the_context_is_taken():
    context = {"ETH0_MAC": ETH1.mac}
    assert choose(None, ETH0, ETH1, DOCKER, default=None, context=context) == "10.0.0.7"


def test_a_nic_that_lost_its_address_does_not_make_the_other_one_the_only():
    lost = dataclasses.replace(ETH0, addresses=())
    with pytest.raises(AgentError, match="no default route") as caught:
        choose(None, lost, ETH1, DOCKER, default=None)
    assert caught.value.retryable


def test_without_route_and_context_the_only_nic_is_taken_and_never_dockers():
    assert choose(None, ETH1, DOCKER, default=None, context={}) == "10.0.0.7"


def test_a_default_route_over_dockers_bridge_is_not_followed():
    assert choose(None, ETH1, DOCKER, default="docker0", context={}) == "10.0.0.7"


@pytest.mark.parametrize("context", [CONTEXT, {}])
def test_without_a_default_route_several_nics_are_ambiguous_and_listed(context):
    with pytest.raises(AgentError, match=r"ens3 172\.20\.0\.44.*ens4 10\.0\.0\.7") as caught:
        choose(None, ETH0, ETH1, DOCKER, default=None, context=context)
    assert caught.value.finding.code == "address.ambiguous"
    assert "172.17" not in str(caught.value)
    assert caught.value.retryable


def test_a_vm_whose_network_is_not_up_yet_waits():
    with pytest.raises(AgentError, match="no address but loopback; its NICs are: none") as caught:
        choose(None, default=None)
    assert caught.value.retryable


def test_a_vm_that_nothing_configured_is_sent_to_one_context():
    bare = dataclasses.replace(ETH0, addresses=())
    with pytest.raises(AgentError, match=r"its NICs are: ens3$") as caught:
        choose(None, bare, DOCKER, default=None)
    assert caught.value.finding.code == "address.ambiguous"
    assert "one-context" in caught.value.finding.hint
    assert "NETCFG_TYPE" in caught.value.finding.hint


@pytest.mark.parametrize(
    "wanted",
    ["10.0.0.7", "172.17.0.1", "fd00::2", "127.0.0.1", "127.8.9.9", "::1", "::", "0.0.0.0"],  # noqa: S104
)
def test_an_address_of_the_vm_a_loopback_and_any_are_taken_as_they_are(wanted):
    assert choose(wanted, ETH0, ETH1, DOCKER) == wanted


def test_an_ipv6_address_is_compared_as_a_value():
    assert choose("FD00:0:0:0::2", ETH0) == "fd00::2"


def test_an_address_of_another_machine_is_refused_with_the_vms_own():
    with pytest.raises(AgentError, match=r"172\.20\.0\.44") as caught:
        choose("192.0.2.1", ETH0)
    assert caught.value.finding.code == "address.unknown"
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.parametrize("wanted", ["ETH1", "eth1"])
def test_a_nic_of_the_context_is_found_by_its_mac(wanted):
    assert choose(wanted, ETH0, ETH1) == "10.0.0.7"


def test_a_vlan_with_the_same_mac_does_not_hide_the_nics_address():
    bare = Interface("ens4", ETH1.mac, ())
    vlan = Interface("ens4.7", ETH1.mac, ("10.7.0.7",))
    assert choose("ETH1", bare, vlan) == "10.7.0.7"


def test_a_nic_that_the_context_lacks_is_refused_with_the_known_ones():
    with pytest.raises(AgentError, match="ETH0, ETH1") as caught:
        choose("ETH7", ETH0, ETH1)
    assert caught.value.finding.code == "address.unknown"
    assert not caught.value.retryable


def test_a_nic_without_an_address_yet_waits():
    with pytest.raises(AgentError, match="02:00:0a:00:00:07 has no address yet") as caught:
        choose("ETH1", ETH0)
    assert caught.value.retryable


def nic(name, mac, mtu):
    return Interface(name, mac, ("10.0.0.7",), mtu)


def test_the_mtu_of_a_nic_is_seen_and_the_largest_that_others_see_counts(machine):
    _, sys = machine
    write(sys / "class/net/lo/mtu", "65536\n")
    write(sys / "class/net/ens3/mtu", "9000\n")
    facts = observe(machine)
    assert {nic.name: nic.mtu for nic in facts.interfaces} == {"lo": 65536, "ens3": 9000}
    assert facts.mtu == 9000


def test_a_kernel_that_tells_no_mtu_is_no_trouble(machine):
    write(machine[1] / "class/net/ens3/mtu", "many\n")
    assert observe(machine).mtu == 0


def test_the_mtu_of_the_context_meets_its_nic_by_mac():
    nics = (nic("ens3", "02:00:00:00:00:01", 1500), nic("ens4", "02:00:00:00:00:02", 9000))
    context = {
        "ETH0_MAC": "02:00:00:00:00:02",
        "ETH0_MTU": "1450",
        "ETH1_MAC": "02:00:00:00:00:01",
        "ETH1_MTU": "",
        "ETH2_MAC": "02:00:00:00:00:01",
        "ETH2_MTU": "1" * 5000,
        "ETH3_MTU": "1400",
    }
    assert network.mtus(nics, context) == (("ETH0", nics[1], 1450),)
