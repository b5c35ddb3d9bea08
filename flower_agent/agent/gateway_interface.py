"""The agent's socket for the gateway: two questions, each with a limit, in a thread of its own.

One line of JSON comes, one goes; outputs of a run go along as open, read-only descriptors
(SCM_RIGHTS, unix(7)), so the gateway needs no right in the agent's directories. The kernel says who
asks (SO_PEERCRED): root and the gateway's user, nobody else. The thread serves all connections by
turns and has a deadline for each, so that slow ones delay neither the loop nor each other.
"""

import contextlib
import dataclasses
import grp
import json
import os
import pathlib
import pwd
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection

import structlog

from flower_agent import files
from flower_agent.agent import gateway_requests
from flower_agent.agent.gateway_requests import (
    Allowance,
    GatewayEvent,
    OutputsAsked,
    RecordAsked,
)
from flower_agent.model.errors import AgentError
from flower_agent.runs import output_files

log = structlog.get_logger()

USER = "flower-gateway"
"""The gateway's user and group (``flower-agent.sysusers``)."""

MODE, FOLDER_MODE = 0o660, 0o750
TIMEOUT_S = 5.0
"""From the first byte to the last, both ways."""

END_S = 1.0
CONNECTIONS = 16
"""At the same time."""

WAITING = 128
"""More wait in the kernel, where a client that does not block is refused beyond this number."""

_CREDENTIALS = struct.Struct("3i")


@dataclasses.dataclass(slots=True)
class _Connection:
    """One who asks."""

    link: socket.socket
    ends_at: float
    """Monotonic seconds."""

    received: bytearray = dataclasses.field(default_factory=bytearray)
    answer: bytes = b""
    """What is left of it."""


Recorder = Callable[[GatewayEvent], None]


def log_event(event: GatewayEvent) -> None:
    """Write an event of the gateway into the agent's log."""
    log.info(event.name, **event.fields)


