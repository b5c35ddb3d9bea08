"""Why containers ended, and which of them only wait for their SuperLink.

The SuperLink refuses a SuperNode with an unknown key, and the SuperNode ends. This is no crash, so
the agent starts it again every 5 to 15 s, any number of times.
"""

import dataclasses
import random

from flower_agent.docker.client import Engine
from flower_agent.docker.containers import Existing
from flower_agent.flower import exit_codes
from flower_agent.model import errors
from flower_agent.model.errors import (
    AgentError,
    ContainerExitedError,
    Finding,
    GhostError,
    KeyUnknownError,
    TurnedAwayError,
)
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.reconcile import restart_policy
from flower_agent.reconcile.restart_policy import Trouble

TAIL_LINES = 30
AGAIN_S = (5.0, 15.0)
FIRST_AGAIN_S = (5.0, 8.0)
"""A SuperLink checks every 5 s for new nodes."""

_STOPPED = (0, 143)
"""Exit codes of a SuperNode that gave up, or that the agent stopped after that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """A refused container program."""

    error: AgentError
    since: float
    """Monotonic seconds of the first time in a row."""

    ends: int = 0
    """Number of ends since then."""

    def finding(self, awaited: str) -> Finding:
        """Return the finding for the status; `awaited` is the better message, if known."""
        found = self.error.finding
        unknown = isinstance(self.error, KeyUnknownError)
        return Finding(found.code, awaited) if awaited and unknown else found


class ExitAnalysis:
    """The meaning of the ends of one agent's containers."""

    def __init__(self, engine: Engine, *, rng: random.Random, scale: float = 1.0) -> None:
        self._engine = engine
        self._random = rng
        self._scale = scale
        self._last: tuple[object, AgentError] | None = None
        self._waits: dict[str, Wait] = {}

    def why(self, found: Existing, failures: int) -> AgentError:
        """Return why a container ended, with its last log lines."""
        waits = self._waits.get(found.name)
        # The reason of a refusal is known already; the log of a clean end says less.
        if waits is not None and found.exit_code in _STOPPED:
            return waits.error
        key = (found.name, found.finished_at, failures)
        if self._last is None or self._last[0] != key:
            self._last = (key, self._explain(found, failures))
        return self._last[1]

    def judge(self, found: Existing, before: Trouble | None, new: Trouble, now: float) -> Trouble:
        """Return the trouble after a new end: `new`, or a short pause if it only waits."""
        if found.exit_code not in (1, *_STOPPED):
            return new
        error = self.why(found, new.failures)
        if not isinstance(error, TurnedAwayError):
            return new
        self.wait(found.name, error, now)
        waits = self._waits[found.name]
        pause_s = self._random.uniform(*(AGAIN_S if waits.ends else FIRST_AGAIN_S)) * self._scale
        self._waits[found.name] = dataclasses.replace(waits, ends=waits.ends + 1)
        return restart_policy.waits(before, new, not_before=now + pause_s)

    def wait(self, name: str, error: AgentError, now: float) -> None:
        """Record that the SuperLink refuses a container's program, with the reason `error`."""
        before = self._waits.get(name)
        if before is None or before.error.finding.code != error.finding.code:
            before = Wait(error, now)  # each cause has its own time
        self._waits[name] = dataclasses.replace(before, error=error)

    def waiting(self, name: str) -> Wait | None:
        """Return since when and why a container's program is refused."""
        return self._waits.get(name)

    def steady(self, name: str, unmet: Unmet | None, awaited: str) -> Unmet | None:
        """Return `unmet`; while a program is refused, always the same finding.

        `awaited` is the better message if the SuperLink does not know the key.
        """
        waits = self._waits.get(name)
        if unmet is None:
            self.forget(name)
        elif waits is not None and (unmet.finding is None or unmet.finding.is_a(TurnedAwayError)):
            found = waits.finding(awaited)
            phase = Phase.PEER if isinstance(waits.error, GhostError) else Phase.ENROL
            return Unmet(phase, found)
        return unmet

    def forget(self, name: str | None = None) -> None:
        """Forget that a container's program was refused; without a name, forget all."""
        if name is None:
            self._waits.clear()
        else:
            self._waits.pop(name, None)

    def _explain(self, found: Existing, failures: int) -> AgentError:
        told = exit_codes.explain(found.exit_code, found.oom_killed, self._tail(found.name))
        often = f" {failures} times in a row, the last time" if failures > 1 else ""
        code, kind = told.error, errors.kind(told.error)
        if issubclass(kind, ContainerExitedError) and failures >= restart_policy.LOOP_AT:
            code = "container.crash_loop"
        status = f"status {found.exit_code}"
        because = f": {told.meaning}" if told.meaning not in ("", status) else ""
        message = f"{found.name} ended{often} with {status}{because}"
        return kind(code, message, told.hint, retryable=True)

    def _tail(self, name: str) -> str:
        try:
            return self._engine.logs(name, tail=TAIL_LINES)
        except AgentError:
            return ""  # then the exit code alone gives the reason
