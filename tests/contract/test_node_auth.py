"""Whether a SuperNode shows a key, which one, and what it makes of a refusal."""

import dataclasses
import datetime
import pathlib
import random
import threading

import endpoints
import pytest
from cycles import attributes_of, cycle_of, seeing

from flower_agent.background import AT_ONCE, NEVER, Threads
from flower_agent.config import parsing
from flower_agent.cycle import Running
from flower_agent.docker.containers import Component
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.flower.endpoint_check import EndpointCheck
from flower_agent.flower.health import Prober
from flower_agent.host.machine import HostFacts
from flower_agent.model import errors
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError
from flower_agent.model.published import Published
from flower_agent.model.secret import Secret
from flower_agent.model.state import State
from flower_agent.onegate.discovery import SuperLinkOffer
from flower_agent.onegate.superlink_search import SuperLinkSearch
from flower_agent.reconcile.exit_analysis import Wait
from flower_agent.roles.supernode import REPLACE_KEY_AFTER_S, SuperNodeController
from flower_agent.tls.store import Keyring

START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
FOUND = SuperLinkOffer(Address("10.0.0.5", 9092), vmid="41")
REFUSED = "FAILED_PRECONDITION: No SuperNode found with the given public key."


class Attached:
    """The kernel's word that the connection is held."""

    def held(self, _peer, **_):
        return True


class Detached:
    """The kernel's word that no connection is held."""

    def held(self, _peer, **_):
        return False


class Vm:
    """A SuperNode's VM: what its SuperLink publishes, and how it turns it away."""

    def __init__(self, folder):
        self.keys = NodeKeys(folder / "keys")
        self.superlink_search = SuperLinkSearch(Threads(lambda: None), rng=random.Random(1))
        self.controller = SuperNodeController(
            Prober(), self.superlink_search, self.keys, None, None, apps=None
        )
        self.context, self.record = {"FLOWER_ROLE": "client"}, State(vmid="42")
        self.monotonic, self.wait, self.dry, self.running = 1000.0, None, False, False

    def turn(self):
        return cycle_of(
            settings=parsing.parse(self.context, {}).settings,
            variables={},
            host=HostFacts((), None, 2**31, "boot"),
            keyring=Keyring(pathlib.Path("/nowhere")),
            client=None,
            now=START,
            monotonic=self.monotonic,
            state=self.record,
            wait=self.wait,
            dry=self.dry,
            running=self.running,
        )

    def key(self, published=None):
        """Return the key that the container gets; `published` is FLOWER_NODE_AUTH."""
        self.last = self.turn()
        found = dataclasses.replace(FOUND, node_auth=published)
        key = self.controller._node_key(self.last, found)
        self.record = self.last.state
        return key

    def turned_away(self, code, since=1000.0):
        self.wait = Wait(errors.kind(code)(code, "turned away", retryable=True), since)


@pytest.fixture
def vm(tmp_path):
    return Vm(tmp_path)


@pytest.mark.parametrize(
    ("context", "published", "shown"),
    [
        ({}, True, True),
        ({}, False, False),
        ({}, None, False),
        ({"FLOWER_NODE_AUTH": "YES"}, None, True),
        ({"FLOWER_NODE_AUTH": "YES"}, True, True),
        ({"FLOWER_NODE_AUTH": "NO"}, None, False),
        ({"FLOWER_NODE_AUTH": "NO"}, False, False),
        ({"TLS_ENABLED": "NO"}, None, False),
    ],
)
def test_a_node_shows_a_key_as_set_else_as_its_superlink_publishes(vm, context, published, shown):
    vm.context |= context
    assert (vm.key(published) is not None) is shown


@pytest.mark.parametrize(("here", "there"), [("YES", False), ("NO", True)])
def test_two_ends_that_differ_are_said_before_anything_starts(vm, here, there):
    vm.context["FLOWER_NODE_AUTH"] = here
    with pytest.raises(AgentError) as caught:
        vm.key(there)
    assert caught.value.finding.code == "enrol.mismatch"
    assert caught.value.retryable
    assert f"FLOWER_NODE_AUTH is {here} here" in caught.value.finding.message


