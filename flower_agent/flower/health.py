"""Does it answer: TCP, TLS as Flower would dial it, and the gRPC health service.

With `control_client` the only import of grpc. Measured with Flower 1.25 and 1.42: a handshake
succeeds on any TLS port, so ALPN tells gRPC apart; gRPC takes any certificate of the
given file as an anchor, never a bare CN, and so does the probe. Health protocol: grpc/grpc
doc/health-checking.md; SERVING is enum value 1. Flower answers SERVING while its process lives.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import socket
import ssl
import time
from collections.abc import Iterator

import grpc

from flower_agent.flower import wire
from flower_agent.model import errors
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError, EndpointError

ALPN_GRPC = ("h2",)
"""What a gRPC server must select."""

ALPN_HTTP = ("h2", "http/1.1")
"""What is offered to a Flower that speaks HTTP (1.37 and later); it may select none of it."""

OPENED_S = 0.2
"""A listener on this machine takes a connection at once, or its queue is full."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A list of all nodes of a large federation outgrows gRPC's own 4 MiB."""

_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = 1
_CONTEXTS = 16
"""TLS contexts kept; a hostile OneGate could hand over another CA each cycle."""

_UNTIMELY = {9, 10}
_WRONG_NAME = {62, 64}
"""OpenSSL's X509_V_ERR_…: not yet valid and expired; another host name or IP address."""

_PLAINTEXT = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}
"""OpenSSL's reasons when the other side's first bytes are no TLS record."""


@dataclasses.dataclass(frozen=True, slots=True)
class TlsPeer:
    """The server of a handshake whose certificate chains to the CA and contains the host."""

    fingerprint: str
    """Hex SHA-256 of the leaf certificate."""

    not_after: datetime.datetime
    """End of the leaf certificate."""


def opened(address: Address) -> bool:
    """Return whether something on this machine listens at `address`; a cheap check."""
    try:
        socket.create_connection((address.host, address.port), OPENED_S).close()
    except OSError:
        return False
    return True


