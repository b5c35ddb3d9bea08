"""Tells the world that this VM was taken down on purpose; no daemon does it any more then.

OneGate gets one last body, in a thread that is waited for no longer than `WAIT_S`: a command must
end, and a package's removal with it. Status file, one-apps' files and motd say the same.
"""

import dataclasses
import datetime
import json
import threading

from flower_agent import __version__, files
from flower_agent.config import sources
from flower_agent.config.sources import OneGateAccess
from flower_agent.model import status
from flower_agent.model.errors import AgentError
from flower_agent.model.status import STOPPED, Status
from flower_agent.onegate import publisher, status_attributes
from flower_agent.onegate.client import OneGate
from flower_agent.paths import Paths
from flower_agent.reporting.one_apps import ApplianceFiles

WAIT_S = 5.0
CONNECT_S = 2.0


def to_onegate(paths: Paths, now: datetime.datetime) -> str:
    """Send the last report; return the error, empty after success or without OneGate."""
    memory = publisher.recall(paths.onegate)
    access = sources.read(paths).access or (memory.access if memory else None)
    if access is None:
        return ""
    body = {
        "FLOWER_STATE": STOPPED,
        "FLOWER_PHASE": "",
        "FLOWER_ERROR": "",
        "FLOWER_SEEN": status.stamp(now),
        "READY": "NO",
    }
    trouble = _send(access, status_attributes.render(body))
    if memory is not None:
        # The next agent of this boot must not use these outdated values.
        kept = {k: v for k, v in memory.attributes.items() if k not in body}
        publisher.remember(paths.onegate, dataclasses.replace(memory, attributes=kept))
    return trouble


def to_files(paths: Paths, now: datetime.datetime) -> None:
    """Write status file, one-apps' files and motd. Raises AgentError ``state.unwritable``."""
    found = _last(paths, now)
    files.directory(paths.runtime, 0o755)
    data = json.dumps(status.document(found), indent=1).encode() + b"\n"
    files.write_atomic(paths.status, data, 0o644, durable=False)
    ApplianceFiles(paths).keep(found, now)


def _send(access: OneGateAccess, body: str) -> str:
    troubles = ["OneGate does not answer in time"]

    def send() -> None:
        client = OneGate(access, connect_s=CONNECT_S, read_s=WAIT_S, total_s=WAIT_S)
        try:
            client.update(body)
        except AgentError as error:
            troubles[:] = [error.finding.message]
        else:
            troubles.clear()
        finally:
            client.close()

    # A thread, since the name of an endpoint may take its time to resolve.
    sender = threading.Thread(target=send, name="farewell", daemon=True)
    sender.start()
    sender.join(WAIT_S)
    return next(iter(troubles), "")


def _last(paths: Paths, now: datetime.datetime) -> Status:
    """Return the status of a stopped agent: of the last one, who it was."""
    try:
        told = json.loads(files.read(paths.status, 1 << 22) or b"{}")
        known = told if isinstance(told, dict) and not status.damage(told) else {}
    except (AgentError, ValueError, RecursionError):
        known = {}
    return Status(
        state=STOPPED,
        since=now,
        phase=None,
        phase_since=now,
        written_at=now,
        agent_version=__version__,
        name=known.get("name") or "",
        role=known.get("role"),
        version=known.get("version"),
    )
