"""What of a changed `State` belongs into the record: trust, keys, versions and images. Pure."""

from collections.abc import Iterator

from flower_agent.model import pem
from flower_agent.model.record import Entry, Event, Result
from flower_agent.model.state import State


def changes(before: State, after: State) -> Iterator[Entry]:
    """Yield an entry for each change."""
    if after.ca_pin is not None and after.ca_pin != before.ca_pin:
        words = f"instead of {before.ca_pin}" if before.ca_pin else "the first one"
        yield Entry(what=Event.CA_PINNED, key=after.ca_pin, message=words)
    if after.worked_key is not None and after.worked_key != before.worked_key:
        shown = _shown(after.worked_key)
        yield Entry(what=Event.KEY_WORKS, key=shown, message="the SuperLink takes this node's key")
    yield from _pins(before, after)
    if after.flower is not None and after.flower != before.flower:
        words = f"from {before.flower} to {after.flower}" if before.flower else after.flower
        yield Entry(what=Event.FLOWER_VERSION, message=words)
    if after.refused is not None and after.refused != before.refused:
        version, why = after.refused
        words = f"{version} does not work here: {why}"
        yield Entry(what=Event.FLOWER_REFUSED, result=Result.FAILED, message=words)
    for reference, digest in sorted(set(after.images) - set(before.images)):
        yield Entry(what=Event.IMAGE_PINNED, name=reference, message=digest)


def _pins(before: State, after: State) -> Iterator[Entry]:
    """Yield the first keys of VMs that were pinned, and those that were given up."""
    known = {pin.vmid: pin.key for pin in before.pins}
    now = {pin.vmid: pin.key for pin in after.pins}
    for vmid, key in now.items():
        if known.get(vmid) != key:
            yield Entry(what=Event.KEY_PINNED, name=f"VM {vmid}", key=_shown(key))
    for vmid in known.keys() - now.keys():
        yield Entry(what=Event.KEY_UNPINNED, name=f"VM {vmid}", key=_shown(known[vmid]))


def _shown(key: str) -> str:
    try:
        return pem.node_key_fingerprint(key)
    except ValueError:
        return "unreadable"
