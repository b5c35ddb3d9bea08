"""A connection to a peer is seen in the kernel's table, whatever the peer's resolver does."""

import socket
import threading

import pytest

from flower_agent.background import Threads
from flower_agent.host.connections import RETRY_S, Connections
from flower_agent.model.address import Address

LOOPBACK = frozenset({"127.0.0.1"})


class Resolver:
    """A resolver whose answers the test decides, and how long they take."""

    def __init__(self):
        self.answers, self.asked, self.may_answer = LOOPBACK, [], threading.Event()
        self.may_answer.set()

    def __call__(self, name):
        self.asked.append(name)
        assert self.may_answer.wait(10)
        return self.answers


class Watch:
    """What a turn of the loop sees, turn by turn."""

    def __init__(self):
        self.resolver, self.ended, self.now = Resolver(), threading.Event(), 100.0
        self.connections = Connections(Threads(self.ended.set), resolve=self.resolver)

    def held(self, peer):
        return self.connections.held(peer, now=self.now)

    def held_once_resolved(self, peer):
        """Look, let the call end, look again: as the loop does that it wakes."""
        self.ended.clear()
        if self.held(peer):
            return True
        assert self.ended.wait(10)
        return self.held(peer)


@pytest.fixture
def watch():
    watch = Watch()
    yield watch
    watch.resolver.may_answer.set()


@pytest.fixture
def port():
    """A server's port with a connection of this machine to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            yield port


def test_an_address_is_never_looked_up(watch, port):
    assert watch.held(Address("127.0.0.1", port))
    assert not watch.held(Address("127.0.0.2", port))
    assert watch.resolver.asked == []


def test_a_name_is_looked_up_once_while_its_connection_is_held(watch, port):
    peer = Address("link.example", port)
    assert watch.held_once_resolved(peer)
    watch.now += 3600
    assert watch.held(peer)
    assert watch.resolver.asked == ["link.example"]


def test_turns_go_on_while_a_dead_resolver_is_asked(watch, port):
    watch.resolver.may_answer.clear()
    for _ in range(50):
        assert not watch.held(Address("link.example", port))
        watch.now += 1
    assert not watch.ended.is_set(), "nobody has waited for its answer"
    assert watch.resolver.asked == ["link.example"]


def test_a_connection_counts_while_its_name_does_not_resolve_any_more(watch, port):
    peer = Address("link.example", port)
    assert watch.held_once_resolved(peer)
    watch.resolver.answers = frozenset()
    watch.now += 3600
    assert watch.held(peer)


def test_a_name_that_moved_is_found_at_its_new_address(watch, port):
    peer = Address("link.example", port)
    watch.resolver.answers = frozenset({"192.0.2.1"})
    assert not watch.held_once_resolved(peer)
    watch.resolver.answers = LOOPBACK
    assert not watch.held(peer), "not looked up again before its time"
    watch.now += RETRY_S
    assert watch.held_once_resolved(peer)


def test_another_name_begins_without_the_addresses_of_the_one_before(watch, port):
    assert watch.held_once_resolved(Address("link.example", port))
    watch.resolver.answers = frozenset()
    assert not watch.held_once_resolved(Address("other.example", port))


def test_a_name_that_the_real_resolver_knows_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = Address("localhost", server.getsockname()[1])
        ended = threading.Event()
        connections = Connections(Threads(ended.set))
        assert not connections.held(peer, now=0.0)
        assert ended.wait(10)
        assert not connections.held(peer, now=0.0), "nothing is connected yet"
        with socket.create_connection(("127.0.0.1", peer.port)):
            assert connections.held(peer, now=0.0)
