"""A peer that answers, one that stands still, one to which no large packet comes: real sockets."""

import contextlib
import random
import socket
import threading
import time

import endpoints
import pytest
from endpoints import loopback_leaf

from flower_agent.background import Threads
from flower_agent.config import flower_versions, parsing
from flower_agent.flower import endpoint_check, peer_check
from flower_agent.flower.health import Prober
from flower_agent.flower.peer_check import PeerEndpoint
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError
from flower_agent.roles import superexec, supernode

SHORT_S = 0.3
"""For a peer that never answers."""

JUMBO = 9000


def peer(address, *, tls=True, http=False, mtu=1500):
    return PeerEndpoint(address, tls=tls, http=http, mtu=mtu)


def proxied(address, *, tls=True):
    return PeerEndpoint(address, tls=tls, http=True, call=flower_versions.PROBE_PATH)


def refusal(asked, **wishes):
    with pytest.raises(AgentError) as caught:
        peer_check.look(asked, **wishes)
    assert caught.value.retryable
    assert str(asked.address) in caught.value.finding.message
    return caught.value.finding.code


@pytest.fixture
def hasty(monkeypatch):
    """Time limits that a test can wait for."""
    for name in ("LARGE_S", "AGAIN_S", "SMALL_S"):
        monkeypatch.setattr(peer_check, name, SHORT_S)


def http_answer(leaf=None):
    return endpoints.http_server(lambda *_: (200, b""), leaf=leaf)


@pytest.mark.parametrize("doubtful", [False, True])
@pytest.mark.parametrize("mtu", [0, 1500, JUMBO])
def test_a_grpc_server_answers_with_and_without_tls(mtu, doubtful):
    with endpoints.grpc_server(leaf=loopback_leaf()) as address:
        peer_check.look(peer(address, mtu=mtu), doubtful=doubtful)
    with endpoints.health_server() as address:
        peer_check.look(peer(address, tls=False, mtu=mtu), doubtful=doubtful)


@pytest.mark.parametrize("doubtful", [False, True])
def test_an_http_server_answers_with_and_without_tls(doubtful):
    with http_answer(loopback_leaf()) as address:
        peer_check.look(peer(address, http=True, mtu=JUMBO), doubtful=doubtful)
    with http_answer() as address:
        peer_check.look(peer(address, tls=False, http=True, mtu=JUMBO), doubtful=doubtful)


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("http", [True, False])
def test_the_first_flight_fits_into_no_packet_of_this_vm(tls, http):
    for mtu in (1500, JUMBO):
        got = []

        def count(connection, got=got):
            connection.settimeout(2)
            with contextlib.suppress(OSError):
                while len(b"".join(got)) <= peer_check.MOST_BYTES:
                    got.append(connection.recv(65536))
                    if not got[-1]:
                        return

        with endpoints.tcp_server(count) as address:
            peer_check.answers(
                peer(address, tls=tls, http=http, mtu=mtu), small=False, timeout_s=SHORT_S
            )
        assert mtu + 1500 < len(b"".join(got)) < 16384


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("http", [True, False])
@pytest.mark.parametrize("doubtful", [True, False])
def test_a_peer_whose_kernel_alone_answers_is_mute(hasty, tls, http, doubtful):
    with endpoints.silent_server() as address:
        began = time.monotonic()
        code = refusal(peer(address, tls=tls, http=http), doubtful=doubtful)
    assert code == "peer.mute"
    assert time.monotonic() - began < 10 * SHORT_S


@pytest.mark.parametrize("tls", [True, False])
def test_a_peer_that_reads_and_says_nothing_is_mute(hasty, tls):
    with endpoints.tcp_server(endpoints.talkative(b"")) as address:
        assert refusal(peer(address, tls=tls), doubtful=True) == "peer.mute"


def test_a_path_that_drops_large_packets_is_told_from_a_mute_peer(hasty):
    with (
        endpoints.grpc_server(leaf=loopback_leaf()) as address,
        endpoints.narrow_path(address) as path,
    ):
        assert refusal(peer(path), doubtful=True) == "peer.mtu"
    with endpoints.health_server() as address, endpoints.narrow_path(address) as path:
        assert refusal(peer(path, tls=False), doubtful=True) == "peer.mtu"
    with http_answer() as address, endpoints.narrow_path(address) as path:
        assert refusal(peer(path, tls=False, http=True), doubtful=True) == "peer.mtu"


def test_a_first_failure_is_asked_again_before_anybody_looks_for_its_cause(hasty):
    with (
        endpoints.grpc_server(leaf=loopback_leaf()) as address,
        endpoints.narrow_path(address) as path,
    ):
        assert refusal(peer(path)) == "peer.mute"


def test_a_server_that_drips_does_not_hold_the_look_up(hasty):
    def drip(connection):
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"\0")
                time.sleep(SHORT_S / 10)

    with endpoints.tcp_server(drip) as address:
        began = time.monotonic()
        peer_check.answers(peer(address, tls=False), small=False, timeout_s=SHORT_S)
    assert time.monotonic() - began < 10 * SHORT_S


