"""Servers on loopback, sound and unsound: TLS, plaintext, silent; ports chosen by the kernel."""

import contextlib
import dataclasses
import datetime
import functools
import http.server
import ipaddress
import pathlib
import socket
import ssl
import tempfile
import threading
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from flower_agent.model.address import Address

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
LOOPBACK = "127.0.0.1"
END = datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A certificate with its key and what it was issued by, which a server sends along."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: str = ""

    @property
    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self):
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()

    @property
    def fingerprint(self):
        return self.certificate.fingerprint(hashes.SHA256()).hex()


def issue(name, by=None, *, hosts=(), start=NOW - DAY, end=END):
    """Issue a CA (no `hosts` asked for) or a leaf; `hosts` None makes a leaf without SAN."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    is_ca = hosts == ()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False
        )
    signed = builder.sign(by.key if by else key, hashes.SHA256())
    return Certificate(signed, key, (by.pem + by.above) if by and by.above else "")


@functools.cache
def authority():
    return issue("federation CA")


@functools.cache
def loopback_leaf():
    return issue("superlink", authority(), hosts=(LOOPBACK,))


@contextlib.contextmanager
def tls_server(leaf, *, alpn=("h2",), handler=None):
    """A TLS server that shakes hands and then lets `handler` have the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        chain = pathlib.Path(folder) / "chain.pem"
        chain.write_text(leaf.pem + leaf.above + leaf.key_pem)
        context.load_cert_chain(chain)
    if alpn:
        context.set_alpn_protocols(list(alpn))

    def serve(connection):
        connection.settimeout(5)
        # A client that does not like the certificate ends the handshake: that is under test.
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as own:
            if handler is not None:
                handler(own)
            own.recv(1)

    with tcp_server(serve) as address:
        yield address


@contextlib.contextmanager
def tcp_server(serve):
    """A server that hands each connection to `serve`, one after the other, until the end."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield Address(LOOPBACK, listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def talkative(words):
    """Return a server's part that says something without being asked, as gRPC without TLS does."""

    def serve(connection):
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            connection.sendall(words)
            while connection.recv(1000):
                pass

    return serve


@contextlib.contextmanager
def silent_server():
    """A listener that nobody serves: the kernel completes connections, no program answers."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield Address(LOOPBACK, listener.getsockname()[1])


@contextlib.contextmanager
def narrow_path(to, limit=1400):
    """A path to `to` that drops every packet of more than `limit` bytes, and what follows it."""
    stop = threading.Event()

    def carry(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if len(data) > limit:
                    stop.wait(30)
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve(connection):
        with socket.create_connection((to.host, to.port)) as far:
            back = threading.Thread(target=carry, args=(far, connection), daemon=True)
            back.start()
            carry(connection, far)
            back.join(5)

    def apart(connection):
        own = connection.dup()
        threading.Thread(target=lambda: served(own), daemon=True).start()

    def served(own):
        with own:
            serve(own)

    with tcp_server(apart) as address:
        try:
            yield address
        finally:
            stop.set()


def closed_port():
    with socket.create_server((LOOPBACK, 0)) as listener:
        return Address(LOOPBACK, listener.getsockname()[1])


@contextlib.contextmanager
def grpc_server(*handlers, leaf=None, port=0, add=None):
    """A real gRPC server with TLS when there is a `leaf`."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(handlers)
    if add is not None:
        add(server)
    if leaf is None:
        port = server.add_insecure_port(f"{LOOPBACK}:{port}")
    else:
        pair = (leaf.key_pem.encode(), (leaf.pem + leaf.above).encode())
        credentials = grpc.ssl_server_credentials([pair])
        port = server.add_secure_port(f"{LOOPBACK}:{port}", credentials)
    server.start()
    try:
        yield Address(LOOPBACK, port)
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def health_server(status="SERVING", port=0):
    """The real health service of gRPC's own package, as Flower runs it."""
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(status))

    def add(server):
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)

    with grpc_server(add=add, port=port) as address:
        yield address


@contextlib.contextmanager
def http_server(respond, leaf=None):
    """An HTTP server, with TLS when there is a `leaf`; `respond(path, type, body)` answers POST."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, reply = respond(self.path, self.headers["Content-Type"], body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            """Say nothing on stderr."""

    def handle(connection):
        Handler(connection, (LOOPBACK, 0), None)

    def serve(connection):
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            handle(connection)

    how = tcp_server(serve) if leaf is None else tls_server(leaf, alpn=(), handler=handle)
    with how as address:
        yield address


def _name(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
