"""Answers that come when something else is wanted: none of them counts.

Each call is held back until its question has changed.
"""

import datetime
import random
import types

import pytest
from inline import Held

from flower_agent.config.sources import OneGateAccess
from flower_agent.config.types import Plugin
from flower_agent.docker.image_references import Image, Registry
from flower_agent.enrolment.registrar import Registrar
from flower_agent.flower.endpoint_check import EndpointCheck
from flower_agent.flower.peer_check import PeerEndpoint
from flower_agent.host.connections import Connections
from flower_agent.images.builder import BackgroundBuilder
from flower_agent.model.address import Address
from flower_agent.model.errors import (
    AgentError,
    EndpointError,
    EndpointRefusedError,
    ImageDeniedError,
    NoServiceError,
)
from flower_agent.model.secret import Secret
from flower_agent.onegate import appio_discovery
from flower_agent.onegate.publisher import OneGatePublisher
from flower_agent.onegate.superlink_search import SuperLinkSearch
from flower_agent.reconcile.reconciler import Reconciler

HERE, THERE = Address("10.0.0.1", 9092), Address("10.0.0.2", 9092)
AWAY = EndpointError("endpoint.untrusted", "certificate not trusted")


@pytest.fixture
def held():
    return Held()


def refusal(call, *arguments, **named):
    with pytest.raises(AgentError) as raised:
        call(*arguments, **named)
    return raised.value.finding.code


class Prober:
    """Refuses all it is asked."""

    def probe_tls(self, *_, **__):
        raise AWAY

    def probe_tcp(self, *_):
        raise EndpointRefusedError("endpoint.refused", "nobody listens there", retryable=True)


@pytest.fixture
def look(held):
    return EndpointCheck(held, Prober(), rng=random.Random(1))


def test_a_look_by_tls_does_not_count_for_plaintext(held, look):
    by_tls, plain = (
        PeerEndpoint(HERE, tls=True, http=False),
        PeerEndpoint(HERE, tls=False, http=False),
    )
    assert refusal(look.judge, by_tls, None, now=0.0) == "discover.waiting"
    assert refusal(look.judge, plain, None, now=0.0) == "discover.waiting"
    held.release()
    assert refusal(look.judge, plain, None, now=0.0) == "discover.waiting"
    held.release()
    assert refusal(look.judge, plain, None, now=0.0) == "endpoint.refused"


def test_a_look_at_another_endpoint_or_by_another_ca_does_not_count(held, look):
    here, there = (PeerEndpoint(each, tls=True, http=False) for each in (HERE, THERE))
    refusal(look.judge, here, None, now=0.0)
    held.release()
    assert refusal(look.judge, here, None, now=0.0) == "endpoint.untrusted"
    assert refusal(look.judge, there, None, now=0.0) == "discover.waiting"
    held.release()
    assert refusal(look.judge, there, None, now=0.0) == "endpoint.untrusted"
    assert refusal(look.judge, there, "another CA", now=0.0) == "discover.waiting"


class Client:
    """A OneGate that calls `tell` when it is asked for the service."""

    def __init__(self, tell, vmid="42"):
        self._tell = tell
        self.access = OneGateAccess("http://onegate", vmid, Secret("t" * 20))
        self.told, self.down = [], None

    def service(self):
        return self._tell()

    def update(self, text):
        self.told.append(text)

    def close(self):
        pass


def gone():
    raise NoServiceError("onegate.no_service", "this VM is in no service")


def test_an_offer_of_another_appio_does_not_count(held):
    search = appio_discovery.AppIoSearch(held, rng=random.Random(1))
    client = Client(gone)
    how = {"known": None, "now": 0.0}
    refusal(search.find, client, HERE, Plugin.CLIENTAPP, **how)
    refusal(search.find, client, THERE, Plugin.CLIENTAPP, **how)
    held.release()
    assert refusal(search.find, client, THERE, Plugin.CLIENTAPP, **how) == "discover.waiting"


def test_the_service_of_another_vm_does_not_count(held):
    registrar = Registrar(held, rng=random.Random(1))
    registrar.begin(Client(gone, "42"), 0.0)
    other = Client(gone, "43")
    registrar.begin(other, 0.0)
    held.release()
    registrar.begin(other, 0.0)
    assert registrar.in_service is None
    held.release()
    registrar.begin(other, 0.0)
    assert registrar.in_service is False


