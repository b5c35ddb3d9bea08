"""Framework images made for real, from wheels of the test's own: whole, or not there at all."""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import re
import threading
import zipfile

import pytest
from real_engine import client, unique

from flower_agent.commands import bake
from flower_agent.docker import image_references
from flower_agent.docker.client import Engine
from flower_agent.flower import frameworks
from flower_agent.images import app_images, build_container
from flower_agent.images.build_container import LABEL_BUILD, BuildContainers
from flower_agent.images.builder import ImageBuilder, WheelSource
from flower_agent.model.errors import AgentError
from flower_agent.paths import Paths
from flower_agent.runs.bundle import Bundler

pytestmark = pytest.mark.engine

PARENT = "flwr/superexec:1.25.0"
NOWHERE = "http://127.0.0.1:9/simple"
WORKS = "answer = 42\n"


FETCHED = "fetched-1.9.1-py3-none-any.whl"


def wheel(folder, *, name="scikit-learn", version="1.9.1", module=WORKS, requires="", beside=()):
    """Write a wheel that is no more than a module; return its line in a lock.

    `beside` are files that lie beside the module.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    content = {
        f"{'sklearn' if name == 'scikit-learn' else name}/__init__.py": module,
        **dict(beside),
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={digest(text)},\n" for path, text in content.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in (*content.items(), (f"{info}/RECORD", record + f"{info}/RECORD,,\n")):
            archive.writestr(path, text)
    data = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}-py3-none-any.whl").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return f"{name}=={version} --hash=sha256:{sha256}  # {len(data)} bytes\n"


def digest(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Rig:
    """One baker with a place, an owner and an image of its own."""

    def __init__(self, url, tmp_path):
        self.owner = unique("bake")
        self.engine = Engine(self.owner, url=url)
        self.reference = f"{self.owner}/superexec:1.25.0-sklearn"
        self.given = tmp_path / "given"
        self.given.mkdir()
        self.place = tmp_path / "state" / "bake"
        self.said, self.warned, self.made = [], [], []
        self.lock = ""
        self.bench = BuildContainers(self.engine)
        self.baker = ImageBuilder(
            self.engine, self.bench, self.place, read=lambda *_: frameworks.parse_lock(self.lock)
        )

    def ensure(self):
        where = WheelSource(index=NOWHERE, given=self.given)
        return self.baker.ensure(
            self.reference, PARENT, where=where, pins={}, progress=self.said.append
        )

    def app(self, *dependencies, where=None, cuda=False, parent=PARENT):
        where = where or WheelSource(index=NOWHERE, given=self.given)
        made = self.baker.ensure_app(
            parent,
            dependencies,
            where=where,
            pins={},
            cuda=cuda,
            progress=self.said.append,
            warn=self.warned.append,
        )
        self.made.append(app_images.image(parent, app_images.needed(dependencies), cuda=cuda))
        return made

    def versions(self, made, *names):
        """Return which versions an image has of some packages."""
        program = (
            "from importlib.metadata import version as v; import sys; print(*map(v, sys.argv[1:]))"
        )
        ask = ("python", "-c", program, *names)
        with self.bench.run(made.image_id, ask, mounts={}, online=False) as ended:
            return ended.said.split()

    def left(self):
        """Return the building containers that are there."""
        with client("unix:///var/run/docker.sock") as api:
            label = f"{LABEL_BUILD}={self.owner}"
            return api.containers(all=True, filters={"label": label})


@pytest.fixture
def rig(docker_url, missing, tmp_path):
    rig = Rig(docker_url, tmp_path)
    if rig.engine.image(PARENT) is None:
        missing(f"no {PARENT}: contrib/images/build.py --flower 1.25.0")
    with contextlib.closing(rig.engine):
        yield rig
        with client(docker_url) as api:
            for name in (*rig.made, rig.reference):  # children first
                for image in api.images(filters={"reference": name}):
                    api.remove_image(image["Id"], force=True)


def test_an_image_is_flowers_own_with_the_wheels_of_the_lock(rig):
    rig.lock = wheel(rig.given)
    made, parent = rig.ensure(), rig.engine.image(PARENT)
    assert made.entrypoint == parent.entrypoint == ("flower-superexec",)
    assert image_references.pin(rig.reference, made) == made.made_of
    ask = ("python", "-c", "import sklearn; print(sklearn.answer)")
    with rig.bench.run(rig.reference, ask, mounts={}, online=False) as ended:
        assert (ended.exit_code, ended.said) == (0, "42")
    assert rig.left() == []
    assert [path.name for path in rig.place.iterdir()] == ["lock"]


def test_nothing_of_the_build_gets_into_the_image(rig):
    rig.lock = wheel(rig.given)
    made = rig.ensure()
    with client("unix:///var/run/docker.sock") as api:
        ours, theirs = (api.inspect_image(name)["Config"] for name in (made.image_id, PARENT))
    assert ours["Env"] == theirs["Env"]
    assert not ours["Cmd"]
    assert NOWHERE not in json.dumps(ours)


def test_what_is_there_already_is_not_made_again(rig):
    rig.lock = wheel(rig.given)
    first = rig.ensure()
    rig.said.clear()
    assert rig.ensure().image_id == first.image_id
    assert rig.said == []


def test_another_lock_makes_another_image(rig):
    rig.lock = wheel(rig.given)
    first = rig.ensure()
    rig.lock = wheel(rig.given, module="answer = 43\n")
    assert rig.ensure().made_of != first.made_of


def test_a_wheel_that_is_not_the_locked_one_makes_no_image(rig):
    rig.lock = wheel(rig.given)
    wheel(rig.given, module="import os\n")
    with pytest.raises(AgentError, match="could not be downloaded") as caught:
        rig.ensure()
    assert (caught.value.finding.code, caught.value.retryable) == ("image.build", True)
    assert rig.engine.image(rig.reference) is None
    assert rig.left() == []


def test_what_was_fetched_before_an_index_went_away_is_kept_for_the_next_try(rig):
    first, second = wheel(rig.given, name="fetched", module="import sklearn\n"), wheel(rig.given)
    rig.lock = first + second
    found = rig.given / "scikit_learn-1.9.1-py3-none-any.whl"
    data = found.read_bytes()
    found.unlink()
    with pytest.raises(AgentError, match="could not be downloaded") as caught:
        rig.ensure()
    assert caught.value.retryable
    assert [path.name for path in (rig.place / "wheels").iterdir()] == [FETCHED]
    (rig.given / FETCHED).unlink()
    found.write_bytes(data)
    assert rig.ensure().made_of


def test_a_directory_that_pip_may_not_read_is_named_with_the_remedy(rig):
    rig.lock = wheel(rig.given)
    rig.given.chmod(0o700)
    with pytest.raises(AgentError, match="the container cannot read it") as caught:
        rig.ensure()
    assert caught.value.finding.hint == f"chmod -R a+rX {rig.given}"
    rig.given.chmod(0o755)
    assert rig.ensure().made_of


def test_a_module_that_ends_at_its_import_makes_no_image(rig):
    rig.lock = wheel(rig.given, module="raise RuntimeError('built with baseline X86_V2')\n")
    with pytest.raises(AgentError, match="X86_V2") as caught:
        rig.ensure()
    assert caught.value.finding.code == "image.build"
    assert rig.engine.image(rig.reference) is None


def test_wheels_that_do_not_fit_flower_are_refused_for_good(rig):
    rig.lock = wheel(rig.given, requires="Requires-Dist: protobuf<1\n")
    with pytest.raises(AgentError, match="protobuf") as caught:
        rig.ensure()
    assert (caught.value.finding.code, caught.value.retryable) == ("image.framework", False)
    assert rig.engine.image(rig.reference) is None


def test_what_a_killed_build_left_is_swept_by_the_next(rig):
    rig.lock = wheel(rig.given)
    with client("unix:///var/run/docker.sock") as api:
        api.create_container(PARENT, labels={LABEL_BUILD: rig.owner})
    rig.ensure()
    assert rig.left() == []


def test_two_builds_at_once_do_not_meet(rig):
    rig.lock = wheel(rig.given)
    met = []

    def second(_):
        with pytest.raises(AgentError, match="another build") as caught:
            rig.ensure()
        met.append(caught.value.retryable)

    where = WheelSource(index=NOWHERE, given=rig.given)
    rig.baker.ensure(rig.reference, PARENT, where=where, pins={}, progress=second)
    assert met
    assert all(met)


def test_a_build_that_hangs_is_given_up(rig):
    bench = BuildContainers(rig.engine, limit_s=0.1)
    run = bench.run(PARENT, ("sleep", "60"), mounts={}, online=False)
    with pytest.raises(AgentError, match="gave up"), run:
        pass
    assert rig.left() == []


def test_what_makes_an_image_has_limits_and_goes_first_where_memory_lacks(rig):
    ask = ("cat", "/proc/self/oom_score_adj")
    with (
        rig.bench.run(PARENT, ask, mounts={}, online=False) as ended,
        client("unix:///var/run/docker.sock") as api,
    ):
        found = api.inspect_container(ended.container_id)["HostConfig"]
    assert ended.said == "500"
    assert found["Memory"] == found["MemorySwap"] == build_container.MEMORY_BYTES
    assert found["PidsLimit"] == build_container.PIDS
    assert found["LogConfig"]["Config"]["max-size"]
    assert [limit["Name"] for limit in found["Ulimits"]] == ["fsize"]


def test_a_build_that_wants_all_memory_is_ended_and_says_so(rig):
    ask = ("python", "-c", "b'x' * (3 << 30)")
    with rig.bench.run(PARENT, ask, mounts={}, online=False) as ended:
        assert ended.exit_code == 137
        assert "more than 2048 MiB of memory" in ended.said


def test_a_build_that_takes_the_last_of_the_disk_is_given_up(rig):
    bench = BuildContainers(rig.engine, kept_bytes=1 << 60)
    run = bench.run(PARENT, ("sleep", "60"), mounts={}, online=False)
    with pytest.raises(AgentError, match="MB left, all of which are reserved"), run:
        pass
    assert rig.left() == []


def test_a_file_that_python_runs_by_itself_is_not_run_to_see_what_an_image_lacks(rig):
    trap = {"trap.pth": "import sys; print('lacks trap'); print('done')\n"}
    wheel(rig.given, name="fetched", beside=trap)
    made = rig.app("fetched")
    with rig.bench.run(made.image_id, ("python", "-c", ""), mounts={}, online=False) as ended:
        assert "lacks trap" in ended.said
    assert Bundler(rig.engine).lacking(made.image_id, ("fetched", "flwr>=1.25")) == ()


def test_what_an_app_declares_is_added_where_flowers_image_lacks_it(rig):
    wheel(rig.given, name="fetched")
    made = rig.app("flwr[simulation]>=1.23", "fetched ~= 1.9", "numpy>=1.26")
    assert made.entrypoint == ("flower-superexec",)
    ask = ("python", "-c", "import fetched; print(fetched.answer)")
    with rig.bench.run(made.image_id, ask, mounts={}, online=False) as ended:
        assert ended.said == "42"
    (rig.given / FETCHED).unlink()
    assert rig.app("numpy>=1.26", "fetched ~= 1.9").image_id == made.image_id


def test_an_app_that_needs_nothing_more_has_an_image_too(rig):
    assert rig.app("flwr>=1.23,<2", "numpy>=1.26").made_of


def test_an_app_that_wants_what_no_index_has_makes_no_image(rig):
    with pytest.raises(AgentError, match=r"could not be resolved.*nowhere-to-be-found") as caught:
        rig.app("nowhere-to-be-found>=1")
    assert caught.value.finding.code == "image.build"
    assert rig.left() == []


def test_an_apps_image_is_a_layer_on_its_frameworks_and_keeps_what_fits(rig):
    rig.lock = wheel(rig.given)
    parent = rig.ensure()
    wheel(rig.given, version="1.9.2")
    wheel(rig.given, name="fetched", requires="Requires-Dist: scikit-learn>=1\n")
    made = rig.app("scikit-learn>=1.5,<2", "fetched", parent=rig.reference)
    assert rig.versions(made, "scikit-learn", "fetched") == ["1.9.1", "1.9.1"]
    with client("unix:///var/run/docker.sock") as api:
        below, layers = (
            api.inspect_image(image.image_id)["RootFS"]["Layers"] for image in (parent, made)
        )
    assert layers[:-1] == below
    other = rig.app("scikit-learn==1.9.2", parent=rig.reference)
    assert rig.versions(other, "scikit-learn") == ["1.9.2"]


@contextlib.contextmanager
def index(folder):
    """Serve a package index: a directory for each name."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_):
        """Say nothing on stderr."""


