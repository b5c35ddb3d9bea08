"""Find the SuperLink and this node's partition in OneGate's answers. Pure.

Shapes: OpenNebula src/onegate/onegate-server.rb (build_service_hash, build_vm_hash): ids are
strings or integers, ``vm_info`` of a node contains no attributes. Any VM of a service can change
the attributes of the others, so everything here is checked as untrusted input.
"""

import base64
import binascii
import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flower_agent.config import flower_versions
from flower_agent.model.address import Address, parse_address
from flower_agent.model.errors import (
    AgentError,
    Finding,
    OneGateFailedError,
    StillSearchingError,
    warning,
)
from flower_agent.model.state import Partition

MAX_CA_CHARACTERS = 131072
MAX_WORDS = 200
"""Most characters of another VM's attribute in a message."""

SUPERLINK, SUPERNODE = "superlink", "supernode"
"""The role names of the service template; other templates may use other names."""

_NAME = re.compile(r"(?P<role>.+)_(?P<index>[0-9]{1,9})_\(service_[0-9]+\)")
"""OneFlow's names of a role's VMs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A VM of the service."""

    vmid: str
    name: str
    role: str
    """The OneFlow role's name, not Flower's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """The OneFlow service of a VM (OneGate ``GET /service``)."""

    service_id: str
    members: tuple[Member, ...]
    cardinalities: tuple[tuple[str, int], ...]
    """Each role with its wanted number of VMs."""

    def member(self, vmid: str) -> Member | None:
        """Return the VM of that id."""
        return next((m for m in self.members if m.vmid == vmid), None)

    def cardinality(self, role: str) -> int:
        """Return the role's wanted number of VMs, at least the present number."""
        here = sum(m.role == role for m in self.members)
        return max(dict(self.cardinalities).get(role, 0), here)


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceVm:
    """Another VM with its attributes (OneGate ``GET /vms/ID``)."""

    vmid: str
    name: str
    attributes: Mapping[str, str]
    """USER_TEMPLATE; only plain strings."""


@dataclasses.dataclass(frozen=True, slots=True)
class SuperLinkOffer:
    """The SuperLink's address and CA."""

    endpoint: Address
    """Its Fleet API."""

    ca_pem: str | None = None
    """None: not published, TLS is off, or the system's store is trusted."""

    vmid: str | None = None
    """None: not found through OneGate."""

    tls: bool | None = None
    """As published; None if unknown."""

    version: str = ""
    """Its Flower version as published."""

    node_auth: bool | None = None
    """Whether it requires node keys, as published; None if unknown."""

    published: Address | None = None
    """Its published endpoint, if another endpoint is in use."""

    partitions: str | None = None
    """Its FLOWER_PARTITIONS as published, not judged; None where nothing says."""

    run: str = ""
    """Its FLOWER_RUN as published."""


def parse_service(document: Any) -> Service:
    """Return the service of a OneGate answer. Raises AgentError ``onegate.garbage``."""
    try:
        service = document["SERVICE"]
        members: list[Member] = []
        cardinalities: list[tuple[str, int]] = []
        for role in service["roles"]:
            cardinalities.append((str(role["name"]), int(role.get("cardinality") or 0)))
            for node in role.get("nodes") or ():
                vm = (node.get("vm_info") or {}).get("VM") or {}
                vmid = str(node.get("deploy_id") or vm.get("ID") or "")
                if vmid:
                    members.append(Member(vmid, str(vm.get("NAME") or ""), str(role["name"])))
        return Service(str(service["id"]), tuple(members), tuple(cardinalities))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise OneGateFailedError(
            "onegate.garbage",
            f"OneGate's service document is incomplete: {error!r}",
            retryable=True,
        ) from error


