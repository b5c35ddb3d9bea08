"""One folder, one template: what ``check --template`` says of it, as text and as JSON.

``REGENERATE=1 tests/run tests/unit/test_template_cases.py`` writes the files anew; read the
difference.
"""

import json
import os
import pathlib

import jsonschema
import pytest

from flower_agent import cli

ROOT = pathlib.Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/check.schema.json").read_text())
STORIES = sorted(path.parent for path in (ROOT / "tests/cases/templates").glob("*/*/template.txt"))
UNREADABLE = {"not-a-template", "not-json"}


def same(path, text):
    if os.environ.get("REGENERATE"):
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("story", STORIES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_check_says_what_stands_in_the_case(story, capsys):
    words = ["check", "--template", str(story / "template.txt")]
    code = cli.main(words)
    said = capsys.readouterr()
    same(story / "check.txt", said.out + said.err)
    assert code == (0 if story.parent.name == "good" else 1)
    assert "pa$word" not in said.out
    if story.name in UNREADABLE:
        return
    assert cli.main([*words, "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, SCHEMA)
    assert document["ok"] is (code == 0)
    same(story / "check.json", json.dumps(document, indent=1) + "\n")


def test_the_defaults_of_the_image_count(tmp_path, capsys):
    template, config = tmp_path / "template", tmp_path / "config.yaml"
    template.write_text('CONTEXT=[ NETWORK="YES", TOKEN="YES" ]')
    assert cli.main(["check", "--template", str(template)]) == 1
    config.write_text("flower_role: server")
    assert cli.main(["check", "--template", str(template), "--config", str(config)]) == 0
    assert "as superlink" in capsys.readouterr().out


def test_a_config_is_judged_alone(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("flower_version: 1.30.0\nfl_num_rounds: 5\n")
    assert cli.main(["check", "--config", str(config)]) == 0
    assert capsys.readouterr().out == "its defaults are valid\n"
    config.write_text("flower_versoin: 1.30.0\nfl_num_rounds: many\n")
    assert cli.main(["check", "--config", str(config), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, SCHEMA)
    assert [f["code"] for f in document["findings"]] == ["setting.invalid", "config.invalid"]


@pytest.mark.parametrize("option", ["--config", "--template"])
def test_a_file_that_is_not_there_is_told(option, tmp_path, capsys):
    assert cli.main(["check", option, str(tmp_path / "gone")]) == 1
    said = capsys.readouterr()
    assert "gone" in said.out + said.err


def test_a_context_and_a_template_are_two_questions(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["check", "--context", "x", "--template", "y"])
    assert end.value.code == 64
