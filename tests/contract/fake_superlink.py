"""A SuperLink's nodes and runs, for both transports of the Control API.

It keeps state, refuses as Flower does (flwr/superlink/servicer/control/), and knows no other call.
"""

import dataclasses
import datetime
import hashlib
import json

import endpoints
import grpc
from cryptography.hazmat.primitives import serialization

from flower_agent.config.flower_versions import Transport
from flower_agent.flower import wire

IN_USE = ("FAILED_PRECONDITION", 412, 23, "Public key already in use.")
NOT_VALID = ("FAILED_PRECONDITION", 412, 22, "The provided public key is not valid")
NOT_FOUND = ("NOT_FOUND", 404, 24, "Node ID not found for account")
NO_RUN = ("NOT_FOUND", 404, 16, "Run ID not found")
NO_FEDERATION = ("FAILED_PRECONDITION", 412, 1, "Federation '' does not exist.")
OVER = ("FAILED_PRECONDITION", 412, 9, "Run ID 7 is already finished")


class Refused(Exception):  # noqa: N818  # an answer
    """Flower's refusal: gRPC's status, HTTP's, its own code, its words."""


@dataclasses.dataclass
class Run:
    """A run, and what its ServerApp has written."""

    bundle: bytes
    config: dict
    pending_at: str
    status: str = "pending"
    sub_status: str = ""
    log: list = dataclasses.field(default_factory=list)

    def say(self, text):
        self.log.append((len(self.log) + 1.0, text))

    def end(self, sub_status):
        self.status, self.sub_status = "finished", sub_status


class FakeSuperLink(grpc.GenericRpcHandler):
    """Nodes by public key, runs by id; `lose` forgets all, as a new database does."""

    def __init__(self, *, federation="default"):
        self.nodes = {}
        self.runs = {}
        self.federation = federation
        self.lose_reply = False
        """The next StartRun is done but not answered."""

        self.calls = []
        self.trouble = None
        self._last = 2**63

    def lose(self):
        self.nodes.clear()
        self.runs.clear()

    def connect(self, public_key, status="online"):
        """Let a node of a registered key be seen; an unregistered one cannot."""
        node_id, before = self.nodes[public_key]
        assert before != "unregistered"
        self.nodes[public_key] = (node_id, status)

    def serve(self, transport, leaf=None, port=0):
        if transport is Transport.GRPC:
            return endpoints.grpc_server(self, leaf=leaf, port=port)
        return endpoints.http_server(self.respond, leaf=leaf)

    def answer(self, method, body):
        self.calls.append(method)
        if self.trouble:
            raise Refused(*self.trouble)
        match method:
            case "ListNodes":
                return wire.encode(*((1, _info(key, *n)) for key, n in self.nodes.items()))
            case "RegisterNode":
                return wire.encode((1, self._register(wire.decode(body).data(1))))
            case "UnregisterNode":
                self._unregister(wire.decode(body).integer(1))
                return b""
            case "StartRun":
                return wire.encode((1, self._start(wire.decode(body))))
            case "ListRuns":
                return self._list(wire.decode(body).integer(1))
            case "StopRun":
                run = self._run(wire.decode(body).integer(1))
                if run.status == "finished":
                    raise Refused(*OVER)
                run.end("stopped")
                return wire.encode((1, 1))
        raise AssertionError(f"unhandled call: {method}")

    def stream(self, body):
        """Return what the stream of a run's log has now, as messages."""
        asked = wire.decode(body)
        log = self._run(asked.integer(1)).log
        new = [(at, text) for at, text in log if at > asked.double(2)]
        return [wire.encode((1, "".join(t for _, t in new)), (2, new[-1][0]))] if new else []

    def _start(self, asked):
        if asked.text(5) != self.federation:
            raise Refused(*NO_FEDERATION)
        bundle = asked.message(1).data(2)
        assert asked.message(1).text(1) == hashlib.sha256(bundle).hexdigest()
        entries = {entry.text(1): entry.message(2).fields for entry in asked.messages(2)}
        self._last += 1
        now = datetime.datetime.now(datetime.UTC).isoformat()
        self.runs[self._last] = Run(bundle, entries, now)
        if self.lose_reply:
            self.lose_reply = False
            raise Refused("UNAVAILABLE", 503, 1, "the connection was lost")
        return self._last

    def _run(self, run_id):
        if run_id not in self.runs:
            raise Refused(*NO_RUN)
        return self.runs[run_id]

    def _list(self, run_id):
        found = {run_id: self._run(run_id)} if run_id else self.runs
        rows = ((n, _run_info(n, run)) for n, run in found.items())
        entries = (wire.encode((1, number), (2, row)) for number, row in rows)
        return wire.encode(*((1, entry) for entry in entries))

    def _register(self, key):
        try:
            serialization.load_pem_public_key(key)
        except ValueError:
            raise Refused(*NOT_VALID) from None
        if key in self.nodes:
            raise Refused(*IN_USE)
        self._last += 1
        self.nodes[key] = (self._last, "registered")
        return self._last

    def _unregister(self, node_id):
        for key, (found, status) in self.nodes.items():
            if found == node_id and status != "unregistered":
                self.nodes[key] = (found, "unregistered")
                return
        raise Refused(*NOT_FOUND)

    def service(self, handler_call_details):
        """Answer gRPC."""
        _, service, method = handler_call_details.method.split("/")
        assert service == "flwr.proto.Control"

        def stream(body, call):
            try:
                yield from self.stream(body)
            except Refused as refusal:
                call.abort(grpc.StatusCode.NOT_FOUND, refusal.args[3])

        if method == "StreamLogs":
            return grpc.unary_stream_rpc_method_handler(stream)

        def handle(body, call):
            try:
                return self.answer(method, body)
            except Refused as refusal:
                status, _, _, words = refusal.args
                call.abort(getattr(grpc.StatusCode, status), words)

        return grpc.unary_unary_rpc_method_handler(handle)

    def respond(self, path, content_type, body):
        """Answer HTTP."""
        assert content_type == "application/protobuf"
        words = path.removeprefix("/v1/control/").split("-")
        try:
            if words == ["stream", "logs"]:
                frames = self.stream(body)
                return 200, b"".join(len(f).to_bytes(4, "big") + f for f in frames)
            return 200, self.answer("".join(word.title() for word in words), body)
        except Refused as refusal:
            _, status, code, words = refusal.args
            return status, json.dumps({"code": code, "public_message": words}).encode()


def _run_info(run_id, run):
    status = wire.encode((1, run.status), (2, run.sub_status))
    digest = hashlib.sha256(run.bundle).hexdigest()
    return wire.encode((1, run_id), (5, digest), (6, run.pending_at), (10, status))


def _info(key, node_id, status):
    return wire.encode((1, node_id), (4, status), (11, key))
