"""Whether a connected peer still answers, and to large packets too; tests run beside the loop.

An open connection proves little, so the agent tests the peer every ten seconds. One
failure is no proof: a busy machine may be slow. Two failures in a row, at least fifteen seconds
from the begin of the first, are a proof. This takes at most 27 s.

The sockets of a frozen process prove nothing: its kernel still acknowledges data and accepts
connections. A path that drops large packets passes small ones. So the test sends more than one
packet of this VM can hold, and waits for an answer. With TLS this is a handshake whose ClientHello
has a long list of protocols (RFC 7301; servers select the one they know). Without TLS it is an
HTTP/2 frame of an unknown type, which every server ignores (RFC 9113 4.1), and a PING, or an HTTP
request with a long header.

Behind a proxy neither handshake nor refusal is the peer's: there a call is sent that the proxy
passes, and any answer to it counts. If the peer hangs, the proxy waits longer than this test.

Nothing is believed of the peer here and nothing is told, so its certificate is not judged: `health`
does that before a container starts.
"""

import dataclasses
import functools
import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import Protocol

from flower_agent.background import AT_ONCE, NEVER, Background, Threads
from flower_agent.flower import health
from flower_agent.model.address import Address, is_ip
from flower_agent.model.errors import (
    AgentError,
    EndpointTimeoutError,
    PeerLostError,
    PeerSilentError,
)

LARGE_S = 5.0
AGAIN_S = 8.0
SMALL_S = 5.0
"""Time limits: of a first look, of one that follows a failure, of what a small packet asks."""

USUAL_MTU = 1500
MOST_BYTES = 12 * 1024
"""Servers take a ClientHello of 16 KiB; the largest packet of an Ethernet has 9000 bytes."""

SPARE_BYTES = 2048
_WORD = 250
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_PING, _UNKNOWN, _ACK = 0x6, 0xFA, 0x1
_FRAME_HEAD = 9
_MOST_FRAMES = 64

_NO_CIPHER = bytes((3, 3)) + bytes(range(32)) + bytes((0, 0, 2, 0, 5, 1, 0))
"""The body of a ClientHello with one cipher that no server takes: the answer is a short alert."""


@dataclasses.dataclass(frozen=True, slots=True)
class PeerEndpoint:
    """Whom to ask, and how it speaks."""

    address: Address
    tls: bool
    http: bool
    """HTTP in the place of gRPC."""

    mtu: int = USUAL_MTU
    """The largest packet that this VM may send."""

    call: str = ""
    """Path of the call that counts, where a proxy stands in front of the peer."""


def look(peer: PeerEndpoint, *, doubtful: bool = False) -> None:
    """Send a large packet and wait for an answer; `doubtful` after a failure.

    Raises AgentError ``peer.mute`` when the peer's machine takes connections and its program
    answers nothing, ``peer.mtu`` when it answers small packets alone, ``peer.lost`` when no
    connection is taken. Any answer counts, a refusal and a hang-up, too.
    """
    if doubtful and not answers(peer, small=True, timeout_s=SMALL_S):
        raise _mute(peer)
    if answers(peer, small=False, timeout_s=AGAIN_S if doubtful else LARGE_S):
        return
    if not doubtful:  # the reason is uncertain, so ask again before a report
        raise _mute(peer)
    raise too_large(peer)


def too_large(peer: PeerEndpoint) -> AgentError:
    """Return the error of a peer that answers only small packets."""
    message = (
        f"{peer.address} answers small packets and no large one: on the way there packets of "
        f"{peer.mtu} bytes, which this VM sends, are dropped"
    )
    return PeerSilentError("peer.mtu", message, retryable=True)


def answers(peer: PeerEndpoint, *, small: bool, timeout_s: float) -> bool:
    """Return whether the peer's program answers within `timeout_s`. Raises ``peer.lost``."""
    deadline = time.monotonic() + timeout_s
    try:
        raw = health.connect(peer.address, timeout_s)
    except EndpointTimeoutError as error:
        message = f"not connected to {peer.address}: it no longer accepts connections"
        raise PeerLostError("peer.lost", message, retryable=True) from error
    except AgentError:
        return True  # somebody says no, or nobody knows the name: no sign of a mute peer
    with raw:
        try:
            raw.settimeout(max(deadline - time.monotonic(), 0.001))
            if peer.tls and (peer.call or not small):
                length = 0 if small else hello_bytes(peer.mtu)
                name = None if is_ip(peer.address.host) else peer.address.host
                with _context(length).wrap_socket(raw, server_hostname=name) as secured:
                    _await_call(secured, peer, deadline)
            elif small:
                raw.sendall(_small(peer))
                raw.recv(1)
            else:
                raw.sendall(_large(peer))
                _await(raw, peer, deadline)
        except (ConnectionError, ssl.SSLError):
            return True  # it hung up, or speaks otherwise
        except OSError:
            return False  # no time left, or no way there
    return True


def hello_bytes(mtu: int) -> int:
    """Return how long the first flight is: more than one packet can hold."""
    return min(max(mtu, USUAL_MTU) + SPARE_BYTES, MOST_BYTES)


