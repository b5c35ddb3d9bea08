"""The JSON that OneGate 7.4 answers: VMs and services, in short and in full.

Numbers of VMs are strings, those of OneFlow's states are not; a NIC is a list in the short form
and an object or a list in the full one. The shapes are those of real answers, kept in
tests/data/onegate-get-*.json.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from onegate_template import Attributes

PENDING, DEPLOYING, RUNNING = 0, 1, 2
"""States of OneFlow services and roles."""

_NIC_SHOWN = frozenset(
    {
        "IP",
        "IP6_LINK",
        "IP6_SITE",
        "IP6_GLOBAL",
        "NETWORK",
        "MAC",
        "NAME",
        "PARENT",
        "EXTERNAL",
        "EXTERNAL_IP",
    }
)


@dataclass(slots=True, kw_only=True)
class Machine:
    """A VM as oned and OneFlow know it."""

    vmid: int

    name: str
    """As OneFlow names it: `supernode_0_(service_1)`."""

    token: str
    """What the guest finds in token.txt: 16 bytes as base64."""

    started: datetime
    """When the VM was made (STIME)."""

    role: str | None = None
    """Role of the service that it was deployed for; OneFlow's own record, not ROLE_NAME."""

    service_id: int | None = None
    """Service that it was deployed for; OneFlow's own record, not SERVICE_ID."""

    nics: tuple[Mapping[str, str], ...] = ()
    """The NIC attributes of its template."""

    context: Mapping[str, str] = field(default_factory=dict)
    """Its CONTEXT, which only the full document shows."""

    attributes: Attributes = field(default_factory=dict)
    """USER_TEMPLATE, which OneGate updates."""

    gate_open: bool = False
    """OneFlow took it for ready once."""


@dataclass(frozen=True, slots=True)
class Service:
    """A OneFlow service."""

    service_id: int
    name: str

    roles: tuple[tuple[str, int], ...]
    """Name and cardinality of each role, in order."""

    state: int | None = None
    """OneFlow's number of its state, where somebody keeps that; else it follows from the VMs."""


def vm_document(machine: Machine) -> dict[str, Any]:
    """Return what `GET /vm` and `GET /vms/ID` answer."""
    shown = {name: held for name, held in machine.attributes.items() if name != "SCHED_MESSAGE"}
    nics = [{key: nic[key] for key in sorted(nic) if key in _NIC_SHOWN} for nic in machine.nics]
    return {
        "VM": {
            "NAME": machine.name,
            "ID": str(machine.vmid),
            "STATE": "3",
            "LCM_STATE": "3",
            "USER_TEMPLATE": shown,
            "TEMPLATE": {"NIC": nics, "NIC_ALIAS": []},
        }
    }


def service_document(
    service: Service, machines: Iterable[Machine], *, extended: bool
) -> dict[str, Any]:
    """Return what `GET /service` answers; `extended` puts each node's full document in it."""
    nodes = {
        role: [m for m in machines if (m.service_id, m.role) == (service.service_id, role)]
        for role, _ in service.roles
    }
    states = {role: _role_state(nodes[role], wanted) for role, wanted in service.roles}
    return {
        "SERVICE": {
            "name": service.name,
            "id": str(service.service_id),
            "state": _service_state(states.values()) if service.state is None else service.state,
            "roles": [
                {
                    "name": role,
                    "cardinality": cardinality,
                    "state": states[role],
                    "nodes": [_node(machine, extended=extended) for machine in nodes[role]],
                }
                for role, cardinality in service.roles
            ],
        }
    }


def _role_state(nodes: list[Machine], wanted: int) -> int:
    if len(nodes) >= wanted and all(machine.gate_open for machine in nodes):
        return RUNNING
    return DEPLOYING if nodes else PENDING


def _service_state(roles: Iterable[int]) -> int:
    states = set(roles)
    if states <= {RUNNING}:
        return RUNNING
    return PENDING if states == {PENDING} else DEPLOYING


def _node(machine: Machine, *, extended: bool) -> dict[str, Any]:
    vm = _full_vm(machine) if extended else _owned(machine)
    return {"deploy_id": machine.vmid, "running": None, "vm_info": {"VM": vm}}


def _owned(machine: Machine) -> dict[str, Any]:
    owner = {"UID": "0", "GID": "0", "UNAME": "oneadmin", "GNAME": "oneadmin"}
    return {"ID": str(machine.vmid), **owner, "NAME": machine.name}


