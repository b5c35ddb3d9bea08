"""The VM templates: one for each kind of VM, as attributes and as OpenNebula's text. Pure.

OpenNebula's texts take no newline and no lone ``$`` in a context value, and of a VM that OneFlow
makes, restricted attributes (PCI, PIN_POLICY; share/etc/oned.conf) must stand in the VM template as
oneadmin made it. Facts on TOPOLOGY: src/vm/VirtualMachineParser.cc, parse_topology; on PCI: the
same file, parse_pci; on FIRMWARE: src/vmm/LibVirtDriverKVM.cc takes UEFI as "the host chooses".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import user_inputs

from flower_agent.config.settings import Setting
from flower_agent.config.types import Role

Vector = dict[str, str]
Attributes = dict[str, str | Vector | list[Vector]]

DATACENTER_GPU = {"VENDOR": "10de", "CLASS": "0302"}
"""Any NVIDIA device of PCI class "3D controller"."""

STATE_TARGET = "vdb"
"""Second disk of a VM whose disks all are virtio: the image's is ``vda``, the context's a CD."""

REMOTE = ("FLOWER_SERVER_ADDRESS", "TLS_CA_CERT")
"""What a SuperNode must be told that cannot ask the SuperLink's OneGate."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """What of a cloud stands in the templates."""

    image: str | None = "Flower"
    """Name of the image; None for the Marketplace, which adds the disk itself."""

    network: str | None = None
    """Name of a virtual network, for VMs outside a service."""

    network_owner: str = "oneadmin"
    """Whose network has that name: a name alone is looked for among the user's own."""

    netcfg: str = "interfaces"
    """NETCFG_TYPE of the image: with ``interfaces`` a Debian VM boots 25 s sooner than with
    ``networkd``."""

    state_image: int | None = None
    """Number of the persistent image that keeps the SuperLink's state."""

    gpu: tuple[tuple[str, str], ...] = tuple(DATACENTER_GPU.items())
    """The PCI attribute: VENDOR, DEVICE, CLASS in hexadecimal, or SHORT_ADDRESS."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One VM template."""

    name: str
    title: str
    role: Role
    word: str
    """FLOWER_ROLE."""

    description: str
    vcpu: int
    memory_mib: int
    mandatory: tuple[str, ...] = ()
    gpu: bool = False
    fixed: tuple[tuple[str, str], ...] = ()
    """Variables that the template says and nobody is asked for."""


KINDS = (
    Kind(
        name="superlink", title="Flower SuperLink", role=Role.SUPERLINK, word="server",
        description="SuperLink of a Flower federation, with its ServerApps.",
        vcpu=2, memory_mib=4096,
    ),
    Kind(
        name="supernode", title="Flower SuperNode", role=Role.SUPERNODE, word="client",
        description="SuperNode of a Flower federation, with its ClientApps.",
        vcpu=4, memory_mib=8192,
    ),
    Kind(
        name="supernode-gpu", title="Flower SuperNode GPU", role=Role.SUPERNODE, word="client",
        description="SuperNode with an NVIDIA GPU: pinned CPUs on one NUMA node, UEFI, PCI device.",
        vcpu=8, memory_mib=16384, gpu=True, fixed=(("GPU_ENABLED", "YES"),),
    ),
    Kind(
        name="supernode-remote", title="Flower SuperNode Remote", role=Role.SUPERNODE,
        word="client",
        description="SuperNode of a federation whose SuperLink is in another zone or cloud.",
        vcpu=4, memory_mib=8192, mandatory=REMOTE,
    ),
    Kind(
        name="superexec", title="Flower SuperExec", role=Role.SUPEREXEC, word="superexec",
        description="SuperExec that runs the apps of a SuperLink or SuperNode elsewhere.",
        vcpu=4, memory_mib=8192,
    ),
)  # fmt: skip


def with_state_disk(kind: Kind, cloud: Cloud) -> Kind:
    """Return the kind as the cloud has it: a SuperLink may have a disk for its state."""
    if cloud.state_image is None or kind.role is not Role.SUPERLINK:
        return kind
    fixed = (*kind.fixed, ("FLOWER_STATE_DISK", f"/dev/{STATE_TARGET}"))
    return dataclasses.replace(kind, fixed=fixed)


