"""A SuperNode finds its SuperLink through the sandbox's OneGate, on a clock that the tests move."""

import base64
import contextlib
import datetime
import itertools
import random
import time

import endpoints
import onegate as sandbox
import pytest
from endpoints import authority, issue, loopback_leaf
from inline import running

from flower_agent.background import Threads
from flower_agent.config import parsing
from flower_agent.config.sources import OneGateAccess
from flower_agent.enrolment import superlink_trust
from flower_agent.flower import endpoint_check as look_module
from flower_agent.flower.command_line import Trust
from flower_agent.flower.endpoint_check import EndpointCheck
from flower_agent.flower.health import Prober
from flower_agent.flower.peer_check import PeerEndpoint
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.model.state import Partition, State
from flower_agent.onegate import status_attributes, superlink_search
from flower_agent.onegate.client import OneGate
from flower_agent.onegate.discovery import SuperLinkOffer
from flower_agent.onegate.superlink_search import SuperLinkSearch
from flower_agent.tls import certificates

SUPERLINK, NODE, OTHER_NODE, LONER, SECOND = 28, 29, 30, 40, 50
NAMES = {
    SUPERLINK: ("superlink_0_(service_1)", "superlink", 1),
    NODE: ("supernode_0_(service_1)", "supernode", 1),
    OTHER_NODE: ("supernode_1_(service_1)", "supernode", 1),
}
ENDPOINT = Address("172.20.0.43", 9092)
STATIC = {"FLOWER_SERVER_ADDRESS": "fl.example.org"}
PLAIN = {"TLS_ENABLED": "NO"}
NUMBERED = {"FLOWER_NODE_CONFIG": "partition-id=3 num-partitions=9"}
NOW = datetime.datetime.now(datetime.UTC)
OTHER_CA = issue("another CA")
RETRY_LEAST, RETRY_MOST = superlink_search.RETRY_S


def supernode(**variables):
    parsed = parsing.parse({"FLOWER_ROLE": "supernode", **variables}, {})
    assert parsed.settings is not None, parsed.findings
    return parsed.settings


def published(endpoint=ENDPOINT, ca=None, **more):
    """Return what a SuperLink's agent publishes."""
    ca_pem = (ca or authority()).pem
    return {
        "FLOWER_ROLE": "superlink",
        "FLOWER_STATE": "starting",
        "FLOWER_VERSION": "1.25.0",
        "FLOWER_TLS": "YES",
        "FLOWER_ENDPOINT": str(endpoint),
        "FLOWER_CA_CERT": base64.b64encode(ca_pem.encode()).decode(),
        **more,
    }


class Service:
    """A OneFlow service, what its VMs say, and the search of one of them."""

    def __init__(self, gate, prober):
        self.gate = gate
        self.tokens = {}
        gate.add_service(1, "flower", [("superlink", 1), ("supernode", 2)])
        for vmid, (name, role, service) in NAMES.items():
            self.tokens[vmid] = gate.add_vm(vmid, name, role, service)
        self.threads = Threads(lambda: None)
        self.superlink_search = SuperLinkSearch(self.threads, rng=random.Random(1))
        self.look = EndpointCheck(self.threads, prober, rng=random.Random(1))
        self.now = 1000.0
        self.record = State()
        self.client = self.guest(NODE)
        self._guests = [self.client]

    def guest(self, vmid, token=None):
        return OneGate(OneGateAccess(self.gate.url, str(vmid), Secret(token or self.tokens[vmid])))

    def use(self, client):
        self.client = client
        self._guests.append(client)

    def say(self, vmid, attributes):
        """Let a VM publish attributes, as its agent would; nobody counts that request."""
        client = self.guest(vmid)
        client.update(status_attributes.render(attributes))
        client.close()

    def asked(self):
        """Return what this VM asked OneGate for."""
        return [r.path for r in self.gate.requests if r.method == "GET"]

    def find(self, settings, after_s=0.0):
        """Look once more, and see the call to its end."""
        self.now += after_s
        try:
            return self.superlink_search.find(settings, self.client, self.record, now=self.now)
        finally:
            self.settle()

    def settle(self):
        end = time.monotonic() + 10
        while running(self.threads, "onegate-lookup", "endpoint-look"):
            assert time.monotonic() < end, "the call never ends"
            time.sleep(0.0005)

    def found(self, settings, after_s=0.0):
        """Return what a look-up brings: it is begun by one turn and used by the next."""
        with contextlib.suppress(AgentError):  # not looked up yet
            self.find(settings, after_s)
        return self.find(settings)

    def refusal(self, settings, after_s=0.0):
        with pytest.raises(AgentError) as caught:
            self.found(settings, after_s)
        return caught.value

    def partition(self):
        return self.superlink_search.partition(self.client, self.record)

    def close(self):
        for client in self._guests:
            client.close()


