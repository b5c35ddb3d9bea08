"""What the gateway did, as entries of the record."""

from collections.abc import Callable

from flower_agent.agent.gateway_interface import log_event
from flower_agent.agent.gateway_requests import GatewayEvent
from flower_agent.model.record import UNKNOWN, Entry, Event, Result
from flower_agent.record_file import Record

_KNOWN = {str(event): event for event in Event if event.startswith("gateway.")}


def recorder(record: Record) -> Callable[[GatewayEvent], None]:
    """Return what writes each event into the journal, and those that are known into `record`.

    It belongs to the thread that calls it. A record that cannot be written is the daemon's warning;
    here the journal has the event all the same.
    """

    def write(event: GatewayEvent) -> None:
        log_event(event)
        entry = to_entry(event)
        if entry is not None:
            record.append(entry)
            record.flush()

    return write


def to_entry(event: GatewayEvent) -> Entry | None:
    """Return the entry of an event; None for one that is for the journal alone. Pure.

    The gateway says who: an account, or nobody that it knows. It can be no local user.
    """
    what = _KNOWN.get(event.name)
    if what is None:
        return None
    said = {key: str(value) for key, value in event.fields.items() if value}
    who = said.get("who", UNKNOWN)
    words = [said.get("message", ""), f"from {said['origin']}" if "origin" in said else ""]
    return Entry(
        what=what,
        who=who if who.startswith("account:") else UNKNOWN,
        result=Result.DONE if said.get("result", "ok") == "ok" else Result.REFUSED,
        run=said.get("run_id", ""),
        app=said.get("app", ""),
        message="; ".join(filter(None, words)),
    )
