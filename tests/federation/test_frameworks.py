"""Frameworks: an image that a VM makes at its first boot, and runs that train in each of them."""

import re
import subprocess
import sys

import pytest
from federation import REPOSITORY
from watched import WatchedFederation, docker, wait_for

from flower_agent.config import parsing
from flower_agent.docker.image_references import parse_lock
from flower_agent.flower import container_spec

pytestmark = [pytest.mark.engine, pytest.mark.federation]

UNMADE = "1.25.77"
"""A version of which no derived image is here; its own are those of 1.25.0 by another tag."""

MADE = f"flower-agent/superexec:{UNMADE}-sklearn"
TAGS = ("flwr/superlink:{}-py3.13-ubuntu24.04", "flwr/superexec:{}")
DEEP = REPOSITORY / "contrib" / "app-deep"


@pytest.fixture
def unmade(images):
    for tag in TAGS:
        docker("tag", tag.format("1.25.0"), tag.format(UNMADE))
    yield
    subprocess.run(["docker", "rmi", MADE], check=False, capture_output=True)
    docker("rmi", *(tag.format(UNMADE) for tag in TAGS))


def image_line(federation, machine):
    facts = federation.status(machine).get("facts") or ()
    return next((fact["detail"] for fact in facts if fact["name"] == "image"), "")


def test_a_vm_makes_the_image_of_its_framework_at_its_first_boot(unmade, lone):
    federation = lone(23500, "firstboot", FLOWER_VERSION=UNMADE)
    link = federation.superlink
    federation.deploy(link)
    wait_for(lambda: f"builds {MADE}" in image_line(federation, link), "it says what it makes")
    wait_for(lambda: "of 6 wheels" in image_line(federation, link), "it says how far it is", 120)
    assert federation.status(link)["phase"] == "image"
    federation.wait_ready(link, 400)
    found = docker("inspect", "-f", "{{.Config.Image}}", f"{link.prefix}-flower-superexec")
    assert found.strip() == MADE
    place = link.root / "var/lib/flower-agent/bake"
    wait_for(lambda: [path.name for path in place.iterdir()] == ["lock"], "nothing left of it")


def test_a_vm_runs_what_bake_pinned_and_nothing_else(images, lone):
    federation = lone(23540, "pinned")
    link = federation.superlink
    baked = federation.agent(link, "bake", "--framework", "sklearn")
    assert baked.returncode == 0, baked.stderr
    federation.deploy(link)
    federation.wait_ready(link)
    names = [f"{link.prefix}-flower-{part}" for part in ("superlink", "superexec")]
    used = docker("inspect", "-f", "{{.Config.Image}}", *names).split()
    wanted = container_spec.images(parsing.parse({**link.variables}, {}).settings)
    assert used == [docker("inspect", "-f", "{{.Id}}", image).strip() for image in wanted]
    assert pins(link).keys() >= set(wanted)


def pins(machine):
    path = machine.root / "usr/share/flower-agent/images.lock"
    return parse_lock(path.read_bytes())


@pytest.mark.long
@pytest.mark.parametrize(("name", "says"), [("pytorch", "PyTorch"), ("tensorflow", "TensorFlow")])
def test_a_federation_trains_with_a_deep_learning_framework(images, tmp_path, name, says):
    build = [sys.executable, REPOSITORY / "contrib/images/build.py", "--flower", "1.25.0"]
    subprocess.run([*build, "--framework", name], check=True)
    federation = WatchedFederation(
        tmp_path,
        name=f"deep-{name}",
        base_port=23200,
        variables={"ML_FRAMEWORK": name},
        app=DEEP,
        say=lambda _: None,
    )
    try:
        federation.up()
        lines = list(federation.submit())
    finally:
        federation.down()
    rounds = [float(m[1]) for line in lines if (m := re.search(r"of 3: accuracy (\S+),", line))]
    assert len(rounds) == 3, "\n".join(lines[-40:])
    assert rounds[-1] > max(rounds[0], 0.5)
    assert any(line.startswith(f"{says} ") for line in lines)
