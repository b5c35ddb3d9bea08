"""The gateway's HTTP: the Control API of Flower 1.37 and later, the sign-in, and the outputs.

Behind HAProxy at a Unix socket. Bodies of the Control API are protobuf, streams are messages with
a length of four bytes before each. Flower's client shows ``{"detail": text}`` of a 403 or 503 as
it is, and asks for new tokens after a 401 with exactly ``WWW-Authenticate: Bearer``.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flower_agent.gateway import browser_pages, control_methods, limits
from flower_agent.gateway.control_methods import ControlMethod, Handling
from flower_agent.gateway.downloads import Downloads
from flower_agent.gateway.gate import LOG_IN, Gate, Refused, UpstreamRefused, Why
from flower_agent.gateway.oidc import OidcProvider
from flower_agent.model.errors import AgentError

BODY_MAX_BYTES = 20 << 20
"""Flower's app bundles have at most 10 MiB."""

FORM_MAX_BYTES = 16 << 10
CALL_S = 60.0
PROTOBUF = "application/protobuf"
STREAM = "application/flower-protobuf-stream"
STATUS = {Why.UNAUTHENTICATED: 401, Why.FORBIDDEN: 403, Why.BUSY: 503, Why.INVALID: 400}
_OK = 200
_DEFINITE = range(400, 500)


class HttpRefused(UpstreamRefused):
    """What the SuperLink said by HTTP."""

    def __init__(self, response: httpx.Response) -> None:
        self.status, self.body = response.status_code, response.content
        self.content_type = response.headers.get("content-type", "")
        super().__init__(str(self.status))


class HttpUpstream:
    """The SuperLink's Control port; `ca_pem` None speaks without TLS.

    `headers` of the client that Flower reads are passed on, its token is not.
    """

    def __init__(self, base: str, ca_pem: bytes | None, server_hostname: str | None) -> None:
        verify: ssl.SSLContext | bool = False
        if ca_pem is not None:
            verify = ssl.create_default_context(cadata=ca_pem.decode())
        self._client = httpx.AsyncClient(
            base_url=f"{'http' if ca_pem is None else 'https'}://{base}",
            verify=verify,
            timeout=httpx.Timeout(CALL_S, connect=5.0),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=4, keepalive_expiry=2
            ),
            trust_env=False,
            follow_redirects=False,
        )
        self._extensions = {"sni_hostname": server_hostname} if server_hostname else {}

    async def call(
        self, method: ControlMethod, body: bytes, headers: dict[str, str] | None = None
    ) -> bytes:
        """Return the reply to one request; raises HttpRefused, and httpx's errors."""
        response = await self._client.post(
            method.path,
            content=body,
            headers={"content-type": PROTOBUF, **(headers or {})},
            extensions=self._extensions,
        )
        if response.status_code in _DEFINITE:
            raise HttpRefused(response)
        response.raise_for_status()
        return response.content

    async def open(
        self, method: ControlMethod, body: bytes, headers: dict[str, str]
    ) -> httpx.Response:
        """Return the answer of a stream, whose bytes are still to come; raises HttpRefused."""
        request = self._client.build_request(
            "POST",
            method.path,
            content=body,
            headers={"content-type": PROTOBUF, "accept": STREAM, **headers},
            timeout=httpx.Timeout(None, connect=5.0),
            extensions=self._extensions,
        )
        response = await self._client.send(request, stream=True)
        if response.status_code != _OK:
            await response.aread()
            await response.aclose()
            raise HttpRefused(response)
        return response

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()


class WithHeaders:
    """An upstream that sends one client's headers along."""

    def __init__(self, upstream: HttpUpstream, headers: dict[str, str]) -> None:
        self._upstream, self._headers = upstream, headers

    async def call(self, method: ControlMethod, body: bytes) -> bytes:
        """Return the reply to one request."""
        return await self._upstream.call(method, body, self._headers)


