"""What the agent tells the gateway of its SuperLink, and the names of their files."""

import dataclasses
import json
import pathlib

from flower_agent.config import account_roles
from flower_agent.config.account_roles import AllowRule
from flower_agent.config.flower_versions import Transport
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret

CONFIG_FILE = "gateway.json"
DATABASE_FILE = "gateway.sqlite"
FIRST_PASSWORD_FILE = "first-password"  # noqa: S105  # a file's name


@dataclasses.dataclass(frozen=True, slots=True)
class OidcConfig:
    """An OpenID Connect provider whose people may sign in."""

    issuer: str
    client_id: str
    client_secret: Secret
    """Empty for a public client."""

    allow: tuple[AllowRule, ...]
    scopes: str = ""
    """What is asked for; empty: openid, email and profile."""


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The SuperLink behind the gateway."""

    version: str
    transport: Transport
    control: str
    """Address of the Control port, ``127.0.0.1:9093``."""

    ca_pem: bytes | None
    """Of the SuperLink's certificate; None: no TLS on loopback."""

    server_hostname: str | None
    url: str
    """How people reach the gateway, ``https://host:9443``."""

    oidc: OidcConfig | None = None
    """None: local accounts alone."""


def read_config(path: pathlib.Path) -> GatewayConfig:
    """Read the agent's file; raises AgentError ``gateway.config``."""
    try:
        said = json.loads(path.read_bytes())
        ca_pem = pathlib.Path(said["ca"]).read_bytes() if said["ca"] else None
        return GatewayConfig(
            str(said["version"]),
            Transport(said["transport"]),
            str(said["control"]),
            ca_pem,
            said["server_hostname"],
            str(said["url"]),
            _oidc(said["oidc"]) if said.get("oidc") else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AgentError("gateway.config", f"{path} cannot be used: {error}") from None


def _oidc(said: dict[str, str]) -> OidcConfig:
    return OidcConfig(
        str(said["issuer"]),
        str(said["client_id"]),
        Secret(str(said.get("client_secret", ""))),
        account_roles.parse_rules(str(said["allow"])),
        str(said.get("scopes", "")),
    )
