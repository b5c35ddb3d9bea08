"""The SuperLink and a partition, found in what OneGate tells; what other VMs wrote is input."""

import base64
import itertools
import json
import pathlib

import onegate_template as template
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from flower_agent.config import flower_versions
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError, Severity
from flower_agent.model.state import Partition
from flower_agent.onegate import discovery, status_attributes
from flower_agent.onegate.discovery import Member, Service, ServiceVm

DATA = pathlib.Path(__file__).parents[1] / "data"
CA = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
V25 = flower_versions.parse_version("1.25.0")
CA_BASE64 = base64.b64encode(CA.encode()).decode()
WHOLE = {
    "FLOWER_ROLE": "superlink",
    "FLOWER_ENDPOINT": "10.0.0.5:9092",
    "FLOWER_TLS": "YES",
    "FLOWER_CA_CERT": CA_BASE64,
    "FLOWER_VERSION": "1.25.0",
}


def sample(name):
    return json.loads((DATA / f"onegate-get-{name}.json").read_text())


def peer(vmid=28, name="superlink_0_(service_1)", **attributes):
    return ServiceVm(str(vmid), name, attributes)


def refused(call, *arguments):
    """Return the error of a call that must fail."""
    with pytest.raises(AgentError) as caught:
        call(*arguments)
    return caught.value


# What OneGate answers


def test_the_service_of_a_real_onegate_is_read():
    assert discovery.parse_service(sample("service")) == Service(
        "1",
        (
            Member("28", "superlink_0_(service_1)", "superlink"),
            Member("29", "supernode_0_(service_1)", "supernode"),
        ),
        (("superlink", 1), ("supernode", 1)),
    )


def test_the_extended_service_reads_alike():
    extended = discovery.parse_service(sample("service-extended"))
    assert extended == discovery.parse_service(sample("service"))


def test_a_vm_of_a_real_onegate_is_read():
    found = discovery.parse_vm(sample("vms-id"))
    assert (found.vmid, found.name) == ("28", "superlink_0_(service_1)")
    assert found.attributes["FLOWER_STATE"] == "starting"


def test_a_vm_that_oneflow_has_just_asked_for_is_known_by_its_number():
    node = {"deploy_id": 31, "running": None, "vm_info": None}
    role = {"name": "supernode", "cardinality": "2", "nodes": [node, {"deploy_id": None}]}
    found = discovery.parse_service({"SERVICE": {"id": 1, "roles": [role, {"name": "empty"}]}})
    assert found == Service("1", (Member("31", "", "supernode"),), (("supernode", 2), ("empty", 0)))


def test_attributes_that_are_not_one_text_do_not_count():
    vm = {"VM": {"ID": 28, "USER_TEMPLATE": {"A": ["1", "2"], "B": {"C": "1"}, "D": "x"}}}
    assert discovery.parse_vm(vm) == ServiceVm("28", "", {"D": "x"})


def test_a_vm_without_attributes_has_none():
    assert discovery.parse_vm({"VM": {"ID": "28", "USER_TEMPLATE": {}}}).attributes == {}


def mutilated(document):
    """Yield the document with each part in turn taken out or replaced by something odd."""

    def places(value, path=()):
        items = value.items() if isinstance(value, dict) else ()
        items = enumerate(value) if isinstance(value, list) else items
        for key, inner in items:
            yield (*path, key)
            yield from places(inner, (*path, key))

    for path in places(document):
        for odd in (None, [], {}, "x", 7, -1, float("inf"), [[]], {"a": []}):
            copy = json.loads(json.dumps(document))
            place = copy
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = odd
            yield copy


@pytest.mark.parametrize(
    ("parse", "name"), [(discovery.parse_service, "service"), (discovery.parse_vm, "vms-id")]
)
def test_a_mutilated_answer_is_read_or_called_garbage(parse, name):
    for document in mutilated(sample(name)):
        try:
            parse(document)
        except AgentError as error:
            assert (error.finding.code, error.retryable) == ("onegate.garbage", True)  # noqa: PT017


@pytest.mark.parametrize("document", [None, [], {}, "", 0, {"SERVICE": None}, {"VM": []}])
def test_an_answer_that_is_something_else_is_garbage(document):
    assert refused(discovery.parse_service, document).finding.code == "onegate.garbage"
    assert refused(discovery.parse_vm, document).finding.code == "onegate.garbage"


# Who is the SuperLink


