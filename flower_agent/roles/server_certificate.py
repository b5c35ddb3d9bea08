"""Which certificate a SuperLink uses: from the context, from ``/etc/flower-agent/tls``, or its own.

The context has priority. A renewed pair in the files is used when no run is active, at the latest
seven days before the previous one ends, or at once after ``flower-agent tls renew``. A refused pair
is a warning while the previous one is valid.
"""

import pathlib
import ssl
from collections.abc import Callable, Collection
from datetime import datetime

from flower_agent.config.settings import Settings
from flower_agent.cycle import Cycle
from flower_agent.flower.container_spec import LOOPBACK
from flower_agent.model import errors, pem
from flower_agent.model.errors import AgentError, Finding, Severity, warning
from flower_agent.model.status import Mark
from flower_agent.tls import certificates, provided, trust
from flower_agent.tls.provided import CONTEXT, SETTLE_S, CertificateFiles, Checked, Material

Active = Callable[[], bool]
"""Returns whether a run is active; asks the Control API."""


class ServerCertificate:
    """The certificate of one SuperLink."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._checked: tuple[object, Checked] | None = None

    def wanted(
        self, cycle: Cycle, own_hosts: frozenset[str], dialled: Collection[str], active: Active
    ) -> trust.CertificateSpec:
        """Return the wanted certificates; the agent's own needs `own_hosts`, others need `dialled`.

        Raises AgentError ``tls.…`` or ``setting.…`` for a refused certificate.
        """
        if not cycle.seen.settings.tls:
            return trust.CertificateSpec(source=trust.CertificateSource.OFF)
        try:
            wanted = self._given(cycle, tuple(sorted(dialled)), active)
        except AgentError as error:
            # A bad renewal in the files is only a warning while the old pair is still valid.
            if from_context(cycle.seen.settings) or not self._serves(cycle, dialled):
                raise
            found = error.finding
            refused = f"the agent refuses the files in {self._files.directory}: {found.message}"
            kept = f"{refused}; the previous certificate stays in use"
            cycle.report.warn(warning(found.code, kept, found.hint))
            return trust.CertificateSpec(source=trust.CertificateSource.GIVEN, defer=True)
        if self._files.settling:
            cycle.look_again_in(SETTLE_S)
        return wanted or trust.CertificateSpec(
            source=trust.CertificateSource.OWN,
            hosts=own_hosts,
            renew=cycle.seen.renew,
            defer=_due(cycle) and self._waits(cycle, active),
        )

    def _given(
        self, cycle: Cycle, hosts: tuple[str, ...], active: Active
    ) -> trust.CertificateSpec | None:
        settings = cycle.seen.settings
        material = from_context(settings)
        if material is None:
            material = self._files.read(cycle.seen.monotonic, at_once=cycle.seen.renew)
        if material is None:
            if lacks := without_certificate(settings):
                raise errors.of(lacks)
            return None
        checked = self._check(material, settings, hosts, cycle.seen.now)
        cycle.report.warn(*[f for f in checked.findings if f.severity is Severity.WARNING])
        if checked.given is None:
            raise refusal(checked.findings)
        changed = cycle.seen.keyring.held_chain() not in ("", checked.given.chain_pem)
        may_wait = material.watched and not cycle.seen.renew and self._serves(cycle, hosts)
        return trust.CertificateSpec(
            source=trust.CertificateSource.GIVEN,
            ca_pem=checked.given.ca_pem,
            chain_pem=checked.given.chain_pem,
            key=checked.given.key_pem,
            defer=changed and may_wait and self._waits(cycle, active),
        )

    def _check(
        self, material: Material, settings: Settings, hosts: tuple[str, ...], now: datetime
    ) -> Checked:
        """Check the material, once an hour unless it changes."""
        key = (material, settings.tls_ca_cert, hosts, now.date(), now.hour)
        if self._checked is None or self._checked[0] != key:
            self._checked = (key, check(material, settings, hosts, now))
        return self._checked[1]

    def _serves(self, cycle: Cycle, hosts: Collection[str]) -> bool:
        """Return whether the present certificate is valid for `hosts`."""
        try:
            leaf = certificates.inspect(cycle.seen.keyring.held_chain())
        except ValueError:
            return False
        named = all(certificates.covers(leaf, host) for host in hosts)
        return named and not certificates.date_fault(leaf, cycle.seen.now)

    def _waits(self, cycle: Cycle, active: Active) -> bool:
        """Return whether a new certificate waits for a run, at most until 7 days before the end."""
        try:
            leaf = certificates.inspect(cycle.seen.keyring.held_chain())
        except ValueError:
            return False
        if cycle.seen.now >= certificates.renew_by(leaf) or not active():
            return False
        cycle.report.set_condition(
            "renewal", Mark.WAITING, "due; waits for the end of the active run"
        )
        return True


def from_context(settings: Settings) -> Material | None:
    """Return the pair of TLS_CERT and TLS_KEY, if set."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Material(certificate_pem=settings.tls_cert, key=settings.tls_key, names=CONTEXT)


def without_certificate(settings: Settings) -> Finding | None:
    """Return the error of a SuperLink with TLS_CA_CERT=system and without a certificate."""
    if settings.tls_ca_cert != pem.SYSTEM or not settings.tls:
        return None
    message = "TLS_CA_CERT is 'system' on a SuperLink without TLS_CERT and TLS_KEY"
    hint = "Set TLS_CERT and TLS_KEY of a public CA, or leave TLS_CA_CERT empty."
    return Finding("setting.missing", message, hint)


def check(material: Material, settings: Settings, hosts: Collection[str], now: datetime) -> Checked:
    """Check the material for `hosts`; TLS_CA_CERT overrides a root file."""
    told = settings.tls_ca_cert if settings.tls_ca_cert != pem.SYSTEM else None
    private = told or material.ca_pem
    roots = None if private else _system_roots()
    checked = provided.check_provided(material, private, hosts, now, system_roots=roots)
    if checked.given is None or certificates.covers(checked.given.certificate, LOOPBACK):
        return checked
    message = f"the certificate in {material.names.certificate} does not contain {LOOPBACK}"
    return Checked(checked.given, (*checked.findings, warning("tls.loopback", message)))


def refusal(findings: tuple[Finding, ...]) -> AgentError:
    """Return the error of refused material: the first finding, with the messages of the others."""
    wrong = [f for f in findings if f.severity is Severity.ERROR]
    first, more = wrong[0], len(wrong) - 1
    rest = f" ({'; '.join(f.message for f in wrong[1:])})" if more else ""
    return errors.of(first).reworded(f"{first.message}{rest}")


def _due(cycle: Cycle) -> bool:
    """Return whether two thirds of the own certificate's lifetime have passed."""
    try:
        leaf = certificates.inspect(cycle.seen.keyring.held_chain())
    except ValueError:
        return False
    return cycle.seen.now >= certificates.renew_at(leaf)


def _system_roots() -> str | None:
    where = ssl.get_default_verify_paths().cafile
    candidates = [*([where] if where else []), "/etc/ssl/certs/ca-certificates.crt"]
    for path in candidates:
        if pathlib.Path(path).is_file():
            return pathlib.Path(path).read_text("utf-8", "replace")
    return None
