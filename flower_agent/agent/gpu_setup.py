"""Set up the GPU: look for it, hand it over, and see from inside the container that it works.

nvidia-smi and the test may take seconds, so both run in the background. The last answer counts
until a newer one; a cycle waits only before the first answer.
"""

import dataclasses
import datetime
from collections.abc import Callable

import structlog

from flower_agent.background import Background, Threads, after_failure
from flower_agent.config.types import GpuMode, Role
from flower_agent.cycle import Cycle
from flower_agent.docker.client import Engine
from flower_agent.docker.containers import Existing
from flower_agent.host import gpu, nvidia
from flower_agent.host.gpu import Asked, Gpu, GpuAccess, Offers
from flower_agent.model import errors
from flower_agent.model.errors import Finding, Severity, warning
from flower_agent.model.status import Mark

log = structlog.get_logger()

AGAIN_S = 600.0
"""Re-check interval of a working GPU: a `systemctl daemon-reload` may remove it."""

MEND_S = 20.0
"""Re-check interval while the GPU is unhealthy."""

_Start = tuple[str, datetime.datetime | None]
"""One start of a container: its id and time."""


class GpuSetup:
    """The way in which the containers that compute get the GPU."""

    def __init__(
        self,
        engine: Engine,
        threads: Threads,
        *,
        ask: Callable[[], Asked] = nvidia.ask,
        scale: float = 1.0,
    ) -> None:
        self._engine = engine
        self._ask = ask
        self._scale = scale
        again_s = AGAIN_S * scale
        self._asking: Background[gpu.Files, Asked] = Background(
            threads, "nvidia-smi", after_failure(again_s), good_for_s=again_s
        )
        self._probing: Background[_Start, gpu.Answer] = Background(
            threads, "gpu-probe", after_failure(MEND_S * scale), good_for_s=again_s
        )
        self._asked: Asked | None = None
        """The last answer, kept while a new question runs."""

        self._offers: Offers | None = None
        self._refused: tuple[object, Finding] | None = None

    def choose(self, cycle: Cycle, held: GpuAccess) -> GpuAccess | None:
        """Return how the containers that compute get GPUs; None while nvidia-smi runs.

        `held` is the way of the running container. Raises AgentError ``gpu.…`` if a GPU is required
        and not usable.
        """
        mode = cycle.seen.settings.gpu
        # A SuperLink never computes: its GPUs are only shown.
        if cycle.seen.settings.role is Role.SUPERLINK:
            mode = GpuMode.NO
            if not cycle.seen.gpu.devices:
                return GpuAccess.NONE
        wanted = mode is not GpuMode.NO and bool(cycle.seen.gpu.devices)
        if wanted and not self._know(cycle):
            cycle.report.set_condition("gpu", Mark.WAITING, "runs nvidia-smi")
            return None
        asked, offers = self._asked or Asked(), self._offers or Offers()
        found = gpu.judge(mode, cycle.seen.gpu, asked, offers, held)
        # A running container keeps its GPU: a refusal is about the next start only.
        if not held:
            found = self._after_refusal(found, cycle)
        if found.finding is not None and found.finding.severity is Severity.ERROR:
            self._asking.again(cycle.seen.monotonic + MEND_S * self._scale)
        self._tell(cycle, found.detail, found.finding, used=bool(found.access))
        return found.access

    def refuse(self, cycle: Cycle, finding: Finding) -> None:
        """Record that Docker refused a container with a GPU; with AUTO the next one has none."""
        if cycle.seen.settings.gpu is GpuMode.AUTO:
            self._refused = (self._state(cycle), finding)

    def check(self, cycle: Cycle, container: Existing) -> bool:
        """Return whether the test inside a running container has ended; False while it runs.

        Raises AgentError ``gpu.not_in_container`` if the GPU is required and does not work; with
        AUTO this is a warning.
        """
        start, name = (container.container_id, container.started_at), container.name
        ended = self._probing.ask(
            start, lambda: self._engine.execute(name, gpu.COMMAND), cycle.seen.monotonic
        )
        if self._probing.answer is None:  # no answer yet, or Docker fails: the loop sees that too
            cycle.report.set_condition(
                "gpu", Mark.WAITING, f"{cycle.report.conditions['gpu'].detail}; tests {name}"
            )
            return False
        seen, why = gpu.probed(self._probing.answer)
        if ended is not None and ended.error is None:
            log.info("gpu.probed", name=name, seen=[str(card) for card in seen], reason=why)
        if why:
            self._probing.again(cycle.seen.monotonic + MEND_S * self._scale)
            message = f"{name} reaches no GPU: {why}"
            hint = f"docker restart {name}; if that does not help: nvidia-smi on the VM."
            self._tell(cycle, message, Finding("gpu.not_in_container", message, hint), used=False)
        return True

    def _know(self, cycle: Cycle) -> bool:
        """Check again if it is time; return whether anything is known."""
        began_at = self._asking.began_at
        ended = self._asking.ask(cycle.seen.gpu, self._ask, cycle.seen.monotonic)
        if ended is not None:
            self._asked = ended.answer or Asked()
        if self._asking.began_at != began_at:  # a new question: Docker may offer other ways too
            self._offers = None
        if self._offers is None:
            self._offers = self._engine.offers()
        return self._asked is not None

    def _after_refusal(self, found: Gpu, cycle: Cycle) -> Gpu:
        """Use no GPU after Docker refused it, until files, answers or settings change."""
        if self._refused is None or self._refused[0] != self._state(cycle) or not found.access:
            return found
        finding = self._refused[1]
        return Gpu(GpuAccess.NONE, finding.message, finding)

    def _state(self, cycle: Cycle) -> object:
        return cycle.seen.gpu, self._asked, cycle.seen.settings

    def _tell(self, cycle: Cycle, detail: str, finding: Finding | None, *, used: bool) -> None:
        mild = finding is not None and finding.severity is Severity.WARNING
        must = (
            cycle.seen.settings.gpu is GpuMode.YES
            and cycle.seen.settings.role is not Role.SUPERLINK
        )
        must = must and not mild
        bad = finding is not None and must
        cycle.report.set_condition(
            "gpu", Mark.BAD if bad else Mark.OK if used else Mark.OFF, detail
        )
        cycle.report.published = dataclasses.replace(cycle.report.published, gpu=detail)
        if finding is None:
            return
        if must:
            raise errors.of(finding)
        if cycle.seen.gpu.devices:
            cycle.report.warn(warning(finding.code, finding.message, finding.hint))
