"""The context as the loop uses it: read when a file changes, the last good settings kept."""

import pathlib

import structlog

from flower_agent.errors import Finding, Severity
from flower_agent.paths import Paths
from flower_agent.reporting.life import Phase, Unmet

from . import inputs, settings
from .inputs import Inputs
from .settings import Settings

MISSING_CONTEXT_S = 30.0
"""A context may come late in a boot, or be written anew; after this its absence is a failure."""

log = structlog.get_logger()


class Intake:
    """What was read last, and what is in use."""

    def __init__(self, paths: Paths, context_file: pathlib.Path | None = None) -> None:
        self._paths = paths
        self._context_file = context_file
        self._stamp: object = None
        self.inputs: Inputs | None = None
        self.findings: tuple[Finding, ...] = ()
        self._missing_since: float | None = None
        self.good: Settings | None = None
        """The last settings without an error; a bad context does not replace them."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Return what is wrong with the inputs as they are now."""
        return tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Return what is worth knowing about the inputs."""
        return tuple(f for f in self.findings if f.severity is Severity.WARNING)

    def changed(self) -> bool:
        """Tell whether any input file changed since it was read; cheap."""
        return self.inputs is None or inputs.stamp(self._paths) != self._stamp

    def reread(self) -> None:
        """Read at the next turn though no file changed."""
        self._stamp = None

    def read(self) -> bool:
        """Read and judge all inputs; return whether there are new settings to use."""
        self._stamp = inputs.stamp(self._paths)
        self.inputs = inputs.read(self._paths, context_file=self._context_file)
        before = self.findings
        found_settings, self.findings = judge(self.inputs)
        for found in self.findings:
            if found not in before:
                say = log.error if found.severity is Severity.ERROR else log.warning
                say("context.finding", code=found.code, message=found.message, hint=found.hint)
        if found_settings is None or found_settings == self.good:
            return False
        log.info("context.read" if self.good is None else "context.changed")
        self.good = found_settings
        return True

    def refusal(self, *, now: float, scale: float) -> Unmet | None:
        """Return why the inputs cannot be used, None when they can; `now` is monotonic seconds.

        A context that is not there may be on its way. One that vanished has as long as a first one,
        and counts until then: contextualization writes it anew.
        """
        first = self.errors[0] if self.errors else None
        if first is None or first.code != "context.missing":
            self._missing_since = None
            return Unmet(Phase.CONTEXT, first, fatal=True) if first else None
        if self._missing_since is None:
            self._missing_since = now
        late = now - self._missing_since > MISSING_CONTEXT_S * scale
        if self.good is not None and not late:
            return None
        return Unmet(Phase.CONTEXT, first, fatal=late)


def judge(read: Inputs) -> tuple[Settings | None, tuple[Finding, ...]]:
    """Return the settings in `read`, None when anything is wrong, and all findings."""
    if read.variables is None:
        return None, read.findings
    parsed = settings.parse(read.variables, read.config)
    findings = (*read.findings, *parsed.findings)
    wrong = any(f.severity is Severity.ERROR for f in findings)
    return None if wrong else parsed.settings, findings
