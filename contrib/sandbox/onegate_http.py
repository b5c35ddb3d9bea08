"""The server in front of a Cloud: connections, faults, and the sandbox's own `/sandbox/` paths."""

import contextlib
import itertools
import json
import socket
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

import onegate_faults as faults
import onegate_routes as routes
from onegate_cloud import Cloud

_BODY_LIMIT = 64 * 1024 * 1024
_STOP_WITHIN_S = 10.0
_FIXED = {
    faults.Kind.UNAUTHORIZED: routes.text(401, "Not authorized"),
    faults.Kind.ERROR: routes.text(500, "Internal server error"),
}
_GARBAGE = {
    faults.Garbage.HTML: routes.Answer(
        200,
        b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in</body></html>\n",
        content_type="text/html;charset=utf-8",
    ),
    faults.Garbage.TRUNCATED: routes.text(200, '{"VM":{"NAME":"supernode_0_(service_1)","ID":'),
    faults.Garbage.PLAIN: routes.text(200, "OK"),
}


class Request(NamedTuple):
    """A request that reached OneGate."""

    method: str

    path: str
    """With its query, as it was sent."""

    vmid: int | None
    """The VM that the header names, proven or not."""

    status: int
    """Status of the answer; 0 when the connection closed without one."""


class Server(socketserver.ThreadingTCPServer):
    """Serves a Cloud from a thread of its own, and each connection from another, until `stop`."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        cloud: Cloud,
        in_force: faults.Faults,
        requests: deque[Request],
    ) -> None:
        super().__init__(address, _Handler)
        self.cloud = cloud
        self.faults = in_force
        self.requests = requests
        self._open: set[Any] = set()
        self._closed = threading.Condition()
        self._stopping = False
        self._accepting = threading.Thread(target=self._accept, name="onegate", daemon=True)
        self.faults.renew()
        self._accepting.start()

    def stop(self) -> None:
        """Close the port and every connection, and wait until their threads are through."""
        self._stopping = True
        with contextlib.suppress(OSError):  # another client woke it
            socket.create_connection(self.socket.getsockname()).close()
        self._accepting.join()
        self.server_close()
        self.faults.release()
        with self._closed:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)
            self._closed.wait_for(lambda: not self._open, timeout=_STOP_WITHIN_S)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Turn away the connection by which `stop` wakes the server."""
        return not self._stopping

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember a connection and serve it."""
        with self._closed:
            self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Close a connection and forget it."""
        super().close_request(request)
        with self._closed:
            self._open.discard(request)
            self._closed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, unless a client went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def _accept(self) -> None:
        # serve_forever would look for an end twice a second, which adds up over a test run.
        while not self._stopping:
            self.handle_request()


_UNREAD = (faults.Kind.DOWN, faults.Kind.HANG, faults.Kind.DRIP)
"""Faults that strike before the body is read."""

_DRIP_S = 0.2


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Stay silent; `requests` has it."""

    def serve(self) -> None:
        """Answer one request; http.server calls it for every method below."""
        if self.path.startswith("/sandbox/"):
            self._send(_control(self.server, self._call()))
            return
        named = routes.Call(self.command, self.path, self._headers(), b"")
        struck = self.server.faults.take(named.vmid, self.command)
        if struck is not None and struck[0].kind in _UNREAD:
            self._record(named.vmid, 0)
            if struck[0].kind is faults.Kind.HANG:
                struck[1].wait()
            elif struck[0].kind is faults.Kind.DRIP:
                self._drip(struck[1])
            self.close_connection = True
            return
        call = self._call()
        answer = self._struck(call, *struck) if struck else routes.respond(self.server.cloud, call)
        self._record(call.vmid, answer.status if answer else 0)
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = do_PATCH = serve  # noqa: N815

    def _struck(
        self, call: routes.Call, fault: faults.Fault, over: threading.Event
    ) -> routes.Answer | None:
        match fault.kind:
            case faults.Kind.SLOW:
                over.wait(fault.seconds)
                return routes.respond(self.server.cloud, call)
            case faults.Kind.UNAUTHORIZED | faults.Kind.ERROR:
                return _FIXED[fault.kind]
            case faults.Kind.GARBAGE:
                return _GARBAGE[fault.body]
            case faults.Kind.REDIRECT:
                return routes.Answer(302, location=fault.to)
            case faults.Kind.DROP_REPLY:
                routes.respond(self.server.cloud, call)
                return None
            case faults.Kind.DOWN | faults.Kind.HANG | faults.Kind.DRIP:
                return None

    def _drip(self, over: threading.Event) -> None:
        """Write an answer that never begins, until the client leaves or the fault is healed."""
        with contextlib.suppress(OSError):
            for byte in itertools.cycle(b"HTTP/1.1 100 Continue\r\n\r\n"):
                if over.wait(_DRIP_S):
                    return
                self.wfile.write(bytes((byte,)))
                self.wfile.flush()

    def _headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _call(self) -> routes.Call:
        length = self.headers.get("Content-Length", "0")
        chunked = "Transfer-Encoding" in self.headers
        if chunked or not length.isdecimal() or int(length) > _BODY_LIMIT:
            raise ConnectionAbortedError("a body that this server does not read")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError("the client left in the middle of a body")
        return routes.Call(self.command, self.path, self._headers(), body)

    def _record(self, vmid: int | None, status: int) -> None:
        self.server.requests.append(Request(self.command, self.path, vmid, status))

    def _send(self, answer: routes.Answer) -> None:
        self.send_response_only(answer.status)
        if (ahead_s := self.server.cloud.ahead_s) is not None:
            self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.location is not None:
            self.send_header("Location", answer.location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


def _control(server: Server, call: routes.Call) -> routes.Answer:
    """Answer a `/sandbox/` path, which no OneGate has."""
    try:
        match call.method, call.target:
            case "GET", "/sandbox/vms":
                return routes.as_json(200, _overview(server.cloud))
            case "POST", "/sandbox/vms":
                return routes.as_json(201, {"token": add_declared(server.cloud, _object(call))})
            case "PUT", "/sandbox/fault":
                wanted = _object(call)
                count = wanted.pop("count", None)
                server.faults.add(faults.fault(**wanted), count)
                return routes.as_json(200, {})
            case "DELETE", "/sandbox/fault":
                server.faults.heal()
                return routes.as_json(200, {})
            case _:
                return routes.text(404, f"no {call.method} {call.target} here")
    except (TypeError, ValueError, KeyError) as error:
        return routes.text(400, f"{type(error).__name__}: {error}")


def add_declared(cloud: Cloud, declared: Mapping[str, Any]) -> str:
    """Add a VM from its JSON: `id`, `name` and the options of `add_vm`; return its token."""
    options = {name: value for name, value in declared.items() if name not in ("id", "name")}
    return cloud.add_vm(int(declared["id"]), str(declared["name"]), **options)


def _object(call: routes.Call) -> dict[str, Any]:
    document = json.loads(call.body)
    if not isinstance(document, dict):
        raise TypeError("want a JSON object")
    return document


def _overview(cloud: Cloud) -> dict[str, Any]:
    return {
        str(machine.vmid): {
            "name": machine.name,
            "role": machine.role,
            "service_id": machine.service_id,
            "gate_open": machine.gate_open,
            "attributes": machine.attributes,
        }
        for machine in cloud.machines()
    }
