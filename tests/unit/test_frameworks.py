"""Framework images: their locks are whole, and what one was made of tells it from another."""

import re

import pytest

from flower_agent import cli
from flower_agent.flower import frameworks
from flower_agent.flower.frameworks import NAMES, PYTHONS, parse_lock
from flower_agent.images import builder
from flower_agent.model.errors import AgentError

WHEEL = "torch==2.13.0+cpu --hash=sha256:" + "a" * 64 + "  # 1000 bytes"
OTHER = "sympy==1.14.0 --hash=sha256:" + "b" * 64 + "  # 24 bytes"
EACH = [(name, python) for name in NAMES for python in PYTHONS]
BROUGHT = {"flwr", "numpy", "protobuf", "grpcio", "cryptography", "requests", "rich", "click"}
"""What every image of Flower has; another version of it may break Flower."""


def names(lock):
    return {name.partition(" ")[0] for name in lock.names}


@pytest.mark.parametrize(("name", "python"), EACH)
def test_each_framework_has_a_lock_for_each_python_and_leaves_flowers_own_alone(name, python):
    lock = builder.read_lock(name, python)
    assert frameworks.MODULES[name.removesuffix("-cuda")].replace("sklearn", "scikit-learn") in (
        names(lock)
    )
    assert names(lock) & BROUGHT == set()
    assert lock.size_bytes > 40_000_000


@pytest.mark.parametrize("python", PYTHONS)
def test_the_cpu_variant_of_pytorch_brings_nothing_of_nvidia(python):
    assert not [name for name in names(builder.read_lock("pytorch", python)) if "nvidia" in name]
    assert [name for name in names(builder.read_lock("pytorch-cuda", python)) if "nvidia" in name]


def test_the_cpu_wheels_of_pytorch_come_from_its_own_index():
    parts = builder.read_lock("pytorch", "3.13").parts
    assert [part.index for part in parts] == ["", "https://download.pytorch.org/whl/cpu"]
    assert [name for name, _ in parts[1].wheels] == ["torch 2.13.0+cpu"]


@pytest.mark.parametrize(("name", "python"), EACH)
def test_tensorflow_is_one_that_has_wheels_for_python_3_13(name, python):
    for wheel in builder.read_lock(name, python).names:
        if wheel.startswith("tensorflow "):
            release = tuple(map(int, wheel.split()[1].split(".")[:2]))
            assert release >= (2, 20)


def test_no_lock_lies_there_that_nothing_reads():
    wanted = {frameworks.lock_name(*pair) for pair in EACH}
    assert {path.name for path in builder.LOCKS.iterdir()} == wanted


@pytest.mark.parametrize("line", ["torch", "torch==2.13.0", "torch==2 --hash=md5:0  # 1 bytes"])
def test_a_line_that_locks_nothing_is_refused(line):
    with pytest.raises(ValueError, match="want NAME==VERSION"):
        parse_lock(f"{OTHER}\n{line}\n")


def test_comments_and_sizes_of_a_lock_are_read():
    lock = parse_lock(f"# for a test\n{OTHER}\n# from https://example.org/cpu\n{WHEEL}\n")
    assert lock.names == ("sympy 1.14.0", "torch 2.13.0+cpu")
    assert lock.size_bytes == 1024
    assert [part.text for part in lock.parts] == [f"{OTHER}\n", f"{WHEEL}\n"]


def test_another_parent_or_another_wheel_makes_another_image():
    one, two = parse_lock(f"{OTHER}\n"), parse_lock(f"{WHEEL}\n")
    made = {frameworks.made_of(parent, lock) for parent in ("sha256:1", "2") for lock in (one, two)}
    assert len(made) == 4
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in made)
    assert frameworks.made_of("2", one) == frameworks.made_of("2", parse_lock(one.text))


def test_the_reference_of_an_image_tells_what_it_is():
    reference = frameworks.image((1, 25, 0), "pytorch-cuda")
    assert reference == "flower-agent/superexec:1.25.0-pytorch-cuda"
    assert frameworks.split(reference) == ("1.25.0", "pytorch-cuda")


@pytest.mark.parametrize(
    ("framework", "cuda", "name"),
    [
        ("pytorch", True, "pytorch-cuda"),
        ("pytorch", False, "pytorch"),
        ("tensorflow", True, "tensorflow-cuda"),
        ("sklearn", True, "sklearn"),
    ],
)
def test_a_gpu_wants_the_cuda_variant_where_there_is_one(framework, cuda, name):
    assert frameworks.variant(framework, cuda=cuda) == name


@pytest.mark.parametrize(("name", "python"), [("sklearn", "3.10"), ("jax", "3.13")])
def test_without_a_lock_the_error_says_what_is_missing(name, python):
    with pytest.raises(AgentError, match=f"no wheels of {name} for Python {python}") as caught:
        frameworks.lock_name(name, python)
    assert caught.value.finding.code == "image.framework"


def test_the_minor_version_of_python_is_read():
    assert frameworks.python_of("Python 3.13.5") == "3.13"
    with pytest.raises(AgentError, match="no Python that answers"):
        frameworks.python_of("sh: python: not found")


def test_a_password_of_the_index_stands_in_a_file_and_not_on_the_command_line():
    index = "https://me:secret@pypi.example.org/simple"
    assert index in frameworks.pip_conf(index, cert=True, proxy="")
    assert "secret" not in " ".join((*frameworks.download(0), *frameworks.install("torch")))


def test_the_usual_variables_of_pip_say_where_wheels_come_from(tmp_path):
    found = builder.source({"PIP_INDEX_URL": "https://a.example", "PIP_FIND_LINKS": str(tmp_path)})
    assert (found.index, found.given) == ("https://a.example", tmp_path)
    assert (
        builder.source({"PIP_INDEX_URL": "https://a.example"}, index="https://b").index
        == "https://b"
    )
    assert builder.source({}).index == "https://pypi.org/simple"
    assert builder.source({"HTTPS_PROXY": "http://p:3128"}).proxy == "http://p:3128"


def test_the_command_line_knows_each_framework():
    for name in NAMES:
        options = cli.parser().parse_args(["bake", "--framework", name, "sklearn"])
        assert options.framework == [name, "sklearn"]
