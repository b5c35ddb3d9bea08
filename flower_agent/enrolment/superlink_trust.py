"""Whom a SuperNode believes, and what it must be told for that. Decisions only.

Any VM of a service may write any other's OneGate attributes, so the first CA that OneGate hands
over is pinned, and a fingerprint from the context counts for more than either.
"""

from flower_agent.config.settings import Settings
from flower_agent.flower.command_line import Trust
from flower_agent.model.errors import (
    AgentError,
    Finding,
    KeyMismatchError,
    NoSourceError,
    StillSearchingError,
)
from flower_agent.model.pem import SYSTEM
from flower_agent.model.state import State
from flower_agent.onegate.discovery import SuperLinkOffer
from flower_agent.tls import certificates


def trusted_ca(settings: Settings, told_pem: str | None, record: State, held_pem: str) -> str:
    """Return the PEM of the CA that this node trusts.

    From the context, else `told_pem`, as OneGate handed it over; then it must be the one that
    FLOWER_CA_FINGERPRINT names, else the one that was pinned before. `held_pem` is the pinned CA's
    file, used while OneGate is away. Raises AgentError ``tls.…`` or ``discover.no_source``.
    """
    if settings.tls_ca_cert:
        return settings.tls_ca_cert
    offered = told_pem or held_pem
    if not offered:
        raise NoSourceError("discover.no_source", "nothing hands over the CA")
    try:
        seen = certificates.fingerprint(offered)
    except ValueError as error:
        raise StillSearchingError(
            "discover.waiting",
            f"the published CA is no certificate: {error}",
            retryable=True,
        ) from error
    if settings.ca_fingerprint is not None or record.ca_pin is None:
        return offered
    if record.ca_pin != seen:
        raise AgentError(
            "tls.ca_changed",
            f"OneGate hands over the CA {certificates.format_fingerprint(seen)}, trusted is "
            f"{certificates.format_fingerprint(record.ca_pin)}",
        )
    # The pin is of the first certificate: whatever comes behind it would be trusted unseen.
    count = len(certificates.load(offered))
    if count > 1 and certificates.canonical(offered) != held_pem:
        raise AgentError(
            "tls.ca_changed",
            f"OneGate hands over the trusted CA and {count - 1} other certificates",
        )
    return offered


def no_source(settings: Settings) -> Finding | None:
    """Return why a SuperNode without OneGate could never find its SuperLink, or trust it."""
    missing = ["FLOWER_SERVER_ADDRESS"] if settings.server_address is None else []
    if trust_of(settings) is Trust.CA and settings.tls_ca_cert is None:
        missing.append("TLS_CA_CERT")
    if not missing:
        return None
    return Finding(
        "discover.no_source", f"there is no OneGate token, and no {' and no '.join(missing)}"
    )


def trust_of(settings: Settings) -> Trust:
    """Return whom a SuperNode believes."""
    if not settings.tls:
        return Trust.INSECURE
    return Trust.SYSTEM if settings.tls_ca_cert == SYSTEM else Trust.CA


def may_have_key(settings: Settings) -> bool:
    """Tell whether this node's key could be of use; then it is made and published."""
    return settings.tls and settings.node_auth is not False


def wants_key(settings: Settings, superlink: SuperLinkOffer, record: State) -> bool:
    """Tell whether this node shows a key: as set, else as the SuperLink publishes, or last did.

    Raises AgentError ``enrol.mismatch`` where the two roles differ.
    """
    told = superlink.node_auth
    if not settings.tls:
        return False
    if settings.node_auth is not None and told is not None and settings.node_auth is not told:
        here, there = ("YES", "none") if settings.node_auth else ("NO", "keys")
        raise KeyMismatchError(
            "enrol.mismatch",
            f"FLOWER_NODE_AUTH is {here} here, and the SuperLink wants {there}",
            retryable=True,
        )
    if settings.node_auth is not None:
        return settings.node_auth
    told = record.superlink_auth if told is None else told
    return settings.node_private_key is not None if told is None else told


def mismatch(settings: Settings, superlink: SuperLinkOffer) -> Finding | None:
    """Return why the two roles cannot talk, as their attributes tell before any dialling."""
    if superlink.tls is not None and superlink.tls is not settings.tls:
        have, want = ("on", "off") if settings.tls else ("off", "on")
        return Finding("tls.mismatch", f"TLS is {have} here and {want} at the SuperLink")
    return None
