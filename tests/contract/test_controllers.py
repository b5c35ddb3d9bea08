"""What the roles do beside their containers: whom they trust, how they see a connection."""

import datetime
import pathlib
import random

import pytest
from cycles import attributes_of, cycle_of

from flower_agent.background import Threads
from flower_agent.config import flower_versions, parsing
from flower_agent.cycle import Running
from flower_agent.docker.client import Engine
from flower_agent.enrolment.enroller import Enroller
from flower_agent.enrolment.node_reports import NodeReports
from flower_agent.enrolment.registrar import Registrar
from flower_agent.flower import command_line, container_spec
from flower_agent.flower.command_line import Trust
from flower_agent.flower.health import Prober
from flower_agent.flower.peer_check import PeerEndpoint
from flower_agent.host.firewall import Firewalls
from flower_agent.host.machine import HostFacts
from flower_agent.host.network import Interface
from flower_agent.model import errors
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError
from flower_agent.model.state import Partition, State
from flower_agent.model.status import Mark
from flower_agent.onegate.discovery import SuperLinkOffer
from flower_agent.paths import Paths
from flower_agent.roles import superexec, superlink
from flower_agent.roles.server_certificate import ServerCertificate
from flower_agent.roles.supernode import DEAF_AFTER_S, SuperNodeController
from flower_agent.runs.app_directories import AppDirectories
from flower_agent.runs.bundle import Bundler
from flower_agent.runs.follower import Follower
from flower_agent.runs.git import Git
from flower_agent.runs.store import RunFiles
from flower_agent.runs.submitter import Submitter
from flower_agent.tls import trust
from flower_agent.tls.provided import CertificateFiles
from flower_agent.tls.store import Keyring

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
CONNECTED = "INFO :      SuperNode ID: 4711"


def parse(**context):
    return parsing.parse(context, {}).settings


class Log:
    """A container's log as Docker keeps it: each line with the clock's time of then."""

    def __init__(self):
        self.lines = []

    def write(self, at, text):
        self.lines.append((at, text + "\n"))

    def read(self, since):
        return "".join(text for at, text in self.lines if at >= since)


class Node:
    """A SuperNode whose container logs, on a VM whose clock may be set."""

    def __init__(self, started_at):
        self.controller, self.log, self.started_at = (
            SuperNodeController(Prober(), None, None, None, None, apps=None),
            Log(),
            started_at,
        )
        self.monotonic = 1000.0

    def turn(self, now, **context):
        self.monotonic += 1
        return cycle_of(
            settings=parse(FLOWER_ROLE="client", **context),
            variables={},
            host=HostFacts((), None, 2**31, "boot"),
            keyring=Keyring(pathlib.Path("/nowhere")),
            client=None,
            now=now,
            monotonic=self.monotonic,
            state=State(),
        )

    def read(self, now):
        return self._look(self.turn(now))

    def messages(self, now, failed=None, **context):
        """Return a turn after the look at the messages, and its error."""
        turn = self.turn(now, **context)
        self._look(turn)
        try:
            self.controller._check_messages(turn, failed)
        except AgentError as error:
            return turn, error
        return turn, None

    def _look(self, turn):
        return self.controller._read(turn, Running(self.started_at, self.log.read))


def seconds(number):
    return datetime.timedelta(seconds=number)


def test_a_line_is_read_though_the_clock_was_set_back_behind_the_containers_start():
    node = Node(START)
    node.log.write(START + seconds(0.2), "INFO :      Starting Flower SuperNode")
    node.read(START + seconds(1))
    earlier = START - seconds(5 * 3600)
    node.log.write(earlier + seconds(1.5), CONNECTED)
    assert CONNECTED in node.read(earlier + seconds(2))


def test_a_line_is_read_though_the_clock_was_set_forward_after_it():
    node = Node(START)
    node.read(START + seconds(1))
    node.log.write(START + seconds(1.5), CONNECTED)
    assert CONNECTED in node.read(START + seconds(5 * 3600))


def test_lines_of_the_start_before_are_not_this_ones():
    node = Node(START)
    node.log.write(START - seconds(1), CONNECTED)
    assert node.read(START + seconds(0.5)) == ""
    assert node.read(START + seconds(1.5)) == ""


