"""The steps from the present containers to the wanted ones. Pure.

One step is one call to Docker, with its cause. The same input gives the same plan, and after an
applied plan the next plan is empty.
"""

import dataclasses
import enum
from collections.abc import Collection, Iterator

from flower_agent.docker.containers import CPU_SHARES, CPU_SHARES_STARTING, Container, Existing


class Action(enum.StrEnum):
    """The kinds of calls to Docker."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    REMOVE = "remove"
    UPDATE = "update"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One call to Docker."""

    action: Action

    name: str
    """The container's name."""

    cause: str

    container: Container | None = None
    """What to create; None for the other actions."""

    def __str__(self) -> str:
        return f"{self.action} {self.name} ({self.cause})"


def plan(
    want: tuple[Container, ...],
    have: tuple[Existing, ...],
    *,
    resting: Collection[str] = (),
    settled: bool = False,
) -> tuple[Step, ...]:
    """Return the steps from `have` to `want`, in order; empty when they agree.

    A container named in `resting` waits for its back-off and is not started. With `settled` the
    first container answers, so a container with a small CPU share gets the full one. Containers of
    others are ignored, and so are wanted containers whose names they have: see `foreign`.
    """
    existing = {container.name: container for container in have if container.mine}
    wanted = {container.name for container in want}
    taken = {container.name for container in foreign(want, have)}
    steps: list[Step] = []
    # Remove first: an unwanted container may use a port of a wanted one.
    for name in reversed([name for name in existing if name not in wanted]):
        steps += _take_away(existing[name], "not wanted")
    for container in (container for container in want if container.name not in taken):
        steps += _bring(container, existing.get(container.name), container.name in resting)
        found = existing.get(container.name)
        if settled and _waits_for_share(container, found):
            steps.append(Step(Action.UPDATE, container.name, "full CPU share"))
    return tuple(steps)


def foreign(want: tuple[Container, ...], have: tuple[Existing, ...]) -> tuple[Existing, ...]:
    """Return the containers of others that have a wanted name."""
    wanted = {container.name for container in want}
    return tuple(c for c in have if not c.mine and c.name in wanted)


def _bring(want: Container, have: Existing | None, resting: bool) -> Iterator[Step]:  # noqa: FBT001
    if have is None and not resting:
        yield Step(Action.CREATE, want.name, "absent", want)
        yield Step(Action.START, want.name, "absent")
    elif have is None:
        return
    elif have.status == "removing":
        return  # Docker removes it just now: the next cycle creates it
    # Changed settings may be the cure, so a replacement does not wait for the back-off.
    elif have.fingerprint != want.fingerprint:
        yield from _replace(want, have, "settings changed")
    elif have.status == "dead":
        yield from _replace(want, have, have.status)
    elif not have.running and not resting:
        yield Step(Action.START, want.name, _why_stopped(have))


def _replace(want: Container, have: Existing, cause: str) -> Iterator[Step]:
    yield from _take_away(have, cause)
    yield Step(Action.CREATE, want.name, cause, want)
    yield Step(Action.START, want.name, cause)


def _take_away(have: Existing, cause: str) -> Iterator[Step]:
    if have.status == "removing":
        return
    if have.running or have.status == "restarting":
        yield Step(Action.STOP, have.name, cause)
    yield Step(Action.REMOVE, have.name, cause)


def _why_stopped(have: Existing) -> str:
    if have.status == "created":
        return "created, not started"
    return "out of memory" if have.oom_killed else f"exited {have.exit_code}"


def _waits_for_share(want: Container, have: Existing | None) -> bool:
    return (
        have is not None
        and have.running
        and have.fingerprint == want.fingerprint
        and have.cpu_shares == CPU_SHARES_STARTING != CPU_SHARES
    )
