"""What ``doctor`` asks and dials: Docker, the SuperLink, the own APIs, keys and certificates."""

import dataclasses
import datetime
import pathlib
import stat
from collections.abc import Iterator
from typing import Any

from flower_agent import files
from flower_agent.commands import doctor_results, own_superlink
from flower_agent.commands.doctor_results import Check, found, skipped, well
from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Transport
from flower_agent.config.settings import Settings
from flower_agent.config.sources import Inputs
from flower_agent.config.types import Role
from flower_agent.docker.client import Engine, auth
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.docker.image_references import Reference, Registry, pull_failure
from flower_agent.enrolment import node_key, superlink_trust
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.flower import container_spec, endpoint_check, peer_check
from flower_agent.flower.command_line import Trust
from flower_agent.flower.control_messages import NodeStatus
from flower_agent.flower.health import ALPN_GRPC, ALPN_HTTP, Prober
from flower_agent.host import firewall, machine
from flower_agent.model.address import Address
from flower_agent.model.errors import (
    AgentError,
    Finding,
    ImagePullError,
    NoSourceError,
    OneGateError,
    StateFileError,
    StillSearchingError,
)
from flower_agent.model.secret import Secret
from flower_agent.model.state import State
from flower_agent.onegate import discovery, superlink_search
from flower_agent.onegate.client import OneGate
from flower_agent.paths import Paths
from flower_agent.proxy.fleet_proxy import FleetProxy
from flower_agent.roles import superexec, superlink, supernode
from flower_agent.state_file import StateFile
from flower_agent.tls import certificates, own_ca, trust
from flower_agent.tls.certificates import Certificate
from flower_agent.tls.store import Keyring


@dataclasses.dataclass(frozen=True, slots=True)
class About:
    """The Engine's information about itself (``GET /info``)."""

    version: str

    root: str
    """Its directory of images and containers (``DockerRootDir``)."""

    live_restore: bool
    """Containers outlive a restart of dockerd."""

    proxy: str = ""
    """Its proxy for registries; Docker hides a password in it."""


class Inspector(Engine):
    """An Engine for reading only."""

    def about(self) -> About:
        """Return version, place and set-up. Raises AgentError ``docker.…``."""
        with self.calling("tell about itself") as api:
            info = api.info()
        return About(
            version=str(info.get("ServerVersion") or "of unknown version"),
            root=str(info.get("DockerRootDir") or ""),
            live_restore=bool(info.get("LiveRestoreEnabled")),
            proxy=str(info.get("HttpsProxy") or info.get("HttpProxy") or ""),
        )

    def ask_registry(self, reference: str, registry: Registry | None) -> None:
        """Let Docker ask the registry for an image, as a pull would, without pulling it.

        Raises AgentError ``image.denied``, ``image.pull``, or ``docker.down`` where no answer
        comes in time.
        """
        wanted = Reference.parse(reference)
        name = f"{wanted.repository}:{wanted.tag}"
        try:
            with self.calling(f"ask the registry for {reference}", "image.pull") as api:
                ask: Any = api.inspect_distribution  # the stubs lack its types
                ask(name, auth_config=auth(registry))
        except ImagePullError as error:
            raise pull_failure(reference, error.finding.message) from error

    def describe(self, name: str) -> Any:
        """Return all that Docker knows of a container. Raises AgentError ``docker.…``."""
        with self.calling(f"inspect {name}") as api:
            return api.inspect_container(name)

    def information(self) -> Any:
        """Return Docker's information about itself. Raises AgentError ``docker.…``."""
        with self.calling("tell about itself") as api:
            return api.info()


MENDED = "systemctl restart flower-agent: the agent writes this file again"


def examine_key_files(
    paths: Paths, settings: Settings, vmid: str | None, now: datetime.datetime
) -> Iterator[Check]:
    """Look at the files that Flower and its peers trust: there, readable, a pair, in date."""
    keyring = Keyring(paths.tls)
    if settings.tls:
        yield _looked_at("tls", keyring, now, serves=settings.role is Role.SUPERLINK)
    if settings.tls and keyring.appio.ca.exists():
        yield _looked_at("appio tls", keyring.appio, now, serves=True)
    if settings.role is Role.SUPERNODE and superlink_trust.may_have_key(settings):
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
    wanted = trust.CertificateSpec(source=trust.CertificateSource.OWN, hosts=hosts)
    trust.steps(wanted, keyring.held(wanted, now), now)


def _read(path: pathlib.Path, pem: str, now: datetime.datetime | None = None) -> Certificate:
    """Return the certificate in a file. Raises AgentError ``state.corrupt``, ``tls.expired``."""
    try:
        seen = certificates.inspect(pem)
    except ValueError as error:
        raise StateFileError("state.corrupt", f"{path} is damaged: {error}", MENDED) from error
    fault = certificates.date_fault(seen, now) if now else ""
    if fault:
        raise AgentError("tls.expired", f"{path}: {fault}")
    return seen


def _pair(keyring: Keyring, chain_pem: str) -> None:
    """Raise AgentError where the key is damaged, or another certificate's."""
    data = files.read(keyring.key, 1 << 20) or b""
    try:
        key = own_ca.load_key(Secret(data.decode("utf-8", "replace")))
    except ValueError as error:
        raise StateFileError(
            "state.corrupt", f"{keyring.key} is damaged: {error}", MENDED
        ) from error
    if not own_ca.belongs(key, certificates.load(chain_pem)[0]):
        message = f"{keyring.key} does not belong to the certificate in {keyring.chain}"
        raise AgentError("tls.key_mismatch", message, MENDED)


