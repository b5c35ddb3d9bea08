"""The AppIo that a VM offers to a SuperExec VM (FLOWER_APPIO_LISTEN).

A SuperLink's AppIo uses the SuperLink's certificate. A SuperNode has none, and the key of the
SuperLink's CA never leaves the SuperLink: a SuperNode's agent has a separate CA for this API, below
``tls/appio``, and publishes it. It publishes the offer after the AppIo has answered.
"""

import dataclasses

from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Transport
from flower_agent.config.settings import Settings
from flower_agent.cycle import Cycle
from flower_agent.flower.command_line import Endpoint
from flower_agent.flower.container_spec import LOOPBACK
from flower_agent.flower.health import ALPN_GRPC, ALPN_HTTP, Prober
from flower_agent.host import machine, network
from flower_agent.model.address import Address, is_any
from flower_agent.model.status import Mark
from flower_agent.tls import certificates, trust

TIMEOUT_S = 3.0


def wanted(cycle: Cycle, offered: Endpoint) -> trust.CertificateSpec | None:
    """Return the certificate that a SuperNode's AppIo should have; None without TLS."""
    if not offered.tls:
        return None
    name = named(cycle, offered.listen).host
    hosts = trust.hosts(published=name, listen=name, more=cycle.seen.settings.tls_sans)
    defer = _defers(cycle, offered.listen.port)
    return trust.CertificateSpec(
        source=trust.CertificateSource.OWN, hosts=hosts, renew=cycle.seen.renew, defer=defer
    )


def check(cycle: Cycle, prober: Prober, offered: Endpoint, ca_pem: str, name: str) -> None:
    """Publish the AppIo's address after it has answered, and note its connections.

    With TLS its certificate must chain to `ca_pem` and contain `name`. Raises AgentError
    ``endpoint.…``.
    """
    if offered.tls:
        alpn = ALPN_GRPC if offered.transport is Transport.GRPC else ALPN_HTTP
        prober.probe_tls(offered.dial, ca_pem, server_hostname=name, alpn=alpn, timeout_s=TIMEOUT_S)
    else:
        prober.probe_tcp(offered.dial, TIMEOUT_S)
    where = named(cycle, offered.listen)
    cycle.report.published = dataclasses.replace(cycle.report.published, appio=where)
    cycle.report.set_condition(
        "appio", Mark.OK, f"AppIo answers at {where} with{'' if offered.tls else 'out'} TLS"
    )
    held = sorted(set(_attached(offered.listen.port)))
    mark = Mark.OK if held else Mark.WAITING
    cycle.report.set_condition(
        "superexec",
        mark,
        f"connected from {', '.join(held)}" if held else "no SuperExec connected yet",
    )


def check_supernode(cycle: Cycle, prober: Prober, offered: Endpoint) -> None:
    """Do `check` with the SuperNode's own CA, and publish that CA."""
    ca_pem = cycle.seen.keyring.appio.held_ca() if offered.tls else ""
    check(cycle, prober, offered, ca_pem, LOOPBACK)
    if ca_pem:
        cycle.report.published = dataclasses.replace(cycle.report.published, appio_ca_pem=ca_pem)
        shown = certificates.format_fingerprint(certificates.fingerprint(ca_pem))
        half = len(shown) // 2
        cycle.report.set_condition("appio_ca", Mark.OK, f"{shown[: half + 1]} {shown[half + 1 :]}")


def named(cycle: Cycle, listen: Address) -> Address:
    """Return the address for a SuperExec VM; `listen` may mean every address."""
    if not is_any(listen.host):
        return listen
    facts = cycle.seen.host
    own = network.fleet_address(
        None, facts.interfaces, facts.default_interface, cycle.seen.variables
    )
    return Address(own, listen.port)


def can_have_tls(settings: Settings) -> bool:
    """Return whether a SuperExec VM and its AppIo use TLS."""
    return settings.tls and flower_versions.band(settings.version).appio_can_have_tls


def _defers(cycle: Cycle, port: int) -> bool:
    """Return whether a due renewal waits, at most until 7 days before the end.

    A running app has its own connection besides the SuperExec's.
    """
    try:
        leaf = certificates.inspect(cycle.seen.keyring.appio.held_chain())
    except ValueError:
        return False
    return cycle.seen.now < certificates.renew_by(leaf) and len(_attached(port)) > 1


def _attached(port: int) -> tuple[str, ...]:
    return network.accepted(machine.read_sockets(ports={port}), port)
