"""Log-ins and their tokens: opaque, short-lived, refreshed, revocable, and stored as hashes.

A *grant* is a ``flwr login`` that waits for its approval in a browser (OAuth 2.0 Device
Authorization Grant, RFC 8628). An approved one becomes a *session*; its access tokens live for
minutes, and each refresh gives a new pair. A refresh token that comes again after its successor
was made was stolen or copied, and ends the session (RFC 9700, section 4.14.2); within a short
grace it gives another pair, since clients call at the same time or lose an answer.
"""

import dataclasses
import secrets
import time
from collections.abc import Callable

from flower_agent.config.account_roles import AccountRole
from flower_agent.gateway.control_methods import Caller
from flower_agent.gateway.database import Database, digest

ACCESS_S = 900.0
REFRESH_S = 7 * 86400.0
SESSION_S = 30 * 86400.0
GRACE_S = 60.0
GRANT_S = 600.0
POLL_S = 5
BROWSER_S = 12 * 3600.0
DOWNLOAD_S = 900.0
GRANTS_MAX = 1000
"""Log-ins that wait for an approval at once; asking for one needs no token."""

_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""Of codes: no vowels, so no words (RFC 8628, section 6.1)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """A ``flwr login`` that waits for somebody who approves it."""

    device_code: str
    """What the client polls with; a secret."""

    code: str
    """What is shown, ``BCDF-GHJK``."""

    origin: str
    """The client's address."""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenPair:
    """What a client keeps."""

    access: str
    refresh: str


@dataclasses.dataclass(frozen=True, slots=True)
class Download:
    """What the address of a run's outputs stands for."""

    run_id: str
    caller: Caller


