"""A SuperLink's register of nodes, for both transports of the Control API.

It keeps state, refuses as Flower does (flwr/superlink/servicer/control/), and knows no other call.
"""

import json

import endpoints
import grpc
from cryptography.hazmat.primitives import serialization

from flower_agent import protobuf
from flower_agent.flower import Transport

IN_USE = ("FAILED_PRECONDITION", 412, 23, "Public key already in use.")
NOT_VALID = ("FAILED_PRECONDITION", 412, 22, "The provided public key is not valid")
NOT_FOUND = ("NOT_FOUND", 404, 24, "Node ID not found for account")


class Refused(Exception):  # noqa: N818  # an answer
    """Flower's refusal: gRPC's status, HTTP's, its own code, its words."""


class FakeSuperLink(grpc.GenericRpcHandler):
    """Nodes by public key; `lose` forgets them, as a new database does."""

    def __init__(self):
        self.nodes = {}
        self.calls = []
        self.trouble = None
        self._last = 2**63

    def lose(self):
        self.nodes.clear()

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
                return protobuf.encode(*((1, _info(key, *n)) for key, n in self.nodes.items()))
            case "RegisterNode":
                return protobuf.encode((1, self._register(protobuf.decode(body).data(1))))
            case "UnregisterNode":
                self._unregister(protobuf.decode(body).integer(1))
                return b""
        raise AssertionError(f"unhandled call: {method}")

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
            return 200, self.answer("".join(word.title() for word in words), body)
        except Refused as refusal:
            _, status, code, words = refusal.args
            return status, json.dumps({"code": code, "public_message": words}).encode()


def _info(key, node_id, status):
    return protobuf.encode((1, node_id), (4, status), (11, key))
