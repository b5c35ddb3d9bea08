"""Which CA a SuperNode trusts, and which values it needs for that. Decisions only.

Any VM of a service can change the OneGate attributes of the others. So the first CA from OneGate is
pinned, and a fingerprint from the context overrides both.
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

    The CA comes from the context, else from OneGate (`told_pem`). OneGate's CA must match
    FLOWER_CA_FINGERPRINT, else the pin. `held_pem` is the pinned CA's file, used while OneGate
    does not answer. Raises AgentError ``tls.…`` or ``discover.no_source``.
    """
    if settings.tls_ca_cert:
        return settings.tls_ca_cert
    offered = told_pem or held_pem
    if not offered:
        raise NoSourceError("discover.no_source", "no source provides the CA")
    try:
        seen = certificates.fingerprint(offered)
    except ValueError as error:
        raise StillSearchingError(
            "discover.waiting",
            f"the published CA is not a certificate: {error}",
            retryable=True,
        ) from error
    if settings.ca_fingerprint is not None or record.ca_pin is None:
        return offered
    if record.ca_pin != seen:
        raise AgentError(
            "tls.ca_changed",
            f"OneGate has the CA {certificates.format_fingerprint(seen)}, but this VM trusts "
            f"{certificates.format_fingerprint(record.ca_pin)}",
        )
    # The pin covers only the first certificate: others after it would be trusted unchecked.
    count = len(certificates.load(offered))
    if count > 1 and certificates.canonical(offered) != held_pem:
        raise AgentError(
            "tls.ca_changed",
            f"OneGate has the trusted CA and {count - 1} other certificates",
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
    """Return how a SuperNode trusts its SuperLink."""
    if not settings.tls:
        return Trust.INSECURE
    return Trust.SYSTEM if settings.tls_ca_cert == SYSTEM else Trust.CA


def may_have_key(settings: Settings) -> bool:
    """Return whether this node may need a key; if so, it is created and published."""
    return settings.tls and settings.node_auth is not False


def wants_key(settings: Settings, superlink: SuperLinkOffer, record: State) -> bool:
    """Return whether this node uses a key: as set, else as the SuperLink publishes or published.

    Raises AgentError ``enrol.mismatch`` if the two roles differ.
    """
    told = superlink.node_auth
    if not settings.tls:
        return False
    if settings.node_auth is not None and told is not None and settings.node_auth is not told:
        here, there = ("YES", "none") if settings.node_auth else ("NO", "keys")
        raise KeyMismatchError(
            "enrol.mismatch",
            f"FLOWER_NODE_AUTH is {here} here, but {there} at the SuperLink",
            retryable=True,
        )
    if settings.node_auth is not None:
        return settings.node_auth
    told = record.superlink_auth if told is None else told
    return settings.node_private_key is not None if told is None else told


def mismatch(settings: Settings, superlink: SuperLinkOffer) -> Finding | None:
    """Return why the two roles cannot talk, as their attributes show before any connection."""
    if superlink.tls is not None and superlink.tls is not settings.tls:
        have, want = ("on", "off") if settings.tls else ("off", "on")
        return Finding("tls.mismatch", f"TLS is {have} here and {want} at the SuperLink")
    return None