@pytest.fixture
def indexes(rig, tmp_path):
    """Two indexes: the usual one, and that of CPU builds, which has more than it should."""
    main, cpu = tmp_path / "main", tmp_path / "cpu"
    wheel(
        main / "torch", name="torch", requires="Requires-Dist: nvidia-fake\nRequires-Dist: helper\n"
    )
    wheel(main / "nvidia-fake", name="nvidia-fake")
    wheel(main / "helper", name="helper")
    wheel(main / "lightning", name="lightning", requires="Requires-Dist: torch>=1\n")
    wheel(cpu / "torch", name="torch", version="1.9.1+cpu", requires="Requires-Dist: helper\n")
    wheel(cpu / "torch", name="torch", version="9.9+cpu", requires="Requires-Dist: evil\n")
    for name in ("helper", "lightning", "evil"):
        wheel(cpu / name, name=name, version="9.9", module="raise SystemExit('evil')\n")
    with index(main) as usual, index(cpu) as builds:
        yield WheelSource(index=usual, cpu_index=builds)


def test_without_a_gpu_torch_is_the_cpu_build_and_nothing_else_is_of_that_index(rig, indexes):
    made = rig.app("lightning", where=indexes)
    assert rig.versions(made, "torch", "helper", "lightning") == ["1.9.1+cpu", "1.9.1", "1.9.1"]
    assert rig.versions(made, "nvidia-fake") != ["1.9.1"]
    assert rig.warned == []
    said = [line for line in rig.said if line.startswith("fetches 3 wheels, ")]
    assert said
    assert "unknown" not in said[0]