@pytest.mark.parametrize(("context", "told"), [({}, True), ({"FLOWER_NODE_AUTH": "NO"}, False)])
def test_a_key_is_published_before_anybody_asks_for_it_unless_switched_off(vm, context, told):
    vm.context |= context
    found = vm.controller.introduction(vm.turn().seen.settings, "42")
    assert found == Published(node_key=vm.keys.own("42").public if told else None)
    vm.key()
    assert ("FLOWER_NODE_KEY" in attributes_of(vm.last)) is told


@pytest.mark.parametrize(("given", "told"), [("3", "3/9"), ("north", None)])
def test_a_partition_that_the_context_gives_is_published_beside_the_first_key(vm, given, told):
    vm.context["FLOWER_NODE_CONFIG"] = f"partition-id={given} num-partitions=9"
    assert str(vm.controller.introduction(vm.turn().seen.settings, "42").partition) == str(told)


def test_a_key_that_cannot_be_written_keeps_no_first_body_back(vm):
    vm.keys._directory.write_text("in the way")
    assert vm.controller.introduction(vm.turn().seen.settings, "42") == Published()


def test_a_key_that_took_the_place_of_a_damaged_one_is_said_until_it_works(vm):
    path = vm.keys.path("42")
    vm.key(published=True)
    assert vm.last.report.warnings == []
    path.chmod(0o600)
    path.write_bytes(b"junk")
    made = vm.key(published=True)
    (found,) = vm.last.report.warnings
    assert found.code == "enrol.key_damaged"
    assert str(path) in found.message
    vm.record = dataclasses.replace(vm.record, worked_key=made.public)
    vm.key(published=True)
    assert vm.last.report.warnings == []


def test_what_the_superlink_said_last_counts_while_onegate_is_away(vm):
    first = vm.key(published=True)
    assert vm.key(published=None) == first
    assert vm.key(published=False) is None
    assert vm.key(published=None) is None


def test_a_given_key_is_shown_though_nothing_says_so(vm):
    given = pathlib.Path(vm.keys.own("42").path).read_text()
    vm.context["FLOWER_NODE_PRIVATE_KEY"] = given
    found = vm.key()
    assert found.path.endswith("given.key")
    assert found.public == vm.keys.give(Secret(given)).public


def test_a_superlink_that_wants_a_key_from_a_node_without_one_is_believed(vm):
    assert vm.key() is None
    vm.superlink_search._lookup.due_at = NEVER
    vm.turned_away("enrol.mismatch")
    assert vm.key() is not None
    assert vm.superlink_search._lookup.due_at == AT_ONCE


def test_a_dry_look_makes_no_key_and_names_its_file(vm):
    vm.dry = True
    assert vm.key(published=True).path.endswith("node-42.key")
    assert not vm.keys._directory.exists()


# A key that is refused


def worked(vm):
    key = vm.key(published=True)
    vm.record = dataclasses.replace(vm.record, worked_key=key.public)
    return key


def test_a_key_that_worked_and_is_refused_for_ten_minutes_is_replaced(vm):
    before = worked(vm)
    vm.turned_away("enrol.waiting")
    vm.monotonic += REPLACE_KEY_AFTER_S
    assert vm.key(published=True) == before
    vm.monotonic += 1
    after = vm.key(published=True)
    assert after.public != before.public
    assert attributes_of(vm.last)["FLOWER_NODE_KEY"] == after.public
    vm.monotonic += 10 * REPLACE_KEY_AFTER_S
    assert vm.key(published=True) == after, "the new one never worked"


def test_no_word_at_onegate_makes_a_node_drop_a_key_that_worked(vm):
    before = worked(vm)
    assert vm.key(published=False) == before
    assert vm.record.superlink_auth is True
    vm.context["FLOWER_NODE_AUTH"] = "YES"
    assert vm.key(published=False) == before


