"""A certificate that lies in ``/etc/flower-agent/tls``, where certbot's hook or a person puts it.

The names are certbot's: ``fullchain.pem`` and ``privkey.pem``, and ``root.pem`` for a CA that is
not in the system's store. Several files are never renewed in one instant, so what changed counts
when it has stayed the same for a moment.
"""

import pathlib

from flower_agent import files
from flower_agent.config import pem
from flower_agent.errors import AgentError

from .given import Material, Names

MAX_BYTES = 1 << 20
SETTLE_S = 2.0
CHAIN, KEY, ROOT = "fullchain.pem", "privkey.pem", "root.pem"


class CertificateFiles:
    """The files in one directory, looked at each turn."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self._seen: tuple[bytes | None, ...] | None = None
        self._used: tuple[bytes | None, ...] | None = None
        self._since = 0.0

    @property
    def settling(self) -> bool:
        """Tell whether a change is there that does not count yet."""
        return self._used != self._seen

    def read(self, now: float, *, at_once: bool = False) -> Material | None:
        """Return what counts at `now` (monotonic seconds); None without chain and key.

        Raises AgentError ``setting.missing`` for half a pair, ``setting.invalid`` for what is no
        PEM, and ``state.…`` for what cannot be read.
        """
        found = tuple(files.read(self.directory / name, MAX_BYTES) for name in (CHAIN, KEY, ROOT))
        if found != self._seen:
            self._seen, self._since = found, now
        if self._used is None or at_once or now - self._since >= SETTLE_S:
            self._used = found
        return self._material(*self._used)

    def _material(
        self, chain: bytes | None, key: bytes | None, root: bytes | None
    ) -> Material | None:
        if chain is None and key is None:
            return None
        if chain is None or key is None:
            there, lacks = (KEY, CHAIN) if chain is None else (CHAIN, KEY)
            message = f"{self.directory} has {there} and no {lacks}"
            raise AgentError("setting.missing", message, f"Put both into {self.directory}.")
        names = Names(*(str(self.directory / name) for name in (CHAIN, KEY, ROOT)))
        try:
            return Material(
                certificate_pem=pem.certificates(_text(chain)),
                key=pem.tls_key(_text(key)),
                ca_pem=pem.certificates(_text(root)) if root is not None else None,
                names=names,
                watched=True,
            )
        except ValueError as error:
            message = f"a file in {self.directory} cannot be used: {error}"
            raise AgentError("setting.invalid", message) from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
