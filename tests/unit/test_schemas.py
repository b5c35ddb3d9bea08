"""The published JSON Schemas only grow: what a program may read today it may read for ever."""

import json
import pathlib

import jsonschema
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCHEMAS = sorted((ROOT / "docs").glob("*.schema.json"))


def keys(schema, path=""):
    """Yield each key of the schema with its type, and whether it is always there."""
    for name, part in schema.get("properties", {}).items():
        there = "always" if name in schema["required"] else "optional"
        kind = part.get("type") or ("enum" if "enum" in part else "value")
        yield f"{path}{name} {kind if isinstance(kind, str) else '|'.join(kind)} {there}"
        yield from keys(part, f"{path}{name}.")
        yield from keys(part.get("items", {}), f"{path}{name}[].")
    for name, part in schema.get("$defs", {}).items():
        yield from keys(part, f"{name}.")


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_schema_only_grows(path):
    """A line below tests/data/json-keys is never changed or taken away; a new key adds one."""
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    name = path.name.removesuffix(".schema.json")
    held = (ROOT / f"tests/data/json-keys/{name}.txt").read_text().splitlines()
    now = list(keys(schema))
    assert [line for line in held if line not in now] == []
    assert [line for line in now if line not in held] == []


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_schema_lets_newer_keys_through(path):
    assert "additionalProperties" not in path.read_text()
