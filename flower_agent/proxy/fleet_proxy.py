"""The HAProxy in front of this VM's SuperLink: its files, and whether calls come through.

HAProxy alone passes a TLS handshake, so a handshake proves nothing of the SuperLink behind. One
call of the Fleet API that no version has goes through: what Flower answers to it (404) HAProxy
itself never answers at such a path. The agent starts no HAProxy: units of the package do.
"""

import contextlib
import datetime
import http
import http.client
import shutil
import socket
from collections.abc import Callable, Collection

from flower_agent.config import flower_versions
from flower_agent.flower import health
from flower_agent.flower.command_line import Endpoints
from flower_agent.flower.health import Prober
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError, EndpointRefusedError
from flower_agent.paths import Paths
from flower_agent.proxy import gateway_frontend, haproxy_config
from flower_agent.proxy.haproxy_config import ProxySpec
from flower_agent.proxy.proxy_files import GatewayShown, ProxyFiles, Shown
from flower_agent.tls import certificates, trust
from flower_agent.tls.store import Keyring

PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin:/sbin"
"""Where a distribution has ``haproxy``."""

AWAY = {http.HTTPStatus.BAD_GATEWAY, http.HTTPStatus.SERVICE_UNAVAILABLE}
AWAY |= {http.HTTPStatus.GATEWAY_TIMEOUT}
"""What HAProxy answers where the SuperLink does not."""

INSTALL = (
    "apt-get install haproxy (Debian, Ubuntu), dnf install haproxy (EL), zypper install haproxy "
    "(openSUSE). It is started by itself."
)


class FleetProxy:
    """The proxy of one SuperLink VM."""

    def __init__(self, paths: Paths, prober: Prober, *, places: str = PLACES) -> None:
        self._files = ProxyFiles(paths.proxy)
        self._prober = prober
        self._places = places

    def require(self, fleet: Address) -> None:
        """Raise AgentError ``proxy.missing`` where there is no HAProxy on this VM."""
        if shutil.which("haproxy", path=self._places) is None:
            message = f"haproxy is not installed, and {fleet} is served through it"
            raise AgentError("proxy.missing", message, INSTALL, retryable=True)

    def keep(
        self,
        places: Endpoints,
        keyring: Keyring,
        *,
        offers_appio: bool,
        gateway: GatewayShown | None = None,
    ) -> None:
        """Write what HAProxy reads, where it differs.

        Raises AgentError ``proxy.missing`` where there is no HAProxy, before anything is written:
        once it is installed, the first file starts it.
        """
        self.require(places.fleet.listen)
        spec = ProxySpec(
            fleet=places.fleet.listen,
            superlink=places.control.dial,
            runtime=places.appio.listen if offers_appio else None,
        )
        shown = None
        if places.fleet.tls:
            chain, ca = keyring.held_chain(), keyring.loopback.held_ca()
            shown = Shown(chain, keyring.held_key(), ca)
        self._files.write(spec, shown, gateway)

    def keep_gateway(self, gateway: GatewayShown) -> None:
        """Let HAProxy serve the gateway alone: the SuperLink serves its Fleet API itself.

        Raises AgentError ``proxy.missing`` like `keep`.
        """
        self.require(gateway.listen)
        self._files.write(None, None, gateway)

    def serves_gateway(self, listen: Address) -> bool:
        """Return whether HAProxy was told to serve a gateway there."""
        return gateway_frontend.binds(self._files.text(), listen)

    def check(
        self, address: Address, ca_pem: str | None, *, server_hostname: str, timeout_s: float
    ) -> None:
        """Raise AgentError unless the SuperLink answers through HAProxy at `address`.

        ``proxy.down`` where nothing listens, ``proxy.no_answer`` where HAProxy alone answers.
        """
        try:
            status = self._ask(address, ca_pem, server_hostname, timeout_s)
        except EndpointRefusedError as error:
            message = f"HAProxy does not listen at {address}"
            raise AgentError("proxy.down", message, retryable=True) from error
        except (OSError, http.client.HTTPException) as error:
            words = str(error) or type(error).__name__
            raise _no_answer(address, words) from error
        if status in AWAY:
            raise _no_answer(address, f"HTTP {status}")

    def _ask(
        self, address: Address, ca_pem: str | None, server_hostname: str, timeout_s: float
    ) -> int:
        with self._dial(address, ca_pem, server_hostname, timeout_s) as connected:
            connected.settimeout(timeout_s)
            connection = http.client.HTTPConnection(address.host, address.port)
            connection.sock = connected
            headers = {"Content-Type": "application/protobuf", "Connection": "close"}
            connection.request("POST", flower_versions.PROBE_PATH, b"", headers)
            with connection.getresponse() as response:
                return response.status

    def _dial(
        self, address: Address, ca_pem: str | None, server_hostname: str, timeout_s: float
    ) -> contextlib.AbstractContextManager[socket.socket]:
        if ca_pem is None:
            return health.connect(address, timeout_s)
        return self._prober.dial_tls(
            address,
            ca_pem,
            timeout_s=timeout_s,
            server_hostname=server_hostname,
            alpn=("http/1.1",),
        )


def certificate(
    keyring: Keyring, hosts: Collection[str], now: datetime.datetime, active: Callable[[], bool]
) -> trust.CertificateSpec:
    """Return the certificate that a SuperLink shows to HAProxy, to apps and to commands.

    It is of the agent's CA, also where HAProxy shows a given one, and names `hosts`. A renewal
    restarts the SuperLink, so it waits while a run is `active`, at latest to 7 days before the end.
    """
    held, defer = keyring.loopback.held_chain(), False
    with contextlib.suppress(ValueError):  # none yet, or damaged: it is made
        leaf = certificates.inspect(held)
        due = certificates.renew_at(leaf) <= now < certificates.renew_by(leaf)
        defer = due and active()
    named = trust.hosts(published=haproxy_config.NAME, listen=haproxy_config.NAME, more=hosts)
    return trust.CertificateSpec(source=trust.CertificateSource.OWN, hosts=named, defer=defer)


def _no_answer(address: Address, words: str) -> AgentError:
    message = f"HAProxy answers at {address}, and the SuperLink behind it does not ({words})"
    return AgentError("proxy.no_answer", message, retryable=True)
