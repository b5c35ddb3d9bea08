"""What of a message makes it another cause: the journal is a story, no counter. Pure."""

import dataclasses
import re
from collections.abc import Mapping

from flower_agent.model.errors import Finding

EVERY_S = 3600.0
"""A continuing cause is logged again after this time, with a count."""

MOST = 256
"""As many causes are remembered."""

READ = 2000
"""Characters that are looked at."""

_TIME = r"(?<![0-9.:])[0-9]{2}:[0-9]{2}:[0-9]{2}"
_UNIT = r"(?:s|ms|min|h|seconds?|minutes?|hours?|bytes?|[kKMG]i?B|times(?! out)|x)(?![A-Za-z0-9])|%"
_MEASURED = re.compile(rf"{_TIME}|(?<![0-9.])[0-9]{{1,20}}(?:\.[0-9]{{1,20}})? ?(?:{_UNIT})")


def gist(text: str) -> str:
    """Return a message without what was measured: durations, sizes, counts, times of day.

    A bare number stays: an exit status or a port is a cause.
    """
    return _MEASURED.sub("…", text[:READ])


def same(one: Finding | None, other: Finding | None) -> bool:
    """Return whether two findings have one cause."""
    if one is None or other is None:
        return one is other
    return one.code == other.code and gist(one.message) == gist(other.message)


def of_event(event: Mapping[str, object]) -> str:
    """Return what of an event of the journal makes it another one."""
    return gist(" ".join(f"{name}={str(event[name])[:READ]}" for name in sorted(event)))


@dataclasses.dataclass(slots=True)
class _Told:
    at: float
    since: int = 0
    """How often it happened since it was logged."""


class Repeats:
    """Recently logged causes, so that the same cause is logged once an hour."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], _Told] = {}

    def due(self, key: tuple[str, str], now: float) -> int:
        """Note that `key`, a name and what varies, happened at `now` (monotonic seconds).

        Returns how often it did since it was told last, this time included, when it is to be told
        now; else 0.
        """
        known = self._told.get(key)
        if known is not None and now < known.at + EVERY_S:
            known.since += 1
            return 0
        self._told.pop(key, None)
        self._told[key] = _Told(now)
        if len(self._told) > MOST:
            del self._told[next(iter(self._told))]
        return known.since + 1 if known else 1

    def forget(self, name: str) -> None:
        """Let everything that begins with `name` be news again."""
        for key in [key for key in self._told if key[0] == name]:
            del self._told[key]

    def clear(self) -> None:
        """Forget everything."""
        self._told.clear()
