"""Starts one app process of Flower and watches it. Runs in a container, standard library only.

The app gets its run's working directory on disk, its own HOME and the download caches of its
bundle. The launcher checks the run's limits, forwards signals, ends with its parent and with the
app's exit status, and records the end in ``/app/runs/ends`` (Flower may discard its output).
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

RUNS = "/app/runs"
CACHES = "/app/caches"
PROGRAM = "/app/launcher/program.py"
LIMITS = "/app/launcher/limits.json"
ENVIRONMENT = "/app/environment.json"

LOOK_S = 1.0
GRACE_S = (10.0, 5.0)
"""After a limit: until SIGTERM, then until SIGKILL."""

KEPT_ENDS = 200
IDLE_CACHE_S = 3600.0
APP_OOM_SCORE = 500
"""With low memory the kernel ends an app before the SuperExec."""

_STEP = 1024
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TRIES = 100
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
"""The kernel's counters of out-of-memory kills: cgroup v2, v1 (field ``oom_kill``)."""


def main() -> None:
    """Start the app of the arguments and end with its status."""
    program, *arguments = sys.argv[1:]
    parent = os.getppid()
    _die_with_parent(signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the app become children of this process
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_PASSED_ON})
    began = time.time()
    run = os.environ.pop("FLOWER_AGENT_RUN", "")
    bundle = os.environ.pop("FLOWER_AGENT_BUNDLE", "")
    known = re.fullmatch(r"[0-9]{1,20}", run) is not None
    name = run if known else f"process-{began:.0f}-{os.getpid()}"
    place = _place(name)
    cache = _cache(bundle, place)
    app = _App(program, name, place=place, cache=cache, limits=_json(LIMITS), began=began)
    app.note({})
    status = app.run(arguments, parent)
    sys.exit(status if status >= 0 else 128 - status)


class _App:
    """One app process and its facts."""

    def __init__(
        self,
        program: str,
        name: str,
        *,
        place: str,
        cache: str,
        limits: dict[str, Any],
        began: float,
    ) -> None:
        self._program = program
        self._name = name
        self._place = place
        self._cache = cache
        self._limits = limits
        self._began = began
        self._reason = ""
        self._told: dict[str, Any] = {}
        self._look_at = 0.0
        self._over_at: float | None = None
        self._killed = 0

    def run(self, arguments: Sequence[str], parent: int) -> int:
        """Run the app to its end; return its status, negative for a signal."""
        kills = _oom_kills()
        read, write = os.pipe()
        child = subprocess.Popen(
            [sys.executable, PROGRAM, self._program, *_private(arguments, self._place)],
            cwd=f"{self._place}/work",
            env=_environment(self._place, self._cache, write),
            pass_fds=[write],
            start_new_session=True,
            preexec_fn=lambda: _prepare(self._limits.get("outputs_bytes")),  # noqa: PLW1509  # one thread
        )
        os.close(write)
        os.set_blocking(read, False)
        status, usage = self._wait(child.pid, parent, read)
        _end_children()
        if "FLOWER_CACHE_LIMIT" in self._reason:
            shutil.rmtree(self._cache, ignore_errors=True)  # else it would end later runs as well
        code = os.waitstatus_to_exitcode(status)
        self.note(
            {
                "ended_at": time.time(),
                "status": code if code >= 0 else None,
                "signal": -code if code < 0 else None,
                "oom": code == -signal.SIGKILL and _oom_kills() > kills,
                "peak_bytes": usage.ru_maxrss * 1024,
                "reason": self._reason,
                **self._told,
            }
        )
        return code

    def note(self, end: dict[str, Any]) -> None:
        """Write the facts about this process, atomically."""
        path = f"{RUNS}/ends/{self._name}.{os.getpid()}-{self._began:.3f}.json"
        known = {"run": self._name, "program": self._program, "began_at": self._began, **end}
        with contextlib.suppress(OSError):
            _write(path, json.dumps(known))
        _forget_old_ends()

    def _wait(self, pid: int, parent: int, read: int) -> tuple[int, resource.struct_rusage]:
        while True:
            seen = signal.sigtimedwait({signal.SIGCHLD, *_PASSED_ON}, LOOK_S)
            if seen is not None and seen.si_signo in _PASSED_ON:
                _send(pid, seen.si_signo)
            found, status, usage = os.wait4(pid, os.WNOHANG)
            self._told |= _told(read)
            if found:
                return status, usage
            if os.getppid() != parent:  # PR_SET_PDEATHSIG can miss a parent that ended early
                _send(pid, signal.SIGTERM)
            with contextlib.suppress(OSError):  # strange files of an app must not end the launcher
                self._watch(pid)

    def _watch(self, pid: int) -> None:
        now = time.monotonic()
        if self._over_at is None and now >= self._look_at:
            self._reason = self._over()
            # A large tree takes long to walk: never more than a twentieth of one core.
            self._look_at = time.monotonic() + max(LOOK_S, 20 * (time.monotonic() - now))
            if self._reason:
                self._over_at = now
                with contextlib.suppress(OSError):  # the disk may be full: that is the reason
                    _write(f"{self._place}/over", self._reason)
                _send(pid, signal.SIGUSR1)
        elif self._over_at is not None and now - self._over_at > sum(GRACE_S[: self._killed + 1]):
            _send(pid, signal.SIGKILL if self._killed else signal.SIGTERM)
            self._killed = 1

    def _over(self) -> str:
        """Return the exceeded limit, as a sentence; empty for none."""
        limit, reserve = self._limits.get("outputs_bytes"), self._limits.get("reserve_bytes")
        room = os.statvfs(RUNS)
        if reserve and room.f_bavail * room.f_frsize < reserve:
            return (
                f"the disk has less than {_size(reserve)} free, which are kept for the SuperLink's "
                "database and the system"
            )
        inodes = self._limits.get("reserve_inodes")
        if inodes and room.f_files and room.f_favail < inodes:
            return f"the disk has room for less than {inodes} more files"
        own = measure(self._place)
        if limit:
            others = self._others()
            with contextlib.suppress(OSError):
                _write(f"{RUNS}/usage.json", json.dumps({"bytes": own + sum(others)}))
            # If several runs together exceed the limit, the largest one ends.
            if own > limit or (own + sum(others) > limit and own >= max(others, default=0)):
                return f"it wrote more than {_size(limit)} (FLOWER_OUTPUTS_LIMIT)"
        if self._cache.startswith(CACHES):
            os.utime(self._cache)  # mark it as used, so that nobody removes it
            limit = self._limits.get("caches_bytes")
            if limit and measure(self._cache) > limit:
                return f"its download cache has more than {_size(limit)} (FLOWER_CACHE_LIMIT)"
        return ""

    def _others(self) -> list[int]:
        """Return the bytes of every other run."""
        known = {self._name, "ends", "usage.json", "launches.json"}
        with os.scandir(RUNS) as found:
            return [measure(entry.path) for entry in found if entry.name not in known]


