"""The agent's own certification authority, and the SuperLink's certificate that it issues.

Values in, values out; the caller stores the files. Form: RFC 5280, strict enough for OpenSSL's
VERIFY_X509_STRICT (the default of Python 3.13) and for the BoringSSL in gRPC, whose clients support
EC P-256 and P-384 but not P-521 and Ed25519.
"""

import dataclasses
import ipaddress
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flower_agent.model import address
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.tls import certificates

_CA_LIFE = timedelta(days=3653)
_LEAF_LIFE = timedelta(days=365)
_LOOPBACK = "127.0.0.1"  # what Flower's own SuperExec and the agent's checks dial
# A hypervisor that keeps local time moves a young VM's clock by up to 14 hours until it is
# synchronized: to a SuperNode that is behind, a fresh certificate would not be valid yet.
_BACKDATE = timedelta(days=1)
_RSA_BITS = 2048  # OpenSSL refuses fewer at its usual security level
_CURVES = (ec.SECP256R1, ec.SECP384R1)

ServerKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its private key."""

    certificate_pem: str

    key: Secret
    """PEM, PKCS8, not encrypted."""


def make_ca(now: datetime) -> Pair:
    """Create a CA: EC P-384, ten years, for end certificates only.

    Its name ends in random digits: clients find an issuer by its name, so with two CAs of one name
    they would report a bad signature instead of an unknown issuer.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"flower-agent CA {secrets.token_hex(8)}")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(name, key.public_key(), now, now + _CA_LIFE)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    return _signed(builder, key, key)


def make_leaf(
    ca: Pair, hosts: Collection[str], now: datetime, subject: str = "flower-agent SuperLink"
) -> Pair:
    """Issue a server certificate for `hosts` and 127.0.0.1: EC P-384, one year.

    It ends no later than its CA. Raises AgentError `tls.ca_lost` if `ca` is not a pair,
    `tls.expired` if the CA has expired.
    """
    issuer, ca_key = _open_ca(ca)
    end = min(now + _LEAF_LIFE, issuer.not_valid_after_utc)
    if end <= now:
        fault = certificates.date_fault(certificates.describe(issuer), now)
        hint = "Check the VM's clock. To replace an expired CA: flower-agent reset"
        raise AgentError("tls.expired", f"the agent's own CA {fault}", hint)
    key = ec.generate_private_key(ec.SECP384R1())
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(subject), key.public_key(), now, end)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_alternative_names(hosts), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
    )
    return _signed(builder, key, ca_key)


def check_ca_pair(pair: Pair) -> None:
    """Check that a CA can issue. Raises AgentError `tls.ca_lost` with the reason."""
    _open_ca(pair)


def leaf_fault(leaf: Pair, ca: Pair, hosts: Collection[str], now: datetime) -> str:
    """Return why `leaf` cannot serve and must be replaced; empty if it can serve.

    A leaf that can serve may still be due: `certificates.renew_at`.
    """
    try:
        certificate = certificates.load(leaf.certificate_pem)[0]
        issuer = certificates.load(ca.certificate_pem)[0]
        key = load_key(leaf.key)
    except ValueError:
        return "its files are damaged"
    if not belongs(key, certificate):
        return "its key does not belong to it"
    if not certificates.issued(certificate, issuer):
        return "another CA issued it"
    seen = certificates.describe(certificate)
    wanted = _wanted(hosts)
    if wanted != seen.names | seen.addresses:
        return f"it names {_listed(seen.names | seen.addresses)}, wanted is {_listed(wanted)}"
    return certificates.date_fault(seen, now)


def load_key(key: Secret) -> ServerKey:
    """Return the private key in `key`. The ValueError names the wanted form, never the content."""
    found = [block for block in certificates.blocks(key.reveal()) if "PRIVATE KEY" in block[0]]
    if len(found) != 1:
        raise ValueError("want one PEM private key, from -----BEGIN … to -----END … PRIVATE KEY")
    label, body = found[0]
    if label.startswith("ENCRYPTED") or ",ENCRYPTED" in body:
        raise ValueError("want a private key that is not encrypted: nobody can type its password")
    try:
        private = serialization.load_der_private_key(certificates.decode(body), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the library's message: it may contain parts of the key.
        raise ValueError("want a PEM private key (PKCS8, PKCS1 or SEC1)") from None
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= _RSA_BITS:
        return private
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, _CURVES):
        return private
    raise ValueError(
        "want an RSA key of 2048 bits or more, or EC P-256 or P-384: gRPC offers those"
    )


def belongs(key: ServerKey, certificate: x509.Certificate) -> bool:
    """Return whether `certificate` was issued for `key`."""
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)
    except certificates.UNREADABLE:
        return False  # a kind of key that the library does not support, so another key


def dump_key(key: ServerKey) -> Secret:
    """Return `key` in the form that every version of Flower accepts: PEM, PKCS8."""
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Secret(pem.decode())


def _open_ca(pair: Pair) -> tuple[x509.Certificate, ServerKey]:
    try:
        certificate = certificates.load(pair.certificate_pem)[0]
        key = load_key(pair.key)
    except ValueError as error:
        raise AgentError("tls.ca_lost", f"the agent's own CA cannot be read: {error}") from error
    if not belongs(key, certificate):
        raise AgentError(
            "tls.ca_lost", "the key of the agent's own CA does not belong to its certificate"
        )
    seen = certificates.describe(certificate)
    if not seen.is_ca:
        raise AgentError("tls.ca_lost", f"'{seen.subject}' is in the CA's file and is not a CA")
    return certificate, key


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ServerKey
) -> Pair:
    certificate = builder.sign(signer, hashes.SHA384())
    return Pair(certificates.dump((certificate,)), dump_key(key))


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _wanted(hosts: Collection[str]) -> frozenset[str]:
    return frozenset(address.canonical_host(host) for host in (*hosts, _LOOPBACK))


def _alternative_names(hosts: Collection[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        x509.IPAddress(ipaddress.ip_address(host)) if address.is_ip(host) else x509.DNSName(host)
        for host in sorted(_wanted(hosts))
    )


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
