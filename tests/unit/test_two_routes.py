"""A SuperLink with two default routes of one metric says that chance chose its address."""

import datetime
import pathlib

import pytest
from cycles import cycle_of

from flower_agent.config import parsing
from flower_agent.host.machine import HostFacts
from flower_agent.host.network import Interface
from flower_agent.model.state import State
from flower_agent.paths import Paths
from flower_agent.roles.superlink import SuperLinkController
from flower_agent.tls import trust
from flower_agent.tls.store import Keyring

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what an operator writes
ETH0 = Interface("eth0", "02:00:00:00:00:01", ("10.0.0.5",))
ETH1 = Interface("eth1", "02:00:00:00:00:02", ("10.1.0.5",))


class Beside:
    """What a SuperLink does beside its address, left out here."""

    def wants_keys(self, _turn):
        return False

    def wanted(self, *_):
        return trust.CertificateSpec(source=trust.CertificateSource.OFF)


@pytest.mark.parametrize(
    ("rivals", "address", "codes"),
    [
        (("eth0", "eth1"), {}, ["address.two_routes"]),
        (("eth0", "eth1"), {"FLOWER_ADDRESS": EVERYWHERE}, ["address.two_routes"]),
        (("eth0", "eth1"), {"FLOWER_ADDRESS": "10.1.0.5"}, []),
        ((), {}, []),
    ],
)
def test_which_address_counts_is_said_where_chance_chose_it(rivals, address, codes):
    context = {"FLOWER_ROLE": "server", "TLS_ENABLED": "NO", **address}
    turn = cycle_of(
        settings=parsing.parse(context, {}).settings,
        variables={},
        host=HostFacts((ETH0, ETH1), "eth0", 2**31, "boot", rival_routes=rivals),
        keyring=Keyring(pathlib.Path("/nowhere")),
        client=None,
        now=datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC),
        monotonic=0.0,
        state=State(vmid="42"),
    )
    beside = Beside()
    paths = Paths(pathlib.Path("/nowhere"))
    controller = SuperLinkController(
        None, beside, None, beside, firewalls=None, follower=None, reports=None, paths=paths
    )
    controller.prepare(turn)
    assert [found.code for found in turn.report.warnings] == codes