def parse_vm(document: Any) -> ServiceVm:
    """Return the VM of a OneGate answer. Raises AgentError ``onegate.garbage``."""
    try:
        vm = document["VM"]
        template = vm.get("USER_TEMPLATE") or {}
        attributes = {str(k): v for k, v in template.items() if isinstance(v, str)}
        return ServiceVm(str(vm["ID"]), str(vm.get("NAME") or ""), attributes)
    except (KeyError, TypeError, AttributeError) as error:
        raise OneGateFailedError(
            "onegate.garbage",
            f"OneGate's VM document is incomplete: {error!r}",
            retryable=True,
        ) from error


def worth_asking(service: Service, own_vmid: str) -> tuple[str, ...]:
    """Return the VMs outside the own role, in order: only they can be a peer of this VM."""
    own = service.member(own_vmid)
    return tuple(m.vmid for m in service.members if own is None or m.role != own.role)


def maybe_superlinks(service: Service, own_vmid: str) -> tuple[str, ...]:
    """Return the VMs that may be the SuperLink, in order.

    If OneFlow has a role of that name, only its VMs: no VM can change OneFlow's own data.
    """
    others = worth_asking(service, own_vmid)
    named = {member.vmid for member in service.members if member.role == SUPERLINK}
    return tuple(vmid for vmid in others if vmid in named) or others


def claims(peer: ServiceVm) -> bool:
    """Return whether `peer` publishes the role of a SuperLink and an endpoint."""
    told = peer.attributes
    return told.get("FLOWER_ROLE") == "superlink" and bool(told.get("FLOWER_ENDPOINT"))


def superlink(peers: Iterable[ServiceVm]) -> SuperLinkOffer:
    """Return the one SuperLink among `peers`.

    Raises AgentError ``discover.waiting`` while its values are incomplete, ``discover.ambiguous``
    for two.
    """
    claims = [p for p in peers if p.attributes.get("FLOWER_ROLE") == "superlink"]
    complete = [p for p in claims if p.attributes.get("FLOWER_ENDPOINT")]
    if len(complete) > 1:
        who = " and ".join(f"VM {p.vmid} ({shown(p.name)})" for p in complete)
        raise AgentError("discover.ambiguous", f"{who} each claim to be the SuperLink")
    if not complete:
        raise _waiting("no VM of the service publishes FLOWER_ROLE and FLOWER_ENDPOINT yet", claims)
    found = complete[0]
    tls, node_auth = (_switch(found, name) for name in ("FLOWER_TLS", "FLOWER_NODE_AUTH"))
    ca_pem = published_ca(found, "FLOWER_CA_CERT")
    # Without TLS no CA is needed; if unknown, wait for the CA rather than trust anybody.
    if ca_pem is None and tls is not False:
        raise _waiting("its FLOWER_CA_CERT is not published yet", [found])
    return SuperLinkOffer(
        endpoint=published_address(found, "FLOWER_ENDPOINT"),
        ca_pem=ca_pem,
        vmid=found.vmid,
        tls=tls,
        version=found.attributes.get("FLOWER_VERSION", ""),
        node_auth=node_auth,
        partitions=found.attributes.get("FLOWER_PARTITIONS"),
        run=found.attributes.get("FLOWER_RUN", ""),
    )


def published_address(peer: ServiceVm, name: str) -> Address:
    """Return the address in an attribute of `peer`. Raises AgentError ``discover.waiting``."""
    text = peer.attributes[name]
    if text.count(":") > 1 and not text.startswith("["):  # OneGate drops brackets
        host, _, port = text.rpartition(":")
        text = f"[{host}]:{port}"
    try:
        return parse_address(text)
    except ValueError as error:
        raise StillSearchingError(
            "discover.waiting",
            f"VM {peer.vmid} publishes {name} {text[:80]!r}: {error}",
            retryable=True,
        ) from error


def published_ca(peer: ServiceVm, name: str) -> str | None:
    """Return the PEM in an attribute of `peer`, unchecked; None if it is empty.

    Raises AgentError ``discover.waiting``.
    """
    text = peer.attributes.get(name, "").strip('"')[:MAX_CA_CHARACTERS]
    if not text:
        return None
    try:
        return base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise StillSearchingError(
            "discover.waiting",
            f"VM {peer.vmid} publishes a {name} that is not base64 of PEM: {error}",
            retryable=True,
        ) from error