class GatewayInterface:
    """The socket at one place; the loop calls `serve` and `stop`."""

    def __init__(
        self,
        place: pathlib.Path,
        runs: pathlib.Path,
        record: Recorder = log_event,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._place = place
        self._runs = runs
        self._record = record
        self._timeout_s = timeout_s
        self._serving: _Serving | None = None

    def serve(self) -> None:
        """Begin, unless it serves already. Raises AgentError ``state.unwritable``."""
        if self._serving is not None and self._serving.lives() and self._place.exists():
            return
        self.stop()
        user, group = _ids()
        files.directory(self._place.parent, FOLDER_MODE, group=group, durable=False)
        with files.writing(self._place):
            listener = _listen(self._place, group)
        users = {0} if user is None else {0, user}
        handler = _Answers(self._runs, self._record)
        self._serving = _Serving(listener, users, handler.answer, self._timeout_s)
        self._serving.begin()

    def stop(self) -> None:
        """End, if it serves; a socket that a killed agent left goes, too."""
        if self._serving is not None:
            self._serving.end()
            self._serving = None
        if self._place.exists():
            with files.writing(self._place):
                self._place.unlink(missing_ok=True)


Answer = tuple[dict[str, object], Collection[int]]
"""What is said, and the descriptors that go along."""

Send = Callable[[dict[str, object], Collection[int]], None]


class _Answers:
    """What each question is answered."""

    def __init__(self, runs: pathlib.Path, record: Recorder) -> None:
        self._runs = runs
        self._record = record
        self._allowance = Allowance(time.monotonic())

    def answer(self, line: bytes, send: Send) -> None:
        """Answer one question by `send`, while the descriptors are open."""
        try:
            asked = gateway_requests.parse(line)
        except ValueError as error:
            send({"error": str(error)}, ())
            return
        match asked:
            case OutputsAsked(run):
                with output_files.opened(self._runs / run / "outputs") as (found, left_out):
                    rows = [{"name": f.name, "size": f.size, "mtime": f.mtime} for f in found]
                    said: dict[str, object] = {"files": rows}
                    send(
                        said | ({"left_out": left_out} if left_out else {}),
                        [each.descriptor for each in found],
                    )
            case RecordAsked(events):
                if not self._allowance.take(len(events), time.monotonic()):
                    log.warning("gateway.too_many_events")
                    send({"error": "too many events: ask again later"}, ())
                    return
                try:
                    for event in events:
                        self._record(event)
                except AgentError as error:
                    send({"error": error.finding.code}, ())
                    return
                send({"ok": True}, ())


class _Serving:
    """A listening socket and its thread."""

    def __init__(
        self,
        listener: socket.socket,
        users: Collection[int],
        answer: Callable[[bytes, Send], None],
        timeout_s: float,
    ) -> None:
        self._listener = listener
        self._users = users
        self._answer = answer
        self._timeout_s = timeout_s
        self._connections: dict[int, _Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="gateway-interface", daemon=True)

    def begin(self) -> None:
        """Serve from now on."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def lives(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Serve no more; a question under way is dropped."""
        self._waker.close()
        self._thread.join(END_S)

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            for connection in tuple(self._connections.values()):
                self._drop(connection)
            self._selector.close()
            self._listener.close()
            self._woken.close()

    def _turn(self) -> bool:
        """Wait for something and do it; return False at the end."""
        for key, _ in self._selector.select(self._patience_s()):
            if key.fileobj is self._woken:
                return False
            if key.fileobj is self._listener:
                self._accept()
            elif (connection := self._connections.get(key.fd)) is not None:
                try:
                    self._serve(connection)
                except BlockingIOError:  # the event was of the one who had this number before
                    continue
                except OSError:  # whoever asked went away
                    self._drop(connection)
        now = time.monotonic()
        for connection in [c for c in self._connections.values() if c.ends_at <= now]:
            self._drop(connection)
        return True

    def _patience_s(self) -> float | None:
        """Return how long nothing may happen; none waits for ever."""
        ends = [connection.ends_at for connection in self._connections.values()]
        return max(min(ends) - time.monotonic(), 0.0) if ends else None

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError:  # it went away; or there is no descriptor left, which passes
            time.sleep(0.01)
            return
        option = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        user = _CREDENTIALS.unpack(option)[1]
        if user not in self._users:
            log.warning("gateway.stranger", uid=user)
            link.close()
            return
        link.setblocking(False)
        made = _Connection(link, time.monotonic() + self._timeout_s)
        self._connections[link.fileno()] = made
        self._selector.register(link, selectors.EVENT_READ)
        if len(self._connections) >= CONNECTIONS:
            self._selector.unregister(self._listener)

    def _drop(self, connection: _Connection) -> None:
        if len(self._connections) >= CONNECTIONS:
            with contextlib.suppress(KeyError):
                self._selector.register(self._listener, selectors.EVENT_READ)
        del self._connections[connection.link.fileno()]
        self._selector.unregister(connection.link)
        connection.link.close()

    def _serve(self, connection: _Connection) -> None:
        """Read more of the question, or send more of the answer."""
        if connection.answer:
            sent = connection.link.send(connection.answer)
            self._sent(connection, sent)
            return
        data = connection.link.recv(gateway_requests.LIMIT_BYTES)
        connection.received += data
        line, end, _ = connection.received.partition(b"\n")

        def send(said: dict[str, object], descriptors: Collection[int]) -> None:
            connection.answer = json.dumps(said, ensure_ascii=False).encode() + b"\n"
            # The buffer is empty, so the descriptors go at once and are closed after this.
            try:
                sent = socket.send_fds(connection.link, [connection.answer], [*descriptors])
            except BlockingIOError as error:
                raise ConnectionAbortedError from error
            self._selector.modify(connection.link, selectors.EVENT_WRITE)
            self._sent(connection, sent)

        if len(line) > gateway_requests.LIMIT_BYTES:
            send({"error": f"want at most {gateway_requests.LIMIT_BYTES} bytes"}, ())
        elif end:
            self._answer(bytes(line), send)
        elif not data:
            self._drop(connection)

    def _sent(self, connection: _Connection, count: int) -> None:
        connection.answer = connection.answer[count:]
        if not connection.answer:
            self._drop(connection)


def _listen(place: pathlib.Path, group: int | None) -> socket.socket:
    """Return a socket at `place` that has its mode and group before anybody can connect."""
    place.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(place))
        if group is not None:
            os.chown(place, -1, group)
        place.chmod(MODE)
        listener.listen(WAITING)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _ids() -> tuple[int | None, int | None]:
    """Return the gateway's user and group; None where they do not exist: root's then."""
    user = group = None
    with contextlib.suppress(KeyError):
        user = pwd.getpwnam(USER).pw_uid
    with contextlib.suppress(KeyError):
        group = grp.getgrnam(USER).gr_gid
    return user, group
