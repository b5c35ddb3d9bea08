"""Ways in which a OneGate fails its guests, switched on and off while it runs."""

import threading
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What goes wrong."""

    DOWN = "down"
    """The connection closes before the request is read."""

    SLOW = "slow"
    """The answer comes after some seconds."""

    HANG = "hang"
    """No answer; the connection closes when the fault is healed."""

    DRIP = "drip"
    """``100 Continue`` again and again, a byte at a time, until the fault is healed."""

    UNAUTHORIZED = "401"
    """`Not authorized`: what every trouble of oned looks like."""

    ERROR = "500"
    """`Internal server error`."""

    GARBAGE = "garbage"
    """200 with something that is no answer of OneGate."""

    REDIRECT = "redirect"
    """302 to another URL."""

    DROP_REPLY = "drop_reply"
    """The request takes effect, and the connection closes without an answer."""


class Garbage(StrEnum):
    """What a garbage answer holds."""

    HTML = "html"
    """A captive portal's page."""

    TRUNCATED = "truncated"
    """JSON that ends too early."""

    PLAIN = "plain"
    """A proxy's word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault and whom it strikes."""

    kind: Kind

    vmid: int | None
    """Only requests that name this VM in their header; None: all."""

    method: str | None
    """Only this HTTP method; None: all."""

    seconds: float
    """How long SLOW waits."""

    body: Garbage
    """What GARBAGE answers."""

    to: str
    """Where REDIRECT points."""


def fault(
    kind: str,
    vmid: int | None = None,
    *,
    method: str | None = None,
    seconds: float = 1.0,
    body: str = "html",
    to: str = "",
) -> Fault:
    """Return a fault from plain words; raise ValueError for words that are none."""
    if kind == Kind.REDIRECT and not to:
        raise ValueError("a redirect wants the URL it points to")
    return Fault(
        kind=Kind(kind),
        vmid=vmid,
        method=method,
        seconds=float(seconds),
        body=Garbage(body),
        to=to,
    )


class Faults:
    """The faults in force; the newest that fits a request strikes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[tuple[Fault, int | None]] = []
        self._over = threading.Event()

    def add(self, fault: Fault, count: int | None) -> None:
        """Put a fault in force for `count` requests, or until healed."""
        with self._lock:
            self._faults.insert(0, (fault, count))

    def take(self, vmid: int | None, method: str) -> tuple[Fault, threading.Event] | None:
        """Count and return the fault that strikes a request, with what is set when it is over."""
        with self._lock:
            for index, (fault, left) in enumerate(self._faults):
                if fault.vmid not in (None, vmid) or fault.method not in (None, method):
                    continue
                if left is not None:
                    self._faults[index] = (fault, left - 1)
                    if left <= 1:
                        del self._faults[index]
                return fault, self._over
            return None

    def heal(self) -> None:
        """End every fault, and every wait that one caused."""
        with self._lock:
            self._faults.clear()
        self.release()
        self.renew()

    def release(self) -> None:
        """End the waits under way and let none begin, until `renew`."""
        self._over.set()

    def renew(self) -> None:
        """Let faults make requests wait again."""
        with self._lock:
            self._over = threading.Event()
