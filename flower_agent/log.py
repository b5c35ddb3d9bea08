"""structlog to stderr: JSON lines under systemd, a readable console on a terminal. Set-up only."""

import logging
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from flower_agent.model import deduplication

MENDED = {
    "image.made": "image.make_failed",
    "image.pulled": "image.pull_failed",
    "onegate.recovered": "onegate.failed",
    "run.outputs_kept": "run.outputs_failed",
}
"""Events after which a warning is news again."""


def configure(level: str, *, tty: bool) -> None:
    """Send every event of `level` and above to stderr, one line each."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            Hourly(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if tty else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


class Hourly:
    """Lets the same warning through at its first time, then hourly with how often it came."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._repeats = deduplication.Repeats()
        self._lock = threading.Lock()  # slow calls beside the loop log, too

    def __call__(
        self, _logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Pass an event on. Raises structlog's DropEvent if it was logged within the hour."""
        name = str(event.get("event"))
        with self._lock:
            if name in MENDED:
                self._repeats.forget(MENDED[name])
            if method != "warning":
                return event
            times = self._repeats.due((name, deduplication.of_event(event)), self._clock())
        if not times:
            raise structlog.DropEvent
        return {**event, "times": times} if times > 1 else event
