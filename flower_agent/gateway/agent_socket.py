"""The gateway's line to the agent: a run's outputs, and entries for the record.

One JSON line each way over a Unix socket; descriptors of outputs come beside the answer
(``SCM_RIGHTS``), already open for reading, so that the gateway's user needs no right to the files.
"""

import array
import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import socket
from collections.abc import Iterable
from typing import Any

import structlog

from flower_agent.gateway.archive import ArchivedFile
from flower_agent.gateway.gate import GateEvent
from flower_agent.model.errors import AgentError

log = structlog.get_logger()

TIMEOUT_S = 5.0
FILES_MAX = 200
"""More descriptors the kernel does not pass at once (253)."""

ANSWER_MAX_BYTES = 256 << 10
WAITING_MAX = 1000
"""Entries for the record that wait for an agent that is away."""

TOGETHER = 50
TRIES = 60
"""Of one batch, ever slower: two hours and a half. The journal has the events all the same."""


def ask(path: pathlib.Path, question: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Return the agent's answer, and the descriptors that came with it, which are the caller's.

    Raises AgentError ``gateway.agent_away`` where the agent does not answer or refuses.
    """
    descriptors: list[int] = []
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(TIMEOUT_S)
            line.connect(str(path))
            line.sendall(json.dumps(question).encode() + b"\n")
            answer = json.loads(_receive(line, descriptors))
    except (OSError, ValueError) as error:
        close(descriptors)
        raise AgentError(
            "gateway.agent_away", f"The agent does not answer the gateway: {error}", retryable=True
        ) from None
    if isinstance(answer, dict) and "error" not in answer:
        return answer, descriptors
    close(descriptors)
    raise AgentError("gateway.agent_away", f"The agent refused: {str(answer)[:200]}")


def _receive(line: socket.socket, descriptors: list[int]) -> bytes:
    text = bytearray()
    room = socket.CMSG_SPACE(FILES_MAX * array.array("i").itemsize)
    while not text.endswith(b"\n"):
        part, beside, _flags, _address = line.recvmsg(64 << 10, room)
        for level, kind, data in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(data) - len(data) % array.array("i").itemsize
                descriptors.extend(array.array("i", data[:whole]))
        text += part
        if not part or len(text) > ANSWER_MAX_BYTES:
            raise ValueError("the answer is cut short" if not part else "the answer is too long")
    return bytes(text)


def close(descriptors: Iterable[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def outputs(path: pathlib.Path, run_id: str) -> list[ArchivedFile]:
    """Return a run's outputs with open descriptors; raises AgentError."""
    answer, descriptors = ask(path, {"ask": "outputs", "run": run_id})
    try:
        listed = [
            ArchivedFile(str(file["name"]), int(file["size"]), int(file["mtime"]), descriptor)
            for file, descriptor in zip(answer["files"], descriptors, strict=True)
        ]
    except (KeyError, TypeError, ValueError) as error:
        close(descriptors)
        raise AgentError("gateway.agent_away", f"The agent's answer has {error!r}") from None
    return listed


class RecordSender:
    """Sends entries for the record in the background; never makes a call wait."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._waiting: asyncio.Queue[GateEvent] = asyncio.Queue(WAITING_MAX)
        self.lost = 0

    def __call__(self, event: GateEvent) -> None:
        """Take one entry; it is in the journal at once."""
        said = dataclasses.asdict(event)
        log.info(said.pop("event"), **{key: value for key, value in said.items() if value})
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.lost += 1

    async def run(self) -> None:
        """Send what waits, for ever."""
        while True:
            events = [await self._waiting.get()]
            while len(events) < TOGETHER and not self._waiting.empty():
                events.append(self._waiting.get_nowait())
            question = {"ask": "record", "events": [dataclasses.asdict(e) for e in events]}
            for attempt in range(1, TRIES + 1):
                try:
                    _answer, descriptors = await asyncio.to_thread(ask, self._path, question)
                    close(descriptors)
                    break
                except AgentError as error:
                    log.warning("gateway.agent_away", message=error.finding.message)
                    await asyncio.sleep(TIMEOUT_S * attempt)
            else:
                self.lost += len(events)
                log.warning("gateway.events_lost", lost=self.lost)
