"""The progress of a run and the results of its clients, from its ServerApp's log. Pure.

Leans on what Flower logs: ``flwr.serverapp.strategy`` (1.23 to 1.42) and the older ``flwr.server``
both write ``[ROUND n…]`` and ``… received N results and M failures``; the former writes each record
of metrics on a line of its own, and the reason of each failed reply. An app that brings a loop of
its own writes none of it, and is followed by its state alone.

A node chooses the text of its failures, and an app prints what it likes: all of this is the app's
own word. So lines, rounds, metrics and causes are bounded, and nothing searches back in a line.
"""

import ast
import dataclasses
import json
import math
import re
from collections.abc import Mapping

from flower_agent.flower.exit_codes import strip_ansi
from flower_agent.model.errors import counted

LINE_MAX = 1 << 16
"""Most read characters of a line."""

ROUNDS_MAX = 5000
METRICS_MAX = 100
"""Of one record; also values of a list in it."""

HELD_MAX = 4 << 20
METRICS_LEAST = 5
"""Once a run's records had so many characters, so many plain metrics are kept of each."""

SUMMARY_ROUNDS = 3
SHOWN = 4
"""Metrics that other VMs may see."""

CAUSES_MAX = 5
"""Most different causes of one round."""

_CAUSE_MAX = 200
_NAME_MAX = 100
_TELLING = re.compile(
    r"\[ROUND |Number of rounds|num_rounds=|eceived|valuation|MetricRecord|fit progress|"
    r"Error|Exception|Interrupt|Exit|Warning"
)
"""Parts of important lines; most lines have none of them."""

_PLAIN = re.compile(r"[A-Za-z0-9_./-]{1,40}", re.ASCII)
_ROUND = re.compile(r"\[ROUND (\d{1,9})(?:/(\d{1,9}))?\]")
_TOTAL = re.compile(r"Number of rounds: (\d{1,9})|config: num_rounds=(\d{1,9})")
_PART = re.compile(r"aggregate_(train|evaluate|fit): [Rr]eceived|(Global evaluation)$")
_REPLIES = re.compile(r": [Rr]eceived (\d{1,9}) results and (\d{1,9}) failures")
_FAILED = re.compile(r"Received error in reply from node \d{1,20}: ")
_CLASS = re.compile(r"<class '([\w.]{1,200})'>:<'")
_RECORD = "└──> "
_AGGREGATED = "Aggregated "
_METRICS = "MetricRecord: {"
_CENTRAL = "fit progress: ("
_NAMED_ERROR = re.compile(
    r"(?:[A-Za-z_][\w.]{0,200}\.)?[A-Z]\w{0,100}(?:Error|Exception|Interrupt|Exit|Warning)(?::.*)?$"
)
_FIRST, _PARTS = "train", {"fit": "train", "Global evaluation": "server"}