class Proven:
    """What is proven of the peer: nothing, or what the test says."""

    def __init__(self, code):
        self.code, self.asked = code, []

    def judge(self, peer, _now):
        self.asked.append(peer)
        if not self.code:
            return None
        return errors.kind(self.code)(self.code, "as it is proven", retryable=True)

    def wait_s(self, _now):
        return 4.0


class Held:
    """Whether the kernel shows a connection."""

    def __init__(self, held):
        self._held = held

    def held(self, _peer, **_):
        return self._held


def told_of_peer(proven, *, held, version="1.25.0", dry=False):
    """Return the code of what a SuperNode says of its SuperLink, and the turn."""
    liveness, peer = Proven(proven), Address("10.0.0.5", 9092)
    controller = SuperNodeController(
        Prober(), Forgetful(), None, None, Held(held), liveness=liveness, apps=None
    )
    turn = cycle_of(
        settings=parse(FLOWER_ROLE="client", FLOWER_VERSION=version),
        variables={},
        host=HostFacts((Interface("ens3", "", ("10.0.0.9",), 9000),), None, 2**31, "boot"),
        keyring=Keyring(pathlib.Path("/nowhere")),
        client=None,
        now=START,
        monotonic=1000.0,
        state=State(superlink=peer),
        dry=dry,
    )
    http = version == "1.42.0"
    code = ""
    try:
        controller._check_peer(turn, Running(START, lambda _: CONNECTED))
    except AgentError as error:
        code = error.finding.code
    call = flower_versions.PROBE_PATH if http else ""  # a proxy stands in front of it
    asked = PeerEndpoint(peer, tls=True, http=http, mtu=9000, call=call)
    assert liveness.asked == ([] if dry else [asked])
    return code, turn


class Forgetful:
    """A search that may be told to begin anew."""

    def forget(self):
        """Begin anew."""


@pytest.mark.parametrize("version", ["1.25.0", "1.42.0"])
@pytest.mark.parametrize("proven", ["peer.mute", "peer.mtu", "peer.lost"])
def test_a_connection_that_is_held_says_less_than_what_is_proven(proven, version):
    code, turn = told_of_peer(proven, held=True, version=version)
    assert code == proven
    assert "peer" not in turn.report.conditions
    assert turn.next_s == 4.0


def test_a_peer_of_which_nothing_is_proven_is_connected_as_its_log_says():
    code, turn = told_of_peer(None, held=True)
    assert (code, turn.report.conditions["peer"].mark) == ("", Mark.OK)


@pytest.mark.parametrize(
    ("proven", "expected"),
    [(None, "peer.lost"), ("peer.lost", "peer.lost"), ("peer.mute", "peer.mute")],
)
def test_without_a_connection_a_mute_peer_is_still_the_cause(proven, expected):
    assert told_of_peer(proven, held=False)[0] == expected


def test_a_dry_look_asks_no_peer():
    assert told_of_peer("peer.mute", held=True, dry=True)[0] == ""


LOST = (
    "INFO :      [RUN 7, ROUND 2]",
    f"INFO :      Receiving: train message (ID: {'a' * 64})",
    f"ERROR :     Failed to receive message {'a' * 64}: timed out at 10.0.0.7",
)


def test_a_lost_message_is_told_until_the_next_answer_arrives_or_for_a_day():
    node = Node(START)
    turn, _ = node.messages(START + seconds(1), FLOWER_VERSION="1.42.0")
    assert (attributes_of(turn)["FLOWER_APP_ERROR"], turn.report.warnings) == ("", [])
    for line in LOST:
        node.log.write(START + seconds(2), line)
    for at in (3, 23 * 3600):
        turn, error = node.messages(START + seconds(at), FLOWER_VERSION="1.42.0")
        assert (attributes_of(turn)["FLOWER_APP_ERROR"], error) == ("lost its message; run 7", None)
        assert [found.code for found in turn.report.warnings] == ["run.message_lost"]
        assert "10.0.0.7" not in turn.report.warnings[0].message
    turn, _ = node.messages(START + seconds(25 * 3600), FLOWER_VERSION="1.42.0")
    assert (attributes_of(turn)["FLOWER_APP_ERROR"], turn.report.warnings) == ("", [])