def rows(kind: Kind) -> tuple[Setting[Any], ...]:
    """Return the variables that a VM of `kind` is asked for, the mandatory ones first."""
    fixed = dict(kind.fixed)
    found = [row for row in user_inputs.offered(kind.role) if row.name not in fixed]
    return tuple(sorted(found, key=lambda row: not (row.required or row.name in kind.mandatory)))


def attributes(kind: Kind, cloud: Cloud) -> Attributes:
    """Return the whole VM template."""
    kind = with_state_disk(kind, cloud)
    asked = user_inputs.inputs(rows(kind), kind.mandatory)
    found: Attributes = {
        "NAME": kind.title,
        "DESCRIPTION": kind.description,
        "HYPERVISOR": "kvm",
        "CPU": str(kind.vcpu),
        "VCPU": str(kind.vcpu),
        "MEMORY": str(kind.memory_mib),
        # NumPy's wheels want x86-64-v2, which QEMU's default model lacks.
        "CPU_MODEL": {"MODEL": "host-passthrough"},
        "OS": {"ARCH": "x86_64"},
        "FEATURES": {"GUEST_AGENT": "yes"},
        "GRAPHICS": {"LISTEN": "0.0.0.0", "TYPE": "VNC"},  # noqa: S104 - Sunstone dials it
        "NIC_DEFAULT": {"MODEL": "virtio"},
        "CONTEXT": _context(kind, cloud, asked),
        "INPUTS_ORDER": ",".join(asked),
        "USER_INPUTS": asked,
        "USER_INPUTS_METADATA": user_inputs.metadata(rows(kind)),
    }
    if disks := _disks(kind, cloud):
        found["DISK"] = disks
    if cloud.network:
        found["NIC"] = [{"NETWORK": cloud.network, "NETWORK_UNAME": cloud.network_owner}]
    return found | (_passthrough(kind, cloud) if kind.gpu else {})


def render(template: Mapping[str, str | Vector | list[Vector]]) -> str:
    """Return the template as `onetemplate create` takes it."""
    lines = []
    for name, held in template.items():
        for value in held if isinstance(held, list) else [held]:
            if isinstance(value, str):
                lines.append(f"{name} = {_quoted(value)}")
            else:
                inner = ",\n".join(f"  {key} = {_quoted(text)}" for key, text in value.items())
                lines.append(f"{name} = [\n{inner} ]")
    return "\n".join(lines) + "\n"


def _disks(kind: Kind, cloud: Cloud) -> list[Vector]:
    """Return the disks in the order in which the VM sees them."""
    disks = [{"IMAGE": cloud.image, "IMAGE_UNAME": "oneadmin"}] if cloud.image else []
    if cloud.state_image is not None and kind.role is Role.SUPERLINK:
        number = str(cloud.state_image)
        disks.append({"IMAGE_ID": number, "DEV_PREFIX": "vd", "TARGET": STATE_TARGET})
    return disks


def _context(kind: Kind, cloud: Cloud, asked: Mapping[str, str]) -> Vector:
    return {
        "NETWORK": "YES",
        "TOKEN": "YES",
        "NETCFG_TYPE": cloud.netcfg,
        "SSH_PUBLIC_KEY": "$USER[SSH_PUBLIC_KEY]",
        "FLOWER_ROLE": kind.word,
        **dict(kind.fixed),
        **{name: f"${name}" for name in asked},
    }


def _passthrough(kind: Kind, cloud: Cloud) -> Attributes:
    """Return what a VM with a GPU has beside: one socket makes one NUMA node of all its memory."""
    return {
        "OS": {"ARCH": "x86_64", "MACHINE": "q35", "FIRMWARE": "UEFI"},
        "TOPOLOGY": {
            "PIN_POLICY": "CORE",
            "SOCKETS": "1",
            "CORES": str(kind.vcpu),
            "THREADS": "1",
        },
        "PCI": [dict(cloud.gpu)],
    }


def _quoted(text: str) -> str:
    if "\\" in text or "\n" in text:
        raise ValueError(f"OpenNebula would change {text!r}")
    return '"' + text.replace('"', '\\"') + '"'
