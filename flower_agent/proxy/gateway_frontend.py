"""The gateway's frontend in HAProxy's configuration, beside the Fleet's or alone. Pure.

HAProxy terminates TLS and passes everything to the gateway's process over two Unix sockets: gRPC
(by its content type) to one that speaks HTTP/2, the rest to one that speaks HTTP/1.1. The gateway
believes one header of HAProxy's, the client's address, so what a client says there is replaced.

Log streams are silent for hours and have no way to reconnect, so their time-out is a day. The
client's own time-out is short all the same: HAProxy counts it while it waits for a request or for
room to send, and never while the gateway is silent (seen with 2.6, HTTP/1.1 and HTTP/2).
"""

import dataclasses

from flower_agent.model.address import Address
from flower_agent.proxy import haproxy_config
from flower_agent.proxy.haproxy_config import ProxySpec

MAX_CONNECTIONS = 1000
"""Each may carry 100 streams of HTTP/2."""

SOCKETS = "/run/flower-gateway"
"""Where the gateway listens: ``grpc.sock`` and ``http.sock``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFrontend:
    """What HAProxy does for the gateway."""

    listen: Address
    """Where people come in."""

    certificate_file: str
    """PEM of certificate, intermediates and key that are shown."""

    digest: str = ""
    """Of its content: another certificate makes another text, and so a reload."""

    sockets: str = SOCKETS
    max_connections: int = MAX_CONNECTIONS
    client_s: int = 60
    """Seconds in which a client sends or takes something, while HAProxy waits for it."""

    head_s: int = 10
    """Seconds in which the head of a request is there."""

    server_s: int = 120
    """Seconds in which the gateway answers; streams and gRPC have a day."""


def config(fleet: ProxySpec | None, gateway: GatewayFrontend) -> str:
    """Return the text of ``haproxy.cfg`` with a gateway; `fleet` is None below Flower 1.40."""
    if fleet is None:
        text = f"{haproxy_config.MADE} -\n\n{haproxy_config.preamble(gateway.max_connections)}\n"
    else:
        reserve = fleet.reserve + gateway.max_connections
        text = haproxy_config.config(dataclasses.replace(fleet, reserve=reserve))
    return text + "\n" + "\n\n".join((_frontend(gateway), _backends(gateway))) + "\n"


def binds(text: str, listen: Address) -> bool:
    """Return whether a configuration has the gateway listen there."""
    return f"frontend gateway\n    bind {haproxy_config.bind(listen)} " in text


def _frontend(gateway: GatewayFrontend) -> str:
    # A mapped IPv4 address is shown as the address that people know.
    return f"""\
# The gateway's certificate {gateway.digest or "-"}
frontend gateway
    bind {haproxy_config.bind(gateway.listen)} ssl crt {gateway.certificate_file} alpn h2,http/1.1
    timeout client {gateway.client_s}s
    timeout http-request {gateway.head_s}s
    timeout http-keep-alive {gateway.client_s}s
    stick-table type ipv6 size 100k expire 5m store conn_cur
    http-request track-sc0 src
    http-request deny deny_status 503 if {{ sc0_conn_cur gt {gateway.max_connections // 2} }}
    http-request deny deny_status 503 if {{ fe_conn gt {gateway.max_connections} }}
    http-request del-header Upgrade
    http-request del-header Forwarded
    http-request del-header X-Forwarded-Host
    http-request del-header X-Forwarded-Port
    http-request del-header X-Forwarded-Prefix
    http-request del-header X-Forwarded-Proto
    http-request set-header X-Forwarded-For %[src,regsub(^::ffff:,)]
    use_backend gateway_grpc if {{ req.hdr(content-type) -m beg application/grpc }}
    default_backend gateway_http"""


def _backends(gateway: GatewayFrontend) -> str:
    # uvicorn hangs up on a connection that was idle for 5 s: ours ends before.
    return f"""\
backend gateway_grpc
    timeout server 24h
    timeout tunnel 24h
    server gateway unix@{gateway.sockets}/grpc.sock proto h2

backend gateway_http
    acl streams path -m end /stream-logs /stream-run-events
    http-request set-timeout server 24h if METH_POST streams
    http-request set-timeout tunnel 24h if METH_POST streams
    timeout server {gateway.server_s}s
    server gateway unix@{gateway.sockets}/http.sock pool-purge-delay 2s"""
