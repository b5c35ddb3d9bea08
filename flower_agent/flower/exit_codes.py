"""What the end of a Flower container and its log lines mean. Pure.

A Flower program ends with status 0 or 1 only (2: arguments, 3: its HTTP server did not start).
The documented exit codes stand in coloured log text (``flwr/{common,supercore}/exit/exit.py``), and
some ends are not told at all. Texts and ends were seen in live runs of 1.23, 1.25, 1.29, 1.30,
1.35 to 1.40 and 1.42; ``docs/errors.md`` names the codes used here.

Codes: ``ExitCode`` of flwr 1.23 to 1.42 (``flwr/{common,supercore}/exit/exit_code.py``); each
number keeps its meaning over the versions. Log lines: as printed by live runs.
"""

import dataclasses
import enum
import re
from collections.abc import Iterable, Iterator

from flower_agent.model import foreign_text

_LOGS = "Read the lines above it: flower-agent logs"
_APP = "Read the run's log; the containers stay as they are."
_REPORT = "This is an error of the agent: report it with the container's log."
_LICENCE = "Use the open-source images (FLOWER_IMAGE_PREFIX=flwr)."


@dataclasses.dataclass(frozen=True, slots=True)
class Meaning:
    """What a code or a line means and what to do about it."""

    text: str
    """Half a sentence, to go on from "it ended: "; ``{0}`` is what the line names."""

    hint: str = ""
    """Empty means what the error's own entry in `error_codes` says."""

    error: str = "container.exited"
    """The code of `error_codes.CATALOGUE` that fits best."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sign:
    """A log line with the reason of a program's end."""

    pattern: re.Pattern[str]
    meaning: Meaning

    clean: bool = False
    """Also explains an end with status 0."""

    client: bool = False
    """Explains the end of a client only: a SuperLink prints such lines about its peers."""


FLOWER_CODES: dict[int, Meaning] = {
    100: Meaning("a background thread of the SuperLink crashed", _LOGS),
    101: Meaning("the Flower Enterprise licence is invalid or has expired", _LICENCE),
    102: Meaning("the image needs a Flower Enterprise licence", _LICENCE),
    103: Meaning("the Flower Enterprise licence server's URL is wrong", _LICENCE),
    104: Meaning(
        "the SuperLink refuses its arguments", "Check that the image matches FLOWER_VERSION."
    ),
    105: Meaning(
        "the database was written by a Flower version whose database this version cannot use",
        "Set FLOWER_VERSION back. A database from before an upgrade may be in "
        "/var/lib/flower-agent/copies on the SuperLink's VM.",
    ),
    300: Meaning("the SuperLink's address is not the address of its REST API", _REPORT),
    302: Meaning(
        "the node's private key is not an elliptic-curve key in OpenSSH format",
        "Create a key with: ssh-keygen -t ecdsa -b 384",
    ),
    303: Meaning(
        "SuperNode authentication requires TLS", "Set TLS_ENABLED=YES, or FLOWER_NODE_AUTH=NO."
    ),
    304: Meaning("the file of trusted entities is not valid", _REPORT),
    305: Meaning("the SuperNode could not connect to the SuperLink", _LOGS, "peer.waiting"),
    400: Meaning("the SuperExec's plugin configuration is not valid", _REPORT),
    401: Meaning("the SuperExec's secret cannot be read", _REPORT),
    402: Meaning("the SuperExec's executor configuration is not valid", _REPORT),
    500: Meaning(
        "the public key is not an elliptic-curve key in OpenSSH format",
        "Check FLOWER_NODE_PUBLIC_KEYS: want ecdsa-sha2-nistp384 AAAA…",
    ),
    600: Meaning("an address is not of the form host:port", "Check FLOWER_SERVER_ADDRESS."),
    601: Meaning("the image lacks Flower's REST extra", _REPORT),
    602: Meaning("this version's SuperExec cannot speak TLS", _REPORT),
    603: Meaning("TLS was both wanted and switched off", _REPORT),
    604: Meaning("a file of the command line does not exist", _REPORT),
    605: Meaning("the server certificate is incomplete or not valid", "Read: flower-agent status"),
    606: Meaning(
        "its Flower version differs from that of its peer",
        "Set the same FLOWER_VERSION on every VM of the service.",
        "version.mixed",
    ),
}
"""Codes that end a long-running program."""