def measure(place: str) -> int:
    """Return the bytes of a tree: the larger of apparent and allocated size of each file."""
    total, left = 0, [place]
    while left:
        path = left.pop()
        with contextlib.suppress(OSError):
            seen = os.lstat(path)
            total += max(seen.st_size, seen.st_blocks * 512)
            if stat.S_ISDIR(seen.st_mode):
                left += (f"{path}/{name}" for name in _names(path, seen.st_mode))
    return total


def _names(path: str, mode: int) -> list[str]:
    """Return the names in a directory, even if an app removed the permission."""
    try:
        return os.listdir(path)
    except PermissionError:
        os.chmod(path, stat.S_IMODE(mode) | 0o500)
        return os.listdir(path)


def _place(name: str) -> str:
    """Create a run's directories and lock them, so that the agent does not remove them."""
    place = f"{RUNS}/{name}"
    while True:
        for path in (f"{RUNS}/ends", place, f"{place}/work", f"{place}/home"):
            _directory(path)
        held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(held, fcntl.LOCK_SH)  # until this process ends
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(held), os.lstat(place)):
                return place
        os.close(held)


def _cache(bundle: str, place: str) -> str:
    """Return the caches' directory: the bundle's, or one that is removed with the run."""
    if re.fullmatch(r"[0-9a-f]{64}", bundle) is None:
        return f"{place}/home/.cache"
    cache = f"{CACHES}/{bundle[:32]}"
    try:
        _directory(cache)
        os.utime(cache)
        _make_room(cache)
    except OSError:
        return f"{place}/home/.cache"
    return cache


def _make_room(own: str) -> None:
    """Remove unused caches, the oldest first, while all together exceed their limit."""
    limit = _json(LIMITS).get("caches_bytes")
    if not limit:
        return
    with os.scandir(CACHES) as found:
        others = sorted((e.stat(follow_symlinks=False).st_mtime, e.path) for e in found)
    total = sum(measure(path) for _, path in others)
    for used_at, path in others:
        if total <= limit:
            return
        if path != own and time.time() - used_at > IDLE_CACHE_S:
            total -= measure(path)
            shutil.rmtree(path, ignore_errors=True)


