"""What of a message makes it another cause: the journal is a story, no counter. Pure."""

import re

from flower_agent.errors import Finding

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
    """Return whether two findings tell of one cause."""
    if one is None or other is None:
        return one is other
    return one.code == other.code and gist(one.message) == gist(other.message)
