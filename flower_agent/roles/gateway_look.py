"""Whether a gateway answers: behind its sockets, and in front at HAProxy's port.

A process that hangs still has its sockets, so each must say something. HTTP/1.1: RFC 9112. A server
of HTTP/2 speaks first, with its SETTINGS (RFC 9113, 3.4).
"""

import dataclasses
import socket

from flower_agent.model.address import Address, is_any
from flower_agent.model.errors import AgentError

TIMEOUT_S = 3.0

_HELLO = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayQuestion:
    """Which gateway is looked at."""

    sockets: str
    """The directory of its sockets."""

    listen: Address
    """HAProxy's address in front of it."""

    grpc: bool
    """It speaks gRPC to the clients of its SuperLink's version."""


def look(question: GatewayQuestion) -> None:
    """Raise AgentError ``gateway.down`` unless the gateway answers."""
    _ask(f"{question.sockets}/http.sock", _HELLO, b"HTTP/1.")
    if question.grpc:
        _ask(f"{question.sockets}/grpc.sock", _PREFACE, b"\0")
    listen, host = question.listen, question.listen.host
    if is_any(host):
        host = "::1" if ":" in host else "127.0.0.1"
    try:
        socket.create_connection((host, listen.port), TIMEOUT_S).close()
    except OSError as error:
        message = f"HAProxy does not listen at {listen} for the gateway ({_words(error)})"
        raise AgentError("gateway.down", message, retryable=True) from error


def _ask(place: str, words: bytes, begin: bytes) -> None:
    """Raise AgentError unless whoever listens at `place` begins an answer so."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
            connected.settimeout(TIMEOUT_S)
            connected.connect(place)
            connected.sendall(words)
            answer = connected.recv(len(begin))
    except OSError as error:
        message = f"the gateway does not answer at {place} ({_words(error)})"
        raise AgentError("gateway.down", message, retryable=True) from error
    if answer != begin[: len(answer)] or not answer:
        message = f"the gateway does not answer at {place} (it hangs up)"
        raise AgentError("gateway.down", message, retryable=True)


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