def partition(service: Service, own_vmid: str, peers: Collection[ServiceVm]) -> Partition:
    """Return this node's partition; `peers` are the VMs that `needs_peers` names.

    The index in the VM's name if it is below the cardinality, else the smallest id that no other VM
    has. If several VMs have none yet, each leaves one id to every VM with a lower number, so that
    all may decide at the same time.
    """
    own = service.member(own_vmid)
    if own is None:
        raise StillSearchingError(
            "discover.waiting",
            f"OneFlow does not list VM {own_vmid} in its service yet",
            retryable=True,
        )
    total = max(service.cardinality(own.role), 1)
    index = name_index(own)
    if index is None or index >= total:
        ids = {peer.vmid: _partition_of(peer, total) for peer in peers}
        before = [vmid for vmid, taken in ids.items() if taken is None and _lower(vmid, own_vmid)]
        free = (number for number in itertools.count() if number not in ids.values())
        index = next(itertools.islice(free, len(before), None))
    return Partition(index, max(total, index + 1))


def name_index(member: Member) -> int | None:
    """Return N of ``ROLE_N_(service_ID)``."""
    match = _NAME.fullmatch(member.name)
    return int(match["index"]) if match and match["role"] == member.role else None


def index_of(peer: ServiceVm) -> int | None:
    """Return the number that OneFlow gave a VM in its role."""
    match = _NAME.fullmatch(peer.name)
    return int(match["index"]) if match else None


def needs_peers(service: Service, own_vmid: str) -> tuple[str, ...]:
    """Return the VMs whose partitions must be known; none if the own name contains its index."""
    own = service.member(own_vmid)
    if own is None:
        return ()
    index = name_index(own)
    if index is not None and index < service.cardinality(own.role):
        return ()
    return tuple(m.vmid for m in service.members if m.role == own.role and m.vmid != own_vmid)


def mixed_versions(own: flower_versions.Version, other: str) -> Finding | None:
    """Return a finding when a SuperLink publishes another major or minor than `own`.

    An error if the two cannot talk to each other: the Fleet API is HTTP from 1.40 on.
    """
    if not other or other.split(".")[:2] == [str(own.major), str(own.minor)]:
        return None
    message = f"this VM runs Flower {own}, its SuperLink {shown(other)}"
    try:
        theirs = flower_versions.band(flower_versions.parse_version(other)).fleet
    except ValueError:
        theirs = flower_versions.band(own).fleet
    if theirs is flower_versions.band(own).fleet:
        return warning("version.mixed", message)
    return Finding("version.mixed", f"{message}: the two cannot talk to each other")


def _partition_of(peer: ServiceVm, total: int) -> int | None:
    """Return the id that `peer` publishes, else the id in its name; None if unknown."""
    published = re.fullmatch(r"([0-9]{1,8})(/.*)?", peer.attributes.get("FLOWER_PARTITION", ""))
    if published:
        return int(published[1])
    named = _NAME.fullmatch(peer.name)
    return int(named["index"]) if named and int(named["index"]) < total else None


def _lower(vmid: str, other: str) -> bool:
    return (len(vmid), vmid) < (len(other), other)


def _waiting(why: str, claims: list[ServiceVm]) -> AgentError:
    error = "; ".join(
        f"VM {p.vmid} reports {shown(p.attributes['FLOWER_ERROR'])}"
        for p in claims
        if p.attributes.get("FLOWER_ERROR", '"').strip('"')
    )
    return StillSearchingError(
        "discover.waiting", f"{why}{'; ' + error if error else ''}", retryable=True
    )


def shown(text: str) -> str:
    """Return another VM's text for a terminal: shortened, without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_WORDS])


def _switch(peer: ServiceVm, name: str) -> bool | None:
    return {"YES": True, "NO": False}.get(peer.attributes.get(name, ""))
