"""The gateway's process before a SuperLink of each transport, and clients that mean harm."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import threading
import time
import urllib.parse

import pytest
from fake_superlink import FakeSuperLink
from gateways import PASSWORD, URL, Refusal, RunningGateway

from flower_agent.config.flower_versions import Transport
from flower_agent.flower import control_messages, wire

APP = b"PK of an app"
DIGEST = hashlib.sha256(APP).hexdigest()
START = control_messages.encode_start_run(APP, (), "default")
FORBIDDEN = {"PERMISSION_DENIED", 403}
UNAUTHENTICATED = {"UNAUTHENTICATED", 401}


@pytest.fixture(scope="module", params=list(Transport))
def world(request, tmp_path_factory):
    """A SuperLink and its gateway."""
    superlink = FakeSuperLink()
    with superlink.serve(request.param) as address:
        gateway = RunningGateway(tmp_path_factory.mktemp("gateway"), request.param, address)
        gateway.add_accounts()
        gateway.start()
        yield superlink, gateway
        gateway.stop()


@pytest.fixture
def superlink(world):
    return world[0]


@pytest.fixture
def gateway(world):
    return world[1]


@pytest.fixture(scope="module")
def tokens(world):
    return {name: world[1].login(name) for name in ("viewer", "submitter", "admin")}


def refused(gateway, name, body=b"", **more):
    with pytest.raises(Refusal) as caught:
        gateway.call(name, body, **more)
    return caught.value


def run_of(reply):
    return wire.decode(reply).integer(1)


def test_without_a_token_nothing_passes(superlink, gateway):
    before = list(superlink.calls)
    for name in ("ListRuns", "ListNodes", "StartRun", "StopRun", "PullArtifacts", "RegisterNode"):
        refusal = refused(gateway, name)
        assert refusal.status in UNAUTHENTICATED
    assert superlink.calls == before


@pytest.mark.parametrize("access", ["x", "a" * 32, "None"])
def test_a_made_up_token_is_worth_nothing(gateway, access):
    assert refused(gateway, "ListRuns", access=access).status in UNAUTHENTICATED


def test_a_login_code_of_nobody_waits_for_ever(gateway):
    assert gateway.call("GetAuthTokens", wire.encode((1, "made up"))) == b""


def test_a_viewer_reads_and_does_nothing_else(superlink, gateway, tokens):
    access, _ = tokens["viewer"]
    gateway.call("ListRuns", access=access)
    before = list(superlink.calls)
    for name in ("StartRun", "StopRun", "PullArtifacts", "RegisterNode", "UnregisterNode"):
        refusal = refused(gateway, name, access=access)
        assert refusal.status in FORBIDDEN
        assert "viewer" in refusal.words
    assert superlink.calls == before


@pytest.mark.parametrize("name", ["CreateInvitation", "StartAutomation", "Nonsense", "listRuns"])
def test_an_unknown_method_is_refused_even_to_an_admin(superlink, gateway, tokens, name):
    before = list(superlink.calls)
    path = name if gateway.transport is Transport.GRPC else f"/v1/control/{name}"
    refusal = refused(gateway, path, access=tokens["admin"][0])
    assert refusal.status in FORBIDDEN
    assert "does not offer" in refusal.words
    assert superlink.calls == before


def test_a_submitter_stops_and_pulls_its_own_runs_only(superlink, gateway, tokens):
    mine = run_of(gateway.call("StartRun", START, access=tokens["submitter"][0]))
    theirs = run_of(gateway.call("StartRun", START, access=tokens["admin"][0]))
    older = dataclasses.replace(superlink.runs[theirs], pending_at="2026-01-01T00:00:00+00:00")
    superlink.runs[2**60] = older  # from before the gateway
    access, _ = tokens["submitter"]
    for run in (theirs, 2**60):
        for name in ("StopRun", "PullArtifacts"):
            assert refused(gateway, name, wire.encode((1, run)), access=access).status in FORBIDDEN
    url = wire.decode(gateway.call("PullArtifacts", wire.encode((1, mine)), access=access)).text(1)
    assert url.startswith(f"{URL}/outputs/")
    gateway.call("StopRun", wire.encode((1, mine)), access=access)
    assert superlink.runs[mine].sub_status == "stopped"
    gateway.call("StopRun", wire.encode((1, theirs)), access=tokens["admin"][0])


def test_the_words_of_the_superlink_come_through(gateway, tokens):
    refusal = refused(gateway, "StopRun", wire.encode((1, 5)), access=tokens["admin"][0])
    assert "Run ID not found" in refusal.words
    assert refusal.status in {"NOT_FOUND", 404}


def test_what_is_no_protobuf_has_its_words(gateway, tokens):
    refusal = refused(gateway, "StopRun", b"\xff\xff", access=tokens["submitter"][0])
    assert "cannot be read" in refusal.words


def test_a_body_that_is_too_large_does_not_reach_the_superlink(superlink, gateway, tokens):
    before = list(superlink.calls)
    body = bytes((20 << 20) + 1024)
    try:
        gateway.call("StartRun", body, access=tokens["submitter"][0])
    except (Refusal, OSError) as error:
        shown = str(error)
    assert "larger" in shown or "RESOURCE_EXHAUSTED" in shown or "Broken pipe" in shown
    assert superlink.calls == before
    gateway.call("ListRuns", access=tokens["viewer"][0])


def test_oversized_metadata_is_refused(gateway, tokens):
    with pytest.raises((Refusal, OSError)):
        gateway.call("ListRuns", access="x" * (80 << 10))
    gateway.call("ListRuns", access=tokens["viewer"][0])


def test_a_log_is_streamed(superlink, gateway, tokens):
    run = run_of(gateway.call("StartRun", START, access=tokens["submitter"][0]))
    superlink.runs[run].say("round 1\n")
    body = control_messages.encode_stream_logs(str(run), 0.0)
    access, refresh = tokens["viewer"]
    if gateway.transport is Transport.HTTP:
        frames = gateway.call("StreamLogs", body, access=access)[4:]
    else:
        metadata = [("flwr-oidc-access-token", access), ("flwr-oidc-refresh-token", refresh)]
        with gateway.channel() as channel:
            ask = channel.unary_stream("/flwr.proto.Control/StreamLogs")
            frames = b"".join(ask(body, timeout=30, metadata=metadata))
    assert wire.decode(frames).text(1) == "round 1\n"


def test_tokens_are_refreshed_as_each_transport_does(gateway):
    access, refresh = gateway.login("viewer")
    if gateway.transport is Transport.GRPC:
        _, said = gateway.call_grpc("ListRuns", b"", "ended", refresh, "192.0.2.1")
        following = said["flwr-oidc-access-token"], said["flwr-oidc-refresh-token"]
    else:
        reply = wire.decode(
            gateway.call("RefreshAuthTokens", wire.encode((1, refresh)), access="x")
        )
        following = reply.text(1), reply.text(2)
    assert set(following).isdisjoint({access, refresh})
    gateway.call("ListRuns", access=following[0], refresh=following[1])


def test_a_401_of_http_is_the_one_that_flower_knows(gateway):
    if gateway.transport is Transport.GRPC:
        return
    status, headers, _ = gateway.ask("POST", "/v1/control/list-runs")
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"


def test_wrong_passwords_of_one_address_are_limited_and_others_get_in(gateway):
    source = "198.51.100.7"
    seen = [_sign_in_status(gateway, f"guess {n:0>10}", source) for n in range(14)]
    assert seen[:10] == [401] * 10
    assert set(seen[10:]) == {503}
    assert _sign_in_status(gateway, PASSWORD, source) == 503
    assert _sign_in_status(gateway, PASSWORD, "198.51.100.8") == 303


def _sign_in_status(gateway, password, source):
    form = {"name": "viewer", "password": password, "code": ""}
    return gateway.ask("POST", "/sign-in", form, source=source)[0]


def test_a_form_of_another_site_does_nothing(gateway):
    for origin in ("https://evil.example", "null", ""):
        form = {"name": "viewer", "password": PASSWORD, "code": ""}
        assert gateway.ask("POST", "/sign-in", form, origin=origin)[0] == 403
    cookie = gateway.sign_in("viewer")
    code = _code(gateway)
    token = gateway.form_token(cookie, code)
    form = {"code": code, "token": token, "answer": "allow"}
    for more in ({"origin": "https://evil.example"}, {"origin": ""}):
        assert gateway.ask("POST", "/approve", form, cookie=cookie, **more)[0] == 403
    assert gateway.ask("GET", f"/approve?{urllib.parse.urlencode(form)}", cookie=cookie)[0] == 405


def _code(gateway):
    details = wire.decode(gateway.call("GetLoginDetails", source="192.0.2.99"))
    return details.text(3).rpartition("=")[2]


def test_an_approval_needs_the_form_of_the_same_session(gateway):
    mine, theirs = gateway.sign_in("viewer"), gateway.sign_in("admin")
    code = _code(gateway)
    for token in (gateway.form_token(mine, code), "", "0" * 64):
        form = {"code": code, "token": token, "answer": "allow"}
        assert gateway.ask("POST", "/approve", form, cookie=theirs)[0] == 403
        assert gateway.ask("POST", "/approve", form)[0] == 403
    form = {"code": code, "token": gateway.form_token(theirs, code), "answer": "refuse"}
    assert b"Nothing was allowed" in gateway.ask("POST", "/approve", form, cookie=theirs)[2]


def test_codes_cannot_be_guessed_through(gateway):
    cookie = gateway.sign_in("viewer")
    codes = [f"BCDF-GH{a}{b}" for a in "JKLMN" for b in "PQRST"]
    seen = [
        gateway.ask("GET", f"/login?code={c}", cookie=cookie, source="203.0.113.5")[0]
        for c in codes
    ]
    assert seen[0] == 404
    assert seen[-1] == 503


@pytest.mark.parametrize(
    "code", ["//evil.example", "https://evil.example", "\r\nSet-Cookie: a=b", "<b>"]
)
def test_a_code_leads_nowhere_else_and_is_text(gateway, code):
    form = {"name": "viewer", "password": PASSWORD, "code": code}
    status, headers, _ = gateway.ask("POST", "/sign-in", form)
    assert status == 303
    assert headers["location"].startswith("/login?code=")
    assert set(headers["set-cookie"].split("; ")) >= {
        "Secure",
        "HttpOnly",
        "SameSite=lax",
        "Path=/",
    }
    _, headers, text = gateway.ask("GET", f"/login?{urllib.parse.urlencode({'code': code})}")
    assert b"<b>" not in text
    assert "default-src 'none'" in headers["content-security-policy"]


def test_a_signed_out_browser_is_out(gateway):
    cookie = gateway.sign_in("viewer")
    text = gateway.ask("GET", "/", cookie=cookie)[2].decode()
    token = text.partition('name="token" value="')[2][:64]
    assert gateway.ask("POST", "/sign-out", {"token": token}, cookie=cookie)[0] == 303
    assert b"Sign in" in gateway.ask("GET", "/", cookie=cookie)[2]


@pytest.mark.parametrize(
    "path", ["/outputs/made-up/run-7.tar", "/outputs/../../etc/passwd", "/docs"]
)
def test_what_is_not_there_is_not_there(gateway, path):
    assert gateway.ask("GET", path)[0] == 404


class AgentDouble:
    """The agent's end of the socket: gives two files, keeps what it is told."""

    def __init__(self, path, directory):
        self.told, self.files = [], []
        for name, data in (("model.npz", b"m" * 3000), ("log.txt", b"text")):
            (directory / name).write_bytes(data)
            self.files.append(directory / name)
        self._listening = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self._listening.bind(str(path))
        self._listening.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                line, _ = self._listening.accept()
            except OSError:
                return
            with line:
                question = json.loads(line.makefile("rb").readline())
                if question["ask"] == "record":
                    self.told += question["events"]
                    line.sendall(b'{"ok": true}\n')
                    continue
                assert question["ask"] == "outputs"
                opened = [os.open(file, os.O_RDONLY) for file in self.files]
                said = [
                    {"name": file.name, "size": file.stat().st_size, "mtime": 1_700_000_000}
                    for file in self.files
                ]
                answer = json.dumps({"files": said}).encode() + b"\n"
                socket.send_fds(line, [answer], opened)
                for descriptor in opened:
                    os.close(descriptor)

    def close(self):
        self._listening.close()


