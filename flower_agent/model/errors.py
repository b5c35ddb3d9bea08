"""What can go wrong, as values: a code, one sentence about this case, and what to do next. Pure.

A test keeps the codes that the source gives and those of `error_codes` equal.
"""

import dataclasses
import enum
from collections.abc import Iterator
from typing import ClassVar, Self

from flower_agent.model import foreign_text
from flower_agent.model.error_codes import CATALOGUE


class Severity(enum.StrEnum):
    """What a finding does: an error stops or fails, a warning is only shown."""

    ERROR = "error"
    WARNING = "warning"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or worth knowing, the same in journal, status, check and OneGate."""

    code: str
    """``area.what``, listed in `CATALOGUE`."""

    message: str
    """One sentence about this case, with the offending thing in it and no secret."""

    hint: str = ""
    """What to do next; empty means the remedy in `error_codes`."""

    severity: Severity = Severity.ERROR

    def __post_init__(self) -> None:
        # The words of git, pip, Docker or a peer stand in many messages; here all of them pass.
        object.__setattr__(self, "message", foreign_text.message(self.message))
        hint = foreign_text.message(self.hint) or CATALOGUE[self.code][1]
        object.__setattr__(self, "hint", hint)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def is_a(self, wanted: type["AgentError"]) -> bool:
        """Return whether it says what an error of the `wanted` kind says."""
        return issubclass(kind(self.code), wanted)


def warning(code: str, message: str, hint: str = "") -> Finding:
    """Return a finding that never changes the state."""
    return Finding(code, message, hint, Severity.WARNING)


class AgentError(Exception):
    """A failure that the agent understands; edges translate every library's error into one.

    Whoever decides by what failed asks for the kind, a subclass, and never compares codes.
    """

    codes: ClassVar[frozenset[str]] = frozenset()
    """For what a kind stands; what no kind has is a plain AgentError."""

    def __init__(self, code: str, message: str, hint: str = "", *, retryable: bool = False) -> None:
        self.finding = Finding(code, message, hint)
        super().__init__(code, self.finding.message)
        self.retryable = retryable

    def __str__(self) -> str:
        return str(self.finding)

    def reworded(
        self, message: str, hint: str | None = None, *, retryable: bool | None = None
    ) -> Self:
        """Return this failure in other words: of the same kind and code, with the same facts."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)  # a subclass may have more, and another constructor
        AgentError.__init__(
            made,
            self.finding.code,
            message,
            self.finding.hint if hint is None else hint,
            retryable=self.retryable if retryable is None else retryable,
        )
        return made


def _area(name: str) -> frozenset[str]:
    """Return the codes of one area."""
    return frozenset(code for code in CATALOGUE if code.startswith(f"{name}."))


class OneGateError(AgentError):
    """OneGate does not give what is asked for."""


class OneGateFailedError(OneGateError):
    """OneGate refuses, or answers what makes no sense."""

    codes = frozenset({"onegate.garbage", "onegate.refused"})


class OneGateDownError(OneGateFailedError):
    """OneGate cannot be reached."""

    codes = frozenset({"onegate.down"})


class NoServiceError(OneGateError):
    """OneGate says that this VM is in no service, which often is no trouble."""

    codes = frozenset({"onegate.no_service"})


class StillSearchingError(AgentError):
    """What is looked for is not known yet: it is asked, or others have not published it."""

    codes = frozenset({"discover.waiting"})


class NoSourceError(AgentError):
    """Nothing could ever tell what is looked for, as this VM is set up."""

    codes = frozenset({"discover.no_source"})


class SettingMissingError(AgentError):
    """Something must be set and is not, or only the half of a pair is."""

    codes = frozenset({"setting.missing"})


class ContextMissingError(AgentError):
    """There is no context; it may be on its way."""

    codes = frozenset({"context.missing"})


class EndpointError(AgentError):
    """An address does not answer as what is wanted there."""

    codes = _area("endpoint")