def test_the_one_that_publishes_all_is_the_superlink():
    found = discovery.superlink([peer(27, FLOWER_ROLE="supernode"), peer(**WHOLE)])
    assert (found.endpoint, found.ca_pem) == (Address("10.0.0.5", 9092), CA)
    assert (found.vmid, found.tls, found.version) == ("28", True, "1.25.0")


def test_only_vms_outside_the_own_role_are_asked():
    service = discovery.parse_service(sample("service"))
    assert discovery.worth_asking(service, "29") == ("28",)
    assert discovery.worth_asking(service, "28") == ("29",)


def test_where_oneflow_has_a_role_superlink_no_other_vm_can_say_that_it_is_one():
    roles = [("1", "superlink"), ("2", "supernode"), ("3", "superexec")]
    members = tuple(discovery.Member(vmid, "", role) for vmid, role in roles)
    assert discovery.maybe_superlinks(discovery.Service("7", members, ()), "2") == ("1",)
    others = tuple(discovery.Member(vmid, "", role + "-x") for vmid, role in roles)
    assert discovery.maybe_superlinks(discovery.Service("7", others, ()), "2") == ("1", "3")


def test_a_vm_that_oneflow_does_not_list_yet_asks_all():
    service = discovery.parse_service(sample("service"))
    assert discovery.worth_asking(service, "77") == ("28", "29")


def test_two_that_claim_to_be_the_superlink_are_ambiguous():
    error = refused(discovery.superlink, [peer(**WHOLE), peer(31, "rogue", **WHOLE)])
    assert error.finding.code == "discover.ambiguous"
    assert not error.retryable
    assert error.finding.message == (
        "VM 28 (superlink_0_(service_1)) and VM 31 (rogue) each claim to be the SuperLink"
    )


def test_a_second_claim_without_an_endpoint_does_not_count():
    other = peer(31, FLOWER_ROLE="superlink", FLOWER_ENDPOINT="")
    assert discovery.superlink([peer(**WHOLE), other]).vmid == "28"


@pytest.mark.parametrize("peers", [[], [peer()], [peer(FLOWER_ENDPOINT="10.0.0.5:9092")]])
def test_nobody_is_waited_for(peers):
    error = refused(discovery.superlink, peers)
    assert (error.finding.code, error.retryable) == ("discover.waiting", True)
    assert "no VM of the service publishes" in error.finding.message


@pytest.mark.parametrize("missing", ["FLOWER_ENDPOINT", "FLOWER_CA_CERT"])
def test_an_incomplete_superlink_is_waited_for_with_its_own_words(missing):
    attributes = {**WHOLE, missing: "", "FLOWER_ERROR": "tls.chain: no issuer"}
    error = refused(discovery.superlink, [peer(**attributes)])
    assert (error.finding.code, error.retryable) == ("discover.waiting", True)
    assert error.finding.message.endswith("yet; VM 28 reports tls.chain: no issuer")


@pytest.mark.parametrize("nothing", ["", '"'])
def test_an_empty_error_is_not_quoted(nothing):
    attributes = {**WHOLE, "FLOWER_CA_CERT": nothing, "FLOWER_ERROR": nothing}
    error = refused(discovery.superlink, [peer(**attributes)])
    assert error.finding.message == "its FLOWER_CA_CERT is not published yet"


def test_without_tls_no_ca_is_waited_for():
    found = discovery.superlink([peer(**{**WHOLE, "FLOWER_TLS": "NO", "FLOWER_CA_CERT": ""})])
    assert (found.ca_pem, found.tls) == (None, False)


def test_what_is_said_of_tls_in_other_words_is_not_known():
    assert discovery.superlink([peer(**{**WHOLE, "FLOWER_TLS": "maybe"})]).tls is None


# What other VMs may write


@pytest.mark.parametrize(
    "endpoint",
    ['"', "x", ":", "10.0.0.5", "10.0.0.5:0", "a b:1", "fd00::1", "[fd00::1", "x" * 10**6, "\x9b:"],
)
def test_a_junk_endpoint_is_waited_for(endpoint):
    error = refused(discovery.superlink, [peer(**{**WHOLE, "FLOWER_ENDPOINT": endpoint})])
    assert (error.finding.code, error.retryable) == ("discover.waiting", True)
    assert error.finding.message.startswith("VM 28 publishes FLOWER_ENDPOINT")
    assert len(error.finding.message) < 300
    assert error.finding.message.isprintable()


