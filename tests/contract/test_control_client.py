"""The Control API's two transports, against a real gRPC server and an HTTP server on loopback."""

import datetime
import json

import endpoints
import grpc
import pytest
from endpoints import authority, issue, loopback_leaf

from flower_agent.config.flower_versions import Transport
from flower_agent.flower import control_messages, wire
from flower_agent.flower.control_client import Control
from flower_agent.model.errors import AgentError

NODE_ID = 2**64 - 5
RUN_ID = 2**63 + 1
NODES = wire.encode(
    (1, wire.encode((1, NODE_ID), (4, "online"), (9, 1_800_000_000.0), (11, b"pem"))),
    (2, "2025-11-24T10:00:00"),
)
NODE = control_messages.NodeInfo(
    node_id=str(NODE_ID),
    status=control_messages.NodeStatus.ONLINE,
    online_until=datetime.datetime(2027, 1, 15, 8, tzinfo=datetime.UTC),
    public_key=b"pem",
)


class SuperLink(grpc.GenericRpcHandler):
    """What a SuperLink does with nodes and runs, for both transports.

    `refuse` makes it fail every call as Flower does, with gRPC's status and HTTP's code.
    """

    def __init__(self):
        self.runs = {RUN_ID: "running"}
        self.limit = None
        self.refuse = None
        self.calls = []

    def answer(self, method, body):
        if method == "ListNodes":
            return NODES
        if method == "ListRuns":
            self.limit = wire.decode(body).integer(2)
            return wire.encode(*((1, self._entry(run_id)) for run_id in self.runs))
        if method == "StopRun":
            self.runs[wire.decode(body).integer(1)] = "finished"
            return wire.encode((1, 1))
        raise AssertionError(f"unhandled call: {method}")

    def service(self, handler_call_details):
        """Answer gRPC, as a generic handler."""
        _, service, method = handler_call_details.method.split("/")
        assert service == "flwr.proto.Control"

        def handle(body, call):
            self.calls.append(method)
            if self.refuse:
                call.abort(getattr(grpc.StatusCode, self.refuse[0]), self.refuse[2])
            return self.answer(method, body)

        return grpc.unary_unary_rpc_method_handler(handle)

    def respond(self, path, content_type, body):
        """Answer HTTP."""
        assert content_type == "application/protobuf"
        kebab = {"list-nodes": "ListNodes", "list-runs": "ListRuns", "stop-run": "StopRun"}
        if self.refuse:
            return self.refuse[1], self.refuse[2].encode()
        return 200, self.answer(kebab[path.removeprefix("/v1/control/")], body)

    def _entry(self, run_id):
        status = wire.encode((1, self.runs[run_id]))
        return wire.encode((1, run_id), (2, wire.encode((1, run_id), (10, status))))


@pytest.fixture
def superlink():
    return SuperLink()


def serving(superlink, transport, leaf, port=0):
    if transport is Transport.GRPC:
        return endpoints.grpc_server(superlink, leaf=leaf, port=port)
    return endpoints.http_server(superlink.respond, leaf=leaf)


@pytest.fixture(params=list(Transport))
def transport(request):
    return request.param


@pytest.fixture(params=["tls", "plaintext"])
def api(request, superlink, transport):
    """A Control of a running SuperLink."""
    tls = request.param == "tls"
    ca = authority().pem.encode() if tls else None
    with serving(superlink, transport, loopback_leaf() if tls else None) as address:
        api = Control(address, transport, ca)
        yield api
        api.close()


def failure(call, *args):
    with pytest.raises(AgentError) as caught:
        call(*args)
    return caught.value


def test_the_nodes_are_listed(api):
    assert api.list_nodes(2) == (NODE,)
    assert api.list_nodes(2) == (NODE,)


def test_the_runs_are_listed_and_one_is_stopped(api, superlink):
    (run,) = api.list_runs(2, limit=1000)
    assert (run.run_id, run.active) == (str(RUN_ID), True)
    assert superlink.limit == 1000
    api.stop_run(run.run_id, 2)
    assert not api.list_runs(2)[0].active


@pytest.mark.parametrize(
    "refuse",
    [
        ("NOT_FOUND", 404, "Run ID not found"),
        ("FAILED_PRECONDITION", 412, json.dumps({"code": 9, "public_message": "Already finished"})),
        (
            "FAILED_PRECONDITION",
            412,
            json.dumps({"code": 9, "detail": "Not\nallowed", "extra": "why"}),
        ),
    ],
)
def test_a_refusal_is_told_in_the_servers_words_and_is_not_retried(api, superlink, refuse):
    superlink.refuse = refuse
    error = failure(api.stop_run, "7", 2)
    assert error.finding.code == "control.refused"
    assert not error.retryable
    words = ("Run ID not found", "Already finished", "Not allowed; why")
    assert error.finding.message.endswith(words)
    assert "StopRun" in error.finding.message


