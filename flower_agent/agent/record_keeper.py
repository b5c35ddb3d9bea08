"""The daemon's side of the record: settings, versions, what a cycle did, and the head's hash.

The journal has the hash of the last entry each hour and at each rotation. So whoever keeps journals
elsewhere sees that somebody wrote the record anew.
"""

import contextlib
import hashlib
import hmac
import json
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping

import structlog

from flower_agent import __version__, files, record_file
from flower_agent.config.names import PREFIX
from flower_agent.config.settings import SETTINGS
from flower_agent.config.sources import Inputs, Intake
from flower_agent.cycle import Cycle
from flower_agent.model.errors import AgentError, ContextMissingError, Finding
from flower_agent.model.record import CONTEXT, MESSAGE_MAX, Entry, Event, Result
from flower_agent.model.state import State
from flower_agent.model.state_changes import changes
from flower_agent.paths import Paths
from flower_agent.record_file import Record

log = structlog.get_logger()

HEAD_S = 3600.0
"""The journal gets the hash of a changed record this often."""

MOST_REFUSALS = 5
"""Errors of one context in the record."""

_MAX_BYTES = 1 << 20
_NAMES = frozenset(row.name for row in SETTINGS if row.stem is None)
_STEMS = tuple(row.stem for row in SETTINGS if row.stem is not None)


