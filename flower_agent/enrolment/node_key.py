"""A SuperNode's key pair: created here, its private half never leaves ``keys/`` (0700).

Flower needs an EC key of a NIST curve in OpenSSH form. The file's name contains the VM's id, so
that a VM with a cloned disk gets its own key. Flower's group 49999 can read the file.
"""

import dataclasses
import hashlib
import pathlib
import re

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flower_agent import files
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret

log = structlog.get_logger()

MAX_BYTES = 1 << 16
GIVEN = "given.key"
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclasses.dataclass(frozen=True, slots=True)
class NodeKey:
    """The key that a SuperNode uses."""

    path: str
    digest: str
    """Hex SHA-256 of the file: another key replaces the container."""

    public: str
    """OpenSSH form without comment, as it is published."""


class NodeKeys:
    """The files in one ``keys/`` directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._known: tuple[bytes, str] | None = None

    def path(self, vmid: str | None) -> pathlib.Path:
        """Return the file of a VM's own key."""
        if vmid is None:
            return self._directory / "node.key"
        return self._directory / f"node-{re.sub('[^A-Za-z0-9]', '_', vmid)}.key"

    @property
    def given(self) -> pathlib.Path:
        """The file of the key in FLOWER_NODE_PRIVATE_KEY."""
        return self._directory / GIVEN

    def own(self, vmid: str | None) -> NodeKey:
        """Return the key of this VM; create it if it is missing or damaged.

        A key from the time before the VM's id was known stays in use. Raises AgentError
        ``state.…``.
        """
        path = self.path(vmid)
        nameless = self.path(None)
        if vmid is not None and not path.exists() and nameless.exists():
            self._write(path, files.read(nameless, MAX_BYTES) or b"")
            nameless.unlink()
        found, lost = self.held(vmid), files.read(path, MAX_BYTES)
        if found is not None:
            return found
        made = self.renew(vmid)
        if lost is not None:  # the SuperLink refuses the new key: both sides show the reason
            self._write(self.damaged(vmid), lost)
        return made

    def damaged(self, vmid: str | None) -> pathlib.Path:
        """Return the path of the copy of a VM's damaged key."""
        path = self.path(vmid)
        return path.with_name(f"{path.name}.damaged")

    def held(self, vmid: str | None) -> NodeKey | None:
        """Return the key of this VM; None if it is missing or damaged."""
        path = self.path(vmid)
        data = files.read(path, MAX_BYTES)
        if data is None:
            return None
        try:
            return self._described(path, data)
        except ValueError as error:
            log.warning("node_key.damaged", path=str(path), reason=str(error))
            return None

    def renew(self, vmid: str | None) -> NodeKey:
        """Create a new key for this VM; remove the keys of other VMs."""
        made = ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        path = self.path(vmid)
        self._write(path, made)
        for other in self._directory.glob("node*.key*"):
            if other != path:
                other.unlink(missing_ok=True)
        log.info("node_key.made", path=str(path))
        return self._described(path, made)

    def give(self, private: Secret, *, dry: bool = False) -> NodeKey:
        """Return the key of FLOWER_NODE_PRIVATE_KEY, written to the file that the container mounts.

        Raises AgentError ``enrol.key_invalid`` if it is not an EC key.
        """
        path, data = self.given, private.reveal().encode()
        try:
            found = self._described(path, data)
        except ValueError as error:
            raise AgentError(
                "enrol.key_invalid", f"FLOWER_NODE_PRIVATE_KEY cannot be used: {error}"
            ) from error
        if not dry and files.read(path, MAX_BYTES) != data:
            self._write(path, data)
        return found

    def _write(self, path: pathlib.Path, data: bytes) -> None:
        files.directory(self._directory, 0o700)
        files.sweep(self._directory)
        files.write_atomic(path, data, 0o440, group=FLOWER_UID)

    def _described(self, path: pathlib.Path, data: bytes) -> NodeKey:
        if self._known is None or self._known[0] != data:
            self._known = (data, public_half(data))
        return NodeKey(str(path), hashlib.sha256(data).hexdigest(), self._known[1])


def public_half(private: bytes) -> str:
    """Return the OpenSSH public key of a private one. Raises ValueError if it is not EC."""
    try:
        key = serialization.load_ssh_private_key(private, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("it is not an OpenSSH private key without a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVES):
        raise ValueError("it is not an EC key of a NIST curve")  # noqa: TRY004  # of what it holds
    public = key.public_key()
    return public.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode("ascii")
