"""Which certificates this VM should hold, and the steps to them.

A SuperLink without certificates in its settings has its own CA, which never changes, and a leaf
that follows its addresses. A SuperNode has only the CA that it trusts.
"""

import dataclasses
import datetime
import enum
from collections.abc import Collection

from flower_agent.model import address
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.tls import certificates
from flower_agent.tls.certificates import Certificate

OWN_ISSUER = "CN=flower-agent CA "
"""The begin of the issuer's name in the agent's own leaf: `own_ca.make_ca`."""


class CertificateSource(enum.StrEnum):
    """Where the certificates come from."""

    OFF = "off"
    OWN = "own"
    GIVEN = "given"
    TRUSTED = "trusted"
    SYSTEM = "system"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSpec:
    """The wanted content of ``tls/``."""

    source: CertificateSource

    hosts: frozenset[str] = frozenset()
    """OWN: every name and address in the leaf, 127.0.0.1 among them, in canonical form."""

    renew: bool = False
    """OWN: an operator asked for a new leaf, although the old one is valid."""

    defer: bool = False
    """Keep the present certificate for now: a run is active, or the new one is refused."""

    ca_pem: str = ""
    """GIVEN, TRUSTED: the CA that nodes trust."""

    chain_pem: str = ""
    """GIVEN: the server's certificate and its intermediates."""

    key: Secret | None = None
    """GIVEN."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldCertificates:
    """The present content of ``tls/``."""

    own_ca: Certificate | None = None
    """The agent's CA, whose key exists too."""

    own_ca_pem: str = ""

    own_ca_fault: str = ""
    """Why an existing CA file cannot be used; empty if it can."""

    ca_pem: str = ""

    ca_deleted: bool = False
    """Its file was deleted; containers that mounted it still have the content."""

    chain_pem: str = ""
    key: Secret | None = None

    leaf: Certificate | None = None
    """First of `chain_pem`; None when absent or unreadable."""

    leaf_fault: str = ""
    """OWN: why the leaf cannot serve and must be replaced; empty if it can serve."""


class CertificateAction(enum.StrEnum):
    """What one step does."""

    MAKE_CA = "make CA"
    ISSUE = "issue certificate"
    WRITE = "write certificates"
    WRITE_CA = "write CA's certificate"


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateStep:
    """One change in ``tls/`` with its cause."""

    action: CertificateAction
    cause: str

    def __str__(self) -> str:
        return f"{self.action} ({self.cause})"


def hosts(*, published: str, listen: str, more: Collection[str]) -> frozenset[str]:
    """Return every host of the leaf: published address, own address, loopback, and `more`."""
    wanted = {published, listen, "127.0.0.1", *more}
    return frozenset(address.canonical_host(host) for host in wanted)


def steps(
    wanted: CertificateSpec, held: HeldCertificates, now: datetime.datetime
) -> tuple[CertificateStep, ...]:
    """Return the steps from `held` to `wanted`; empty when they agree.

    Raises AgentError ``tls.ca_lost``: an existing but unusable CA is never replaced, because
    every node would lose its trust.
    """
    match wanted.source:
        case CertificateSource.OFF | CertificateSource.SYSTEM:
            return ()
        case CertificateSource.TRUSTED:
            if held.ca_pem == wanted.ca_pem:
                return ()
            return (
                CertificateStep(CertificateAction.WRITE, "another CA" if held.ca_pem else "absent"),
            )
        case CertificateSource.GIVEN:
            has = (held.ca_pem, held.chain_pem, held.key)
            if (wanted.defer and held.leaf) or has == (wanted.ca_pem, wanted.chain_pem, wanted.key):
                return ()
            return (
                CertificateStep(
                    CertificateAction.WRITE,
                    "other certificates in the settings" if held.leaf else "absent",
                ),
            )
        case CertificateSource.OWN:
            return _own_steps(wanted, held, now)


def _own_steps(
    wanted: CertificateSpec, held: HeldCertificates, now: datetime.datetime
) -> tuple[CertificateStep, ...]:
    # Both cases: a CA existed and nodes trust it, so a new one must not replace it silently.
    if held.own_ca_fault:
        raise AgentError("tls.ca_lost", f"the agent's CA cannot be used: {held.own_ca_fault}")
    if held.own_ca is None and held.leaf is not None and held.leaf.issuer.startswith(OWN_ISSUER):
        raise AgentError("tls.ca_lost", "the agent's CA is missing, its certificate still exists")
    if held.own_ca is None:
        return (
            CertificateStep(CertificateAction.MAKE_CA, "absent"),
            CertificateStep(CertificateAction.ISSUE, "absent"),
        )
    cause = _why_issue(wanted, held, now)
    if cause:
        return (CertificateStep(CertificateAction.ISSUE, cause),)
    # The leaf is valid and stays: writing the same CA file again restarts no container.
    return (CertificateStep(CertificateAction.WRITE_CA, "absent"),) if held.ca_deleted else ()


def _why_issue(wanted: CertificateSpec, held: HeldCertificates, now: datetime.datetime) -> str:
    if held.leaf is None:
        return "absent"
    if held.leaf_fault:
        return held.leaf_fault
    # A file that was overwritten in place is damaged in the containers too: they must restart.
    if held.ca_pem != held.own_ca_pem and not held.ca_deleted:
        return "its CA differs from the CA on the disk"
    if wanted.renew:
        return "asked for"
    due = now >= certificates.renew_at(held.leaf) and not wanted.defer
    return "two thirds of its lifetime have passed" if due else ""
