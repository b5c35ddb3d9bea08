"""Slow calls beside the loop: OneGate, git, image pulls, tests of a remote endpoint.

A call runs in a thread, so that a server that hangs never delays the restart of a killed container,
the watchdog or the end of the agent. When the call ends, the loop may need something else: so an
answer carries its request, and an answer that nobody needs any more is dropped. The threads are
daemons: the agent's end interrupts them, and the next start repeats their work.
"""

import dataclasses
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from flower_agent.model.errors import AgentError

NEVER = float("inf")
AT_ONCE = float("-inf")

Request = TypeVar("Request")
Answer = TypeVar("Answer")

Pause = Callable[[AgentError | None, int], float]
"""Returns the seconds until the next call; arguments: the error or None, failures in a row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ended(Generic[Request, Answer]):
    """The result of a call."""

    request: Request
    answer: Answer | None = None
    error: AgentError | None = None


class Threads:
    """The threads of one agent; `wake` is called when a call in one of them ends."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._users: weakref.WeakSet[Background[Any, Any]] = weakref.WeakSet()

    def busy(self) -> bool:
        """Return whether any call runs, or its result was not taken yet."""
        return any(user.pending for user in tuple(self._users))

    def use(self, user: "Background[Any, Any]") -> None:
        """Include the calls of `user` in `busy`."""
        self._users.add(user)

    def start(self, name: str, run: Callable[[], None]) -> None:
        """Run in a new thread, and wake the loop after it.

        Raises RuntimeError if the VM has no memory or process for a thread.
        """

        def run_and_wake() -> None:
            try:
                run()
            finally:
                self._wake()

        threading.Thread(target=run_and_wake, name=name, daemon=True).start()

    def wake(self) -> None:
        """Wake the loop."""
        self._wake()


class Background(Generic[Request, Answer]):
    """One kind of slow call, at most one at a time; every method but `wait` returns at once.

    Only the loop calls the methods. After a failure the next call is due after `pause`. A good
    answer counts for `good_for_s`; `again` shortens this time, but not the pause.
    """

    def __init__(
        self,
        threads: Threads,
        name: str,
        pause: Pause = lambda *_: 0.0,
        *,
        good_for_s: float = NEVER,
    ) -> None:
        self._threads = threads
        self._name = name
        self._pause = pause
        self._good_for_s = good_for_s
        self._lock = threading.Lock()
        self._running = False
        self._idle = threading.Event()
        self._ended: Ended[Request, Answer] | None = None
        self._wanted: Request | None = None
        self._rests_until = AT_ONCE
        self._once_more = False
        self.asked = False
        """Whether a call for the request has ended, with an answer or an error."""

        self.answer: Answer | None = None
        """The newest good answer to the request; later errors do not remove it."""

        self.error: AgentError | None = None
        """Why the last call for the request failed; None after a good one."""

        self.failures = 0
        """Failures in a row in one area: a failure of OneGate is not one of the endpoint."""

        self.due_at = AT_ONCE
        """Monotonic seconds from which `ask` starts the next call."""

        self.began_at = AT_ONCE
        """Monotonic seconds at which the last call for the request started."""

        threads.use(self)

    @property
    def running(self) -> bool:
        """Whether a call runs, for any request."""
        with self._lock:
            return self._running

    @property
    def pending(self) -> bool:
        """Whether a call runs, or its result was not taken yet."""
        with self._lock:
            return self._running or self._ended is not None

    def ask(
        self, request: Request, call: Callable[[], Answer], now: float
    ) -> Ended[Request, Answer] | None:
        """Start `call` for `request` if it is due; return the last result, once."""
        ended = self.take(request, now)
        if now >= self.due_at:
            self.start(request, call, now)
        return ended

    def take(self, request: Request, now: float) -> Ended[Request, Answer] | None:
        """Use `request` from now on; return the result of a call for it, once.

        A new request forgets answer, error and pause; the result of a call for another request is
        dropped. `now` is monotonic seconds.
        """
        if self._wanted != request:
            self._wanted = request
            self.forget()
        with self._lock:
            ended, self._ended = self._ended, None
        if ended is None or ended.request != request:
            return None
        late, self._once_more = self._once_more, False
        if ended.error is not None:
            self._fail(ended.error, now)
            return ended
        self.answer, self.error, self.failures, self.asked = ended.answer, None, 0, True
        self._rests_until = now + self._pause(None, 0)
        self.due_at = self._rests_until if late else max(self._rests_until, now + self._good_for_s)
        return ended

    def start(self, request: Request, call: Callable[[], Answer], now: float) -> bool:
        """Start `call` unless another call runs; return whether it was started."""
        with self._lock:
            if self._running or self._ended is not None:
                return False
            self._running = True
            self._idle.clear()
        self.began_at = now

        def run() -> None:
            self._end(request, call)

        try:
            self._threads.start(self._name, run)
        except RuntimeError as error:
            self._settle(Ended(request, error=_bug(self._name, error)))
            self._threads.wake()
        return True

    def wait(self, timeout_s: float) -> None:
        """Wait for the end of the running call, at most `timeout_s`."""
        self._idle.wait(timeout_s)

    def again(self, at: float | None = None) -> None:
        """Let the next call be due at `at`, or at once; the last answer counts until then.

        The pause after a failure stays. A running call may have seen the old state: without `at`
        another call follows it.
        """
        wanted = AT_ONCE if at is None else at
        self.due_at = min(self.due_at, max(wanted, self._rests_until))
        self._once_more = self._once_more or (at is None and self.running)

    def refuted(self, error: AgentError, now: float) -> None:
        """Use `error`, from another place, as the last result: the answer is no longer valid."""
        self.answer = None
        self._fail(error, now)

    def forget(self) -> None:
        """Forget answer, error and pause: the next call is due at once."""
        self.answer, self.error, self.failures, self.asked = None, None, 0, False
        self.due_at = self.began_at = self._rests_until = AT_ONCE
        self._once_more = False

    def _fail(self, error: AgentError, now: float) -> None:
        same = self.error is not None and _area(self.error) == _area(error)
        self.error, self.asked = error, True
        self.failures = self.failures + 1 if same else 1
        self.due_at = self._rests_until = now + self._pause(error, self.failures)

    def _end(self, request: Request, call: Callable[[], Answer]) -> None:
        try:
            ended = Ended(request, answer=call())
        except AgentError as error:
            ended = Ended(request, error=error)
        except Exception as error:  # noqa: BLE001  # a thread's bug must reach the status, not die
            ended = Ended(request, error=_bug(self._name, error))
        self._settle(ended)

    def _settle(self, ended: Ended[Request, Answer]) -> None:
        with self._lock:
            self._running, self._ended = False, ended
            self._idle.set()


def after_failure(bad_s: float) -> Pause:
    """Return a policy with a pause after failures only."""
    return lambda error, _: 0.0 if error is None else bad_s


def doubling(first_s: float, longest_s: float) -> Pause:
    """Return a policy whose pause doubles with each failure in a row."""

    def pause(error: AgentError | None, failures: int) -> float:
        if error is None:
            return 0.0
        return min(first_s * 2.0 ** min(failures - 1, 16), longest_s)

    return pause


def _area(error: AgentError) -> str:
    return error.finding.code.partition(".")[0]


def _bug(name: str, error: Exception) -> AgentError:
    text = str(error) if isinstance(error, RuntimeError) else repr(error)
    return AgentError("agent.bug", f"{name}: {text}", retryable=True)
