"""Contexts of each role, and the facts of a VM."""

import dataclasses
import hashlib
import pathlib

from flower_agent.config import app_environment
from flower_agent.config.types import GpuMode, Role
from flower_agent.docker import data_mounts
from flower_agent.enrolment import enroller, superlink_trust
from flower_agent.flower import container_spec
from flower_agent.flower.container_spec import RoleSpec, Site
from flower_agent.host.gpu import GpuAccess
from flower_agent.model.address import parse_address
from flower_agent.model.state import State
from flower_agent.onegate.discovery import SuperLinkOffer
from flower_agent.paths import Paths
from flower_agent.roles import superexec

PATHS = Paths(pathlib.Path("/"))


TLS = PATHS.tls


APPIO = TLS / "appio"


LOOPBACK = TLS / "loopback"


GIB = 1024**3


HOST = "10.0.0.5"


LINK = {"FLOWER_ROLE": "server"}


NODE = {"FLOWER_ROLE": "client"}


EXEC = {"FLOWER_ROLE": "superexec", "FLOWER_APPIO_ADDRESS": "10.0.0.7:9094"}


SUBPROCESS = {"FLOWER_ISOLATION": "subprocess"}


def pem(label, content):
    return f"-----BEGIN {label}-----\n{content}\n-----END {label}-----\n"


CA, OTHER_CA = pem("CERTIFICATE", "QUJD" * 20), pem("CERTIFICATE", "REVG" * 20)


KEY, OTHER_KEY = pem("PRIVATE KEY", "R0hJ" * 20), pem("PRIVATE KEY", "SktM" * 20)


GIVEN = {"TLS_CERT": CA, "TLS_KEY": KEY}


def digests(found):
    """Return a digest of what ``tls/`` would hold, which follows from the settings."""
    if not found.tls:
        return {}
    files = {"ca.crt": found.tls_ca_cert or "the CA of the service"}
    if found.role is Role.SUPERLINK:
        own = f"names {found.public_address or found.address or HOST} and {found.tls_sans}"
        files["server.pem"] = found.tls_cert or own
        files["server.key"] = found.tls_key.reveal() if found.tls_key else "its key"
    if found.role is Role.SUPERNODE and found.appio_listen:
        files |= {
            "appio/ca.crt": "the node's own CA",
            "appio/server.pem": f"names {found.appio_listen.host} and {found.tls_sans}",
            "appio/server.key": "its key",
        }
    if container_spec.proxied(found):
        files |= {
            "loopback/ca.crt": "the agent's CA",
            "loopback/server.pem": f"names loopback and {found.tls_sans}",
            "loopback/server.key": "its key",
        }
    return {str(TLS / n): hashlib.sha256(text.encode()).hexdigest() for n, text in files.items()}


def keys(found):
    """Return what follows from a node's key and from a SuperLink that wants some."""
    if found.role is Role.SUPERLINK:
        return {"node_auth": enroller._fixed(found) is True}
    if found.role is Role.SUPEREXEC or not superlink_trust.wants_key(
        found, SuperLinkOffer(None), State()
    ):
        return {}
    given = found.node_private_key
    text = given.reveal() if given else "made by the agent"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"node_key_file": str(PATHS.keys / "node-29.key"), "node_key_digest": digest}


def environment(found):
    """Return what follows from an environment of apps, as the agent writes it."""
    data = app_environment.document(found, container_spec.appio_hosts(found, HOST))
    if data is None:
        return {}
    digest = hashlib.sha256(data).hexdigest()
    return {"environment_file": str(PATHS.app_environment), "environment_digest": digest}


def site(found, **differences):
    """Return the facts of a VM with 8 GiB and a GPU, as the agent gathers them."""
    server = parse_address(found.server_address or HOST, container_spec.fleet_port(found))
    usual = Site(
        ca_file=str(TLS / "ca.crt"),
        chain_file=str(TLS / "server.pem"),
        key_file=str(TLS / "server.key"),
        appio_ca_file=str(APPIO / "ca.crt"),
        appio_chain_file=str(APPIO / "server.pem"),
        appio_key_file=str(APPIO / "server.key"),
        own_ca_file=str(LOOPBACK / "ca.crt"),
        own_chain_file=str(LOOPBACK / "server.pem"),
        own_key_file=str(LOOPBACK / "server.key"),
        superlink_dir=str(PATHS.superlink),
        data_dir=str(PATHS.data),
        launcher_dir=str(PATHS.launcher),
        runs_dir=str(PATHS.live_runs),
        caches_dir=str(PATHS.caches),
        digests=digests(found),
        role=RoleSpec(
            fleet_host=found.address or HOST,
            superlink=server,
            trust=(superexec if found.role is Role.SUPEREXEC else superlink_trust).trust_of(found),
            node_config=found.node_config or (("partition-id", "0"), ("num-partitions", "2")),
            **keys(found),
        ),
        **environment(found),
        data_mount=data_mounts.mounts(found.data, "default", "", propagation="rslave")[0]
        if found.data
        else None,
        memory_bytes=8 * GIB,
        gpu=GpuAccess.NONE if found.gpu is GpuMode.NO else GpuAccess.TOOLKIT,
    )
    of_role = {field.name for field in dataclasses.fields(RoleSpec)}
    role = {name: value for name, value in differences.items() if name in of_role}
    rest = {name: value for name, value in differences.items() if name not in of_role}
    return dataclasses.replace(usual, role=dataclasses.replace(usual.role, **role), **rest)