@pytest.fixture
def agent(gateway, tmp_path):
    made = AgentDouble(gateway.agent, tmp_path)
    yield made
    made.close()


def test_outputs_are_downloaded_in_parts_and_recorded(gateway, tokens, agent, tmp_path):
    access, _ = tokens["submitter"]
    run = run_of(gateway.call("StartRun", START, access=access))
    reply = gateway.call("PullArtifacts", wire.encode((1, run)), access=access)
    path = wire.decode(reply).text(1).removeprefix(URL)
    status, headers, whole = gateway.ask("GET", path)
    assert (status, headers["content-length"]) == (200, str(len(whole)))
    parts = b""
    for wanted in ("bytes=0-999", f"bytes=1000-{len(whole) - 2}", f"bytes={len(whole) - 1}-"):
        status, _, part = gateway.ask("GET", path, Range=wanted, **{"If-Range": headers["etag"]})
        assert status == 206
        parts += part
    assert parts == whole
    assert gateway.ask("GET", path, Range=f"bytes={len(whole)}-")[0] == 416
    assert gateway.ask("GET", path, Range="bytes=5-", **{"If-Range": '"old"'})[0] == 200
    assert whole.count(b"m" * 3000) == 1
    _until(lambda: "gateway.download" in {event["event"] for event in agent.told})
    assert {event["who"] for event in agent.told} >= {"account:submitter"}


