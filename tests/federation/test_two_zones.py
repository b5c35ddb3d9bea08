"""A SuperNode whose SuperLink is in another zone: all it knows is what its template asks for."""

import base64

import oneflow
import pytest
import vm_templates
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from watched import wait_for

from flower_agent.tls import certificates

pytestmark = [pytest.mark.engine, pytest.mark.federation]

LIGHT = {"FLOWER_ISOLATION": "subprocess", "ML_FRAMEWORK": ""}
REMOTE = next(kind for kind in vm_templates.KINDS if kind.name == "supernode-remote")


def key_pair():
    """Return a key pair as ``ssh-keygen -t ecdsa -b 384`` makes it: base64 and one line."""
    key = ec.generate_private_key(ec.SECP384R1())
    openssh = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, *openssh)
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return base64.b64encode(private).decode(), key.public_key().public_bytes(*form).decode()


def instantiated(**answers):
    """Return the CONTEXT of a VM of the template, with answers to what it asks."""
    asked = {f"ONEAPP_{name}": text for name, text in answers.items()}
    template = vm_templates.attributes(REMOTE, vm_templates.Cloud())
    return oneflow.boot(oneflow.raw(template, asked), name="remote").context


def boot(federation, machine, variables):
    """Start the agent of a VM that has no OneGate."""
    (machine.root / "run/one-context").mkdir(parents=True, exist_ok=True)
    federation.write_context(machine, {**variables, **ports(machine)})
    federation.start_agent(machine)


def ports(machine):
    return {k: v for k, v in machine.variables.items() if k.endswith("_PORT") or k == "ETH0_IP"}


def test_a_node_in_another_zone_joins_with_what_its_template_asks_for(lone):
    federation = lone(24340, "zones", **LIGHT)
    link, node = federation.superlink, federation.supernodes[0]
    private, public = key_pair()
    keys = {"FLOWER_NODE_AUTH": "YES", "FLOWER_NODE_PUBLIC_KEYS": public}
    boot(federation, link, {**link.variables, **keys})
    wait_for(lambda: federation.agent(link, "status").returncode == 0, "SuperLink")

    ca = (link.root / "var/lib/flower-agent/tls/ca.crt").read_text()
    answers = {
        "FLOWER_SERVER_ADDRESS": "127.0.0.1:24342",
        "TLS_CA_CERT": base64.b64encode(ca.encode()).decode(),
        "FLOWER_CA_FINGERPRINT": "ab" * 32,
        "FLOWER_NODE_PRIVATE_KEY": private,
        "FLOWER_NODE_AUTH": "YES",
        "FLOWER_ISOLATION": "subprocess",
    }
    boot(federation, node, instantiated(**answers))
    wait_for(lambda: "tls.fingerprint" in str(federation.status(node).get("error")), "refused CA")

    right = {"FLOWER_CA_FINGERPRINT": certificates.fingerprint(ca)}
    federation.write_context(node, {**instantiated(**answers | right), **ports(node)})
    wait_for(lambda: federation.agent(node, "status").returncode == 0, "SuperNode")
    assert "online" in federation.agent(link, "nodes").stdout
    wait_for(lambda: federation.status(link).get("nodes") == 1, "one SuperNode counted")