def test_the_search_of_another_vm_does_not_count(held):
    superlink_search = SuperLinkSearch(held, rng=random.Random(1))
    given = {"server_address": None, "tls": False, "tls_ca_cert": None, "is_numbered": True}
    settings = types.SimpleNamespace(**given)
    record = types.SimpleNamespace(superlink=None, superlink_vmid=None, partition=None)
    refusal(superlink_search.find, settings, Client(gone, "42"), record, now=0.0)
    refusal(superlink_search.find, settings, Client(gone, "43"), record, now=0.0)
    held.release()
    code = refusal(superlink_search.find, settings, Client(gone, "43"), record, now=0.0)
    assert code == "discover.waiting"


def test_a_look_up_that_was_under_way_does_not_answer_a_search_that_is_newer(held):
    superlink_search = SuperLinkSearch(held, rng=random.Random(1))
    services = []

    def tell():
        services.append("asked")
        return gone()

    given = {"server_address": None, "tls": False, "tls_ca_cert": None, "is_numbered": True}
    settings = types.SimpleNamespace(**given)
    record = types.SimpleNamespace(superlink=None, superlink_vmid=None, partition=None)
    client = Client(tell)
    refusal(superlink_search.find, settings, client, record, now=0.0)
    superlink_search.forget()
    held.release()
    refusal(superlink_search.find, settings, client, record, now=0.0)
    refusal(superlink_search.find, settings, client, record, now=60.0)
    held.release()
    assert services == ["asked", "asked"]


def test_the_addresses_of_another_name_do_not_count(held):
    asked = []

    def resolve(name):
        asked.append(name)
        return frozenset({"192.0.2.1"})

    connections = Connections(held, resolve=resolve)
    assert not connections.held(Address("old.example", 9092), now=0.0)
    assert not connections.held(Address("new.example", 9092), now=0.0)
    held.release()
    assert not connections.held(Address("new.example", 9092), now=0.0)
    assert connections._known == frozenset()
    held.release()
    assert asked == ["old.example", "new.example"]


def test_a_body_that_an_older_access_took_is_sent_to_the_new_one(held, tmp_path):
    reporter = OneGatePublisher(tmp_path / "onegate.json", held, now=0.0, rng=random.Random(1))
    body = {"FLOWER_STATE": "starting"}
    clock = {"now": 0.0, "wall": datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)}
    old, new = Client(gone), Client(gone)
    reporter.client = old
    reporter.offer(body, **clock)
    reporter.client = new
    held.release()
    reporter.offer(body, **clock)
    held.release()
    assert (len(old.told), len(new.told)) == (1, 1)


class Oven:
    """Makes nothing: its registry refuses."""

    def __init__(self):
        self.registries = []

    def ensure(self, reference, _, *, registry, **__):
        self.registries.append(registry)
        if registry is None:
            raise ImageDeniedError("image.denied", "log in")
        return Image(reference, "sha256:1", ())


def test_an_image_that_failed_without_a_log_in_does_not_rest_with_one(held):
    builder = Oven()
    background_builder = BackgroundBuilder(builder, held)
    log_in = Registry("bot", Secret("x"))
    background_builder.make("r", "parent", {}, None, 0.0)
    assert background_builder.make("r", "parent", {}, log_in, 0.0) is None
    held.release()
    assert background_builder.make("r", "parent", {}, log_in, 0.0) is None
    held.release()
    assert builder.registries == [None, log_in]


class Engine:
    """Pulls with a log-in only."""

    def __init__(self):
        self.registries = []

    def pull(self, _, *, registry, **__):
        self.registries.append(registry)
        if registry is None:
            raise ImageDeniedError("image.denied", "log in")


def test_a_pull_that_failed_without_a_log_in_does_not_rest_with_one(held):
    engine = Engine()
    reconciler = Reconciler(engine, held, wake=lambda: None)
    log_in = Registry("bot", Secret("x"))
    assert reconciler.fetch(("flwr/superlink:1",), {}, None, 0.0) is None
    assert reconciler.fetch(("flwr/superlink:1",), {}, log_in, 0.0) is None
    held.release()
    assert reconciler.fetch(("flwr/superlink:1",), {}, log_in, 0.0) is None
    held.release()
    assert reconciler.fetch(("flwr/superlink:1",), {}, log_in, 0.0) is None
    assert engine.registries == [None, log_in]
