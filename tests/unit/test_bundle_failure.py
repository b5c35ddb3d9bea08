"""What flwr build printed, by rich, in real life, and the cause in it."""

import pathlib
import time

import pytest

from flower_agent.runs import bundle

PRINTED = pathlib.Path(__file__).parents[1] / "data/flower/build"
PLACE = "/app/bundling/app"
NOWHERE = "Unable to load module digits.nowhere The object reference string should"
CAUSES = {
    "1.25.0-chained": "ModuleNotFoundError: No module named 'wandb'",
    "1.25.0-handled": "RuntimeError: no column age: install data",
    "1.25.0-init-import": "ModuleNotFoundError: No module named 'wandb'",
    "1.25.0-nowhere": f"pyproject.toml is invalid: - {NOWHERE}",
    "1.25.0-syntax": "SyntaxError: invalid syntax",
    "1.42.0-chained": "ModuleNotFoundError: No module named 'wandb'",
    "1.42.0-init-raise": "no column 'age'",
    "1.42.0-nowhere": f"Invalid Flower App configuration in 'pyproject.toml': - {NOWHERE}",
}


@pytest.mark.parametrize("path", sorted(PRINTED.iterdir()), ids=lambda path: path.stem)
def test_the_cause_is_told_without_frames_code_and_values(path):
    found = bundle.cause(path.read_text(encoding="utf-8"), PLACE)
    assert CAUSES[path.stem] in found
    assert len(found) <= len(CAUSES[path.stem]) or "pyproject" in found
    assert not set(found) & set("╭╮╰╯│─❱")
    assert "locals" not in found


def test_what_an_app_prints_beside_is_told_where_there_is_nothing_else():
    assert bundle.cause("x" * 1000 + "\nprobe {1}\n").endswith("x probe {1}")
    assert bundle.cause("") == ""


def test_what_would_command_a_terminal_is_left_out():
    assert bundle.cause("ValueError: \x1b]0;x\x07y\x9b2J") == "ValueError: ]0;x y 2J"


@pytest.mark.parametrize("line", ["╭", "╰", "│ ╭─", "│" * 1000, "a ", "The above exception was "])
def test_a_mebibyte_of_the_worst_is_read_within_a_second(line):
    for text in (line * (1_048_576 // len(line)), f"{line}\n" * (1_048_576 // (len(line) + 1))):
        begin = time.monotonic()
        assert len(bundle.cause(text, PLACE)) <= bundle.MOST
        assert time.monotonic() - begin < 1
