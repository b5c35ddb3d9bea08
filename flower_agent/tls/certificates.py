"""What stands in a PEM certificate: whom it names, how long it holds, whether a node may trust it.

Text in, values out. Name rules: RFC 6125 as gRPC applies it (exact names, a wildcard is one whole
label, an address only ever matches an address). PEM is taken apart here and not by the library, so
that nothing can hide between the blocks that another reader of the same file would trust.
"""

import base64
import binascii
import dataclasses
import functools
import re
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.utils import CryptographyDeprecationWarning

from flower_agent.model import address
from flower_agent.model.errors import AgentError

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----((?:(?!-----).)*)-----END \1-----", re.DOTALL)
_WANT = "want a PEM certificate, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
UNREADABLE = (  # what the library raises on a certificate that is none; parts are read lazily
    ValueError,
    TypeError,
    LookupError,  # a kind of string in a name that cryptography 43 does not know
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
KEPT = 32
"""So many certificates are kept read: each cycle looks at the same few."""

_ExtensionT = TypeVar("_ExtensionT", bound=x509.ExtensionType)


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """The first certificate of a PEM text, as far as the agent needs it."""

    fingerprint: str
    """SHA-256 of the DER form, lower case hex without colons."""

    subject: str
    """RFC 4514, on one line."""

    issuer: str
    """RFC 4514, on one line; equal to `subject` when self-signed."""

    names: frozenset[str]
    """DNS names of the SAN, lower case, wildcards as they are."""

    addresses: frozenset[str]
    """IP addresses of the SAN in their canonical text."""

    not_before: datetime
    not_after: datetime

    is_ca: bool
    """What basicConstraints says; False without it."""


def inspect(pem: str) -> Certificate:
    """Describe the first certificate of `pem`. Raises ValueError that says what was wanted."""
    return describe(load(pem)[0])


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of the first certificate, as in `Certificate`. Raises ValueError."""
    return inspect(pem).fingerprint


def format_fingerprint(text: str) -> str:
    """Return a fingerprint as people compare it: ``AB:CD:…``."""
    return ":".join(re.findall("..", text.replace(":", "").upper()))


def canonical(pem: str) -> str:
    """Return the certificates of `pem` and nothing else, as every reader of PEM understands them.

    What was checked and pinned is written in this form. Raises ValueError.
    """
    return dump(load(pem))


def covers(certificate: Certificate, host: str) -> bool:
    """Return whether a client that dials `host` accepts the names of `certificate`."""
    wanted = address.canonical_host(host)
    if address.is_ip(wanted):
        return wanted in certificate.addresses
    _, _, parent = wanted.partition(".")
    # gRPC and OpenSSL both refuse a wildcard directly below a top-level domain.
    wildcard = f"*.{parent}" if "." in parent else wanted
    return not certificate.names.isdisjoint({wanted, wildcard})


def renew_at(certificate: Certificate) -> datetime:
    """Return when a certificate of the agent's own is to be renewed: at two thirds of its life."""
    return certificate.not_before + (certificate.not_after - certificate.not_before) * 2 / 3


def renew_by(certificate: Certificate) -> datetime:
    """Return when a renewal no longer waits for a run to end: 7 days before the end."""
    return certificate.not_after - timedelta(days=7)


def check_ca(pem: str, expected_fingerprint: str | None, now: datetime) -> Certificate:
    """Return the CA in `pem` that a client may trust; write `canonical(pem)`, not `pem`.

    Raises AgentError `setting.invalid` (no certificate), `tls.fingerprint`, `tls.chain` (no root)
    or `tls.expired`, the last retryable since this VM's clock may yet be set. A self-signed server
    certificate counts as a root: gRPC and OpenSSL accept it. An intermediate does not: gRPC accepts
    it, OpenSSL (Flower's HTTPS from 1.37 on, the agent's own checks) wants the root.
    """
    try:
        certificates = [describe(certificate) for certificate in load(pem)]
    except ValueError as error:
        raise AgentError(
            "setting.invalid",
            f"the CA certificate cannot be read: {error}",
            "Check TLS_CA_CERT, or the SuperLink's published FLOWER_CA_CERT.",
        ) from error
    if expected_fingerprint is not None:
        _check_fingerprint(certificates, expected_fingerprint)
    roots = [one for one in certificates if one.subject == one.issuer]
    if not roots:
        raise AgentError(
            "tls.chain",
            f"'{certificates[0].subject}' is not a root: its issuer is '{certificates[0].issuer}'",
            "Set TLS_CA_CERT to the self-signed root certificate of the SuperLink's chain.",
        )
    for root in roots:
        if root.not_before <= now <= root.not_after:
            return root
    raise AgentError("tls.expired", f"the CA {date_fault(roots[0], now)}", retryable=True)


def date_fault(certificate: Certificate, now: datetime) -> str:
    """Return why `certificate` is not valid at `now`; empty when it is."""
    if now < certificate.not_before:
        start = certificate.not_before
        return f"'{certificate.subject}' is not valid before {_text(start)}; now is {_text(now)}"
    if now > certificate.not_after:
        return (
            f"'{certificate.subject}' expired {_text(certificate.not_after)}; now is {_text(now)}"
        )
    return ""


def load(pem: str) -> tuple[x509.Certificate, ...]:
    """Return every certificate of `pem`, at least one.

    Text between the blocks is skipped; any block that is no certificate is refused, above all a
    private key: CA certificates are published. Raises ValueError that says what was wanted.
    """
    found = tuple(blocks(pem))
    for label, _ in found:
        if label.endswith("PRIVATE KEY"):
            raise ValueError(
                "want certificates only, not a private key: the key belongs in TLS_KEY"
            )
        if label != "CERTIFICATE":
            raise ValueError(f"want blocks of -----BEGIN CERTIFICATE-----, not {label}")
    if not found or pem.count("-----BEGIN") != len(found):
        raise ValueError(_WANT)
    return tuple(_parse(body) for _, body in found)


def load_readable(pem: str) -> Iterator[x509.Certificate]:
    """Yield the certificates of a system's store; those that the library refuses are left out."""
    for label, body in blocks(pem):
        if label == "CERTIFICATE":
            try:
                yield _parse(body)
            except ValueError:
                continue  # a store holds odd old roots; a chain to one of them is then not found


def blocks(pem: str) -> Iterator[tuple[str, str]]:
    """Yield label and body of each PEM block."""
    for match in _BLOCK.finditer(pem):
        yield match[1], match[2]


def decode(body: str) -> bytes:
    """Return the DER form of a PEM block's body. Raises ValueError."""
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        raise ValueError("want whole base64 between -----BEGIN and -----END") from error


def dump(certificates: tuple[x509.Certificate, ...]) -> str:
    """Return `certificates` as PEM, in their order."""
    pem = serialization.Encoding.PEM
    return "".join(certificate.public_bytes(pem).decode() for certificate in certificates)


@functools.lru_cache(maxsize=KEPT)
def describe(certificate: x509.Certificate) -> Certificate:
    """Return what the agent needs to know of `certificate`."""
    san = extension(certificate, x509.SubjectAlternativeName) or ()
    constraints = extension(certificate, x509.BasicConstraints)
    return Certificate(
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        subject=_one_line(certificate.subject),
        issuer=_one_line(certificate.issuer),
        names=frozenset(name.value.lower() for name in san if isinstance(name, x509.DNSName)),
        addresses=frozenset(str(name.value) for name in san if isinstance(name, x509.IPAddress)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        is_ca=constraints is not None and constraints.ca,
    )


def extension(certificate: x509.Certificate, kind: type[_ExtensionT]) -> _ExtensionT | None:
    """Return the extension of that kind, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


@functools.lru_cache(maxsize=KEPT)
def issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    """Return whether `parent` has the name of `child`'s issuer and made its signature."""
    try:
        child.verify_directly_issued_by(parent)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


@functools.lru_cache(maxsize=KEPT)
def _parse(body: str) -> x509.Certificate:
    try:
        with warnings.catch_warnings():
            # Real stores hold roots whose serial is zero; that is no news for the journal.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(decode(body))
            describe(certificate)
    except UNREADABLE as error:
        raise ValueError(_WANT) from error
    return certificate


def _check_fingerprint(certificates: list[Certificate], expected: str) -> None:
    # A fingerprint vouches for one certificate: a second one beside it would be trusted unseen.
    if len(certificates) > 1:
        raise AgentError(
            "tls.fingerprint",
            f"the CA comes as {len(certificates)} certificates, and a fingerprint vouches for one",
            "Give only the root certificate.",
        )
    have, want = certificates[0].fingerprint, expected.replace(":", "").lower()
    if have != want:
        raise AgentError(
            "tls.fingerprint",
            f"the CA has the fingerprint {format_fingerprint(have)}, "
            f"wanted is {format_fingerprint(want)}",
        )


def _text(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def _one_line(name: x509.Name) -> str:
    return "".join(char if char.isprintable() else "?" for char in name.rfc4514_string())
