"""Sign in through an OpenID Connect provider: authorization code with PKCE, in the browser.

OpenID Connect Core 1.0 and Discovery 1.0, RFC 7636 (PKCE), RFC 9207 (`iss` of the answer). The
provider's certificate is checked against the system's trust store; proxies come from the
environment. Signatures are checked by joserfc.
"""

import base64
import collections
import dataclasses
import hashlib
import json
import secrets
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from flower_agent.gateway import oidc_policy
from flower_agent.gateway.gateway_config import OidcConfig
from flower_agent.gateway.oidc_policy import Identity
from flower_agent.model.errors import AgentError

ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]
"""Those with public keys; a token that names another is refused."""

SCOPES = "openid email profile"
TIMEOUT_S = 10.0
STATE_S = 600.0
STATES_MAX = 1000
SKEW_S = 60
KNOWN_S = 600.0
KEYS_AGAIN_S = 30.0
ANSWER_MAX_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in on its way through the provider."""

    verifier: str
    nonce: str
    code: str
    """Of the ``flwr login`` that waits; may be empty."""

    browser: str
    """Hash of the cookie of the browser that began."""

    ends: float


class OidcProvider:
    """One provider and the sign-ins that it has in hand. Raises AgentErrors ``oidc.…``."""

    def __init__(
        self,
        config: OidcConfig,
        url: str,
        *,
        now: Callable[[], float] = time.time,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.config = config
        self._callback = f"{url}/oidc/callback"
        self._now = now
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT_S, verify=trust or ssl.create_default_context(), follow_redirects=False
        )
        self._begun: collections.OrderedDict[str, Begun] = collections.OrderedDict()
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None

    async def begin(self, code: str, browser: str) -> str:
        """Return where a browser goes to sign in; `browser` is the hash of its cookie."""
        metadata = await self._discover()
        state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
        self._forget()
        ends = self._now() + STATE_S
        self._begun[state] = Begun(verifier, nonce, code, browser, ends)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        asked = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self._callback,
            "scope": self.config.scopes or SCOPES,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        there = str(metadata["authorization_endpoint"])
        return f"{there}{'&' if '?' in there else '?'}{urllib.parse.urlencode(asked)}"

    async def finish(self, answer: Mapping[str, str], browser: str) -> tuple[Identity, str]:
        """Return who came back, and the code of the ``flwr login`` that waits for it."""
        begun = self._begun.pop(answer.get("state", ""), None)
        if begun is None or begun.ends < self._now() or begun.browser != browser:
            raise AgentError("oidc.refused", "This sign-in was not begun here, or took too long")
        if "error" in answer:
            said = answer.get("error_description") or answer["error"]
            raise AgentError("oidc.refused", f"The provider refused the sign-in: {said}")
        if answer.get("iss", self.config.issuer) != self.config.issuer:
            raise AgentError("oidc.refused", "The answer comes from another provider")
        metadata = await self._discover()
        tokens = await self._exchange(metadata, answer.get("code", ""), begun.verifier)
        claims = await self._claims(metadata, str(tokens.get("id_token", "")), begun.nonce)
        about: Mapping[str, object] = {}
        if "userinfo_endpoint" in metadata and tokens.get("access_token"):
            bearer = {"authorization": f"Bearer {tokens['access_token']}"}
            about = await self._json("GET", str(metadata["userinfo_endpoint"]), headers=bearer)
        try:
            return oidc_policy.identity(claims, about), begun.code
        except ValueError as error:
            raise AgentError("oidc.refused", f"{error}") from None

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def _discover(self) -> dict[str, Any]:
        if self._metadata is not None and self._now() - self._metadata[0] < KNOWN_S:
            return self._metadata[1]
        place = self.config.issuer.rstrip("/") + "/.well-known/openid-configuration"
        found = await self._json("GET", place)
        if found.get("issuer") != self.config.issuer:
            raise AgentError(
                "oidc.unusable",
                f"{place} is of the issuer {found.get('issuer')!r}, not {self.config.issuer!r}",
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not str(found.get(name, "")).startswith("https://"):
                raise AgentError("oidc.unusable", f"{place} has no https {name}")
        self._metadata = (self._now(), found)
        return found

    async def _exchange(
        self, metadata: Mapping[str, Any], code: str, verifier: str
    ) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "client_id": self.config.client_id,
            "code_verifier": verifier,
        }
        secret = self.config.client_secret.reveal()
        basic = None
        if secret:  # RFC 6749, section 2.3.1: both parts as in a form
            quoted = (urllib.parse.quote(part, safe="") for part in (self.config.client_id, secret))
            basic = httpx.BasicAuth(*quoted)
        return await self._json("POST", str(metadata["token_endpoint"]), data=form, auth=basic)

    async def _claims(
        self, metadata: Mapping[str, Any], token: str, nonce: str
    ) -> Mapping[str, object]:
        place = str(metadata["jwks_uri"])
        try:
            try:
                decoded = jwt.decode(token, await self._key_set(place), algorithms=ALGORITHMS)
            except (JoseError, ValueError):
                # The provider may have other keys by now.
                keys = await self._key_set(place, older_than_s=KEYS_AGAIN_S)
                decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
            rules = jwt.JWTClaimsRegistry(
                now=lambda: int(self._now()),
                leeway=SKEW_S,
                iss={"essential": True, "value": self.config.issuer},
                aud={"essential": True, "value": self.config.client_id},
                exp={"essential": True},
                nonce={"essential": True, "value": nonce},
            )
            rules.validate(decoded.claims)
        except (JoseError, ValueError) as error:
            raise AgentError("oidc.refused", f"The ID token is not valid: {error}") from None
        audience, party = decoded.claims["aud"], decoded.claims.get("azp")
        several = isinstance(audience, list) and len(audience) > 1
        if (several or party is not None) and party != self.config.client_id:
            raise AgentError("oidc.refused", "The ID token is for another client")
        return decoded.claims

    async def _key_set(self, place: str, older_than_s: float = KNOWN_S) -> KeySet:
        if self._keys is not None and self._now() - self._keys[0] < older_than_s:
            return self._keys[1]
        found: Any = await self._json("GET", place)
        self._keys = (self._now(), KeySet.import_key_set(found))
        return self._keys[1]

    async def _json(self, method: str, place: str, **more: Any) -> dict[str, Any]:
        """Return the JSON object of an answer, of a bounded size."""
        host = urllib.parse.urlsplit(place).netloc
        body = bytearray()
        try:
            async with self._client.stream(method, place, **more) as response:
                async for part in response.aiter_bytes():
                    body += part[: ANSWER_MAX_BYTES - len(body)]
                    if len(body) == ANSWER_MAX_BYTES:
                        break
            found = json.loads(body)
        except (httpx.HTTPError, ValueError) as error:
            raise AgentError(
                "oidc.unusable", f"{host} does not answer as a provider: {error}", retryable=True
            ) from None
        if not isinstance(found, dict):
            raise AgentError("oidc.unusable", f"{host} does not answer with a JSON object")
        if response.is_error:
            said = found.get("error_description") or found.get("error") or response.status_code
            raise AgentError("oidc.refused", f"The provider refused the request: {said}")
        return found

    def _forget(self) -> None:
        now = self._now()
        while self._begun and (
            len(self._begun) >= STATES_MAX or next(iter(self._begun.values())).ends < now
        ):
            self._begun.popitem(last=False)
