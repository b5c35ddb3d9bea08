"""An app's bundle by the real ``flwr build``, in a container that can do nothing else."""

import io
import pathlib
import random
import zipfile
from concurrent import futures

import pytest
from watched import docker

from flower_agent.docker.client import Engine
from flower_agent.model.errors import AgentError
from flower_agent.runs.bundle import LABEL, Bundler

pytestmark = [pytest.mark.engine, pytest.mark.federation]

IMAGE = "flwr/superlink:1.25.0-py3.13-ubuntu24.04"
APP = pathlib.Path(__file__).parents[2] / "contrib/app"
FILES = {
    str(path.relative_to(APP)): path.read_bytes()
    for path in APP.rglob("*")
    if path.suffix in (".py", ".toml", ".md")
}


@pytest.fixture
def bundler(images):
    engine = Engine("bundlertest")
    yield Bundler(engine)
    engine.close()
    assert docker("ps", "-aq", "--filter", f"label={LABEL}=bundlertest") == ""


def refusal(bundler, files, image=IMAGE):
    with pytest.raises(AgentError) as caught:
        bundler.build(image, files)
    assert caught.value.finding.hint
    return caught.value.finding


def test_the_bundle_holds_the_app_and_is_the_same_twice(bundler):
    bundle = bundler.build(IMAGE, FILES)
    names = set(zipfile.ZipFile(io.BytesIO(bundle)).namelist())
    assert {*FILES, ".info/CONTENT"} == names
    assert bundler.build(IMAGE, FILES) == bundle


def test_what_flwr_build_says_of_a_bad_app_is_told(bundler):
    broken = FILES["pyproject.toml"].replace(b"digits.server_app:app", b"digits.nowhere:app")
    found = refusal(bundler, {**FILES, "pyproject.toml": broken})
    assert found.code == "run.build"
    assert "digits.nowhere" in found.message or "nowhere" in found.message


@pytest.mark.parametrize("version", ["1.25.0", "1.42.0"])
def test_an_app_that_cannot_be_imported_is_told_by_its_cause(bundler, version):
    image = IMAGE.replace("1.25.0", version)
    found = refusal(bundler, {**FILES, "digits/__init__.py": b"import wandb\n"}, image)
    cause = "ModuleNotFoundError: No module named 'wandb'"
    assert found.message == f"flwr build refused the app: {cause}"


PROBE = b"""
import os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
found = {
    "uid": os.getuid(),
    "caps": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "networks": sorted(name for _, name in socket.if_nameindex()),
    "socket": os.path.exists("/var/run/docker.sock"),
    "state": os.path.exists("/app/state") or os.path.exists("/app/certificates"),
    "oom": int(open("/proc/self/oom_score_adj").read()),
}
raise SystemExit(f"probe {found}")
"""


def test_what_an_app_runs_while_it_is_bundled_reaches_nothing(bundler):
    found = refusal(bundler, {**FILES, "digits/__init__.py": PROBE})
    want = {
        "uid": 49999,
        "caps": 0,
        "networks": ["lo"],
        "socket": False,
        "state": False,
        "oom": 500,
    }
    assert found.message.endswith(f"probe {want}")


def test_no_other_file_of_an_app_is_run(bundler):
    trap = b"raise SystemExit('this must never run')\n"
    files = {**FILES, "setup.py": trap, "conftest.py": trap, "digits/other.py": trap}
    assert bundler.build(IMAGE, files)


def test_an_app_that_is_too_large_for_flower_is_told(bundler):
    noise = random.Random(1).randbytes(11 << 20).hex().encode()
    found = refusal(bundler, {**FILES, "digits/noise.md": noise})
    assert found.code in ("run.build", "run.too_large")
    assert "size" in found.message or "larger" in found.message


def test_what_an_image_lacks_of_an_apps_dependencies_is_told(bundler):
    wanted = ("flwr>=1.23,<2", "flwr>=9", "torch==2.9", "numpy", "x; python_version<'3'", "!!")
    lacks = bundler.lacking("flwr/superexec:1.25.0", wanted)
    assert lacks == ("flwr>=9 (it has 1.25.0)", "torch==2.9")


def test_two_bundles_are_built_at_once(bundler):
    with futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: bundler.build(IMAGE, FILES), range(2))
    assert first == second


def test_an_image_that_is_gone_is_told(bundler):
    found = refusal(bundler, FILES, "flwr/superlink:none")
    assert found.code == "run.build"
    assert "No such image" in found.message


def test_a_build_that_hangs_is_ended(images):
    engine = Engine("bundlertest")
    found = refusal(Bundler(engine, timeout_s=0.0), FILES)
    engine.close()
    assert (found.code, "not built within" in found.message) == ("run.build", True)
