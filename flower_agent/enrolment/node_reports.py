"""What SuperNodes tell of their ClientApps while a run goes on, as OneGate hands it over.

A ClientApp that dies leaves its SuperLink waiting; only its node knows. So a few nodes are asked at
a time while a run is active, and none between runs. Any VM of the service may write any attribute:
what is told is bounded, shown as a node's word, and changes nothing.
"""

import dataclasses
import re
from collections.abc import Collection

from flower_agent.background import Background, Threads
from flower_agent.flower import lost_messages
from flower_agent.model.errors import AgentError, Finding, warning
from flower_agent.onegate import discovery
from flower_agent.onegate.client import OneGate

AT_ONCE = 4
PERIOD_S = 5.0
"""Look-ups stay few: 48 nodes a minute."""

_TOLD = re.compile(r"([A-Za-z][A-Za-z0-9 ()_.]{0,80}); run ([0-9]{1,20})", re.ASCII)
_CLASS = re.compile(r"[A-Za-z_]\w{0,80}", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class NodeReport:
    """What one VM says of its last ClientApp that did not do its work."""

    vmid: str
    what: str = ""
    """``ValueError``, ``killed (SIGKILL)``; empty: nothing, or nothing that the agent writes."""

    run: str = ""


class NodeReports:
    """The reports of the SuperNodes of one SuperLink."""

    def __init__(self, threads: Threads, *, scale: float = 1.0) -> None:
        self._asking: Background[str, list[NodeReport]] = Background(
            threads, "node-reports", lambda *_: PERIOD_S * scale, good_for_s=PERIOD_S * scale
        )
        self._next = 0
        self._reports: dict[str, NodeReport] = {}

    def follow(
        self, client: OneGate | None, vmids: Collection[str], runs: Collection[str], now: float
    ) -> list[Finding]:
        """Ask the next few of `vmids` while one of `runs` is active; return what concerns these."""
        own = client.access.vmid if client else ""
        ended = self._asking.take(own, now)
        if ended is not None and ended.answer is not None:
            self._reports |= {report.vmid: report for report in ended.answer}
        if not runs:
            self._reports.clear()
            return []
        if client and vmids and now >= self._asking.due_at and not self._asking.running:
            asked = self._some(sorted(vmids, key=lambda vmid: (len(vmid), vmid)))
            self._asking.start(own, lambda: ask(client, asked), now)
        return [finding(each) for each in self._reports.values() if each.run in runs and each.what]

    def _some(self, vmids: list[str]) -> list[str]:
        """Return the next VMs in turn."""
        start = self._next % len(vmids)
        self._next = start + AT_ONCE
        return (vmids[start:] + vmids[:start])[:AT_ONCE]


def ask(client: OneGate, vmids: Collection[str]) -> list[NodeReport]:
    """Return what VMs report; one that does not answer reports nothing new."""
    found: list[NodeReport] = []
    for vmid in vmids:
        try:
            told = discovery.parse_vm(client.vm(vmid)).attributes
        except AgentError as error:
            if error.retryable:
                return found  # OneGate has trouble: asked again soon
            continue  # the VM is gone
        found.append(read(vmid, told.get("FLOWER_APP_ERROR", "")))
    return found


def read(vmid: str, text: str) -> NodeReport:
    """Return the report in ``FLOWER_APP_ERROR``. Pure."""
    found = _TOLD.fullmatch(text[:200].strip('" '))
    return NodeReport(vmid, found[1], found[2]) if found else NodeReport(vmid)


def finding(report: NodeReport) -> Finding:
    """Return the SuperLink's warning about a node's report."""
    failed = _CLASS.fullmatch(report.what) is not None
    what = f"raised {report.what}" if failed else report.what
    message = f"VM {report.vmid} reports: a ClientApp of run {report.run} {what}"
    if report.what in lost_messages.TOLD:
        return warning("run.message_lost", message)
    return warning("run.client_failed" if failed else "run.client_died", message)
