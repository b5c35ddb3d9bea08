"""Publishes the VM's status: the status file, systemd, and OneGate through `onegate.publisher`."""

import dataclasses
import datetime
import json

import structlog

from flower_agent import files, process
from flower_agent.model import deduplication, status
from flower_agent.model.errors import AgentError, Finding
from flower_agent.model.lifecycle import Life, LifeState
from flower_agent.model.published import Published
from flower_agent.model.status import Status
from flower_agent.onegate import status_attributes
from flower_agent.onegate.publisher import OneGatePublisher
from flower_agent.paths import Paths
from flower_agent.reporting.one_apps import ApplianceFiles
from flower_agent.reporting.systemd import Notifier

log = structlog.get_logger()

REWRITE_S = 30.0
"""An unchanged status is written again after this time, so that readers see that it is current."""


class Publisher:
    """Writes changes, and the unchanged status from time to time."""

    def __init__(self, paths: Paths, notifier: Notifier, reporter: OneGatePublisher) -> None:
        self._paths = paths
        self._notifier = notifier
        self._reporter = reporter
        self._appliance = ApplianceFiles(paths)
        self._written: tuple[Status, float] | None = None
        self._shown = ""
        self._unwritable = False

    def publish(
        self, found: Status, published: Published, *, monotonic: float, wall: datetime.datetime
    ) -> None:
        """Publish `found` everywhere; a failure is logged once and never stops the loop."""
        self._notifier.ready()
        self._notifier.watchdog()
        self._write(found, monotonic)
        shown = f"{found.state}{f', phase {found.phase}' if found.phase else ''}"
        if found.error:
            shown += f": {found.error}"
        if shown != self._shown:
            self._notifier.status(shown)
            self._shown = shown
        self._appliance.keep(found, wall)
        self._reporter.offer(
            status_attributes.attributes(found, published), now=monotonic, wall=wall
        )

    def stopping(self) -> None:
        """Tell systemd that the agent is stopping."""
        self._notifier.stopping()

    def _write(self, found: Status, monotonic: float) -> None:
        same = dataclasses.replace(found, written_at=found.since)
        if self._written and self._written[0] == same and monotonic < self._written[1] + REWRITE_S:
            return
        own = process.own()
        signed = dataclasses.replace(found, pid=own.pid, pid_started=own.started)
        data = json.dumps(status.document(signed), indent=1).encode() + b"\n"
        try:
            files.write_atomic(self._paths.status, data, 0o644, durable=False)
        except AgentError as error:
            if not self._unwritable:
                log.warning("status.unwritable", reason=error.finding.message)
            self._unwritable = True
            return
        self._unwritable = False
        self._written = (same, monotonic)


class LifecycleLog:
    """Logs the VM's life: each change, and a continuing cause once an hour with a count."""

    def __init__(self) -> None:
        self._repeats = deduplication.Repeats()

    def note(self, before: Life, after: Life, now: float) -> None:
        """Write one line for a change of state, phase or cause, none for an unchanged cycle.

        Causes that come and go within one state are logged once an hour each.
        """
        error = after.error
        cause = (error.code, deduplication.gist(error.message)) if error else ("", "")
        if after.state is not before.state:
            self._repeats.clear()
            self._repeats.due(cause, now)
            took = (after.since - before.since).total_seconds()
            say = log.error if after.state is LifeState.FAILED else log.info
            say(f"state.{after.state}", after_s=round(took, 2), **_because(error))
        elif error is not None:
            if times := self._repeats.due(cause, now):
                more = {"times": times} if times > 1 else {}
                log.info("state.cause", state=after.state.value, **_because(error), **more)
        elif (
            after.phase
            and after.phase is not before.phase
            and self._repeats.due(("", after.phase), now)
        ):
            log.info("state.phase", phase=after.phase.value)


def _because(found: Finding | None) -> dict[str, str]:
    if found is None:
        return {}
    return {"code": found.code, "message": found.message, "hint": found.hint}
