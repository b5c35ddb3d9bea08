"""The certificate that a gateway shows: FLOWER_GATEWAY_CERT, checked before HAProxy reads it.

People's browsers and laptops judge it, so whether its CA is trusted is their matter. What is wrong
with the pair is an error; what only its clients would refuse (its dates, its names) is a warning,
since a federation does not stop for its gateway.
"""

import dataclasses
from datetime import datetime, timedelta

from flower_agent.model.errors import Finding, warning
from flower_agent.model.secret import Secret
from flower_agent.tls import certificates, own_ca

CERT, KEY = "FLOWER_GATEWAY_CERT", "FLOWER_GATEWAY_KEY"
_SOON = timedelta(days=30)


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayPair:
    """A certificate with its intermediates, and its key, as HAProxy takes them."""

    chain_pem: str
    """The server's certificate first."""

    key_pem: Secret


def check_gateway_pair(
    certificate_pem: str, key: Secret, host: str, now: datetime
) -> tuple[GatewayPair | None, tuple[Finding, ...]]:
    """Return the pair for clients that dial `host`, None where it is unusable, and all findings.

    Codes: `setting.invalid`, `tls.key_mismatch`; as warnings `tls.expired`, `tls.expires_soon` and
    `tls.not_covered`.
    """
    try:
        chain = certificates.load(certificate_pem)
    except ValueError as error:
        return None, (Finding("setting.invalid", f"{CERT}: {error}"),)
    try:
        private = own_ca.load_key(key)
    except ValueError as error:
        return None, (Finding("setting.invalid", f"{KEY} ({len(key)} characters): {error}"),)
    own = [each for each in chain if own_ca.belongs(private, each)]
    if not own:
        subject = certificates.describe(chain[0]).subject
        message = f"{KEY} does not belong to '{subject}' in {CERT}"
        hint = f"Set {CERT} and {KEY} to values of the same pair."
        return None, (Finding("tls.key_mismatch", message, hint),)
    ordered = (own[0], *(each for each in chain if each is not own[0]))
    pair = GatewayPair(certificates.dump(ordered), own_ca.dump_key(private))
    return pair, shown_findings(certificates.describe(own[0]), CERT, host, now)


def shown_findings(
    leaf: certificates.Certificate, name: str, host: str, now: datetime
) -> tuple[Finding, ...]:
    """Return warnings on the certificate in `name` for clients that dial `host`."""
    found = []
    if not certificates.covers(leaf, host):
        message = f"{name} does not contain {host}, with which people reach the gateway"
        hint = f"Set FLOWER_GATEWAY_URL to a name in it, or {CERT} to a certificate for {host}."
        found.append(warning("tls.not_covered", message, hint))
    renew = f"Renew it, and set {CERT} and {KEY} again."
    soon = min(_SOON, (leaf.not_after - leaf.not_before) / 3)
    if fault := certificates.date_fault(leaf, now):
        found.append(warning("tls.expired", f"the gateway's certificate {fault}", renew))
    elif leaf.not_after <= now + soon:
        message = f"the gateway's certificate ends {leaf.not_after:%Y-%m-%dT%H:%M:%SZ}"
        found.append(warning("tls.expires_soon", message, renew))
    return tuple(found)
