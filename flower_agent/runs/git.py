"""The files of one commit of a foreign repository, or of a directory here, read as data.

A repository of some KB can make git write gigabytes or take them as memory (nested trees, deltas
over a large base). So git's output is read as it comes and only so far, its address space is
limited (setrlimit(2), RLIMIT_AS), and it does not inherit the agent's place before the kernel's OOM
killer (proc(5), oom_score_adj; raising it needs no right).

There is no checkout: git fetches objects into a bare repository and reads them there. So no hook,
filter, symlink, submodule or fsmonitor of the repository has any effect. The configuration is the
agent's own (git-config(1), GIT_CONFIG_GLOBAL, GIT_CONFIG_NOSYSTEM, GIT_ALLOW_PROTOCOL). A password
goes to git-credential-store(1) in a file (0600), never in a URL, argument or environment.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from flower_agent import files
from flower_agent.config.types import HEAD, AppSource
from flower_agent.model.errors import AgentError, CloneError
from flower_agent.process import OOM_SCORE_ADJ

MEMORY_BYTES = 768 * 1024 * 1024

SAID_BYTES = 64 * 1024
"""So much of what git complains about is kept: the end, which has the reason."""

LOOK_S = 0.1
_CHUNK_BYTES = 64 * 1024

_LIMITED = """\
ulimit -v "$1" 2>/dev/null
echo "$2" 2>/dev/null >/proc/self/oom_score_adj
shift 2
exec "$@"
"""
"""A constant: what varies are its arguments. Limits that are set from outside, once git runs, come
too late for what it has begun; and Python's own way (preexec_fn) is not safe beside threads."""


class TooMuchError(Exception):
    """Git answered more than it may."""


@dataclasses.dataclass(frozen=True, slots=True)
class GitExit:
    """How one git ended."""

    exit_code: int
    """Below zero: the signal that ended it."""

    output: bytes
    said: str
    """The end of its standard error."""


