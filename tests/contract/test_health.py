"""Probes against real servers on loopback; a real gRPC client agrees with the TLS probe."""

import re
import subprocess
import sys
import time

import endpoints
import grpc
import pytest
from endpoints import authority, issue, loopback_leaf

from flower_agent.flower import health
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError

DAY, NOW = endpoints.DAY, endpoints.NOW
SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.fixture
def prober():
    return health.Prober()


def refusal(call, *args, **wishes):
    """Return the finding of a probe that fails, and hold that it may pass by itself."""
    with pytest.raises(AgentError) as caught:
        call(*args, **wishes)
    assert caught.value.retryable
    return caught.value.finding


def probe(prober, address, ca=None, **wishes):
    return prober.probe_tls(address, (ca or authority()).pem, timeout_s=2, **wishes)


def test_a_grpc_server_of_the_trusted_ca_passes_and_shows_its_certificate(prober):
    with endpoints.grpc_server(leaf=loopback_leaf()) as address:
        peer = probe(prober, address)
        assert probe(prober, address) == peer
    assert peer == health.TlsPeer(loopback_leaf().fingerprint, endpoints.END)


def test_a_name_is_verified_in_place_of_the_dialled_address(prober):
    leaf = issue("superlink", authority(), hosts=("fl.example.org",))
    with endpoints.tls_server(leaf) as address:
        assert probe(prober, address, server_hostname="fl.example.org").not_after == endpoints.END
        assert refusal(probe, prober, address).code == "endpoint.wrong_name"


@pytest.mark.parametrize(
    ("hosts", "dialled"),
    [
        pytest.param(("10.0.0.1",), None, id="another address"),
        pytest.param(("localhost",), None, id="a name instead of the address"),
        pytest.param(("other.example.org",), "fl.example.org", id="another name"),
        pytest.param(None, "fl.example.org", id="a bare common name"),
    ],
)
def test_a_certificate_for_another_host_has_the_wrong_name(prober, hosts, dialled):
    leaf = issue("fl.example.org", authority(), hosts=hosts)
    with endpoints.tls_server(leaf) as address:
        finding = refusal(probe, prober, address, server_hostname=dialled)
    assert finding.code == "endpoint.wrong_name"
    assert str(address) in finding.message
    assert (dialled or endpoints.LOOPBACK) in finding.message


def test_a_certificate_of_another_ca_of_the_same_name_is_untrusted(prober):
    with endpoints.tls_server(loopback_leaf()) as address:
        finding = refusal(probe, prober, address, issue("federation CA"))
    assert finding.code == "endpoint.untrusted"
    assert str(address) in finding.message


def test_a_private_ca_is_untrusted_by_the_systems_store(prober):
    with endpoints.tls_server(loopback_leaf()) as address:
        finding = refusal(prober.probe_tls, address, None, timeout_s=2)
    assert finding.code == "endpoint.untrusted"


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [(NOW - 2 * DAY, NOW - DAY, "expired"), (NOW + DAY, NOW + 2 * DAY, "not yet valid")],
)
def test_a_certificate_that_is_not_valid_now_is_told_with_this_vms_clock(prober, start, end, words):
    leaf = issue("superlink", authority(), hosts=(endpoints.LOOPBACK,), start=start, end=end)
    with endpoints.tls_server(leaf) as address:
        finding = refusal(probe, prober, address)
    assert finding.code == "endpoint.expired"
    assert words in finding.message
    assert re.search(r"at 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", finding.message)