def _full_vm(machine: Machine) -> dict[str, Any]:
    started = str(int(machine.started.timestamp()))
    rights = {f"{who}_{right}": "0" for who in ("OWNER", "GROUP", "OTHER") for right in "UMA"}
    return {
        **_owned(machine),
        "PERMISSIONS": {**rights, "OWNER_U": "1", "OWNER_M": "1"},
        "LAST_POLL": started,
        "STATE": "3",
        "LCM_STATE": "3",
        "PREV_STATE": "3",
        "PREV_LCM_STATE": "3",
        "RESCHED": "0",
        "STIME": started,
        "ETIME": "0",
        "DEPLOY_ID": f"localhost:{machine.name}:dummy",
        "MONITORING": _monitoring(machine.vmid, started),
        "SCHED_ACTIONS": {},
        "TEMPLATE": _full_template(machine),
        "USER_TEMPLATE": machine.attributes,
        "HISTORY_RECORDS": {"HISTORY": _history(machine.vmid, started)},
        "BACKUPS": {"BACKUP_CONFIG": {}, "BACKUP_IDS": {}},
    }


def _full_template(machine: Machine) -> dict[str, Any]:
    group = {"SECURITY_GROUP_ID": "0", "SECURITY_GROUP_NAME": "default"}
    nics = [_full_nic(machine.vmid, index, nic) for index, nic in enumerate(machine.nics)]
    return {
        "AUTOMATIC_DS_REQUIREMENTS": '("CLUSTERS/ID" @> 0)',
        "AUTOMATIC_NIC_REQUIREMENTS": '("CLUSTERS/ID" @> 0)',
        "AUTOMATIC_REQUIREMENTS": "(CLUSTER_ID = 0) & !(PIN_POLICY = PINNED)",
        "CONTEXT": dict(sorted({"DISK_ID": "0", "TARGET": "hda", **machine.context}.items())),
        "CPU": "0.1",
        "CREATED_BY": "0",
        "MEMORY": "64",
        **({"NIC": nics[0] if len(nics) == 1 else nics} if nics else {}),
        "SECURITY_GROUP_RULE": [
            {"PROTOCOL": "ALL", "RULE_TYPE": direction, **group}
            for direction in ("OUTBOUND", "INBOUND")
        ],
        "TEMPLATE_ID": "1",
        "TM_MAD_SYSTEM": "dummy",
        "VMID": str(machine.vmid),
    }


def _full_nic(vmid: int, index: int, nic: Mapping[str, str]) -> dict[str, str]:
    usual = {
        "AR_ID": "0",
        "BRIDGE": "br0",
        "BRIDGE_TYPE": "linux",
        "CLUSTER_ID": "0",
        "DNS": "1.1.1.1",
        "GATEWAY": "172.20.0.1",
        "NETWORK_ID": "0",
        "NIC_ID": str(index),
        "SECURITY_GROUPS": "0",
        "TARGET": f"one-{vmid}-{index}",
        "VN_MAD": "dummy",
    }
    return dict(sorted({**usual, **nic}.items()))


def _monitoring(vmid: int, polled: str) -> dict[str, str]:
    return {
        "CPU": "0",
        "DISKRDBYTES": "125",
        "DISKRDIOPS": "747",
        "DISKWRBYTES": "628",
        "DISKWRIOPS": "766",
        "ID": str(vmid),
        "MEMORY": "20971",
        "NETRX": "9208",
        "NETTX": "8858",
        "TIMESTAMP": polled,
    }


def _history(vmid: int, started: str) -> dict[str, str]:
    never = ("ETIME", "RETIME", "ESTIME", "EETIME")
    return {
        "OID": str(vmid),
        "SEQ": "0",
        "HOSTNAME": "localhost",
        "HID": "0",
        "CID": "0",
        "STIME": started,
        "VM_MAD": "dummy",
        "TM_MAD": "dummy",
        "DS_ID": "0",
        "PLAN_ID": "-2",
        "ACTION_ID": "-1",
        "PSTIME": started,
        "PETIME": started,
        "RSTIME": started,
        "ACTION": "0",
        "UID": "-1",
        "GID": "-1",
        "REQUEST_ID": "-1",
        **dict.fromkeys(never, "0"),
    }
