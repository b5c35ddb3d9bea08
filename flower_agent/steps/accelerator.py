"""The GPU of a turn: looks for it, hands it over, and sees from inside the container that it works.

nvidia-smi and the probe may take seconds, so both run as errands. What is known counts until a
newer answer comes; only before the first answer a turn waits.
"""

from collections.abc import Callable

import structlog

from flower_agent.config.parsers import GpuMode, Role
from flower_agent.errands import Errands
from flower_agent.errors import AgentError, Finding, Severity, warning
from flower_agent.loop.turn import Turn
from flower_agent.machine import gpu, gpu_probe, nvidia
from flower_agent.machine.gpu import Access, Asked, Gpu, Offers
from flower_agent.reporting.status import Mark
from flower_agent.wanted.containers import Existing

from .engine import Engine

AGAIN_S = 600.0
"""So often a GPU that works is looked at again: a `systemctl daemon-reload` may take it away."""

MEND_S = 20.0
"""So often where something is wrong."""

_ASK = "nvidia-smi"
_PROBE = "gpu-probe"

log = structlog.get_logger()


class Accelerator:
    """Whether and how the containers that compute get the GPU."""

    def __init__(
        self,
        engine: Engine,
        errands: Errands,
        *,
        ask: Callable[[], Asked] = nvidia.ask,
        scale: float = 1.0,
    ) -> None:
        self._engine = engine
        self._errands = errands
        self._ask = ask
        self._scale = scale
        self._files: gpu.Files | None = None
        self._asked: Asked | None = None
        self._ask_at = 0.0
        self._offers: Offers | None = None
        self._refused: tuple[object, Finding] | None = None
        self._probed: tuple[object, str] | None = None
        self._probe_at = 0.0

    def choose(self, turn: Turn, held: Access) -> Access | None:
        """Return how the containers that compute get GPUs; None while nvidia-smi is asked.

        `held` is how one that runs was given them. Raises AgentError ``gpu.…`` where one must be
        usable and is not.
        """
        mode = turn.settings.gpu
        if turn.settings.role is Role.SUPERLINK:
            mode = GpuMode.NO
            if not turn.gpu.devices:
                return Access.NONE
        wanted = mode is not GpuMode.NO and bool(turn.gpu.devices)
        if wanted and not self._know(turn):
            turn.note("gpu", Mark.WAITING, "nvidia-smi is asked")
            return None
        asked, offers = self._asked or Asked(), self._offers or Offers()
        found = gpu.judge(mode, turn.gpu, asked, offers, held)
        if not held:
            found = self._after_refusal(found, turn)
        if found.finding is not None and found.finding.severity is Severity.ERROR:
            self._ask_at = min(self._ask_at, turn.monotonic + MEND_S * self._scale)
        self._tell(turn, found.detail, found.finding, used=bool(found.access))
        return found.access

    def refuse(self, turn: Turn, finding: Finding) -> None:
        """Note that Docker did not start a container with a GPU; with AUTO it then goes without."""
        if turn.settings.gpu is GpuMode.AUTO:
            self._refused = (self._state(turn), finding)

    def check(self, turn: Turn, container: Existing) -> bool:
        """Tell whether a running container was seen to reach a GPU; False while it is probed.

        Raises AgentError ``gpu.not_in_container`` where it must and does not; with AUTO that is a
        warning.
        """
        start = (container.container_id, container.started_at)
        done = self._errands.take(_PROBE)
        if done is not None:
            probed, answer = done.value if done.error is None else (start, None)
            if answer is None:  # Docker's own trouble: the loop meets it too
                self._probe_at = turn.monotonic + MEND_S * self._scale
            else:
                self._note(turn, probed, answer, container.name)
        known = self._probed is not None and self._probed[0] == start
        if not known or turn.monotonic >= self._probe_at:
            self._errands.start(_PROBE, self._probing(container.name, start))
        if not known or self._probed is None:
            turn.note(
                "gpu", Mark.WAITING, f"{turn.facts['gpu'].detail}; {container.name} is probed"
            )
            return False
        if self._probed[1]:
            message = f"{container.name} reaches no GPU: {self._probed[1]}"
            hint = f"docker restart {container.name}; if that does not help: nvidia-smi on the VM."
            self._tell(turn, message, Finding("gpu.not_in_container", message, hint), used=False)
        return True

    def _know(self, turn: Turn) -> bool:
        """Look again where it is due; tell whether anything is known."""
        done = self._errands.take(_ASK)
        if done is not None:
            self._asked = done.value if done.error is None else Asked()
            self._ask_at = turn.monotonic + AGAIN_S * self._scale
        changed = self._files != turn.gpu
        if changed or turn.monotonic >= self._ask_at:
            self._files, self._ask_at, self._offers = turn.gpu, float("inf"), None
            self._errands.start(_ASK, self._ask)
        if self._offers is None:
            self._offers = self._engine.offers()
        return self._asked is not None

    def _after_refusal(self, found: Gpu, turn: Turn) -> Gpu:
        """Leave the GPU out after Docker refused it, until something is different."""
        if self._refused is None or self._refused[0] != self._state(turn) or not found.access:
            return found
        finding = self._refused[1]
        return Gpu(Access.NONE, finding.message, finding)

    def _state(self, turn: Turn) -> object:
        return turn.gpu, self._asked, turn.settings

    def _tell(self, turn: Turn, detail: str, finding: Finding | None, *, used: bool) -> None:
        mild = finding is not None and finding.severity is Severity.WARNING
        must = turn.settings.gpu is GpuMode.YES and turn.settings.role is not Role.SUPERLINK
        must = must and not mild
        bad = finding is not None and must
        turn.note("gpu", Mark.BAD if bad else Mark.OK if used else Mark.OFF, detail)
        turn.told["FLOWER_GPU"] = detail
        if finding is None:
            return
        if must:
            raise AgentError(finding.code, finding.message, finding.hint)
        if turn.gpu.devices:
            turn.warnings.append(warning(finding.code, finding.message, finding.hint))

    def _note(self, turn: Turn, start: object, answer: gpu.Answer, name: str) -> None:
        seen, why = gpu_probe.probed(answer)
        self._probed = (start, why)
        self._probe_at = turn.monotonic + (MEND_S if why else AGAIN_S) * self._scale
        log.info("gpu.probed", name=name, seen=[str(card) for card in seen], reason=why)

    def _probing(self, name: str, start: object) -> Callable[[], tuple[object, gpu.Answer]]:
        return lambda: (start, self._engine.execute(name, gpu_probe.COMMAND))
