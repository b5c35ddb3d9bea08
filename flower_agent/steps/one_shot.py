"""Containers that do one small thing with files of Flower's user, and are removed.

They have no network, no capability, and limits of their own. What they print is their answer.
"""

import contextlib
import datetime
import time
from collections.abc import Mapping, Sequence
from typing import Any

import docker.errors
import docker.types

from flower_agent.errors import AgentError
from flower_agent.wanted.containers import FLOWER_UID, Mount

from .engine import LOG_OPTIONS, Engine

LABEL = "org.flower-agent.one-shot"
"""Whose container it is. Not the agent's own label: no plan wants it."""

TIMEOUT_S = 1800.0
"""Hashing what a run may keep takes minutes on a slow disk."""

MEMORY_BYTES = 256 * 1024 * 1024
PIDS = 32
ANSWER_BYTES = 4 * 1024 * 1024
LEFT_AFTER_S = 2 * TIMEOUT_S
_LOOK_S = 0.1
_LOOK_MAX_S = 2.0


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
    with engine.calling("run a one-shot container", code) as api:
        _sweep(engine, api)
        made = _create(engine, api, image, command, mounts)
        try:
            api.start(made)
            status = _await(api, made, timeout_s, code)
            answer = _output(api, made)
            if status != 0:
                lines = _output(api, made, errors=True).decode("utf-8", "replace").splitlines()
                why = lines[-1][:300] if lines else f"status {status}"
                raise AgentError(code, f"a one-shot container failed: {why}", retryable=True)
        finally:
            with contextlib.suppress(docker.errors.NotFound):
                api.remove_container(made, force=True, v=True)
    return answer


def _create(
    engine: Engine,
    api: Any,
    image: str,
    command: Sequence[str],
    mounts: Mapping[str, tuple[str, bool]],
) -> str:
    host_config = api.create_host_config(
        network_mode="none",
        restart_policy={"Name": "no"},
        init=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=PIDS,
        mem_limit=MEMORY_BYTES,
        memswap_limit=MEMORY_BYTES,
        oom_score_adj=500,
        **engine.bindings(
            api,
            [
                Mount(source, target, read_only=not writable)
                for target, (source, writable) in mounts.items()
            ],
        ),
        log_config={"Type": "json-file", "Config": LOG_OPTIONS},
    )
    made = api.create_container(
        image,
        entrypoint=list(command[:1]),
        command=list(command[1:]),
        user=f"{FLOWER_UID}:{FLOWER_UID}",
        labels={LABEL: engine.owner},
        network_disabled=True,
        healthcheck={"test": ["NONE"]},
        use_config_proxy=False,
        host_config=host_config,
    )
    return str(made["Id"])


def _await(api: Any, made: str, timeout_s: float, code: str) -> int:
    end, pause_s = time.monotonic() + timeout_s, _LOOK_S
    while True:
        state = api.inspect_container(made)["State"]
        if not state["Running"]:
            return int(state["ExitCode"])
        if time.monotonic() > end:
            message = f"a one-shot container did not end within {timeout_s:.0f} s"
            raise AgentError(code, message, retryable=True)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LOOK_MAX_S)


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
        _sweep(engine, api, older_s=float("-inf"))


def _sweep(engine: Engine, api: Any, *, older_s: float = LEFT_AFTER_S) -> None:
    """Remove what a killed agent left; what is younger may be at work."""
    now = datetime.datetime.now(datetime.UTC).timestamp()
    label = f"{LABEL}={engine.owner}"
    for left in api.containers(all=True, filters={"label": label}):
        if now - left["Created"] > older_s:
            with contextlib.suppress(docker.errors.APIError):
                api.remove_container(left["Id"], force=True, v=True)
