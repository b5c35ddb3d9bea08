"""Node keys for tests: the same number gives the same key."""

import functools

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flower_agent.flower.control_messages import NodeInfo, NodeStatus

CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())


@functools.cache
def private(number, curve=CURVES[1]):
    return ec.derive_private_key(number, curve)


@functools.cache
def public(number, curve=CURVES[1]):
    """Return a public key in OpenSSH form."""
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return private(number, curve).public_key().public_bytes(*form).decode()


@functools.cache
def pem_of(number, curve=CURVES[1]):
    """Return a public key as Flower's programs write it (``public_key_to_bytes``)."""
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return private(number, curve).public_key().public_bytes(*form)


def openssh(key):
    """Return a private key as ``ssh-keygen`` without a passphrase writes it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def node(number, status=NodeStatus.REGISTERED):
    """Return the node that a SuperLink has for a key."""
    return NodeInfo(node_id=str(2**63 + number), status=status, public_key=pem_of(number))