APP_CODES: dict[int, Meaning] = {
    200: Meaning("the strategy got replies that it cannot aggregate", _APP),
    201: Meaning("the ServerApp raised an exception", _APP),
    202: Meaning("the strategy failed while aggregating", _APP),
    203: Meaning("the SuperLink refused to start the run", _APP),
    250: Meaning("the ClientApp lost its SuperNode", _APP),
    607: Meaning(
        "the app imports a module that the image lacks",
        "Set ML_FRAMEWORK, or use an image with the app's dependencies.",
    ),
    608: Meaning(
        "the app's dependencies could not be installed",
        "Use an image with the dependencies; installation at run time is off.",
    ),
    700: Meaning("the simulation raised an exception", _APP),
    701: Meaning("the image lacks Flower's simulation extra", _APP),
    800: Meaning("a task of the app raised an exception", _APP),
}
"""Codes of the apps, which end a child process and never the container."""

PROCESS_CODES: dict[int, Meaning] = {
    0: Meaning("it ended by itself without an error", "The agent starts it again."),
    2: Meaning(
        "Flower does not know its arguments", "Check that the image matches FLOWER_VERSION."
    ),
    3: Meaning("its HTTP server did not start", _LOGS),
    125: Meaning("Docker could not run it", "journalctl -u docker"),
    126: Meaning("the image's program cannot be executed", "Check FLOWER_IMAGE_PREFIX."),
    127: Meaning("the image lacks the program", "Check FLOWER_IMAGE_PREFIX."),
    137: Meaning(
        "it was killed (SIGKILL)",
        "If nobody stopped it, the VM ran out of memory: journalctl -k | grep -i oom",
    ),
    139: Meaning("it crashed (SIGSEGV)", "Check that the image fits the VM's processor."),
    143: Meaning("it was stopped while it was starting", "The agent starts it again."),
    255: Meaning("the VM lost power or was reset", "The agent starts it again."),
}

OUT_OF_MEMORY = Meaning(
    "it was killed because it ran out of memory",
    "Give the VM more memory, or raise FLOWER_MEMORY_LIMIT.",
)

LOST = Meaning(
    "its SuperLink no longer knows it, its clock is wrong, or somebody stopped it",
    "The agent starts it again; if it ends again, compare the clocks.",
)

SILENT_REFUSAL = Meaning(
    "the SuperLink refused it without a reason, as with a wrong clock",
    error="peer.clock",
)


def _sign(pattern: str, text: str, hint: str = "", error: str = "container.exited") -> Sign:
    return Sign(re.compile(pattern, re.MULTILINE), Meaning(text, hint, error))


def _client(pattern: str, text: str, hint: str = "", error: str = "container.exited") -> Sign:
    return dataclasses.replace(_sign(pattern, text, hint, error), client=True)


def _clean(pattern: str, text: str, hint: str = "", error: str = "container.exited") -> Sign:
    return dataclasses.replace(_client(pattern, text, hint, error), clean=True)


