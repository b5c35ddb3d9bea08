"""What both transports share: who calls, what passes, and what is answered here.

Calls come as bytes of protobuf and leave as such; only the fields that decide are read.
"""

import asyncio
import concurrent.futures
import dataclasses
import datetime
import enum
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from flower_agent.config.account_roles import AccountRole
from flower_agent.flower import control_messages, wire
from flower_agent.gateway import accounts, control_methods, limits
from flower_agent.gateway.control_methods import Caller, ControlMethod, Handling
from flower_agent.gateway.database import Database
from flower_agent.gateway.run_owners import RunOwners, StartedRun
from flower_agent.gateway.sessions import GRANT_S, POLL_S, Sessions, TokenPair
from flower_agent.model import foreign_text

PASSWORDS_WAITING = 16
STREAM_LOOK_S = 20.0
"""How often an open stream asks whether its log-in still stands."""

AUTHN_TYPE = "oidc"
"""The only kind of log-in that the open-source ``flwr`` knows besides none."""

LOG_IN = "Please run `flwr login`."


class Why(enum.Enum):
    """Kinds of refusals; each transport has its own status for one."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    BUSY = "busy"
    INVALID = "invalid"


class Refused(Exception):  # noqa: N818  # a decision, not a fault
    """A call that does not pass, with the words for its user."""

    def __init__(self, why: Why, words: str) -> None:
        self.why, self.words = why, words
        super().__init__(words)


class UpstreamRefused(Exception):  # noqa: N818
    """The SuperLink's definite no: nothing was done. The transport subclasses it."""


