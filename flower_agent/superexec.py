"""A lone SuperExec's duty: it attaches to an AppIo elsewhere; attached is a connection seen."""

from . import flower, roles, trust
from .arguments import Trust
from .connections import Connections
from .containers import Part
from .errors import AgentError
from .health import Prober
from .life import Phase
from .parsers import SYSTEM, Plugin
from .settings import Settings
from .status import Mark
from .turn import Prepared, Running, Turn

TIMEOUT_S = 3.0


class SuperExec:
    """What a VM with one SuperExec does beside its container."""

    def __init__(self, prober: Prober, connections: Connections) -> None:
        self._prober = prober
        self._connections = connections

    def prepare(self, turn: Turn) -> Prepared:
        """Return the CA that it trusts, where the AppIo can have TLS."""
        settings = turn.settings
        whom = trust_of(settings)
        if whom is Trust.CA and settings.tls_ca_cert:
            wanted = trust.Wanted(source=trust.Source.TRUSTED, ca_pem=settings.tls_ca_cert)
        else:
            wanted = trust.Wanted(source=trust.Source.OFF)
        return Prepared(trust=wanted, site={"trust": whom})

    def may_start(self, turn: Turn) -> None:
        """Raise AgentError ``endpoint.…`` while nothing listens where it attaches."""
        if turn.settings.appio_address is not None:
            self._prober.probe_tcp(turn.settings.appio_address, TIMEOUT_S)

    def check(self, turn: Turn, running: Running) -> None:  # noqa: ARG002  # a Duty's shape
        """Raise AgentError while it is not attached."""
        settings = turn.settings
        self._prober.probe_serving(roles.health(settings, Part.SUPEREXEC), TIMEOUT_S)
        turn.note("health", Mark.OK, "gRPC health service answers SERVING")
        turn.phase = Phase.PEER
        attach = settings.appio_address
        if attach is None or not self._connections.held(attach, now=turn.monotonic):
            raise AgentError(
                "superexec.detached", f"no connection to {attach} is established", retryable=True
            )
        turn.note("peer", Mark.OK, f"attached to {attach}")


def trust_of(settings: Settings) -> Trust:
    """Return whom it believes: only a SuperLink's AppIo of 1.37 and later always has TLS."""
    shares = flower.band(settings.version).appio_shares_tls
    if settings.tls and shares and settings.superexec_plugin is Plugin.SERVERAPP:
        return Trust.SYSTEM if settings.tls_ca_cert in (None, SYSTEM) else Trust.CA
    return Trust.INSECURE
