"""Which message a SuperNode lost, from its log. Pure.

Between SuperLink and ClientApp a message can be lost: Flower 1.25 under load fails with ``Both
bytes_sent and bytes_recv cannot be zero``, and a push session of 1.42 expires. The SuperNode logs
that, forgets the message without a report, so the run waits for its answer until its time-out.
Which version logs what: `flower_versions.Band.losses`.
"""

import dataclasses
import re
from collections.abc import Iterable

from flower_agent.config.flower_versions import Band, Lost
from flower_agent.model.errors import Finding, warning

CODE = "run.message_lost"
TOLD = ("lost its message", "lost its answer")
"""What others are told of a run's ClientApp: its node never got the message, or the answer."""

_RUN = re.compile(r"\[RUN (\d{1,20})(?:, ROUND (\d{1,6}))?\b")
"""Flower's group of a message is the round where a strategy of Flower's own made it."""

_MESSAGE = re.compile(r"\b(?:Receiving|Sending): [^(]{1,80} message \(ID: ([0-9a-f]{64})\)")
_SENT = re.compile(r"\bSent successfully$")
_KNOWN_MAX = 16
"""Messages whose run is remembered; a SuperNode handles one at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """A lost message."""

    kind: Lost
    run: str
    """Its run; empty if the log no longer contains it."""

    round: str = ""
    """Its round, if known."""

    def short(self) -> str:
        """Return the same for OneGate: ``lost its answer; run 7``; empty without a run."""
        return f"{TOLD[self.kind is Lost.ANSWER]}; run {self.run}" if self.run else ""

    def finding(self) -> Finding:
        """Return the node's warning."""
        of = f"run {self.run or '?'}" + (f", round {self.round}" if self.round else "")
        answer = self.kind is Lost.ANSWER
        whose = "the SuperLink never got the answer" if answer else "no ClientApp got the message"
        return warning(CODE, f"the SuperNode lost a message of {of}: {whose}")


@dataclasses.dataclass(frozen=True, slots=True)
class Messages:
    """The messages that a SuperNode handled so far, from its log."""

    loss: Loss | None = None
    """The last message that was lost; None once a later answer arrived."""

    stuck: bool = False
    """It could not receive a message, and logged of no message since."""

    at: tuple[str, str] = ("", "")
    """Run and round of the message that it logged of last."""

    known: tuple[tuple[str, tuple[str, str]], ...] = ()
    """Run and round of the last few messages, by ID."""


def follow(before: Messages, lines: Iterable[str], band: Band) -> Messages:
    """Return what is known after some more lines, of which the first may have been seen before.

    The ID identifies the lost message: lines that are read twice change nothing.
    """
    loss, stuck, at, known = before.loss, before.stuck, before.at, dict(before.known)
    for line in lines:
        if found := _RUN.search(line):
            at, stuck = (found[1], found[2] or ""), False
        elif found := _MESSAGE.search(line):
            known.setdefault(found[1], at)
        elif _SENT.search(line):
            loss = None
        elif (told := _lost(line, band)) is not None:
            kind, name = told
            of = (name, "") if kind is Lost.TASK else known.get(name, at)
            loss, stuck = Loss(kind, *of), kind is Lost.MESSAGE
    return Messages(loss, stuck, at, tuple(known.items())[-_KNOWN_MAX:])


def _lost(line: str, band: Band) -> tuple[Lost, str] | None:
    """Return a line's kind of loss, and the message's ID or run."""
    found = ((kind, kind.value.search(line)) for kind in band.losses)
    return next(((kind, match[1]) for kind, match in found if match), None)
