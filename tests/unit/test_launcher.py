"""The programs that start apps, as far as they can be tried without a container."""

import fcntl
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import types

import pytest

from flower_agent.launcher import launcher, program, trees


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The launcher's places below a directory of this test."""
    for name in ("RUNS", "CACHES"):
        path = tmp_path / name.lower()
        path.mkdir()
        monkeypatch.setattr(launcher, name, str(path))
    for name in ("LIMITS", "ENVIRONMENT"):
        monkeypatch.setattr(launcher, name, str(tmp_path / f"{name.lower()}.json"))
    return tmp_path


def test_an_app_is_started_behind_the_launcher_with_its_run():
    redirect = program._Redirect()
    redirect.run, redirect.bundle = "7", "ab" * 32
    command, options = redirect.command(["flwr-serverapp", "--token", "t"], {"env": {"A": "b"}})
    assert command[1:] == ["-I", "-S", program.LAUNCHER, "flwr-serverapp", "--token", "t"]
    assert options["env"] == {
        "A": "b",
        "FLOWER_AGENT_RUN": "7",
        "FLOWER_AGENT_BUNDLE": "ab" * 32,
    }


def test_what_is_no_app_is_started_as_it_is():
    redirect = program._Redirect()
    for arguments in (["git", "clone"], "flwr-serverapp", [], ["flwr-simulation"]):
        assert redirect.command(arguments, {"cwd": "/"}) == (arguments, {"cwd": "/"})


def test_a_superexec_of_a_superlinks_own_is_started_by_the_same_program():
    command, _ = program._Redirect().command(["flower-superexec", "--insecure"], {})
    assert command[1].endswith("launcher/program.py")
    assert command[2:] == ["flower-superexec", "--insecure"]


class Plugin:
    def get_run(self, run_id):  # noqa: ARG002  # as Flower calls it
        return types.SimpleNamespace(fab_hash="f" * 64)

    def launch_app(self, token, run_id):  # noqa: ARG002  # as Flower calls it
        return Plugin.redirect.run, Plugin.redirect.bundle

    def launch_task(self, token, task):  # noqa: ARG002  # as Flower calls it
        return Plugin.redirect.run, Plugin.redirect.bundle


@pytest.fixture
def plugin(monkeypatch):
    made = type("BaseExecPlugin", (Plugin,), {})
    monkeypatch.setitem(sys.modules, program.PLUGINS, types.SimpleNamespace(BaseExecPlugin=made))
    monkeypatch.setattr(importlib, "import_module", lambda name: sys.modules[name])
    Plugin.redirect = program._Redirect()
    return made


@pytest.mark.parametrize(
    ("method", "what", "run"),
    [
        ("launch_app", {"run_id": 2**64 - 1}, (str(2**64 - 1), "f" * 64)),
        ("launch_task", {"task": types.SimpleNamespace(run_id=7, fab_hash="a")}, ("7", "a")),
        ("launch_task", {"task": object()}, ("", "")),
    ],
)
def test_the_run_is_known_during_the_call_and_not_after_it(plugin, method, what, run):
    assert program._watch_launches(method, Plugin.redirect) == ""
    assert getattr(plugin(), method)(token="t", **what) == run
    assert (Plugin.redirect.run, Plugin.redirect.bundle) == ("", "")


@pytest.mark.parametrize("method", ["launch_agent", ""])
def test_an_unknown_flower_says_so_and_guesses_no_run(plugin, method):
    assert "unknown way" in program._watch_launches(method, Plugin.redirect)


def test_an_error_that_flower_hides_is_reported_and_printed(capsys):
    told = []
    program._read_log(lambda **fields: told.append(fields))
    log = logging.getLogger("flwr")
    try:
        try:
            raise RuntimeError("size mismatch")  # noqa: TRY301
        except RuntimeError:
            log.error("Failed to start run.")  # noqa: TRY400  # as Flower 1.25 does
        log.error("nothing is wrong")
    finally:
        log.handlers.clear()
    assert told == [{"error": "RuntimeError", "text": "size mismatch"}]
    assert "RuntimeError: size mismatch" in capsys.readouterr().err


def test_flowers_own_wrapping_is_taken_off_an_error():
    wrapper = type("LoadServerAppError", (Exception,), {"__module__": "flwr.common"})
    cause = ModuleNotFoundError("No module named 'wandb'")
    wrapped = wrapper("cannot load")
    wrapped.__cause__ = cause
    assert program.described(wrapped)["error"] == "ModuleNotFoundError"
    own = ValueError("mine")
    own.__cause__ = cause
    assert program.described(own)["error"] == "ValueError"


