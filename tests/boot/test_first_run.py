"""The shut-in agent fetches with git, makes a framework's image and submits a run.

The story is lived once: both VMs are told of a framework, the SuperLink of an app too, which a real
git daemon serves on their network. The wheels lie on the VMs' disks, since they have no index.
"""

import json
import shutil
import subprocess

import pytest
import tree
import vm
from contexts import reconfigure
from service import ADDRESS, SUPERLINK, SUPERNODE

from flower_agent.images import builder

GIT_PORT = 23310
APPS = f"git://{ADDRESS}:{GIT_PORT}/apps"
WHEELS = "/srv/wheels"
DROP_IN = "/etc/systemd/system/flower-agent.service.d/wheels.conf"
FRAMEWORK = {"ML_FRAMEWORK": "sklearn"}
RUN = {
    "CUSTOM_APP_REPO": f"{APPS}@main#digits-app",
    "FL_NUM_ROUNDS": "2",
    "FL_MIN_CLIENTS": "1",
    "FL_CONFIG_LOCAL_EPOCHS": "1",
    "FL_CONFIG_FRACTION_EVALUATE": "0",
}
IMAGE = "flower-agent/superexec:1.25.0-sklearn"
BUILD_S, RUN_S = 400.0, 180.0


@pytest.fixture(scope="module")
def wheels(docker_url, tmp_path_factory):
    """What the lock of scikit-learn names, for the Python of the image."""
    docker = ("docker", "run", "--rm", "--network=none", "--entrypoint=python")
    python = tree.call(*docker, tree.IMAGES[-1], "--version").split()[1].rpartition(".")[0]
    folder = tmp_path_factory.mktemp("wheels")
    lock = builder.LOCKS / f"sklearn-py{python}.txt"
    subprocess.run(
        ["pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:",
         f"--python-version={python}", "--platform=manylinux_2_28_x86_64", f"--dest={folder}",
         f"--requirement={lock}"],
        check=True, timeout=300,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def repository(booted, tmp_path_factory):
    """A repository with the reference app in a directory, served on the VMs' network."""
    base = tmp_path_factory.mktemp("git")
    place = base / "apps"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(tree.ROOT / "contrib/app", place / "digits-app", ignore=ignored)
    tree.call("git", "init", "-q", "-b", "main", place)
    tree.call("git", "-C", place, "add", "-A")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    tree.call("git", "-C", place, *who, "commit", "-q", "-m", "the app")
    where = [f"--base-path={base}", f"--listen={ADDRESS}", f"--port={GIT_PORT}", "--reuseaddr"]
    serve = ["git", "daemon", "--export-all", *where, str(base)]
    with booted.beside(serve) as daemon:
        yield tree.call("git", "-C", place, "rev-parse", "HEAD").strip()
        daemon.terminate()


@pytest.fixture(scope="module")
def story(booted, wheels, repository):
    """Both VMs after the first run of their lives."""
    booted.wait_all()
    for machine in booted.vms.values():
        shutil.copytree(wheels, f"/proc/{machine.init}/root{WHEELS}", dirs_exist_ok=True)
        machine.run("chmod", "-R", "a+rX", WHEELS)  # the container that reads them is not root
        text = f"[Service]\\nEnvironment=PIP_FIND_LINKS={WHEELS}\\n"
        machine.run("mkdir", "-p", DROP_IN.rpartition("/")[0])
        machine.run("sh", "-c", f"printf '{text}' >{DROP_IN}")
        machine.try_("docker", "rmi", IMAGE)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "flower-agent.service")
    booted.wait_all()
    reconfigure(booted, SUPERNODE, **FRAMEWORK)
    reconfigure(booted, SUPERLINK, **FRAMEWORK, **RUN)
    try:
        for machine in booted.vms.values():
            vm.wait_for(lambda m=machine: computes(m) == IMAGE, lambda m=machine: m.try_(
                "flower-agent", "status")[1], BUILD_S)  # fmt: skip
        vm.wait_for(lambda: told(booted).startswith("finished"), lambda: booted.superlink.try_(
            "flower-agent", "status")[1], RUN_S)  # fmt: skip
        yield booted
    finally:
        for role, machine in booted.vms.items():
            reconfigure(booted, role, **dict.fromkeys((*FRAMEWORK, *RUN), ""))
            machine.run("rm", "-r", DROP_IN.rpartition("/")[0], WHEELS)
            machine.run("systemctl", "daemon-reload")
            machine.run("systemctl", "restart", "flower-agent.service")


def told(booted):
    return booted.attributes(SUPERLINK).get("FLOWER_RUN", "")


def computes(machine):
    """Return the image in which apps run on this VM."""
    form = "{{.Config.Image}} {{.State.Running}}"
    _, words = machine.try_("docker", "inspect", "-f", form, "flower-superexec")
    image, _, running = words.strip().partition(" ")
    if running != "true":
        return ""
    _, names = machine.try_("docker", "image", "inspect", "-f", "{{json .RepoTags}}", image)
    return IMAGE if IMAGE in names else image


def test_the_app_of_a_repository_is_fetched_bundled_submitted_and_finishes(story, repository):
    machine = story.superlink
    (found,) = json.loads(machine.run("flower-agent", "runs", "--json"))["runs"]
    assert told(story) == "finished"
    events = {event["event"]: event for event in machine.events()}
    assert events["run.prepared"]["commit"] == repository
    assert str(events["run.submitted"]["run"]) in json.dumps(found)


def test_its_rounds_were_computed(story):
    log = story.superlink.run("sh", "-c", "cat /var/lib/flower-agent/runs/*/log.txt")
    assert "finished: 2 rounds" in log


def test_its_model_was_taken_into_safety_by_an_agent_without_capabilities(story):
    machine, runs = story.superlink, "/var/lib/flower-agent/runs"
    find = f"ls {runs}/*/outputs.json"
    vm.wait_for(lambda: machine.try_("sh", "-c", find)[0] == 0, lambda: machine.try_(
        "flower-agent", "status")[1], RUN_S)  # fmt: skip
    listed = machine.run("sh", "-c", find).strip()
    files = {each["name"]: each for each in json.loads(machine.run("cat", listed))["files"]}
    assert set(files) == {"final_model.npz", "history.csv"}
    machine.run("flower-agent", "runs", "fetch", listed.split("/")[-2], "-o", "/root/model")
    digest = machine.run("sha256sum", "/root/model/final_model.npz").split()[0]
    assert digest == files["final_model.npz"]["sha256"]
    owner = machine.run("stat", "-c", "%u", f"{runs}/{listed.split('/')[-2]}/outputs").strip()
    assert owner == "49999"  # the agent could not have moved it by itself
    left = machine.run("sh", "-c", f"ls {runs}/live").split()
    assert not [name for name in left if name.isdecimal()]


@pytest.mark.parametrize("role", [SUPERLINK, SUPERNODE])
def test_the_image_was_made_by_the_shut_in_agent(story, role):
    machine = story.vms[role]
    made = [event["image"] for event in machine.events() if event["event"] == "image.made"]
    assert made[-1:] == [IMAGE]
    assert machine.show("CapabilityBoundingSet") == ""
    assert machine.show("ProtectSystem") == "strict"