def test_an_exact_version_is_what_the_cpu_build_of_it_is(rig, indexes):
    assert rig.versions(rig.app("torch==1.9.1", where=indexes), "torch") == ["1.9.1+cpu"]


def test_with_a_gpu_the_usual_build_is_taken(rig, indexes):
    made = rig.app("torch==1.9.1", where=indexes, cuda=True)
    assert rig.versions(made, "torch", "nvidia-fake") == ["1.9.1", "1.9.1"]


def test_where_the_index_of_cpu_builds_is_away_the_usual_build_is_taken_with_a_warning(
    rig, indexes
):
    away = dataclasses.replace(indexes, cpu_index="http://127.0.0.1:9")
    made = rig.app("torch==1.9.1", where=away)
    assert rig.versions(made, "torch", "nvidia-fake") == ["1.9.1", "1.9.1"]
    (warned,) = rig.warned
    assert warned.startswith("127.0.0.1 gave no CPU build of torch==1.9.1 that fits (ERROR: ")


def test_a_cpu_build_that_fits_nothing_is_passed_over(rig, indexes, tmp_path):
    wheel(tmp_path / "cpu/torch", name="torch", version="1.9.1+cpu", requires="Requires-Dist: no\n")
    made = rig.app("torch==1.9.1", where=indexes)
    assert rig.versions(made, "torch") == ["1.9.1"]
    assert len(rig.warned) == 1


def test_bake_pins_what_it_found_and_prints_sizes(rig, tmp_path, capsys):
    paths = Paths(tmp_path / "root")
    assert bake.run(paths, "1.25.0", [], WheelSource()) == 0
    locked = image_references.parse_lock(paths.images_lock.read_bytes())
    assert sorted(locked) == sorted(
        (
            "flwr/superlink:1.25.0-py3.13-ubuntu24.04",
            "flwr/supernode:1.25.0-py3.13-ubuntu24.04",
            PARENT,
        )
    )
    said = capsys.readouterr().out
    for reference, pin in locked.items():
        assert image_references.pinned(reference, rig.engine.image(reference), pin)
        assert re.search(f"{re.escape(reference)}  {pin}  [0-9,]+ MB", said)
    assert paths.images_lock.stat().st_mode & 0o777 == 0o644


def test_bake_refuses_an_app_that_is_no_repository(tmp_path):
    with pytest.raises(AgentError, match="--app is not a repository") as caught:
        bake.run(Paths(tmp_path / "root"), "1.25.0", [], WheelSource(), ["../here"])
    assert caught.value.finding.code == "run.no_app"
