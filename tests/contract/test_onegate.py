"""The OneGate client against the sandbox's OneGate, and against servers that no OneGate is."""

import contextlib
import http.server
import itertools
import json
import threading
import time
import traceback
from pathlib import Path

import endpoints
import onegate as sandbox
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_agent.config.sources import OneGateAccess
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.onegate import status_attributes
from flower_agent.onegate.client import OneGate

DATA = Path(__file__).parents[1] / "data"
CASES = json.loads((DATA / "onegate-put-cases.json").read_text(encoding="utf-8"))["cases"]
SUPERLINK, SUPERNODE, LONER, UNLISTED = 28, 29, 40, 41
TOKEN = "yVBFyedILu4FNbAaBxyyZg=="
CA = endpoints.authority()
LEAF = endpoints.issue("onegate", CA, hosts=("127.0.0.1",))
BODY = status_attributes.render({"FLOWER_STATE": "starting", "READY": "NO"})
QUICK = {"connect_s": 0.5, "read_s": 0.2}

ASK = {
    "GET service": lambda client: client.service(),
    "GET vm": lambda client: client.vm(str(SUPERLINK)),
    "PUT": lambda client: client.update(BODY),
}
every_request = pytest.mark.parametrize("ask", ASK.values(), ids=ASK)


@contextlib.contextmanager
def started():
    with sandbox.OneGate() as gate:
        gate.add_service(1, "flower", [("superlink", 1), ("supernode", 1)])
        gate.add_vm(SUPERLINK, "superlink_0_(service_1)", "superlink", 1)
        gate.add_vm(SUPERNODE, "supernode_0_(service_1)", "supernode", 1, token=TOKEN)
        gate.add_vm(LONER, "loner", token=TOKEN)
        gate.add_vm(UNLISTED, "early", user_template={"SERVICE_ID": "1"}, token=TOKEN)
        yield gate


@contextlib.contextmanager
def guest(endpoint, vmid=SUPERNODE, token=TOKEN, **timeouts):
    client = OneGate(OneGateAccess(endpoint, str(vmid), Secret(token)), **timeouts)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def gate():
    with started() as gate:
        yield gate


@pytest.fixture
def client(gate):
    with guest(gate.url) as client:
        yield client


@pytest.fixture
def trusted(monkeypatch, tmp_path):
    """Let the system's store hold the CA of the server."""
    (tmp_path / "store.pem").write_text(CA.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "store.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


@pytest.fixture
def untrusted(monkeypatch, tmp_path):
    """Let the system's store be empty, and the one of requests hold the server's CA."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    (tmp_path / "own.pem").write_text(CA.pem)
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "own.pem"))


def answer_once(connection):
    connection.settimeout(5)
    with contextlib.suppress(OSError):
        connection.recv(65536)
        connection.sendall(reply(b"{}"))


def refusal(ask, client, token=TOKEN):
    """Return the error of a request that fails, and hold that it may pass and hides the token."""
    with pytest.raises(AgentError) as caught:
        ask(client)
    error = caught.value
    assert error.retryable
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    assert token not in shown + repr(client) + repr(client.access) + repr(vars(client))
    return error.finding


@contextlib.contextmanager
def witness():
    """Serve HTTP, and give the address and the headers of each request that came."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append({**self.headers, "peer": self.connection.getpeername()})
            body = b"{}" if self.command == "GET" else b""
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET  # noqa: N815  # the base class wants the name

        def log_message(self, *_):
            """Say nothing on stderr."""

    def serve(connection):
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            Handler(connection, ("", 0), None)

    with endpoints.tcp_server(serve) as address:
        yield f"http://{address}", seen


@contextlib.contextmanager
def answering(answer):
    """Answer a request, which must have no body, with these bytes and hang up."""

    def serve(connection):
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(answer)

    with endpoints.tcp_server(serve) as address:
        yield f"http://{address}"


def reply(body, status="200 OK", *headers, length=None):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


# What it asks and sends


def test_the_service_and_its_vms_are_asked_for_and_never_the_extended_form(gate, client):
    roles = client.service()["SERVICE"]["roles"]
    assert [role["name"] for role in roles] == ["superlink", "supernode"]
    assert client.vm(str(SUPERLINK))["VM"]["NAME"] == "superlink_0_(service_1)"
    assert [(r.method, r.path) for r in gate.requests] == [
        ("GET", "/service"),
        ("GET", f"/vms/{SUPERLINK}"),
    ]


def test_an_update_reaches_the_own_vm_only(gate, client):
    client.update(BODY)
    assert gate.attributes(SUPERNODE)["FLOWER_STATE"] == "starting"
    assert "FLOWER_STATE" not in gate.attributes(SUPERLINK)


def test_a_slash_behind_the_endpoint_does_no_harm(gate):
    with guest(gate.url + "/") as client:
        client.update(BODY)
    assert [r.path for r in gate.requests] == ["/vm"]


def test_the_token_is_in_one_header_and_nowhere_else():
    with witness() as (url, seen), guest(url) as client:
        client.vm("7")
        client.update(BODY)
    for headers in seen:
        assert [name for name, value in headers.items() if TOKEN in str(value)] == [
            "X-ONEGATE-TOKEN"
        ]


def test_requests_use_one_connection():
    with witness() as (url, seen), guest(url) as client:
        for _ in range(3):
            client.service()
            client.update(BODY)
        client.close()
    assert len(seen) == 6
    assert len({headers["peer"] for headers in seen}) == 1


def test_two_threads_may_ask_at_once(gate, client):
    failed = []

    def work(ask):
        try:
            for _ in range(20):
                ask(client)
        except AgentError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(ask,)) for ask in (*ASK.values(),) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {r.status for r in gate.requests} == {200}
    assert len(gate.requests) == 120


