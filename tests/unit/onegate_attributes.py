"""The attributes that the agent publishes at OneGate."""

import dataclasses
import functools

from flower_agent.model import lifecycle
from flower_agent.model.published import Published
from flower_agent.model.state import Partition
from flower_agent.model.status import Status
from flower_agent.onegate import status_attributes


@functools.cache
def attributes():
    """Return what the code tells OneGate, read off the code."""
    now = lifecycle.born(None, 0).since
    empty = Status(
        state="", since=now, phase=None, phase_since=now, written_at=now, agent_version=""
    )
    fields = {field.name: "" for field in dataclasses.fields(Published)}
    everything = Published(**{**fields, "busy": False, "partition": Partition(0, 1)})
    return {*status_attributes.attributes(empty, everything), "READY", "FLOWER_SEEN"}
