"""What is written in shell and ships beside the packages."""

import hashlib
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "contrib" / "images"))

import wheels

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SCRIPTS = (
    "contrib/one-apps/appliance.sh",
    "contrib/one-context/net-90-flower-agent",
    "contrib/package/installed/gateway-reload",
    "contrib/package/installed/proxy-reload",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(program, script):
    done = subprocess.run(
        [program("shellcheck"), ROOT / script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_shellcheck_has_nothing_to_say_of_the_script_with_its_variables(program, tmp_path):
    write = [ROOT / "contrib/templates/one_apps.py", "--output", tmp_path / "appliance.sh"]
    subprocess.run(write, check=True)
    subprocess.run([program("shellcheck"), tmp_path / "appliance.sh"], check=True)


FETCH = """
set -e
. "$1"
msg() { echo "$*"; [ "$1" != error ]; }
flower_fetch_package "$2"
sha256sum <"$flower_package"
service_cleanup
[ ! -e "$flower_download" ]
"""


@pytest.fixture
def fetch(program, tmp_path):
    """Fetches a package as the appliance script does, from a server of the test's own."""
    program("curl")
    (tmp_path / "flower-agent.deb").write_bytes(b"a package")
    with wheels.served(tmp_path) as url:

        def run(name="flower-agent.deb", **environment):
            script = ROOT / SCRIPTS[0]
            done = subprocess.run(
                ["bash", "-c", FETCH, "bash", script, f"{url}/{name}"],
                check=False, capture_output=True, text=True, env={"PATH": PATH, **environment},
            )  # fmt: skip
            return done.returncode, done.stdout

        yield run


def test_a_package_from_a_url_is_taken_when_it_has_the_sum(fetch):
    told = hashlib.sha256(b"a package").hexdigest()
    assert fetch(FLOWER_AGENT_PACKAGE_SHA256=told) == (0, f"{told}  -\n")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "FLOWER_AGENT_PACKAGE_SHA256 is not set"),
        ({"FLOWER_AGENT_PACKAGE_SHA256": "0" * 64}, "has another SHA-256"),
        ({"FLOWER_AGENT_PACKAGE_SHA256": "0" * 64, "name": "none.deb"}, "was not fetched"),
    ],
)
def test_any_other_is_refused(fetch, environment, words):
    code, told = fetch(**environment)
    assert (code != 0, words in told) == (True, True), told
