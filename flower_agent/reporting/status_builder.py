"""Builds the `Status` from the loop's results."""

import dataclasses
import datetime

from flower_agent import __version__
from flower_agent.config.sources import Intake
from flower_agent.cycle import Report
from flower_agent.docker.containers import Component
from flower_agent.model.errors import Finding, StateFileError, warning
from flower_agent.model.lifecycle import Life
from flower_agent.model.status import Condition, Mark, Status
from flower_agent.onegate.publisher import OneGatePublisher
from flower_agent.reconcile.reconciler import Reconciler

SKEW_S = 5.0
"""A SuperNode's clock may be this much ahead of its SuperLink's; Flower refuses more."""


def build(
    *,
    life: Life,
    intake: Intake,
    report: Report,
    reconciler: Reconciler,
    reporter: OneGatePublisher,
    other_vm: bool,
    name: str,
    now: datetime.datetime,
) -> Status:
    """Return the status as of `now`."""
    good, published = intake.good, report.published
    return Status(
        state=life.state.value,
        since=life.since,
        phase=life.phase.value if life.phase else None,
        phase_since=life.phase_since,
        written_at=now,
        agent_version=__version__,
        name=name,
        role=good.role.value if good else None,
        version=report.version or (str(good.version) if good else None),
        vmid=intake.inputs.vmid if intake.inputs else None,
        error=located(life, intake.inputs.vmid if intake.inputs else None),
        errors=intake.errors,
        warnings=_warnings(intake, report, reporter, other_vm),
        facts=_facts(intake, report, reporter),
        containers=_containers(reconciler),
        endpoint=str(published.endpoint) if published.endpoint else None,
        tls=good.tls if good else None,
        ca_fingerprint=report.ca_fingerprint,
        nodes=published.nodes,
        node_id=published.node_id,
        partition=str(published.partition) if published.partition else None,
        superlink=report.superlink,
        supernodes=report.supernodes,
        commands=report.commands,
    )


def located(life: Life, vmid: str | None) -> Finding | None:
    """Return an error about a file with the VM that has it: OneGate shows it to others."""
    error, cause = life.error, life.cause
    if error is None or cause is None or vmid is None or not cause.is_a(StateFileError):
        return error
    named = f"VM {vmid}: {cause.message}"
    return dataclasses.replace(error, message=error.message.replace(cause.message, named))


def _facts(intake: Intake, report: Report, reporter: OneGatePublisher) -> tuple[Condition, ...]:
    wrong = len(intake.errors)
    context = (
        Condition("context", Mark.BAD, f"{wrong} finding{'s' if wrong != 1 else ''}")
        if wrong
        else Condition("context", Mark.OK, f"VM {intake.inputs.vmid or 'without an id'}")
        if intake.inputs
        else Condition("context", Mark.WAITING, "not read yet")
    )
    return (context, *report.conditions.values(), _onegate(reporter))


def _onegate(reporter: OneGatePublisher) -> Condition:
    if reporter.client is None:
        return Condition("onegate", Mark.OFF, "the context has no token")
    if reporter.trouble:
        return Condition("onegate", Mark.BAD, reporter.trouble.message)
    endpoint, told_at = reporter.client.access.endpoint, reporter.told_at
    return Condition(
        "onegate", Mark.OK, f"{endpoint}, last report {told_at}" if told_at else endpoint
    )


def _warnings(
    intake: Intake,
    report: Report,
    reporter: OneGatePublisher,
    other_vm: bool,  # noqa: FBT001
) -> tuple[Finding, ...]:
    found = [*intake.warnings, *report.warnings]
    if reporter.token_lost:
        found.append(warning("context.token_lost", "the context has no TOKEN, VMID or endpoint"))
    if other_vm:
        found.append(warning("state.other_vm", "another VM created the state"))
    if reporter.overwritten:
        names = ", ".join(reporter.overwritten)
        found.append(warning("onegate.overwritten", f"another VM overwrote {names} at OneGate"))
    skew_s = reporter.client.skew_s if reporter.client else 0.0
    if abs(skew_s) > SKEW_S:
        side = "ahead of" if skew_s > 0 else "behind"
        message = f"this VM's clock is {abs(skew_s):.0f} s {side} OneGate's"
        found.append(warning("clock.skew", message))
    if reporter.trouble:
        found.append(reporter.trouble)
    return tuple(dict.fromkeys(found))


def _containers(reconciler: Reconciler) -> tuple[dict[str, object], ...]:
    order = {part.value: index for index, part in enumerate(Component)}
    rows: list[dict[str, object]] = [
        {
            "name": c.name,
            "part": c.name.rsplit("-", 1)[-1],
            "image": c.image,
            "id": c.container_id[:12],
            "status": c.status,
            "restarts": reconciler.restarts(c.name),
        }
        for c in reconciler.have
    ]
    return tuple(sorted(rows, key=lambda row: order.get(str(row["part"]), len(order))))