class RecordKeeper:
    """Writes what the daemon does; a dry agent writes nothing. No method raises."""

    def __init__(
        self, paths: Paths, *, dry: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._paths = paths
        self._dry = dry
        self._clock = clock
        self._record = Record(paths.audit)
        self._known = KnownSettings(paths.audit.with_suffix(".settings.json"))
        self._errors: tuple[Finding, ...] = ()
        self._said_at = clock()
        self._said: tuple[object, int] = (None, 0)
        self._unwritable = False
        self._begun = False
        self._given: dict[str, str] | None = None
        """Settings that the record does not know yet."""

    def read(self, intake: Intake, *, new: bool) -> None:
        """Take the names of changed variables, or why a context is refused; `settle` writes it."""
        if self._dry:
            return
        errors = tuple(f for f in intake.errors if not f.is_a(ContextMissingError))
        fresh = [found for found in errors if found not in self._errors]
        self._errors = errors
        for found in fresh[:MOST_REFUSALS]:
            refused = Entry(
                what=Event.SETTINGS_REFUSED,
                who=CONTEXT,
                result=Result.REFUSED,
                message=str(found),
            )
            self._record.append(refused, now=self._clock())
        if new and intake.inputs is not None:
            self._given = given(intake.inputs)

    def took(self, cycle: Cycle) -> None:
        """Take what the stages of a cycle did; `settle` writes it."""
        if not self._dry:
            self._record.append(*cycle.entries, now=self._clock())
            cycle.entries.clear()

    def settle(self, cycle: Cycle, before: State) -> None:
        """Record the changes of the state, and warn while the record cannot be written."""
        if self._dry:
            return
        if not self._begun:
            self._begin()
        if self._given is not None:
            self._settings(self._given)
        self._record.append(*changes(before, cycle.state), now=self._clock())
        found = self._flush()
        if found is not None:
            cycle.report.warn(found)

    def end(self) -> None:
        """Write what waits, and the last hash."""
        if self._begun:
            self._flush()
            self._say(last=True)

    def _begin(self) -> None:
        """Record another version of the agent, and make the link beside the logs.

        Not before the first cycle: until then the state's disk may be missing.
        """
        self._begun = True
        try:
            record_file.link(self._paths.audit, self._paths.audit_link)
        except AgentError as error:  # a unit of an older package may not write there
            log.info("record.no_link", reason=error.finding.message)
        before = self._known.version
        if before != __version__:
            words = f"from {before} to {__version__}" if before else __version__
            self._record.append(Entry(what=Event.AGENT_VERSION, message=words))
            self._known.use_version(__version__)

    def _settings(self, values: Mapping[str, str]) -> None:
        for words in _pieces(self._known.differences(values)):
            self._record.append(Entry(what=Event.SETTINGS_CHANGED, who=CONTEXT, message=words))
        self._known.use_settings(values)
        self._given = None

    def _flush(self) -> Finding | None:
        found = self._record.flush(self._clock())
        if found is not None and not self._unwritable:
            log.warning("record.unwritable", message=found.message)
        self._unwritable = found is not None
        if self._record.repaired:
            log.warning("record.recovered", what=self._record.repaired)
            self._record.repaired = ""
        if not self._record.waiting:  # not before: an agent that dies finds the change again
            self._known.save()
        self._say()
        return found

    def _say(self, *, last: bool = False) -> None:
        """Log the head if it changed, at most hourly; at once after a rotation and at the end."""
        head, rotations = self._record.head, self._record.rotations
        if head is None or (head, rotations) == self._said:
            return
        now, rotated = self._clock(), rotations != self._said[1]
        if last or rotated or now >= self._said_at + HEAD_S:
            log.info("record.head", seq=head.number, sha256=head.hash)
            self._said, self._said_at = (head, rotations), now


class KnownSettings:
    """The settings that the record knows, so that a change is seen after a restart, too.

    The file has names, and of each value only an HMAC with a key of its own.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._document: dict[str, object] | None = None
        self._saved = True

    @property
    def version(self) -> str:
        """The agent's version that was recorded last; empty for none."""
        return str(self._load().get("agent") or "")

    def use_version(self, version: str) -> None:
        """Remember the agent's version; `save` keeps it."""
        self._keep({**self._load(), "agent": version})

    def differences(self, found: Mapping[str, str]) -> dict[str, list[str]]:
        """Return the names that were set, changed and removed."""
        known, now = self._settings(), self._digests(found)
        return {
            "set": sorted(now.keys() - known.keys()),
            "changed": sorted(n for n in now.keys() & known.keys() if now[n] != known[n]),
            "removed": sorted(known.keys() - now.keys()),
        }

    def use_settings(self, found: Mapping[str, str]) -> None:
        """Remember the settings; `save` keeps them."""
        self._keep({**self._load(), "settings": self._digests(found)})

    def save(self) -> None:
        """Write what changed; what cannot be written is recorded again after a restart."""
        if self._saved:
            return
        with contextlib.suppress(AgentError):
            files.directory(self._path.parent, 0o755)
            data = json.dumps(self._document).encode() + b"\n"
            files.write_atomic(self._path, data, 0o600)
            self._saved = True

    def _settings(self) -> dict[str, str]:
        found = self._load().get("settings")
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}

    def _digests(self, found: Mapping[str, str]) -> dict[str, str]:
        key = str(self._load()["key"]).encode()
        return {
            name: hmac.new(key, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
            for name, value in found.items()
        }

    def _load(self) -> dict[str, object]:
        if self._document is None:
            found: object = None
            with contextlib.suppress(AgentError, ValueError, RecursionError):
                found = json.loads(files.read(self._path, _MAX_BYTES) or b"")
            usable = isinstance(found, dict) and bool(found.get("key"))
            self._document = (
                dict(found) if usable and isinstance(found, dict) else {"key": secrets.token_hex()}
            )
        return self._document

    def _keep(self, document: dict[str, object]) -> None:
        self._document, self._saved = document, False


def given(inputs: Inputs) -> dict[str, str]:
    """Return the agent's own variables that are set, by their names without prefix."""
    found = {name.upper(): value for name, value in inputs.config.items()}
    found |= {name.removeprefix(PREFIX): text for name, text in (inputs.variables or {}).items()}
    return {
        name: value
        for name, value in found.items()
        if value.strip() and (name in _NAMES or name.startswith(_STEMS))
    }


def _pieces(differences: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield ``set: A, B``, in as many pieces as no name is cut off."""
    for how, names in differences.items():
        held: list[str] = []
        for name in names:
            if held and len(f"{how}: {', '.join([*held, name])}") > MESSAGE_MAX:
                yield f"{how}: {', '.join(held)}"
                held = []
            held.append(name)
        if held:
            yield f"{how}: {', '.join(held)}"
