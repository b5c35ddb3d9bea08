"""Runs one of Flower's programs, so that each app process gets a launcher. Runs in a container.

Nothing in Flower is changed on disk. Flower's SuperExec starts an app by ``subprocess.Popen`` of
``flwr-serverapp`` or ``flwr-clientapp`` and names no run there; the run is known one call earlier:
``BaseExecPlugin.launch_app(token, run_id)`` up to 1.29, ``launch_task(token, task)`` from 1.30 on
(``flwr/supercore/superexec/plugin/base_exec_plugin.py``). Which of the two is told by the agent, in
FLOWER_AGENT_LAUNCH. Where it is not there, the apps still start, and no run is guessed.

In an app process this file only adds a reader of Flower's own log: Flower 1.25 hides a
``RuntimeError`` of a ServerApp ("Failed to start run.") and which error a ClientApp had.
"""

import contextlib
import importlib
import importlib.metadata
import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

RUNS = "/app/runs"
LAUNCHER = "/app/launcher/launcher.py"
APPS = ("flwr-serverapp", "flwr-clientapp")
SUPEREXEC = "flower-superexec"
PLUGINS = "flwr.supercore.superexec.plugin.base_exec_plugin"
HIDDEN = "Failed to start run."
TEXT_MAX = 500


class LimitReachedError(OSError):
    """The run took more than it may; raised inside the app, so that its log shows why it ends."""


def main() -> None:
    """Run the program that the arguments name, as its own script would."""
    program, *_ = sys.argv[1:]
    sys.argv[:] = sys.argv[1:]
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != here]
    if program in APPS:
        report = _reporter()
        _read_log(report)
        signal.signal(signal.SIGUSR1, _end_over_limit)
        _run_app(program, report)
        return
    redirect = _Redirect()
    redirect.install()
    if program == SUPEREXEC:
        _note_seam(_watch_launches(os.environ.get("FLOWER_AGENT_LAUNCH", ""), redirect))
    sys.exit(_entry(program)())


def _entry(program: str) -> Callable[[], Any]:
    for entry in importlib.metadata.distribution("flwr").entry_points:
        if entry.group == "console_scripts" and entry.name == program:
            found: Callable[[], Any] = entry.load()
            return found
    raise SystemExit(f"this image's Flower has no program {program}")


