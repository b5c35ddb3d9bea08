"""The files that HAProxy reads, below ``/run/flower-agent/proxy``.

``flower-proxy.path`` of the package watches ``haproxy.cfg``: it starts HAProxy, has it read all
anew, or stops it where the file is gone. So that file is written last, and only when something
differs. The private key is readable for the group of the proxy's user and for nobody else.
"""

import contextlib
import dataclasses
import grp
import hashlib
import pathlib

from flower_agent import files
from flower_agent.model.address import Address
from flower_agent.model.secret import Secret
from flower_agent.proxy import gateway_frontend, haproxy_config
from flower_agent.proxy.gateway_frontend import GatewayFrontend
from flower_agent.proxy.haproxy_config import ProxySpec

GROUP = "flower-proxy"
"""Of the proxy's user (``flower-agent.sysusers``); where it does not exist, root's."""

MODE, FOLDER_MODE = 0o640, 0o750
MAX_BYTES = 1 << 20

GATEWAY_FILE = "gateway.pem"
"""What HAProxy shows people: the gateway's certificate, intermediates and key."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """What the proxy shows, and whom it believes."""

    chain_pem: str
    """The certificate that nodes see, and its intermediates."""

    key_pem: Secret

    superlink_ca_pem: str
    """The CA of the SuperLink's own certificate."""


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayShown:
    """The gateway's frontend: where it listens and what it shows."""

    listen: Address
    chain_pem: str
    key_pem: Secret
    sockets: str = gateway_frontend.SOCKETS
    """Directory of the sockets behind it."""


class ProxyFiles:
    """One directory of such files."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self.config = directory / "haproxy.cfg"
        self._certificate = directory / "fleet.pem"
        self._ca = directory / "superlink-ca.crt"
        self._gateway = directory / GATEWAY_FILE

    def write(
        self, spec: ProxySpec | None, shown: Shown | None, gateway: GatewayShown | None = None
    ) -> bool:
        """Make the files say `spec`, with `shown` where there is TLS; return whether any changed.

        `spec` comes without files and digest: they are added here; None: HAProxy serves the
        `gateway` alone. Raises AgentError ``state.unwritable``.
        """
        wanted: dict[pathlib.Path, bytes] = {}
        if spec is not None and shown is not None:
            wanted = {
                self._certificate: _joined(shown.chain_pem, shown.key_pem),
                self._ca: shown.superlink_ca_pem.encode(),
            }
            spec = dataclasses.replace(
                spec,
                certificate_file=str(self._certificate),
                ca_file=str(self._ca),
                digest=hashlib.sha256(b"\0".join(wanted.values())).hexdigest(),
            )
        if gateway is not None:
            wanted[self._gateway] = _joined(gateway.chain_pem, gateway.key_pem)
        wanted[self.config] = self._text(spec, gateway, wanted.get(self._gateway, b"")).encode()
        changed = [path for path, data in wanted.items() if files.read(path, MAX_BYTES) != data]
        if not changed:
            return False
        group = _group()
        files.directory(self._directory, FOLDER_MODE, group=group, durable=False)
        files.sweep(self._directory)
        for path in (*(p for p in changed if p != self.config), self.config):
            files.write_atomic(path, wanted[path], MODE, group=group, durable=False)
        if gateway is None:
            with files.writing(self._gateway):
                self._gateway.unlink(missing_ok=True)
        return True

    def clear(self, *, but_the_gateway: bool = False) -> bool:
        """Remove the files, the watched one first; return whether there was one.

        With `but_the_gateway` they stay where HAProxy serves nothing but the gateway.
        """
        if not self.config.exists():
            return False
        if but_the_gateway and "\nfrontend fleet\n" not in self.text():
            return False
        with files.writing(self._directory):
            for path in (self.config, self._certificate, self._ca, self._gateway):
                path.unlink(missing_ok=True)
        return True

    def text(self) -> str:
        """Return the present configuration; empty where there is none."""
        return (files.read(self.config, MAX_BYTES) or b"").decode("utf-8", "replace")

    def _text(self, spec: ProxySpec | None, gateway: GatewayShown | None, pem: bytes) -> str:
        if gateway is None:
            if spec is None:
                raise ValueError("want a Fleet or a gateway")
            return haproxy_config.config(spec)
        frontend = GatewayFrontend(
            listen=gateway.listen,
            certificate_file=str(self._gateway),
            digest=hashlib.sha256(pem).hexdigest(),
            sockets=gateway.sockets,
        )
        return gateway_frontend.config(spec, frontend)


def _joined(chain_pem: str, key_pem: Secret) -> bytes:
    """Return certificate and key as HAProxy wants them."""
    return (chain_pem.rstrip() + "\n" + key_pem.reveal()).encode()


def _group() -> int | None:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(GROUP).gr_gid
    return None
