"""``/outputs/…``: what ``flwr pull`` prints. A run's files as one tar archive, resumable."""

import asyncio
import os
import pathlib
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from flower_agent.gateway import agent_socket, archive, limits
from flower_agent.gateway.archive import ArchivedFile, Piece
from flower_agent.gateway.gate import Gate
from flower_agent.model.errors import AgentError

CHUNK_BYTES = 256 << 10
AT_ONCE = 8
"""Downloads; each holds the descriptors of a run's files."""


class Downloads:
    """Answers the addresses that `Gate` gave out."""

    def __init__(self, gate: Gate, agent: pathlib.Path) -> None:
        self._gate = gate
        self._agent = agent
        self._free = AT_ONCE

    async def answer(self, request: Request) -> Response:
        """Answer one GET, with ``Range`` where it is given."""
        origin = limits.origin(request.headers)
        found = self._gate.sessions.download(request.path_params["secret"])
        if found is None:
            self._gate.note("gateway.download", "unknown", origin, "refused")
            return PlainTextResponse(
                "This address has ended. Run `flwr pull` again for a new one.\n", 404
            )
        if self._free <= 0:
            return PlainTextResponse("Too many downloads at once; try again.\n", 503)
        self._free -= 1
        try:
            files = await asyncio.to_thread(agent_socket.outputs, self._agent, found.run_id)
        except AgentError as error:
            self._free += 1
            return PlainTextResponse(f"{error.finding.message}\n", 503)
        who = f"account:{found.caller.account}"
        if not files:
            self._done(files)
            return PlainTextResponse(f"Run {found.run_id} has no outputs.\n", 404)
        self._gate.note("gateway.download", who, origin, run_id=found.run_id)
        return self._archive(request, f"run-{found.run_id}", files)

    def _archive(self, request: Request, folder: str, files: list[ArchivedFile]) -> Response:
        whole = list(archive.pieces(folder, files))
        size, tag = archive.length(whole), archive.etag(folder, files)
        headers = {
            "accept-ranges": "bytes",
            "cache-control": "private, no-store",
            "content-disposition": f'attachment; filename="{folder}.tar"',
            "etag": tag,
            "x-content-type-options": "nosniff",
        }
        asked = request.headers.get("range")
        if request.headers.get("if-range", tag) != tag:
            asked = None  # the files have changed: from the beginning
        try:
            part = archive.wanted(asked, size)
        except ValueError:
            self._done(files)
            return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
        first, after = part or (0, size)
        headers["content-length"] = str(after - first)
        if part is not None:
            headers["content-range"] = f"bytes {first}-{after - 1}/{size}"
        content = _bytes(list(archive.cut(whole, first, after)))
        return _ArchiveResponse(
            content, 206 if part else 200, headers, release=lambda: self._done(files)
        )

    def _done(self, files: list[ArchivedFile]) -> None:
        self._free += 1
        agent_socket.close(file.descriptor for file in files)


class _ArchiveResponse(StreamingResponse):
    """Gives the descriptors back however it ends, also before its first byte."""

    def __init__(
        self,
        content: AsyncIterator[bytes],
        status: int,
        headers: dict[str, str],
        *,
        release: Callable[[], None],
    ) -> None:
        super().__init__(content, status, headers, media_type="application/x-tar")
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


async def _bytes(parts: list[Piece]) -> AsyncIterator[bytes]:
    for piece in parts:
        if piece.descriptor < 0:
            yield piece.text
            continue
        at, end = piece.offset, piece.offset + piece.length
        while at < end:
            wanted = min(CHUNK_BYTES, end - at)
            data = await asyncio.to_thread(os.pread, piece.descriptor, wanted, at)
            if not data:  # the file shrank: a cut download is better than a wrong one
                return
            at += len(data)
            yield data