# Where the token goes


def test_proxies_and_passwords_of_the_environment_are_not_used(gate, monkeypatch, tmp_path):
    dead = f"http://{endpoints.closed_port()}"
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, dead)
        monkeypatch.setenv(name.upper(), dead)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("default login who password what\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_environ_proxies(gate.url)["http"] == dead
    with guest(gate.url) as client:
        client.update(BODY)
    with witness() as (url, seen), guest(url) as client:
        client.service()
    assert "Authorization" not in seen[0]


@every_request
def test_a_redirect_is_refused_and_its_target_hears_nothing(gate, client, ask):
    with witness() as (url, seen):
        gate.fault("redirect", to=f"{url}/vm")
        found = refusal(ask, client)
    assert found.code == "onegate.refused"
    assert "302" in found.message
    assert seen == []


@pytest.mark.parametrize("status", ["301", "303", "307", "308"])
def test_no_kind_of_redirect_is_followed(status):
    with witness() as (target, seen):
        moved = reply(b"", f"{status} Moved", f"Location: {target}/vm")
        with answering(moved) as url, guest(url) as client:
            assert refusal(ASK["GET vm"], client).code == "onegate.refused"
    assert seen == []


def test_a_server_that_echoes_the_token_does_not_get_it_into_a_message():
    echo = f"bad request: X-ONEGATE-TOKEN: {TOKEN}\x1b[2J".encode()
    with answering(reply(echo, "400 Bad Request")) as url, guest(url) as client:
        found = refusal(ASK["GET vm"], client)
    assert "***" in found.message
    assert found.message.isprintable()


@pytest.mark.parametrize("token", ["secret\r\nX-Evil: 1", " secret", "s\u20accret", "secret\0"])
@every_request
def test_a_token_that_no_header_holds_is_not_shown(gate, token, ask):
    with guest(gate.url, token=token) as client:
        assert refusal(ask, client, token).code.startswith("onegate.")


# How it fails

FAULTS = [
    ("down", {}, "onegate.down"),
    ("slow", {"seconds": 5}, "onegate.down"),
    ("hang", {}, "onegate.down"),
    ("401", {}, "onegate.refused"),
    ("500", {}, "onegate.refused"),
    ("garbage", {"body": "html"}, "onegate.garbage"),
    ("garbage", {"body": "truncated"}, "onegate.garbage"),
    ("garbage", {"body": "plain"}, "onegate.garbage"),
    ("drop_reply", {}, "onegate.down"),
]


@pytest.mark.parametrize(("kind", "options", "code"), FAULTS, ids=[kind for kind, *_ in FAULTS])
@every_request
def test_each_fault_has_its_code_and_the_next_request_is_well(gate, ask, kind, options, code):
    with guest(gate.url, **QUICK) as client:
        gate.fault(kind, **options)
        found = refusal(ask, client)
        gate.heal()
        ask(client)
    assert found.code == code
    assert len(found.message) < 200


def test_nobody_who_listens_is_down(gate, client):
    gate.stop()
    found = refusal(ASK["PUT"], client)
    assert (found.code, found.message) == (
        "onegate.down",
        "OneGate does not answer PUT /vm: connection refused",
    )


def test_a_silent_listener_costs_the_timeout_and_no_more():
    with endpoints.silent_server() as address, guest(f"http://{address}", **QUICK) as client:
        found = refusal(ASK["PUT"], client)
    assert found.message == "OneGate does not answer PUT /vm: timed out"


def test_a_wrong_token_is_refused_in_onegates_words(gate):
    with guest(gate.url, token="wrong-token") as client:
        found = refusal(ASK["GET service"], client, "wrong-token")
    assert found.code == "onegate.refused"
    assert found.message == "OneGate answered GET /service with 401: Not authorized"


def test_a_vm_outside_a_service_has_none(gate):
    with guest(gate.url, vmid=LONER) as client:
        found = refusal(ASK["GET service"], client)
        assert found.code == "onegate.no_service"
        assert "Empty or invalid SERVICE_ID" in found.message
        assert refusal(ASK["GET vm"], client).code == "onegate.refused"


def test_a_vm_that_oneflow_does_not_list_yet_is_not_outside(gate):
    with guest(gate.url, vmid=UNLISTED) as client:
        found = refusal(ASK["GET service"], client)
    assert found.code == "onegate.refused"
    assert "Service 1 does not contain VM 41" in found.message


BROKEN = {
    "a body that ends too early": (reply(b"{}", length=100), "onegate.down"),
    "a broken chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}",
        "onegate.down",
    ),
    "no chunk at all": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        "onegate.down",
    ),
    "no HTTP": (b"220 mail.example.org ESMTP\r\n", "onegate.down"),
    "a TLS alert": (b"\x15\x03\x01\x00\x02\x02\x46", "onegate.down"),
    "an endless header": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, "onegate.down"),
    "too many headers": (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n", "onegate.down"),
    "nothing": (b"", "onegate.down"),
    "an empty body": (reply(b""), "onegate.garbage"),
    "bytes": (reply(bytes(range(256))), "onegate.garbage"),
    "a deep document": (reply(b"[" * 100_000), "onegate.garbage"),
    "a long number": (reply(b"9" * 5000), "onegate.garbage"),
    "compression that was not asked for": (
        reply(b"\x1f\x8b\x08\0nonsense", "200 OK", "Content-Encoding: gzip"),
        "onegate.garbage",
    ),
    "an error in bytes": (reply(bytes(range(256)), "500 Error"), "onegate.refused"),
    "no content": (reply(b"", "204 No Content"), "onegate.refused"),
    "a status from the moon": (b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n", "onegate.refused"),
}


@pytest.mark.parametrize(("answer", "code"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_of_onegate_is_one_of_its_errors(answer, code):
    with answering(answer) as url, guest(url, **QUICK) as client:
        assert refusal(ASK["GET service"], client).code == code


def test_an_endless_answer_is_given_up():
    def serve(connection):
        connection.settimeout(5)
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(bytes(1 << 20))

    with endpoints.tcp_server(serve) as address, guest(f"http://{address}") as client:
        found = refusal(ASK["GET service"], client)
    assert found.code == "onegate.garbage"


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "ftp://x",
        "http://",
        "//x",
        "not a url",
        "file:///etc/passwd",
        "http://" + "\u00fc" * 70,
        "http://\u2028",
        "http://\ud800",
        "\ud800",
        "http://[::1",
        "http://a..b",
        "http://x\n",
        "http://\0",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
    ],
)
@every_request
def test_an_endpoint_that_is_no_url_is_down(endpoint, ask):
    with guest(endpoint, **QUICK) as client:
        found = refusal(ask, client)
    assert found.code == "onegate.down"
    assert found.message.endswith("ONEGATE_ENDPOINT is not an http:// URL")


# Connections that end


def test_a_onegate_that_was_restarted_is_asked_again_at_once(gate, client):
    client.update(BODY)
    port = int(gate.url.rpartition(":")[2])
    gate.stop()
    gate.start(port=port)
    client.update(BODY)
    assert [r.status for r in gate.requests] == [200, 200]


def test_a_connection_that_ends_under_a_request_fails_it_and_not_the_next():
    unanswered = [1]

    def serve(connection):
        connection.settimeout(5)
        connection.recv(65536)
        connection.sendall(reply(b"{}"))
        if unanswered:
            unanswered.pop()
            connection.recv(65536)

    with endpoints.tcp_server(serve) as address, guest(f"http://{address}") as client:
        client.service()
        assert refusal(ASK["GET service"], client).code == "onegate.down"
        assert client.service() == {}


# How long it takes, and what is kept


def dripping(*parts, pause_s=0.05):
    """Give what serves `parts` for ever, the last one again and again, each within a time limit."""

    def serve(connection):
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            connection.recv(65536)
            for part in itertools.chain(parts, itertools.repeat(parts[-1])):
                connection.sendall(part)
                time.sleep(pause_s)

    return serve


DRIPS = {
    "a byte of the status line": dripping(b"H", b"T"),
    "a byte of a header": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "headers": dripping(b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n", pause_s=0.1),
    "continue without end": dripping(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "continue without pause": dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, pause_s=0),
    "a byte of the body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "),
    "a chunk": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.mark.parametrize("serve", DRIPS.values(), ids=DRIPS)
@pytest.mark.parametrize("leaf", [None, LEAF], ids=["http", "https"])
def test_an_answer_that_drips_ends_at_the_deadline(serve, leaf, trusted):
    with contextlib.ExitStack() as stack:
        scheme = "http" if leaf is None else "https"
        server = (
            endpoints.tcp_server(serve)
            if leaf is None
            else endpoints.tls_server(leaf, alpn=None, handler=serve)
        )
        address = stack.enter_context(server)
        client = stack.enter_context(guest(f"{scheme}://{address}", read_s=0.5, total_s=0.7))
        began = time.monotonic()
        found = refusal(ASK["GET service"], client)
        took_s = time.monotonic() - began
    assert found.code == "onegate.down"
    assert "timed out" in found.message
    assert 0.6 < took_s < 2


def test_no_cookie_is_kept():
    seen = []

    def respond(connection):
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            while asked := connection.recv(65536):
                seen.append(asked.decode().lower())
                connection.sendall(reply(b"{}", "200 OK", "Set-Cookie: a=" + "b" * 2000))

    with endpoints.tcp_server(respond) as address, guest(f"http://{address}") as client:
        for _ in range(3):
            client.service()
        assert len(client._session.cookies) == 0
    assert len(seen) == 3
    assert not any("cookie" in asked for asked in seen)


# Whom it trusts over HTTPS


def test_the_systems_store_says_whom_to_trust(trusted):
    with (
        endpoints.tls_server(LEAF, alpn=None, handler=answer_once) as address,
        guest(f"https://{address}") as client,
    ):
        assert client.service() == {}


def test_a_certificate_that_is_not_trusted_is_named(untrusted):
    with (
        endpoints.tls_server(LEAF, alpn=None, handler=answer_once) as address,
        guest(f"https://{address}") as client,
    ):
        found = refusal(ASK["PUT"], client)
    assert found.code == "onegate.down"
    assert "certificate not trusted: CN=onegate, issued by CN=" in found.message
    assert "update-ca-certificates" in found.hint


def test_the_token_is_not_sent_to_whom_nobody_trusts(untrusted):
    heard = []

    def listen(connection):
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            heard.append(connection.recv(65536))

    with (
        endpoints.tls_server(LEAF, alpn=None, handler=listen) as address,
        guest(f"https://{address}") as client,
    ):
        refusal(ASK["PUT"], client)
    assert not any(heard)


# What becomes of values


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_value_is_stored_as_it_was_written(gate, client, case):
    value = status_attributes.words(case["value"])
    client.update(status_attributes.render({"FL_X": value}))
    assert gate.attributes(SUPERNODE)["FL_X"] == value
    assert [r.status for r in gate.requests] == [200]


def test_all_values_are_stored_from_one_body(gate, client):
    values = {f"FL_{at}": status_attributes.words(case["value"]) for at, case in enumerate(CASES)}
    client.update(status_attributes.render(values))
    assert gate.attributes(SUPERNODE).items() >= values.items()
    assert not gate.gate_open(SUPERNODE)
    assert len(values) == 34


def test_whatever_a_message_says_is_stored_and_opens_no_gate():
    texts = st.text() | st.text("READY=YES \"',\\[]\n")

    with started() as gate, guest(gate.url) as client:

        @settings(max_examples=60, deadline=None)
        @given(st.lists(texts, min_size=1, max_size=4))
        def holds(values):
            body = {f"FL_{at}": status_attributes.words(value) for at, value in enumerate(values)}
            client.update(status_attributes.render(body))
            assert gate.attributes(SUPERNODE).items() >= body.items()
            assert not gate.gate_open(SUPERNODE)

        holds()
