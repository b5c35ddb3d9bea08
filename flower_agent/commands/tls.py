"""``flower-agent tls show``, ``renew`` and ``trust``."""

import datetime

from flower_agent.agent import operator_requests
from flower_agent.agent.operator_requests import RequestFiles
from flower_agent.commands import recording
from flower_agent.model.errors import AgentError
from flower_agent.model.record import Entry, Event
from flower_agent.paths import Paths
from flower_agent.state_file import StateFile
from flower_agent.tls import certificates
from flower_agent.tls.certificates import Certificate
from flower_agent.tls.provided import CHAIN
from flower_agent.tls.store import Keyring
from flower_agent.tls.trust import OWN_ISSUER


def show(paths: Paths) -> int:
    """Print the certificates in use and their ends; return 1 when there are none."""
    keyring, now = Keyring(paths.tls), datetime.datetime.now(datetime.UTC)
    pin = StateFile(paths.record).recall(None).ca_pin
    rows = [
        ("CA", _read(keyring.held_ca())),
        ("certificate", _read(keyring.held_chain())),
        ("to HAProxy", _read(keyring.loopback.held_chain())),
        ("AppIo's CA", _read(keyring.appio.held_ca())),
        ("AppIo", _read(keyring.appio.held_chain())),
    ]
    for name, seen in rows:
        if seen is not None:
            print("\n".join(_lines(name, seen, now)))
    if pin:
        print(f"pinned       {certificates.format_fingerprint(pin)}")
    if not any(seen for _, seen in rows):
        print("this VM has no certificates")
        return 1
    return 0


def renew(paths: Paths) -> int:
    """Ask for a new leaf of the agent's own CA, or to take over a renewed file at once."""
    keyring = Keyring(paths.tls)
    given = (paths.certificates / CHAIN).exists()
    if not given and not _shows_own(keyring) and not keyring.appio.has_own_ca():
        raise AgentError(
            "tls.not_own", "the agent did not issue this VM's certificate and cannot renew it"
        )
    with recording.attempted(paths, Entry(what=Event.RENEWAL_REQUESTED)):
        RequestFiles(paths.requests).ask_renew()
    made = "the agent issues a new certificate; SuperNodes still trust the CA"
    taken = (
        f"the agent uses the files in {paths.certificates}, unless the context has a certificate"
    )
    print(_followed(paths, taken if given else made))
    return 0


def _shows_own(keyring: Keyring) -> bool:
    """Return whether nodes see a certificate of the agent's CA; HAProxy may show another."""
    try:
        leaf = certificates.inspect(keyring.held_chain())
    except ValueError:
        return keyring.has_own_ca()
    return leaf.issuer.startswith(OWN_ISSUER) and keyring.has_own_ca()


def trust(paths: Paths, fingerprint: str) -> int:
    """Ask to trust another CA than the pinned one, by its fingerprint."""
    with recording.attempted(paths, Entry(what=Event.TRUST_REQUESTED, key=fingerprint)):
        RequestFiles(paths.requests).ask_trust(fingerprint)
    print(_followed(paths, f"the CA {certificates.format_fingerprint(fingerprint)} is trusted"))
    return 0


def _followed(paths: Paths, what: str) -> str:
    when = "now" if operator_requests.tell(paths) else "when the agent starts"
    return f"{what} {when}"


def _read(pem: str) -> Certificate | None:
    try:
        return certificates.inspect(pem) if pem else None
    except ValueError:
        return None


def _lines(name: str, seen: Certificate, now: datetime.datetime) -> tuple[str, ...]:
    hosts = ", ".join(sorted(seen.names | seen.addresses))
    return (
        f"{name:<12} {seen.subject}",
        *((f"  for        {hosts}",) if hosts else ()),
        f"  until      {seen.not_after:%Y-%m-%d}, {(seen.not_after - now).days} days left",
        f"  SHA-256    {certificates.format_fingerprint(seen.fingerprint)}",
    )
