"""An app's own words: read as data, with a sentence for each way in which they are not an app's."""

import pathlib

import pytest

from flower_agent.errors import AgentError
from flower_agent.runs import run_app

REFERENCE = pathlib.Path(__file__).parents[2] / "contrib/app/pyproject.toml"
APP = """
[project]
name = "mine"
version = "2.1"
dependencies = ["flwr>=1.25", "torch==2.9"]
[tool.flwr.app]
publisher = "me"
[tool.flwr.app.components]
serverapp = "mine.server:app"
clientapp = "mine.client:app"
[tool.flwr.app.config]
rounds = 3
[tool.flwr.app.config.model]
name = "cnn"
layers = { first = 8 }
"""


def read(text):
    return run_app.read(text.encode(), "https://h/app")


def failure(data):
    with pytest.raises(AgentError) as caught:
        run_app.read(data, "https://h/app")
    assert caught.value.finding.code == "run.no_app"
    assert caught.value.finding.hint
    return caught.value.finding.message


def test_the_reference_app_is_read():
    app = run_app.read(REFERENCE.read_bytes(), "contrib/app")
    assert str(app) == "flower-agent/digits 1.0.0"
    assert dict(app.config)["num-server-rounds"] == 3


def test_nested_config_has_dots_and_dependencies_are_kept():
    app = read(APP)
    assert app.config == (("rounds", 3), ("model.name", "cnn"), ("model.layers.first", 8))
    assert app.dependencies == ("flwr>=1.25", "torch==2.9")


def test_an_app_without_config_and_dependencies_is_an_app():
    head = APP.partition("[tool.flwr.app.config]")[0].replace(
        'dependencies = ["flwr>=1.25", "torch==2.9"]', ""
    )
    assert read(head).config == read(head).dependencies == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "there is no pyproject.toml"),
        (b"not toml [", "is no TOML"),
        (b"\xff", "is not of Flower's form"),
        (b"[project]\nname='x'\n", "lacks tool"),
        (b"project = 1\n[tool.flwr.app]\ncomponents = 1", "is not of Flower's form"),
        (APP.replace('publisher = "me"', "").encode(), "lacks publisher"),
        (APP.replace('clientapp = "mine.client:app"', "").encode(), "has no clientapp"),
        (APP.replace('version = "2.1"', "").encode(), "lacks version"),
    ],
)
def test_what_is_no_app_is_told_apart(data, words):
    message = failure(data)
    assert message.startswith("https://h/app is no Flower app: ")
    assert words in message