class EndpointRefusedError(EndpointError):
    """Nothing listens at an endpoint."""

    codes = frozenset({"endpoint.refused"})


class EndpointTimeoutError(EndpointError):
    """Nothing comes back from an address."""

    codes = frozenset({"endpoint.timeout"})


class TurnedAwayError(AgentError):
    """A SuperLink does not let this node in for now, which is waiting and no crash."""


class KeyUnknownError(TurnedAwayError):
    """The SuperLink does not know this node's key."""

    codes = frozenset({"enrol.waiting"})


class KeyMismatchError(TurnedAwayError):
    """One side wants node keys, and the other has none."""

    codes = frozenset({"enrol.mismatch"})


class GhostError(TurnedAwayError):
    """The SuperLink still takes this node's last connection for alive."""

    codes = frozenset({"peer.ghost"})


class PeerSilentError(AgentError):
    """A peer that was connected does not answer, or not every packet."""

    codes = frozenset({"peer.mute", "peer.mtu"})


class PeerLostError(PeerSilentError):
    """A peer that was connected takes no connection any more."""

    codes = frozenset({"peer.lost"})


class ControlRefusedError(AgentError):
    """The SuperLink refused a request; it would refuse the same one again."""

    codes = frozenset({"control.refused"})


class ControlUnavailableError(AgentError):
    """The Control API does not answer; that may pass."""

    codes = frozenset({"control.unavailable"})


class ControlDatabaseError(AgentError):
    """The SuperLink cannot use its database; that may pass."""

    codes = frozenset({"control.database"})


class StateFileError(AgentError):
    """A file of the agent's state is in trouble."""

    codes = _area("state")


class PortTakenError(AgentError):
    """Somebody else has a port of this VM."""

    codes = frozenset({"port.taken"})


class DockerDownError(AgentError):
    """Docker does not answer."""

    codes = frozenset({"docker.down"})


class ContainerRefusedError(AgentError):
    """Docker does not create or start a container."""

    codes = frozenset({"container.refused"})


class ContainerExitedError(AgentError):
    """A container that should run has ended, for no reason that says more."""

    codes = frozenset({"container.exited", "container.crash_loop"})


class GpuError(AgentError):
    """A GPU that should be usable is not."""

    codes = _area("gpu")


class DataRefusedError(AgentError):
    """Docker does not mount the data of apps; its own words say why."""

    codes = frozenset({"data.refused"})


class DataFilesystemError(AgentError):
    """The data is on no file system of the type that was tried."""

    codes = frozenset({"data.filesystem"})


class ImagePullError(AgentError):
    """An image could not be pulled; that may pass."""

    codes = frozenset({"image.pull"})


class ImageDeniedError(AgentError):
    """The registry answers, and does not give an image."""

    codes = frozenset({"image.denied"})


class CloneError(AgentError):
    """A repository could not be fetched; that may pass."""

    codes = frozenset({"run.clone"})


def _kinds(parent: type[AgentError]) -> Iterator[tuple[str, type[AgentError]]]:
    """Yield each code and its kind; those of a narrower kind come later."""
    for each in parent.__subclasses__():
        yield from ((code, each) for code in each.codes)
        yield from _kinds(each)


_KINDS = dict(_kinds(AgentError))


def kind(code: str) -> type[AgentError]:
    """Return what stands for `code`, for a code that is known only when it runs."""
    return _KINDS.get(code, AgentError)


def of(finding: Finding, *, retryable: bool = False) -> AgentError:
    """Return a finding as an error of its kind."""
    made = kind(finding.code)
    return made(finding.code, finding.message, finding.hint, retryable=retryable)


def innermost(error: BaseException) -> str:
    """Return the innermost reason of a failed connection, which says most."""
    text = str(error)
    for known in ("FileNotFoundError", "Connection refused", "Permission denied", "timed out"):
        if known in text:
            return {"FileNotFoundError": "its socket is not there"}.get(known, known.lower())
    return foreign_text.printable(text, limit=200)


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 file`` or ``2 files``; `plural` where an s makes none."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
