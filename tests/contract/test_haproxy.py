"""The real HAProxy with the agent's configuration: what it takes, passes, refuses and survives."""

import contextlib
import datetime
import http.client
import http.server
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from flower_agent.config import flower_versions
from flower_agent.flower import command_line
from flower_agent.flower.health import Prober
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError
from flower_agent.paths import Paths
from flower_agent.proxy import fleet_proxy
from flower_agent.proxy.fleet_proxy import FleetProxy
from flower_agent.proxy.haproxy_config import NAME, ProxySpec
from flower_agent.proxy.proxy_files import ProxyFiles, Shown
from flower_agent.tls import own_ca, trust
from flower_agent.tls.store import Keyring

HOSTS = frozenset({NAME, "127.0.0.1"})
FLEET_PATH = "/v1/fleet/pull-messages"
SLOW_S = 1.5
REFUSED = [
    ("POST", "/v1/control/list-nodes"),
    ("POST", "/v1/runtime/acquire-task"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/health"),
    ("GET", FLEET_PATH),
    ("PUT", FLEET_PATH),
    ("POST", "/v1/fleet/"),
    ("POST", "/v1/fleet/../control/list-nodes"),
    ("POST", "/v1/fleet/%2e%2e/control/list-nodes"),
    ("POST", "//v1/fleet/pull-messages"),
    ("POST", "/v1/fleet/pull-messages/../../control/list-nodes"),
    ("POST", "/v1/fleet/pull-messages%2f..%2f..%2fcontrol%2flist-nodes"),
    ("POST", "http://superlink/v1/control/list-nodes"),
    ("POST", "*"),
    ("CONNECT", "127.0.0.1:22"),
    ("OPTIONS", FLEET_PATH),
]


class SuperLink(http.server.BaseHTTPRequestHandler):
    """Answers every request with its path, and remembers it."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.path)
        if "slow" in self.path:
            time.sleep(SLOW_S)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_):
        pass


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Site:
    """A SuperLink on loopback with a certificate of its own CA, and HAProxy in front of it."""

    def __init__(self, directory, haproxy, runtime=None):
        now = tls_now()
        self.fleet_ca, self.own_ca, self.other_ca = (own_ca.make_ca(now) for _ in range(3))
        self.shown = self.certificate()
        self.haproxy = haproxy
        self.address = Address("127.0.0.1", free_port())
        self.behind = Address("127.0.0.1", free_port())
        self.runtime = runtime and Address("127.0.0.1", free_port())
        self.files = ProxyFiles(directory / "proxy")
        self.directory = directory
        self.server = self.process = None

    def certificate(self):
        return own_ca.make_leaf(self.fleet_ca, HOSTS, tls_now())

    def write(self):
        spec = ProxySpec(fleet=self.address, superlink=self.behind, runtime=self.runtime)
        pair = self.shown
        shown = Shown(pair.certificate_pem, pair.key, self.own_ca.certificate_pem)
        return self.files.write(spec, shown)

    def serve(self, ca=None):
        """Start the SuperLink."""
        leaf = own_ca.make_leaf(ca or self.own_ca, HOSTS, tls_now())
        pem = self.directory / "superlink.pem"
        pem.write_text(leaf.certificate_pem + leaf.key.reveal())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        place = (self.behind.host, self.behind.port)
        self.server = http.server.ThreadingHTTPServer(place, SuperLink)
        self.server.handle_error = lambda *_: None
        self.server.daemon_threads = True
        self.server.seen = []
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def start(self):
        """Start HAProxy as the unit does."""
        self.write()
        command = [self.haproxy, "-W", "-S", "unix@master.sock", "-f", self.files.config]
        with (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.directory, stderr=log)
        self.wait_open()

    def wait_open(self):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection((self.address.host, self.address.port), 1).close()
                return
            time.sleep(0.02)
        raise AssertionError((self.directory / "log").read_text())

    @contextlib.contextmanager
    def dialled(self, address=None):
        context = ssl.create_default_context(cadata=self.fleet_ca.certificate_pem)
        to = address or self.address
        raw = socket.create_connection((to.host, to.port), 10)
        with raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as secured:
            yield secured

    def ask(self, method, path, address=None):
        """Return the status of one request, sent as it stands here."""
        with self.dialled(address) as secured:
            return asked(secured, method, path)[0]

    def shows(self):
        """Return the certificate that HAProxy shows."""
        with self.dialled() as secured:
            return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True))

    def close(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()


def tls_now():
    return datetime.datetime.now(datetime.UTC)


def asked(secured, method, path):
    secured.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    answer = http.client.HTTPResponse(secured, method=method)
    answer.begin()
    return answer.status, answer.read()


@pytest.fixture
def haproxy(missing):
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return found or missing("no haproxy: apt-get install haproxy")


@pytest.fixture
def site(tmp_path, haproxy):
    made = Site(tmp_path, haproxy)
    yield made
    made.close()


@pytest.fixture
def both(tmp_path, haproxy):
    made = Site(tmp_path, haproxy, runtime=True)
    yield made
    made.close()


@pytest.mark.parametrize("fleet", ["127.0.0.1", "0.0.0.0", "::", "::1"])  # noqa: S104
def test_haproxy_takes_the_text(site, fleet):
    site.address = Address(fleet, 38999)
    site.runtime = Address("127.0.0.1", 38998)
    site.write()
    done = subprocess.run(
        [site.haproxy, "-c", "-f", site.files.config], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_fleet_calls_reach_the_superlink_and_nothing_else_does(site):
    site.serve()
    site.start()
    assert site.ask("POST", FLEET_PATH) == 200
    assert site.ask("POST", f"{FLEET_PATH}?x=1") == 200
    answers = {(method, path): site.ask(method, path) for method, path in REFUSED}
    assert {key: status for key, status in answers.items() if status not in (400, 404)} == {}
    assert site.server.seen == [FLEET_PATH, f"{FLEET_PATH}?x=1"]


def test_a_second_request_hidden_in_a_body_is_not_seen(site):
    site.serve()
    site.start()
    hidden = b"POST /v1/control/list-nodes HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    head = f"POST {FLEET_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(hidden)}\r\n"
    for more in ("", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: xchunked\r\n"):
        with site.dialled() as secured, contextlib.suppress(OSError):
            secured.sendall(head.encode() + more.encode() + b"\r\n" + hidden)
            secured.settimeout(2)
            secured.recv(4096)
    assert set(site.server.seen) <= {FLEET_PATH}


def test_appio_elsewhere_passes_appio_alone(both):
    both.serve()
    both.start()
    assert both.ask("POST", "/v1/runtime/acquire-task", both.runtime) == 200
    assert both.ask("POST", FLEET_PATH, both.runtime) == 404
    assert both.ask("POST", "/v1/control/list-nodes", both.runtime) == 404
    assert both.ask("POST", "/v1/runtime/acquire-task") == 404


def test_a_superlink_that_is_not_there_is_a_503(site):
    site.start()
    assert site.ask("POST", FLEET_PATH) == 503
    site.serve()
    assert site.ask("POST", FLEET_PATH) == 200


def test_a_stranger_on_the_superlinks_port_gets_nothing(site):
    site.serve(ca=site.other_ca)
    site.start()
    assert site.ask("POST", FLEET_PATH) == 503
    assert site.server.seen == []


def test_a_renewed_certificate_is_shown_and_what_was_begun_goes_on(site):
    site.serve()
    site.start()
    before, answer = site.shows(), []
    with site.dialled() as held:
        slow = threading.Thread(
            target=lambda: answer.append(asked(held, "POST", f"{FLEET_PATH}-slow"))
        )
        slow.start()
        time.sleep(0.3)
        site.shown = site.certificate()
        assert site.write()
        site.process.send_signal(signal.SIGUSR2)
        end = time.monotonic() + 10
        while site.shows() == before:
            assert time.monotonic() < end, "the new certificate is not shown"
            time.sleep(0.05)
        assert not answer, "the slow call ended before the reload: it proves nothing"
        slow.join(10)
    assert answer[0] == (200, f"{FLEET_PATH}-slow".encode())


# --- the agent's own look through it


def look(site, timeout_s=3.0):
    """Return the code of what the agent finds at the Fleet address; empty when all is well."""
    proxy = FleetProxy(Paths(site.directory), Prober())
    ca_pem = site.fleet_ca.certificate_pem
    try:
        proxy.check(site.address, ca_pem, server_hostname="127.0.0.1", timeout_s=timeout_s)
    except AgentError as error:
        return error.finding.code if error.retryable else f"{error.finding.code}, for ever"
    return ""


def test_a_superlink_that_answers_through_the_proxy_is_well(site):
    site.serve()
    site.start()
    assert look(site) == ""
    assert site.server.seen == [flower_versions.PROBE_PATH]


def test_a_proxy_without_its_superlink_is_no_answer(site):
    site.start()
    assert look(site) == "proxy.no_answer"


def test_a_superlink_that_stands_still_is_no_answer_though_the_proxy_shakes_hands(site):
    with socket.create_server((site.behind.host, site.behind.port)):  # takes, and says nothing
        site.start()
        assert site.shows()
        assert look(site, timeout_s=1.0) == "proxy.no_answer"


def test_where_nothing_listens_the_proxy_is_down(site):
    site.write()
    assert look(site) == "proxy.down"


@pytest.fixture
def keyring(tmp_path):
    """What a SuperLink's agent has in ``tls/`` behind a proxy."""
    made = Keyring(tmp_path / "tls")
    for each in (made, made.loopback):
        wanted = trust.CertificateSpec(source=trust.CertificateSource.OWN, hosts=HOSTS)
        for step in trust.steps(wanted, each.held(wanted, tls_now()), tls_now()):
            each.apply(step, wanted, tls_now())
    return made


def places(site):
    version = flower_versions.parse_version("1.42.0")
    return command_line.superlink_endpoints(
        version, fleet=site.address, control=site.behind, serverappio=site.behind, tls=True
    )


def test_without_haproxy_nothing_is_written_and_the_package_is_named(site, keyring, tmp_path):
    paths = Paths(tmp_path)
    with pytest.raises(AgentError) as caught:
        FleetProxy(paths, Prober(), places=str(tmp_path)).keep(
            places(site), keyring, offers_appio=False
        )
    assert caught.value.finding.code == "proxy.missing"
    assert "apt-get install haproxy" in caught.value.finding.hint
    assert not paths.proxy.exists()


def test_what_the_agent_keeps_is_what_haproxy_takes(site, keyring, tmp_path):
    paths = Paths(tmp_path)
    proxy = FleetProxy(paths, Prober(), places=f"{fleet_proxy.PLACES}:{os.environ['PATH']}")
    proxy.keep(places(site), keyring, offers_appio=True)
    done = subprocess.run(
        [site.haproxy, "-c", "-f", paths.proxy / "haproxy.cfg"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
