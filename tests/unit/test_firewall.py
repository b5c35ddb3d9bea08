"""What a list of rules says about a port, and that nothing unproven is claimed.

The lists in ``tests/data/firewall`` were printed by Debian 12's firewalld 1.3.3 and ufw 0.36.2.
``tests/contract/test_packet_filter.py`` asks the kernel about the same ones.
"""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.address import Address
from flower_agent.machine import firewall, netfilter, packet_filter
from flower_agent.machine.host import HostFacts
from flower_agent.machine.interfaces import Interface
from flower_agent.machine.netfilter import Applies, Chain, Packet, Rule, Verdict

RECORDED = pathlib.Path(__file__).parents[1] / "data" / "firewall"
ANY = "0.0.0.0"  # noqa: S104 - never bound here
SYN = Packet("10.77.0.10", 9092, "eth0")


def listed(name):
    """Return a recorded list as `filter-rules` prints it."""
    path = next(RECORDED.glob(f"{name}.*"))
    program = {".json": "nft", ".txt": "iptables"}[path.suffix]
    return f"== {program}\n{path.read_text()}"


@pytest.mark.parametrize(
    ("name", "owner", "hint"),
    [
        ("firewalld-closed", "firewalld", "family=ipv4 source address=SUBNET port port=9092 "),
        ("ufw-closed", "ufw", "ufw allow proto tcp from SUBNET to any port 9092"),
    ],
)
def test_a_firewall_that_drops_the_port_is_named_with_its_remedy(name, owner, hint):
    found = firewall.judge(listed(name), SYN)
    assert found.code == "firewall.drops"
    assert found.message.startswith(f"{owner} (chain ")
    assert found.message.endswith(" lets nobody reach 10.77.0.10:9092")
    assert hint in found.hint


@pytest.mark.parametrize("name", ["firewalld-open", "firewalld-trusted", "ufw-open"])
def test_one_that_lets_some_in_is_no_finding(name):
    assert firewall.judge(listed(name), SYN) is None


@pytest.mark.parametrize(
    ("name", "port", "closes"),
    [
        ("drops-by-default", 9092, False),  # of a set
        ("drops-by-default", 9105, False),  # of a range in a set
        ("drops-by-default", 7000, False),
        ("drops-by-default", 9093, True),
        ("drops-by-default", 9111, True),
        ("lets-in", 9092, False),
        ("of-iptables", 9092, False),  # nft hides what iptables' own rules match
    ],
)
def test_rules_of_ones_own_are_judged_by_port(name, port, closes):
    rules = "== nft\n" + (RECORDED.parent / f"nft/{name}.json").read_text()
    assert (firewall.judge(rules, Packet("10.0.0.5", port, "eth0")) is not None) == closes


def test_no_rules_are_no_finding():
    assert firewall.judge("", SYN) is None
    assert firewall.judge('== nft\n{"nftables": []}\n== iptables\n== ip6tables\n', SYN) is None


def test_rules_of_the_other_protocol_version_do_not_count():
    rules = listed("ufw-closed")
    other = Packet("fd00::a", 9092, "eth0")
    assert firewall.judge(rules, other) is None
    assert firewall.judge(rules.replace("iptables", "ip6tables"), other) is not None
    assert firewall.judge(rules.replace("iptables", "ip6tables"), SYN) is None


def test_rules_without_an_owner_get_the_general_remedy():
    rules = "== iptables\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n"
    found = firewall.judge(rules, Packet(ANY, 9092, None))
    assert found.message == "iptables (chain filter INPUT) lets nobody reach TCP port 9092"
    assert "fleet-port.nft" in found.hint


def test_a_port_that_is_not_tracked_may_have_any_state():
    rules = (
        "== iptables\n*raw\n:PREROUTING ACCEPT [0:0]\n{}*filter\n:INPUT DROP [0:0]\n"
        "-A INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT\nCOMMIT\n"
    )
    assert firewall.judge(rules.format(""), SYN) is not None
    loose = "-A PREROUTING -p tcp -m tcp --dport 9092 -j CT --notrack\n"
    assert firewall.judge(rules.format(loose), SYN) is None


@given(st.text())
def test_any_text_is_no_reason_to_fail(text):
    for program in ("nft", "iptables", "ip6tables", "other"):
        firewall.judge(f"== {program}\n{text}", SYN)


@pytest.mark.parametrize("name", ["firewalld-closed", "ufw-closed"])
@given(data=st.data())
def test_a_list_that_is_cut_off_is_no_reason_to_fail(name, data):
    rules = listed(name)
    firewall.judge(rules[: data.draw(st.integers(0, len(rules)))], SYN)


def test_the_packet_comes_by_the_nic_that_has_the_address():
    nics = (Interface("lo", "", ("127.0.0.1",)), Interface("ens3", "", ("10.77.0.10",)))
    facts = HostFacts(nics, "ens3", 0, "")
    assert packet_filter.packet(Address("10.77.0.10", 9092), facts).interface == "ens3"
    assert packet_filter.packet(Address(ANY, 9092), facts).interface is None


NAMES = ("input", "a", "b")
RULES = st.builds(
    Rule, st.sampled_from(Applies), st.sampled_from(Verdict), st.sampled_from((*NAMES[1:], "lost"))
)


@st.composite
def chain_sets(draw):
    """A base chain and two others; jumps lead from `input` to `a` to `b`, as without loops."""
    found = {}
    for index, name in enumerate(NAMES):
        rules = draw(st.lists(RULES, max_size=4))
        onward = {*NAMES[index + 1 :], "lost"}
        policy = draw(st.sampled_from((Verdict.ACCEPT, Verdict.DROP))) if index == 0 else None
        found[name] = Chain(tuple(r for r in rules if r.target in onward), policy)
    return found


def ways(name, chains):
    """Yield how each way through a chain ends, one after another; the obvious walk."""
    if name not in chains:
        yield from (Verdict.ACCEPT, Verdict.DROP, Verdict.RETURN)
        return
    yield from _from(chains[name].rules, chains)


def _from(rules, chains):
    if not rules:
        yield Verdict.RETURN
        return
    rule, rest = rules[0], rules[1:]
    if rule.applies is not Applies.YES:
        yield from _from(rest, chains)
    if rule.applies is Applies.NO:
        return
    match rule.verdict:
        case Verdict.JUMP:
            for end in ways(rule.target, chains):
                yield from _from(rest, chains) if end is Verdict.RETURN else (end,)
        case Verdict.GOTO:
            yield from ways(rule.target, chains)
        case Verdict.ANY:
            yield from (Verdict.ACCEPT, Verdict.DROP, Verdict.RETURN)
        case Verdict.NEXT:
            yield from _from(rest, chains)
        case end:
            yield end


@given(chain_sets())
def test_a_chain_closes_exactly_when_no_way_through_it_ends_in_accept(chains):
    policy = chains["input"].policy
    ends = {policy if end is Verdict.RETURN else end for end in ways("input", chains)}
    assert netfilter.closing(chains) == (() if Verdict.ACCEPT in ends else ("input",))
