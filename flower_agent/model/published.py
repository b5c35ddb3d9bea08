"""What a VM publishes at OneGate for the other VMs of its service. Pure."""

import dataclasses

from flower_agent.model.address import Address
from flower_agent.model.state import Partition


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a VM's role publishes at OneGate beside its state; None: nothing is said of it."""

    endpoint: Address | None = None
    """SuperLink: its Fleet API as nodes dial it. SuperNode: the one that it dials."""

    node_auth: bool | None = None
    """SuperLink: whether SuperNodes need keys."""

    nodes: int | None = None
    """SuperLink: how many SuperNodes are connected."""

    partitions: str | None = None
    """SuperLink: who has which partition; empty: it no longer assigns any."""

    ca_pem: str | None = None
    ca_fingerprint: str | None = None
    """SuperLink: its CA."""

    run: str | None = None
    """SuperLink: how the run that is active or ended last stands; empty: there is none."""

    node_key: str | None = None
    """SuperNode: the public half of its key."""

    node_id: str | None = None
    partition: Partition | None = None
    """SuperNode: its part of the data."""

    busy: bool | None = None
    """SuperNode: an app computes."""

    app_error: str | None = None
    """The last ClientApp's end that was no answer; empty: there is none."""

    app_image: str | None = None
    """Digest of the image that runs apps, and what it lacks."""

    gpu: str | None = None
    appio: Address | None = None
    """Where a SuperExec elsewhere attaches."""

    appio_ca_pem: str | None = None
    """SuperNode: the CA of its AppIo."""
