"""What a Flower container's end and its log lines mean. Pure.

A Flower program ends with status 0 or 1 only (2: arguments, 3: its HTTP server did not start).
The documented exit codes stand in coloured log text (``flwr/{common,supercore}/exit/exit.py``), and
some ends are not told at all. Texts and ends were seen in live runs of 1.23, 1.25, 1.29, 1.30,
1.35 to 1.40 and 1.42; ``docs/errors.md`` names the codes used here.
"""

import dataclasses
import enum
import re
from collections.abc import Iterable, Iterator

from flower_agent import foreign_text

from .exit_table import (
    FLOWER_CODES,
    LOST,
    OUT_OF_MEMORY,
    PROCESS_CODES,
    SIGNS,
    SILENT_REFUSAL,
    Meaning,
)

_FLOWER_CODE = re.compile(r"Exit Code: (\d{1,4})\b")
_SUPERLINK = re.compile(r"Starting Flower SuperLink|\[Fleet\.|\[/flwr\.|\[uvicorn\.")
_LEFT = "SuperNode terminated gracefully"
_IDLE = re.compile(r"INFO\b|DEBUG\b|\S+Z INFO\b|For more information, visit")
_LAST_WORDS = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Exit:
    """Why a container ended."""

    code: int | None
    """The status that Docker reports; None while it runs."""

    flower_code: int | None
    """Flower's own exit code, out of the log."""

    meaning: str
    """Half a sentence that goes on from "it ended: "; empty where nothing is known."""

    hint: str
    """What to do next; empty means what ``container.exited`` says."""

    error: str = "container.exited"
    """The code of `catalogue.CATALOGUE` that fits best."""


class Refusal(enum.StrEnum):
    """Why a SuperLink turned a SuperNode away."""

    CLOCK = "clock"
    """Its clock is more than 5 s ahead or 305 s behind."""

    UNREGISTERED = "unregistered"
    """Its key is not registered (yet, or any more)."""

    GHOST = "ghost"
    """The SuperLink takes the last connection of its key for alive, for a minute after a kill.

    From 1.36 on it says the same as of a key that is not registered.
    """

    NO_KEY = "no_key"
    """It has no key, and the SuperLink wants one."""

    FORGOTTEN = "forgotten"
    """The SuperLink lost its database and with it this node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """A SuperNode's connection, as its log since its start tells it."""

    node_id: str | None
    """The last one that it printed; 1.23 prints none (``flower.Band.announces_node``)."""

    connected: bool
    """It printed an id, and no trouble since."""

    detail: str
    """The last reason given while not connected; often Flower gives none."""

    refusal: Refusal | None = None

    failed: bool = False
    """Its main thread has ended and it will not connect again, although its process may live on
    (seen from 1.30 to 1.37): it wants a restart."""

    @property
    def clock_refused(self) -> bool:
        """Tell whether the SuperLink refuses this VM's clock."""
        return self.refusal is Refusal.CLOCK


class _Kind(enum.Enum):
    NODE = re.compile(r"SuperNode ID: (\d+)")
    RETRY = re.compile(r"(Connection attempt failed, retrying in .*|Giving up reconnection .*)")
    BACK = re.compile(r"(Connection successful after )")
    BROKEN = re.compile(r"^(RuntimeError: generator didn't yield|KeyboardInterrupt\b)")
    GONE = re.compile(rf"({_LEFT})")
    CAUSE = re.compile(
        r'"public_message": "([^"]*)"|details = "(.*)"|OPENSSL_internal:([^"]{0,120}?)(?:: OK)?"?$'
        r"|^(\[SSL: .*)|^(\[code: \d+\] .*)|Connection attempt failed with exception: (.*)"
        r"|(Path argument `[^`]*` does not point to a file)"
        r"|('401 Unauthorized' for url '(?:(?!/v1/fleet/)[^'])*+/v1/fleet/[^']*+')"
    )


_REFUSALS = {
    Refusal.CLOCK: re.compile(r"Invalid timestamp"),
    Refusal.UNREGISTERED: re.compile(
        r"No SuperNode found with the given public key|Failed to activate Super"
    ),
    Refusal.GHOST: re.compile(r"SuperNode with node ID \d+ could not be activated"),
    Refusal.NO_KEY: re.compile(r"All SuperNodes must be registered via the CLI"),
    Refusal.FORGOTTEN: re.compile(
        r"Node ID \d+ not found|Invalid node ID|does not recognize this SuperNode"
        r"|'401 Unauthorized'"
    ),
}


