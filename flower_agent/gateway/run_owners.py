"""Which account started which run. Flower's SuperLink knows none: it sees the gateway alone.

An intent is stored before StartRun is sent. Where the gateway ends before the answer comes, the
next start looks for the run by its app's hash.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable

from flower_agent.gateway.database import Database

INTENT_S = 86400.0


@dataclasses.dataclass(frozen=True, slots=True)
class Intent:
    """A StartRun whose answer was not seen yet."""

    number: int
    account: str
    fab_hash: str
    created: float
    """Unix time, seconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class StartedRun:
    """A run as the SuperLink lists it."""

    run_id: str
    fab_hash: str
    pending_at: float
    """When it came; Unix time, seconds."""


class RunOwners:
    """Who started what, for one gateway."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    def owner(self, run_id: str) -> str | None:
        """Return whose run it is."""
        rows = self._database.rows("SELECT account FROM runs WHERE run = ?", run_id)
        return str(rows[0][0]) if rows else None

    def intend(self, account: str, fab_hash: str) -> int:
        """Store that a run is about to be started; return the intent's number."""
        with self._database.change() as connection:
            made = connection.execute(
                "INSERT INTO intents (account, fab, created) VALUES (?, ?, ?)",
                (account, fab_hash, self._now()),
            )
            return int(made.lastrowid or 0)

    def started(self, intent: int, account: str, run_id: str) -> None:
        """Store a run's owner; its intent is done."""
        with self._database.change() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO runs (run, account, created) VALUES (?, ?, ?)",
                (run_id, account, self._now()),
            )
            connection.execute("DELETE FROM intents WHERE id = ?", (intent,))

    def refused(self, intent: int) -> None:
        """Forget the intent of a run that was not started."""
        with self._database.change() as connection:
            connection.execute("DELETE FROM intents WHERE id = ?", (intent,))

    def open_intents(self) -> tuple[Intent, ...]:
        """Return the intents without an answer, oldest first."""
        rows = self._database.rows("SELECT id, account, fab, created FROM intents ORDER BY id")
        return tuple(
            Intent(int(str(number)), str(account), str(fab), float(str(created)))
            for number, account, fab, created in rows
        )

    def reconcile(self, runs: Iterable[StartedRun]) -> None:
        """Give the runs of open intents their owners; forget intents that nothing came of."""
        free = [run for run in runs if self.owner(run.run_id) is None]
        for intent in self.open_intents():
            found = match(intent, free)
            if found is not None:
                free.remove(found)
                self.started(intent.number, intent.account, found.run_id)
            elif self._now() - intent.created > INTENT_S:
                self.refused(intent.number)


def match(intent: Intent, runs: Iterable[StartedRun]) -> StartedRun | None:
    """Return the first run without an owner that an intent can have become. Pure."""
    fitting = [
        run
        for run in runs
        if run.fab_hash == intent.fab_hash and run.pending_at >= intent.created - 1
    ]
    # Where a date has no fractions, the run seems to have come before it was asked for.
    return min(
        fitting, key=lambda run: (run.pending_at < intent.created, run.pending_at), default=None
    )