def test_the_environment_keeps_code_with_the_run_and_downloads_with_the_bundle(places):
    (places / "environment.json").write_text(json.dumps({"HF_TOKEN": "t", "HOME": "/evil", "N": 1}))
    found = launcher._environment("/app/runs/7", "/app/caches/ab", 9)
    code = ("HOME", "FLWR_HOME", "XDG_DATA_HOME", "HF_MODULES_CACHE", "TORCH_EXTENSIONS_DIR")
    assert all(found[name].startswith("/app/runs/7/home") for name in code)
    downloads = ("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "MPLCONFIGDIR")
    assert all(found[name].startswith("/app/caches/ab") for name in downloads)
    assert (found["HF_TOKEN"], found["PYTHONNOUSERSITE"]) == ("t", "1")
    assert "N" not in found


@pytest.mark.parametrize("bundle", ["", "../x", "AB" * 32, "ab" * 31])
def test_a_bundle_without_a_hash_gets_caches_of_its_run_alone(places, bundle):
    assert launcher._cache(bundle, "/app/runs/7") == "/app/runs/7/home/.cache"


def test_old_caches_make_room_and_the_own_one_never_does(places):
    (places / "limits.json").write_text(json.dumps({"caches_bytes": 100_000}))
    old, young = places / "caches/old", places / "caches/young"
    for path in (old, young):
        path.mkdir()
        (path / "weights").write_bytes(b"x" * 80_000)
    os.utime(old, (1, 1))
    own = launcher._cache("ab" * 32, "/app/runs/7")
    assert sorted(path.name for path in (places / "caches").iterdir()) == sorted(
        ["young", own.rpartition("/")[2]]
    )


def test_the_bundles_directory_of_old_flowers_is_the_runs_own(places):
    place = launcher._place("7")
    changed = launcher._private(["--insecure", "--flwr-dir", "/shared", "--token", "t"], place)
    assert changed == ["--insecure", "--flwr-dir", f"{place}/home/.flwr", "--token", "t"]
    assert launcher._private(["--token", "t"], place) == ["--token", "t"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, ""),
        ({"outputs_bytes": 10**12, "reserve_bytes": 1, "reserve_inodes": 1}, ""),
        ({"outputs_bytes": 100_000}, "it wrote more than 98 KiB (FLOWER_OUTPUTS_LIMIT)"),
        ({"reserve_bytes": 10**18}, "the disk has less than"),
        ({"reserve_inodes": 10**18}, "the disk has room for less than"),
    ],
)
def test_a_limit_is_told_as_a_sentence(places, limits, said):
    place = launcher._place("7")
    (places / "runs/7/work/model").write_bytes(b"x" * 200_000)
    app = launcher._App("flwr-serverapp", "7", place=place, cache="/x", limits=limits, began=1.0)
    assert app._over().startswith(said)
    assert bool(app._over()) is bool(said)


