"""What contrib/image bakes into a file tree: an agent there needs no network, and takes no other.

An Engine on the tree's own data stands for the VM's. Flower's images are a shell here, and come
from this machine's Docker or from a registry.
"""

import contextlib
import os
import shutil
import subprocess

import engine as recipe
import pytest
from private_registry import PASSWORD, USER, PrivateRegistry, publish
from real_engine import client, load_image, shell_files, unique

from flower_agent.docker import image_references
from flower_agent.docker.client import Engine
from flower_agent.paths import Paths

pytestmark = pytest.mark.engine

PARTS = ("superlink:1.25.0-py3.13-ubuntu24.04", "supernode:1.25.0-py3.13-ubuntu24.04")
PARTS += ("superexec:1.25.0",)
CONTEXT = "FLOWER_ROLE='superlink'\nFLOWER_ADDRESS='127.0.0.1'\n"
SKLEARN = "flower-agent/superexec:1.25.0-sklearn"


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "tree"
    paths = Paths(tree)
    for folder in (paths.context, paths.config.parent):
        folder.mkdir(parents=True)
    (paths.context / "context.sh.network").write_text(CONTEXT)
    yield tree
    shutil.rmtree(tree)


@pytest.fixture
def here(docker_url, tree):
    """Flower's images in this machine's Docker, under a prefix that no registry has."""
    prefix = unique("baked")
    references = [f"{prefix}/{part}" for part in PARTS]
    (Paths(tree).config).write_text(f"flower_image_prefix: {prefix}\n")
    with client(docker_url) as api:
        for reference in references:
            load_image(api, reference, shell_files(), [f'CMD ["{reference}"]'])
        yield references
        for reference in references:
            api.remove_image(reference, force=True)


def lock(tree):
    return image_references.parse_lock(Paths(tree).images_lock.read_bytes())


def held(url, references):
    with contextlib.closing(Engine("baked", url=url)) as engine:
        return {reference: engine.image(reference) for reference in references}


def plan(tree, url):
    """Return what an agent on a VM of the tree would do."""
    command = [str(recipe.AGENT), "--root", str(tree), "plan"]
    environment = {**os.environ, "DOCKER_HOST": url}
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=60
    ).stdout


def test_the_tree_holds_what_its_lock_names_and_this_machine_has(tree, here, docker_url):
    recipe.bake(tree, here, [])
    ours = {reference: image.image_id for reference, image in held(docker_url, here).items()}
    assert len(set(ours.values())) == len(PARTS)
    assert lock(tree) == ours
    with recipe.running(tree / recipe.DATA) as url:
        found = held(url, here)
    assert {reference: image.image_id for reference, image in found.items()} == ours


def test_an_agent_of_the_tree_pulls_nothing_and_refuses_a_tag_that_moved(tree, here):
    recipe.bake(tree, here, [])
    with recipe.running(tree / recipe.DATA) as url:
        assert "pull" not in plan(tree, url)
        assert "start flower-superlink" in plan(tree, url)
        with client(url) as api:
            api.tag(here[1], here[0].rpartition(":")[0], PARTS[0].partition(":")[2])
        assert f"pull {here[0]}" in plan(tree, url)


def test_an_image_that_this_machine_lacks_ends_the_build_by_its_name(tree, docker_url):
    with pytest.raises(RuntimeError, match="nobody/has:this"):
        recipe.bake(tree, ["nobody/has:this"], [])


def test_a_bake_that_cannot_end_ends_the_build(tree, here):
    with pytest.raises(RuntimeError, match="flower-agent bake"):
        recipe.bake(tree, here[:1], [])


def test_what_comes_from_a_registry_is_pinned_by_its_digest_and_needs_it_no_more(
    tree, tmp_path, docker_url, missing
):
    if shutil.which("docker-registry") is None:
        missing("no docker-registry: apt-get install docker-registry")
    registry = PrivateRegistry(tmp_path)
    prefix = f"{registry.host}/flwr"
    settings = {"image_prefix": prefix, "registry_user": USER, "registry_password": PASSWORD}
    Paths(tree).config.write_text("".join(f"flower_{k}: {v}\n" for k, v in settings.items()))
    references = [f"{prefix}/{part}" for part in PARTS]
    registry.up()
    try:
        with client(docker_url) as api:
            digests = {reference: publish(api, reference) for reference in references}
        recipe.bake(tree, [], [])
    finally:
        registry.down()
    assert lock(tree) == digests
    with recipe.running(tree / recipe.DATA) as url:
        assert "pull" not in plan(tree, url)


@pytest.mark.long
def test_a_framework_is_baked_in_and_needs_no_index(tree, docker_url, missing):
    prefixed = [f"flwr/{part}" for part in PARTS]
    wanted = [*prefixed, SKLEARN]
    if None in held(docker_url, wanted).values():
        missing("no images: contrib/images/build.py --flower 1.25.0 --framework sklearn")
    recipe.bake(tree, wanted, ["--framework", "sklearn", "--index-url", "http://127.0.0.1:9/"])
    context = Paths(tree).context / "context.sh.network"
    context.write_text(CONTEXT + "ML_FRAMEWORK='sklearn'\n")
    with recipe.running(tree / recipe.DATA) as url:
        assert lock(tree)[SKLEARN] == held(url, [SKLEARN])[SKLEARN].made_of
        assert "make" not in plan(tree, url).replace("make CA", "")
        with client(url) as api:
            api.remove_image(SKLEARN)
        assert f"make {SKLEARN}" in plan(tree, url)