SIGNS: tuple[Sign, ...] = (
    _sign(
        r"Port in server address (\S+) is already in use"
        r"|bind on address (\([^)\n]{0,100}\)): address already in use",
        "{0} was in use when it started",
        error="port.taken",
    ),
    _sign(
        r"bind on address (\([^)\n]{0,100}\)): cannot assign requested address",
        "{0} is not an address of this VM",
        error="address.unknown",
    ),
    _sign(
        r"Failed to bind to address ([^\s;]+)",
        "it cannot listen on {0}: not an address of this VM, or key and certificate do not fit",
        "Compare with: ip address; flower-agent status",
    ),
    _sign(
        r"KEY_VALUES_MISMATCH",
        "the server's key does not belong to its certificate",
        "Compare the CA in flower-agent status on both VMs.",
        "tls.key_mismatch",
    ),
    _sign(
        r"unable to open database file|attempt to write a readonly database|"
        r"database or disk is full",
        "the SuperLink cannot write its database",
        "On the SuperLink's VM: df -h /var/lib/flower-agent/superlink; ls -la "
        "/var/lib/flower-agent/superlink (group 49999, writable).",
        "state.unwritable",
    ),
    _sign(
        r"database disk image is malformed|file is not a database",
        "the SuperLink's database, superlink/state.db on its VM, is damaged",
        "On the SuperLink's VM: flower-agent down; cp -a /var/lib/flower-agent/superlink /root/; "
        "put a backup in the place of /var/lib/flower-agent/superlink/state.db (copies from "
        "upgrades are in /var/lib/flower-agent/copies); systemctl start flower-agent. Only without "
        "any backup move state.db away: that loses runs and nodes.",
        "state.corrupt",
    ),
    _sign(
        r"Can't locate revision identified by",
        "the database was written by a newer Flower version",
        "Set FLOWER_VERSION back. A database from before an upgrade may be in "
        "/var/lib/flower-agent/copies on the SuperLink's VM.",
    ),
    _sign(r"No space left on device", "the disk is full", "Make room: df -h", "state.unwritable"),
    _sign(
        r"\[Errno 13\] Permission denied: '([^']*)'",
        "Flower's user (49999) cannot use {0}",
        "Check owner and mode of the mounted directory.",
        "state.unwritable",
    ),
    _sign(
        r"Path argument `([^`]*)` does not point to a file",
        "the file of {0} is not in the container",
        _REPORT,
    ),
    _sign(r"Certificates are required unless", "the SuperLink got no certificate", _REPORT),
    _clean(r"Invalid timestamp", "the SuperLink refuses this VM's clock", error="peer.clock"),
    _client(
        r"No SuperNode found with the given public key|Failed to activate SuperNode",
        "the SuperLink does not know this node's key (yet)",
        error="enrol.waiting",
    ),
    _client(
        r"SuperNode with node ID \d+ could not be activated",
        "the SuperLink still counts its last connection as active",
        error="peer.ghost",
    ),
    _client(
        r"All SuperNodes must be registered via the CLI",
        "the SuperLink requires a node key and this node has none",
        error="enrol.mismatch",
    ),
    _clean(
        r"Node ID \d+ not found|Invalid node ID|does not recognize this SuperNode",
        "the SuperLink no longer knows this node: it lost its database",
        "The agent starts it again, under a new node ID.",
    ),
    _clean(
        r"'401 Unauthorized' for url '[^'\n]*/v1/fleet/",
        "the SuperLink no longer knows this node, or refuses its clock",
        "The agent starts it again; if it ends again, compare the clocks.",
    ),
    _client(
        r"Hostname Verification Check failed|Hostname mismatch|IP address mismatch",
        "the SuperLink's certificate does not contain the address in use",
        error="endpoint.wrong_name",
    ),
    _client(
        r"certificate has expired|certificate is not yet valid",
        "the SuperLink's certificate is not valid at this VM's time",
        error="endpoint.expired",
    ),
    _client(
        r"CERTIFICATE_VERIFY_FAILED",
        "the SuperLink's certificate was not issued by the trusted CA",
        error="endpoint.untrusted",
    ),
    _client(
        r"WRONG_VERSION_NUMBER",
        "the other side does not use TLS",
        error="endpoint.plaintext",
    ),
    _client(
        r"Failed to create security handshaker|NO_CERTIFICATE_OR_CRL_FOUND",
        "the CA file holds no certificate",
        _REPORT,
    ),
    _client(
        r"runtime version mismatch",
        "its Flower version differs from that of its peer",
        error="version.mixed",
    ),
    _client(
        r"Method not found!",
        "another Flower API, or another version, answers there",
        error="endpoint.not_flower",
    ),
    _sign(
        r"error: (unrecognized arguments: .*|argument .*|the following arguments .*)$",
        "Flower does not accept its arguments ({0})",
        "Check that the image matches FLOWER_VERSION.",
    ),
)
"""The last of these in a log says why; where two begin at one place, the later entry."""


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
    """The remedy; empty: the remedy of ``container.exited``."""

    error: str = "container.exited"
    """The code of `error_codes.CATALOGUE` that fits best."""