class Upstream(Protocol):
    """The SuperLink's Control API, as one transport reaches it."""

    async def call(self, method: ControlMethod, body: bytes) -> bytes:
        """Return the reply to one request; raises UpstreamRefused and what may pass."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GateEvent:
    """One thing for the record."""

    event: str
    who: str
    origin: str
    result: str = "ok"
    run_id: str = ""
    message: str = ""


class Gate:
    """The decisions of one gateway; for one event loop.

    `record` takes each event and never waits. `url` is how people reach the gateway.
    """

    def __init__(
        self,
        database: Database,
        url: str,
        record: Callable[[GateEvent], None],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.accounts = accounts.Accounts(database)
        self.sessions = Sessions(database, now)
        self.owners = RunOwners(database, now)
        self.url = url
        self._record = record
        self._wrong = limits.Attempts(limits.WRONG_PASSWORDS, now)
        self._logins = limits.Attempts(limits.LOGINS, now)
        self._unknown = limits.Attempts(limits.REFUSED_TOKENS, now)
        self._hashing = concurrent.futures.ThreadPoolExecutor(1, "argon2")
        self._waiting = 0

    # -- log-in ---------------------------------------------------------------------------------

    def login(self, method: ControlMethod, body: bytes, origin: str) -> bytes:
        """Answer a call that needs no token."""
        if method.name == "GetLoginDetails":
            return self._details(origin)
        if self._unknown.spent(origin):
            raise Refused(Why.BUSY, "Too many tries; wait a minute.")
        secret = _decoded(body).text(1)
        if method.name == "GetAuthTokens":
            pair = self.sessions.collect(secret)
        else:
            pair = self.sessions.refresh(secret)
        if pair is None:
            if not self.sessions.waits(secret):
                self._unknown.count(origin)
            if method.name == "RefreshAuthTokens":
                raise Refused(Why.UNAUTHENTICATED, LOG_IN)
            return b""  # still waiting, as Flower's client reads it
        return wire.encode((1, pair.access), (2, pair.refresh))

    def _details(self, origin: str) -> bytes:
        if self._logins.spent(origin):
            raise Refused(Why.BUSY, "Too many log-ins from your address; wait five minutes.")
        self._logins.count(origin)
        grant = self.sessions.ask(origin)
        if grant is None:
            raise Refused(Why.BUSY, "Too many log-ins wait for approval; try again later.")
        return wire.encode(
            (1, AUTHN_TYPE),
            (2, grant.device_code),
            (3, f"{self.url}/login?code={grant.code}"),
            (4, int(GRANT_S)),
            (5, POLL_S),
        )

    async def sign_in(self, name: str, password: str, origin: str) -> str | None:
        """Return the cookie of a browser that gave the right password; None: a wrong one."""
        both = f"{limits.network(origin)} {name}"[:64]
        if self._wrong.spent(origin) or self._wrong.spent(both):
            raise Refused(Why.BUSY, "Too many wrong passwords; wait five minutes.")
        if self._waiting >= PASSWORDS_WAITING:
            raise Refused(Why.BUSY, "Too many sign-ins at once; try again in a moment.")
        hashed = self.accounts.password_hash(name)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._hashing, accounts.verify, password, hashed)
        finally:
            self._waiting -= 1
        # The account may have changed while its hash was computed.
        if not right or self.accounts.password_hash(name) != hashed:
            self._wrong.count(origin)
            self._wrong.count(both)
            self.note(
                "gateway.login", f"account:{foreign_text.message(name)[:64]}", origin, "refused"
            )
            return None
        self._wrong.clear(both)
        self.note("gateway.login", f"account:{name}", origin)
        return self.sessions.open_browser(name, None, origin)

    def approve(self, code: str, caller: Caller, origin: str) -> bool:
        """Let the client of a shown code in; whether one still waited."""
        done = self.sessions.approve(code, caller)
        result = "ok" if done else "refused"
        self.note("gateway.approve", f"account:{caller.account}", origin, result)
        return done

    def code_tried(self, origin: str) -> None:
        """Count a code that nobody waits under; raises Refused for one too many."""
        if self._logins.spent(origin):
            raise Refused(Why.BUSY, "Too many codes; wait five minutes.")
        self._logins.count(origin)

    # -- calls ----------------------------------------------------------------------------------

    def caller(self, access: str | None, origin: str) -> Caller | None:
        """Return who calls by an access token; None for one that is worth nothing."""
        found = self.sessions.caller(access) if access else None
        if found is None and access:
            if self._unknown.spent(origin):
                raise Refused(Why.BUSY, "Too many tries; wait a minute.")
            self._unknown.count(origin)
        return found

    def refreshed(self, refresh: str | None) -> tuple[Caller, TokenPair] | None:
        """Return who a refresh token stands for, and the next pair."""
        pair = self.sessions.refresh(refresh) if refresh else None
        caller = self.sessions.caller(pair.access) if pair else None
        return (caller, pair) if caller and pair else None

    def admit(self, method: ControlMethod, caller: Caller, body: bytes, origin: str) -> None:
        """Let a call pass or raise Refused; what changes something is recorded."""
        run_id = _run_of(body) if method.own else ""
        owner = self.owners.owner(run_id) if run_id else None
        words = control_methods.refusal(method, caller, owner)
        who, event = f"account:{caller.account}", f"gateway.{_snake(method)}"
        if words is not None:
            self.note(event, who, origin, "refused", run_id=run_id, message=words)
            raise Refused(Why.FORBIDDEN, words)
        if method.own or method.role is AccountRole.ADMIN:
            self.note(event, who, origin, run_id=run_id)

    def unknown_method(self, name: str, origin: str) -> Refused:
        """Return the refusal of a method that is not offered, recorded."""
        words = control_methods.unknown(foreign_text.message(name))
        self.note("gateway.unknown_method", "unknown", origin, "refused", message=words)
        return Refused(Why.FORBIDDEN, words)

    async def answer(
        self, method: ControlMethod, caller: Caller, body: bytes, origin: str, upstream: Upstream
    ) -> bytes:
        """Return the reply to an admitted call whose answer is one message."""
        if method.handling is Handling.PULL:
            secret = self.sessions.open_download(_run_of(body), caller)
            return wire.encode((1, f"{self.url}/outputs/{secret}/run-{_run_of(body)}.tar"))
        if method.handling is Handling.START:
            # A client that hangs up does not undo the run: its owner is to be stored all the same.
            start = asyncio.ensure_future(self._start(method, caller, body, origin, upstream))
            return await asyncio.shield(start)
        return await upstream.call(method, body)

    async def _start(
        self, method: ControlMethod, caller: Caller, body: bytes, origin: str, upstream: Upstream
    ) -> bytes:
        try:
            fab = control_methods.fab_hash(body)
        except ValueError as error:
            raise Refused(Why.INVALID, f"The request cannot be read: {error}") from None
        intent = self.owners.intend(caller.account, fab)
        who = f"account:{caller.account}"
        try:
            reply = await upstream.call(method, body)
        except UpstreamRefused:
            self.owners.refused(intent)
            self.note("gateway.start_run", who, origin, "refused by the SuperLink")
            raise
        run_id = _run_of(reply)
        if run_id == "0":  # what Flower answers to a bundle that is too large
            self.owners.refused(intent)
        else:
            self.owners.started(intent, caller.account, run_id)
        self.note("gateway.start_run", who, origin, run_id=run_id, message=f"app {fab}")
        return reply

    async def watched(self, caller: Caller, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield a stream's messages for as long as the caller's log-in stands."""
        following: asyncio.Future[bytes] = asyncio.ensure_future(_next(frames))
        looked = time.monotonic()
        try:
            while True:
                await asyncio.wait({following}, timeout=STREAM_LOOK_S)
                if time.monotonic() - looked >= STREAM_LOOK_S:
                    looked = time.monotonic()
                    if self.sessions.of_session(caller.session) is None:
                        raise Refused(Why.UNAUTHENTICATED, LOG_IN)
                if not following.done():
                    continue
                try:
                    frame = following.result()
                except StopAsyncIteration:
                    return
                following = asyncio.ensure_future(_next(frames))
                yield frame
        finally:
            following.cancel()

    async def reconcile(self, upstream: Upstream) -> None:
        """Find the runs of intents whose answers were lost."""
        if not self.owners.open_intents():
            return
        method = control_methods.BY_NAME["ListRuns"]
        reply = await upstream.call(method, control_messages.encode_list_runs(limit=1000))
        self.owners.reconcile(started_runs(reply))

    def note(
        self, event: str, who: str, origin: str, result: str = "ok", *, run_id: str = "",
        message: str = "",
    ) -> None:  # fmt: skip
        """Record one thing."""
        self._record(
            GateEvent(
                event=event, who=who, origin=origin, result=result, run_id=run_id, message=message
            )
        )


def started_runs(reply: bytes) -> list[StartedRun]:
    """Return the runs of a ListRuns reply that say when they came; raises ValueError."""
    return [
        StartedRun(
            run.run_id, run.fab_hash, datetime.datetime.fromisoformat(run.pending_at).timestamp()
        )
        for run in control_messages.decode_runs(reply)
        if run.pending_at
    ]


async def _next(frames: AsyncIterator[bytes]) -> bytes:
    return await anext(frames)


def _snake(method: ControlMethod) -> str:
    return method.path.rpartition("/")[2].replace("-", "_")


def _decoded(body: bytes) -> wire.Message:
    try:
        return wire.decode(body)
    except ValueError as error:
        raise Refused(Why.INVALID, f"The request cannot be read: {error}") from None


def _run_of(body: bytes) -> str:
    return str(_decoded(body).integer(1))
