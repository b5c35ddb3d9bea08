"""When a search at OneGate goes on. Pure.

One that waits for something to appear asks every 5 to 15 s. Where OneGate itself fails, each
failure in a row doubles that, up to 20 to 60 s: what a thousand VMs ask again then stays below what
a small OneGate answers.
"""

RETRY_S = (5.0, 15.0)
MOST_DOUBLINGS = 2


def failures(before: int, code: str) -> int:
    """Return OneGate's failures in a row after an answer; `code` is empty for a good one."""
    return before + 1 if code.startswith("onegate.") else 0


def pause_s(failures: int, chance: float) -> float:
    """Return the seconds until the next question after that many; `chance` is random in 0..1."""
    shortest, longest = RETRY_S
    pause = shortest + (longest - shortest) * chance
    return pause * 2.0 ** max(0, min(failures - 1, MOST_DOUBLINGS))
