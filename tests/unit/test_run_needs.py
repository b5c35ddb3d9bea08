"""What the program inside an image says of an app's dependencies, here in this very Python."""

import subprocess
import sys

import pytest

from flower_agent.reporting.status import Fact, Mark
from flower_agent.runs import run_needs


def ask(*wanted):
    command = [sys.executable, "-I", "-S", "-c", run_needs.PROGRAM, *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return run_needs.lacking(done.stdout)


def test_what_is_installed_is_not_lacking():
    assert ask("pytest", "PyYAML>=1", "pytest; python_version > '3'", "grpcio[x]>=1") == ()


def test_what_is_absent_or_of_another_version_is_lacking():
    assert ask("no-such-thing>=2") == ("no-such-thing>=2",)
    (found,) = ask("pytest>=99")
    assert found.startswith("pytest>=99 (it has ")


def test_what_does_not_apply_or_is_no_requirement_is_passed_over():
    assert ask("no-such-thing; python_version < '3'", "!!", "no-such; extra == 'x'") == ()


def test_a_program_that_did_not_end_well_tells_nothing():
    assert run_needs.lacking("lacks torch\nTraceback (most recent call last):\n") == ()
    assert run_needs.lacking("") == ()


@pytest.mark.parametrize(("mark", "way"), [("waiting", True), ("ok", False), ("bad", False)])
def test_what_lacks_is_no_news_while_the_image_with_it_is_made(mark, way):
    assert run_needs.on_its_way(Fact("app", Mark(mark), "makes flower-agent/superexec:x")) is way
    assert not run_needs.on_its_way(None)
