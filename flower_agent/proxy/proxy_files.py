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
from flower_agent.model.secret import Secret
from flower_agent.proxy import haproxy_config
from flower_agent.proxy.haproxy_config import ProxySpec

GROUP = "flower-proxy"
"""Of the proxy's user (``flower-agent.sysusers``); where it does not exist, root's."""

MODE, FOLDER_MODE = 0o640, 0o750
MAX_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """What the proxy shows, and whom it believes."""

    chain_pem: str
    """The certificate that nodes see, and its intermediates."""

    key_pem: Secret

    superlink_ca_pem: str
    """The CA of the SuperLink's own certificate."""


class ProxyFiles:
    """One directory of such files."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self.config = directory / "haproxy.cfg"
        self._certificate = directory / "fleet.pem"
        self._ca = directory / "superlink-ca.crt"

    def write(self, spec: ProxySpec, shown: Shown | None) -> bool:
        """Make the files say `spec`, with `shown` where there is TLS; return whether any changed.

        `spec` comes without files and digest: they are added here. Raises AgentError
        ``state.unwritable``.
        """
        wanted: dict[pathlib.Path, bytes] = {}
        if shown is not None:
            whole = shown.chain_pem.rstrip() + "\n" + shown.key_pem.reveal()
            wanted = {
                self._certificate: whole.encode(),
                self._ca: shown.superlink_ca_pem.encode(),
            }
            spec = dataclasses.replace(
                spec,
                certificate_file=str(self._certificate),
                ca_file=str(self._ca),
                digest=hashlib.sha256(b"\0".join(wanted.values())).hexdigest(),
            )
        wanted[self.config] = haproxy_config.config(spec).encode()
        changed = [path for path, data in wanted.items() if files.read(path, MAX_BYTES) != data]
        if not changed:
            return False
        group = _group()
        files.directory(self._directory, FOLDER_MODE, group=group, durable=False)
        files.sweep(self._directory)
        for path in (*(p for p in changed if p != self.config), self.config):
            files.write_atomic(path, wanted[path], MODE, group=group, durable=False)
        return True

    def clear(self) -> bool:
        """Remove the files, the watched one first; return whether there was one."""
        if not self.config.exists():
            return False
        with files.writing(self._directory):
            for path in (self.config, self._certificate, self._ca):
                path.unlink(missing_ok=True)
        return True


def _group() -> int | None:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(GROUP).gr_gid
    return None