@pytest.mark.parametrize("text", ["x", "====", "é", "QUJ", "gICA", "QUJD\nQUJD", "*" * 10**6])
def test_a_junk_ca_is_waited_for(text):
    error = refused(discovery.superlink, [peer(**{**WHOLE, "FLOWER_CA_CERT": text})])
    assert (error.finding.code, error.retryable) == ("discover.waiting", True)
    assert len(error.finding.message) < 300


def test_a_huge_ca_is_cut():
    found = discovery.superlink([peer(**{**WHOLE, "FLOWER_CA_CERT": "QUJD" * 10**6})])
    assert len(found.ca_pem) < discovery.MAX_CA_CHARACTERS


def test_lists_instead_of_texts_are_as_good_as_nothing():
    template_of = {name: [value, value] for name, value in WHOLE.items()}
    twice = discovery.parse_vm({"VM": {"ID": "28", "USER_TEMPLATE": template_of}})
    assert refused(discovery.superlink, [twice]).finding.code == "discover.waiting"


def test_what_another_vm_says_reaches_no_terminal_as_it_is():
    evil = "\x1b[2J\n\x9b31m" + "x" * 10**6
    whole = {**WHOLE, "FLOWER_CA_CERT": "", "FLOWER_ERROR": evil}
    found = (
        refused(discovery.superlink, [peer(**whole)]).finding,
        refused(discovery.superlink, [peer(1, evil, **WHOLE), peer(**WHOLE)]).finding,
        discovery.mixed_versions(V25, evil),
    )
    for finding in found:
        assert finding.message.isprintable()
        assert len(finding.message) < 500


@effort(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*WHOLE, "FLOWER_ERROR", "FLOWER_PARTITION"]),
        st.text() | st.sampled_from(list(WHOLE.values())),
    )
)
def test_no_attribute_does_more_than_make_a_node_wait(attributes):
    mine = Service("7", (Member("8", "mine", "supernode"),), (("supernode", 3),))
    assert discovery.partition(mine, "8", [peer(**attributes)]).partition_id < 2
    try:
        endpoint = discovery.superlink([peer(**attributes)]).endpoint
    except AgentError as error:
        finding = error.finding
    else:
        assert 1 <= endpoint.port <= 65535
        return
    assert finding.code == "discover.waiting"
    assert finding.message.isprintable()


@effort(max_examples=50)
@given(st.ip_addresses() | st.sampled_from(["fl.example.org"]), st.integers(1, 65535))
def test_an_endpoint_survives_the_way_over_onegate(host, port):
    endpoint = Address(str(host), port)
    line = f"FLOWER_ENDPOINT={status_attributes.words(str(endpoint))}"
    ((_, kept),) = template.parse(template.escape(line))
    found = discovery.superlink([peer(**{**WHOLE, "FLOWER_ENDPOINT": kept})])
    assert found.endpoint == endpoint


# Versions


@pytest.mark.parametrize(
    "other", ["", "1.25.0", "1.25.3", "1.25.0-py3.13-ubuntu24.04", "1.25.0-py3.13-alpine3.22"]
)
def test_versions_that_differ_in_the_patch_only_are_one(other):
    assert discovery.mixed_versions(V25, other) is None


@pytest.mark.parametrize("other", ["1.26.0", "1.39.0", "nonsense"])
def test_versions_that_differ_in_major_or_minor_are_a_finding(other):
    found = discovery.mixed_versions(V25, other)
    assert (found.code, found.severity) == ("version.mixed", Severity.WARNING)
    assert found.message == f"this VM runs Flower 1.25.0, its SuperLink {other}"


@pytest.mark.parametrize(("own", "other"), [("1.25.0", "1.40.0"), ("1.42.0", "1.39.0")])
def test_versions_that_cannot_talk_to_each_other_are_an_error(own, other):
    found = discovery.mixed_versions(flower_versions.parse_version(own), other)
    assert (found.code, found.severity) == ("version.mixed", Severity.ERROR)
    assert "cannot talk" in found.message


# Partitions


def service(*indices, cardinality=3, role="supernode"):
    """Return a service whose SuperNodes have the indices; a VM's number is 100 more."""
    members = tuple(Member(str(100 + i), f"{role}_{i}_(service_7)", role) for i in indices)
    link = Member("50", "superlink_0_(service_7)", "superlink")
    return Service("7", (link, *members), (("superlink", 1), (role, cardinality)))


def node(index, partition=None):
    told = {} if partition is None else {"FLOWER_PARTITION": f"{partition}/3"}
    return ServiceVm(str(100 + index), f"supernode_{index}_(service_7)", told)