def test_the_superlinks_own_refusal_lets_a_node_drop_its_key(vm):
    worked(vm)
    vm.turned_away("enrol.waiting")
    assert vm.key(published=False) is not None
    vm.monotonic += REPLACE_KEY_AFTER_S + 1
    assert vm.key(published=False) is None


def test_a_key_that_never_worked_is_kept_however_long_it_is_refused(vm):
    before = vm.key(published=True)
    vm.turned_away("enrol.waiting")
    vm.monotonic += 10 * REPLACE_KEY_AFTER_S
    assert vm.key(published=True) == before


def test_a_given_key_is_never_replaced(vm):
    vm.context["FLOWER_NODE_PRIVATE_KEY"] = pathlib.Path(vm.keys.own("42").path).read_text()
    before = worked(vm)
    vm.turned_away("enrol.waiting")
    vm.monotonic += 10 * REPLACE_KEY_AFTER_S
    assert vm.key(published=True) == before


def test_a_dry_look_replaces_no_key(vm):
    before = worked(vm)
    vm.turned_away("enrol.waiting")
    vm.monotonic += 10 * REPLACE_KEY_AFTER_S
    vm.dry = True
    assert vm.key(published=True) == before


# What its log says


def refusal(vm, text, version="1.25.0"):
    vm.context["FLOWER_VERSION"] = version
    vm.key(published=True)
    with pytest.raises(AgentError) as caught:
        vm.controller._check_peer(vm.last, Running(START, lambda _: text))
    return vm.last.unmet(caught.value)


def test_a_refused_key_is_the_phase_enrol_and_names_the_key(vm):
    unmet = refusal(vm, f'\tdetails = "{REFUSED}"')
    assert (unmet.phase.value, unmet.finding.code, unmet.fatal) == ("enrol", "enrol.waiting", False)
    assert "SHA256:" in unmet.finding.message
    assert Component.SUPERNODE not in unmet.finding.message


def test_a_superlink_that_wants_keys_is_the_phase_enrol_too(vm):
    unmet = refusal(vm, '\tdetails = "All SuperNodes must be registered via the CLI."')
    assert (unmet.phase.value, unmet.finding.code) == ("enrol", "enrol.mismatch")


def test_a_silent_flower_is_connected_once_its_connection_outlived_a_refusal(vm):
    vm.context["FLOWER_VERSION"] = "1.23.0"
    key = vm.key(published=True)
    vm.controller._connections = Attached()
    vm.last.state = dataclasses.replace(vm.last.state, superlink=FOUND.endpoint)
    running = Running(START, lambda _: "INFO : Starting Flower SuperNode")
    with pytest.raises(AgentError, match=r"peer\.waiting"):
        vm.controller._check_peer(vm.last, running)
    vm.last = seeing(vm.last, monotonic=vm.last.seen.monotonic + 3)
    vm.controller._check_peer(vm.last, running)
    assert vm.last.state.worked_key == key.public


# Where it is connected


@pytest.mark.parametrize(
    ("running", "known", "held", "endpoint"),
    [
        (True, "10.0.0.5", True, "10.0.0.5"),
        (True, "10.0.0.5", False, "10.6.6.6"),
        (False, "10.0.0.5", True, "10.6.6.6"),
        (True, None, True, "10.6.6.6"),
    ],
)
def test_a_node_that_holds_a_connection_stays_whatever_onegate_says(
    vm, running, known, held, endpoint
):
    vm.controller._connections = Attached() if held else Detached()
    if known:
        vm.record = dataclasses.replace(vm.record, superlink=Address(known, 9092))
    turn = dataclasses.replace(vm.turn(), running=running)
    said = SuperLinkOffer(Address("10.6.6.6", 9092), vmid="41")
    assert vm.controller._connected(turn, said).endpoint == Address(endpoint, 9092)