class Channel:
    """One gRPC channel, made by its first call and anew after a failure. For one thread at a time.

    Close it soon: gRPC waits longer and longer before it connects again (up to two minutes), where
    a new channel does so at once; and an open one keeps gRPC's threads awake, ten times a second.
    """

    def __init__(
        self, address: Address, ca_pem: bytes | None = None, *, server_hostname: str | None = None
    ) -> None:
        self._address = address
        self._ca_pem = ca_pem
        self._options: list[tuple[str, int | str]] = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ]
        if server_hostname is not None:
            self._options.append(("grpc.ssl_target_name_override", server_hostname))
        self._channel: grpc.Channel | None = None

    def call(self, method: str, body: bytes, timeout_s: float) -> bytes:
        """Call ``/package.Service/Method`` with raw bytes. Raises grpc.RpcError."""
        remote = self._open().unary_unary(
            method, request_serializer=bytes, response_deserializer=bytes
        )
        try:
            reply: bytes = remote(body, timeout=timeout_s)
        except grpc.RpcError:
            self.close()
            raise
        return reply

    def stream(self, method: str, body: bytes, timeout_s: float) -> Iterator[bytes]:
        """Call a method whose responses are a stream. Raises grpc.RpcError, as at its deadline."""
        remote = self._open().unary_stream(
            method, request_serializer=bytes, response_deserializer=bytes
        )
        yield from remote(body, timeout=timeout_s)

    def close(self) -> None:
        """End the connection; another call would make a new one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _open(self) -> grpc.Channel:
        if self._channel is None:
            target = str(self._address)
            if self._ca_pem is None:
                self._channel = grpc.insecure_channel(target, self._options)
            else:
                credentials = grpc.ssl_channel_credentials(self._ca_pem)
                self._channel = grpc.secure_channel(target, credentials, self._options)
        return self._channel


class Prober:
    """Probes endpoints; keeps TLS contexts between cycles, and no connection.

    Every failure is an AgentError that may pass by itself (retryable) and names the address.
    Resolving a name has the resolver's own time limit on top of `timeout_s`.
    """

    def __init__(self) -> None:
        self._contexts: dict[tuple[str | None, tuple[str, ...]], ssl.SSLContext] = {}
        self._warm = False
        self.health_s: float | None = None
        """How long the last health service that served took to say so."""

    def warm(self) -> None:
        """Load what the first probe would load: gRPC and Python leave a part until its first use.

        Cheap from the second time on.
        """
        if not self._warm:
            grpc.insecure_channel("127.0.0.1:1").close()  # it connects at its first call only
            ssl.cert_time_to_seconds("Jan  1 00:00:00 1970 GMT")
        self._warm = True

    def probe_tls(
        self,
        address: Address,
        ca_pem: str | None,
        *,
        timeout_s: float,
        server_hostname: str | None = None,
        alpn: tuple[str, ...] = ALPN_GRPC,
    ) -> TlsPeer:
        """Make a TLS handshake like Flower, and close the connection.

        Trusts `ca_pem`, or the system's store for None; wants a certificate for
        `server_hostname`, or for the dialled host. Raises AgentError ``endpoint.…``.
        """
        with self.dial_tls(
            address, ca_pem, timeout_s=timeout_s, server_hostname=server_hostname, alpn=alpn
        ) as secured:
            leaf = secured.getpeercert(binary_form=True) or b""
            ends = ssl.cert_time_to_seconds(str((secured.getpeercert() or {})["notAfter"]))
        return TlsPeer(
            hashlib.sha256(leaf).hexdigest(),
            datetime.datetime.fromtimestamp(ends, datetime.UTC),
        )

    @contextlib.contextmanager
    def dial_tls(
        self,
        address: Address,
        ca_pem: str | None,
        *,
        timeout_s: float,
        server_hostname: str | None = None,
        alpn: tuple[str, ...] = ALPN_GRPC,
    ) -> Iterator[ssl.SSLSocket]:
        """Give a verified connection for the time of a ``with``. Fails as `probe_tls` does."""
        deadline = time.monotonic() + timeout_s
        context = self._context(ca_pem, alpn)
        name = server_hostname or address.host
        with connect(address, timeout_s) as raw:
            raw.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                secured = context.wrap_socket(raw, server_hostname=name)
            except OSError as error:
                raise _handshake_error(address, name, error) from error
            with secured:
                if alpn == ALPN_GRPC and secured.selected_alpn_protocol() != ALPN_GRPC[0]:
                    raise EndpointError(
                        "endpoint.not_flower",
                        f"{address} speaks TLS but not gRPC (no ALPN h2)",
                        retryable=True,
                    )
                yield secured

    def probe_tcp(self, address: Address, timeout_s: float) -> None:
        """Connect and close: the only test without TLS."""
        connect(address, timeout_s).close()

    def probe_serving(self, address: Address, timeout_s: float) -> None:
        """Ask the standard gRPC health service whether it serves.

        Sends an empty request (the whole server). Raises AgentError ``health.not_serving``, at
        once when nothing listens.
        """
        begun = time.monotonic()
        deadline = begun + timeout_s
        try:
            self.probe_tcp(address, timeout_s)  # refused ten times as fast as a gRPC channel
            left_s = max(deadline - time.monotonic(), 0.001)
            with contextlib.closing(Channel(address)) as channel:
                reply = channel.call(_CHECK, b"", left_s)
            status = wire.decode(reply).integer(1)
        except AgentError as error:
            reason = error.finding.message
        except grpc.RpcError as error:
            failed, words = rpc_status(error)
            reason = f"{address} does not answer the health check ({failed.name}: {words})"
        except ValueError as error:
            reason = f"{address} gave an answer that is not a health status ({error})"
        else:
            if status == _SERVING:
                self.health_s = time.monotonic() - begun
                return
            reason = f"{address} answered health status {status}"
        raise AgentError("health.not_serving", reason, retryable=True)

    def _context(self, ca_pem: str | None, alpn: tuple[str, ...]) -> ssl.SSLContext:
        key = (ca_pem, alpn)
        if key not in self._contexts:
            if len(self._contexts) >= _CONTEXTS:
                self._contexts.clear()
            self._contexts[key] = _new_context(ca_pem, alpn)
        return self._contexts[key]


def connect(address: Address, timeout_s: float) -> socket.socket:
    """Return a TCP connection. Raises AgentError ``endpoint.…``."""
    try:
        return socket.create_connection((address.host, address.port), timeout_s)
    except ConnectionRefusedError as error:
        code, reason = "endpoint.refused", f"Nothing listens at {address}"
        cause: OSError = error
    except TimeoutError as error:
        code, reason = "endpoint.timeout", f"{address} does not answer within {timeout_s:g} s"
        cause = error
    except socket.gaierror as error:
        code = "endpoint.unknown_host"
        reason = f"The name {address.host} cannot be resolved ({error.strerror})"
        cause = error
    except OSError as error:
        code, reason = "endpoint.timeout", f"{address} cannot be reached ({error.strerror})"
        cause = error
    raise errors.kind(code)(code, reason, retryable=True) from cause


def rpc_status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Return the status of a failed call and the server's words."""
    if not isinstance(error, grpc.Call):
        return grpc.StatusCode.UNKNOWN, str(error)
    return error.code(), str(error.details() or "")


def _new_context(ca_pem: str | None, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Return a client context that verifies like gRPC, whatever Python's defaults become."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(list(alpn))
    if ca_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise EndpointError(
            "endpoint.untrusted", f"The trusted CA is not a PEM certificate ({error})"
        ) from error
    return context


def _handshake_error(address: Address, name: str, error: OSError) -> AgentError:
    """Translate what `ssl` raises; the reasons are OpenSSL's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words = error.verify_message
        if error.verify_code in _WRONG_NAME:
            code, reason = "endpoint.wrong_name", f"does not contain {name}"
        elif error.verify_code in _UNTIMELY:
            now = datetime.datetime.now(datetime.UTC)
            code, reason = "endpoint.expired", f"is not valid at {now:%Y-%m-%dT%H:%M:%SZ}"
        else:
            code, reason = "endpoint.untrusted", "was not issued by the trusted CA"
        message = f"The certificate at {address} {reason} ({words})"
    elif isinstance(error, TimeoutError):
        code, message = (
            "endpoint.timeout",
            f"{address} accepts connections but does not answer a TLS handshake",
        )
    elif isinstance(error, ssl.SSLError) and error.reason in _PLAINTEXT:
        code, message = "endpoint.plaintext", f"{address} does not speak TLS"
    else:
        words = getattr(error, "reason", None) or error.strerror or type(error).__name__
        code, message = "endpoint.not_flower", f"{address} refuses a TLS handshake ({words})"
    return errors.kind(code)(code, message, retryable=True)