@pytest.fixture
def service():
    prober = Prober()
    with sandbox.OneGate() as gate:
        service = Service(gate, prober)
        yield service
        service.close()


# A static address


def test_a_static_address_needs_no_onegate(service):
    service.client = None
    settings = supernode(**STATIC, TLS_CA_CERT=authority().pem)
    assert service.found(settings) == SuperLinkOffer(Address("fl.example.org", 9092))
    assert service.partition() is None
    assert service.gate.requests == ()


def test_a_static_address_with_a_port_and_a_given_partition_asks_nothing(service):
    settings = supernode(FLOWER_SERVER_ADDRESS="10.0.0.1:7000", **PLAIN, **NUMBERED)
    assert service.found(settings).endpoint == Address("10.0.0.1", 7000)
    assert service.gate.requests == ()


def test_a_static_address_does_not_wait_for_onegate(service):
    service.gate.fault("hang")
    settings = supernode(**STATIC, **PLAIN)
    try:
        found = service.superlink_search.find(settings, service.client, service.record, now=1.0)
        with pytest.raises(AgentError, match=r"discover\.waiting"):
            service.partition()
    finally:
        service.gate.heal()
        service.settle()
    assert found.endpoint.host == "fl.example.org"


def test_the_ca_of_a_static_superlink_comes_from_onegate(service):
    service.say(SUPERLINK, published())
    found = service.found(supernode(**STATIC))
    assert found.endpoint == Address("fl.example.org", 9092)
    assert found.ca_pem == authority().pem


def test_a_node_config_without_a_partition_still_asks_for_one(service):
    settings = supernode(FLOWER_SERVER_ADDRESS="10.0.0.1", FLOWER_NODE_CONFIG="a=1", **PLAIN)
    service.find(settings)
    service.find(settings)
    assert service.partition() == Partition(0, 2)


def test_a_static_node_in_a_service_gets_its_partition(service):
    service.found(supernode(**STATIC, **PLAIN))
    assert service.partition() == Partition(0, 2)
    assert service.asked() == ["/service"]


def test_a_static_node_outside_a_service_asks_once_and_has_no_partition(service):
    service.use(service.guest(LONER, service.gate.add_vm(LONER, "loner")))
    settings = supernode(**STATIC, **PLAIN)
    for _ in range(120):
        service.found(settings, 1)
    assert service.partition() is None
    assert service.asked() == ["/service"]


def test_a_node_that_oneflow_does_not_list_yet_waits_for_its_partition(service):
    token = service.gate.add_vm(LONER, "early", user_template={"SERVICE_ID": "1"})
    service.use(service.guest(LONER, token))
    service.found(supernode(**STATIC, **PLAIN))
    with pytest.raises(AgentError) as caught:
        service.partition()
    assert caught.value.retryable


# Through the service


def test_a_superlink_is_found_by_two_requests(service):
    service.say(SUPERLINK, published())
    with pytest.raises(AgentError) as caught:
        service.find(supernode())
    assert caught.value.finding.code == "discover.waiting"
    assert caught.value.retryable
    assert service.find(supernode()) == SuperLinkOffer(
        ENDPOINT, authority().pem, str(SUPERLINK), tls=True, version="1.25.0"
    )
    assert service.partition() == Partition(0, 2)
    assert service.asked() == ["/service", f"/vms/{SUPERLINK}"]


@pytest.mark.parametrize(("told", "known"), [("YES", True), ("NO", False), ("x", None)])
def test_whether_the_superlink_wants_node_keys_comes_with_it(service, told, known):
    service.say(SUPERLINK, published(FLOWER_NODE_AUTH=told))
    assert service.found(supernode()).node_auth is known


def test_what_was_found_is_not_asked_for_again(service):
    service.say(SUPERLINK, published())
    service.found(supernode())
    for _ in range(200):
        service.find(supernode(), 3)
    assert len(service.asked()) == 2


