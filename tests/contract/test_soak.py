"""Thousands of turns and contexts in one process leave it as it was."""

import json
import pathlib
import subprocess
import sys

import pytest

SOAK = pathlib.Path(__file__).with_name("soak.py")
GROWTH_BLOCKS = 3000
"""One object that each of the 10,000 turns left would be more."""

GROWTH_KIB = 4 * 1024
"""Python's table of interned strings may double once; free memory is given back before."""


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, str(SOAK)], check=True, stdout=subprocess.PIPE, timeout=1800,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("after", ["after the contexts", "after the turns"])
def test_memory_descriptors_and_threads_stay(found, after):
    assert found["states"] == ["failed", "ready", "starting"]
    before, now = found["before"], found[after]
    assert now["blocks"] - before["blocks"] < GROWTH_BLOCKS
    assert now["kib"] - before["kib"] < GROWTH_KIB
    assert (now["descriptors"], now["threads"]) == (before["descriptors"], before["threads"])
