"""What the agent runs beside itself works inside its unit's walls: git, over a network.

A second service with every line of the shipped unit but the program fetches as the agent does.
"""

import os
import re
import shutil
import subprocess

import pytest
import tree
import vm

ADDRESS, PORT = "10.78.0.10", 23311
SOURCE = f"git://{ADDRESS}:{PORT}/apps@main#digits-app"
UNIT = "usr/lib/systemd/system/flower-agent.service"
PROGRAM = """\
import pathlib, sys
sys.path.insert(0, "/usr/lib/flower-agent/python")
from flower_agent.config.types import parse_app_source
from flower_agent.runs.git import Git
source = parse_app_source(sys.argv[1])
commit, files = Git(pathlib.Path("/var/lib/flower-agent/fetch")).fetch(source)
print(commit, *sorted(files))
pathlib.Path("/usr/written").touch()
"""
"""The last line must fail: it shows that the walls are there."""


@pytest.fixture
def machine(packages, missing, tmp_path):
    """A VM with the package, on a network with an address."""
    if os.getuid() != 0:
        missing("booting needs root")
    made, target = packages
    network = f"flower-shut-in-{os.getpid()}"
    tree.call("ip", "netns", "add", network)
    for words in (
        "link set lo up", "link add eth0 type bridge", f"address add {ADDRESS}/24 dev eth0",
        "link set eth0 up",
    ):  # fmt: skip
        tree.call("ip", "-n", network, *words.split())
    found = vm.Vm("shut-in", tree.base(target.python), tmp_path, network)
    found.network, found.python = network, target.python
    try:
        found.make()
        found.install(made["new"])
        tree.call("systemctl", f"--root={found.root}", "disable", "flower-agent.service")
        found.boot()
        yield found
    finally:
        found.remove()
        tree.call("ip", "netns", "delete", network)


@pytest.fixture
def repository(machine, tmp_path):
    """The reference app in a repository that git's own daemon serves; its commit."""
    place = tmp_path / "git" / "apps"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(tree.ROOT / "contrib/app", place / "digits-app", ignore=ignored)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], [*who, "commit", "-qm", "the app"]):
        tree.call("git", "-C", place, *words)
    where = [f"--base-path={place.parent}", f"--listen={ADDRESS}", f"--port={PORT}", "--reuseaddr"]
    command = ["ip", "netns", "exec", machine.network, "git", "daemon", "--export-all", *where]
    with subprocess.Popen([*command, str(place.parent)]) as daemon:
        yield tree.call("git", "-C", place, "rev-parse", "HEAD").strip()
        daemon.terminate()


def test_git_fetches_an_app_inside_the_walls_of_the_unit(machine, repository):
    machine.write("/usr/local/lib/fetch.py", PROGRAM)
    command = f'/usr/bin/python{machine.python} -I /usr/local/lib/fetch.py "{SOURCE}"'
    text = (machine.root / UNIT).read_text()
    text = re.sub("^ExecStart=.*", f"ExecStart={command}", text, flags=re.MULTILINE)
    text = re.sub(
        r"^(WatchdogSec|Restart|RestartSec|ExecReload)=.*\n", "", text, flags=re.MULTILINE
    )
    machine.write("/etc/systemd/system/fetch.service", text.replace("=notify", "=oneshot"))
    machine.run("systemctl", "daemon-reload")
    machine.try_("systemctl", "start", "fetch.service")
    told = machine.journal("-u", "fetch.service")
    assert f"{repository} README.md digits/__init__.py digits/client_app.py" in told
    assert "Read-only file system: '/usr/written'" in told