@pytest.mark.parametrize("trusted", ["root", "intermediate", "leaf"])
def test_the_probe_trusts_what_grpc_trusts(prober, trusted):
    root = issue("root")
    intermediate = issue("intermediate", root)
    leaf = issue("superlink", intermediate, hosts=(endpoints.LOOPBACK,))
    leaf = endpoints.Certificate(leaf.certificate, leaf.key, intermediate.pem)
    ca = {"root": root, "intermediate": intermediate, "leaf": leaf}[trusted].pem
    with endpoints.grpc_server(leaf=leaf) as address:
        prober.probe_tls(address, ca, timeout_s=2)
        channel = health.Channel(address, ca.encode())
        with pytest.raises(grpc.RpcError) as caught:
            channel.call("/no.Such/Method", b"", 2)
        channel.close()
    assert health.rpc_status(caught.value)[0] is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_a_tls_server_that_is_no_grpc_server_is_not_flower(prober, alpn):
    with endpoints.tls_server(loopback_leaf(), alpn=alpn) as address:
        assert refusal(probe, prober, address).code == "endpoint.not_flower"


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h2",)])
def test_a_flower_that_speaks_http_may_select_what_it_likes(prober, alpn):
    with endpoints.tls_server(loopback_leaf(), alpn=alpn) as address:
        assert probe(prober, address, alpn=health.ALPN_HTTP).not_after == endpoints.END