def run(
    command: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    place: pathlib.Path,
    given: bytes,
    limit_bytes: int,
    watch: Callable[[], None],
) -> GitExit:
    """Run a program to its end in `place`, with `given` to read.

    `watch` is called now and then. What it raises ends the program, and so does an output of more
    than `limit_bytes` (TooMuchError). Raises OSError where it cannot be started.
    """
    limits = (str(MEMORY_BYTES // 1024), str(OOM_SCORE_ADJ))
    asked = place / "given"
    asked.write_bytes(given)  # a file: a pipe would have to be fed while the answer is read
    with (
        asked.open("rb") as feed,
        subprocess.Popen(
            ["/bin/sh", "-c", _LIMITED, "sh", *limits, *command],
            stdin=feed,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=place,
            start_new_session=True,
        ) as process,
    ):
        try:
            output, said = _read(process, limit_bytes, watch)
        except BaseException:
            _kill(process)
            raise
    return GitExit(process.returncode, output, said.decode("utf-8", "replace"))


def _read(
    process: "subprocess.Popen[bytes]", limit_bytes: int, watch: Callable[[], None]
) -> tuple[bytes, bytes]:
    if process.stdout is None or process.stderr is None:
        raise ValueError("want pipes")
    output, said = bytearray(), bytearray()
    into = {process.stdout.fileno(): output, process.stderr.fileno(): said}
    look_at = 0.0
    with selectors.DefaultSelector() as selector:
        for descriptor in into:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(LOOK_S):
                _take(selector, key.fd, into[key.fd])
            if len(output) > limit_bytes:
                raise TooMuchError
            del said[:-SAID_BYTES]
            if time.monotonic() >= look_at:
                watch()
                look_at = time.monotonic() + LOOK_S
    _wait(process, watch)
    return bytes(output), bytes(said)


def _take(selector: selectors.BaseSelector, descriptor: int, into: bytearray) -> None:
    chunk = os.read(descriptor, _CHUNK_BYTES)
    if not chunk:
        selector.unregister(descriptor)
    into += chunk


def _wait(process: "subprocess.Popen[bytes]", watch: Callable[[], None]) -> None:
    """Wait for a program that has closed its output."""
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
        watch()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the program and all that it started, which are one process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


TIMEOUT_S = 120.0
REPOSITORY_BYTES = 128 * 1024 * 1024
APP_BYTES = 32 * 1024 * 1024
APP_FILES = 2000
DEPTH = 32
"""Most directory levels of an app."""

_LIST_BYTES = 8 * 1024 * 1024
_WORDS_BYTES = 1024 * 1024
"""More than a commit's name or the few requested refs."""

_HEAD_BYTES = 256
"""More than the line before each object of ``cat-file --batch``."""

KINDS = (".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl")
NAMES = ("LICENSE", ".gitignore")
"""Files that any Flower from 1.23 to 1.42 puts into a bundle (``FAB_INCLUDE_PATTERNS``), or reads
to exclude others."""

_PASSED_ON = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "GIT_SSL_CAINFO")
_CONFIG = """\
[core]
    hooksPath = /dev/null
    fsmonitor = false
    symlinks = false
    askPass =
    bigFileThreshold = 1m
    packedGitWindowSize = 16m
    packedGitLimit = 64m
    deltaBaseCacheLimit = 16m
[pack]
    threads = 1
[credential]
    helper =
    helper = store --file={credentials}
[transfer]
    fsckObjects = true
[fetch]
    recurseSubmodules = false
    unpackLimit = 1
[submodule]
    recurse = false
[http]
    lowSpeedLimit = 1000
    lowSpeedTime = 30
[gc]
    auto = 0
[maintenance]
    auto = false
"""
_PROTOCOLS = "https:ssh:git"
_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=15"

_NO_REF = re.compile("couldn't find remote ref|not our ref|unadvertised object")
_DENIED = re.compile(
    "Authentication failed|could not read (Username|Password)|Permission denied|not found|"
    "error: 40[134]|does not appear to be a git|access denied|not exported",
    re.IGNORECASE,
)
_NO_TREE = re.compile("Not a valid object name|not a tree object")
_NO_MEMORY = re.compile(
    "[Oo]ut of memory|Cannot allocate memory|mmap failed|unable to create thread"
)
"""The words of git and its hosts (LC_ALL=C)."""


class Git:
    """Runs git in a separate directory below `work`, created and removed for each call."""

    def __init__(
        self,
        work: pathlib.Path,
        *,
        program: str = "/usr/bin/git",
        environment: Mapping[str, str] = os.environ,
        protocols: str = _PROTOCOLS,
        timeout_s: float = TIMEOUT_S,
        limit_bytes: int = REPOSITORY_BYTES,
    ) -> None:
        self._work = work
        self._program = program
        self._environment = environment
        self._passed_on: Mapping[str, str] = {}
        self.through({})
        self._protocols = protocols
        self._timeout_s = timeout_s
        self._limit_bytes = limit_bytes

    def through(self, proxies: Mapping[str, str]) -> None:
        """Use the context's proxies from now on, else the environment's."""
        whole = {**self._environment, **proxies}
        self._passed_on = {name: whole[name] for name in _PASSED_ON if name in whole}

    def fetch(self, source: AppSource) -> tuple[str, dict[str, bytes]]:
        """Return the source's present commit, and the app's files by their paths.

        Reads only regular files of the kinds that Flower bundles, no symlinks and submodules.
        Raises AgentError ``run.…``.
        """
        with self._place(source) as place:
            deadline = time.monotonic() + self._timeout_s
            run = self._runner(place, source, deadline)
            run("init", "--quiet", "--bare", "--template=", str(place))
            options = ("--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules")
            run("fetch", *options, source.url, source.ref)
            commit = run("rev-parse", "--verify", "FETCH_HEAD^{commit}").decode().strip()
            # List with sizes first, so that the limits hold before any content is read.
            listed = _listed(run, commit, source)
            names = "".join(f"{name}\n" for name in listed.values())
            most = APP_BYTES + _HEAD_BYTES * len(listed)
            read = run("cat-file", "--batch", given=names.encode(), limit_bytes=most)
            return commit, _blobs(read, listed)

    def resolve(self, source: AppSource) -> str:
        """Return the present commit of the source's branch or tag. Raises AgentError."""
        with self._place(source) as place:
            run = self._runner(place, source, time.monotonic() + self._timeout_s)
            ref = source.ref
            wanted = (HEAD,) if ref == HEAD else (f"refs/tags/{ref}^{{}}", *_names(ref))
            found = run("ls-remote", "--quiet", source.url, *wanted).decode("utf-8", "replace")
        known = dict(line.split("\t", 1)[::-1] for line in found.splitlines() if "\t" in line)
        for name in wanted:
            if name in known:
                return known[name]
        raise AgentError("run.no_ref", f"{source.url} has no branch or tag {ref}", retryable=True)

    @contextlib.contextmanager
    def _place(self, source: AppSource) -> Iterator[pathlib.Path]:
        place = self._work / "git"
        self._clear(place)
        files.directory(self._work, 0o700)
        files.directory(place, 0o700)
        credentials = place / "credentials"
        try:
            config = _CONFIG.format(credentials=_quoted(credentials))
            files.write_atomic(place / "agent.config", config.encode(), 0o600, durable=False)
            if source.login is not None:
                host = source.url.removeprefix("https://").partition("/")[0]
                line = f"https://{source.login.reveal()}@{host}\n"
                files.write_atomic(credentials, line.encode(), 0o600, durable=False)
            yield place
        finally:
            self._clear(place)

    def _clear(self, place: pathlib.Path) -> None:
        with files.writing(place), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(place)

    def _runner(self, place: pathlib.Path, source: AppSource, deadline: float) -> "_Runner":
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(place),
            "LC_ALL": "C",
            "GIT_DIR": str(place),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(place / "agent.config"),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": self._protocols,
            "GIT_SSH_COMMAND": _SSH,
            **self._passed_on,
        }
        return _Runner(self._program, environment, source, deadline, self._limit_bytes)


