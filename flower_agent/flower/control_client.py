"""Flower's Control API: the edge that speaks it. With `health` the only import of grpc.

Up to 1.36 it is gRPC, ``/flwr.proto.Control/ListNodes``; from 1.37 the same bytes go by HTTP,
``POST /v1/control/list-nodes``. Open-source Flower authenticates neither.
"""

import contextlib
import http
import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import grpc

from flower_agent.config.flower_versions import Transport
from flower_agent.flower import control_messages, health, wire
from flower_agent.model.address import Address
from flower_agent.model.errors import (
    AgentError,
    ControlDatabaseError,
    ControlRefusedError,
    ControlUnavailableError,
)

T = TypeVar("T")

_IN_USE = "Public key already in use"
"""The words of every version from 1.23 to 1.42."""

_WORDS_MAX = 400
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Answers that a repeated request would get again; others may pass."""

_DATABASE = re.compile(
    "database or disk is full|unable to open database file|attempt to write a readonly database|"
    "disk I/O error|database disk image is malformed|file is not a database"
)
"""SQLite's messages about an unusable file."""


class Control:
    """The Control API of one SuperLink; `ca_pem` None speaks without TLS.

    Close it soon; see `health.Channel`. For one thread at a time.
    `server_hostname` is what the certificate must name where it does not name the dialled host.
    Failures are AgentErrors ``control.unavailable`` and ``control.database``, which may pass, and
    ``control.refused``.
    """

    def __init__(
        self,
        address: Address,
        transport: Transport,
        ca_pem: bytes | None,
        *,
        server_hostname: str | None = None,
    ) -> None:
        self._address = address
        self._transport = transport
        self._ca_pem = ca_pem
        self._server_hostname = server_hostname
        self._channel = health.Channel(address, ca_pem, server_hostname=server_hostname)
        self._prober = health.Prober()

    def list_nodes(self, timeout_s: float) -> tuple[control_messages.NodeInfo, ...]:
        """Return the nodes; answering at all proves that the SuperLink and its database work.

        Each call is one INFO line in the SuperLink's log.
        """
        return self._decoded(control_messages.decode_nodes, self.call("ListNodes", b"", timeout_s))

    def register_node(self, public_key: bytes, timeout_s: float) -> str | None:
        """Register a node's public key (PEM) and return its id; None when it is known already.

        A key that was unregistered is known, too, and never accepted again.
        """
        body = control_messages.encode_register_node(public_key)
        try:
            reply = self.call("RegisterNode", body, timeout_s)
        except ControlRefusedError as error:
            if _IN_USE in error.finding.message:
                return None
            raise
        return str(self._decoded(wire.decode, reply).integer(1))

    def unregister_node(self, node_id: str, timeout_s: float) -> None:
        """Unregister a node, for ever; an unknown one is refused."""
        self.call("UnregisterNode", control_messages.encode_unregister_node(node_id), timeout_s)

    def list_runs(
        self, timeout_s: float, *, run_id: str | None = None, limit: int | None = None
    ) -> tuple[control_messages.RunInfo, ...]:
        """Return the runs, oldest first, or the one that is asked for; an unknown one is refused.

        Without `limit` recent Flowers leave out all but the newest 20.
        """
        body = control_messages.encode_list_runs(run_id=run_id, limit=limit)
        return self._decoded(control_messages.decode_runs, self.call("ListRuns", body, timeout_s))

    def start_run(
        self,
        bundle: bytes,
        overrides: Iterable[tuple[str, control_messages.Scalar]],
        federation: str,
        timeout_s: float,
    ) -> str:
        """Submit an app bundle and return the run's id. Never made twice by itself."""
        body = control_messages.encode_start_run(bundle, overrides, federation)
        reply = self._decoded(wire.decode, self.call("StartRun", body, timeout_s))
        if not reply.integer(1):  # what Flower answers to a bundle that is too large
            raise ControlRefusedError(
                "control.refused", "The SuperLink refused StartRun without a reason"
            )
        return str(reply.integer(1))

    def stream_logs(
        self, run_id: str, after: float, timeout_s: float
    ) -> Iterator[control_messages.Log]:
        """Yield what a run's ServerApp wrote after a moment, until the run or `timeout_s` ends."""
        body = control_messages.encode_stream_logs(run_id, after)
        frames = self._frames_grpc if self._transport is Transport.GRPC else self._frames_http
        for frame in frames("StreamLogs", body, timeout_s):
            yield self._decoded(control_messages.decode_log, frame)

    def stop_run(self, run_id: str, timeout_s: float) -> None:
        """Stop a run. A finished or unknown one is refused."""
        reply = self.call("StopRun", control_messages.encode_stop_run(run_id), timeout_s)
        if not self._decoded(wire.decode, reply).integer(1):
            raise ControlRefusedError("control.refused", f"The SuperLink did not stop run {run_id}")

    def call(self, method: str, body: bytes, timeout_s: float) -> bytes:
        """Send one request of the Control service and return its response, both as bytes."""
        if self._transport is Transport.GRPC:
            return self._call_grpc(method, body, timeout_s)
        return self._call_http(method, body, timeout_s)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def _call_grpc(self, method: str, body: bytes, timeout_s: float) -> bytes:
        try:
            path = f"/flwr.proto.Control/{method}"
            return self._channel.call(path, body, timeout_s)
        except grpc.RpcError as error:
            code, details = health.rpc_status(error)
            words = f"{code.name}: {_words(details)}"
            raise self._failure(method, words, refused=code in _REFUSALS) from error

    def _frames_grpc(self, method: str, body: bytes, timeout_s: float) -> Iterator[bytes]:
        try:
            yield from self._channel.stream(f"/flwr.proto.Control/{method}", body, timeout_s)
        except grpc.RpcError as error:
            code, details = health.rpc_status(error)
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return
            self._channel.close()
            words = f"{code.name}: {_words(details)}"
            raise self._failure(method, words, refused=code in _REFUSALS) from error

    def _frames_http(self, method: str, body: bytes, timeout_s: float) -> Iterator[bytes]:
        """Yield frames: a length of four bytes, big end first, and so many bytes."""
        end = time.monotonic() + timeout_s
        with self._posting(method, body, timeout_s) as response:
            try:
                while time.monotonic() < end and len(head := response.read(4)) == 4:  # noqa: PLR2004
                    length = int.from_bytes(head, "big")
                    if length > health.MAX_MESSAGE_BYTES:
                        raise http.client.HTTPException("the answer is too long")
                    yield response.read(length)
            except TimeoutError:
                return

    def _call_http(self, method: str, body: bytes, timeout_s: float) -> bytes:
        with self._posting(method, body, timeout_s) as response:
            reply = response.read(health.MAX_MESSAGE_BYTES + 1)
            if len(reply) > health.MAX_MESSAGE_BYTES:
                raise http.client.HTTPException("the answer is too long")
        return reply

    @contextlib.contextmanager
    def _posting(
        self, method: str, body: bytes, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Give the answer to a request, once it is 200; translate what goes wrong."""
        path = "/v1/control/" + re.sub(r"(?<=.)(?=[A-Z])", "-", method).lower()
        try:
            with self._post(path, body, timeout_s) as response:
                if response.status == http.HTTPStatus.OK:
                    yield response
                    return
                reply = response.read(health.MAX_MESSAGE_BYTES)
        except AgentError as error:
            finding = error.finding
            raise self._failure(method, finding.message, hint=finding.hint) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(method, str(error) or type(error).__name__) from error
        words = f"HTTP {response.status}: {_words(reply.decode('utf-8', 'replace'))}"
        raise self._failure(method, words, refused=400 <= response.status < 500)  # noqa: PLR2004

    @contextlib.contextmanager
    def _post(self, path: str, body: bytes, timeout_s: float) -> Iterator[http.client.HTTPResponse]:
        deadline = time.monotonic() + timeout_s
        connection = http.client.HTTPConnection(self._address.host, self._address.port)
        with self._dial(timeout_s) as connected:
            connected.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.sock = connected
            connection.request("POST", path, body, {"Content-Type": "application/protobuf"})
            with connection.getresponse() as response:
                yield response

    def _dial(self, timeout_s: float) -> contextlib.AbstractContextManager[socket.socket]:
        if self._ca_pem is None:
            return health.connect(self._address, timeout_s)
        return self._prober.dial_tls(
            self._address,
            self._ca_pem.decode("ascii", "replace"),
            timeout_s=timeout_s,
            server_hostname=self._server_hostname,
            alpn=("http/1.1",),
        )

    def _decoded(self, decode: Callable[[bytes], T], reply: bytes) -> T:
        try:
            return decode(reply)
        except ValueError as error:
            raise ControlUnavailableError(
                "control.unavailable",
                f"{self._address} gave an answer that is not from Flower's Control API ({error})",
                retryable=True,
            ) from error

    def _failure(
        self, method: str, words: str, *, refused: bool = False, hint: str = ""
    ) -> AgentError:
        if refused:
            return ControlRefusedError(
                "control.refused", f"The SuperLink refused {method}: {words}"
            )
        if broken := _DATABASE.search(words):
            message = f"The SuperLink cannot use its database: {broken[0]}"
            return ControlDatabaseError("control.database", message, retryable=True)
        return ControlUnavailableError(
            "control.unavailable",
            f"The Control API at {self._address} does not answer {method}: {words}",
            hint,
            retryable=True,
        )


def _words(text: str) -> str:
    """Return what a person should read of an error, in one line; newer Flowers wrap it in JSON."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        parts = (answer.get(key) for key in ("public_message", "public_details", "detail", "extra"))
        text = "; ".join(part for part in parts if isinstance(part, str)) or text
    return " ".join(text.split())[:_WORDS_MAX]
