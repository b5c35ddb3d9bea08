"""The certificate files under ``/var/lib/flower-agent/tls``.

``ca/`` (0700, never mounted) contains the agent's CA: key and certificate in one file, so that a
crash cannot leave half of it. Containers mount ``ca.crt``, ``server.pem`` and ``server.key`` as
single files; only Flower's group 49999 can read the key.
"""

import contextlib
import datetime
import hashlib
import pathlib

from flower_agent import files
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.tls import certificates, trust
from flower_agent.tls import own_ca as tls_own_ca

MAX_BYTES = 1 << 20


class Keyring:
    """The files in one ``tls/`` directory."""

    def __init__(
        self,
        directory: pathlib.Path,
        subject: str = "flower-agent SuperLink",
        *,
        own_ca: pathlib.Path | None = None,
    ) -> None:
        self._directory = directory
        self._subject = subject
        self.ca = directory / "ca.crt"
        self.chain = directory / "server.pem"
        self.key = directory / "server.key"
        self._own_ca = own_ca or directory / "ca" / "ca.pem"

    @property
    def appio(self) -> "Keyring":
        """The files of a SuperNode's AppIo, with a separate CA."""
        return Keyring(self._directory / "appio", "flower-agent SuperNode")

    @property
    def loopback(self) -> "Keyring":
        """The files of a SuperLink behind HAProxy, of the same CA, whatever HAProxy shows."""
        return Keyring(self._directory / "loopback", own_ca=self._own_ca)

    def held(self, wanted: trust.CertificateSpec, now: datetime.datetime) -> trust.HeldCertificates:
        """Return the present files; an unreadable leaf counts as absent, a CA never does."""
        own, ca_fault = self._load_own_ca()
        ca_pem, chain_pem, key = (self._text(p) for p in (self.ca, self.chain, self.key))
        leaf = None
        with contextlib.suppress(
            ValueError
        ):  # an unreadable leaf counts as absent: the agent issues a new one
            leaf = certificates.inspect(chain_pem) if chain_pem else None
        fault = ""
        if own and leaf:
            pair = tls_own_ca.Pair(chain_pem, Secret(key))
            fault = tls_own_ca.leaf_fault(pair, own, wanted.hosts, now)
        return trust.HeldCertificates(
            own_ca=certificates.inspect(own.certificate_pem) if own else None,
            own_ca_pem=own.certificate_pem if own else "",
            own_ca_fault=ca_fault,
            ca_pem=ca_pem,
            ca_deleted=not self.ca.exists(),
            chain_pem=chain_pem,
            key=Secret(key) if key else None,
            leaf=leaf,
            leaf_fault=fault,
        )

    def held_ca(self) -> str:
        """Return the PEM of the CA that containers mount; empty when there is none."""
        return self._text(self.ca)

    def held_fingerprint(self) -> str | None:
        """Return the SHA-256 of `held_ca`; None when there is none."""
        with contextlib.suppress(ValueError):
            return certificates.fingerprint(self.held_ca())
        return None

    def held_chain(self) -> str:
        """Return the PEM of the server's certificate; empty when there is none."""
        return self._text(self.chain)

    def held_key(self) -> Secret:
        """Return the PEM of the server's private key; empty when there is none."""
        return Secret(self._text(self.key))

    def has_own_ca(self) -> bool:
        """Return whether the agent has its own usable CA."""
        return self._load_own_ca()[0] is not None

    def own_fingerprint(self) -> str | None:
        """Return the SHA-256 of the agent's own CA; None where it has none."""
        own, _ = self._load_own_ca()
        return certificates.fingerprint(own.certificate_pem) if own is not None else None

    def digests(self) -> dict[str, str]:
        """Return path and hex SHA-256 of each existing file that containers mount."""
        found = (
            (str(path), files.read(path, MAX_BYTES)) for path in (self.ca, self.chain, self.key)
        )
        return {path: hashlib.sha256(data).hexdigest() for path, data in found if data is not None}

    def apply(
        self, step: trust.CertificateStep, wanted: trust.CertificateSpec, now: datetime.datetime
    ) -> None:
        """Do one step of `trust.steps`; first remove temporary files of a killed agent."""
        files.directory(self._directory, 0o755)
        files.sweep(self._directory)
        match step.action:
            case trust.CertificateAction.MAKE_CA:
                pair = tls_own_ca.make_ca(now)
                files.directory(self._own_ca.parent, 0o700)
                files.sweep(self._own_ca.parent)
                combined = pair.key.reveal().rstrip() + "\n" + pair.certificate_pem
                files.write_atomic(self._own_ca, combined.encode(), 0o600)
            case trust.CertificateAction.ISSUE:
                own = self._own_pair()
                leaf = tls_own_ca.make_leaf(own, wanted.hosts, now, self._subject)
                self._write(own.certificate_pem, leaf.certificate_pem, leaf.key)
            case trust.CertificateAction.WRITE:
                self._write(wanted.ca_pem, wanted.chain_pem, wanted.key)
            case trust.CertificateAction.WRITE_CA:
                self._write(self._own_pair().certificate_pem, "", None)

    def _write(self, ca_pem: str, chain_pem: str, key: Secret | None) -> None:
        files.write_atomic(self.ca, ca_pem.encode(), 0o444)
        # The key before the chain: a crash between them shows as a pair that does not fit.
        if chain_pem and key is not None:
            files.write_atomic(self.key, key.reveal().encode(), 0o440, group=FLOWER_UID)
            files.write_atomic(self.chain, chain_pem.encode(), 0o444)

    def _own_pair(self) -> tls_own_ca.Pair:
        """Return the CA. Raises AgentError ``tls.ca_lost``."""
        own, fault = self._load_own_ca()
        if own is None:
            raise AgentError("tls.ca_lost", f"the agent's CA cannot be used: {fault}")
        return own

    def _load_own_ca(self) -> tuple[tls_own_ca.Pair | None, str]:
        """Return the CA, or None with the reason where a file is there that is not one."""
        combined = files.read(self._own_ca, MAX_BYTES)
        if combined is None:
            return None, ""
        try:
            key, begin, rest = combined.decode("ascii").partition("-----BEGIN CERTIFICATE-----")
            pair = tls_own_ca.Pair(begin + rest, Secret(key))
            tls_own_ca.check_ca_pair(pair)
        except (AgentError, ValueError) as error:
            reason = error.finding.message if isinstance(error, AgentError) else "not a PEM file"
            return None, f"{self._own_ca}: {reason}"
        return pair, ""

    def _text(self, path: pathlib.Path) -> str:
        data = files.read(path, MAX_BYTES)
        return data.decode("utf-8", "replace") if data is not None else ""
