"""What stands behind OneGate: the VMs and services that oned and OneFlow keep.

Every refusal has the status and the text of OpenNebula 7.4 (src/onegate/onegate-server.rb). Who
belongs to a service is judged as there: by SERVICE_ID in the VM's own USER_TEMPLATE, then by
OneFlow's list of nodes. OneFlow's READY gate is src/flow/lib/EventManager.rb.
"""

import base64
import dataclasses
import re
import secrets
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import onegate_documents as documents
import onegate_template as template

HISTORY = 10_000
"""How many requests, and how many updates, are remembered."""

APPEND, ERASE = 1, 2
"""`type` of an update."""

_RESTRICTED = frozenset({"SCHED_REQUIREMENTS", "SERVICE_ID", "ROLE_NAME"})


class Refused(Exception):  # noqa: N818 - an answer that OneGate gives, not an error of this program
    """OneGate answers with an error: a status and a plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class Update(NamedTuple):
    """An update that oned took."""

    at: datetime
    """When it came, in UTC."""

    body: str
    """The attributes as the guest sent them, form coding undone."""

    kind: int
    """1 adds or replaces, 2 erases."""


class Cloud:
    """VMs and services on one machine; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._machines: dict[int, documents.Machine] = {}
        self._services: dict[int, documents.Service] = {}
        self._updates: deque[tuple[int, Update]] = deque(maxlen=HISTORY)
        self.ahead_s: float | None = None
        """How far the cloud's clock is ahead of this machine's; None: answers bear no Date."""

    def add_service(self, service_id: int, name: str, roles: Iterable[tuple[str, int]]) -> None:
        """Add a OneFlow service with the name and cardinality of each role."""
        with self._lock:
            pairs = tuple((role, cardinality) for role, cardinality in roles)
            self._services[service_id] = documents.Service(service_id, name, pairs)

    def add_vm(
        self,
        vmid: int,
        name: str,
        role: str | None = None,
        service_id: int | None = None,
        *,
        nic: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
        context: Mapping[str, str] | None = None,
        user_template: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> str:
        """Add a VM, as OneFlow deploys one, and return its token.

        Without `nic` it has one with an address made from the VM's number; `()` gives it none.
        Raises ValueError when the number is taken or the service has no such role.
        """
        with self._lock:
            if vmid in self._machines:
                raise ValueError(f"VM {vmid} exists already")
            attributes: template.Attributes = dict(user_template or {})
            if service_id is not None:
                service = self._services.get(service_id)
                if service is None or role not in dict(service.roles):
                    raise ValueError(f"service {service_id} with a role {role} does not exist")
                attributes |= {"ROLE_NAME": str(role), "SERVICE_ID": str(service_id)}
            if nic is None:
                nic = _usual_nic(vmid)
            self._machines[vmid] = documents.Machine(
                vmid=vmid,
                name=name,
                token=token or base64.b64encode(secrets.token_bytes(16)).decode(),
                started=datetime.now(UTC),
                role=role,
                service_id=service_id,
                nics=(nic,) if isinstance(nic, Mapping) else tuple(nic),
                context=dict(context or {}),
                attributes=dict(sorted(attributes.items())),
                gate_open=template.reads_ready(attributes),
            )
            self.changed()
            return self._machines[vmid].token

    def remove_vm(self, vmid: int) -> None:
        """Remove a VM, as OneFlow does when it shrinks a role. Raises KeyError for none."""
        with self._lock:
            del self._machines[vmid]
            self.changed()

    def scale(self, service_id: int, role: str, cardinality: int) -> None:
        """Set how many VMs a role should have; which they are is told VM by VM."""
        with self._lock:
            service = self._services[service_id]
            roles = tuple((n, cardinality if n == role else c) for n, c in service.roles)
            self._services[service_id] = dataclasses.replace(service, roles=roles)

    def set_state(self, service_id: int, state: int) -> None:
        """Set the state that OneFlow gives a service."""
        with self._lock:
            found = dataclasses.replace(self._services[service_id], state=state)
            self._services[service_id] = found

    def machines(self) -> tuple[documents.Machine, ...]:
        """Return every VM, in the order in which they were added."""
        with self._lock:
            return tuple(self._machines.values())

    def attributes(self, vmid: int) -> template.Attributes:
        """Return a copy of a VM's USER_TEMPLATE."""
        with self._lock:
            return dict(self._machines[vmid].attributes)

    def updates(self, vmid: int) -> tuple[Update, ...]:
        """Return the updates of a VM that oned took, oldest first."""
        with self._lock:
            return tuple(update for whose, update in self._updates if whose == vmid)

    def gate_open(self, vmid: int) -> bool:
        """Return whether OneFlow took the VM for ready; once open it stays open."""
        with self._lock:
            return self._machines[vmid].gate_open

    def changed(self) -> None:
        """Hear of a new VM or a new USER_TEMPLATE, with the lock held; nothing to do here."""

    def authenticate(self, vmid: int | None, token: str | None) -> documents.Machine:
        """Return the VM that a request's headers prove, or refuse with 401."""
        with self._lock:
            machine = self._machines.get(vmid) if vmid is not None else None
            if (
                machine is None
                or token is None
                or not secrets.compare_digest(token.encode(), machine.token.encode())
            ):
                raise Refused(401, "Not authorized")
            return machine

    def show(self, machine: documents.Machine) -> dict[str, Any]:
        """Return the short document of a VM."""
        with self._lock:
            return documents.vm_document(machine)

    def requested(self, source: documents.Machine, vmid: int) -> documents.Machine:
        """Return the VM that `source` asks for: itself or one of its service."""
        with self._lock:
            if vmid == source.vmid:
                return source
            if "SERVICE_ID" not in source.attributes:
                raise Refused(
                    400,
                    "This VM does not belong to any Virtual Router or Service, so it cannot"
                    " retrieve information from other VMs",
                )
            self._service_with(source, vmid)
            return self._machines[vmid]

    def service(self, source: documents.Machine, *, extended: bool) -> dict[str, Any]:
        """Return the document of the service that `source` belongs to."""
        with self._lock:
            service = self._service_with(source, source.vmid)
            return documents.service_document(service, self.machines(), extended=extended)

    def update(self, machine: documents.Machine, body: str, kind: int) -> None:
        """Add or replace attributes (`kind` 1) or erase one (2), as a PUT does.

        Any other kind erases in a copy that is thrown away, which OneGate answers with 200.
        """
        sent = template.escape(body)
        name = template.restricted_name(sent, _RESTRICTED)
        if name is not None:
            verb = "modified" if kind == APPEND else "deleted"
            raise Refused(403, f"Attribute ({name}) cannot be {verb}")
        with self._lock:
            kept: template.Attributes = {}
            if kind == APPEND:
                kept = machine.attributes
            else:
                sent = template.render(_without(machine.attributes, sent, kind))
                if kind != ERASE:
                    return
            try:
                machine.attributes = template.merge(kept, template.parse(sent))
            except template.TemplateError as error:
                raise Refused(500, "Internal server error") from error
            ready = template.opens_gate(sent) or template.reads_ready(machine.attributes)
            machine.gate_open = machine.gate_open or ready
            self._updates.append((machine.vmid, Update(datetime.now(UTC), body, kind)))
            self.changed()

    def asked_to_scale(self, source: documents.Machine, role: str, cardinality: Any) -> None:
        """Set a role's cardinality for a VM of the service, as far as OneFlow takes it."""
        with self._lock:
            service = self._service_with(source, source.vmid)
            known = role in dict(service.roles)
            busy = service.state not in (None, documents.RUNNING)
            if busy or not known or not isinstance(cardinality, int) or cardinality < 0:
                words = f"Error performing action on service {service.service_id} role {role}"
                raise Refused(400, words)
            self.scale(service.service_id, role, cardinality)

    def _service_with(self, source: documents.Machine, vmid: int) -> documents.Service:
        service_id = source.attributes.get("SERVICE_ID")
        if not isinstance(service_id, str) or not service_id.isdecimal():
            raise Refused(400, "Empty or invalid SERVICE_ID")
        service = self._services.get(int(service_id))
        if service is None:
            raise Refused(404, f"Service {service_id} not found")
        machine = self._machines.get(vmid)
        if machine is None or machine.service_id != service.service_id:
            raise Refused(400, f"Service {service_id} does not contain VM {vmid}.")
        return service


def _without(attributes: template.Attributes, name: str, kind: int) -> template.Attributes:
    # OneGate takes the name for an XPath below USER_TEMPLATE: letters count, `*` is everything, and
    # NAME="value" is a comparison. What is thrown is shown; what OneGate itself refuses is not.
    if compared := re.fullmatch(r'([A-Za-z_]\w*)="([^"]*)"', name, re.ASCII):
        same = attributes.get(compared[1]) == compared[2]
        what = "true:TrueClass" if same else "false:FalseClass"
        raise Refused(500, f"undefined method `remove' for {what}")
    if not re.fullmatch(r"\*|[A-Za-z_]\w*", name, re.ASCII):
        raise Refused(500, f"Invalid expression: USER_TEMPLATE/{name}")
    kept = {key: value for key, value in attributes.items() if name not in ("*", key)}
    if kept == attributes and kind == ERASE:
        raise Refused(500, "Internal server error")
    return kept


def _usual_nic(vmid: int) -> dict[str, str]:
    low = vmid % 250 + 2
    return {
        "IP": f"172.20.0.{low}",
        "MAC": f"02:00:ac:14:00:{low:02x}",
        "NAME": "NIC0",
        "NETWORK": "private",
    }