def explain(exit_code: int | None, oom_killed: bool, log_tail: str) -> Exit:  # noqa: FBT001
    """Return why a container ended, from Docker's state and the end of its log.

    Status 0 of a program that should run for ever is a failure too. With None, of a container
    that runs, only its log is looked at.
    """
    text = "\n".join(foreign_text.lines(log_tail))
    numbers = [int(number) for number in _FLOWER_CODE.findall(text)] if _tells(exit_code) else []
    code = next((number for number in reversed(numbers) if number in FLOWER_CODES), None)
    meaning = OUT_OF_MEMORY if oom_killed else _meaning(exit_code, code, text)
    return Exit(exit_code, code, meaning.text, meaning.hint, meaning.error)


def _tells(exit_code: int | None) -> bool:
    """Tell whether the reason, if there is one, stands in the log."""
    return exit_code in (None, 0, 1, 2, 3)


def _meaning(exit_code: int | None, code: int | None, text: str) -> Meaning:
    told = _from_log(exit_code, text) if _tells(exit_code) else None
    if told is None and code is not None:
        told = FLOWER_CODES[code]
    if told is not None:
        return told
    if exit_code is None:
        return Meaning("")
    return PROCESS_CODES.get(exit_code) or _last_words(exit_code, text)


def _from_log(exit_code: int | None, text: str) -> Meaning | None:
    """Return what the last telling line says; an end with status 0 has few."""
    serves = _SUPERLINK.search(text) is not None
    found = [
        (match.start(), place, sign.meaning, [group for group in match.groups() if group])
        for place, sign in enumerate(SIGNS)
        if (sign.clean or exit_code != 0) and not (sign.client and serves)
        for match in sign.pattern.finditer(text)
    ]
    if found:
        _, _, meaning, names = max(found, key=lambda each: each[:2])
        return dataclasses.replace(meaning, text=meaning.text.format(*names))
    if exit_code == 0 and _LEFT in text:
        whole = "Starting Flower SuperNode" in text
        return SILENT_REFUSAL if whole and peer(text.split("\n")).clock_refused else LOST
    return None


def _last_words(exit_code: int, text: str) -> Meaning:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.split("\n")]
    said = (line for line in lines if re.search(r"\w", line) and not _IDLE.match(line))
    *_, words = ("", *said)
    return Meaning(f"status {exit_code}" + (f", after: {words[:_LAST_WORDS]}" if words else ""))


def strip_ansi(text: str) -> str:
    """Return `text` without colours; Flower colours its logs even without a terminal."""
    return foreign_text.printable(text)


def telling(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the few lines that `peer` needs of `lines`, in order: the last of each kind.

    ``peer(telling(a + b)) == peer(telling(telling(a) + b)) == peer(a + b)``, so a log can be read
    piece by piece and forgotten.
    """
    last: dict[_Kind, str] = {}
    for line in lines:
        plain = foreign_text.printable(line, limit=foreign_text.LINE)
        for kind, _ in _kinds(plain):
            last.pop(kind, None)
            last[kind] = plain
    return tuple(dict.fromkeys(last.values()))


def peer(log_lines: Iterable[str]) -> Peer:
    """Return the state of a SuperNode's connection from its log since its start.

    ``SuperNode ID`` stands in ``flwr/supernode/start_client_internal.py`` from 1.24, the lines
    about retries in ``flwr/common/retry_invoker.py`` up to 1.31, then in
    ``flwr/supercore/retry/{grpc,http}_retry.py``. From 1.29 a node whose clock is refused ends
    with status 0 and without a word, which shows as an end before any id.
    """
    node_id, last, cause, retry, failed = None, None, "", "", False
    for line in log_lines:
        for kind, found in _kinds(foreign_text.printable(line, limit=foreign_text.LINE)):
            match kind:
                case _Kind.CAUSE:
                    cause = found
                    continue
                case _Kind.NODE:
                    node_id, failed = found, False
                case _Kind.RETRY:
                    retry = found
                case _Kind.BROKEN:
                    failed = True
                case _Kind.BACK | _Kind.GONE:
                    pass
            if kind in (_Kind.NODE, _Kind.BACK):
                cause = retry = ""
            last = kind
    forgotten = _refusal(cause) is Refusal.FORGOTTEN
    connected = node_id is not None and last in (_Kind.NODE, _Kind.BACK) and not forgotten
    silent = last is _Kind.GONE and not (node_id or cause or retry)
    why = None if connected else _refusal(cause) or (Refusal.CLOCK if silent else None)
    return Peer(node_id, connected, "" if connected else cause or retry, why, failed)


def _kinds(line: str) -> Iterator[tuple[_Kind, str]]:
    for kind in _Kind:
        match = kind.value.search(line)
        if match:
            yield kind, next(group for group in match.groups() if group is not None)


def _refusal(cause: str) -> Refusal | None:
    return next((why for why, words in _REFUSALS.items() if words.search(cause)), None)