class ControlFront:
    """Answers ``POST /v1/control/…``; `upstream` None: this SuperLink's API speaks gRPC."""

    def __init__(self, gate: Gate, upstream: HttpUpstream | None) -> None:
        self._gate = gate
        self._upstream = upstream

    async def __call__(self, request: Request) -> Response:
        """Answer one call."""
        origin = limits.origin(request.headers)
        try:
            return await self._answer(request, origin)
        except Refused as refused:
            return refusal(refused)
        except HttpRefused as refused:
            return Response(refused.body, refused.status, media_type=refused.content_type or None)
        except httpx.HTTPError:
            words = "The SuperLink does not answer; see `flower-agent status` on its VM."
            return JSONResponse({"detail": words}, 503)

    async def _answer(self, request: Request, origin: str) -> Response:
        method = control_methods.BY_PATH.get(request.url.path)
        if method is None or self._upstream is None:
            raise self._gate.unknown_method(request.url.path, origin)
        if method.handling is Handling.LOGIN:
            body = await read(request, FORM_MAX_BYTES)
            reply = self._gate.login(method, body, origin)
            return _protobuf(reply, {"cache-control": "no-store"})
        # The token is looked at before a large body is read.
        caller = self._gate.caller(_bearer(request), origin)
        if caller is None:
            raise Refused(Why.UNAUTHENTICATED, LOG_IN)
        body = await read(request, BODY_MAX_BYTES)
        self._gate.admit(method, caller, body, origin)
        headers = _passed_on(request)
        if method.handling is Handling.STREAM:
            opened = await self._upstream.open(method, body, headers)
            frames = self._gate.watched(caller, _bytes_of(opened))
            return StreamingResponse(_until_refused(frames), media_type=STREAM)
        upstream = WithHeaders(self._upstream, headers)
        return _protobuf(await self._gate.answer(method, caller, body, origin, upstream))


def application(
    gate: Gate,
    upstream: HttpUpstream | None,
    downloads: Downloads,
    provider: OidcProvider | None = None,
) -> Starlette:
    """Return everything that is answered at the HTTP socket."""
    pages = browser_pages.BrowserPages(gate, provider)
    return Starlette(
        routes=[
            Route("/v1/control/{name}", ControlFront(gate, upstream).__call__, methods=["POST"]),
            Route("/outputs/{secret}/{name}", downloads.answer, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
            *pages.routes(),
        ],
        exception_handlers={AgentError: _fault},
    )


async def read(request: Request, limit: int) -> bytes:
    """Return a request's body; raises Refused for one above the limit."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise Refused(Why.INVALID, f"The request is larger than {limit >> 10} KiB.")
    return bytes(body)


def refusal(refused: Refused) -> Response:
    """Return the answer that Flower's client understands."""
    headers = {"www-authenticate": "Bearer"} if refused.why is Why.UNAUTHENTICATED else None
    return JSONResponse({"detail": refused.words}, STATUS[refused.why], headers)


async def _health(_request: Request) -> Response:
    return Response(b"ok\n", media_type="text/plain")


async def _fault(_request: Request, error: Exception) -> Response:
    detail = str(error) if isinstance(error, AgentError) else "The gateway failed."
    return JSONResponse({"detail": detail}, 503)


async def _bytes_of(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in response.aiter_raw():
            yield part
    finally:
        await response.aclose()


async def _until_refused(frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a stream; its status is sent already, so a log-in that ends only cuts it."""
    with contextlib.suppress(Refused, httpx.HTTPError):
        async for part in frames:
            yield part


def _bearer(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _passed_on(request: Request) -> dict[str, str]:
    """Return the headers by which Flower's client and server know each other."""
    return {
        name: value
        for name, value in request.headers.items()
        if name.startswith("flwr-") or name == "x-flwr-client"
    }


def _protobuf(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, media_type=PROTOBUF, headers=headers)
