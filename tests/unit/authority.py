"""Certificates of every sort for the tests, sound and unsound, and a TLS handshake in memory."""

import dataclasses
import datetime
import functools
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flower_agent.model.secret import Secret

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
RSA_SHA256 = bytes.fromhex("2a864886f70d01010b")
RSA_SHA1 = bytes.fromhex("2a864886f70d010105")


@functools.cache
def rsa_key(bits=2048):
    return rsa.generate_private_key(65537, bits)


@dataclasses.dataclass(frozen=True)
class Issued:
    """A certificate with its key, which can issue others."""

    certificate: x509.Certificate
    key: object

    @property
    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def secret(self):
        return secret(self.key)

    def issue(self, name, **wishes):
        return issue(name, by=self, **wishes)


def secret(key, form=serialization.PrivateFormat.PKCS8, password=None):
    how = serialization.NoEncryption()
    if password:
        how = serialization.BestAvailableEncryption(password)
    return Secret(key.private_bytes(serialization.Encoding.PEM, form, how).decode())


def issue(
    name,
    *,
    by=None,
    key=None,
    hosts=(),
    ca=None,
    path_length=None,
    usage=None,
    extended=None,
    start=NOW - DAY,
    end=NOW + 90 * DAY,
):
    """Issue a certificate; without `by` it signs itself, without `ca` no basicConstraints."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    if ca is not None:
        constraints = x509.BasicConstraints(ca=ca, path_length=path_length)
        builder = builder.add_extension(constraints, critical=True)
    if usage is not None:
        builder = builder.add_extension(_usage(usage), critical=True)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([extended]), critical=False)
    signer = by.key if by else key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Issued(builder.sign(signer, digest), key)


def sign_with_sha1(issued, by):
    """Return `issued`, signed anew with SHA-1 by an RSA key; the library itself refuses to."""
    old = issued.certificate
    body = old.tbs_certificate_bytes.replace(RSA_SHA256, RSA_SHA1)
    signature = by.key.sign(body, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - what is tested
    whole = old.public_bytes(serialization.Encoding.DER).replace(RSA_SHA256, RSA_SHA1)
    whole = whole[: -len(signature)] + signature
    return Issued(x509.load_der_x509_certificate(whole), issued.key)


def shake_hands(folder, chain_pem, key, ca_pem, host):
    """Do a TLS handshake in memory, the client as strict as Python 3.13's default."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_verify_locations(cadata=ca_pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (folder / "chain.pem").write_text(chain_pem)
    (folder / "key.pem").write_text(key.reveal())
    server.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=host),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    assert not ends


def _general_name(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(name):
    flags = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(flags | {name: True}))
