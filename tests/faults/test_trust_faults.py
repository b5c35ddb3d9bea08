"""Addresses, certificates and attributes change, by right or by wrong: who is trusted then.

Each VM has a single container (subprocess isolation), and 300 s of the agent are 15 s here.
"""

import datetime
import pathlib
import re
import ssl
import subprocess
import sys
import threading

import pytest
from federation import SERVICE
from vms import (
    SUBPROCESS,
    calm,
    encoded,
    error,
    held_ca,
    ids,
    main,
    pair,
    published,
    put,
    ready,
    restart,
    running,
    says,
    start,
    state,
    state_file,
    warns,
)
from watched import docker, wait_for

from flower_agent.model.secret import Secret
from flower_agent.tls import certificates
from flower_agent.tls import own_ca as tls_own_ca
from flower_agent.tls.store import Keyring

pytestmark = [pytest.mark.engine, pytest.mark.federation]

REPOSITORY = pathlib.Path(__file__).parents[2]
SCALE = 0.05
INTRUDER = 99
DUE_IN = datetime.timedelta(seconds=30)


def now():
    return datetime.datetime.now(datetime.UTC)


def days(number):
    return datetime.timedelta(days=number)


@pytest.fixture
def vms(lone):
    federation = lone(26180, "fo-trust", scale=SCALE, **SUBPROCESS)
    return federation, *pair(federation)


def leaf(machine):
    return certificates.inspect(state_file(machine, "tls/server.pem").read_text())


def fingerprint(machine):
    return certificates.fingerprint(held_ca(machine))


def connected(federation, node, link):
    """Return whether the SuperNode works and the SuperLink counts it."""
    return state(federation, node) == "ready" and federation.status(link).get("nodes") == 1


def own_ca(machine):
    key, begin, rest = state_file(machine, "tls/ca/ca.pem").read_text().partition("-----BEGIN CERT")
    return tls_own_ca.Pair(begin + rest, Secret(key))


def hold(machine, pair):
    """Put a certificate in the place of the agent's own, as if it had been made then."""
    Keyring(state_file(machine, "tls"))._write(held_ca(machine), pair.certificate_pem, pair.key)


# A new address


def test_a_superlink_with_a_new_address_is_found_again_and_still_trusted(vms):
    federation, link, node = vms
    ca, before, partition = (
        fingerprint(link),
        leaf(link),
        published(federation, node, "FLOWER_PARTITION"),
    )
    federation.write_context(link, {**link.variables, "FLOWER_ADDRESS": "127.0.0.2"})
    wait_for(lambda: state(federation, node) == "degraded", "the SuperNode misses its SuperLink")
    endpoint = f"127.0.0.2:{link.variables['FLOWER_FLEET_PORT']}"
    wait_for(
        lambda: (
            federation.status(node).get("endpoint") == endpoint
            and connected(federation, node, link)
        ),
        "both ready at the new address",
    )
    assert published(federation, link, "FLOWER_ENDPOINT") == endpoint
    assert (fingerprint(link), fingerprint(node)) == (ca, ca)
    assert "127.0.0.2" in leaf(link).addresses - before.addresses
    assert published(federation, node, "FLOWER_PARTITION") == partition


# Attributes that another VM overwrote


@pytest.fixture
def intruder(vms):
    """Another VM of the service, which may write where it likes."""
    federation, *_ = vms
    token = federation.cloud.add_vm(INTRUDER, "supernode_1_(service_7)", "supernode", SERVICE)

    def write(whose, **attributes):
        put(federation, token, INTRUDER, whose, **attributes)

    return write


def stranger(*hosts):
    authority = tls_own_ca.make_ca(now())
    return authority, tls_own_ca.make_leaf(authority, hosts or ("127.0.0.1",), now())