def test_a_node_waits_until_the_superlink_has_published_all(service):
    waits = [
        ({}, "no VM of the service publishes FLOWER_ROLE and FLOWER_ENDPOINT"),
        (
            {"FLOWER_ROLE": "superlink", "FLOWER_ERROR": "port.taken: 9092 is taken"},
            "VM 28 reports port.taken: 9092 is taken",
        ),
        ({"FLOWER_ENDPOINT": str(ENDPOINT), "FLOWER_TLS": "YES"}, "FLOWER_CA_CERT is not publish"),
        ({"FLOWER_CA_CERT": "bm8gUEVN/w=="}, "not base64 of PEM"),
    ]
    for attributes, why in waits:
        service.say(SUPERLINK, {**attributes, "FLOWER_SEEN": "x"})
        error = service.refusal(supernode(), RETRY_MOST)
        assert error.finding.code == "discover.waiting"
        assert error.retryable
        assert why in error.finding.message
    service.say(SUPERLINK, published())
    assert service.found(supernode(), RETRY_MOST).endpoint == ENDPOINT


def test_without_tls_no_ca_is_waited_for(service):
    service.say(SUPERLINK, {**published(FLOWER_TLS="NO"), "FLOWER_CA_CERT": ""})
    found = service.found(supernode(**PLAIN))
    assert (found.endpoint, found.ca_pem, found.tls) == (ENDPOINT, None, False)
    assert superlink_trust.mismatch(supernode(**PLAIN), found) is None
    assert superlink_trust.mismatch(supernode(), found).code == "tls.mismatch"


def test_an_ipv6_endpoint_survives_onegate(service):
    endpoint = Address("fd00::43", 9092)
    service.say(SUPERLINK, published(status_attributes.words(str(endpoint))))
    assert service.found(supernode()).endpoint == endpoint


def test_two_superlinks_are_one_too_many(service):
    service.gate.add_service(2, "flower", [("superlink", 2), ("supernode", 1)])
    for index, vmid in enumerate((60, 61)):
        name = f"superlink_{index}_(service_2)"
        service.tokens[vmid] = service.gate.add_vm(vmid, name, "superlink", 2)
        service.say(vmid, published())
    service.use(service.guest(62, service.gate.add_vm(62, "n", "supernode", 2)))
    found = service.refusal(supernode(**NUMBERED)).finding
    assert found.code == "discover.ambiguous"
    assert "VM 60" in found.message
    assert "VM 61" in found.message


def test_a_node_of_the_own_role_is_never_the_superlink(service):
    service.say(OTHER_NODE, published(Address("10.6.6.6", 9092)))
    assert service.refusal(supernode()).finding.code == "discover.waiting"
    assert f"/vms/{OTHER_NODE}" not in service.asked()


def test_a_remembered_superlink_is_asked_alone(service):
    service.gate.add_service(3, "big", [("superlink", 1), ("web", 5), ("supernode", 1)])
    for vmid in range(70, 75):
        service.gate.add_vm(vmid, f"web_{vmid}_(service_3)", "web", 3)
    service.tokens[75] = service.gate.add_vm(75, "superlink_0_(service_3)", "superlink", 3)
    service.use(
        service.guest(76, service.gate.add_vm(76, "supernode_0_(service_3)", "supernode", 3))
    )
    service.say(75, published())
    service.record = State(superlink=ENDPOINT, superlink_vmid="75")
    assert service.found(supernode()).vmid == "75"
    assert service.asked() == ["/service", "/vms/75"]


def test_a_remembered_superlink_that_left_the_service_is_searched_anew(service):
    service.say(SUPERLINK, published())
    service.record = State(superlink=Address("10.9.9.9", 9092), superlink_vmid="17")
    assert service.found(supernode()).vmid == str(SUPERLINK)


def test_an_address_that_is_set_counts_and_what_is_published_is_known_beside_it(service):
    service.say(SUPERLINK, published())
    found = service.found(supernode(**STATIC))
    assert (found.endpoint, found.published) == (Address("fl.example.org", 9092), ENDPOINT)
    same = supernode(FLOWER_SERVER_ADDRESS=str(ENDPOINT))
    assert service.found(same).published is None


def test_a_vm_outside_a_service_can_find_nothing(service):
    service.use(service.guest(LONER, service.gate.add_vm(LONER, "loner")))
    assert service.refusal(supernode()).finding.code == "onegate.no_service"


