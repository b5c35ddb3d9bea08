"""The gateway's memory: one SQLite file with accounts, log-ins, and who started which run.

It lies in the agent's state directory, belongs to the gateway's user, and is also opened by
``flower-agent accounts``. No password and no token stands in it, only their hashes.
"""

import contextlib
import hashlib
import os
import pathlib
import sqlite3
from collections.abc import Iterator

from flower_agent.model.errors import AgentError

BUSY_S = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, role TEXT NOT NULL, password TEXT NOT NULL,
    disabled INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, changed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, role TEXT,
    origin TEXT NOT NULL, created REAL NOT NULL, ends REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
    hash TEXT PRIMARY KEY, session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
    kind TEXT NOT NULL, ends REAL NOT NULL, replaced REAL);
CREATE INDEX IF NOT EXISTS tokens_of_session ON tokens (session);
CREATE TABLE IF NOT EXISTS grants (
    device TEXT PRIMARY KEY, code TEXT NOT NULL UNIQUE, origin TEXT NOT NULL, ends REAL NOT NULL,
    session INTEGER REFERENCES sessions ON DELETE CASCADE);
CREATE TABLE IF NOT EXISTS intents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, fab TEXT NOT NULL,
    created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, account TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS downloads (
    hash TEXT PRIMARY KEY, run TEXT NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE, ends REAL NOT NULL);
"""


class Database:
    """The open file; for one thread. Raises AgentError ``gateway.database``."""

    def __init__(self, path: pathlib.Path) -> None:
        with translated(path):
            # A new file is for its owner alone, from its first moment on.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self.connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            self.connection.execute("PRAGMA foreign_keys = ON")
            self.connection.executescript(_SCHEMA)
        self._path = path

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Make one change whole or not at all."""
        with translated(self._path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Return what a query finds."""
        with translated(self._path):
            return self.connection.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()


@contextlib.contextmanager
def translated(path: pathlib.Path) -> Iterator[None]:
    """Turn what SQLite and the file system say into an AgentError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise AgentError(
            "gateway.database", f"{path} cannot be used: {error}", retryable=True
        ) from error


def digest(secret: str) -> str:
    """Return how a random secret is stored; it is too long to be guessed, so no salt is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()
