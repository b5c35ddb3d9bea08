"""Local accounts: a name, a role, and a password as Argon2id hash.

Argon2id of OWASP's Password Storage Cheat Sheet: 19 MiB, two passes, one lane.
"""

import dataclasses
import os
import re
import secrets
import time

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from flower_agent.config.account_roles import AccountRole
from flower_agent.gateway.database import Database
from flower_agent.model.errors import AgentError

_MEMORY_KIB, _PASSES, _LANES, _LENGTH, _SALT = 19 * 1024, 2, 1, 32, 16
PASSWORD_MIN, PASSWORD_MAX = 12, 256
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII)
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Of passwords that are made: none that is mistaken for another."""


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """One local account."""

    name: str
    role: AccountRole
    disabled: bool
    created: float
    """Unix time, seconds."""


class Accounts:
    """The local accounts of one gateway. Raises AgentErrors ``account.…``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> tuple[Account, ...]:
        """Return all, by name."""
        rows = self._database.rows(
            "SELECT name, role, disabled, created FROM accounts ORDER BY name"
        )
        return tuple(map(_account, rows))

    def password_hash(self, name: str) -> str:
        """Return what `verify` wants; of an account that is not there or disabled, a dead one.

        So a wrong name takes as long as a wrong password.
        """
        rows = self._database.rows(
            "SELECT password FROM accounts WHERE name = ? AND NOT disabled", name
        )
        return str(rows[0][0]) if rows else DEAD_HASH

    def add(self, name: str, role: AccountRole, password: str) -> None:
        """Add an account."""
        if not _NAME.fullmatch(name):
            raise AgentError(
                "account.invalid",
                f"{name!r} is no account name",
                "Use up to 64 lower-case letters, digits and . _ @ -, beginning with a letter "
                "or a digit.",
            )
        hashed, now = hash_of(password), time.time()
        with self._database.change() as connection:
            if self._database.rows("SELECT 1 FROM accounts WHERE name = ?", name):
                raise AgentError("account.exists", f"There is an account {name} already")
            connection.execute(
                "INSERT INTO accounts (name, role, password, created, changed) "
                "VALUES (?, ?, ?, ?, ?)",
                (name, str(role), hashed, now, now),
            )

    def set_password(self, name: str, password: str) -> None:
        """Give an account another password; its log-ins end."""
        self._change(name, "password = ?, disabled = 0", hash_of(password))

    def disable(self, name: str) -> None:
        """Let an account in no more; its log-ins end. A new password lets it in again."""
        self._change(name, "disabled = ?", 1)

    def remove(self, name: str) -> None:
        """Remove an account; its log-ins end, its runs are the admin's."""
        with self._database.change() as connection:
            if not connection.execute("DELETE FROM accounts WHERE name = ?", (name,)).rowcount:
                raise _missing(name)
            for table in ("sessions", "runs", "intents"):
                connection.execute(
                    f"DELETE FROM {table} WHERE account = ?",  # noqa: S608  # a name of ours
                    (name,),
                )

    def log_out(self, name: str) -> int:
        """End the log-ins of an account, local or a provider's; return how many there were."""
        with self._database.change() as connection:
            return connection.execute("DELETE FROM sessions WHERE account = ?", (name,)).rowcount

    def _change(self, name: str, assignment: str, value: object) -> None:
        with self._database.change() as connection:
            done = connection.execute(
                f"UPDATE accounts SET {assignment}, changed = ? WHERE name = ?",  # noqa: S608
                (value, time.time(), name),
            )
            if not done.rowcount:
                raise _missing(name)
            connection.execute("DELETE FROM sessions WHERE account = ?", (name,))


def _account(row: tuple[object, ...]) -> Account:
    name, role, disabled, created = row
    return Account(str(name), AccountRole(str(role)), bool(disabled), float(str(created)))


def _missing(name: str) -> AgentError:
    return AgentError("account.missing", f"There is no account {name}")


def made_password() -> str:
    """Return a new password of about 99 bits, in four groups."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(4))


def hash_of(password: str) -> str:
    """Return the hash of a password; raises AgentError ``account.invalid`` for a weak one."""
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        raise AgentError(
            "account.invalid",
            f"The password has {len(password)} characters",
            f"Choose one of {PASSWORD_MIN} to {PASSWORD_MAX} characters.",
        )
    return _argon2(os.urandom(_SALT)).derive_phc_encoded(password.encode())


def verify(password: str, hashed: str) -> bool:
    """Return whether a password is the hashed one. Takes about 30 ms and 19 MiB."""
    try:
        Argon2id.verify_phc_encoded(password[:PASSWORD_MAX].encode(), hashed)
    except InvalidKey:
        return False
    return hashed != DEAD_HASH


def _argon2(salt: bytes) -> Argon2id:
    return Argon2id(
        salt=salt, length=_LENGTH, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY_KIB
    )


DEAD_HASH = (
    f"$argon2id$v=19$m={_MEMORY_KIB},t={_PASSES},p={_LANES}"
    "$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)
"""A hash that no password has; to compute against it costs as much as against a real one."""
