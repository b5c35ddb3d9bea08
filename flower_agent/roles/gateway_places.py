"""Where a gateway listens, how people reach it, and what its process is told. Pure."""

import json

from flower_agent.config import flower_versions, types
from flower_agent.config.settings import Settings
from flower_agent.flower.command_line import Endpoints
from flower_agent.model.address import Address, is_any, parse_address


def listen(settings: Settings, fleet_host: str) -> Address:
    """Return where HAProxy serves the gateway."""
    return settings.gateway_address or Address(fleet_host, types.GATEWAY_PORT)


def host(settings: Settings, where: Address, named: str) -> str:
    """Return the host that people dial; `named` stands for every address of this VM."""
    if settings.gateway_url is not None:
        address = settings.gateway_url.removeprefix("https://")
        return parse_address(address, types.GATEWAY_PORT).host
    if settings.public_address is not None:
        return parse_address(settings.public_address, where.port).host
    return named if is_any(where.host) else where.host


def url(settings: Settings, where: Address, named: str) -> str:
    """Return the gateway's address for people, without a slash at its end."""
    if settings.gateway_url is not None:
        return settings.gateway_url
    return types.https_url(Address(host(settings, where, named), where.port))


def document(
    settings: Settings,
    places: Endpoints,
    *,
    url: str,
    ca_file: str | None,
    ca_fingerprint: str | None,
    server_hostname: str,
) -> bytes:
    """Return ``gateway.json``: which SuperLink the gateway speaks to, and how it is reached.

    The fingerprint makes another CA another document, so that the gateway reads it anew.
    """
    content: dict[str, object] = {
        "version": ".".join(map(str, settings.version.release)),
        "transport": str(flower_versions.band(settings.version).control),
        "control": str(places.control.dial),
        "ca": ca_file,
        "ca_fingerprint": ca_fingerprint,
        "server_hostname": server_hostname if ca_file else None,
        "url": url,
    }
    if settings.oidc_issuer is not None:
        secret = settings.oidc_client_secret
        content["oidc"] = {
            "issuer": settings.oidc_issuer,
            "client_id": settings.oidc_client_id,
            "client_secret": secret.reveal() if secret else "",
            "allow": " ".join(map(str, settings.oidc_allow)),
        }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
