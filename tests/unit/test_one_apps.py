"""The appliance script for one-apps: what bash reads in it is the table of variables."""

import re
import subprocess

import one_apps
import pytest
import user_inputs

from flower_agent import __version__
from flower_agent.config import names, settings

DUMP = """
. "$1"
printf '%s\\0' "${ONE_SERVICE_PARAMS[@]}" "$ONE_SERVICE_VERSION" "$ONE_SERVICE_RECONFIGURABLE"
for name in install configure bootstrap cleanup help; do declare -F "service_$name"; done >&2
"""


@pytest.fixture(scope="module")
def sourced(tmp_path_factory):
    """What a shell has after it sourced the script, and what that said."""
    path = tmp_path_factory.mktemp("one-apps") / "appliance.sh"
    assert one_apps.main(["--output", str(path)]) == 0
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", DUMP, "bash", path],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1], done.stderr.split()


def test_one_apps_reads_the_table_of_variables(sourced):
    values, _ = sourced
    *flat, version, reconfigurable = values
    rows = [tuple(flat[at : at + 4]) for at in range(0, len(flat), 4)]
    table = [row for row in settings.SETTINGS if row.stem is None]
    wanted = [row for row in table if row.name not in user_inputs.FOR_ONE_MACHINE]
    assert [name for name, *_ in rows] == [names.PREFIX + row.name for row in wanted]
    assert {stage for _, stage, *_ in rows} == {"configure"}
    secret = [row.secret for row in wanted]
    assert [kind for *_, kind in rows] == [f"O|{'password' if s else 'text'}" for s in secret]
    for row, (_, _, meaning, _) in zip(wanted, rows, strict=True):
        assert meaning.startswith(row.help.replace("`", "")[:20])
    assert (version, reconfigurable) == (__version__, "true")


def test_every_function_that_one_apps_calls_is_there(sourced):
    stages = ("install", "configure", "bootstrap", "cleanup", "help")
    assert sourced[1] == [f"service_{stage}" for stage in stages]


def test_nothing_is_left_to_fill_in():
    assert re.findall("@[A-Z]+@", one_apps.SCRIPT.read_text()) == ["@PARAMS@", "@VERSION@"]
    assert re.findall("@[A-Z]+@", one_apps.script()) == []
