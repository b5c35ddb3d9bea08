"""Reports to OneGate what `status_attributes` decides, in a thread of its own.

What was sent in this boot is kept in ``/run/flower-agent/onegate.json`` (0600, with the token): an
agent that is restarted neither repeats itself nor forgets a token that the context lost since.
"""

import dataclasses
import datetime
import json
import pathlib
import random
from collections.abc import Callable, Mapping

import structlog

from flower_agent import files
from flower_agent.background import Background, Ended, Threads
from flower_agent.config.sources import OneGateAccess
from flower_agent.model import status
from flower_agent.model.errors import AgentError, Finding, warning
from flower_agent.model.secret import Secret
from flower_agent.onegate import discovery, status_attributes
from flower_agent.onegate.client import OneGate

log = structlog.get_logger()

MAX_BYTES = 1 << 20
LONGEST_WAIT_S = 60.0
VERIFY_S = 300.0
"""Interval at which a SuperLink checks whether another VM overwrote its attributes.

A SuperNode does while it waits to be enrolled.
"""

REACH_S = 20.0
"""Interval of connection tests: a stable VM sends OneGate no other request for minutes."""

OWN = (
    "FLOWER_ROLE",
    "FLOWER_ENDPOINT",
    "FLOWER_CA_CERT",
    "FLOWER_CA_FINGERPRINT",
    "FLOWER_APPIO",
    "FLOWER_APPIO_CA",
    "FLOWER_NODE_AUTH",
    "FLOWER_NODE_KEY",
    "FLOWER_VERSION",
    "FLOWER_TLS",
    "FLOWER_STATE",
    "FLOWER_PARTITION",
    "FLOWER_PARTITIONS",
    "FLOWER_BUSY",
    "FLOWER_NODES",
    "READY",
)
"""Attributes that other VMs or OneFlow act on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Acknowledged:
    """The attributes that OneGate acknowledged in this boot."""

    access: OneGateAccess
    attributes: Mapping[str, str]


class OneGatePublisher:
    """What OneGate knows of this VM, and the reports to it."""

    def __init__(
        self,
        memory: pathlib.Path,
        threads: Threads,
        *,
        now: float,
        rng: random.Random,
        scale: float = 1.0,
        reach: Callable[[OneGate], None] | None = OneGate.reach,
    ) -> None:
        self._memory = memory
        self._sending: Background[OneGate, None] = Background(threads, "onegate-report")
        self._verifying: Background[OneGate, _Verified] = Background(threads, "onegate-verify")
        # What a look brings may wait for the next cycle.
        self._reaching: Background[OneGate, None] = Background(
            Threads(lambda: None), "onegate-reach", good_for_s=0.0
        )
        self._reaches = reach
        self._random = rng
        self._born = now
        self._scale = scale
        heartbeat_at = now + status_attributes.HEARTBEAT_S * rng.random() * scale
        self._sent = status_attributes.Sent(heartbeat_at=heartbeat_at)
        self._body: dict[str, str] = {}
        self._trouble: Finding | None = None
        self._unreached: Finding | None = None
        self._logged = ""
        """Code of the failure that the log told last; empty after a recovery."""

        self._reach_from = now + REACH_S * rng.random() * scale
        self.told_at = ""
        """FLOWER_SEEN of the last report that OneGate accepted."""

        self._verify_at = now + VERIFY_S * rng.random() * scale
        self.overwritten: tuple[str, ...] = ()
        """Names that another VM had overwritten at the last check; the agent restores them."""
        self.client: OneGate | None = None
        self.token_lost = False
        self._unwritable = False
        self._remembered = self._load()
        self._saved = self._remembered

    @property
    def trouble(self) -> Finding | None:
        """Why OneGate does not accept reports or requests; a warning, because Flower continues."""
        down = self.client.down if self.client else None
        found = self._trouble or down or self._unreached
        return warning(found.code, found.message, found.hint) if found else None

    def use(self, access: OneGateAccess | None) -> None:
        """Use the context's access; if it is lost, keep the last one of this boot."""
        # `updateconf` without -a drops the token, which stays valid for the VM.
        self.token_lost = access is None and self._remembered is not None
        wanted = access or self._remembered
        if wanted is None or (self.client is not None and self.client.access == wanted):
            return
        if self.client is not None:
            self.client.close()
        self._unreached = None
        if self._remembered is not None and wanted.vmid != self._remembered.vmid:
            # Another VM: nothing of this one is at its OneGate entry yet.
            self._sent = status_attributes.Sent(heartbeat_at=self._sent.heartbeat_at)
        self.client = OneGate(wanted)
        self._remembered = wanted
        if self.trouble is None:  # what was said of the old one says nothing of this one
            self._logged = ""

    def offer(self, attributes: Mapping[str, str], *, now: float, wall: datetime.datetime) -> None:
        """Send the due report, unless another one is being sent; never waits.

        `now` is monotonic seconds, `wall` what FLOWER_SEEN says.
        """
        if self.client is not None:
            self._settle(self._sending.take(self.client, now), now)
            self._reach(self.client, now)
            self._log()
        if self._saved != self._remembered:
            self._save()
        if self.client is None or self._sending.running:
            return
        self._verify(self.client, attributes, now)
        body = status_attributes.due(self._sent, attributes, now=now, scale=self._scale)
        if body is None:
            return
        self._body = {"FLOWER_SEEN": status.stamp(wall), **body}
        client, text = self.client, status_attributes.render(self._body)
        self._sending.start(client, lambda: client.update(text), now)

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next report or check."""
        if self.client is None or self._sending.running:
            return LONGEST_WAIT_S
        due_at = max(self._sent.heartbeat_at, self._sent.not_before)
        return max(min(due_at - now, LONGEST_WAIT_S), 0.1)

    def _reach(self, client: OneGate, now: float) -> None:
        """Check sometimes whether OneGate accepts a connection."""
        ended = self._reaching.take(client, now)
        if ended is not None:
            self._unreached = ended.error.finding if ended.error else None
        reach = self._reaches
        due_at = max(self._reach_from, self._reaching.began_at + REACH_S * self._scale)
        if reach is not None and now >= due_at:
            self._reaching.start(client, lambda: reach(client), now)

    def _log(self) -> None:
        """Log a failure once, by its code, and the recovery from whatever was logged."""
        found = self.trouble
        if found is not None and found.code != self._logged:
            log.warning("onegate.failed", code=found.code, message=found.message)
        elif found is None and self._logged:
            log.info("onegate.recovered")
        self._logged = found.code if found else ""

    def _verify(self, client: OneGate, attributes: Mapping[str, str], now: float) -> None:
        """Check sometimes whether OneGate still has this VM's attributes.

        Any VM of the service can change the attributes of the others. A changed attribute counts as
        not sent, so the next report restores it.
        """
        ended = self._verifying.take(client, now)
        if ended is not None and ended.answer is not None:
            asked, seen = ended.answer
            told = self._sent.attributes
            # Only what stayed the same since the question was sent can be judged by its answer.
            known = [k for k in OWN if k in told and told[k] == asked.get(k)]
            self.overwritten = tuple(k for k in known if seen.get(k, "").strip('"') != told[k])
            if self.overwritten:
                log.warning("onegate.overwritten", names=self.overwritten)
                kept = {k: v for k, v in told.items() if k not in self.overwritten}
                self._sent = dataclasses.replace(self._sent, attributes=kept)
        depends = attributes.get("FLOWER_ROLE") == "superlink"
        if not (depends or attributes.get("FLOWER_PHASE") == "enrol") or now < self._verify_at:
            return
        if "FLOWER_ENDPOINT" in self._sent.attributes:
            self._verify_at = now + VERIFY_S * self._scale
            asked = self._sent.attributes
            self._verifying.start(client, lambda: (asked, _attributes(client)), now)

    def _settle(self, done: Ended[OneGate, None] | None, now: float) -> None:
        if done is None:
            return
        chance = self._random.random()
        if done.error is None:
            self._trouble = self._unreached = None
            self.told_at = self._body.get("FLOWER_SEEN", "")
            self._sent = status_attributes.acknowledged(
                self._sent, self._body, now=now, phase=chance, scale=self._scale
            )
        else:
            found = done.error.finding
            self._trouble = warning(found.code, found.message, found.hint)
            self._sent = status_attributes.failed(
                self._sent, self._body, now=now, chance=chance, scale=self._scale
            )
        self._save()

    def _save(self) -> None:
        if self._remembered is None:
            return
        try:
            remember(self._memory, Acknowledged(self._remembered, self._sent.attributes))
        except AgentError:
            if not self._unwritable:
                log.warning("state.unwritable", path=str(self._memory))
            self._unwritable = True
        else:
            self._unwritable = False
            self._saved = self._remembered

    def _load(self) -> OneGateAccess | None:
        """Take over the state of this boot's last agent."""
        told = recall(self._memory)
        if told is None:
            return None
        # As if sent now: what a new agent finds out within the interval is not worth a body.
        self._sent = dataclasses.replace(self._sent, attributes=told.attributes, at=self._born)
        return told.access


_Verified = tuple[Mapping[str, str], Mapping[str, str]]
"""What this VM had sent, and what OneGate then had."""


def _attributes(client: OneGate) -> Mapping[str, str]:
    return discovery.parse_vm(client.vm(client.access.vmid)).attributes


def remember(place: pathlib.Path, told: Acknowledged) -> None:
    """Store what OneGate acknowledged in this boot. Raises AgentError ``state.unwritable``."""
    document = {
        "endpoint": told.access.endpoint,
        "vmid": told.access.vmid,
        "token": told.access.token.reveal(),
        "attributes": dict(told.attributes),
    }
    files.write_atomic(place, json.dumps(document).encode(), 0o600, durable=False)


def recall(place: pathlib.Path) -> Acknowledged | None:
    """Return what OneGate acknowledged in this boot; None for a missing or unreadable file."""
    try:
        data = files.read(place, MAX_BYTES)
        document = json.loads(data) if data else None
        if document is None:
            return None
        attributes = {str(k): str(v) for k, v in document["attributes"].items()}
        access = OneGateAccess(
            str(document["endpoint"]), str(document["vmid"]), Secret(str(document["token"]))
        )
    except (AgentError, AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    return Acknowledged(access, attributes)