# The pace


def paced(service, settings, seconds, *, each=lambda: None):
    """Turn each second; return the times of look-ups."""
    times = []
    for second in range(seconds):
        before = service.asked().count("/service")
        with contextlib.suppress(AgentError):  # it is what is waited for
            service.find(settings, 1)
        each()
        times += [second] * (service.asked().count("/service") - before)
    return times


def holds_the_pace(times, seconds):
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(gaps) >= seconds / (RETRY_MOST + 3)
    assert all(RETRY_LEAST <= gap <= RETRY_MOST + 2 for gap in gaps), gaps
    assert len(set(gaps)) > 3, "no jitter"


def test_a_waiting_node_asks_every_5_to_15_seconds(service):
    holds_the_pace(paced(service, supernode(), 600), 600)


@pytest.mark.parametrize("kind", ["down", "401", "500", "garbage", "drop_reply"])
def test_a_onegate_in_trouble_is_asked_ever_more_seldom_and_soon_again_after_an_answer(
    service, kind
):
    service.gate.fault(kind)
    times = paced(service, supernode(), 600)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    most = 2**superlink_search.MOST_DOUBLINGS
    assert RETRY_LEAST <= gaps[0] <= RETRY_MOST + 2
    assert all(RETRY_LEAST * most <= gap <= RETRY_MOST * most + 2 for gap in gaps[2:]), gaps
    assert len(gaps) >= 600 / (RETRY_MOST * most + 3)
    service.gate.heal()
    holds_the_pace(paced(service, supernode(), 300)[1:], 300 - RETRY_MOST * most)


def test_a_node_that_lost_its_superlink_asks_no_more_often(service):
    service.say(SUPERLINK, published())
    service.found(supernode())
    times = paced(service, supernode(), 600, each=service.superlink_search.forget)
    holds_the_pace(times, 600)


def test_a_superlink_that_moved_is_found_while_the_old_one_counts(service):
    service.say(SUPERLINK, published())
    service.found(supernode())
    moved = Address("172.20.0.99", 9092)
    service.say(SUPERLINK, published(moved))
    service.superlink_search.forget()
    assert service.find(supernode()).endpoint == ENDPOINT
    assert service.found(supernode(), RETRY_MOST).endpoint == moved


def test_new_settings_ask_for_what_is_missing(service):
    service.say(SUPERLINK, published())
    service.found(supernode(**NUMBERED))
    service.superlink_search.forget()
    service.found(supernode(), RETRY_MOST)
    assert service.partition() == Partition(0, 2)


# OneGate is away


def test_a_reboot_without_onegate_uses_what_was_known(service):
    service.gate.stop()
    service.record = State(superlink=ENDPOINT, superlink_vmid=str(SUPERLINK))
    assert service.found(supernode()) == SuperLinkOffer(ENDPOINT, vmid=str(SUPERLINK))
    service.record = State(superlink=ENDPOINT, partition=Partition(1, 2))
    assert service.partition() == Partition(1, 2)


def test_a_reboot_without_onegate_keeps_a_static_address(service):
    service.gate.stop()
    service.record = State(superlink=ENDPOINT, superlink_vmid=str(SUPERLINK))
    assert service.found(supernode(**STATIC)).endpoint == Address("fl.example.org", 9092)


def test_a_superlink_that_was_never_known_is_waited_for(service):
    port = int(service.gate.url.rpartition(":")[2])
    service.gate.stop()
    error = service.refusal(supernode())
    assert (error.finding.code, error.retryable) == ("onegate.down", True)
    with pytest.raises(AgentError, match=r"onegate\.down"):
        service.partition()
    service.gate.start(port=port)
    service.say(SUPERLINK, published())
    assert service.found(supernode(), RETRY_MOST).endpoint == ENDPOINT


def test_a_superlink_that_is_gone_is_not_taken_from_memory(service):
    service.record = State(superlink=ENDPOINT, superlink_vmid=str(SUPERLINK))
    assert service.refusal(supernode()).finding.code == "discover.waiting"


def test_what_was_found_counts_while_onegate_is_away(service):
    service.say(SUPERLINK, published())
    before = service.found(supernode())
    service.gate.fault("500")
    service.superlink_search.forget()
    assert service.found(supernode(), RETRY_MOST) == before
    service.gate.heal()
    assert service.found(supernode(), RETRY_MOST) == before


# Partitions


