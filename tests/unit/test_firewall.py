"""What the packet filter's rules mean for a port, by rules that nft itself printed."""

import json
import pathlib

import pytest

from flower_agent import firewall
from flower_agent.firewall import Way

RULES = pathlib.Path(__file__).parents[1] / "data/nft"


def ruleset(name):
    return json.loads((RULES / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("port", "way"),
    [
        (9092, Way.OPEN),  # of a set
        (9105, Way.OPEN),  # of a range in a set
        (7000, Way.OPEN),
        (22, Way.OPEN),
        (9093, Way.DROPPED),
        (9111, Way.DROPPED),
        (7011, Way.DROPPED),
    ],
)
def test_a_chain_that_drops_lets_in_what_a_rule_accepts(port, way):
    assert firewall.judge(ruleset("drops-by-default"), port)[0] is way


def test_the_table_that_drops_is_named():
    assert firewall.judge(ruleset("drops-by-default"), 1)[1] == "inet filter"


def test_rules_of_iptables_hide_what_they_match_so_nothing_is_said():
    assert firewall.judge(ruleset("of-iptables"), 9092) == (Way.UNSURE, "ip filter")


@pytest.mark.parametrize("rules", [ruleset("lets-in"), {"nftables": []}])
def test_where_nothing_drops_the_way_is_open(rules):
    assert firewall.judge(rules, 9092) == (Way.OPEN, "")


@pytest.mark.parametrize("rules", [None, [], {}, {"nftables": [7]}])
def test_what_is_no_ruleset_is_refused(rules):
    with pytest.raises(ValueError, match="not a ruleset"):
        firewall.judge(rules, 9092)