def test_a_clientapp_that_died_after_a_lost_message_is_what_the_superlink_hears_of():
    node = Node(START)
    for line in LOST:
        node.log.write(START + seconds(2), line)
    turn, _ = node.messages(START + seconds(3), START + seconds(1), FLOWER_VERSION="1.42.0")
    assert attributes_of(turn)["FLOWER_APP_ERROR"] == "lost its message; run 7"
    turn, _ = node.messages(START + seconds(9), START + seconds(8), FLOWER_VERSION="1.42.0")
    assert (
        attributes_of(turn)["FLOWER_APP_ERROR"] == ""
    )  # where that end stands, which this test leaves out


def test_the_next_answer_ends_the_warning_about_a_lost_message():
    node = Node(START)
    for line in (*LOST, "INFO :      Sent successfully"):
        node.log.write(START + seconds(2), line)
    turn, _ = node.messages(START + seconds(3), FLOWER_VERSION="1.42.0")
    assert (attributes_of(turn)["FLOWER_APP_ERROR"], turn.report.warnings) == ("", [])


def test_a_node_that_takes_no_message_for_long_after_a_lost_one_wants_a_restart():
    node = Node(START)
    for line in LOST:
        node.log.write(START + seconds(2), line)
    turn, error = node.messages(START + seconds(3), FLOWER_VERSION="1.25.0")
    assert (turn.hung, error) == (False, None), "it may only have been stopped"
    for line in ("INFO :      [RUN 7, ROUND 2]", LOST[-1]):  # it took another one meanwhile
        node.monotonic += DEAF_AFTER_S / 2
        node.log.write(START + seconds(4), line)
        turn, error = node.messages(START + seconds(4), FLOWER_VERSION="1.25.0")
        assert (turn.hung, error) == (False, None)
    node.monotonic += DEAF_AFTER_S
    turn, error = node.messages(START + seconds(303), FLOWER_VERSION="1.25.0")
    assert (turn.hung, error.finding.code) == (True, "run.message_lost")
    node.started_at = START + seconds(30)
    turn, error = node.messages(START + seconds(31), FLOWER_VERSION="1.25.0")
    assert (turn.hung, error) == (False, None)
    assert (
        attributes_of(turn)["FLOWER_APP_ERROR"] == "lost its message; run 7"
    )  # the run waits all the same


class Numbered:
    """A search that knows the node's partition, and whether it was asked."""

    def __init__(self, part):
        self.part, self.asked = part, 0

    def partition(self, _client, _record):
        self.asked += 1
        return self.part


class Assigned:
    """A SuperLink that assigned a partition, or none."""

    def __init__(self, part):
        self.part = part

    def partition(self, _turn, _found, _given):
        return self.part


def node_config(part, assigned=None, **context):
    """Return what apps would read, the turn, and how often the partition was asked for."""
    search, found = Numbered(part), SuperLinkOffer(Address("10.0.0.5", 9092))
    turn = cycle_of(
        settings=parse(FLOWER_ROLE="client", **context),
        variables={},
        host=HostFacts((), None, 2**31, "boot"),
        keyring=Keyring(pathlib.Path("/nowhere")),
        client=None,
        now=START,
        monotonic=1000.0,
        state=State(),
    )
    watch = Assigned(assigned)
    controller = SuperNodeController(Prober(), search, None, None, None, apps=None, assigned=watch)
    config = controller._node_config(turn, found)
    return command_line.node_config_text(config), turn, search.asked


def test_a_node_config_adds_to_the_partition_and_is_shown():
    text, turn, _ = node_config(Partition(1, 4), FLOWER_NODE_CONFIG="dataset-path='/app/data/x y'")
    assert text == 'partition-id=1 num-partitions=4 dataset-path="/app/data/x y"'
    shown = "partition-id=1 num-partitions=4 dataset-path='/app/data/x y'"
    assert turn.report.conditions["node_config"].detail == shown
    assert attributes_of(turn)["FLOWER_PARTITION"] == "1/4"


def test_what_the_superlink_assigned_counts_more_than_the_nodes_own_number():
    text, turn, asked = node_config(Partition(1, 4), Partition(5, 8))
    assert (text, asked) == ("partition-id=5 num-partitions=8", 0)
    assert attributes_of(turn)["FLOWER_PARTITION"] == "5/8"