class Sessions:
    """The log-ins of one gateway; `now` gives Unix time in seconds."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    # -- flwr login ---------------------------------------------------------------------------

    def ask(self, origin: str) -> Grant | None:
        """Begin a log-in; None where too many wait already."""
        now = self._now()
        grant = Grant(secrets.token_urlsafe(32), _code(), origin)
        with self._database.change() as connection:
            connection.execute("DELETE FROM grants WHERE ends < ?", (now,))
            (waiting,) = connection.execute("SELECT count(*) FROM grants").fetchone()
            if waiting >= GRANTS_MAX:
                return None
            connection.execute(
                "INSERT INTO grants (device, code, origin, ends) VALUES (?, ?, ?, ?)",
                (digest(grant.device_code), grant.code, origin, now + GRANT_S),
            )
        return grant

    def waiting(self, code: str) -> str | None:
        """Return the address of the client whose log-in waits under a shown code."""
        rows = self._database.rows(
            "SELECT origin FROM grants WHERE code = ? AND session IS NULL AND ends > ?",
            code.strip().upper(),
            self._now(),
        )
        return str(rows[0][0]) if rows else None

    def approve(self, code: str, caller: Caller) -> bool:
        """Let the client under a code in as the account of a browser; whether it still waited.

        The role comes from where the browser's comes from: the local account, asked at each call,
        or what the provider said.
        """
        now = self._now()
        with self._database.change() as connection:
            row = connection.execute(
                "SELECT device, origin FROM grants WHERE code = ? AND session IS NULL AND ends > ?",
                (code.strip().upper(), now),
            ).fetchone()
            if row is None:
                return False
            device, origin = row
            (role,) = connection.execute(
                "SELECT role FROM sessions WHERE id = ?", (caller.session,)
            ).fetchone() or (None,)
            session = self._new_session(
                caller.account, role and AccountRole(role), str(origin), SESSION_S
            )
            connection.execute(
                "UPDATE grants SET session = ?, ends = ? WHERE device = ?",
                (session, now + GRANT_S, device),
            )
        return True

    def collect(self, device_code: str) -> TokenPair | None:
        """Return the tokens of an approved log-in, once; None while it waits or is gone."""
        with self._database.change() as connection:
            row = connection.execute(
                "SELECT session FROM grants WHERE device = ? AND ends > ?",
                (digest(device_code), self._now()),
            ).fetchone()
            if row is None or row[0] is None:
                return None
            connection.execute("DELETE FROM grants WHERE device = ?", (digest(device_code),))
            return self._new_pair(int(row[0]))

    def waits(self, device_code: str) -> bool:
        """Return whether a log-in was begun under this device code and has not ended."""
        rows = self._database.rows(
            "SELECT 1 FROM grants WHERE device = ? AND ends > ?", digest(device_code), self._now()
        )
        return bool(rows)

    # -- tokens -------------------------------------------------------------------------------

    def caller(self, access: str) -> Caller | None:
        """Return who an access token stands for; None where it is unknown, ended or revoked."""
        rows = self._database.rows(
            "SELECT session FROM tokens WHERE hash = ? AND kind = 'access' AND ends > ?",
            digest(access),
            self._now(),
        )
        return self.of_session(int(str(rows[0][0]))) if rows else None

    def of_session(self, session: int) -> Caller | None:
        """Return who a log-in stands for now; None when it ended or its account was disabled."""
        rows = self._database.rows(
            "SELECT s.account, s.role, a.role FROM sessions s "
            "LEFT JOIN accounts a ON a.name = s.account AND NOT a.disabled "
            "WHERE s.id = ? AND s.ends > ?",
            session,
            self._now(),
        )
        if not rows:
            return None
        account, fixed, local = rows[0]
        role = fixed or local
        return Caller(str(account), AccountRole(str(role)), session) if role else None

    def refresh(self, refresh: str) -> TokenPair | None:
        """Return a new pair for a refresh token; None where it is worth nothing."""
        now = self._now()
        with self._database.change() as connection:
            row = connection.execute(
                "SELECT session, replaced FROM tokens "
                "WHERE hash = ? AND kind = 'refresh' AND ends > ?",
                (digest(refresh), now),
            ).fetchone()
            if row is None or self.of_session(int(row[0])) is None:
                return None
            session, replaced = int(row[0]), row[1]
            if replaced is not None and now - float(replaced) > GRACE_S:
                connection.execute("DELETE FROM sessions WHERE id = ?", (session,))
                return None
            if replaced is None:
                connection.execute(
                    "UPDATE tokens SET replaced = ? WHERE hash = ?", (now, digest(refresh))
                )
            return self._new_pair(session)

    def end(self, session: int) -> None:
        """End a log-in; its streams follow within a minute."""
        with self._database.change() as connection:
            connection.execute("DELETE FROM sessions WHERE id = ?", (session,))

    # -- browsers and downloads -----------------------------------------------------------------

    def open_browser(self, account: str, role: AccountRole | None, origin: str) -> str:
        """Return the value of a browser's cookie for a new session."""
        cookie = secrets.token_urlsafe(32)
        with self._database.change():
            session = self._new_session(account, role, origin, BROWSER_S)
            self._store(cookie, session, "browser", BROWSER_S)
        return cookie

    def browser(self, cookie: str) -> Caller | None:
        """Return who a browser's cookie stands for."""
        rows = self._database.rows(
            "SELECT session FROM tokens WHERE hash = ? AND kind = 'browser' AND ends > ?",
            digest(cookie),
            self._now(),
        )
        return self.of_session(int(str(rows[0][0]))) if rows else None

    def open_download(self, run_id: str, caller: Caller) -> str:
        """Return the secret of an address of a run's outputs; it works for `DOWNLOAD_S`."""
        secret = secrets.token_urlsafe(32)
        with self._database.change() as connection:
            connection.execute("DELETE FROM downloads WHERE ends < ?", (self._now(),))
            connection.execute(
                "INSERT INTO downloads (hash, run, session, ends) VALUES (?, ?, ?, ?)",
                (digest(secret), run_id, caller.session, self._now() + DOWNLOAD_S),
            )
        return secret

    def download(self, secret: str) -> Download | None:
        """Return what an address stands for; None when it ended, or its log-in did."""
        rows = self._database.rows(
            "SELECT run, session FROM downloads WHERE hash = ? AND ends > ?",
            digest(secret),
            self._now(),
        )
        if not rows:
            return None
        run_id, session = rows[0]
        caller = self.of_session(int(str(session)))
        return None if caller is None else Download(str(run_id), caller)

    def forget_ended(self) -> None:
        """Delete what can be of no use any more."""
        now = self._now()
        with self._database.change() as connection:
            for table in ("sessions", "tokens", "grants", "downloads"):
                connection.execute(
                    f"DELETE FROM {table} WHERE ends < ?",  # noqa: S608  # names of ours
                    (now,),
                )

    # -- within a change ------------------------------------------------------------------------

    def _new_session(
        self, account: str, role: AccountRole | None, origin: str, lives_s: float
    ) -> int:
        now = self._now()
        made = self._database.connection.execute(
            "INSERT INTO sessions (account, role, origin, created, ends) VALUES (?, ?, ?, ?, ?)",
            (account, role and str(role), origin, now, now + lives_s),
        )
        return int(made.lastrowid or 0)

    def _new_pair(self, session: int) -> TokenPair:
        pair = TokenPair(secrets.token_urlsafe(24), secrets.token_urlsafe(32))
        self._store(pair.access, session, "access", ACCESS_S)
        self._store(pair.refresh, session, "refresh", REFRESH_S)
        return pair

    def _store(self, secret: str, session: int, kind: str, lives_s: float) -> None:
        self._database.connection.execute(
            "INSERT INTO tokens (hash, session, kind, ends) VALUES (?, ?, ?, ?)",
            (digest(secret), session, kind, self._now() + lives_s),
        )


def _code() -> str:
    letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"