def test_a_partition_is_the_index_in_the_name(service):
    service.use(service.guest(OTHER_NODE))
    service.found(supernode(**STATIC, **PLAIN))
    assert service.partition() == Partition(1, 2)


def test_a_name_without_an_index_gets_what_no_peer_has(service):
    service.use(service.guest(SECOND, service.gate.add_vm(SECOND, "renamed", "supernode", 1)))
    service.say(NODE, {"FLOWER_PARTITION": "0/3"})
    service.say(OTHER_NODE, {"FLOWER_PARTITION": "2/3"})
    service.found(supernode(**STATIC, **PLAIN))
    assert service.partition() == Partition(1, 3)
    assert service.asked() == ["/service", f"/vms/{NODE}", f"/vms/{OTHER_NODE}"]


def test_a_node_of_a_scaled_role_with_a_late_index_gets_a_free_one(service):
    name = "supernode_7_(service_1)"
    service.use(service.guest(SECOND, service.gate.add_vm(SECOND, name, "supernode", 1)))
    service.say(NODE, {"FLOWER_PARTITION": "0/2"})
    service.say(OTHER_NODE, {"FLOWER_PARTITION": "1/2"})
    service.found(supernode(**STATIC, **PLAIN))
    assert service.partition() == Partition(2, 3)


def test_a_partition_that_was_given_is_kept(service):
    service.record = State(partition=Partition(7, 9))
    service.found(supernode(**STATIC, **PLAIN))
    assert service.partition() == Partition(7, 9)
    assert service.gate.requests == ()


# Whom to trust

OFFER = SuperLinkOffer(ENDPOINT, authority().pem)
PIN = State(ca_pin=authority().fingerprint)


def distrusted(settings, superlink, record=PIN, held=""):
    with pytest.raises(AgentError) as caught:
        superlink_trust.trusted_ca(settings, superlink.ca_pem, record, held)
    return caught.value.finding


def test_the_first_ca_is_taken_and_the_same_one_later():
    assert superlink_trust.trusted_ca(supernode(), OFFER.ca_pem, State(), "") == authority().pem
    assert (
        superlink_trust.trusted_ca(supernode(), OFFER.ca_pem, PIN, authority().pem)
        == authority().pem
    )


def test_another_ca_is_refused():
    found = distrusted(supernode(), SuperLinkOffer(ENDPOINT, OTHER_CA.pem), held=authority().pem)
    assert found.code == "tls.ca_changed"
    for one in (OTHER_CA, authority()):
        assert certificates.format_fingerprint(one.fingerprint) in found.message


def test_a_ca_that_hides_behind_the_trusted_one_is_refused():
    both = SuperLinkOffer(ENDPOINT, authority().pem + OTHER_CA.pem)
    for held in ("", authority().pem):
        assert distrusted(supernode(), both, held=held).code == "tls.ca_changed"


def test_two_cas_that_were_trusted_together_stay_so():
    both = authority().pem + OTHER_CA.pem
    offer = SuperLinkOffer(ENDPOINT, both)
    held = certificates.canonical(
        superlink_trust.trusted_ca(supernode(), offer.ca_pem, State(), "")
    )
    assert superlink_trust.trusted_ca(supernode(), offer.ca_pem, PIN, held) == both


def test_a_fingerprint_in_the_context_overrides_the_pin():
    settings = supernode(FLOWER_CA_FINGERPRINT=OTHER_CA.fingerprint)
    pem = superlink_trust.trusted_ca(settings, OTHER_CA.pem, PIN, authority().pem)
    assert certificates.check_ca(pem, settings.ca_fingerprint, NOW).fingerprint == (
        OTHER_CA.fingerprint
    )


@pytest.mark.parametrize("offered", [authority().pem, OTHER_CA.pem + authority().pem])
def test_a_fingerprint_in_the_context_refuses_every_other_ca(offered):
    settings = supernode(FLOWER_CA_FINGERPRINT=OTHER_CA.fingerprint)
    pem = superlink_trust.trusted_ca(settings, offered, PIN, "")
    with pytest.raises(AgentError, match=r"tls\.fingerprint"):
        certificates.check_ca(pem, settings.ca_fingerprint, NOW)


def test_the_held_ca_serves_while_onegate_is_away():
    away = SuperLinkOffer(ENDPOINT)
    assert (
        superlink_trust.trusted_ca(supernode(), away.ca_pem, PIN, authority().pem)
        == authority().pem
    )
    assert distrusted(supernode(), away).code == "discover.no_source"


