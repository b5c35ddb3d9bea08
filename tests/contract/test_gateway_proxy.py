"""The real HAProxy in front of a small gateway: what goes where, who is believed, what may last."""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import http.client
import http.server
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time

import grpc
import pytest

from flower_agent.model.address import Address
from flower_agent.proxy import gateway_frontend
from flower_agent.proxy.gateway_frontend import GatewayFrontend
from flower_agent.proxy.haproxy_config import ProxySpec
from flower_agent.tls import own_ca

HOST = "127.0.0.1"
SHORT_S, QUIET_S = 1, 2.5
STREAM = "/v1/control/stream-logs"


class Http(http.server.BaseHTTPRequestHandler):
    """Answers with its path and what it was told of the client; a slow path is silent first."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        said = [value for name, value in self.headers.items() if "forward" in name.lower()]
        body = repr([self.path, *said]).encode()
        self.send_header("Content-Length", str(len(body)))
        if "stream" in self.path:
            self.end_headers()
            self.wfile.flush()
        if "stream" in self.path or "slow" in self.path:
            time.sleep(QUIET_S)
        if "stream" not in self.path:
            self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """HTTP at a Unix socket, as uvicorn serves it."""

    daemon_threads = True

    def handle_error(self, *_):
        pass


def forwarded(context):
    metadata = context.invocation_metadata()
    return [v for k, v in metadata if k == "x-forwarded-for"]


class Grpc(grpc.GenericRpcHandler):
    """Streams two messages; the second comes late."""

    def service(self, details):
        def behave(request, context):
            yield repr(forwarded(context)).encode()
            if details.method.endswith("StreamLogs"):
                time.sleep(QUIET_S)
            yield request

        return grpc.unary_stream_rpc_method_handler(behave)


def free_port():
    with socket.create_server((HOST, 0)) as taken:
        return taken.getsockname()[1]


class Site:
    """A gateway's two sockets, and HAProxy in front of them."""

    def __init__(self, directory, haproxy):
        now = datetime.datetime.now(datetime.UTC)
        self.directory, self.haproxy = directory, haproxy
        self.ca = own_ca.make_ca(now)
        leaf = own_ca.make_leaf(self.ca, {HOST}, now)
        (directory / "gateway.pem").write_text(leaf.certificate_pem + leaf.key.reveal())
        self.frontend = GatewayFrontend(
            listen=Address(HOST, free_port()),
            certificate_file=str(directory / "gateway.pem"),
            sockets=str(directory),
            client_s=SHORT_S,
            head_s=SHORT_S,
            server_s=SHORT_S,
        )
        self.port = self.frontend.listen.port
        self.http = self.grpc = self.process = None
        self.fleet = None

    def serve(self):
        """Start the gateway, as a restart does: the sockets are new ones."""
        (self.directory / "http.sock").unlink(missing_ok=True)
        self.http = Server(str(self.directory / "http.sock"), Http)
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        self.grpc = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        self.grpc.add_generic_rpc_handlers((Grpc(),))
        self.grpc.add_insecure_port(f"unix:{self.directory}/grpc.sock")
        self.grpc.start()

    def end(self):
        if self.http is not None:
            self.http.shutdown()
            self.http.server_close()
            self.grpc.stop(None).wait()
        self.http = self.grpc = None

    def start(self):
        config = self.directory / "haproxy.cfg"
        config.write_text(gateway_frontend.config(self.fleet, self.frontend))
        command = [self.haproxy, "-W", "-S", "unix@master.sock", "-f", config]
        with (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.directory, stderr=log)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection((HOST, self.port), 1).close()
                return
            time.sleep(0.02)
        raise AssertionError((self.directory / "log").read_text())

    def dial(self, *alpn):
        context = ssl.create_default_context(cadata=self.ca.certificate_pem)
        context.set_alpn_protocols(alpn or ("http/1.1",))
        raw = socket.create_connection((HOST, self.port), 10)
        return context.wrap_socket(raw, server_hostname=HOST)

    def ask(self, path, headers=None):
        with self.dial() as secured:
            connection = http.client.HTTPConnection(HOST)
            connection.sock = secured
            connection.request("POST", path, b"x", headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def call(self, method, metadata=()):
        """Return the two messages of a stream of gRPC."""
        root = grpc.ssl_channel_credentials(self.ca.certificate_pem.encode())
        options = [("grpc.enable_http_proxy", 0)]
        with grpc.secure_channel(f"{HOST}:{self.port}", root, options) as channel:
            stream = channel.unary_stream(f"/flwr.proto.Control/{method}")
            return [part.decode() for part in stream(b"request", timeout=20, metadata=metadata)]

    def close(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
        self.end()


@pytest.fixture
def site(tmp_path, missing):
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    made = Site(tmp_path, haproxy or missing("no haproxy: apt-get install haproxy"))
    yield made
    made.close()


@pytest.fixture
def served(site):
    site.serve()
    site.start()
    return site


def test_grpc_and_http_go_to_a_socket_each_at_one_port(served):
    assert served.call("ListRuns") == ["['127.0.0.1']", "request"]
    status, told = served.ask("/v1/control/list-runs")
    assert (status, told) == (200, "['/v1/control/list-runs', '127.0.0.1']")
    with served.dial("h2", "http/1.1") as secured:
        assert secured.selected_alpn_protocol() == "h2"


def test_an_address_that_a_client_invents_is_not_believed(served):
    forged = {
        "X-Forwarded-For": "6.6.6.6",
        "x-forwarded-FOR": "7.7.7.7",
        "Forwarded": "for=6.6.6.6",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example.org",
    }
    assert served.ask("/x", forged) == (200, "['/x', '127.0.0.1']")
    metadata = (("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "7.7.7.7"))
    assert served.call("ListRuns", metadata)[0] == "['127.0.0.1']"


def test_a_silent_stream_lives_on_and_a_silent_answer_does_not(served):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        stream = pool.submit(served.ask, STREAM)
        logs = pool.submit(served.call, "StreamLogs")
        slow = pool.submit(served.ask, "/slow")
        assert stream.result() == (200, f"['{STREAM}', '127.0.0.1']")
        assert logs.result() == ["['127.0.0.1']", "request"]
        assert slow.result()[0] == 504


def test_a_request_that_never_ends_its_head_is_hung_up_on(served):
    with served.dial() as slow:
        slow.settimeout(10)
        slow.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        began = time.monotonic()
        assert slow.recv(1) == b""
        assert time.monotonic() - began < SHORT_S + 3
    assert served.ask("/x")[0] == 200


def test_a_gateway_that_is_away_is_a_503_and_comes_back_by_itself(served):
    served.end()
    assert served.ask("/x")[0] == 503
    with pytest.raises(grpc.RpcError) as refused:
        served.call("ListRuns")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    served.serve()
    assert served.ask("/x")[0] == 200
    assert served.call("ListRuns")[1] == "request"


def test_a_call_over_the_limit_of_connections_is_a_503(site):
    site.frontend = dataclasses.replace(site.frontend, max_connections=8, client_s=30)
    site.serve()
    site.start()
    with contextlib.ExitStack() as held:
        for _ in range(9):
            held.enter_context(site.dial())
        assert site.ask("/x")[0] == 503
    time.sleep(0.2)
    assert site.ask("/x")[0] == 200


@pytest.mark.parametrize("listen", [HOST, "0.0.0.0", "::", "::1"])  # noqa: S104
@pytest.mark.parametrize("fleet", [True, False])
def test_haproxy_takes_the_text(site, listen, fleet):
    spec = ProxySpec(fleet=Address(HOST, 38000), superlink=Address(HOST, 39093))
    frontend = dataclasses.replace(site.frontend, listen=Address(listen, 39443))
    config = site.directory / "haproxy.cfg"
    config.write_text(gateway_frontend.config(spec if fleet else None, frontend))
    done = subprocess.run(
        [site.haproxy, "-c", "-f", config], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_ipv4_client_at_an_address_of_both_families_has_its_own_address(site):
    site.frontend = dataclasses.replace(site.frontend, listen=Address("::", site.port))
    site.serve()
    site.start()
    assert site.ask("/x") == (200, "['/x', '127.0.0.1']")


def test_a_fleet_beside_it_is_served_while_the_gateway_is_away(site):
    fleet, behind = free_port(), http.server.ThreadingHTTPServer((HOST, 0), Http)
    behind.daemon_threads = True
    threading.Thread(target=behind.serve_forever, args=(0.05,), daemon=True).start()
    site.fleet = ProxySpec(
        fleet=Address(HOST, fleet), superlink=Address(HOST, behind.server_address[1])
    )
    site.start()
    with contextlib.closing(http.client.HTTPConnection(HOST, fleet, timeout=10)) as connection:
        connection.request("POST", "/v1/fleet/get-run", b"x")
        assert connection.getresponse().status == 200
    assert site.ask("/x")[0] == 503
    behind.shutdown()
    behind.server_close()
