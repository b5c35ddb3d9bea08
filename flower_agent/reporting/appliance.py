"""What one-apps' files say of this VM, for its users and its test harness. Pure.

one-apps (appliances/lib/functions.sh): ``status`` has one word, ``STAGE_started``, ``_success`` or
``_failure``; ``config`` is what an operator wants to know; ``motd`` greets with "All set and ready
to serve 8)". There they are written once, when scripts ended. Here they follow the state.
"""

from collections.abc import Iterator

from .status import STOPPED, Status

READY = "All set and ready to serve 8)"
STAGES = ("configure", "bootstrap")
_CONTEXT = ("context.", "setting.")
"""Codes of what is wrong with the context, which is one-apps' stage ``configure``."""


def word(found: Status) -> str:
    """Return the content of ``status``."""
    if found.state == "ready":
        return "bootstrap_success"
    if found.state == STOPPED:
        return "install_success"  # what one-apps says before a VM is configured
    judged = found.error.code if found.error else ""
    stage = "configure" if found.role is None or judged.startswith(_CONTEXT) else "bootstrap"
    return f"{stage}_failure" if found.state == "failed" else f"{stage}_started"


def config(found: Status) -> str:
    """Return the content of ``config``; nothing in it is secret."""
    rows = [(name, value) for name, value in _rows(found) if value]
    width = max((len(name) for name, _ in rows), default=0)
    return "[Flower]\n" + "".join(f"{name:{width}} = {value}\n" for name, value in rows)


def motd(found: Status) -> str:
    """Return what greets who logs in."""
    return f"\n  {_title(found)}\n  {_mood(found)}\n\n  More: flower-agent status\n\n"


def line(found: Status) -> str:
    """Return a line of a log for this state."""
    return f"{word(found)}: {_mood(found)}"


def _rows(found: Status) -> Iterator[tuple[str, str | None]]:
    yield "role", found.role
    yield "version", found.version
    yield "endpoint", found.endpoint
    yield "tls", None if found.tls is None else "YES" if found.tls else "NO"
    yield "ca_fingerprint", found.ca_fingerprint
    yield "node_id", found.node_id
    yield "partition", found.partition


def _title(found: Status) -> str:
    words = (
        found.role or "",
        found.version or "",
        f"at {found.endpoint}" if found.endpoint else "",
    )
    return " ".join(("Flower", *(each for each in words if each)))


def _mood(found: Status) -> str:
    if found.state == "ready":
        return READY
    phase = f", phase {found.phase}" if found.phase else ""
    return f"{found.state}{phase}{f': {found.error.code}' if found.error else ''}"