def test_a_node_config_overrides_one_key_of_the_partition():
    text, turn, _ = node_config(Partition(1, 4), FLOWER_NODE_CONFIG="a=1 partition-id=3")
    assert text == "num-partitions=4 a=1 partition-id=3"
    assert attributes_of(turn)["FLOWER_PARTITION"] == "3/4"


def test_a_node_config_with_both_keys_asks_for_no_partition():
    given = "site=berlin partition-id=7 num-partitions=9"
    text, turn, asked = node_config(None, FLOWER_NODE_CONFIG=given)
    assert (text, asked) == ('site="berlin" partition-id=7 num-partitions=9', 0)
    assert (attributes_of(turn)["FLOWER_PARTITION"], turn.report.warnings) == ("7/9", [])


def test_outside_a_service_a_node_config_without_partition_has_the_only_one():
    text, turn, _ = node_config(None, FLOWER_NODE_CONFIG="a=1")
    assert text == "partition-id=0 num-partitions=1 a=1"
    assert [found.code for found in turn.report.warnings] == ["partition.default"]


def test_a_partition_that_is_no_number_is_not_published():
    _, turn, _ = node_config(None, FLOWER_NODE_CONFIG="partition-id=north num-partitions=2")
    assert "FLOWER_PARTITION" not in attributes_of(turn)
    assert turn.report.conditions["node_config"].detail == "partition-id=north num-partitions=2"


def test_a_lone_superexec_that_trusts_the_systems_store_mounts_no_ca():
    lone = parse(
        FLOWER_ROLE="superexec",
        FLOWER_VERSION="1.37.0",
        FLOWER_APPIO_ADDRESS="link.example:9093",
        FLOWER_SUPEREXEC_PLUGIN="serverapp",
        TLS_CA_CERT="system",
    )
    assert superexec.trust_of(lone) is Trust.SYSTEM


def test_the_ca_is_fetched_from_an_ipv6_address_in_brackets():
    link = parse(FLOWER_ROLE="server", FLOWER_ADDRESS="fd00::5")
    places = container_spec.endpoints(link, "fd00::5")
    shown = dict(
        superlink.commands(link, places, Address("fd00::5", 9092), pathlib.Path("/tls/ca.crt"))
    )
    assert shown["fetch the CA"] == "scp root@[fd00::5]:/tls/ca.crt ca.crt"


@pytest.mark.parametrize("running", [True, False])
def test_a_due_renewal_waits_while_a_superlink_that_runs_does_not_answer(tmp_path, running):
    keyring = Keyring(tmp_path)
    made = trust.CertificateSpec(source=trust.CertificateSource.OWN, hosts=frozenset({"127.0.0.1"}))
    for action in (trust.CertificateAction.MAKE_CA, trust.CertificateAction.ISSUE):
        keyring.apply(trust.CertificateStep(action, "absent"), made, START)
    turn = cycle_of(
        settings=parse(
            FLOWER_ROLE="server",
            FLOWER_ADDRESS="127.0.0.1",
            FLOWER_CONTROL_ADDRESS="127.0.0.1:1",  # nothing listens there
        ),
        variables={},
        host=HostFacts((), None, 2**31, "boot"),
        keyring=keyring,
        client=None,
        now=START + datetime.timedelta(days=300),
        monotonic=1000.0,
        state=State(),
        running=running,
    )
    threads = Threads(lambda: None)
    registrar = Registrar(threads, rng=random.Random(1))
    paths, kept = Paths(tmp_path), RunFiles(tmp_path)
    follower = Follower(threads, kept, AppDirectories(paths, threads, None))
    submitter = Submitter(threads, Git(tmp_path), Bundler(Engine("duties")), kept, follower)
    certificate = ServerCertificate(CertificateFiles(tmp_path / "given"))
    firewalls = Firewalls(tmp_path, threads)
    enroller = Enroller(registrar)
    controller = superlink.SuperLinkController(
        Prober(),
        enroller,
        submitter,
        certificate,
        firewalls=firewalls,
        follower=follower,
        reports=NodeReports(threads),
        paths=paths,
    )
    assert controller.prepare(turn).trust.defer is running
