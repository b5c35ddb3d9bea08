"""Which calls of Flower's Control API pass, and for whom. Pure.

Flower 1.42 has about 45 methods; those that are not listed here are refused, whoever asks.
Facts: ``flwr/proto/control.proto`` of 1.23 to 1.42; the fields used here never changed.
"""

import dataclasses
import enum
import re

from flower_agent.config.account_roles import AccountRole
from flower_agent.flower import wire

SERVICE = "flwr.proto.Control"


class Handling(enum.Enum):
    """What is done with a call that passes."""

    LOGIN = "answered here, without a token"
    RELAY = "passed on"
    STREAM = "passed on; the answer is a stream"
    START = "passed on; the run gets an owner"
    PULL = "answered here, with an address"


@dataclasses.dataclass(frozen=True, slots=True)
class ControlMethod:
    """One method that is offered."""

    name: str
    handling: Handling
    role: AccountRole | None
    """The least role; None: no token is needed."""

    own: bool = False
    """Whether anybody but an admin may call it for a run of their own only."""

    @property
    def path(self) -> str:
        """The HTTP path from 1.37 on, ``/v1/control/list-runs``."""
        return "/v1/control/" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", self.name).lower()


_VIEWER, _SUBMITTER, _ADMIN = AccountRole

METHODS = (
    ControlMethod("GetLoginDetails", Handling.LOGIN, None),
    ControlMethod("GetAuthTokens", Handling.LOGIN, None),
    ControlMethod("RefreshAuthTokens", Handling.LOGIN, None),
    ControlMethod("ListRuns", Handling.RELAY, _VIEWER),
    ControlMethod("ListNodes", Handling.RELAY, _VIEWER),
    ControlMethod("ListFederations", Handling.RELAY, _VIEWER),
    ControlMethod("ShowFederation", Handling.RELAY, _VIEWER),
    ControlMethod("ListRunSeries", Handling.RELAY, _VIEWER),
    ControlMethod("GetRunSeries", Handling.RELAY, _VIEWER),
    ControlMethod("ListRunSeriesEvents", Handling.RELAY, _VIEWER),
    ControlMethod("StreamLogs", Handling.STREAM, _VIEWER),
    ControlMethod("StreamRunEvents", Handling.STREAM, _VIEWER),
    ControlMethod("StartRun", Handling.START, _SUBMITTER),
    ControlMethod("StopRun", Handling.RELAY, _SUBMITTER, own=True),
    ControlMethod("PullArtifacts", Handling.PULL, _SUBMITTER, own=True),
    ControlMethod("RegisterNode", Handling.RELAY, _ADMIN),
    ControlMethod("UnregisterNode", Handling.RELAY, _ADMIN),
)
BY_NAME = {method.name: method for method in METHODS}
BY_PATH = {method.path: method for method in METHODS}


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as a token proved it."""

    account: str
    role: AccountRole
    session: int
    """Of the log-in; see `sessions.Sessions`."""


def refusal(method: ControlMethod, caller: Caller, owner: str | None) -> str | None:
    """Return why a call is not passed on; None lets it pass.

    `owner` is the account whose run the call is about, None where nobody's is known.
    """
    wanted = method.role
    if wanted is not None and not caller.role.may(wanted):
        return (
            f"{caller.account} has the role {caller.role}; {method.name} needs {wanted}. "
            "Ask the federation's operator."
        )
    if not method.own or caller.role.may(_ADMIN) or owner == caller.account:
        return None
    whose = f"is of {owner}" if owner else "has no owner here"
    return f"The run {whose}: {method.name} is for its owner and for an admin."


def unknown(name: str) -> str:
    """Return the words for a method that is not offered."""
    return f"This federation does not offer {name[:80]}."


def fab_hash(body: bytes) -> str:
    """Return the hash that a StartRun request gives its app bundle; raises ValueError."""
    return wire.decode(body).message(1).text(1)[:64]
