"""Slow calls beside the loop: OneGate, image pulls, the look at a far endpoint.

Each runs in a thread of its own, so that a server that hangs never delays the restart of a killed
container, the watchdog or the end of the agent. The threads are daemons: what they do is cut off
at the agent's end and done again at the next start.
"""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from .errors import AgentError


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """How an errand ended: a value or an error."""

    value: Any = None
    error: AgentError | None = None


class Errands:
    """At most one running call for each name; `wake` is called when one ends."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._running: set[str] = set()
        self._done: dict[str, Done] = {}
        self._lock = threading.Lock()

    def start(self, name: str, call: Callable[[], Any]) -> bool:
        """Begin `call` unless one of that name runs; return whether it was begun."""
        with self._lock:
            if name in self._running:
                return False
            self._running.add(name)
        thread = threading.Thread(target=self._run, args=(name, call), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no memory or no process left for a thread
            self._end(name, Done(error=AgentError("agent.bug", f"{name}: {error}", retryable=True)))
        return True

    def running(self, name: str) -> bool:
        """Tell whether the errand of that name is under way."""
        with self._lock:
            return name in self._running

    def busy(self) -> bool:
        """Tell whether any errand is under way or its end was not taken yet."""
        with self._lock:
            return bool(self._running or self._done)

    def take(self, name: str) -> Done | None:
        """Return the end of an errand once, or None."""
        with self._lock:
            return self._done.pop(name, None)

    def _run(self, name: str, call: Callable[[], Any]) -> None:
        try:
            done = Done(value=call())
        except AgentError as error:
            done = Done(error=error)
        except Exception as error:  # noqa: BLE001  # a thread's bug must reach the status, not die
            done = Done(error=AgentError("agent.bug", f"{name}: {error!r}", retryable=True))
        self._end(name, done)

    def _end(self, name: str, done: Done) -> None:
        with self._lock:
            self._running.discard(name)
            self._done[name] = done
        self._wake()