@pytest.mark.parametrize("tls", [True, False])
def test_a_refusal_and_a_hang_up_are_answers(tls):
    peer_check.look(peer(endpoints.closed_port(), tls=tls))
    with endpoints.tcp_server(lambda connection: connection.recv(1)) as address:
        peer_check.look(peer(address, tls=tls))
        peer_check.look(peer(address, tls=tls), doubtful=True)


def test_what_the_peer_shows_is_not_judged_here():
    with endpoints.grpc_server(leaf=endpoints.issue("anybody", hosts=("elsewhere",))) as address:
        peer_check.look(peer(address))


def test_a_name_that_nobody_knows_is_no_sign_of_a_mute_peer():
    peer_check.look(peer(Address("no-such-host.invalid", 9092)))


def test_a_peer_that_takes_no_connection_is_lost(hasty):
    with contextlib.ExitStack() as held, socket.socket() as full:
        full.bind((endpoints.LOOPBACK, 0))
        full.listen(0)
        address = Address(*full.getsockname())
        for _ in range(3):  # its queue is full then, and its kernel drops what comes
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((address.host, address.port))
        assert refusal(peer(address)) == "peer.lost"


def test_the_small_packet_gets_a_short_answer_of_a_tls_server():
    with (
        endpoints.grpc_server(leaf=loopback_leaf()) as address,
        socket.create_connection((address.host, address.port), 5) as raw,
    ):
        raw.sendall(peer_check._small(peer(address)))
        assert len(raw.recv(65536)) < 100, "an alert, or the end of the connection"


@pytest.mark.parametrize("limit", [1400, 600])
def test_a_start_waits_with_the_cause_where_large_packets_do_not_come(hasty, monkeypatch, limit):
    monkeypatch.setattr(
        endpoint_check, "TIMEOUT_S", SHORT_S
    )  # 600: the server's certificate is too large
    ended, ca_pem = threading.Event(), endpoints.authority().pem
    at_start = endpoint_check.EndpointCheck(Threads(ended.set), Prober(), rng=random.Random(1))
    with (
        endpoints.grpc_server(leaf=loopback_leaf()) as address,
        endpoints.narrow_path(address, limit) as far,
    ):
        for code in ("discover.waiting", "peer.mtu"):
            with pytest.raises(AgentError) as caught:
                at_start.judge(peer(far), ca_pem, now=0.0)
            assert caught.value.finding.code == code
            assert ended.wait(10)


# --- behind a proxy


@contextlib.contextmanager
def frozen_behind_a_proxy(*, tls):
    """A proxy that shakes hands and takes calls, and whose server answers none."""
    over, asked = threading.Event(), []

    def respond(path, *_):
        asked.append(path)
        over.wait(20)
        return 504, b""

    try:
        with endpoints.http_server(respond, leaf=loopback_leaf() if tls else None) as address:
            yield address, asked
            over.set()
    finally:
        over.set()


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("doubtful", [True, False])
def test_a_proxy_alone_is_no_answer_of_the_peer_behind_it(hasty, tls, doubtful):
    with frozen_behind_a_proxy(tls=tls) as (address, asked):
        assert refusal(proxied(address, tls=tls), doubtful=doubtful) == "peer.mute"
    assert set(asked) == {flower_versions.PROBE_PATH}


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("status", [404, 503])
@pytest.mark.parametrize("doubtful", [True, False])
def test_whatever_answers_the_call_is_an_answer(tls, status, doubtful):
    leaf = loopback_leaf() if tls else None
    with endpoints.http_server(lambda *_: (status, b""), leaf=leaf) as address:
        peer_check.look(proxied(address, tls=tls), doubtful=doubtful)


def test_a_supernode_asks_through_the_proxy_from_1_40_on_and_not_before():
    for version, call in (("1.39.0", ""), ("1.40.0", flower_versions.PROBE_PATH)):
        context = {"FLOWER_ROLE": "client", "FLOWER_VERSION": version, "TOKEN": "YES"}
        found = parsing.parse(context, {}).settings
        assert supernode.peer(found, Address("10.0.0.5", 8000), 1500).call == call


@pytest.mark.parametrize(
    ("version", "plugin", "call"),
    [
        ("1.42.0", "serverapp", flower_versions.PROBE_APPIO_PATH),
        ("1.42.0", "clientapp", ""),
        ("1.39.0", "serverapp", ""),
    ],
)
def test_a_lone_superexec_asks_a_superlink_through_the_proxy(version, plugin, call):
    context = {
        "FLOWER_ROLE": "superexec",
        "FLOWER_VERSION": version,
        "FLOWER_APPIO_ADDRESS": "10.0.0.5:8000",
        "FLOWER_SUPEREXEC_PLUGIN": plugin,
        "TOKEN": "YES",
    }
    assert superexec.peer(parsing.parse(context, {}).settings, 1500).call == call
