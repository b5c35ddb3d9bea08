"""What ``doctor`` makes of the certificate files and the node key of this VM; changes nothing."""

import datetime
import pathlib
import stat
from collections.abc import Iterator

from flower_agent import files
from flower_agent.config.parsers import Role
from flower_agent.config.settings import Settings
from flower_agent.errors import AgentError, Finding
from flower_agent.paths import Paths
from flower_agent.pki import certificates, node_keys, node_trust, tls, trust
from flower_agent.pki.certificates import Certificate
from flower_agent.pki.keyring import Keyring
from flower_agent.pki.node_keys import NodeKeys
from flower_agent.secret import Secret
from flower_agent.wanted.containers import FLOWER_UID

from .verdicts import Check, found, skipped, well

MENDED = "systemctl restart flower-agent: it makes this file anew"


def examine(
    paths: Paths, settings: Settings, vmid: str | None, now: datetime.datetime
) -> Iterator[Check]:
    """Look at the files that Flower and its peers trust: there, readable, a pair, in date."""
    keyring = Keyring(paths.tls)
    if settings.tls:
        yield _looked_at("tls", keyring, now, serves=settings.role is Role.SUPERLINK)
    if settings.tls and keyring.appio.ca.exists():
        yield _looked_at("appio tls", keyring.appio, now, serves=True)
    if settings.role is Role.SUPERNODE and node_trust.may_have_key(settings):
        try:
            yield _node_key(NodeKeys(paths.keys), settings, vmid)
        except AgentError as error:
            yield found("node key", error.finding)


def _looked_at(name: str, keyring: Keyring, now: datetime.datetime, *, serves: bool) -> Check:
    try:
        return _certificates(name, keyring, now, serves=serves)
    except AgentError as error:
        return found(name, error.finding)


def _certificates(name: str, keyring: Keyring, now: datetime.datetime, *, serves: bool) -> Check:
    """Return the verdict on one directory. Raises AgentError for the first thing that is wrong."""
    chain_pem, ca_pem = keyring.held_chain() if serves else "", keyring.held_ca()
    if serves:
        _own_ca(keyring, chain_pem, now)
    if not ca_pem and not chain_pem:
        return skipped(name, f"there is no certificate in {keyring.ca.parent} yet")
    ca = _read(keyring.ca, ca_pem, now)
    shown = f"CA until {ca.not_after:%Y-%m-%d}"
    if serves:
        leaf = _read(keyring.chain, chain_pem, now)
        _pair(keyring, chain_pem)
        _flower_reads(keyring.key)
        shown += f", certificate and its key until {leaf.not_after:%Y-%m-%d}"
    return well(name, shown)


def _own_ca(keyring: Keyring, chain_pem: str, now: datetime.datetime) -> None:
    """Raise AgentError ``tls.ca_lost`` where the agent's own CA cannot be used, or is gone."""
    hosts: frozenset[str] = frozenset()
    if chain_pem:
        leaf = _read(keyring.chain, chain_pem)
        if not leaf.issuer.startswith(trust.OWN_ISSUER):
            return  # it was given: there may be a CA of the agent's own from before
        hosts = leaf.names | leaf.addresses
    wanted = trust.Wanted(source=trust.Source.OWN, hosts=hosts)
    trust.steps(wanted, keyring.held(wanted, now), now)


def _read(path: pathlib.Path, pem: str, now: datetime.datetime | None = None) -> Certificate:
    """Return the certificate in a file. Raises AgentError ``state.corrupt``, ``tls.expired``."""
    try:
        seen = certificates.inspect(pem)
    except ValueError as error:
        raise AgentError("state.corrupt", f"{path} is damaged: {error}", MENDED) from error
    fault = certificates.date_fault(seen, now) if now else ""
    if fault:
        raise AgentError("tls.expired", f"{path}: {fault}")
    return seen


def _pair(keyring: Keyring, chain_pem: str) -> None:
    """Raise AgentError where the key is damaged, or another certificate's."""
    data = files.read(keyring.key, 1 << 20) or b""
    try:
        key = tls.load_key(Secret(data.decode("utf-8", "replace")))
    except ValueError as error:
        raise AgentError("state.corrupt", f"{keyring.key} is damaged: {error}", MENDED) from error
    if not tls.belongs(key, certificates.load(chain_pem)[0]):
        message = f"{keyring.key} does not belong to the certificate in {keyring.chain}"
        raise AgentError("tls.key_mismatch", message, MENDED)


def _node_key(keys: NodeKeys, settings: Settings, vmid: str | None) -> Check:
    """Return the verdict on the private key. Raises AgentError for a file that cannot be read."""
    given = settings.node_private_key is not None
    path = keys.given if given else keys.path(vmid)
    data = files.read(path, node_keys.MAX_BYTES)
    if data is None:
        return skipped("node key", f"there is no {path} yet")
    try:
        node_keys.public_half(data)
    except ValueError as error:
        code = "enrol.key_invalid" if given else "enrol.key_damaged"
        return found("node key", Finding(code, f"{path} cannot be used: {error}"))
    _flower_reads(path)
    return well("node key", f"{path} is a key pair")


def _flower_reads(path: pathlib.Path) -> None:
    """Raise AgentError ``state.corrupt`` for a key that Flower's group may not read."""
    seen = path.stat()
    if seen.st_gid == FLOWER_UID and seen.st_mode & stat.S_IRGRP:
        return
    message = f"{path} cannot be read by Flower, which runs as group {FLOWER_UID}"
    raise AgentError("state.corrupt", message, f"chgrp {FLOWER_UID} {path} && chmod 0440 {path}")
