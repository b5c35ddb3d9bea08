"""Whole screens of ``flower-agent status``, the JSON beside them, and the schema over all of it.

``REGENERATE=1 tests/run tests/unit/test_status_cases.py`` writes the files anew; read the
difference.
"""

import dataclasses
import json
import os
import pathlib

import jsonschema
import pytest
from status_samples import NOW, SCREENS

from flower_agent.model import lifecycle
from flower_agent.model import status as model_status
from flower_agent.model.status import Condition, Link, Node, Status
from flower_agent.reporting import status_text

ROOT = pathlib.Path(__file__).parents[2]
CASES = ROOT / "tests/cases/status"
SCHEMA = json.loads((ROOT / "docs/status.schema.json").read_text())


def same(path, text):
    if os.environ.get("REGENERATE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_is_that_of_the_case(name):
    document = json.loads(json.dumps(model_status.document(SCREENS[name])))
    shown = status_text.render(document, running=True, now=NOW)
    assert max(map(len, shown.splitlines())) <= status_text.WIDTH
    same(CASES / f"{name}.txt", shown + "\n")


@pytest.mark.parametrize("name", SCREENS)
def test_the_json_is_that_of_the_case_and_of_the_schema(name):
    document = json.loads(json.dumps(model_status.document(SCREENS[name])))
    jsonschema.validate(document, SCHEMA, format_checker=jsonschema.FormatChecker())
    same(CASES / f"{name}.json", json.dumps(document, indent=1) + "\n")


def test_the_schema_has_every_key_every_state_and_every_phase():
    found = SCHEMA["properties"]
    assert set(found) == {
        "schema",
        "running",
        "being_started",
        *(f.name for f in dataclasses.fields(Status)),
    }
    assert found["state"]["enum"] == [
        *(state.value for state in lifecycle.LifeState),
        model_status.STOPPED,
    ]
    assert found["phase"]["enum"] == [*(phase.value for phase in lifecycle.Phase), None]
    assert found["schema"]["const"] == model_status.SCHEMA
    for name, kind in {"superlink": Link, "facts": Condition, "supernodes": Node}.items():
        inner = found[name].get("items", found[name])["properties"]
        assert set(inner) == {f.name for f in dataclasses.fields(kind)}