def _until(true, limit_s=60):
    ends = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_downloads_that_break_off_leave_nothing_open(gateway, tokens, agent):
    access, _ = tokens["admin"]
    reply = gateway.call("PullArtifacts", wire.encode((1, 7)), access=access)
    path = wire.decode(reply).text(1).removeprefix(URL)
    opened = pathlib.Path(f"/proc/{gateway.process.pid}/fd")
    before = len(list(opened.iterdir()))
    for _ in range(40):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(gateway.sockets / "http.sock"))
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
    for _ in range(20):
        _until(lambda: gateway.ask("GET", path)[0] == 200)
    _until(lambda: len(list(opened.iterdir())) <= before + 2)


def test_without_the_agent_a_download_says_so(gateway, tokens):
    access, _ = tokens["admin"]
    gateway.agent.unlink(missing_ok=True)
    reply = gateway.call("PullArtifacts", wire.encode((1, 7)), access=access)
    status, _, text = gateway.ask("GET", wire.decode(reply).text(1).removeprefix(URL))
    assert status == 503
    assert b"agent" in text


def test_a_killed_gateway_is_back_with_its_tokens_and_knows_whose_run_it_was(
    superlink, gateway, tokens
):
    access, _ = tokens["submitter"]
    superlink.lose_reply = True  # the run is there, its answer is not
    refused(gateway, "StartRun", START, access=access)
    run = max(superlink.runs)
    gateway.stop(signal.SIGKILL)
    gateway.start()
    gateway.call("ListRuns", access=access)

    def mine():
        try:
            gateway.call("StopRun", wire.encode((1, run)), access=access)
        except Refusal:
            return False
        return True

    _until(mine, 90)
    assert superlink.runs[run].sub_status == "stopped"


def test_sockets_are_for_the_gateways_group_alone(gateway):
    for path in gateway.sockets.iterdir():
        assert not path.stat().st_mode & 0o007


def test_the_log_has_no_secret(gateway, tokens):
    said = gateway.log()
    for pair in tokens.values():
        for secret in pair:
            assert secret not in said
    assert PASSWORD not in said


@pytest.mark.long
def test_its_memory_stays_small_under_ten_thousand_wrong_passwords(gateway):
    def resident_mib():
        status = pathlib.Path(f"/proc/{gateway.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    for number in range(10_000):
        _sign_in_status(gateway, f"guess {number:0>10}", f"198.18.{number % 200}.1")
    assert resident_mib() < 100
    gateway.sign_in("viewer")
