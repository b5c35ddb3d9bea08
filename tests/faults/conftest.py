"""Whole VMs on this machine, to be broken: the doubles of tests/federation, and its fixtures."""

import importlib.util
import pathlib
import sys

FEDERATION = pathlib.Path(__file__).parents[1] / "federation"
sys.path.insert(0, str(FEDERATION))

_spec = importlib.util.spec_from_file_location("whole_vms", FEDERATION / "conftest.py")
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)
images, lone = _shared.images, _shared.lone

_agents = importlib.import_module("agents")
pair, two = _agents.pair, _agents.two
