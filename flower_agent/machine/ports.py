"""Whether the ports are free on which containers will listen."""

from collections.abc import Callable

from flower_agent.errors import AgentError
from flower_agent.steps.plan import Action, Step
from flower_agent.wanted.containers import Container, Existing

from . import host, sockets


def free(
    want: tuple[Container, ...],
    steps: tuple[Step, ...],
    existing: Callable[[str], Existing | None],
) -> None:
    """Raise AgentError ``port.taken`` for a port that somebody else has.

    Flower says it too, but only in a log, after its imports, and by exiting. Where a container
    of the agent's own is stopped first, the port may be one that it gives back.
    """
    if any(step.action is Action.STOP for step in steps):
        return
    starting = {step.name for step in steps if step.action is Action.START}
    starting -= {name for name in starting if (found := existing(name)) and found.running}
    wanted = [
        (container, address)
        for container in want
        if container.name in starting
        for address in container.listens
    ]
    ports = {address.port for _, address in wanted}
    seen = tuple(host.read_sockets(ports=ports)) if ports else ()
    for container, address in wanted:
        if sockets.taken(seen, address.host, address.port):
            who = host.listener(address.port) or "another process"
            message = f"{container.name} cannot listen at {address}: {who} does"
            raise AgentError("port.taken", message, hint(address.port), retryable=True)


def hint(port: int) -> str:
    """Return what to do about a port that somebody else has."""
    return (
        f"Find it as root (ss -ltnp 'sport = :{port}'), and stop it where it may end; or set "
        "another port: FLOWER_FLEET_PORT, FLOWER_SERVERAPPIO_PORT, FLOWER_CLIENTAPPIO_PORT, "
        "FLOWER_HEALTH_PORT."
    )