def _node_key(keys: NodeKeys, settings: Settings, vmid: str | None) -> Check:
    """Return the verdict on the private key. Raises AgentError for a file that cannot be read."""
    given = settings.node_private_key is not None
    path = keys.given if given else keys.path(vmid)
    data = files.read(path, node_key.MAX_BYTES)
    if data is None:
        return skipped("node key", f"there is no {path} yet")
    try:
        node_key.public_half(data)
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
    raise StateFileError(
        "state.corrupt", message, f"chgrp {FLOWER_UID} {path} && chmod 0440 {path}"
    )


TIMEOUT_S = 5.0


def examine(
    paths: Paths, read: Inputs, settings: Settings, client: OneGate | None
) -> Iterator[Check]:
    """Connect to the same server as this VM's Flower, in the same way."""
    prober = Prober()
    try:
        if settings.role is Role.SUPERLINK:
            yield from _own(paths, read, settings, prober)
        elif settings.role is Role.SUPERNODE:
            yield from _superlink(paths, read, settings, client, prober)
        elif settings.appio_address is not None:
            prober.probe_tcp(settings.appio_address, TIMEOUT_S)
            peer_check.look(superexec.peer(settings, machine.observe().mtu), doubtful=True)
            yield well("appio", f"{settings.appio_address} answers")
    except AgentError as error:
        yield found("appio" if settings.role is Role.SUPEREXEC else "superlink", error.finding)


def _own(paths: Paths, read: Inputs, settings: Settings, prober: Prober) -> Iterator[Check]:
    variables = read.variables or {}
    own = superlink.own_address(settings.address, machine.observe(), variables)
    places = container_spec.endpoints(settings, own)
    yield doctor_results.judge(firewall.ask_tools(), places.fleet.listen)
    public = superlink.published(settings, own)
    ca_pem = Keyring(paths.tls).held_ca()
    if container_spec.proxied(settings):
        proxy, ca = FleetProxy(paths, prober), ca_pem if settings.tls else None
        proxy.require(places.fleet.listen)
        proxy.check(places.fleet.dial, ca, server_hostname=public.host, timeout_s=TIMEOUT_S)
    _dial(prober, settings, places.fleet.dial, ca_pem or None, public.host)
    yield well("superlink", f"{public} answers{' with TLS' if settings.tls else ''}")
    with own_superlink.reach(paths) as reached:
        nodes = reached.api.list_nodes(TIMEOUT_S)
    online = sum(node.status is NodeStatus.ONLINE for node in nodes)
    yield well("control", f"{places.control.dial} answers; {online} SuperNodes are online")


def _superlink(
    paths: Paths, read: Inputs, settings: Settings, client: OneGate | None, prober: Prober
) -> Iterator[Check]:
    record = StateFile(paths.record).recall(read.vmid)
    link, source = _known(settings, client, record)
    where = f"VM {link.vmid}, " if link.vmid else ""
    yield well("discover", f"the SuperLink is {where}{link.endpoint}{source}")
    for finding in (
        superlink_trust.mismatch(settings, link),
        discovery.mixed_versions(settings.version, link.version),
    ):
        if finding is not None:
            yield found("discover", finding)
    ca_pem = None
    if superlink_trust.trust_of(settings) is Trust.CA:
        held_pem = Keyring(paths.tls).held_ca()
        ca_pem = superlink_trust.trusted_ca(settings, link.ca_pem, record, held_pem)
    endpoint_check.dial(
        prober, supernode.peer(settings, link.endpoint, machine.observe().mtu), ca_pem
    )
    yield well("superlink", f"{link.endpoint} answers{' with TLS' if settings.tls else ''}")


def _known(
    settings: Settings, client: OneGate | None, record: State
) -> tuple[discovery.SuperLinkOffer, str]:
    """Return the SuperLink that the agent uses, and the source if OneGate does not answer."""
    try:
        return _find(settings, client, record.superlink_vmid), ""
    except OneGateError:
        if record.superlink is None:
            raise
    remembered = discovery.SuperLinkOffer(record.superlink, vmid=record.superlink_vmid)
    fixed = superlink_search.fixed(settings)  # counts more than what was found under other settings
    return (fixed, "") if fixed else (remembered, ", from the saved state")


def _find(
    settings: Settings, client: OneGate | None, known: str | None
) -> discovery.SuperLinkOffer:
    """Return the SuperLink as the agent would find it now. Raises AgentError."""
    fixed = superlink_search.fixed(settings)
    if fixed is not None and not superlink_search.wants_ca(settings):
        return fixed
    if client is None:
        lost = superlink_trust.no_source(settings)
        raise NoSourceError("discover.no_source", lost.message if lost else "the VM has no OneGate")
    vmid = client.access.vmid
    seen = superlink_search.look_up(client, vmid, known, superlink=True, partition=False).superlink
    if seen is None:
        raise StillSearchingError("discover.waiting", "OneGate lists no SuperLink", retryable=True)
    return dataclasses.replace(seen, endpoint=fixed.endpoint) if fixed else seen


def _dial(
    prober: Prober, settings: Settings, address: Address, ca_pem: str | None, name: str
) -> None:
    if not settings.tls:
        prober.probe_tcp(address, TIMEOUT_S)
        return
    http = flower_versions.band(settings.version).fleet is Transport.HTTP
    alpn = ALPN_HTTP if http else ALPN_GRPC
    prober.probe_tls(address, ca_pem, server_hostname=name, alpn=alpn, timeout_s=TIMEOUT_S)
