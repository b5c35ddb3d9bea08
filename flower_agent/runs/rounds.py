"""How far a run is, from what its ServerApp wrote. Pure.

Leans on what Flower logs: ``flwr.serverapp.strategy`` (1.23 to 1.42) and the older ``flwr.server``
both write ``[ROUND n…]``; the former writes each record of metrics on a line of its own. An app
that brings a loop of its own writes none of it, and is followed by its state alone.
"""

import ast
import dataclasses
import json
import math
import re
from collections.abc import Mapping

from flower_agent.probes.exits import strip_ansi

_ROUND = re.compile(r"\[ROUND (\d{1,9})(?:/(\d{1,9}))?\]")
_TOTAL = re.compile(r"Number of rounds: (\d{1,9})|config: num_rounds=(\d{1,9})")
_PART = re.compile(r"aggregate_(train|evaluate|fit): [Rr]eceived|(Global evaluation)$")
_METRICS = re.compile(r"└──> (?:Aggregated )?MetricRecord: (\{.*\})$")
_CENTRAL = re.compile(r"fit progress: \((\d+), ([^,]+), (\{.*?\}), [\d.]+\)")
_NAMED_ERROR = re.compile(
    r"(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)(?::.*)?$"
)
_LINE_MAX = 100_000
_CAUSE_MAX = 200
_FIRST, _PARTS = "train", {"fit": "train", "Global evaluation": "server"}


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """One round's metrics: ``train`` and ``evaluate`` of the nodes, ``server`` of the ServerApp."""

    number: int
    metrics: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    total: int | None = None
    rounds: tuple[Round, ...] = ()
    """Those that have begun, in order."""

    part: str = _FIRST
    """To which part of the round the next record belongs."""

    cause: str = ""
    """The last error that the ServerApp wrote, in one line."""

    rest: str = ""
    """The beginning of a line whose end has not come yet."""

    @property
    def number(self) -> int:
        """The round that runs, or the last one; 0 before the first."""
        return self.rounds[-1].number if self.rounds else 0

    def __str__(self) -> str:
        """Return such as ``3 of 10``; empty before the first round."""
        if not self.rounds:
            return ""
        return f"{self.number} of {self.total}" if self.total else str(self.number)


def follow(progress: Progress, text: str) -> Progress:
    """Return the progress after more of the ServerApp's output."""
    *lines, rest = (progress.rest + text).split("\n")
    for line in lines:
        progress = _line(progress, strip_ansi(line).rstrip())
    return dataclasses.replace(progress, rest=rest[-_LINE_MAX:])


def document(progress: Progress) -> bytes:
    """Return the metrics as JSON, one line a round: ``{"round": 1, "train": {"loss": 0.5}, …}``."""
    rows = ({"round": each.number, **each.metrics} for each in progress.rounds)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def summary(progress: Progress) -> str:
    """Return the newest metrics of the last round that has some: ``accuracy 0.875, loss 0.486``."""
    return next(filter(None, map(measured, reversed(progress.rounds))), "")


def measured(each: Round) -> str:
    """Return the metrics of a round as seen from farthest: ServerApp, else evaluation, else train.

    Empty where it has none.
    """
    for part in ("server", "evaluate", "train"):
        found = each.metrics.get(part)
        if found:
            plain = {k: v for k, v in sorted(found.items()) if isinstance(v, int | float)}
            return ", ".join(f"{key} {value:.4g}" for key, value in plain.items())
    return ""


def _line(progress: Progress, line: str) -> Progress:
    replace = dataclasses.replace
    if found := _ROUND.search(line):
        number, total = int(found[1]), int(found[2]) if found[2] else progress.total
        rounds = (*progress.rounds, Round(number))
        return replace(progress, rounds=rounds, total=total, part=_FIRST)
    if found := _TOTAL.search(line):
        return replace(progress, total=int(found[1] or found[2]))
    if found := _PART.search(line):
        word = found[1] or found[2]
        return replace(progress, part=_PARTS.get(word, word))
    if found := _NAMED_ERROR.match(line.strip()):
        return replace(progress, cause=found[0][:_CAUSE_MAX])
    return _metrics(progress, line)


def _metrics(progress: Progress, line: str) -> Progress:
    if found := _METRICS.search(line):
        return _measured(progress, progress.part, _record(found[1]))
    if found := _CENTRAL.search(line):
        return _measured(progress, "server", {"loss": _number(found[2]), **_record(found[3])})
    return progress


def _measured(progress: Progress, part: str, record: Mapping[str, object]) -> Progress:
    if not progress.rounds or not record:
        return progress
    *before, last = progress.rounds
    return dataclasses.replace(
        progress, rounds=(*before, Round(last.number, {**last.metrics, part: record}))
    )


def _record(text: str) -> dict[str, object]:
    """Return a record that Python printed; ``nan`` and ``inf``, which JSON lacks, are None."""
    plain = re.sub(r"(?<=[:\[, ])-?(?:nan|inf)\b", "None", text)
    plain = re.sub(r"\bnp\.\w+\(([^()]*)\)", r"\1", plain)
    try:
        found = ast.literal_eval(plain)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if _is_metric(value)}


def _is_metric(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_metric(each) for each in value)
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
