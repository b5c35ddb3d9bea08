"""Which attributes OneGate gets, in which form, and when. Pure.

Encoding: what OneGate 7.4 did with 34 values (tests/data/onegate-put-cases.json); commas, quotes,
brackets and newlines are refused with 500, a backslash is stored corrupted. OneFlow's gate opens
on the text ``READY=YES`` anywhere in an update (EventManager.rb), so only one body may hold it.
"""

import base64
import dataclasses
import re
import urllib.parse
from collections.abc import Mapping

from flower_agent.model.errors import OneGateFailedError
from flower_agent.model.published import Published
from flower_agent.model.status import Status

MIN_INTERVAL_S = 15.0
HEARTBEAT_S = 300.0
HEARTBEAT_JITTER = 0.1
RETRY_FIRST_S = 2.0
RETRY_LONGEST_S = 120.0
MAX_WORDS = 400

_KEPT = re.compile(r"[^A-Za-z0-9_.:/=+@% ;#?&-]")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/=+@%;-][A-Za-z0-9_.:/=+@% ;#?&-]*")
_EDGES = " #&?"
"""Not at either end of a value, so that making words of words changes nothing."""

_GATE = re.compile(r"READY\W*=\W*YES")


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """What OneGate is known to have, and when it may be written again."""

    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Attributes of acknowledged bodies of this boot; one of unknown fate is left out."""

    at: float | None = None
    """Monotonic seconds of the last body; None before the first of this agent."""

    failures: int = 0
    """Bodies that failed in a row."""

    not_before: float = 0.0
    """Monotonic seconds before which nothing is sent after a failure."""

    heartbeat_at: float = 0.0
    """Monotonic seconds of the next heartbeat."""


def words(text: str) -> str:
    """Return `text` as OneGate keeps it: one line, readable, without what it refuses."""
    kept = _KEPT.sub("", " ".join(text.replace(",", ";").replace("\\", "/").split()))
    safe = " ".join(kept.split()).strip(_EDGES)[:MAX_WORDS].rstrip(_EDGES)
    return safe.replace("=", ":") if _GATE.search(safe) else safe


def attributes(status: Status, published: Published) -> dict[str, str]:
    """Return everything that OneGate should know, all values in the form that it keeps.

    READY and FLOWER_SEEN are left to `due` and its caller.
    """
    error, more = str(status.error) if status.error else "", len(status.errors) - 1
    if more > 0:
        error = f"{error[: MAX_WORDS - 50]} - and {more} more: flower-agent status"
    found = {
        "FLOWER_STATE": status.state,
        "FLOWER_PHASE": status.phase or "",
        "FLOWER_ERROR": error,
        # A failure of OneGate itself is left out: it would hear of that when it is over.
        "FLOWER_WARNING": "; ".join(
            str(found) for found in status.warnings if not found.is_a(OneGateFailedError)
        ),
        "FLOWER_ROLE": status.role or "",
        "FLOWER_VERSION": status.version or "",
        "FLOWER_AGENT_VERSION": status.agent_version,
        "FLOWER_TLS": "" if status.tls is None else "YES" if status.tls else "NO",
        **of_role(published),
    }
    # Long, and of letters that OneGate keeps already.
    plain = {"FLOWER_CA_CERT", "FLOWER_APPIO_CA", "FLOWER_PARTITIONS"}
    return {k: v if k in plain else words(v) for k, v in found.items()}


def of_role(published: Published) -> dict[str, str]:
    """Return what a role publishes as OneGate's attributes; what it says nothing of is left out."""
    said = published
    found = {
        "FLOWER_ENDPOINT": said.endpoint,
        "FLOWER_NODE_AUTH": None if said.node_auth is None else "YES" if said.node_auth else "NO",
        "FLOWER_NODES": said.nodes,
        "FLOWER_PARTITIONS": said.partitions,
        "FLOWER_CA_CERT": _base64(said.ca_pem),
        "FLOWER_CA_FINGERPRINT": said.ca_fingerprint,
        "FLOWER_RUN": said.run,
        "FLOWER_NODE_KEY": said.node_key,
        "FLOWER_NODE_ID": said.node_id,
        "FLOWER_PARTITION": said.partition,
        "FLOWER_BUSY": None if said.busy is None else str(int(said.busy)),
        "FLOWER_APP_ERROR": said.app_error,
        "FLOWER_APP_IMAGE": said.app_image,
        "FLOWER_GPU": said.gpu,
        "FLOWER_APPIO": said.appio,
        "FLOWER_APPIO_CA": _base64(said.appio_ca_pem),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def due(
    sent: Sent, attributes: Mapping[str, str], *, now: float, scale: float = 1.0
) -> dict[str, str] | None:
    """Return what to send now, or None.

    `attributes` is all that should be known, without READY and FLOWER_SEEN, which follow from the
    rest. ``ready``, ``failed`` and the first body go at once; all else waits for the interval. A
    heartbeat is FLOWER_SEEN alone, which the caller adds to every body.
    """
    wanted = {**attributes, "READY": "YES" if attributes.get("FLOWER_STATE") == "ready" else "NO"}
    changes = {k: v for k, v in wanted.items() if sent.attributes.get(k) != v}
    first = not sent.attributes
    urgent = first or changes.get("FLOWER_STATE") in ("ready", "failed")
    soon = sent.at is not None and now < sent.at + MIN_INTERVAL_S * scale
    if now < sent.not_before or (soon and not urgent):
        return None
    if not changes:
        return {} if now >= sent.heartbeat_at else None
    return _with_state(changes, wanted)


def acknowledged(
    sent: Sent, body: Mapping[str, str], *, now: float, phase: float, scale: float = 1.0
) -> Sent:
    """Return the state after OneGate accepted `body`; `phase` is random in 0..1.

    The heartbeat keeps its own time: VMs that boot together must not send heartbeats together.
    """
    period = HEARTBEAT_S * (1 + HEARTBEAT_JITTER * (2 * phase - 1)) * scale
    heartbeat_at = sent.heartbeat_at if now < sent.heartbeat_at else now + period
    return Sent(
        attributes={**sent.attributes, **{k: v for k, v in body.items() if k != "FLOWER_SEEN"}},
        at=now,
        heartbeat_at=max(heartbeat_at, now + MIN_INTERVAL_S * scale),
    )


def failed(
    sent: Sent, body: Mapping[str, str], *, now: float, chance: float, scale: float = 1.0
) -> Sent:
    """Return the state after `body` failed: OneGate may have stored its attributes or not.

    The wait doubles to two minutes with full jitter; `chance` is random in 0..1.
    """
    unsure = {k: v for k, v in sent.attributes.items() if k not in body}
    failures = sent.failures + 1
    longest = min(RETRY_FIRST_S * 2.0 ** min(failures, 16), RETRY_LONGEST_S)
    wait = RETRY_FIRST_S + (longest - RETRY_FIRST_S) * chance
    return dataclasses.replace(
        sent,
        attributes=unsure,
        at=now,
        failures=failures,
        not_before=now + wait * scale,
        heartbeat_at=max(sent.heartbeat_at, now + max(wait, MIN_INTERVAL_S) * scale),
    )


def render(body: Mapping[str, str]) -> str:
    """Return the form body for ``PUT /vm``: every attribute in one update.

    Raises ValueError for a name or value that OneGate would refuse or damage, and for a body that
    would let OneFlow deploy the next role although Flower is not ready.
    """
    lines = []
    for name, value in body.items():
        if not re.fullmatch(r"(?!XML)[A-Z][A-Z0-9_]*", name):
            raise ValueError(f"OneGate does not keep an attribute named {name!r}")
        if value and (not _PLAIN.fullmatch(value) or value != value.strip()):
            raise ValueError(f"OneGate does not keep the value of {name}")
        lines.append(f"{name}={value}" if value else f'{name}=""')
    text = "\n".join(lines)
    # OneFlow searches the text of the whole update, without quotes and spaces.
    opens = "READY=YES" in re.sub(r"[\s\"']", "", text)
    if opens and not (body.get("READY") == "YES" and body.get("FLOWER_STATE") == "ready"):
        raise ValueError("only the report of state ready may contain READY=YES")
    return "data=" + urllib.parse.quote(text, safe="") + "&type=1"


def _base64(text: str | None) -> str | None:
    """Return a PEM as OneGate keeps it."""
    return base64.b64encode(text.encode()).decode() if text is not None else None


def _with_state(changes: dict[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Let READY=YES stand only beside FLOWER_STATE=ready, and last."""
    ready = changes.pop("READY", None)
    if ready is not None:
        changes["FLOWER_STATE"] = wanted["FLOWER_STATE"]
        changes["READY"] = ready
    return changes
