"""Which certificates this VM should hold, and the steps to them.

A SuperLink without given certificates has a CA of its own, kept for ever, and a leaf that follows
its addresses. A SuperNode holds the CA that it trusts and nothing else.
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
"""How the issuer of a leaf begins that the agent made: `tls.make_ca`."""


class CertificateSource(enum.StrEnum):
    """Where the certificates come from."""

    OFF = "off"
    OWN = "own"
    GIVEN = "given"
    TRUSTED = "trusted"
    SYSTEM = "system"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSpec:
    """What should lie in ``tls/``."""

    source: CertificateSource

    hosts: frozenset[str] = frozenset()
    """OWN: every name and address in the leaf, 127.0.0.1 among them, in canonical form."""

    renew: bool = False
    """OWN: a new leaf is asked for, though the old one would do."""

    defer: bool = False
    """What is in use stays for now: a run is active, or what was given is refused."""

    ca_pem: str = ""
    """GIVEN, TRUSTED: the CA that nodes trust."""

    chain_pem: str = ""
    """GIVEN: the server's certificate and its intermediates."""

    key: Secret | None = None
    """GIVEN."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldCertificates:
    """What lies in ``tls/`` now."""

    own_ca: Certificate | None = None
    """The agent's CA, whose key is beside it."""

    own_ca_pem: str = ""

    own_ca_fault: str = ""
    """Why the CA's file cannot be used, when it is there and cannot."""

    ca_pem: str = ""

    ca_deleted: bool = False
    """Its file is not there; what mounted it still has its content."""

    chain_pem: str = ""
    key: Secret | None = None

    leaf: Certificate | None = None
    """First of `chain_pem`; None when absent or unreadable."""

    leaf_fault: str = ""
    """OWN: why the leaf cannot serve and must be issued anew; empty when it can."""


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
    """Return every host of the leaf: what nodes dial, where it listens, loopback, and `more`."""
    wanted = {published, listen, "127.0.0.1", *more}
    return frozenset(address.canonical_host(host) for host in wanted)


def steps(
    wanted: CertificateSpec, held: HeldCertificates, now: datetime.datetime
) -> tuple[CertificateStep, ...]:
    """Return the steps from `held` to `wanted`; empty when they agree.

    Raises AgentError ``tls.ca_lost``: a CA that is there but unusable is never made anew, since
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
                    CertificateAction.WRITE, "other certificates given" if held.leaf else "absent"
                ),
            )
        case CertificateSource.OWN:
            return _own_steps(wanted, held, now)


def _own_steps(
    wanted: CertificateSpec, held: HeldCertificates, now: datetime.datetime
) -> tuple[CertificateStep, ...]:
    if held.own_ca_fault:
        raise AgentError("tls.ca_lost", f"the agent's CA cannot be used: {held.own_ca_fault}")
    if held.own_ca is None and held.leaf is not None and held.leaf.issuer.startswith(OWN_ISSUER):
        raise AgentError("tls.ca_lost", "the agent's CA is gone, its certificate is still there")
    if held.own_ca is None:
        return (
            CertificateStep(CertificateAction.MAKE_CA, "absent"),
            CertificateStep(CertificateAction.ISSUE, "absent"),
        )
    cause = _why_issue(wanted, held, now)
    if cause:
        return (CertificateStep(CertificateAction.ISSUE, cause),)
    # The leaf is good and stays: a file that comes back as it was restarts no container.
    return (CertificateStep(CertificateAction.WRITE_CA, "absent"),) if held.ca_deleted else ()


def _why_issue(wanted: CertificateSpec, held: HeldCertificates, now: datetime.datetime) -> str:
    if held.leaf is None:
        return "absent"
    if held.leaf_fault:
        return held.leaf_fault
    # A file that was overwritten in place is damaged in the containers, too: they must restart.
    if held.ca_pem != held.own_ca_pem and not held.ca_deleted:
        return "the CA beside it is another one"
    if wanted.renew:
        return "asked for"
    due = now >= certificates.renew_at(held.leaf) and not wanted.defer
    return "two thirds of its life have passed" if due else ""
