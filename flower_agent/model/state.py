"""What the agent remembers across reboots beside its certificates, as one small JSON file. Pure.

The file says for which VM it was made, so that the agent notices a cloned disk.
"""

import dataclasses
import json
from collections.abc import Mapping

from flower_agent.model import pem
from flower_agent.model.address import Address, parse_address


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """Which part of the data this node trains on."""

    partition_id: int
    num_partitions: int

    def __str__(self) -> str:
        return f"{self.partition_id}/{self.num_partitions}"


@dataclasses.dataclass(frozen=True, slots=True)
class Pin:
    """The first key that a VM published; a different later key is refused."""

    vmid: str
    key: str
    """OpenSSH form without comment."""

    own: bool
    """The agent registered it, so the agent may unregister it."""


@dataclasses.dataclass(frozen=True, slots=True)
class AppNeeds:
    """One app at one commit."""

    source: str
    """CUSTOM_APP_REPO without its login; for another value the app is fetched again."""

    commit: str

    app: str
    """Publisher, name and version."""

    dependencies: tuple[str, ...] = ()
    """``[project] dependencies``, PEP 508."""

    def __str__(self) -> str:
        return f"{self.app} at {self.commit[:10]}"


def needs_document(needs: AppNeeds) -> dict[str, object]:
    """Return what `read_needs` takes, for JSON."""
    return {
        "source": needs.source,
        "commit": needs.commit,
        "app": needs.app,
        "dependencies": list(needs.dependencies),
    }


def read_needs(found: Mapping[str, object]) -> AppNeeds:
    """Return the needs in a document. Raises ValueError for anything else."""
    texts = [found.get(name) for name in ("source", "commit", "app")]
    dependencies = found.get("dependencies")
    rows = dependencies if isinstance(dependencies, list) else [dependencies]
    if dependencies is not rows or not all(isinstance(text, str) for text in (*texts, *rows)):
        raise ValueError("want source, commit and app as texts, dependencies as a list of them")
    source, commit, app = map(str, texts)
    return AppNeeds(source, commit, app, tuple(map(str, rows)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The agent's memory (``/var/lib/flower-agent/state.json``)."""

    vmid: str | None = None
    """OpenNebula's id of the VM that made it; None on a VM without a token."""

    partition: Partition | None = None
    """Kept for the life of the VM."""

    assigned: bool = False
    """SuperNode: the SuperLink assigned that partition (FLOWER_PARTITIONS)."""

    superlink: Address | None = None
    """Where the SuperLink was last; used while OneGate is away."""

    superlink_vmid: str | None = None
    """Its VM; for a SuperExec VM: the VM that offers its AppIo."""

    ca_pin: str | None = None
    """SHA-256 of the first CA that OneGate handed over; another one is refused."""

    in_service: bool | None = None
    """SuperLink: whether OneGate said that this VM belongs to a service; None before it did."""

    pins: tuple[Pin, ...] = ()
    """SuperLink: the first node key of each VM of the service, by VMID."""

    partitions: tuple[tuple[str, int], ...] = ()
    """SuperLink: which id each VM has, and each site by its key's fingerprint."""

    superlink_auth: bool | None = None
    """SuperNode: whether the SuperLink wants node keys, as it last said."""

    worked_key: str | None = None
    """SuperNode: the public key with which it was connected last."""

    images: tuple[tuple[str, str], ...] = ()
    """Reference and digest of each image that was pulled: a tag that moves is not followed."""

    flower: str | None = None
    """The Flower version that last worked here; a SuperLink's database is of it."""

    app: AppNeeds | None = None
    """What the app of CUSTOM_APP_REPO needs; its branch is not looked at again."""

    app_image: tuple[str, str] | None = None
    """The image with that, and what it was made of."""

    refused: tuple[str, str] | None = None
    """The Flower version whose upgrade failed, and why."""


def dump(record: State) -> bytes:
    """Return the file's content."""
    document = {
        "schema": 1,
        "vmid": record.vmid,
        "partition": dataclasses.asdict(record.partition) if record.partition else None,
        "superlink": str(record.superlink) if record.superlink else None,
        "superlink_vmid": record.superlink_vmid,
        "ca_pin": record.ca_pin,
        "in_service": record.in_service,
        "pins": {pin.vmid: {"key": pin.key, "own": pin.own} for pin in record.pins},
        "assigned": record.assigned,
        "partitions": dict(record.partitions),
        "superlink_auth": record.superlink_auth,
        "worked_key": record.worked_key,
        "images": dict(record.images),
        "flower": record.flower,
        "refused": record.refused,
        "app": needs_document(record.app) if record.app else None,
        "app_image": record.app_image,
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def load(data: bytes) -> State:
    """Return the state in a file's content. Raises ValueError for anything else."""
    try:
        document = json.loads(data)
        partition, superlink = document.get("partition"), document.get("superlink")
        return State(
            vmid=_text(document.get("vmid")),
            partition=(
                Partition(int(partition["partition_id"]), int(partition["num_partitions"]))
                if partition
                else None
            ),
            superlink=parse_address(superlink) if superlink else None,
            superlink_vmid=_text(document.get("superlink_vmid")),
            ca_pin=_text(document.get("ca_pin")),
            in_service=_switch(document.get("in_service")),
            pins=tuple(_pin(k, v) for k, v in (document.get("pins") or {}).items()),
            assigned=_switch(document.get("assigned")) is True,
            partitions=tuple(_id(k, v) for k, v in (document.get("partitions") or {}).items()),
            superlink_auth=_switch(document.get("superlink_auth")),
            worked_key=_text(document.get("worked_key")),
            images=tuple(sorted((str(k), str(v)) for k, v in document.get("images", {}).items())),
            flower=_text(document.get("flower")),
            refused=_pair(document.get("refused")),
            app=read_needs(document["app"]) if document.get("app") else None,
            app_image=_pair(document.get("app_image")),
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"not a state file: {error!r}") from error


def for_vm(record: State, vmid: str | None) -> tuple[State, bool]:
    """Return the state as VM `vmid` may use it, and whether it came from another VM.

    On another VM the partition is chosen again; OneGate's answer about the service and the working
    key are dropped; CA, pins and images are kept. A VM that lost its token for a while (None) keeps
    everything.
    """
    if vmid is None or record.vmid == vmid:
        return record, False
    if record.vmid is None:
        return dataclasses.replace(record, vmid=vmid), False
    return dataclasses.replace(
        record, vmid=vmid, partition=None, assigned=False, in_service=None, worked_key=None
    ), True


def _pin(vmid: str, value: Mapping[str, object]) -> Pin:
    """Return a pin; one whose key is none would never match anything."""
    (key,) = pem.node_keys(str(value["key"]))
    return Pin(vmid, key, own=value["own"] is True)


def _id(owner: str, number: object) -> tuple[str, int]:
    """Return who has which partition."""
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no partition")
    return str(owner), number


def _switch(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _pair(value: object) -> tuple[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or [type(each) for each in value] != [str, str]:
        raise ValueError(f"{value!r} is not two texts")
    return value[0], value[1]


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value
