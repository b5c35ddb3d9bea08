"""The host of a SuperLink's gateway: its files, its frontend, and whether it answers.

The gateway is a process of its own (``flower-gateway.service``), which ``flower-gateway.path``
starts, restarts and stops as ``gateway.json`` comes, changes and goes. Nothing that it does or
fails to do changes the federation, so what is wrong with it is a warning.
"""

import contextlib
import dataclasses
import errno
import grp
import pathlib
import socket
from typing import Protocol

from flower_agent import files
from flower_agent.background import Background, Threads, after_failure
from flower_agent.config.flower_versions import Transport
from flower_agent.config.settings import Settings
from flower_agent.cycle import Cycle
from flower_agent.flower import container_spec
from flower_agent.flower.command_line import Endpoints
from flower_agent.model import errors
from flower_agent.model.address import Address, is_any
from flower_agent.model.errors import AgentError, Finding, Severity, warning
from flower_agent.model.status import Mark
from flower_agent.paths import Paths
from flower_agent.proxy.fleet_proxy import FleetProxy
from flower_agent.proxy.proxy_files import GatewayShown
from flower_agent.roles import gateway_look, gateway_places
from flower_agent.roles.gateway_look import GatewayQuestion
from flower_agent.tls import certificates, gateway_certificate
from flower_agent.tls.gateway_certificate import GatewayPair

GROUP = "flower-gateway"
"""Of the gateway's user (``flower-agent.sysusers``); where it does not exist, root's."""

MODE, FOLDER_MODE = 0o640, 0o750
LOOK_S = 10.0
START_S = 20.0
"""A gateway that was just told to start, or to start anew, may stay silent for so long."""

_MAX_BYTES = 1 << 20
_BOUND = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