@contextlib.contextmanager
def for_command(runs: pathlib.Path, proxies: Mapping[str, str]) -> Iterator[Git]:
    """Give a command its own Git, in a directory below `runs` that is removed at the end.

    Also removes directories of killed commands.
    """
    for left in runs.glob("git-*"):
        number = left.name.removeprefix("git-")
        if number.isdecimal() and not pathlib.Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)  # the next command tries again
    place = runs / f"git-{os.getpid()}"
    try:
        own = Git(place)
        own.through(proxies)
        yield own
    finally:
        shutil.rmtree(place, ignore_errors=True)


class _Runner:
    """Runs one git after the other until a deadline, and limits the written bytes."""

    def __init__(
        self,
        program: str,
        environment: Mapping[str, str],
        source: AppSource,
        deadline: float,
        limit_bytes: int,
    ) -> None:
        self._program = program
        self._environment = environment
        self._source = source
        self._deadline = deadline
        self._limit_bytes = limit_bytes

    def __call__(
        self, *arguments: str, given: bytes = b"", limit_bytes: int = _WORDS_BYTES
    ) -> bytes:
        """Return the output of one git. Raises AgentError ``run.…``."""
        try:
            pathlib.Path(self._program).stat()  # a clear error instead of a shell's message
            ended = run(
                (self._program, *arguments),
                environment=self._environment,
                place=pathlib.Path(self._environment["HOME"]),
                given=given,
                limit_bytes=limit_bytes,
                watch=self._check,
            )
        except OSError as error:
            raise AgentError("run.no_git", f"{self._program}: {error.strerror}") from error
        except TooMuchError:
            what = "has too many files" if arguments[0] == "ls-tree" else "prints too much"
            limit = f"git {arguments[0]} answered more than {limit_bytes // 1024**2} MiB"
            message = f"{self._source} {what}: {limit}, which ended it"
            raise AgentError("run.too_large", message) from None
        if ended.exit_code != 0:
            raise self._failure(ended)
        return ended.output

    def _check(self) -> None:
        if time.monotonic() > self._deadline:
            message = f"{self._source.url} did not arrive in time"
            raise CloneError("run.clone", message, retryable=True)
        if _size(pathlib.Path(self._environment["HOME"])) > self._limit_bytes:
            limit = f"{self._limit_bytes // 1024**2} MiB"
            message = f"one commit of {self._source.url} is larger than {limit}"
            raise AgentError("run.too_large", message)

    def _failure(self, ended: GitExit) -> AgentError:
        said, login = ended.said, self._source.login
        # git repeats the URL in its errors: no part of the login may be shown.
        if login is not None:
            for part in filter(None, (login.reveal(), *login.reveal().split(":", 1))):
                said = said.replace(part, "***")
        plain = ("".join(filter(str.isprintable, line)).strip() for line in said.splitlines())
        lines = [line for line in plain if line]
        end = f"git ended by signal {-ended.exit_code}" if ended.exit_code < 0 else ""
        words = "; ".join(lines[-3:])[:400] or end or "git ended without a message"
        message = f"{self._source}: {words}"
        if _NO_MEMORY.search(said):
            limit = f"more than {MEMORY_BYTES // 1024**2} MiB of memory"
            message = f"{self._source} needs {limit} for unpacking: {words}"
            return AgentError("run.too_large", message)
        if _NO_TREE.search(said) and self._source.subdirectory:
            where = f"{self._source.url} has no directory {self._source.subdirectory}"
            return AgentError("run.no_app", f"{where}: {words}", retryable=True)
        if _NO_REF.search(said):
            return AgentError("run.no_ref", message, retryable=True)
        if _DENIED.search(said):
            return AgentError("run.denied", message, retryable=True)
        return CloneError("run.clone", message, retryable=True)


