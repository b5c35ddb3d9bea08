"""A certificate that the operator provides, in variables or in files, and its faults.

The names are certbot's: ``fullchain.pem`` and ``privkey.pem``, and ``root.pem`` for a CA that is
not in the system's store. Nobody can renew several files at the same instant, so a change counts
after the files have stayed the same for a moment.

With a bad certificate Flower only reports that it cannot bind its port, and clients only retry. So
the agent checks everything before. The rules are those of gRPC (BoringSSL) and OpenSSL clients; the
agent's own handshake afterwards covers name constraints and certificate policies.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from typing import TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from flower_agent import files
from flower_agent.model import pem
from flower_agent.model.errors import AgentError, Finding, SettingMissingError, Severity, warning
from flower_agent.model.secret import Secret
from flower_agent.tls import certificates as tls_certificates
from flower_agent.tls import own_ca
from flower_agent.tls.certificates import Certificate

_SOON = timedelta(days=30)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_SERVES = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})
_SHOWN = 10  # names of a certificate in one message
_T = TypeVar("_T")

_VARIABLES = ("TLS_CERT", "TLS_KEY", "TLS_CA_CERT")

Chain: TypeAlias = tuple[x509.Certificate, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """The names of the three parts in findings."""

    certificate: str
    key: str
    ca: str


CONTEXT = Names("TLS_CERT", "TLS_KEY", "TLS_CA_CERT")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A certificate from the operator, not checked yet."""

    certificate_pem: str
    key: Secret
    ca_pem: str | None = None
    names: Names = CONTEXT

    watched: bool = False
    """It comes from files that may be renewed at any time."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProvidedCertificate:
    """A checked certificate in the form that Flower gets."""

    certificate: Certificate

    chain_pem: str
    """The server's certificate, then its intermediates; without the root."""

    key_pem: Secret
    """PKCS8, from any form."""

    ca_pem: str
    """The root of the chain, which nodes get."""


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """The result of the check."""

    given: ProvidedCertificate | None
    """None when any finding is an error."""

    findings: tuple[Finding, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Store:
    """The source of roots."""

    name: str
    """Its name in findings."""

    certificates: Chain


def check_provided(
    material: Material,
    ca_pem: str | None,
    hosts: Collection[str],
    now: datetime,
    *,
    system_roots: str | None,
) -> Checked:
    """Check a given pair for `hosts`, the addresses that nodes dial, and report all findings.

    Without `ca_pem` the chain must end in `system_roots`, the text of the system's store (None: the
    VM has none). Codes: `setting.invalid`, `tls.key_mismatch`, `tls.chain`, `tls.expired`,
    `tls.not_covered`, and the warning `tls.expires_soon`.
    """
    findings: list[Finding] = []
    key, load = material.key, tls_certificates.load
    chain = _read(findings, "TLS_CERT", lambda: load(material.certificate_pem))
    private = _read(findings, f"TLS_KEY ({len(key)} characters)", lambda: own_ca.load_key(key))
    store = _read(findings, "TLS_CA_CERT", lambda: _open_store(ca_pem, system_roots))
    path: Chain = ()
    if chain is not None:
        if private is not None:
            chain = _leaf_first(findings, chain, private)
        if store is not None:
            path = _path(findings, chain, store, now)
        findings += _leaf_findings(chain[0], hosts)
        findings += _path_findings(path or chain[:1], now)
    told = tuple(_called(finding, material.names) for finding in findings)
    failed = any(finding.severity is Severity.ERROR for finding in findings)
    if failed or not path or private is None:
        return Checked(None, told)
    given = ProvidedCertificate(
        certificate=tls_certificates.describe(path[0]),
        chain_pem=tls_certificates.dump(path[:-1] or path),
        key_pem=own_ca.dump_key(private),
        ca_pem=tls_certificates.dump(path[-1:]),
    )
    return Checked(given, told)


def _called(finding: Finding, names: Names) -> Finding:
    """Return `finding` with the operator's names of the parts."""
    message, hint = finding.message, finding.hint
    for variable, name in zip(_VARIABLES, dataclasses.astuple(names), strict=True):
        message, hint = message.replace(variable, name), hint.replace(variable, name)
    return dataclasses.replace(finding, message=message, hint=hint)


def _read(findings: list[Finding], name: str, read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except ValueError as error:
        findings.append(Finding("setting.invalid", f"{name}: {error}"))
        return None


def _open_store(ca_pem: str | None, system_roots: str | None) -> _Store:
    if ca_pem is not None:
        return _Store("TLS_CA_CERT", tls_certificates.load(ca_pem))
    return _Store(
        "this VM's store of CAs", tuple(tls_certificates.load_readable(system_roots or ""))
    )


def _leaf_first(findings: list[Finding], chain: Chain, key: own_ca.ServerKey) -> Chain:
    """Return `chain` with the key's certificate first, so that later findings are about it."""
    for place, certificate in enumerate(chain):
        if own_ca.belongs(key, certificate):
            if place:
                message = (
                    f"{_named(certificate)}, which belongs to TLS_KEY, is not the first in TLS_CERT"
                )
                hint = "Put the server's certificate first in TLS_CERT, then its issuers."
                findings.append(Finding("tls.chain", message, hint))
            return (certificate, *chain[:place], *chain[place + 1 :])
    message = f"TLS_KEY does not belong to {_named(chain[0])} in TLS_CERT"
    findings.append(Finding("tls.key_mismatch", message))
    return chain


def _path(findings: list[Finding], chain: Chain, store: _Store, now: datetime) -> Chain:
    """Return the server's certificate and its issuers, up to a root of `store`."""
    path, rest = chain[:1], chain[1:]
    while True:
        root = _root_of(path[-1], store, now)
        if root is not None:
            return path if root == path[-1] else (*path, root)
        if _is_weak(path[-1]) or not rest or not tls_certificates.issued(path[-1], rest[0]):
            findings.append(_broken(path[-1], rest, store))
            return ()
        path, rest = (*path, rest[0]), rest[1:]


def _root_of(child: x509.Certificate, store: _Store, now: datetime) -> x509.Certificate | None:
    """Return the root that issued `child` (or `child` itself), a valid one if there are several."""
    roots = [
        one
        for one in store.certificates
        if one.subject == child.issuer
        and _is_root(one)
        and (one == child or (tls_certificates.issued(child, one) and not _is_weak(child)))
    ]
    return max(roots, key=lambda one: not _date_fault(one, now), default=None)


def _broken(child: x509.Certificate, rest: Chain, store: _Store) -> Finding:
    """Return why no root was found for `child`, the last certificate of the path."""
    issuer = f"'{tls_certificates.describe(child).issuer}'"
    if _is_weak(child):
        message = f"the signature of {_named(child)} uses an algorithm that OpenSSL refuses"
        return Finding(
            "tls.chain", message, "Get a new certificate, signed with SHA-256 or better."
        )
    if _is_root(child):
        message = f"{_named(child)} is self-signed and not in {store.name}"
        return Finding("tls.chain", message, "Set TLS_CA_CERT to that certificate.")
    if any(tls_certificates.issued(child, one) for one in rest):
        message = f"TLS_CERT is out of order: {issuer} must follow {_named(child)}"
        hint = "Order TLS_CERT: the server's certificate, then each one's issuer."
        return Finding("tls.chain", message, hint)
    if any(tls_certificates.issued(child, one) for one in store.certificates):
        message = f"{issuer}, the issuer of {_named(child)}, is in {store.name} and is not a root"
        hint = f"Put {issuer} after {_named(child)} in TLS_CERT, and the root in TLS_CA_CERT."
        return Finding("tls.chain", message, hint)
    if any(one.subject == child.issuer for one in (*rest, *store.certificates)):
        message = f"{_named(child)} was not signed by the given {issuer} but by one of that name"
        return Finding("tls.chain", message, "Use the issuer whose key signed the certificate.")
    message = f"{issuer}, the issuer of {_named(child)}, is not in TLS_CERT and not in {store.name}"
    return Finding("tls.chain", message)


def _leaf_findings(leaf: x509.Certificate, hosts: Collection[str]) -> Iterator[Finding]:
    seen = tls_certificates.describe(leaf)
    shown = sorted(seen.names | seen.addresses)
    listed = ", ".join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")
    for host in hosts:
        if not tls_certificates.covers(seen, host):
            message = f"TLS_CERT does not contain {host}; its SAN contains {listed or 'nothing'}"
            yield Finding("tls.not_covered", message)
    hint = "Get a server's certificate: digitalSignature, serverAuth."
    usage = tls_certificates.extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        yield Finding("tls.chain", f"the key usage of {_named(leaf)} forbids TLS signatures", hint)
    if not _serves(leaf):
        message = f"{_named(leaf)} is not for servers: its extended key usage lacks serverAuth"
        yield Finding("tls.chain", message, hint)


def _path_findings(path: Chain, now: datetime) -> Iterator[Finding]:
    for certificate in path:
        if fault := _date_fault(certificate, now):
            yield Finding("tls.expired", f"certificate {fault}")
    for below, certificate in enumerate(path[1:]):
        if fault := _authority_fault(certificate, below):
            yield Finding(
                "tls.chain",
                f"{_named(certificate)} {fault}",
                "Use a CA that may issue for servers.",
            )
    first = tls_certificates.describe(min(path, key=lambda one: one.not_valid_after_utc))
    # A third of its lifetime, for certificates that always end within 30 days.
    soon = min(_SOON, (first.not_after - first.not_before) / 3)
    if first.not_before <= now <= first.not_after <= now + soon:
        message = f"'{first.subject}' ends {first.not_after:%Y-%m-%dT%H:%M:%SZ}"
        yield warning("tls.expires_soon", message)


def _authority_fault(certificate: x509.Certificate, below: int) -> str:
    """Return why `certificate` cannot issue, with `below` intermediates under it; else empty."""
    constraints = tls_certificates.extension(certificate, x509.BasicConstraints)
    usage = tls_certificates.extension(certificate, x509.KeyUsage)
    if constraints is None:
        old_root = certificate.version is x509.Version.v1 and _is_root(certificate)
        return "" if old_root else "is not a CA: it has no basicConstraints"
    if not constraints.ca:
        return "is not a CA: its basicConstraints forbid it"
    if usage is not None and not usage.key_cert_sign:
        return "cannot issue certificates: its key usage lacks keyCertSign"
    if constraints.path_length is not None and constraints.path_length < below:
        return f"may have {constraints.path_length} intermediates below it and has {below}"
    return "" if _serves(certificate) else "cannot issue certificates for servers: no serverAuth"


def _serves(certificate: x509.Certificate) -> bool:
    usage = tls_certificates.extension(certificate, x509.ExtendedKeyUsage)
    return usage is None or not _SERVES.isdisjoint(usage)


def _is_weak(certificate: x509.Certificate) -> bool:
    try:
        kind = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return True
    return kind is not None and not isinstance(kind, _HASHES)  # None: Ed25519, which is fine


def _is_root(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _date_fault(certificate: x509.Certificate, now: datetime) -> str:
    return tls_certificates.date_fault(tls_certificates.describe(certificate), now)


def _named(certificate: x509.Certificate) -> str:
    return f"'{tls_certificates.describe(certificate).subject}'"


MAX_BYTES = 1 << 20
SETTLE_S = 2.0
CHAIN, KEY, ROOT = "fullchain.pem", "privkey.pem", "root.pem"


class CertificateFiles:
    """The files in one directory, read in each cycle."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self._seen: tuple[bytes | None, ...] | None = None
        self._used: tuple[bytes | None, ...] | None = None
        self._since = 0.0

    @property
    def settling(self) -> bool:
        """Return whether the files have a change that does not count yet."""
        return self._used != self._seen

    def read(self, now: float, *, at_once: bool = False) -> Material | None:
        """Return the valid content at `now` (monotonic seconds); None without chain and key.

        Raises AgentError ``setting.missing`` for half a pair, ``setting.invalid`` for content that
        is not PEM, and ``state.…`` for unreadable files.
        """
        found = tuple(files.read(self.directory / name, MAX_BYTES) for name in (CHAIN, KEY, ROOT))
        if found != self._seen:
            self._seen, self._since = found, now
        if self._used is None or at_once or now - self._since >= SETTLE_S:
            self._used = found
        return self._material(*self._used)

    def _material(
        self, chain: bytes | None, key: bytes | None, root: bytes | None
    ) -> Material | None:
        if chain is None and key is None:
            return None
        if chain is None or key is None:
            there, lacks = (KEY, CHAIN) if chain is None else (CHAIN, KEY)
            message = f"{self.directory} has {there} and no {lacks}"
            raise SettingMissingError(
                "setting.missing", message, f"Put both files into {self.directory}."
            )
        names = Names(*(str(self.directory / name) for name in (CHAIN, KEY, ROOT)))
        try:
            return Material(
                certificate_pem=pem.certificates(_text(chain)),
                key=pem.tls_key(_text(key)),
                ca_pem=pem.certificates(_text(root)) if root is not None else None,
                names=names,
                watched=True,
            )
        except ValueError as error:
            message = f"a file in {self.directory} cannot be used: {error}"
            raise AgentError("setting.invalid", message) from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