def _environment(place: str, cache: str, report: int) -> dict[str, str]:
    """Return the app's environment.

    Places that can contain code (HOME, FLWR_HOME, user packages, compiled kernels) belong to one
    run. Downloads stay as long as the app's bundle is the same.
    """
    home = f"{place}/home"
    given = {k: v for k, v in _json(ENVIRONMENT).items() if isinstance(v, str)}
    return {
        **os.environ,
        **given,
        "HOME": home,
        "FLWR_HOME": f"{home}/.flwr",
        "XDG_CONFIG_HOME": f"{home}/.config",
        "XDG_DATA_HOME": f"{home}/.local/share",
        "XDG_STATE_HOME": f"{home}/.local/state",
        "PYTHONNOUSERSITE": "1",
        "XDG_CACHE_HOME": cache,
        "HF_HOME": f"{cache}/huggingface",
        "HF_MODULES_CACHE": f"{home}/.cache/hf_modules",
        "TORCH_HOME": f"{cache}/torch",
        "TORCH_EXTENSIONS_DIR": f"{home}/.cache/torch_extensions",
        "TORCHINDUCTOR_CACHE_DIR": f"{home}/.cache/torchinductor",
        "TRITON_CACHE_DIR": f"{home}/.cache/triton",
        "NUMBA_CACHE_DIR": f"{home}/.cache/numba",
        "CUDA_CACHE_PATH": f"{home}/.cache/nv",
        "MPLCONFIGDIR": f"{cache}/matplotlib",
        "KERAS_HOME": f"{cache}/keras",
        "NLTK_DATA": f"{cache}/nltk_data",
        "SCIKIT_LEARN_DATA": f"{cache}/scikit_learn_data",
        "FLOWER_AGENT_PLACE": place,
        "FLOWER_AGENT_REPORT": str(report),
    }


def _private(arguments: Sequence[str], place: str) -> list[str]:
    """Return the arguments with the run's own directory for the bundle (up to 1.25)."""
    found = list(arguments)
    if "--flwr-dir" in found[:-1]:
        path = f"{place}/home/.flwr"
        _directory(path)
        found[found.index("--flwr-dir") + 1] = path
    return found


def _prepare(limit: int | None) -> None:
    """Prepare the child process before the app: signals, end of the parent, limits."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _die_with_parent(signal.SIGTERM)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(APP_OOM_SCORE))


def _die_with_parent(number: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, int(number))


def _prctl(what: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(what, value, 0, 0, 0)


def _oom_kills() -> int:
    for path in _COUNTERS:
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _told(descriptor: int) -> dict[str, Any]:
    """Return the app process's reports since the last call, the last one of each kind."""
    told: dict[str, Any] = {}
    data = b""
    with contextlib.suppress(OSError):
        data = os.read(descriptor, 1 << 17)
    for line in data.splitlines():
        with contextlib.suppress(ValueError, RecursionError, TypeError):
            told.update(json.loads(line))
    return {key: told[key] for key in ("error", "text", "own") if key in told}


def _end_children() -> None:
    """Kill the app's remaining processes, also in other sessions; they become its children."""
    for _ in range(_TRIES):
        for pid in _children():
            _send(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def _children() -> list[int]:
    own, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{name}/stat") as f,
            ):
                if int(f.read().rpartition(")")[2].split()[1]) == own:
                    found.append(int(name))
    return found


def _forget_old_ends() -> None:
    """Remove the oldest records of ends; a node may run for months."""
    with contextlib.suppress(OSError), os.scandir(f"{RUNS}/ends") as found:
        kept = [entry.path for entry in found if entry.name.endswith(".json")]
        if len(kept) > 2 * KEPT_ENDS:
            kept.sort(key=lambda path: os.stat(path, follow_symlinks=False).st_mtime)
            for path in kept[:-KEPT_ENDS]:
                os.unlink(path)


def _directory(path: str) -> None:
    try:
        os.makedirs(path, 0o750)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode):
            raise OSError(errno.ENOTDIR, "is not a directory", path) from None


def _write(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.new"
    try:
        with open(temporary, "w") as file:
            os.fchmod(file.fileno(), 0o640)
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < _STEP:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= _STEP
    return f"{size_bytes:.1f} GiB"


if __name__ == "__main__":
    main()
