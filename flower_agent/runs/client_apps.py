"""Reports of a VM about its ClientApps: failures that its SuperLink should know.

A message that the SuperNode lost is reported in the same way: its ClientApp gives no answer.
OneGate and the status file get the class of an exception and the run, never what it said.
"""

import dataclasses
import datetime

from flower_agent.cycle import Cycle, Running
from flower_agent.flower.lost_messages import Loss
from flower_agent.model.errors import Finding, warning
from flower_agent.runs import outcome
from flower_agent.runs.app_directories import AppDirectories
from flower_agent.runs.outcome import AppEnd

TOLD_FOR = datetime.timedelta(hours=24)
"""Older failures are not reported."""


def follow(
    cycle: Cycle, running: Running, apps: AppDirectories, limit: int
) -> datetime.datetime | None:
    """Report the last failed ClientApp, and clean up after ended runs.

    Returns when it ended, None where there is none.
    """
    if cycle.seen.dry or running.apps is None:
        return None
    apps.settle(running.apps, cycle.seen.now, cycle.seen.monotonic, limit)
    end = outcome.trouble(apps.ends())
    recent = end is not None and _age(end, cycle.seen.now) < TOLD_FOR
    cycle.report.published = dataclasses.replace(
        cycle.report.published, app_error=end.short() if end is not None and recent else ""
    )
    if end is not None and recent:
        cycle.report.warn(finding(end))
    cycle.report.warn(*apps.findings())
    return _ended(end) if end is not None and recent else None


def lost(
    cycle: Cycle, loss: Loss | None, since: datetime.datetime, failed: datetime.datetime | None
) -> None:
    """Report a message that the SuperNode lost, unless a ClientApp `failed` after it.

    One that failed shortly before may be its consequence: of the two, OneGate gets the later.
    """
    if cycle.seen.dry:
        return
    before = cycle.report.published.app_error or ""
    cycle.report.published = dataclasses.replace(cycle.report.published, app_error=before)
    if loss is not None and cycle.seen.now - since < TOLD_FOR:
        if failed is None or failed <= since:
            cycle.report.published = dataclasses.replace(
                cycle.report.published, app_error=loss.short() or before
            )
        cycle.report.warn(loss.finding())


def finding(end: AppEnd) -> Finding:
    """Return the warning about a ClientApp's end."""
    what = f"a ClientApp of run {end.run} {end.how()}"
    if end.answered:
        return warning("run.client_failed", what)
    return warning("run.client_died", f"{what}, without an answer to the SuperLink")


def _age(end: AppEnd, now: datetime.datetime) -> datetime.timedelta:
    return now - _ended(end)


def _ended(end: AppEnd) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(end.ended_at or 0.0, datetime.UTC)
