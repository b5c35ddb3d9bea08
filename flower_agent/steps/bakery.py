"""Framework images that are missing on the VM: made beside the loop, tried again ever later.

A build takes minutes and never holds up the care for what runs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import structlog

from flower_agent.errands import Errands
from flower_agent.errors import AgentError
from flower_agent.wanted.images import Image, Registry

from . import backoff
from .baker import Progress, Source

log = structlog.get_logger()


class Oven(Protocol):
    """What makes an image: `baker.Baker`."""

    def ensure(
        self,
        reference: str,
        parent: str,
        *,
        where: Source,
        pins: Mapping[str, str],
        registry: Registry | None,
        progress: Progress,
    ) -> Image:
        """Return the image, made where it must be."""


class Bakery:
    """At most one build at a time, and why the last one failed."""

    def __init__(
        self, oven: Oven, errands: Errands, where: Source | None = None, *, scale: float = 1.0
    ) -> None:
        self._oven = oven
        self._errands = errands
        self._usual = self._where = where or Source()
        self._scale = scale
        self._failures: dict[str, tuple[int, AgentError, float]] = {}
        self.progress = ""
        """What the running build last said."""

    def make(
        self,
        reference: str,
        parent: str,
        pins: Mapping[str, str],
        registry: Registry | None,
        now: float,
    ) -> AgentError | None:
        """Begin to make the image, or look how it goes; return why the last try failed.

        `now` is monotonic seconds. What waiting does not mend is tried every five minutes.
        """
        errand = f"make {reference}"
        done = self._errands.take(errand)
        tries, failed, again_at = self._failures.get(reference, (0, None, now))
        if done is not None and done.error is not None:
            tries, failed = tries + 1, done.error
            wait_s = backoff.delay_s(tries + 1) if failed.retryable else backoff.LONGEST_DELAY_S
            again_at = now + wait_s * self._scale
            self._failures[reference] = (tries, failed, again_at)
            self.progress = ""
            log.warning("image.make_failed", image=reference, reason=str(failed))
        elif done is not None:
            self._failures.pop(reference, None)
            return None

        def make() -> None:
            self._oven.ensure(
                reference,
                parent,
                where=self._where,
                pins=pins,
                registry=registry,
                progress=self._say,
            )

        if now >= again_at and self._errands.start(errand, make):
            log.info("image.make", image=reference)
        return failed

    def through(self, proxy: str) -> None:
        """Let pip use this proxy from now on; empty: the one of the agent's environment."""
        self._where = dataclasses.replace(self._usual, proxy=proxy or self._usual.proxy)

    def forget(self) -> None:
        """Try again at once: with other settings it may well work."""
        self._failures.clear()

    def _say(self, text: str) -> None:
        self.progress = text