def test_a_held_ca_that_was_exchanged_is_refused():
    assert (
        distrusted(supernode(), SuperLinkOffer(ENDPOINT), held=OTHER_CA.pem).code
        == "tls.ca_changed"
    )


def test_a_ca_in_the_context_wins():
    settings = supernode(TLS_CA_CERT=OTHER_CA.pem)
    assert superlink_trust.trusted_ca(settings, OFFER, PIN, authority().pem) == settings.tls_ca_cert


@pytest.mark.parametrize("text", ["no PEM", authority().key_pem, authority().pem[:200]])
def test_what_is_no_certificate_is_waited_out(text):
    assert distrusted(supernode(), SuperLinkOffer(ENDPOINT, text)).code == "discover.waiting"


def test_a_node_believes_as_it_is_told():
    assert superlink_trust.trust_of(supernode(**PLAIN)) is Trust.INSECURE
    assert superlink_trust.trust_of(supernode(TLS_CA_CERT="system")) is Trust.SYSTEM
    assert superlink_trust.trust_of(supernode()) is Trust.CA


def test_without_onegate_a_node_needs_an_address_and_a_ca():
    found = superlink_trust.no_source(supernode())
    assert found.code == "discover.no_source"
    assert "FLOWER_SERVER_ADDRESS" in found.message
    assert "TLS_CA_CERT" in found.message
    assert superlink_trust.no_source(supernode(**STATIC, TLS_CA_CERT="system")) is None
    assert superlink_trust.no_source(supernode(**STATIC, **PLAIN)) is None


# The look at the endpoint


def look(service, address, ca_pem, *, tls=True, http=False, after_s=0.0):
    """Look twice, since the first begins what the second tells; return the finding."""
    service.now += after_s
    for _ in range(2):
        try:
            service.look.judge(PeerEndpoint(address, tls, http), ca_pem, now=service.now)
        except AgentError as error:
            found = error
        else:
            found = None
        service.settle()
    assert found is None or found.retryable
    return found.finding if found else None


def test_a_good_endpoint_passes_and_counts_for_a_minute(service):
    with endpoints.tls_server(loopback_leaf()) as address:
        peer = PeerEndpoint(address, tls=True, http=False)
        with pytest.raises(AgentError, match="checks the endpoint"):
            service.look.judge(peer, authority().pem, now=service.now)
        service.settle()
        assert look(service, address, authority().pem) is None
    assert look(service, address, authority().pem, after_s=59) is None
    service.settle()
    assert look(service, address, authority().pem, after_s=2).code == "endpoint.refused"


def test_an_endpoint_of_another_ca_does_not_pass(service):
    with endpoints.tls_server(loopback_leaf()) as address:
        assert look(service, address, OTHER_CA.pem).code == "endpoint.untrusted"


def test_a_closed_endpoint_is_looked_at_again_within_seconds(service):
    address = endpoints.closed_port()
    assert look(service, address, authority().pem).code == "endpoint.refused"
    with endpoints.grpc_server(leaf=loopback_leaf(), port=address.port):
        assert look(service, address, authority().pem, after_s=3) is None


def test_another_endpoint_is_looked_at_before_it_counts(service):
    with endpoints.tls_server(loopback_leaf()) as address:
        assert look(service, address, authority().pem) is None
        assert look(service, endpoints.closed_port(), authority().pem).code == "endpoint.refused"
        assert look(service, address, authority().pem) is None


def test_without_tls_any_answer_is_enough_and_a_listener_is_not(service, monkeypatch):
    with endpoints.health_server() as address:
        assert look(service, address, None, tls=False) is None
    monkeypatch.setattr(look_module, "TIMEOUT_S", 0.2)
    with endpoints.silent_server() as address:
        assert look(service, address, None, tls=False).code == "endpoint.timeout"
    assert look(service, endpoints.closed_port(), None, tls=False).code == "endpoint.refused"


def test_an_endpoint_over_http_needs_no_alpn(service):
    with endpoints.tls_server(loopback_leaf(), alpn=()) as address:
        assert look(service, address, authority().pem, http=True) is None
    with endpoints.tls_server(loopback_leaf(), alpn=()) as address:
        assert look(service, address, authority().pem).code == "endpoint.not_flower"