class AgentSocket(Protocol):
    """Where the gateway asks the agent."""

    def serve(self) -> None:
        """Begin, unless it serves already. Raises AgentError ``state.unwritable``."""

    def stop(self) -> None:
        """End, if it serves."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTrust:
    """How the gateway knows the SuperLink behind the Control port."""

    server_hostname: str
    ca_pem: str | None
    """None: that port has no TLS."""


class GatewayHost:
    """The gateway of one SuperLink VM, as the agent cares for it."""

    def __init__(
        self,
        paths: Paths,
        threads: Threads,
        proxy: FleetProxy,
        agent_socket: AgentSocket,
        *,
        scale: float = 1.0,
    ) -> None:
        self._paths = paths
        self._proxy = proxy
        self._socket = agent_socket
        self._scale = scale
        self._json, self._ca = _files(paths)
        self._look: Background[GatewayQuestion, None] = Background(
            threads, "gateway-look", after_failure(LOOK_S * scale), good_for_s=LOOK_S * scale
        )
        self._silent_since: float | None = None

    def stop(self) -> None:
        """Remove what the gateway reads, which ends it; do nothing where there is none."""
        self._silent_since = None
        self._socket.stop()
        clear(self._paths)

    def names(self, settings: Settings, fleet_host: str, named: str) -> tuple[str, ...]:
        """Return what the SuperLink's own certificate names for people, too."""
        if not settings.gateway or settings.gateway_cert is not None:
            return ()
        where = gateway_places.listen(settings, fleet_host)
        hosts = [gateway_places.host(settings, where, named)]
        return tuple(hosts if is_any(where.host) else dict.fromkeys([*hosts, where.host]))

    def require(self, cycle: Cycle, fleet_host: str, named: str) -> None:
        """Raise AgentError for a certificate that can never serve, before anything is started."""
        if cycle.seen.settings.gateway:
            self._given(cycle, fleet_host, named)

    def frontend(self, cycle: Cycle, fleet_host: str, named: str) -> GatewayShown | None:
        """Return what HAProxy serves for the gateway; None without one, or where it cannot listen.

        HAProxy starts with all of its addresses or with none, so one that it cannot have must not
        take the Fleet port from the nodes.
        """
        settings = cycle.seen.settings
        if not settings.gateway:
            return None
        listen = gateway_places.listen(settings, fleet_host)
        if not self._proxy.serves_gateway(listen) and (fault := _taken(listen)):
            cycle.report.warn(warning("gateway.address", f"{listen} {fault}"))
            cycle.report.set_condition("gateway", Mark.BAD, f"{listen} {fault}")
            return None
        pair = self._pair(cycle, fleet_host, named)
        if pair is None:  # the SuperLink has no certificate yet
            return None
        sockets = str(self._paths.gateway_sockets)
        return GatewayShown(listen, pair.chain_pem, pair.key_pem, sockets)

    def follow(
        self,
        cycle: Cycle,
        places: Endpoints,
        trust: GatewayTrust,
        named: str,
        shown: GatewayShown | None,
    ) -> None:
        """Let the gateway run, and say whether it answers.

        `shown` is what `frontend` returned in this cycle.
        """
        settings = cycle.seen.settings
        if not settings.gateway or cycle.seen.dry or shown is None:
            return
        try:
            if not container_spec.proxied(settings):
                self._proxy.keep_gateway(shown)
            url = gateway_places.url(settings, shown.listen, named)
            self._write(settings, places, trust, url)
            self._socket.serve()
        except AgentError as error:
            found = error.finding
            cycle.report.warn(warning(found.code, found.message, found.hint))
            cycle.report.set_condition("gateway", Mark.BAD, found.message)
            return
        self._judge(cycle, places.control.transport, shown.listen, url)

    def _judge(self, cycle: Cycle, transport: Transport, listen: Address, url: str) -> None:
        now, sockets = cycle.seen.monotonic, self._paths.gateway_sockets
        question = GatewayQuestion(str(sockets), listen, grpc=transport is Transport.GRPC)
        self._look.ask(question, lambda: gateway_look.look(question), now)
        error = self._look.error
        if self._look.asked and error is None:
            self._silent_since = None
            cycle.report.set_condition("gateway", Mark.OK, f"people log in at {url}")
            return
        if self._silent_since is None:
            self._silent_since = now
        if error is None or now - self._silent_since < START_S * self._scale:
            cycle.report.set_condition("gateway", Mark.WAITING, f"starts at {url}")
            return
        found = error.finding
        cycle.report.warn(warning(found.code, found.message, found.hint))
        cycle.report.set_condition("gateway", Mark.BAD, found.message)

    def _write(self, settings: Settings, places: Endpoints, trust: GatewayTrust, url: str) -> None:
        ca_pem = trust.ca_pem
        document = gateway_places.document(
            settings,
            places,
            url=url,
            ca_file=str(self._ca) if ca_pem else None,
            ca_fingerprint=certificates.fingerprint(ca_pem) if ca_pem else None,
            server_hostname=trust.server_hostname,
        )
        wanted = {self._ca: ca_pem.encode()} if ca_pem else {}
        wanted[self._json] = document  # the watched one is the last
        changed = [path for path in wanted if files.read(path, _MAX_BYTES) != wanted[path]]
        group = _group()
        files.directory(self._paths.gateway, FOLDER_MODE, group=group, durable=False)
        if not changed:
            return
        files.sweep(self._paths.gateway)
        for path in changed:
            files.write_atomic(path, wanted[path], MODE, group=group, durable=False)
        if not ca_pem:
            with files.writing(self._ca):
                self._ca.unlink(missing_ok=True)
        self._silent_since = None  # it starts anew

    def _pair(self, cycle: Cycle, fleet_host: str, named: str) -> GatewayPair | None:
        """Return what HAProxy shows, and warn of what people will not accept."""
        settings, keyring = cycle.seen.settings, cycle.seen.keyring
        if settings.gateway_cert is not None:
            pair, found = self._given(cycle, fleet_host, named)
            cycle.report.warn(*found)
            return pair
        chain = keyring.held_chain()
        if not chain:
            return None
        where = gateway_places.listen(settings, fleet_host)
        host = gateway_places.host(settings, where, named)
        leaf = certificates.inspect(chain)
        if not certificates.covers(leaf, host):
            cycle.report.warn(
                *gateway_certificate.shown_findings(leaf, "TLS_CERT", host, cycle.seen.now)
            )
        return GatewayPair(chain, keyring.held_key())

    def _given(
        self, cycle: Cycle, fleet_host: str, named: str
    ) -> tuple[GatewayPair | None, tuple[Finding, ...]]:
        """Return the pair of the context, if there is one, with its warnings. Raises AgentError."""
        settings = cycle.seen.settings
        if settings.gateway_cert is None or settings.gateway_key is None:
            return None, ()
        where = gateway_places.listen(settings, fleet_host)
        host = gateway_places.host(settings, where, named)
        pair, found = gateway_certificate.check_gateway_pair(
            settings.gateway_cert, settings.gateway_key, host, cycle.seen.now
        )
        for finding in found:
            if finding.severity is Severity.ERROR:
                raise errors.of(finding)
        return pair, found


def clear(paths: Paths) -> None:
    """Remove what the gateway reads, the watched file first; do nothing where there is none."""
    present = [path for path in _files(paths) if path.exists()]
    with files.writing(paths.gateway):
        for path in present:
            path.unlink(missing_ok=True)


def _files(paths: Paths) -> tuple[pathlib.Path, pathlib.Path]:
    return paths.gateway / "gateway.json", paths.gateway / "ca.crt"


def _taken(listen: Address) -> str:
    """Return why nobody can listen there now; empty where that works."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((listen.host, listen.port))
        except OSError as error:
            if error.errno not in _BOUND:
                return f"cannot be listened on: {error.strerror}"
            return {
                errno.EADDRINUSE: "is taken by another process",
                errno.EADDRNOTAVAIL: "is no address of this VM",
                errno.EACCES: "has a port below 1024, which HAProxy may not have",
            }[error.errno]
    return ""


def _group() -> int | None:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(GROUP).gr_gid
    return None
