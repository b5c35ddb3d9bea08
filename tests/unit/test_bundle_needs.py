"""What the program inside an image says of an app's dependencies, here in this very Python."""

import subprocess
import sys

import pytest

from flower_agent.images import app_images
from flower_agent.runs import bundle


def ask(*wanted):
    command = [sys.executable, "-I", "-S", "-c", bundle.PROGRAM, *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return bundle.lacking(done.stdout)


def test_what_is_installed_is_not_lacking():
    assert ask("pytest", "PyYAML>=1", "pytest; python_version > '3'", "grpcio[x]>=1") == ()


def test_what_is_absent_or_of_another_version_is_lacking():
    assert ask("no-such-thing>=2") == ("no-such-thing>=2",)
    (found,) = ask("pytest>=99")
    assert found.startswith("pytest>=99 (it has ")


def test_what_does_not_apply_or_is_no_requirement_is_passed_over():
    assert ask("no-such-thing; python_version < '3'", "!!", "no-such; extra == 'x'") == ()


def test_a_program_that_did_not_end_well_tells_nothing():
    assert bundle.lacking("lacks torch\nTraceback (most recent call last):\n") == ()
    assert bundle.lacking("") == ()


HERE, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
WANTED = ("flwr>=1.25", "torch==2.9", "wandb")
UNKNOWN = "may lack packages that the app needs"


def compared(nodes, *, lacks=(), of_context=True, wanted=WANTED):
    return bundle.compared(wanted, HERE, lacks, nodes, of_context=of_context)


def told(digest, lacking):
    return app_images.published(digest, lacking)


def test_nothing_is_said_where_all_have_all_or_nothing_is_wanted():
    assert compared([("a", told(HERE, ())), ("b", told(OTHER, ()))]) == ()
    assert compared([("a", None)], wanted=("flwr>=1.25",)) == ()


def test_what_lacks_is_said_once_with_all_who_lack_it():
    nodes = [("a", told(HERE, ())), ("b", told(OTHER, ("wandb", "numpy"))), ("c", None)]
    assert compared(nodes, lacks=("torch==2.9",)) == (
        "the image of the SuperLink, a lacks torch==2.9",
        "the image of b lacks wandb",
        "the image of c is unknown: a node outside the service does not publish its packages",
    )


@pytest.mark.parametrize("text", ["", "garbage", OTHER, f"{OTHER} lacks \x1b[1m"])
def test_a_node_that_tells_nothing_is_unknown(text):
    assert compared([("a", text)]) == (f"the image of a {UNKNOWN}",)


def test_what_a_node_lacks_of_another_app_tells_nothing_of_this_one():
    nodes = [("a", told(OTHER, ("torch",))), ("b", told(OTHER, ())), ("c", told(HERE, ()))]
    assert compared(nodes, of_context=False) == (f"the image of a, b {UNKNOWN}",)


def test_a_node_whose_name_would_command_a_terminal_is_named_without():
    (said,) = compared([("a\x1b]0;x\x07b", None)])
    assert said.startswith("the image of a]0;xb is unknown")


def test_a_thousand_nodes_are_one_sentence():
    (said,) = compared([(f"supernode_{n}", "") for n in range(1000)])
    assert said == (
        "the image of supernode_0, supernode_1, supernode_2, supernode_3, supernode_4"
        f" and 995 more {UNKNOWN}"
    )


def test_packages_beyond_what_was_published_are_counted():
    many = [f"package-number-{n}" for n in range(40)]
    (said,) = compared([("a", told(OTHER, many))], wanted=many)
    assert said.startswith("the image of a lacks package-number-0, ")
    assert said.endswith(" and 35 more")