class Refusal(enum.StrEnum):
    """Why a SuperLink refused a SuperNode."""

    CLOCK = "clock"
    """Its clock is more than 5 s ahead or 305 s behind."""

    UNREGISTERED = "unregistered"
    """Its key is not registered (yet, or any more)."""

    GHOST = "ghost"
    """The SuperLink counts the last connection of its key as active, for a minute after a kill.

    From 1.36 on it says the same as of a key that is not registered.
    """

    NO_KEY = "no_key"
    """It has no key, and the SuperLink requires one."""

    FORGOTTEN = "forgotten"
    """The SuperLink lost its database and with it this node."""


@dataclasses.dataclass(frozen=True, slots=True)
class NodeConnection:
    """A SuperNode's connection, from its log since its start."""

    node_id: str | None
    """The last one that it printed; 1.23 prints none (``flower_versions.Band.announces_node``)."""

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
        """Return whether the SuperLink refuses this VM's clock."""
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
    """Return whether the reason, if there is one, stands in the log."""
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
        return SILENT_REFUSAL if whole and node_connection(text.split("\n")).clock_refused else LOST
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


def node_connection(log_lines: Iterable[str]) -> NodeConnection:
    """Return the state of a SuperNode's connection from its log since its start.

    ``SuperNode ID`` stands in ``flwr/supernode/start_client_internal.py`` from 1.24, the lines
    about retries in ``flwr/common/retry_invoker.py`` up to 1.31, then in
    ``flwr/supercore/retry/{grpc,http}_retry.py``. From 1.29 a node whose clock is refused ends
    with status 0 and without a word, which shows as an end before any id.
    """
    node_id, last, cause, retry, broken = None, None, "", "", False
    for line in log_lines:
        for kind, found in _kinds(foreign_text.printable(line, limit=foreign_text.LINE)):
            match kind:
                case _Kind.CAUSE:
                    cause = found
                    continue
                case _Kind.NODE:
                    node_id, broken = found, False
                case _Kind.RETRY:
                    retry = found
                case _Kind.BROKEN:
                    broken = True
                case _Kind.BACK | _Kind.GONE:
                    pass
            if kind in (_Kind.NODE, _Kind.BACK):
                cause = retry = ""
            last = kind
    forgotten = _refusal(cause) is Refusal.FORGOTTEN
    connected = node_id is not None and last in (_Kind.NODE, _Kind.BACK) and not forgotten
    silent = last is _Kind.GONE and not (node_id or cause or retry)
    why = None if connected else _refusal(cause) or (Refusal.CLOCK if silent else None)
    # Most that gave up end by themselves a moment later; one that does not works no more.
    failed = broken or (why is None and retry.startswith("Giving up"))
    return NodeConnection(node_id, connected, "" if connected else cause or retry, why, failed)


def _kinds(line: str) -> Iterator[tuple[_Kind, str]]:
    for kind in _Kind:
        match = kind.value.search(line)
        if match:
            yield kind, next(group for group in match.groups() if group is not None)


def _refusal(cause: str) -> Refusal | None:
    return next((why for why, words in _REFUSALS.items() if words.search(cause)), None)
