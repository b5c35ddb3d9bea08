"""Small containers that do one thing with files of Flower's user; what they print is the answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from flower_agent.errors import AgentError
from flower_agent.wanted.containers import Mount

from . import small_container
from .engine import Engine
from .small_container import Job

LABEL = "org.flower-agent.one-shot"
TIMEOUT_S = 1800.0
"""Hashing what a run may keep takes minutes on a slow disk."""

ANSWER_BYTES = 4 * 1024 * 1024
LEFT_AFTER_S = 2 * TIMEOUT_S


def run(
    engine: Engine,
    image: str,
    command: Sequence[str],
    *,
    mounts: Mapping[str, tuple[str, bool]],
    code: str,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """Return what `command` printed, run as Flower's user in `image`.

    `mounts` are target → source and whether it may be written. Raises AgentError `code` where it
    fails or takes longer than `timeout_s`, and ``docker.…``.
    """
    bound = tuple(
        Mount(source, target, read_only=not writable)
        for target, (source, writable) in mounts.items()
    )
    job = Job(label=LABEL, command=tuple(command), mounts=bound)
    message = f"a one-shot container did not end within {timeout_s:.0f} s"
    late = AgentError(code, message, retryable=True)
    with engine.calling("run a one-shot container", code) as api:
        small_container.sweep(api, LABEL, engine.owner, older_s=LEFT_AFTER_S)
        with small_container.made(engine, api, image, job) as made:
            api.start(made)
            status = small_container.status(
                api, made, timeout_s=timeout_s, late=late, look_max_s=small_container.LOOK_MAX_S
            )
            answer = _output(api, made)
            if status != 0:
                lines = _output(api, made, errors=True).decode("utf-8", "replace").splitlines()
                why = lines[-1][:300] if lines else f"status {status}"
                raise AgentError(code, f"a one-shot container failed: {why}", retryable=True)
    return answer


def _output(api: Any, made: str, *, errors: bool = False) -> bytes:
    """Return what it printed, as far as the limit."""
    buffer = bytearray()
    for chunk in api.logs(made, stdout=not errors, stderr=errors, stream=True):
        buffer += bytes(chunk)
        if len(buffer) > ANSWER_BYTES:
            break
    return bytes(buffer[:ANSWER_BYTES])


def clear(engine: Engine) -> None:
    """Remove all of them, where no agent runs. Raises AgentError ``docker.…``."""
    with engine.calling("remove one-shot containers") as api:
        small_container.sweep(api, LABEL, engine.owner)