def test_a_sparse_file_counts_with_its_apparent_size(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert 1 << 30 <= launcher.measure(str(tmp_path)) < (1 << 30) + 100_000


def test_the_newest_ends_are_kept(places):
    launcher._place("7")
    for number in range(2 * launcher.KEPT_ENDS + 1):
        path = places / f"runs/ends/7.{number}.json"
        path.write_text("{}")
        os.utime(path, (number, number))
    launcher._forget_old_ends()
    left = sorted(int(path.name.split(".")[1]) for path in (places / "runs/ends").iterdir())
    assert left == list(range(launcher.KEPT_ENDS + 1, 2 * launcher.KEPT_ENDS + 1))


APP = """\
import os, signal, sys, time
if "slow" in sys.argv: time.sleep(60)
if "exit" in sys.argv: os._exit(7)
if "kill" in sys.argv: os.kill(os.getpid(), 9)
if "place" in sys.argv: print(os.getcwd(), os.environ["HOME"])
if "report" in sys.argv: os.write(int(os.environ["FLOWER_AGENT_REPORT"]), b'{"own": true}\\n')
"""

START = """\
import sys; sys.path.insert(0, {source!r})
from flower_agent.launcher import launcher
launcher.RUNS, launcher.CACHES, launcher.PROGRAM = {runs!r}, {caches!r}, {app!r}
launcher.LIMITS = launcher.ENVIRONMENT = "/nowhere"
launcher.main()
"""


@pytest.fixture
def started(places, request):
    """Starts the launcher around a small program, as a SuperExec would."""
    (places / "app.py").write_text(APP)
    names = {"runs": str(places / "runs"), "caches": str(places / "caches")}
    source = str(request.config.rootpath)
    text = START.format(source=source, app=str(places / "app.py"), **names)

    def start(*arguments):
        environment = {**os.environ, "FLOWER_AGENT_RUN": "7"}
        return subprocess.Popen(
            [sys.executable, "-c", text, "flwr-serverapp", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def ends(places):
    return [json.loads(path.read_text()) for path in (places / "runs/ends").glob("*.json")]


@pytest.mark.parametrize(
    ("word", "status", "end"),
    [
        ("report", 0, {"status": 0, "signal": None, "own": True}),
        ("exit", 7, {"status": 7, "signal": None}),
        ("kill", 137, {"status": None, "signal": 9, "oom": False}),
    ],
)
def test_the_launcher_ends_as_the_app_ended_and_writes_it_down(started, places, word, status, end):
    with started(word) as process:
        assert process.wait(60) == status
    (found,) = ends(places)
    assert (found["run"], found["program"]) == ("7", "flwr-serverapp")
    assert {key: found[key] for key in end} == end
    assert found["ended_at"] >= found["began_at"]


def test_an_app_works_in_a_directory_of_its_run(started, places):
    with started("place") as process:
        said = process.communicate(timeout=60)[0]
    assert said.split() == [str(places / "runs/7/work"), str(places / "runs/7/home")]


def test_signals_are_passed_on_to_the_app(started, places):
    with started("slow") as process:
        while not ends(places):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert ends(places)[0]["signal"] == signal.SIGTERM


TREES = """\
import sys; sys.path.insert(0, {source!r})
from flower_agent.launcher import trees
trees.RUNS = {runs!r}
trees.main()
"""


class Runs:
    """A directory ``runs/`` with one run, and the one-shot program on it."""

    def __init__(self, place, source):
        self.place = place
        self.work = place / "live/7/work"
        self.work.mkdir(parents=True)
        (place / "7").mkdir()
        self._text = TREES.format(source=source, runs=str(place))

    def __call__(self, *words, status=0):
        command = [sys.executable, "-c", self._text, *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done
        return json.loads(done.stdout) if done.stdout else None

    def kept(self):
        outputs = self.place / "7/outputs"
        return sorted(str(path.relative_to(outputs)) for path in outputs.rglob("*"))


@pytest.fixture
def runs(tmp_path, request):
    return Runs(tmp_path, str(request.config.rootpath))


def test_outputs_are_taken_away_and_only_regular_files_are_kept(runs):
    (runs.work / "deep").mkdir()
    (runs.work / "model.bin").write_bytes(b"model")
    (runs.work / "deep/plot.png").write_bytes(b"")
    (runs.work / "link").symlink_to("/etc/passwd")
    (runs.work / "around").symlink_to("/")
    os.mkfifo(runs.work / "pipe")
    found = runs("archive", "7", "1000000")
    assert [each["name"] for each in found["files"]] == ["deep/plot.png", "model.bin"]
    assert (found["count"], found["bytes"], found["left_out"], found["over_limit"]) == (2, 5, 3, 0)
    assert not runs.work.exists()
    assert runs.kept() == ["deep", "deep/plot.png", "model.bin"]
    runs("live", "7")
    assert not (runs.place / "live/7").exists()


def test_an_archive_that_was_cut_off_is_listed_again(runs):
    (runs.work / "model.bin").write_bytes(b"model")
    assert runs("archive", "7", "0") == runs("archive", "7", "0")


def test_what_passes_the_limit_goes_largest_first(runs):
    (runs.work / "small").write_bytes(b"x" * 1000)
    (runs.work / "large").write_bytes(b"x" * 100_000)
    found = runs("archive", "7", "50000")
    assert ([each["name"] for each in found["files"]], found["over_limit"]) == (["small"], 1)


def test_a_directory_that_a_process_holds_is_left_alone(runs):
    with (runs.place / "log").open("wb"):
        descriptor = os.open(runs.place / "live/7", os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        runs("archive", "7", "0", status=trees.BUSY)
        runs("live", "7", status=trees.BUSY)
        os.close(descriptor)
    assert runs.work.exists()


def test_a_tree_of_any_depth_is_met(runs):
    (runs.work / "model.bin").write_bytes(b"model")
    descriptor = os.open(runs.work, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    found = runs("archive", "7", "0")
    assert ([each["name"] for each in found["files"]], found["left_out"]) == (["model.bin"], 1)
    assert len(runs.kept()) == trees.DEPTH + 1


@pytest.mark.parametrize("kind", ["link", "file", "link as the working directory"])
def test_what_is_no_directory_of_a_run_is_removed_and_not_followed(runs, kind):
    other = runs.place / "other"
    other.mkdir()
    (other / "key").write_text("secret")
    (runs.place / "8").mkdir()
    if kind == "link":
        (runs.place / "live/8").symlink_to(other)
    elif kind == "file":
        (runs.place / "live/8").write_text("x")
    else:
        (runs.place / "live/8").mkdir()
        (runs.place / "live/8/work").symlink_to(other)
    assert runs("archive", "8", "0")["count"] == 0
    runs("live", "8")
    assert not os.path.lexists(runs.place / "live/8")
    assert (other / "key").read_text() == "secret"


def test_a_run_is_removed_and_what_is_none_is_refused(runs):
    runs("archive", "7", "0")
    runs("remove", "7")
    assert not (runs.place / "7/outputs").exists()
    runs("remove", "../7", status=1)


def test_what_lies_beside_the_runs_is_swept_away(runs):
    live = runs.place / "live"
    (live / "ends").mkdir()
    (live / "junk/deep").mkdir(parents=True)
    (live / "usage.json").write_text("{}")
    runs("sweep", "7")
    assert sorted(path.name for path in live.iterdir()) == ["7", "ends", "usage.json"]