def _names(ref: str) -> tuple[str, ...]:
    return (f"refs/tags/{ref}", f"refs/heads/{ref}", f"refs/{ref}", ref)


def _listed(run: _Runner, commit: str, source: AppSource) -> dict[str, str]:
    """Return the objects of the app's useful files, by path in the app."""
    tree = run(
        *("ls-tree", "-r", "-z", "-l", f"{commit}:{source.subdirectory}"), limit_bytes=_LIST_BYTES
    )
    found: dict[str, str] = {}
    size = 0
    for row in tree.split(b"\0"):
        head, _, name = row.partition(b"\t")
        path = name.decode("utf-8", "replace")
        # Mode 100… is a regular file; 120000 a symlink, 160000 a submodule.
        if not head.startswith(b"100") or not of_use(path):
            continue
        if path.count("/") > DEPTH:
            message = f"{source} has directories that lie more than {DEPTH} deep"
            raise AgentError("run.too_large", message)
        _, _, blob, length = head.split()
        found[path] = blob.decode()
        size += int(length)
    if size > APP_BYTES or len(found) > APP_FILES:
        limit = f"{APP_BYTES // 1024**2} MiB or {APP_FILES} files"
        raise AgentError("run.too_large", f"the app in {source} is larger than {limit}")
    return found


def of_use(path: str) -> bool:
    """Return whether Flower may use a file of an app, by its path in the app."""
    parts = path.split("/")
    plain = path.isprintable() and "\\" not in path and not {"", ".", ".."} & set(parts)
    return plain and (parts[-1].endswith(KINDS) or parts[-1] in NAMES)


def _blobs(answer: bytes, listed: Mapping[str, str]) -> dict[str, bytes]:
    """Return the contents in an answer of ``cat-file --batch``, by path."""
    found: dict[str, bytes] = {}
    at = 0
    for path in listed:
        end = answer.index(b"\n", at)
        length = int(answer[at:end].split()[2])
        found[path] = answer[end + 1 : end + 1 + length]
        at = end + 1 + length + 1
    return found


def _size(place: pathlib.Path) -> int:
    size = 0
    for directory, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(OSError):  # git renames its temporary files
                size += os.lstat(os.path.join(directory, name)).st_size  # noqa: PTH118
    return size


def _quoted(path: pathlib.Path) -> str:
    """Return a path for git's configuration, where a shell reads the helper's line."""
    text: Sequence[str] = str(path)
    if not all(letter.isalnum() or letter in "/._-+" for letter in text):
        raise CloneError("run.clone", f"{path} has characters that git's helper cannot accept")
    return str(path)


_LEFT_OUT = frozenset({".git", ".venv", "__pycache__", "node_modules"})


def read(directory: pathlib.Path) -> dict[str, bytes]:
    """Return the files that Flower may bundle, by path; symbolic links are not followed.

    Raises AgentError ``run.too_large`` and ``run.no_app``.
    """
    found: dict[str, bytes] = {}
    size = 0
    try:
        for place, directories, names in os.walk(directory):
            directories[:] = sorted(set(directories) - _LEFT_OUT)
            for path in (pathlib.Path(place) / name for name in sorted(names)):
                name = path.relative_to(directory).as_posix()
                if path.is_symlink() or not path.is_file() or not of_use(name):
                    continue
                size += path.stat().st_size
                if size > APP_BYTES or len(found) >= APP_FILES:
                    limit = f"{APP_BYTES // 1024**2} MiB or {APP_FILES} files"
                    raise AgentError("run.too_large", f"{directory} has more than {limit}")
                found[name] = path.read_bytes()
    except OSError as error:
        message = f"{directory} cannot be read: {error.strerror}"
        raise AgentError("run.no_app", message) from error
    return found