def test_a_forged_ca_is_refused_and_said_and_the_superlink_puts_its_own_back(vms, intruder):
    federation, link, node = vms
    ca, before = fingerprint(link), (ids(link), ids(node))
    forged, _ = stranger()
    print_of = certificates.fingerprint(forged.certificate_pem)
    federation.stop_agent(link)
    intruder(
        link.vmid, FLOWER_CA_CERT=encoded(forged.certificate_pem), FLOWER_CA_FINGERPRINT=print_of
    )
    restart(federation, node)
    says(federation, node, "tls.ca_changed")
    assert certificates.format_fingerprint(print_of) in federation.status(node)["error"]["message"]
    assert running(main(node))
    assert fingerprint(node) == ca
    federation.start_agent(link)
    warns(federation, link, "onegate.overwritten")
    wait_for(lambda: published(federation, link, "FLOWER_CA_FINGERPRINT") == ca, "its own value")
    ready(federation, node)
    calm(federation, link)
    assert (ids(link), ids(node)) == before
    assert fingerprint(node) == ca


def test_a_forged_endpoint_is_not_dialled_by_flower_and_is_put_back(vms, intruder):
    federation, link, node = vms
    before, endpoint = (ids(link), ids(node)), published(federation, link, "FLOWER_ENDPOINT")
    federation.stop_agent(link)
    intruder(link.vmid, FLOWER_ENDPOINT="127.0.0.3:26199")
    restart(federation, node)
    ready(federation, node)  # it keeps the endpoint to which it holds a connection
    told = {fact["name"]: fact["detail"] for fact in federation.status(node)["facts"]}
    assert told["superlink"].startswith(endpoint)
    assert ids(node) == before[1]
    federation.start_agent(link)
    warns(federation, link, "onegate.overwritten")
    wait_for(lambda: published(federation, link, "FLOWER_ENDPOINT") == endpoint, "its own value")
    ready(federation, node)
    assert (ids(link), ids(node)) == before


@pytest.fixture
def newest(images):
    """A Flower whose SuperNodes speak HTTP: no connection is held between two calls."""
    build = [sys.executable, REPOSITORY / "contrib/images/build.py", "--flower", "1.42.0"]
    subprocess.run(build, check=True)
    return {**SUBPROCESS, "FLOWER_VERSION": "1.42.0"}


def test_no_forged_word_moves_a_node_that_speaks_http(lone, newest):
    federation = lone(28300, "fo-http", scale=SCALE, **newest)
    link = federation.superlink
    link, node = pair(federation)
    before, endpoint = ids(node), published(federation, link, "FLOWER_ENDPOINT")
    token = federation.cloud.add_vm(INTRUDER, "supernode_1_(service_7)", "supernode", SERVICE)
    federation.stop_agent(link)
    forged = {"FLOWER_ENDPOINT": "127.0.0.3:26199", "FLOWER_NODE_AUTH": "YES"}
    put(federation, token, INTRUDER, link.vmid, **forged)
    restart(federation, node)
    ready(federation, node)

    def told():
        return next(
            f["detail"] for f in federation.status(node)["facts"] if f["name"] == "superlink"
        )

    wait_for(lambda: "127.0.0.3:26199" in told(), "it was read")
    assert told().startswith(endpoint), "and not believed"
    ready(federation, node)
    assert ids(node) == before


def test_of_two_superlinks_none_is_taken(lone):
    federation = lone(26240, "fo-two", scale=SCALE, **SUBPROCESS)
    federation.cloud.add_service(SERVICE, "flower", [("superlink", 2), ("supernode", 1)])
    link, node = federation.superlink, federation.supernodes[0]
    federation.deploy(link)
    federation.wait_ready(link)
    claim = {
        "FLOWER_ROLE": "superlink",
        "FLOWER_ENDPOINT": "127.0.0.3:9092",
        "FLOWER_CA_CERT": encoded(stranger()[0].certificate_pem),
    }
    token = federation.cloud.add_vm(INTRUDER, "superlink_1_(service_7)", "superlink", SERVICE)
    put(federation, token, INTRUDER, INTRUDER, **claim)
    federation.deploy(node)
    says(federation, node, "discover.ambiguous")
    message = federation.status(node)["error"]["message"]
    assert (str(link.vmid) in message, str(INTRUDER) in message) == (True, True)
    assert ids(node)["supernode"] == ""
    put(federation, token, INTRUDER, INTRUDER, FLOWER_ROLE="supernode")
    ready(federation, node)
    assert fingerprint(node) == fingerprint(link)
    put(federation, token, INTRUDER, INTRUDER, FLOWER_ROLE="superlink")
    before = ids(node)
    restart(federation, node)  # it knows which of the two is its own
    ready(federation, node)
    assert ids(node) == before
    assert federation.status(node)["endpoint"] == federation.status(link)["endpoint"]