def test_the_index_in_the_name_is_the_partition():
    found = service(0, 1, 2)
    assert discovery.partition(found, "102", ()) == Partition(2, 3)
    assert discovery.needs_peers(found, "102") == ()


def test_the_cardinality_counts_vms_that_are_still_to_come():
    assert discovery.partition(service(0, cardinality=9), "100", ()) == Partition(0, 9)


def test_more_vms_than_the_cardinality_says_are_all_counted():
    assert discovery.partition(service(0, 1, 2, cardinality=1), "102", ()) == Partition(2, 3)


def test_a_replaced_vm_gets_the_smallest_free_partition():
    found = service(0, 2, 3)
    assert discovery.needs_peers(found, "103") == ("100", "102")
    assert discovery.partition(found, "103", [node(0, 0), node(2, 2)]) == Partition(1, 3)


def test_peers_that_have_not_published_yet_keep_what_their_names_tell():
    peers = [node(0), node(2, 2)]
    assert discovery.partition(service(0, 2, 3), "103", peers) == Partition(1, 3)


def test_a_peer_that_was_replaced_keeps_what_it_published():
    peers = [node(0, 0), node(5, 1)]
    assert discovery.partition(service(0, 5, 6), "106", peers) == Partition(2, 3)


def test_of_two_that_were_replaced_at_once_the_lower_vm_takes_the_lower_partition():
    found = service(0, 5, 6, cardinality=3)
    assert discovery.partition(found, "105", [node(0, 0), node(6)]) == Partition(1, 3)
    assert discovery.partition(found, "106", [node(0, 0), node(5)]) == Partition(2, 3)


def test_where_all_are_taken_the_next_one_is_new():
    found = service(0, 1, 4, cardinality=2)
    peers = [node(0, 0), node(1, 1), node(2, 2)]
    assert discovery.partition(found, "104", peers) == Partition(3, 4)


@pytest.mark.parametrize(
    "name", ["", "my node", "supernode_x_(service_7)", "other_1_(service_7)", "supernode_1"]
)
def test_a_vm_with_another_name_looks_at_its_peers(name):
    found = Service("7", (Member("9", name, "supernode"),), (("supernode", 1),))
    assert discovery.name_index(found.members[0]) is None
    assert discovery.partition(found, "9", [node(0, 0)]) == Partition(1, 2)


def test_a_role_with_numbers_in_its_name_is_no_index():
    member = Member("9", "node_2_gpu_5_(service_7)", "node_2_gpu")
    assert discovery.name_index(member) == 5


@pytest.mark.parametrize(
    ("text", "free"),
    [("2/3", 0), ("0", 1), ("0/1", 1), ("", 0), ("-1/3", 0), ("x", 0), ("9" * 99, 0)],
)
def test_a_published_partition_is_read_as_input(text, free):
    found = Service("7", (Member("8", "mine", "supernode"),), (("supernode", 3),))
    peers = [ServiceVm("9", "nameless", {"FLOWER_PARTITION": text})]
    assert discovery.partition(found, "8", peers) == Partition(free, 3)


def test_a_vm_that_oneflow_does_not_list_yet_waits():
    error = refused(discovery.partition, service(0), "999", ())
    assert (error.finding.code, error.retryable) == ("discover.waiting", True)
    assert discovery.needs_peers(service(0), "999") == ()


@effort(max_examples=40, deadline=None)
@given(st.data())
def test_no_partition_is_given_twice_while_vms_come_and_go(data):
    names = itertools.count()
    cardinality = data.draw(st.integers(1, 5))
    alive = {next(names): None for _ in range(cardinality)}
    for _ in range(8):
        waiting = [index for index, partition in alive.items() if partition is None]
        if waiting and data.draw(st.booleans()):
            seen = dict(alive)  # those that look at the same moment see the same
            for index in data.draw(st.sets(st.sampled_from(waiting), min_size=1)):
                found = service(*seen, cardinality=cardinality)
                asked = discovery.needs_peers(found, str(100 + index))
                peers = [node(i, p) for i, p in seen.items() if str(100 + i) in asked]
                given_id = discovery.partition(found, str(100 + index), peers)
                alive[index] = given_id.partition_id
                assert given_id.partition_id < given_id.num_partitions
        else:
            alive.pop(data.draw(st.sampled_from(list(alive))))
            alive[next(names)] = None
        known = [partition for partition in alive.values() if partition is not None]
        assert len(known) == len(set(known))