@functools.lru_cache(maxsize=4)
def _context(length: int) -> ssl.SSLContext:
    """Return a context whose ClientHello has `length` bytes and some more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # see above
    filling = [f"x-flower-agent-{n:02}".ljust(_WORD, "-") for n in range(-(-length // _WORD))]
    context.set_alpn_protocols([*health.ALPN_HTTP, *filling])
    return context


def _small(peer: PeerEndpoint) -> bytes:
    """Return a first flight of one small packet, to which any server says something."""
    if peer.tls:
        hello = bytes((1, 0, 0, len(_NO_CIPHER))) + _NO_CIPHER
        return bytes((22, 3, 1, 0, len(hello))) + hello
    return _request(peer, 0) if peer.http else _PREFACE


def _large(peer: PeerEndpoint) -> bytes:
    length = hello_bytes(peer.mtu)
    if peer.http:
        return _request(peer, length)
    skipped = length.to_bytes(3) + bytes((_UNKNOWN, 0, 0, 0, 0, 0)) + bytes(length)
    ping = bytes((0, 0, 8, _PING, 0, 0, 0, 0, 0)) + bytes(8)
    return _PREFACE + skipped + ping


def _request(peer: PeerEndpoint, length: int) -> bytes:
    filling = f"X-Filling: {'-' * _WORD}\r\n" * -(-length // _WORD) if length else ""
    asks = f"POST {peer.call}" if peer.call else "HEAD /"
    head = f"{asks} HTTP/1.1\r\nHost: {peer.address}\r\nConnection: close\r\n"
    body = "Content-Length: 0\r\n" if peer.call else ""
    return f"{head}{body}{filling}\r\n".encode()


def _await_call(secured: ssl.SSLSocket, peer: PeerEndpoint, deadline: float) -> None:
    """Wait for an answer to the call that counts, if there is one."""
    if peer.call:
        secured.settimeout(max(deadline - time.monotonic(), 0.001))
        secured.sendall(_request(peer, 0))
        secured.recv(1)


def _await(raw: socket.socket, peer: PeerEndpoint, deadline: float) -> None:
    """Read until the answer to what was sent last; raises OSError while there is none."""
    if peer.http:
        raw.recv(1)
        return
    for _ in range(_MOST_FRAMES):  # its settings, and whatever else comes before
        head = _read(raw, _FRAME_HEAD, deadline)
        length, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
        if kind == _PING and flags & _ACK:
            return
        _read(raw, min(length, MOST_BYTES), deadline)


def _read(raw: socket.socket, length: int, deadline: float) -> bytes:
    found = b""
    while len(found) < length:
        raw.settimeout(max(deadline - time.monotonic(), 0.001))
        more = raw.recv(length - len(found))
        if not more:
            raise ConnectionResetError("the peer closed the connection")
        found += more
    return found


def _mute(peer: PeerEndpoint) -> AgentError:
    message = f"{peer.address} accepts connections but does not answer: its Flower hangs"
    return PeerSilentError("peer.mute", message, retryable=True)


PERIOD_S = (8.0, 10.0)
NEXT_CHECK_S = 4.0
PROVEN_S = 15.0


class Exchange(Protocol):
    """One test, such as `look`."""

    def __call__(self, peer: PeerEndpoint, *, doubtful: bool) -> None:
        """Return if the peer answered. Raises AgentError ``peer.…``."""


class Liveness:
    """One peer at a time; `judge` returns at once.

    A failure, and the end of failures, wake the loop. A good answer waits for the next cycle, so
    that the tests cause no additional cycles.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        *,
        rng: random.Random,
        scale: float = 1.0,
        look: Exchange = look,
    ) -> None:
        self._looks: Background[PeerEndpoint, None] = Background(
            Threads(self._ended),
            "peer-look",
            lambda error, _: NEXT_CHECK_S * scale if _counts(error) else 0.0,
            good_for_s=0.0,
        )
        self._random = rng
        self._wake = wake
        self._exchange = look
        self._news = False
        self._scale = scale
        self._peer: PeerEndpoint | None = None
        self._not_before = AT_ONCE
        self._failing_since: float | None = None
        self._trouble: AgentError | None = None

    def judge(self, peer: PeerEndpoint, now: float) -> AgentError | None:
        """Return ``peer.mute``, ``peer.mtu`` or ``peer.lost`` while this is proven for `peer`."""
        if peer != self._peer:
            self._peer, self._failing_since, self._trouble = peer, None, None
            self._not_before = AT_ONCE
        began_at = self._looks.began_at
        ended = self._looks.take(peer, now)
        if ended is not None:
            self._note(ended.error, began_at, now)
        doubtful = self._failing_since is not None
        if now >= self._due_at:
            self._looks.start(peer, lambda: self._look(peer, doubtful=doubtful), now)
        return self._trouble

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next test."""
        return NEVER if self._looks.pending else max(self._due_at - now, 0.0)

    @property
    def _due_at(self) -> float:
        return max(self._looks.due_at, self._not_before)

    def _look(self, peer: PeerEndpoint, *, doubtful: bool) -> None:
        """Do one test; runs in a thread beside the loop. Only this thread changes `_news`."""
        self._news = True
        self._exchange(peer, doubtful=doubtful)
        self._news = doubtful

    def _ended(self) -> None:
        if self._news:
            self._wake()

    def _note(self, error: AgentError | None, began_at: float, now: float) -> None:
        if not _counts(error):
            self._failing_since = self._trouble = None
            # Counted from the begin: the answer may have waited a whole period for this cycle.
            self._not_before = began_at + self._random.uniform(*PERIOD_S) * self._scale
        elif self._failing_since is None:
            self._failing_since = began_at
        elif now - self._failing_since >= PROVEN_S * self._scale:
            self._trouble = error


def _counts(error: AgentError | None) -> bool:
    """Return whether an error is about the peer."""
    return isinstance(error, PeerSilentError)