# A SuperLink that was made anew


@pytest.fixture
def anew(vms):
    """A SuperLink with another CA, and a SuperNode that refuses it."""
    federation, link, node = vms
    ca = fingerprint(link)
    federation.stop_agent(link)
    assert federation.agent(link, "reset", "--yes").returncode == 0
    start(federation, link)
    ready(federation, link)
    assert fingerprint(link) != ca
    says(federation, node, "tls.ca_changed")
    assert fingerprint(node) == ca
    return federation, link, node


def test_a_superlink_with_a_new_ca_is_refused_until_an_operator_trusts_it(anew):
    federation, link, node = anew
    wrong = federation.agent(node, "tls", "trust", "ab" * 32)
    assert wrong.returncode == 0
    wait_for(lambda: not any(state_file(node, "orders").glob("trust*")), "the order taken")
    says(federation, node, "tls.ca_changed")
    shown = federation.agent(link, "tls", "show").stdout
    told = re.search(r"^CA .*?SHA-256\s+([0-9A-F:]{95})", shown, re.DOTALL | re.MULTILINE)[1]
    assert federation.agent(node, "tls", "trust", told).returncode == 0
    wait_for(lambda: connected(federation, node, link), "both ready")
    assert fingerprint(node) == fingerprint(link)
    assert told in federation.agent(node, "tls", "show").stdout
    restart(federation, node)
    ready(federation, node)


def test_a_superlink_with_a_new_ca_is_refused_until_the_context_names_it(anew):
    federation, link, node = anew
    named = {**node.variables, "FLOWER_CA_FINGERPRINT": fingerprint(link)}
    federation.write_context(node, named)
    wait_for(lambda: connected(federation, node, link), "both ready")
    assert fingerprint(node) == fingerprint(link)
    federation.write_context(node, {**named, "FLOWER_CA_FINGERPRINT": "ab" * 32})
    says(federation, node, "tls.fingerprint")
    assert running(main(node))


# Renewal


def serves(link):
    """Return whether Flower shows the certificate that the agent holds."""
    endpoint = link.variables["FLOWER_ADDRESS"], int(link.variables["FLOWER_FLEET_PORT"])
    try:
        shown = ssl.get_server_certificate(endpoint, timeout=5)
    except OSError:
        return False
    return certificates.fingerprint(shown) == leaf(link).fingerprint


def stays(federation, node, before):
    """Look whether a SuperNode is connected now, by an agent that remembers nothing."""
    restart(federation, node)
    ready(federation, node)
    assert ids(node) == before


def test_a_renewed_certificate_is_applied_and_the_nodes_stay(vms):
    federation, link, node = vms
    ca, before, node_before = fingerprint(link), leaf(link), ids(node)
    assert federation.agent(link, "tls", "renew").returncode == 0
    wait_for(lambda: leaf(link).fingerprint != before.fingerprint, "a new certificate")
    wait_for(lambda: serves(link), "Flower shows the new certificate")
    stays(federation, node, node_before)
    ready(federation, link)
    assert fingerprint(link) == ca
    assert leaf(link).addresses == before.addresses
    shown = federation.agent(link, "tls", "show").stdout
    assert certificates.format_fingerprint(leaf(link).fingerprint) in shown


