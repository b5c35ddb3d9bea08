"""The configuration of the HAProxy in front of a SuperLink of Flower 1.40 and later. Pure.

Those versions serve the Fleet, AppIo and Control APIs at one port, and the Control API runs the
code that it is given. So the SuperLink listens on loopback, and HAProxy passes what SuperNodes
call, and nothing else. What it answers decides a SuperNode's fate (``flwr/supercore/retry/
http_retry.py`` of 1.42): 502, 503, 504 and a connection that ends are tried again; a 403 or 408 is
given up for ever; so is any trouble within a TLS handshake. So a limit is a 503 after the handshake
and never a refused connection, and what took too long is hung up on without a word.

Language: HAProxy 2.4 to 3.2, configuration.txt. Flower's client speaks HTTP/1.1 (httpx).
"""

import dataclasses

from flower_agent.model.address import Address, is_any

FLEET = "^/v1/fleet/[a-z-]+$"
RUNTIME = "^/v1/runtime/[a-z-]+$"
"""The paths of the Fleet API and of AppIo, as HAProxy has them before any decoding."""

NAME = "localhost"
"""What the SuperLink's certificate must name: HAProxy compares names alone, never addresses."""

MAX_CONNECTIONS = 4000
"""Four a node in a federation of 1,000. HAProxy wants two file descriptors for each."""


MADE = "# Made by flower-agent: a change here is overwritten. Certificates"

RESERVE = 100
"""Connections beside those of nodes: HAProxy's own, and those that it answers with 503."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProxySpec:
    """What the proxy in front of one SuperLink does."""

    fleet: Address
    """Where SuperNodes come in."""

    superlink: Address
    """Where the SuperLink listens."""

    runtime: Address | None = None
    """Where a SuperExec elsewhere comes in; None: AppIo is not offered."""

    certificate_file: str = ""
    """PEM of certificate, intermediates and key that are shown; empty: no TLS on either side."""

    ca_file: str = ""
    """PEM of the CA of the SuperLink's own certificate."""

    digest: str = ""
    """Of the content of both: other certificates make another text, and so a reload."""

    max_connections: int = MAX_CONNECTIONS
    reserve: int = RESERVE
    """Connections of others, beside those of nodes."""


def config(spec: ProxySpec) -> str:
    """Return the text of ``haproxy.cfg``."""
    shares = spec.runtime is not None and _same_port(spec.fleet, spec.runtime)
    parts = [
        f"{MADE} {spec.digest or '-'}",
        preamble(spec.max_connections, spec.reserve),
        _frontend(spec, "fleet", spec.fleet, (FLEET, RUNTIME) if shares else (FLEET,)),
    ]
    if spec.runtime is not None and not shares:
        parts.append(_frontend(spec, "runtime", spec.runtime, (RUNTIME,)))
    parts.append(_backend(spec))
    return "\n\n".join(parts) + "\n"


def bind(address: Address) -> str:
    """Return an address as ``bind`` takes it; ``::`` is every address of both families."""
    if not is_any(address.host):
        return f"{'ipv6@' if ':' in address.host else ''}{address}"
    return f"ipv6@[::]:{address.port} v4v6" if ":" in address.host else f"ipv4@{address}"


def _same_port(fleet: Address, runtime: Address) -> bool:
    return fleet.port == runtime.port and (fleet.host == runtime.host or is_any(fleet.host))


def preamble(connections: int, reserve: int = RESERVE) -> str:
    """Return what holds for every frontend and backend."""
    return f"""\
global
    log stderr format short daemon notice
    maxconn {connections + reserve}
    hard-stop-after 10m
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets

defaults
    mode http
    log global
    option dontlognull
    option dontlog-normal
    maxconn {connections + RESERVE}
    backlog {connections}
    timeout connect 5s
    timeout queue 30s
    timeout http-request 30s
    timeout http-keep-alive 75s
    timeout client 120s
    timeout server 120s
    errorfile 408 /dev/null
    errorfile 500 /dev/null"""


def _frontend(spec: ProxySpec, name: str, address: Address, paths: tuple[str, ...]) -> str:
    tls = f" ssl crt {spec.certificate_file} alpn http/1.1" if spec.certificate_file else ""
    allowed = "\n".join(f"    acl passes path -m reg {path}" for path in paths)
    return f"""\
frontend {name}
    bind {bind(address)}{tls}
    stick-table type ipv6 size 100k expire 5m store conn_cur
    http-request track-sc0 src
{allowed}
    http-request deny deny_status 404 unless passes METH_POST
    http-request deny deny_status 503 if {{ sc0_conn_cur gt {spec.max_connections // 2} }}
    http-request deny deny_status 503 if {{ fe_conn gt {spec.max_connections} }}
    http-request del-header Upgrade
    default_backend superlink"""


def _backend(spec: ProxySpec) -> str:
    tls = ""
    if spec.ca_file:
        tls = f" ssl verify required ca-file {spec.ca_file} verifyhost {NAME} alpn http/1.1"
    # uvicorn hangs up on a connection that was idle for 5 s: ours ends before.
    return f"""\
backend superlink
    server superlink {bind(spec.superlink)}{tls} pool-purge-delay 2s"""
