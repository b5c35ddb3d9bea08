"""When a search at OneGate goes on.

One that waits for something to appear asks every 5 to 15 s. Where OneGate itself fails, each
failure in a row doubles that, up to 20 to 60 s: what a thousand VMs ask again then stays below what
a small OneGate answers.
"""

import random

from flower_agent.background import Pause
from flower_agent.errors import AgentError

RETRY_S = (5.0, 15.0)
MOST_DOUBLINGS = 2


def is_answer(error: AgentError) -> bool:
    """Return whether OneGate answered, though not with what is looked for."""
    return not error.finding.code.startswith("onegate.")


def policy(rng: random.Random, scale: float) -> Pause:
    """Return the pauses of a search in the background, also after a good answer."""

    def pause(error: AgentError | None, failures: int) -> float:
        away = error is not None and not is_answer(error)
        return pause_s(failures if away else 0, rng.random()) * scale

    return pause


def pause_s(failures: int, chance: float) -> float:
    """Return the seconds until the next question after that many failures of OneGate in a row.

    `chance` is random in 0..1.
    """
    shortest, longest = RETRY_S
    pause = shortest + (longest - shortest) * chance
    return pause * 2.0 ** max(0, min(failures - 1, MOST_DOUBLINGS))
