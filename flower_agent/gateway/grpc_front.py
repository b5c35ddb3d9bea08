"""The Control API by gRPC, Flower up to 1.36: a server that relays, behind HAProxy.

A call carries both tokens as metadata; where the access token has ended, the next pair goes back
as initial metadata, which is where Flower's client reads it, also when the call is refused.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from flower_agent.gateway import control_methods, limits
from flower_agent.gateway.control_methods import Caller, ControlMethod, Handling
from flower_agent.gateway.gate import LOG_IN, Gate, Refused, UpstreamRefused, Why

ACCESS, REFRESH = "flwr-oidc-access-token", "flwr-oidc-refresh-token"
MESSAGE_MAX_BYTES = 64 << 20
"""What the SuperLink may answer."""

REQUEST_MAX_BYTES = 20 << 20
"""Flower's app bundles have at most 10 MiB. It is read before the token is looked at."""

CALL_S = 60.0
CALLS_MAX = 1200
"""At once; a stream is one. Others are told to come again."""

STATUS = {
    Why.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Why.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Why.BUSY: grpc.StatusCode.FAILED_PRECONDITION,  # Flower's client shows these words as they are
    Why.INVALID: grpc.StatusCode.FAILED_PRECONDITION,
}
_DEFINITE = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", MESSAGE_MAX_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.so_reuseport", 0),
)

if TYPE_CHECKING:
    _Handler = grpc.GenericRpcHandler[bytes, bytes]  # only grpc's stubs know its parameters
else:
    _Handler = grpc.GenericRpcHandler
Context = grpc.aio.ServicerContext[bytes, bytes]
_AS_IS = None  # bytes stay bytes


class GrpcRefused(UpstreamRefused):
    """What the SuperLink said by gRPC."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        self.status, self.details = status, details
        super().__init__(details)


class GrpcUpstream:
    """The SuperLink's Control port; `ca_pem` None speaks without TLS."""

    def __init__(self, target: str, ca_pem: bytes | None, server_hostname: str | None) -> None:
        options = list(_OPTIONS)
        if ca_pem is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            if server_hostname is not None:
                options.append(("grpc.ssl_target_name_override", server_hostname))  # type: ignore[arg-type]
            credentials = grpc.ssl_channel_credentials(ca_pem)
            self._channel = grpc.aio.secure_channel(target, credentials, options)

    async def call(self, method: ControlMethod, body: bytes) -> bytes:
        """Return the reply to one request; raises GrpcRefused, and AioRpcError for what passes."""
        ask = self._channel.unary_unary(_full(method), _AS_IS, _AS_IS)
        try:
            return bytes(await ask(body, timeout=CALL_S))
        except grpc.aio.AioRpcError as error:
            if error.code() in _DEFINITE:
                raise GrpcRefused(error.code(), error.details() or "") from None
            raise

    async def stream(self, method: ControlMethod, body: bytes) -> AsyncIterator[bytes]:
        """Yield the messages of a stream."""
        call = self._channel.unary_stream(_full(method), _AS_IS, _AS_IS)(body)
        try:
            async for frame in call:
                yield bytes(frame)
        finally:
            call.cancel()

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close(None)


class GrpcFront(_Handler):
    """Answers the Control service and nothing else."""

    def __init__(self, gate: Gate, upstream: GrpcUpstream) -> None:
        self._gate = gate
        self._upstream = upstream

    def service(self, details: Any) -> Any:  # grpc's own types
        """Return what answers a method; None where the service is not Control."""
        service, _, name = str(details.method).lstrip("/").rpartition("/")
        if service != control_methods.SERVICE:
            return None
        method = control_methods.BY_NAME.get(name)
        if method is None:
            return grpc.unary_unary_rpc_method_handler(self._unknown(name))
        if method.handling is Handling.STREAM:
            return grpc.unary_stream_rpc_method_handler(self._streamed(method))
        return grpc.unary_unary_rpc_method_handler(self._answered(method))

    def _unknown(self, name: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def refuse(_body: bytes, context: Context) -> bytes:
            return await _abort(context, self._gate.unknown_method(name, _origin(context)))

        return refuse

    def _answered(self, method: ControlMethod) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def answer(body: bytes, context: Context) -> bytes:
            origin = _origin(context)
            try:
                if method.handling is Handling.LOGIN:
                    return self._gate.login(method, body, origin)
                caller = await self._caller(context, origin)
                self._gate.admit(method, caller, body, origin)
                return await self._gate.answer(method, caller, body, origin, self._upstream)
            except Refused as refused:
                return await _abort(context, refused)
            except GrpcRefused as refused:
                return await _passed_on(context, refused.status, refused.details)
            except grpc.aio.AioRpcError as error:
                return await _passed_on(context, error.code(), error.details())

        return answer

    def _streamed(self, method: ControlMethod) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
        async def stream(body: bytes, context: Context) -> AsyncIterator[bytes]:
            origin = _origin(context)
            try:
                caller = await self._caller(context, origin)
                self._gate.admit(method, caller, body, origin)
                frames = self._upstream.stream(method, body)
                async for frame in self._gate.watched(caller, frames):
                    yield frame
            except Refused as refused:
                await _abort(context, refused)
            except grpc.aio.AioRpcError as error:
                await _passed_on(context, error.code(), error.details())

        return stream

    async def _caller(self, context: Context, origin: str) -> Caller:
        """Return who calls; sends the initial metadata, for which Flower's client waits."""
        said = _metadata(context)
        caller = self._gate.caller(said.get(ACCESS), origin)
        if caller is not None:
            await context.send_initial_metadata(())
            return caller
        refreshed = self._gate.refreshed(said.get(REFRESH))
        if refreshed is None:
            raise Refused(Why.UNAUTHENTICATED, LOG_IN)
        caller, pair = refreshed
        await context.send_initial_metadata(((ACCESS, pair.access), (REFRESH, pair.refresh)))
        return caller


async def serve(gate: Gate, upstream: GrpcUpstream, socket: str) -> grpc.aio.Server:
    """Start to answer at a Unix socket, in clear: HAProxy ends TLS."""
    server = grpc.aio.server(
        handlers=[GrpcFront(gate, upstream)],
        options=[
            *_OPTIONS[1:],
            ("grpc.max_receive_message_length", REQUEST_MAX_BYTES),
            ("grpc.max_metadata_size", 16 << 10),
        ],
        maximum_concurrent_rpcs=CALLS_MAX,
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    return server


def _full(method: ControlMethod) -> str:
    return f"/{control_methods.SERVICE}/{method.name}"


def _metadata(context: Context) -> dict[str, str]:
    pairs = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def _origin(context: Context) -> str:
    return limits.origin(_metadata(context))


async def _abort(context: Context, refused: Refused) -> bytes:
    await context.abort(STATUS[refused.why], refused.words)
    raise AssertionError("abort raises")  # pragma: no cover


async def _passed_on(context: Context, status: grpc.StatusCode, details: str | None) -> bytes:
    if status is grpc.StatusCode.UNAVAILABLE:
        details = "The SuperLink does not answer; see `flower-agent status` on its VM."
    await context.abort(status, details or "")
    raise AssertionError("abort raises")  # pragma: no cover