@pytest.mark.parametrize("words", [SETTINGS_FRAME, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_without_tls_is_plaintext(prober, words):
    with endpoints.tcp_server(endpoints.talkative(words)) as address:
        finding = refusal(probe, prober, address)
    assert (finding.code, finding.message) == (
        "endpoint.plaintext",
        f"{address} does not speak TLS",
    )


def test_a_real_grpc_server_without_tls_is_plaintext(prober):
    with endpoints.health_server() as address:
        assert refusal(probe, prober, address).code == "endpoint.plaintext"


def test_a_server_that_hangs_up_in_the_handshake_is_not_flower(prober):
    with endpoints.tcp_server(lambda connection: connection.recv(1)) as address:
        assert refusal(probe, prober, address).code == "endpoint.not_flower"


def test_a_server_that_accepts_and_is_silent_times_out(prober):
    with endpoints.silent_server() as address:
        begin = time.monotonic()
        finding = refusal(prober.probe_tls, address, authority().pem, timeout_s=0.2)
    assert finding.code == "endpoint.timeout"
    assert 0.1 < time.monotonic() - begin < 1


def test_a_closed_port_is_refused(prober):
    address = endpoints.closed_port()
    assert refusal(probe, prober, address).code == "endpoint.refused"
    finding = refusal(prober.probe_tcp, address, 2)
    assert (finding.code, finding.message) == ("endpoint.refused", f"Nothing listens at {address}")


def test_an_open_port_is_told_from_a_closed_one():
    assert not health.opened(endpoints.closed_port())
    with endpoints.silent_server() as address:
        assert health.opened(address)


def test_a_name_that_does_not_resolve_is_an_unknown_host(prober):
    finding = refusal(prober.probe_tcp, Address("superlink.invalid", 9092), 2)
    assert finding.code == "endpoint.unknown_host"
    assert "superlink.invalid" in finding.message


def test_an_address_without_a_route_counts_as_no_answer(prober):
    # The kernel refuses to connect to a multicast address without asking the network.
    finding = refusal(prober.probe_tcp, Address("224.0.0.1", 9092), 0.2)
    assert finding.code == "endpoint.timeout"
    assert "224.0.0.1:9092 cannot be reached" in finding.message


def test_a_tcp_listener_passes_the_probe_without_tls(prober):
    with endpoints.silent_server() as address:
        prober.probe_tcp(address, 2)


@pytest.mark.parametrize("text", ["", "no pem", "-----BEGIN CERTIFICATE-----\n!\n", "\N{SNOWMAN}"])
def test_a_trusted_ca_that_is_no_certificate_is_told(prober, text):
    with pytest.raises(AgentError, match="trusted CA is not a PEM certificate") as caught:
        prober.probe_tls(endpoints.closed_port(), text, timeout_s=2)
    assert caught.value.finding.code == "endpoint.untrusted"


def test_ever_new_cas_do_not_pile_up(prober):
    with endpoints.tls_server(loopback_leaf()) as address:
        for number in range(40):
            probe_text = "#" * number + "\n" + authority().pem
            prober.probe_tls(address, probe_text, timeout_s=2)
    assert len(prober._contexts) <= 16


def test_a_health_server_that_serves_is_found_again_and_again(prober):
    with endpoints.health_server() as address:
        prober.probe_serving(address, 2)
        prober.probe_serving(address, 2)


def test_a_health_server_that_does_not_serve_is_told_with_its_status(prober):
    with endpoints.health_server("NOT_SERVING") as address:
        finding = refusal(prober.probe_serving, address, 2)
    assert finding.code == "health.not_serving"
    assert finding.message == f"{address} answered health status 2"


def test_a_grpc_server_without_a_health_service_is_not_serving(prober):
    with endpoints.grpc_server() as address:
        finding = refusal(prober.probe_serving, address, 2)
    assert finding.code == "health.not_serving"
    assert "UNIMPLEMENTED" in finding.message


def test_a_health_service_that_answers_nonsense_is_not_serving(prober):
    handler = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health",
        {"Check": grpc.unary_unary_rpc_method_handler(lambda *_: b"<html>")},
    )
    with endpoints.grpc_server(handler) as address:
        finding = refusal(prober.probe_serving, address, 2)
    assert finding.code == "health.not_serving"


def test_nothing_listening_is_told_at_once_however_often_it_is_asked(prober):
    address = endpoints.closed_port()
    begin = time.monotonic()
    for _ in range(100):
        assert refusal(prober.probe_serving, address, 5).code == "health.not_serving"
    assert time.monotonic() - begin < 1


def test_a_health_server_that_comes_up_late_is_seen_at_once(prober):
    address = endpoints.closed_port()
    for _ in range(20):
        refusal(prober.probe_serving, address, 5)
    with endpoints.health_server(port=address.port):
        prober.probe_serving(address, 2)


def test_a_restarted_health_server_is_seen_at_once(prober):
    with endpoints.health_server() as address:
        prober.probe_serving(address, 2)
    for _ in range(20):
        assert refusal(prober.probe_serving, address, 2).code == "health.not_serving"
    with endpoints.health_server(port=address.port):
        prober.probe_serving(address, 2)


def test_a_health_server_that_was_replaced_between_two_probes_is_never_missed(prober):
    port = endpoints.closed_port().port
    for _ in range(5):
        with endpoints.health_server(port=port) as address:
            prober.probe_serving(address, 2)


def test_a_silent_health_port_times_out(prober):
    with endpoints.silent_server() as address:
        finding = refusal(prober.probe_serving, address, 0.2)
    assert finding.code == "health.not_serving"
    assert str(address) in finding.message


def test_a_warmed_prober_has_loaded_what_a_probe_wants():
    program = """
import sys
from flower_agent.flower.health import Prober

prober, before = Prober(), set(sys.modules)
prober.warm()
print(*(set(sys.modules) - before))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert {"grpc._channel", "_strptime"} <= set(done.stdout.split())


def test_probes_leave_nothing_behind_and_grpc_sleeps_between_two():
    program = """
import os, pathlib, sys, time
from flower_agent.model.address import parse_address
from flower_agent.flower.health import Prober

def resident_kib():
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])

prober, address = Prober(), parse_address(sys.argv[1], 1)
for number in range(3000):
    if number == 1000:
        before = resident_kib()
    prober.probe_serving(address, 5)
end = time.monotonic() + 5
while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end:
    time.sleep(0.01)
print(len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))
print(resident_kib() - before)
"""
    with endpoints.health_server() as address:
        command = [sys.executable, "-c", program, str(address)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    threads, files, grown_kib = map(int, done.stdout.split())
    assert threads == 1  # its own; gRPC's ended with the connection
    assert files <= 4  # the standard three, and the directory that is read
    assert grown_kib < 512


def test_a_proxy_in_the_environment_is_not_used(prober, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://{endpoints.closed_port()}")
    monkeypatch.setenv("no_proxy", "")
    with endpoints.health_server() as address:
        prober.probe_serving(address, 2)