class _Redirect:
    """Puts a launcher before each app, and this file before a SuperExec of a SuperLink's own."""

    def __init__(self) -> None:
        self.run = self.bundle = ""

    def command(self, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return what is started in the place of `arguments`, and with which options."""
        if not isinstance(arguments, (list, tuple)) or not arguments:
            return arguments, options
        if arguments[0] == SUPEREXEC:
            return [sys.executable, os.path.abspath(__file__), *arguments], options
        if arguments[0] not in APPS:
            return arguments, options
        environment = dict(options.get("env") or os.environ)
        environment.update(FLOWER_AGENT_RUN=self.run, FLOWER_AGENT_BUNDLE=self.bundle)
        command = [sys.executable, "-I", "-S", LAUNCHER, *arguments]
        return command, {**options, "env": environment}

    def install(self) -> None:
        """Take effect for all that this process starts from now on."""
        redirect = self

        class Popen(subprocess.Popen[Any]):
            """Flower's calls, redirected."""

            def __init__(self, args: Any, *more: Any, **options: Any) -> None:
                args, options = redirect.command(args, options)
                super().__init__(args, *more, **options)

        subprocess.Popen = Popen  # type: ignore[misc]  # the seam: Flower calls it by this name


def _watch_launches(method: str, redirect: _Redirect) -> str:
    """Let `redirect` know the run of each launch; return why that cannot be, empty where it can."""
    try:
        plugin = importlib.import_module(PLUGINS).BaseExecPlugin
        original = getattr(plugin, method)
    except (ImportError, AttributeError, TypeError) as error:
        return f"this Flower starts apps in an unknown way: {error}"

    def launch(self: Any, *arguments: Any, **named: Any) -> Any:
        what = named.get("task", named.get("run_id", arguments[-1] if arguments else None))
        redirect.run, redirect.bundle = _run_of(self, what)
        try:
            return original(self, *arguments, **named)
        finally:
            redirect.run = redirect.bundle = ""

    setattr(plugin, method, launch)
    return ""


def _run_of(plugin: Any, what: Any) -> tuple[str, str]:
    """Return the run's id and the hash of its app's bundle, if Flower provides them here."""
    if isinstance(what, int):
        bundle = ""
        with contextlib.suppress(Exception):  # whatever Flower raises: a run needs no cache
            bundle = plugin.get_run(what).fab_hash
        return _id(what), str(bundle)
    return _id(getattr(what, "run_id", "")), str(getattr(what, "fab_hash", ""))


def _id(value: object) -> str:
    """Return the run's id as Flower's commands show it: 64 bits without a sign."""
    return str(value % 2**64) if isinstance(value, int) else ""


def _note_seam(why: str) -> None:
    """Tell the agent whether runs are known here, in a file that it reads."""
    path = os.path.join(RUNS, "launches.json")
    try:
        with open(f"{path}.new", "w") as file:
            json.dump({"unknown": why}, file)
        os.replace(f"{path}.new", path)
    except OSError:  # a full disk: the agent reads none, and nothing is left half-written
        with contextlib.suppress(OSError):
            os.unlink(f"{path}.new")


def _reporter() -> Callable[..., None]:
    """Return a function that sends the launcher a line through its open descriptor."""
    try:
        descriptor = int(os.environ.pop("FLOWER_AGENT_REPORT"))
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)  # a full pipe loses a report and holds up no app
    except (KeyError, ValueError, OSError):
        return lambda **_: None

    def report(**fields: object) -> None:
        with contextlib.suppress(OSError):
            os.write(descriptor, json.dumps(fields, ensure_ascii=False).encode() + b"\n")

    return report


def _read_log(report: Callable[..., None]) -> None:
    """Report each error that Flower logs, and print the one that it hides."""

    class Errors(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told = record.exc_info[1] if record.exc_info else None
            error = told or sys.exc_info()[1]
            if record.levelno < logging.ERROR or error is None:
                return
            report(**described(error))
            if told is None and record.getMessage() == HIDDEN:
                traceback.print_exception(error)

    logging.getLogger("flwr").addHandler(Errors())


def described(error: BaseException) -> dict[str, str]:
    """Return the class and the text of an error; Flower's own wrapping is taken off."""
    while type(error).__module__.split(".")[0] == "flwr" and error.__cause__ is not None:
        error = error.__cause__
    text = ""
    with contextlib.suppress(Exception):  # a foreign __str__
        text = str(error)[:TEXT_MAX].encode("utf-8", "replace").decode()
    return {"error": type(error).__name__[:80], "text": text}


def _run_app(program: str, report: Callable[..., None]) -> None:
    try:
        entry = _entry(program)
        sys.exit(entry())
    except SystemExit as error:
        report(own=_is_flowers(error.__traceback__))
        raise
    except BaseException as error:
        report(**described(error), own=False)
        raise


def _is_flowers(trace: types.TracebackType | None) -> bool:
    """Return whether Flower itself ended the program, and not the app in it."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_name in ("flwr_exit", "_run_app")


def _end_over_limit(*_: object) -> None:
    try:
        with open(os.path.join(os.environ["FLOWER_AGENT_PLACE"], "over")) as file:
            why = file.read(TEXT_MAX)
    except (KeyError, OSError):
        why = "this run takes more than it may"
    print(f"{time.strftime('%H:%M:%S')} flower-agent ends this run: {why}", file=sys.stderr)
    raise LimitReachedError(why)


if __name__ == "__main__":
    main()
