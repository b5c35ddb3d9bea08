"""What ``doctor`` makes of the answers of firewall-cmd, ufw and nft."""

import pytest

from flower_agent.commands import doctor_results
from flower_agent.commands.doctor_results import Verdict
from flower_agent.model.address import Address

FLEET = Address("10.0.0.5", 9092)
ZONE = """public (active)
  target: default
  icmp-block-inversion: no
  interfaces: eth0
  sources:
  services: {services}
  ports: {ports}
  protocols:
  forward: yes
  masquerade: no
  forward-ports:
  source-ports:
  icmp-blocks:
  rich rules:
{rules}
"""
UFW = """Status: active
Logging: on (low)
Default: {policy} (incoming), allow (outgoing), disabled (routed)
New profiles: skip

To                         Action      From
--                         ------      ----
22/tcp                     ALLOW IN    Anywhere
{rule}
"""
NFT = """table inet filter {{
	chain input {{
		type filter hook input priority filter; policy {policy};
		ct state established,related accept
		{rule}
	}}

	chain forward {{
		type filter hook forward priority filter; policy drop;
	}}
}}
"""
COUNTED = "ip saddr 10.0.0.0/24 tcp dport 9092 counter packets 0 bytes 0 accept"
RICH = '\trule family="ipv4" source address="10.0.0.0/24" '


def zone(services="ssh", ports="", rules=""):
    return {"firewalld": ZONE.format(services=services, ports=ports, rules=rules)}


def ufw(rule="", policy="deny"):
    return {"ufw": UFW.format(policy=policy, rule=rule)}


def nft(rule="", policy="drop"):
    return {"nftables": NFT.format(policy=policy, rule=rule)}


@pytest.mark.parametrize(
    ("outputs", "detail"),
    [
        (zone(ports="22/tcp 9092/tcp"), "firewalld, zone public: ports: 22/tcp 9092/tcp"),
        (zone(ports="9000-9100/tcp"), "firewalld, zone public: ports: 9000-9100/tcp"),
        (zone(services="flower-fleet ssh"), "firewalld, zone public: services: flower-fleet ssh"),
        (
            zone(rules=f'{RICH}port port="9092" protocol="tcp" accept'),
            f'firewalld, zone public: {RICH.strip()} port port="9092" protocol="tcp" accept',
        ),
        (
            zone(rules=f'{RICH}service name="flower-fleet" accept'),
            f'firewalld, zone public: {RICH.strip()} service name="flower-fleet" accept',
        ),
        (ufw("9092/tcp                   ALLOW IN    10.0.0.0/24"),
         "ufw: 9092/tcp ALLOW IN 10.0.0.0/24"),
        (ufw("10.0.0.5 9000:9100/tcp     ALLOW IN    Anywhere"),
         "ufw: 10.0.0.5 9000:9100/tcp ALLOW IN Anywhere"),
        (ufw("Anywhere                   ALLOW IN    10.0.0.0/24"),
         "ufw: Anywhere ALLOW IN 10.0.0.0/24"),
        (ufw(policy="allow"),
         "ufw: Default: allow (incoming), allow (outgoing), disabled (routed)"),
        (nft("tcp dport { 22, 9092 } accept"),
         "nftables: policy drop in inet filter input, but: tcp dport { 22, 9092 } accept"),
        (nft(COUNTED),
         f"nftables: policy drop in inet filter input, but: {COUNTED}"),
        (nft("tcp dport 9092 drop", policy="accept"),
         "nftables: policy accept in inet filter input; its rules were not checked"),
        ({"nftables": ""}, "nftables: no input chain"),
    ],
)  # fmt: skip
def test_what_the_tool_says_is_open_is_told_in_its_words(outputs, detail):
    check = doctor_results.judge(outputs, FLEET)
    assert (check.verdict, check.detail) == (Verdict.OK, detail)


@pytest.mark.parametrize(
    ("outputs", "hint"),
    [
        (zone(ports="9092/udp 909/tcp 19092/tcp"), "firewall-cmd --permanent"),
        (zone(rules=f'{RICH}port port="9092" protocol="tcp" reject'), "firewall-cmd --permanent"),
        (ufw("9093/tcp                   ALLOW IN    Anywhere"), "ufw allow proto tcp"),
        (ufw("9092/udp                   ALLOW IN    Anywhere"), "ufw allow proto tcp"),
        (ufw("9092/tcp                   DENY IN     Anywhere"), "ufw allow proto tcp"),
        (nft("tcp dport 22 accept"), "fleet-port.nft"),
        (nft("udp dport 9092 accept"), "fleet-port.nft"),
        (nft("tcp dport 9092 drop"), "fleet-port.nft"),
    ],
)
def test_where_the_tool_names_no_way_in_a_warning_has_its_remedy(outputs, hint):
    check = doctor_results.judge(outputs, FLEET)
    assert (check.verdict, check.finding.code) == (Verdict.WARNING, "firewall.drops")
    assert "9092" in check.detail
    assert hint in check.finding.hint


def test_the_service_of_the_package_opens_its_own_port_alone():
    check = doctor_results.judge(zone(services="flower-fleet"), Address("10.0.0.5", 8000))
    assert check.verdict is Verdict.WARNING


def test_the_firewall_in_charge_is_believed_before_the_rules_that_it_made():
    outputs = {**nft(), **zone(ports="9092/tcp")}
    assert doctor_results.judge(outputs, FLEET).verdict is Verdict.OK
    outputs = {"ufw": "Status: inactive\n", **nft()}
    assert doctor_results.judge(outputs, FLEET).detail.startswith("nftables: policy drop")


@pytest.mark.parametrize("outputs", [{}, {"ufw": "Status: inactive\n"}])
def test_where_no_tool_answers_nothing_is_said(outputs):
    assert doctor_results.judge(outputs, FLEET).verdict is Verdict.SKIPPED


def test_odd_answers_harm_nothing():
    for name in ("firewalld", "ufw", "nftables"):
        for text in ("", "\n", "table\nchain x\n", "ports: /tcp,-:\n", "Status: active"):
            doctor_results.judge({name: text}, FLEET)
