"""Framework images that are missing on the VM: made beside the loop, tried again ever later.

A build takes minutes and never holds up the care for what runs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import structlog

from flower_agent.background import Background, Threads
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


_Request = tuple[str, str, Registry | None, Source]
"""The parent image, its pinned digest, and where it and the wheels are from."""


class Bakery:
    """At most one build at a time, and why the last one failed."""

    def __init__(
        self, oven: Oven, threads: Threads, where: Source | None = None, *, scale: float = 1.0
    ) -> None:
        self._oven = oven
        self._threads = threads
        self._usual = self._where = where or Source()
        self._scale = scale
        self._builds: dict[str, Background[_Request, Image]] = {}
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

        `now` is monotonic seconds. What waiting does not mend is tried every five minutes; another
        parent, registry or proxy is tried at once.
        """
        build, where = self._build(reference), self._where
        request = (parent, pins.get(parent, ""), registry, where)

        def make() -> Image:
            return self._oven.ensure(
                reference,
                parent,
                where=where,
                pins=pins,
                registry=registry,
                progress=self._say,
            )

        ended = build.take(request, now)
        if ended is not None:
            self.progress = ""
            if ended.error is None:
                return None
            log.warning("image.make_failed", image=reference, reason=str(ended.error))
        if now >= build.due_at and build.start(request, make, now):
            log.info("image.make", image=reference)
        return build.error

    def through(self, proxy: str) -> None:
        """Let pip use this proxy from now on; empty: the one of the agent's environment."""
        self._where = dataclasses.replace(self._usual, proxy=proxy or self._usual.proxy)

    def forget(self) -> None:
        """Try again at once: with other settings it may well work."""
        for build in self._builds.values():
            build.forget()

    def _build(self, reference: str) -> Background[_Request, Image]:
        if reference not in self._builds:
            pause, name = backoff.policy(self._scale), f"make {reference}"
            self._builds[reference] = Background(self._threads, name, pause, good_for_s=0.0)
        return self._builds[reference]

    def _say(self, text: str) -> None:
        self.progress = text
