"""The gateway's process: ``flower-agent-gateway``, run by ``flower-gateway.service``.

It reads what the agent wrote of the SuperLink, and answers at two Unix sockets behind HAProxy. It
has a user of its own, no Docker socket and no key; see SECURITY.md.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import socket
import sys
from collections.abc import Sequence

import structlog
import uvicorn

from flower_agent import log as logging
from flower_agent.config.account_roles import AccountRole
from flower_agent.config.flower_versions import Transport
from flower_agent.gateway import accounts, agent_socket, grpc_front, http_front
from flower_agent.gateway.database import Database
from flower_agent.gateway.downloads import Downloads
from flower_agent.gateway.gate import Gate
from flower_agent.gateway.gateway_config import (
    DATABASE_FILE,
    FIRST_PASSWORD_FILE,
    GatewayConfig,
    read_config,
)
from flower_agent.gateway.oidc import OidcProvider
from flower_agent.model.errors import AgentError

log = structlog.get_logger()

CONFIG = pathlib.Path("/run/flower-agent/gateway/gateway.json")
AGENT = pathlib.Path("/run/flower-agent/gateway/agent.sock")
STATE = pathlib.Path("/var/lib/flower-agent/gateway")
SOCKETS = pathlib.Path("/run/flower-gateway")
FIRST_ADMIN = "admin"
CARE_S = 60.0
STOP_S = 5.0


def first_admin(gate: Gate, state: pathlib.Path) -> None:
    """Make one admin where there is no account; root reads the password from a file."""
    if gate.accounts.list():
        return
    password = accounts.made_password()
    file = state / FIRST_PASSWORD_FILE
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(password + "\n")
    gate.accounts.add(FIRST_ADMIN, AccountRole.ADMIN, password)
    log.info("gateway.first_admin", account=FIRST_ADMIN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; return the exit status."""
    parser = argparse.ArgumentParser(prog="flower-agent-gateway", description=__doc__)
    parser.add_argument("--config", type=pathlib.Path, default=CONFIG)
    parser.add_argument("--agent", type=pathlib.Path, default=AGENT)
    parser.add_argument("--state", type=pathlib.Path, default=STATE)
    parser.add_argument("--sockets", type=pathlib.Path, default=SOCKETS)
    asked = parser.parse_args(arguments)
    logging.configure("INFO", tty=sys.stderr.isatty())
    os.umask(0o007)  # sockets are for HAProxy, which is in their group
    try:
        config = read_config(asked.config)
        database = Database(asked.state / DATABASE_FILE)
    except AgentError as error:
        code, message = error.finding.code, error.finding.message
        log.error(code, message=message, hint=error.finding.hint)  # noqa: TRY400  # said whole
        return 1
    asyncio.run(_serve(config, database, asked))
    database.close()
    return 0


async def _serve(config: GatewayConfig, database: Database, asked: argparse.Namespace) -> None:
    recorder = agent_socket.RecordSender(asked.agent)
    gate = Gate(database, config.url, recorder)
    provider = None
    if config.oidc is None:
        first_admin(gate, asked.state)
    else:
        provider = OidcProvider(config.oidc, config.url)
    speaks_grpc = config.transport is Transport.GRPC
    upstreams: list[grpc_front.GrpcUpstream | http_front.HttpUpstream] = []
    over_http = None
    servers = []
    if speaks_grpc:
        over_grpc = grpc_front.GrpcUpstream(config.control, config.ca_pem, config.server_hostname)
        upstreams.append(over_grpc)
        place = asked.sockets / "grpc.sock"
        place.unlink(missing_ok=True)
        servers.append(await grpc_front.serve(gate, over_grpc, str(place)))
    else:
        over_http = http_front.HttpUpstream(config.control, config.ca_pem, config.server_hostname)
        upstreams.append(over_http)
    app = http_front.application(gate, over_http, Downloads(gate, asked.agent), provider)
    web = uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(STOP_S),
            lifespan="off",
        )
    )
    background = [
        asyncio.create_task(recorder.run()),
        asyncio.create_task(_care(gate, upstreams[0])),
    ]
    log.info("gateway.started", version=config.version, url=config.url)
    await web.serve([_listen(asked.sockets / "http.sock")])  # until SIGTERM, which it takes
    for server in servers:
        await server.stop(STOP_S)
    for task in background:
        task.cancel()
    for upstream in upstreams:
        await upstream.close()
    if provider is not None:
        await provider.close()


def _listen(path: pathlib.Path) -> socket.socket:
    """Listen at a Unix socket; uvicorn would open one to everybody."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    return made


async def _care(gate: Gate, upstream: grpc_front.GrpcUpstream | http_front.HttpUpstream) -> None:
    """Once a minute: find lost runs, forget what ended."""
    while True:
        try:
            await gate.reconcile(upstream)
            gate.sessions.forget_ended()
        except Exception as error:  # noqa: BLE001  # the next round may do better
            log.warning("gateway.care_failed", message=str(error)[:200])
        await asyncio.sleep(CARE_S)


if __name__ == "__main__":
    sys.exit(main())