@pytest.mark.parametrize(
    "refuse",
    [
        ("UNKNOWN", 500, "Error in service handler!"),
        ("UNAVAILABLE", 503, "unable to open database"),
    ],
)
def test_a_superlink_in_trouble_is_unavailable_in_its_own_words(api, superlink, refuse):
    superlink.refuse = refuse
    error = failure(api.list_nodes, 2)
    assert error.finding.code == "control.unavailable"
    assert error.retryable
    assert refuse[2] in error.finding.message


@pytest.mark.parametrize(
    "said", ["database or disk is full", "attempt to write a readonly database"]
)
def test_a_superlink_that_cannot_use_its_database_is_told_apart(api, superlink, said):
    superlink.refuse = ("UNKNOWN", 500, f"Exception calling application: {said}")
    error = failure(api.list_nodes, 2)
    assert (error.finding.code, error.retryable) == ("control.database", True)
    assert error.finding.message.endswith(said)


def test_an_endless_error_is_cut(api, superlink):
    superlink.refuse = ("UNKNOWN", 500, "trouble " * 500)
    assert len(failure(api.list_nodes, 2).finding.message) < 600


def test_an_answer_that_is_not_flowers_is_unavailable(transport):
    class Stranger(SuperLink):
        def answer(self, *_):
            return b"<html>"

    with serving(Stranger(), transport, None) as address:
        api = Control(address, transport, None)
        error = failure(api.list_nodes, 2)
        api.close()
    assert error.finding.code == "control.unavailable"
    assert "an answer that is not from Flower's Control API" in error.finding.message


def test_nothing_listening_is_unavailable_at_once(transport):
    address = endpoints.closed_port()
    api = Control(address, transport, authority().pem.encode())
    for _ in range(20):
        error = failure(api.list_nodes, 2)
        assert (error.finding.code, error.retryable) == ("control.unavailable", True)
        assert str(address) in error.finding.message
    api.close()


def test_a_superlink_that_comes_back_is_seen_at_once(superlink):
    api = Control(endpoints.closed_port(), Transport.GRPC, None)
    port = api._address.port
    for _ in range(3):
        with serving(superlink, Transport.GRPC, None, port):
            assert api.list_nodes(2) == (NODE,)
        for _ in range(10):
            failure(api.list_nodes, 2)
    api.close()


def test_no_call_is_made_twice(superlink):
    api = Control(endpoints.closed_port(), Transport.GRPC, None)
    with serving(superlink, Transport.GRPC, None, api._address.port):
        api.list_nodes(2)
        superlink.refuse = ("UNAVAILABLE", 503, "database is locked")
        failure(api.stop_run, str(RUN_ID), 2)
        assert superlink.calls == ["ListNodes", "StopRun"]
        superlink.refuse = None
        api.list_nodes(2)
        superlink.refuse = ("UNAVAILABLE", 503, "database is locked")
        failure(api.list_nodes, 2)
        assert superlink.calls[2:] == ["ListNodes", "ListNodes"]
    api.close()


def test_a_silent_superlink_is_unavailable_after_the_timeout(transport):
    with endpoints.silent_server() as address:
        api = Control(address, transport, None)
        assert failure(api.list_nodes, 0.2).finding.code == "control.unavailable"
        api.close()


def test_another_ca_is_unavailable_and_says_so(superlink, transport):
    with serving(superlink, transport, loopback_leaf()) as address:
        api = Control(address, transport, issue("another CA").pem.encode())
        error = failure(api.list_nodes, 2)
        api.close()
    assert error.finding.code == "control.unavailable"
    assert "unable to get local issuer certificate" in error.finding.message


def test_a_certificate_without_the_loopback_is_verified_by_its_own_name(superlink, transport):
    leaf = issue("superlink", authority(), hosts=("fl.example.org",))
    with serving(superlink, transport, leaf) as address:
        ca = authority().pem.encode()
        named = Control(address, transport, ca, server_hostname="fl.example.org")
        assert named.list_nodes(2) == (NODE,)
        named.close()
        unnamed = Control(address, transport, ca)
        assert failure(unnamed.list_nodes, 2).finding.code == "control.unavailable"
        unnamed.close()


def test_a_large_federation_fits_in_one_answer(transport):
    many = b"".join(
        wire.encode((1, wire.encode((1, number), (4, "online"), (11, b"k" * 5000))))
        for number in range(1, 1001)
    )

    class Large(SuperLink):
        def answer(self, *_):
            return many

    with serving(Large(), transport, None) as address:
        api = Control(address, transport, None)
        assert len(api.list_nodes(5)) == 1000
        api.close()
