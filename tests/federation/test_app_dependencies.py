"""An app with a dependency that no image has: it runs on every VM, or the VM says why not."""

import contextlib
import shutil
import subprocess
import sys

import pytest
import tinyproxy
from federation import APP
from run_listing import answers, commit
from watched import docker, started, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.federation]

GIT_PORT = 23190
INDEX_PORT = 23191
URL = f"git://127.0.0.1:{GIT_PORT}/app@main"
VARIABLES = {
    "CUSTOM_APP_REPO": URL,
    "FL_NUM_ROUNDS": "1",
    "FL_CONFIG_FRACTION_EVALUATE": "0",
    "FL_CONFIG_LOCAL_EPOCHS": "1",
}


BOTH = ("client_app.py", "server_app.py")


def want(made, dependency, sides=BOTH):
    """Let the app want something more, and use it on those sides."""
    shutil.copytree(APP, made, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    project = made / "pyproject.toml"
    wanted = '"scikit-learn>=1.5,<2",\n'
    assert wanted in project.read_text()
    project.write_text(project.read_text().replace(wanted, f'{wanted}  "{dependency}",\n'))
    for side in sides:
        path = made / "digits" / side
        path.write_text(path.read_text() + "\nimport tabulate\n\nprint(tabulate.__version__)\n")
    commit(made, dependency)


@pytest.fixture
def made(tmp_path):
    """A repository with such an app."""
    made = tmp_path / "git" / "app"
    made.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", "-b", "main", made], check=True, timeout=60)
    want(made, "tabulate>=0.9,<1")
    return made


@contextlib.contextmanager
def served(made):
    base = made.parent
    where = [f"--base-path={base}", "--listen=127.0.0.1", f"--port={GIT_PORT}", "--reuseaddr"]
    with subprocess.Popen(["git", "daemon", "--export-all", *where, base]) as daemon:
        wait_for(lambda: answers(GIT_PORT), "the git daemon")
        try:
            yield
        finally:
            daemon.terminate()


@contextlib.contextmanager
def index(directory):
    """Serve a package index with that one package."""
    package = directory / "tabulate"
    package.mkdir(parents=True, exist_ok=True)
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", package, "tabulate"]
    subprocess.run(fetch, check=True, timeout=120)
    serve = [sys.executable, "-m", "http.server", str(INDEX_PORT), "--bind", "127.0.0.1"]
    with subprocess.Popen([*serve, "--directory", directory]) as server:
        wait_for(lambda: answers(INDEX_PORT), "the package index")
        try:
            yield
        finally:
            server.terminate()


@pytest.fixture(autouse=True)
def no_image_is_left(images):
    """Let each test make the images itself."""
    forget()
    yield
    forget()


def forget():
    left = docker(
        "images", "-q", "--filter", "reference=flower-agent/superexec:1.25.0-sklearn-app-*"
    )
    for image in set(left.split()):
        subprocess.run(["docker", "rmi", "-f", image], check=False, capture_output=True)


def fact(federation, machine, name):
    found = {row["name"]: row["detail"] for row in federation.status(machine).get("facts") or ()}
    return found.get(name, "")


def warnings(federation, machine):
    return {found["code"]: found for found in federation.status(machine).get("warnings") or ()}


def has(machine, part):
    """Return whether a container of a VM can import what the app wants."""
    ask = ["docker", "exec", f"{machine.prefix}-flower-{part}", "python", "-c", "import tabulate"]
    return subprocess.run(ask, check=False, capture_output=True, timeout=60).returncode == 0


def test_an_app_with_a_dependency_of_its_own_finishes_a_run(made, lone):
    federation = lone(23100, "deps", **VARIABLES)
    with served(made):
        federation.deploy(federation.superlink)
        federation.wait_ready(federation.superlink, 200)
        for machine in federation.supernodes:
            federation.deploy(machine)
        link = federation.superlink
        ends = ("finished", "failed")
        wait_for(lambda: fact(federation, link, "run").startswith(ends), "the end of the run", 240)
    assert fact(federation, link, "run").startswith("finished")
    for machine in federation.machines:
        assert "has its dependencies in flower-agent/superexec:1.25.0-sklearn-app-" in fact(
            federation, machine, "app"
        )
        assert has(machine, "superexec")
        assert warnings(federation, machine) == {}
    assert not has(federation.supernodes[0], "supernode")


def test_a_git_server_that_is_away_harms_no_vm_and_the_image_follows(made, lone):
    federation = lone(23130, "gitaway", scale=0.1, **VARIABLES)
    link = federation.superlink
    federation.deploy(link)
    federation.wait_ready(link)
    wait_for(lambda: "run.clone" in warnings(federation, link), "the warning")
    assert "apps run in" in fact(federation, link, "app")
    assert not has(link, "superexec")
    before = started(f"{link.prefix}-flower-superlink")
    with served(made):
        wait_for(lambda: has(link, "superexec"), "the image with what the app wants", 120)
    assert started(f"{link.prefix}-flower-superlink") == before


def test_a_run_is_held_back_until_the_image_with_what_its_app_wants_is_there(tmp_path, made, lone):
    want(made, "tabulate>=0.9,<1", sides=["server_app.py"])
    closed = {"PIP_INDEX_URL": f"http://127.0.0.1:{INDEX_PORT}", "PIP_FIND_LINKS": ""}
    with served(made), tinyproxy.serving(tmp_path) as proxy:
        proxies = {"FLOWER_HTTP_PROXY": proxy.url, "FLOWER_HTTPS_PROXY": proxy.url}
        federation = lone(23160, "late", scale=0.1, environment=closed, **VARIABLES, **proxies)
        link = federation.superlink
        for machine in federation.machines:
            federation.deploy(machine)
        held = "waiting for the app image"
        wait_for(lambda: fact(federation, link, "run").startswith(held), "a run held back", 240)
        assert "image.build" in warnings(federation, link)
        assert federation.agent(link, "runs").stdout.count("\n") <= 1
        with index(tmp_path / "index"):
            ends = ("finished", "failed")
            wait_for(lambda: fact(federation, link, "run").startswith(ends), "the run's end", 240)
        asked = [url for url in proxy.asked if not url.startswith(closed["PIP_INDEX_URL"])]
    assert fact(federation, link, "run").startswith("finished")
    assert has(link, "superexec")
    assert asked == []  # pip alone, and everything that it fetches
    assert f"{closed['PIP_INDEX_URL']}/tabulate/" in proxy.asked


def test_a_dependency_that_no_index_has_is_a_warning_with_pips_words(made, lone):
    want(made, "no-such-thing-at-all>=1")
    federation = lone(23130, "nowhere", **VARIABLES)
    link = federation.superlink
    with served(made):
        federation.deploy(link)
        federation.wait_ready(link, 120)
        wait_for(lambda: "image.build" in warnings(federation, link), "the warning")
        found = warnings(federation, link)["image.build"]
    assert "no-such-thing-at-all" in found["message"]
    assert "flower-agent bake" in found["hint"]


def test_a_baked_app_needs_no_git_server_and_no_index(made, lone):
    federation = lone(23130, "baked", **VARIABLES)
    link = federation.superlink
    with served(made):
        baked = federation.agent(link, "bake", "--framework", "sklearn", "--app", URL)
    assert baked.returncode == 0, baked.stderr
    assert "flower-agent/superexec:1.25.0-sklearn-app-" in baked.stdout
    federation.deploy(link)
    federation.wait_ready(link)
    assert has(link, "superexec")
