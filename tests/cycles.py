"""A `Cycle` as the loop would begin it, for tests of what takes one."""

import dataclasses

from flower_agent.cycle import Cycle, Observation, Report
from flower_agent.model.state import State
from flower_agent.onegate import status_attributes

SEEN = {field.name for field in dataclasses.fields(Observation)}
REPORT = {field.name for field in dataclasses.fields(Report)}


def cycle_of(*, state=None, **fields):
    """Return a cycle; each field goes to its observation, its report, or itself."""
    seen = {name: value for name, value in fields.items() if name in SEEN}
    report = {name: value for name, value in fields.items() if name in REPORT}
    own = {name: value for name, value in fields.items() if name not in SEEN | REPORT}
    return Cycle(seen=Observation(**seen), state=state or State(), report=Report(**report), **own)


def seeing(cycle, **changes):
    """Return a copy of a cycle that observed something else."""
    return dataclasses.replace(cycle, seen=dataclasses.replace(cycle.seen, **changes))


def attributes_of(cycle):
    """Return what the role publishes in that cycle, as OneGate's attributes."""
    return status_attributes.of_role(cycle.report.published)