@dataclasses.dataclass(frozen=True, slots=True)
class Replies:
    """How many of the clients' replies counted in one part of a round."""

    results: int
    failures: int


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """One round's metrics: ``train`` and ``evaluate`` of the nodes, ``server`` of the ServerApp."""

    number: int
    metrics: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)

    replies: Mapping[str, Replies] = dataclasses.field(default_factory=dict)
    """For ``train`` and ``evaluate``, if the strategy logged them."""

    causes: tuple[str, ...] = ()
    """Why replies failed, each once: ``ValueError: no column 'age'``."""

    @property
    def failed(self) -> bool:
        """Whether a reply failed, or none counted where some were asked for."""
        return any(each.failures or not each.results for each in self.replies.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run."""

    total: int | None = None
    rounds: tuple[Round, ...] = ()
    """The begun rounds in order; the newest `ROUNDS_MAX`."""

    part: str = _FIRST
    """The part of the round of the next record."""

    cause: str = ""
    """The last error that the ServerApp wrote, in one line."""

    rest: str = ""
    """The beginning of a line whose end has not come yet."""

    held: int = 0
    """Characters of the records so far."""

    @property
    def number(self) -> int:
        """The round that runs, or the last one; 0 before the first."""
        return self.rounds[-1].number if self.rounds else 0

    def newest(self) -> "Progress":
        """Return the part of an ended run that a summary needs; the rest is in its files."""
        return dataclasses.replace(self, rounds=self.rounds[-SUMMARY_ROUNDS:], rest="")

    def __str__(self) -> str:
        """Return such as ``3 of 10``; empty before the first round."""
        if not self.rounds:
            return ""
        return f"{self.number} of {self.total}" if self.total else str(self.number)


def follow(progress: Progress, text: str) -> Progress:
    """Return the progress after more of the ServerApp's output."""
    *lines, rest = (progress.rest + text).split("\n")
    rounds = list(progress.rounds)
    reading = _Reader(progress.total, rounds, progress.part, progress.cause, progress.held)
    for line in lines:
        if _TELLING.search(line, 0, LINE_MAX):
            reading.line(strip_ansi(line[:LINE_MAX]).rstrip())
    newest = tuple(reading.rounds[-ROUNDS_MAX:])
    cause, held = reading.cause, reading.held
    return Progress(reading.total, newest, reading.part, cause, rest[:LINE_MAX], held)


def document(progress: Progress) -> bytes:
    """Return the metrics as JSON, one line a round: ``{"round": 1, "train": {"loss": 0.5}, …}``.

    ``replies`` has results and failures of each part, ``causes`` why replies failed.
    """
    return "".join(json.dumps(row(each)) + "\n" for each in progress.rounds).encode()


def row(each: Round) -> dict[str, object]:
    """Return one round for JSON."""
    found: dict[str, object] = {"round": each.number, **each.metrics}
    if each.replies:
        found["replies"] = {part: dataclasses.asdict(n) for part, n in each.replies.items()}
    if each.causes:
        found["causes"] = list(each.causes)
    return found


def summary(progress: Progress) -> str:
    """Return the newest metrics of the last round that has some: ``accuracy 0.875, loss 0.486``.

    Others read it, and apps and nodes choose the names: few of them, and only plain ones.
    """
    for each in reversed(progress.rounds):
        found = {name: value for name, value in _seen(each).items() if _PLAIN.fullmatch(name)}
        if found:
            return _words(dict(sorted(found.items())[:SHOWN]))
    return ""


def measured(each: Round) -> str:
    """Return the most general metrics of a round: ServerApp, else evaluation, else train.

    Empty where it has none.
    """
    return _words(_seen(each))


def _seen(each: Round) -> dict[str, float]:
    for part in ("server", "evaluate", "train"):
        found = each.metrics.get(part)
        if found:
            return {k: v for k, v in found.items() if isinstance(v, int | float)}
    return {}


def _words(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in sorted(metrics.items()))


def replies(each: Round) -> str:
    """Return the failures of a round's clients; empty if there was none.

    ``0 results, 2 failures: ValueError: no column 'age'``, after ``evaluation:`` where training did
    well.
    """
    for part, count in each.replies.items():
        if count.failures or not count.results:
            which = "evaluation: " if part == "evaluate" else ""
            why = f": {each.causes[-1]}" if each.causes else ""
            return f"{which}{tally(count.results, count.failures)}{why}"
    return ""


def tally(results: int, failures: int) -> str:
    """Return ``1 result, 2 failures``."""
    return f"{counted(results, 'result')}, {counted(failures, 'failure')}"


@dataclasses.dataclass(slots=True)
class _Reader:
    """The state while lines are read; a new round does not copy the rounds before it."""

    total: int | None
    rounds: list[Round]
    part: str
    cause: str
    held: int

    def line(self, line: str) -> None:
        """Take one line without colours."""
        if found := _ROUND.search(line):
            self._begin(int(found[1]), int(found[2]) if found[2] else self.total)
        elif found := _TOTAL.search(line):
            self.total = int(found[1] or found[2])
        elif found := _PART.search(line):
            word = found[1] or found[2]
            self.part = _PARTS.get(word, word)
            self._replied(line)
        elif found := _FAILED.search(line):
            self._failed(cause_of(line[found.end() :]))
        elif found := _NAMED_ERROR.match(line.strip()[: 2 * _CAUSE_MAX]):
            self.cause = found[0][:_CAUSE_MAX]
        else:
            self._metrics(line)

    def _begin(self, number: int, total: int | None) -> None:
        self.rounds.append(Round(number))
        self.total, self.part = total, _FIRST
        if len(self.rounds) > 2 * ROUNDS_MAX:
            del self.rounds[:ROUNDS_MAX]

    def _replied(self, line: str) -> None:
        found = _REPLIES.search(line)
        if found is not None and self.rounds:
            count = Replies(int(found[1]), int(found[2]))
            self._last(replies={**self.rounds[-1].replies, self.part: count})

    def _failed(self, cause: str) -> None:
        known = self.rounds[-1].causes if self.rounds else ()
        if self.rounds and cause not in known and len(known) < CAUSES_MAX:
            self._last(causes=(*known, cause))

    def _metrics(self, line: str) -> None:
        _, arrow, record = line.rpartition(_RECORD)
        record = record.removeprefix(_AGGREGATED)
        if arrow and record.startswith(_METRICS) and record.endswith("}"):
            self._measured(self.part, self._record(record[len(_METRICS) - 1 :]))
            return
        _, told, record = line.rpartition(_CENTRAL)
        if told and record.endswith(")"):
            _, _, rest = record.partition(", ")
            loss, _, rest = rest.partition(", ")
            metrics, _, _ = rest.rpartition(", ")
            self._measured("server", {"loss": _number(loss), **self._record(metrics)})

    def _record(self, text: str) -> dict[str, object]:
        """Return a record, and less of it once the run has had very many."""
        self.held += len(text)
        found = _record(text)
        if self.held < HELD_MAX:
            return found
        plain = [(key, value) for key, value in found.items() if not isinstance(value, list)]
        return dict(plain[:METRICS_LEAST])

    def _measured(self, part: str, record: Mapping[str, object]) -> None:
        if self.rounds and record:
            self._last(metrics={**self.rounds[-1].metrics, part: record})

    def _last(self, **changes: object) -> None:
        self.rounds[-1] = dataclasses.replace(self.rounds[-1], **changes)  # type: ignore[arg-type]  # its own fields


def cause_of(reason: str) -> str:
    """Return why a reply failed: Flower sends ``<class 'ValueError'>:<'no column'>`` or words."""
    found = _CLASS.match(reason[: 2 * _CAUSE_MAX])
    if found is None:
        return _plain(reason)
    text = reason[found.end() : found.end() + _CAUSE_MAX].removesuffix("'>")
    name = found[1].rpartition(".")[2]
    return _plain(f"{name}: {text}" if text else name)


def _plain(text: str) -> str:
    return " ".join(text[: 2 * _CAUSE_MAX].split())[:_CAUSE_MAX]


def _record(text: str) -> dict[str, object]:
    """Return a record that Python printed; ``nan`` and ``inf``, which JSON lacks, are None."""
    plain = re.sub(r"(?<=[:\[, ])-?(?:nan|inf)\b", "None", text)
    plain = re.sub(r"\bnp\.\w{1,20}\(([^()]{0,100})\)", r"\1", plain)
    try:
        found = ast.literal_eval(plain)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    kept = [(str(k)[:_NAME_MAX], v) for k, v in found.items() if _is_metric(v)]
    return dict(kept[:METRICS_MAX])


def _is_metric(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= METRICS_MAX and all(map(_is_number, value))
    return _is_number(value)


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    small = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value is None or small


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