FORGED = SuperLinkOffer(Address("10.6.6.6", 9092), vmid="41")


class Restarted:
    """An agent that was restarted beside a container that works; its kernel shows no connection."""

    def __init__(self, vm, folder, known, **context):
        self.vm, self.woken, self.now = vm, threading.Event(), 1000.0
        home = EndpointCheck(Threads(self.woken.set), Prober(), rng=random.Random(1), name="home")
        vm.controller = SuperNodeController(
            Prober(), vm.superlink_search, vm.keys, None, Detached(), home=home, apps=None
        )
        vm.record = dataclasses.replace(vm.record, superlink=known)
        vm.context |= context
        self.keyring = Keyring(folder / "tls")
        self.keyring.ca.parent.mkdir(parents=True)
        self.keyring.ca.write_text(endpoints.authority().pem)

    def dials(self):
        """Return which endpoint the container would get."""
        turn = seeing(self.vm.turn(), keyring=self.keyring, monotonic=self.now)
        turn.running = True
        return self.vm.controller._connected(turn, FORGED).endpoint

    def once_looked(self):
        assert self.woken.wait(10)
        self.woken.clear()
        return self.dials()


@pytest.mark.parametrize("version", ["1.25.0", "1.42.0"])
@pytest.mark.parametrize("tls", ["YES", "NO"])
def test_a_restarted_agent_stays_where_its_superlink_answers(vm, tmp_path, version, tls):
    secured = endpoints.loopback_leaf() if tls == "YES" else None
    with endpoints.grpc_server(leaf=secured) as known:
        agent = Restarted(vm, tmp_path, known, FLOWER_VERSION=version, TLS_ENABLED=tls)
        assert agent.dials() == known, "nothing is believed before that was looked at"
        assert agent.once_looked() == known


def test_a_superlink_that_moved_is_followed(vm, tmp_path):
    agent = Restarted(vm, tmp_path, endpoints.closed_port())
    agent.dials()
    assert agent.once_looked() == FORGED.endpoint


def test_somebody_else_at_the_endpoint_is_not_the_superlink(vm, tmp_path):
    other = endpoints.issue("superlink", hosts=(endpoints.LOOPBACK,))
    with endpoints.grpc_server(leaf=other) as known:
        agent = Restarted(vm, tmp_path, known)
        agent.dials()
        assert agent.once_looked() == FORGED.endpoint


def test_a_superlink_that_is_lost_is_looked_for_at_once_where_it_was(vm, tmp_path):
    with endpoints.grpc_server(leaf=endpoints.loopback_leaf()) as known:
        agent = Restarted(vm, tmp_path, known)
        agent.dials()
        assert agent.once_looked() == known
    assert agent.dials() == known, "a good look counts for a minute"
    turn = agent.vm.turn()
    agent.vm.controller._lose(turn)
    agent.dials()
    assert agent.once_looked() == FORGED.endpoint


# What another VM may have written about keys


def test_no_word_at_onegate_gives_a_key_to_a_container_that_works_without(vm):
    assert vm.key(published=False) is None
    vm.running = True
    assert vm.key(published=True) is None
    assert vm.record.superlink_auth is False
    vm.context["FLOWER_NODE_AUTH"] = "NO"
    assert vm.key(published=True) is None


def test_a_superlink_that_wants_keys_by_now_is_believed_by_its_refusal(vm):
    assert vm.key(published=False) is None
    vm.running = True
    vm.turned_away("enrol.mismatch")
    assert vm.key(published=True) is not None


def test_the_superlinks_refusal_counts_more_than_what_is_published(vm):
    vm.turned_away("enrol.mismatch")
    assert vm.key(published=False) is not None
    assert vm.record.superlink_auth is True


def test_a_container_that_does_not_run_starts_as_is_published(vm):
    assert vm.key(published=False) is None
    assert vm.key(published=True) is not None