@pytest.mark.parametrize("age", [250, 400], ids=["two thirds of its life", "expired"])
def test_a_certificate_that_is_due_or_ended_while_the_vm_was_off_is_renewed(vms, age):
    federation, link, node = vms
    ca, node_before = fingerprint(link), ids(node)
    federation.stop_agent(link)
    hold(link, tls_own_ca.make_leaf(own_ca(link), sorted(leaf(link).addresses), now() - days(age)))
    docker("restart", main(link))
    start(federation, link)
    wait_for(lambda: leaf(link).not_after > now() + days(300), "a new certificate")
    wait_for(lambda: serves(link), "Flower shows the new certificate")
    stays(federation, node, node_before)
    ready(federation, link)
    assert (fingerprint(link), fingerprint(node)) == (ca, ca)


def test_a_given_certificate_that_ends_soon_is_a_warning(lone):
    federation = lone(26300, "fo-soon", scale=SCALE, **SUBPROCESS)
    link = federation.superlink
    authority = tls_own_ca.make_ca(now())
    soon = tls_own_ca.make_leaf(authority, ["127.0.0.1"], now() - days(355))
    later = tls_own_ca.make_leaf(authority, ["127.0.0.1"], now())
    given = {"TLS_CA_CERT": encoded(authority.certificate_pem)}
    token = federation.cloud.add_vm(link.vmid, link.name, "superlink", SERVICE)
    for made, found in ((soon, {"tls.expires_soon"}), (later, set())):
        given |= {"TLS_CERT": encoded(made.certificate_pem), "TLS_KEY": encoded(made.key.reveal())}
        federation.write_context(link, {**link.variables, **given}, token=token)
        if found:
            federation.start_agent(link)
            warns(federation, link, "tls.expires_soon")
        else:
            calm(federation, link)
        ready(federation, link)
    assert error(federation, link) is None


def follow(federation, lines, began):
    """Submit the app, and keep what it says."""
    for line in federation.submit("num-server-rounds=6"):
        lines.append(line)
        if "round 1 of 6" in line:
            began.set()


@pytest.mark.long
def test_a_renewal_that_falls_due_waits_for_the_end_of_a_run(lone):
    federation = lone(26360, "fo-run", scale=0.5)
    link, *nodes = federation.machines
    federation.deploy(link)
    federation.wait_ready(link)
    federation.stop_agent(link)
    made = tls_own_ca.make_leaf(own_ca(link), sorted(leaf(link).addresses), now() - days(100))
    to_go = certificates.renew_at(certificates.inspect(made.certificate_pem)) - now() - DUE_IN
    issued = now() - days(100) - to_go
    hold(link, tls_own_ca.make_leaf(own_ca(link), sorted(leaf(link).addresses), issued))
    start(federation, link)
    old = leaf(link)
    wait_for(lambda: serves(link), "Flower shows a certificate that is due soon")
    for node in nodes:
        federation.deploy(node)
        federation.wait_ready(node)
    before, nodes_before = ids(link), [ids(node) for node in nodes]
    assert now() < certificates.renew_at(old)
    lines, began = [], threading.Event()
    run = threading.Thread(target=follow, args=(federation, lines, began))
    run.start()
    try:
        assert began.wait(120)
        waits = "waits for the end of the active run"
        wait_for(lambda: waits in federation.agent(link, "status").stdout, "the renewal waits")
        assert certificates.renew_at(old) < now()
        assert (leaf(link).fingerprint, ids(link)) == (old.fingerprint, before)
    finally:
        run.join(300)
    assert any("round 6 of 6" in line for line in lines), lines[-30:]
    wait_for(lambda: leaf(link).fingerprint != old.fingerprint, "a new certificate")
    wait_for(lambda: serves(link), "Flower shows the new certificate")
    for node, node_before in zip(nodes, nodes_before, strict=True):
        stays(federation, node, node_before)
    ready(federation, link)
    assert ids(link)["superlink"] != before["superlink"]
    assert ids(link)["superexec"] == before["superexec"]
