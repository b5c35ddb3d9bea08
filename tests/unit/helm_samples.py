"""Values of Flower's Helm charts, and what the agent makes of them."""

import pathlib

from node_key_pairs import openssh, private, public

from flower_agent.config import parsing
from flower_agent.config.types import Role

DATA = pathlib.Path(__file__).parents[1] / "data"


CHARTS = {Role.SUPERLINK: "flower-server", Role.SUPERNODE: "flower-client"}


WORDS = {Role.SUPERLINK: "server", Role.SUPERNODE: "client"}


PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


KEY = PEM.replace("CERTIFICATE", "PRIVATE KEY")


OIDC = {
    "FLOWER_OIDC_ISSUER": "https://login.example.org",
    "FLOWER_OIDC_CLIENT_ID": "federation",
    "FLOWER_OIDC_CLIENT_SECRET": "hush",
    "FLOWER_OIDC_ALLOW": "domain:example.org=viewer",
}
TOGETHER = {
    "TLS_CERT": {"TLS_CERT": PEM, "TLS_KEY": KEY},
    "TLS_KEY": {"TLS_CERT": PEM, "TLS_KEY": KEY},
    "FLOWER_GATEWAY_CERT": {"FLOWER_GATEWAY_CERT": PEM, "FLOWER_GATEWAY_KEY": KEY},
    "FLOWER_GATEWAY_KEY": {"FLOWER_GATEWAY_CERT": PEM, "FLOWER_GATEWAY_KEY": KEY},
    **dict.fromkeys(OIDC, OIDC),
    "TLS_ENABLED": {"TLS_ENABLED": "NO"},
    "TLS_CA_CERT": {"TLS_CA_CERT": "system"},
    "FLOWER_REGISTRY_USER": {"FLOWER_REGISTRY_USER": "puller", "FLOWER_REGISTRY_PASSWORD": "x"},
    "FLOWER_REGISTRY_PASSWORD": {"FLOWER_REGISTRY_USER": "puller", "FLOWER_REGISTRY_PASSWORD": "x"},
    "FLOWER_FLEET_PORT": {"FLOWER_FLEET_PORT": "19092"},
    "FLOWER_NODE_AUTH": {"FLOWER_NODE_AUTH": "YES"},
    "FLOWER_NODE_PRIVATE_KEY": {"FLOWER_NODE_PRIVATE_KEY": openssh(private(1)).decode()},
    "FLOWER_NODE_PUBLIC_KEYS": {"FLOWER_NODE_PUBLIC_KEYS": public(1)},
    "FLOWER_CA_FINGERPRINT": {"FLOWER_CA_FINGERPRINT": "ab" * 32},
}
"""Where the row's own sample is the default, or no value by itself."""


def settings_of(role, **variables):
    where = {} if role is Role.SUPERLINK else {"FLOWER_SERVER_ADDRESS": "flower.example.org"}
    found = parsing.parse({"FLOWER_ROLE": WORDS[role], **where, **variables}, {})
    assert found.settings, found.findings
    return found.settings


VECTORS = {"supernode.node.config", "superexec.resources"}
"""Parameters that take whatever is in them."""
