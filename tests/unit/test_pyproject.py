"""An app's own words: read as data, with a sentence for each way in which they are not an app's."""

import pathlib
import time

import hypothesis
import pytest
from hypothesis import strategies

from flower_agent.model.errors import AgentError
from flower_agent.runs import pyproject

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
    return pyproject.read(text.encode(), "https://h/app")


def failure(data):
    with pytest.raises(AgentError) as caught:
        pyproject.read(data, "https://h/app")
    assert caught.value.finding.code == "run.no_app"
    assert caught.value.finding.hint
    return caught.value.finding.message


def test_the_reference_app_is_read():
    app = pyproject.read(REFERENCE.read_bytes(), "contrib/app")
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
        (b"not toml [", "is not TOML"),
        (b"\xff", "does not have Flower's form"),
        (b"[project]\nname='x'\n", "lacks tool"),
        (b"project = 1\n[tool.flwr.app]\ncomponents = 1", "does not have Flower's form"),
        (APP.replace('publisher = "me"', "").encode(), "lacks publisher"),
        (APP.replace('clientapp = "mine.client:app"', "").encode(), "has no clientapp"),
        (APP.replace('version = "2.1"', "").encode(), "lacks version"),
    ],
)
def test_what_is_no_app_is_told_apart(data, words):
    message = failure(data)
    assert message.startswith("https://h/app is not a Flower app: ")
    assert words in message


PARTS = ".".join("a" * 20_000)
HUGE = 20_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{PARTS} = 1\n", "nests keys"),
        (f"[{PARTS}]\n", "nests keys"),
        (f"[tool.flwr.app.config]\n{PARTS} = 1\n", "nests keys"),
        (" . ".join(["'a.]'"] * HUGE) + " = 1\n", "nests keys"),
        ("x = " + "[" * HUGE + "]" * HUGE + "\n", "nests keys"),
        ("x = " + '["]", ' * HUGE + "]" * HUGE + "\n", "nests keys"),
        ("x = " + "['\\', # ]\n" * HUGE + "\n", "nests keys"),
        ("x = " + '["""\\""" ]""", ' * 10_000 + "\n", "nests keys"),
        ("x = " + "{a = " * HUGE + "\n", "nests keys"),
        ("x = [" + f'"""a"""", {{ {PARTS} = 1 }}, ' * 3 + "]\n", "nests keys"),
        ("x = [" + f"'''a''''', {{ {PARTS} = 1 }}, " * 3 + "]\n", "nests keys"),
        ("[" * HUGE, "nests keys"),
        ('x = "' + '\\"' * 100_000, "is not TOML"),
        ("'''" + '"' * 200_000, "is not TOML"),
        ("x = " + "9" * 200_000, "is"),
        ("#" * 1_048_576, "is larger than 256 KiB"),
        (APP.replace("torch==2.9", "torch" + "=" * 2000), "has more than"),
        (APP.replace('"torch==2.9"', '"torch",' * 501), "has more than"),
        (APP.replace("torch==2.9", "torch\\u001b[2J"), "has control characters"),
        (APP.replace('"2.1"', '"2.1\\u0007"'), "has control characters"),
    ],
)
def test_what_no_app_has_is_told_within_a_second(text, words):
    begin = time.monotonic()
    message = failure(text.encode())
    assert time.monotonic() - begin < 1
    assert words in message
    assert len(message) < 400


def test_brackets_and_dots_in_strings_comments_and_numbers_do_not_count():
    config = f"""
array = [{", ".join(["0.5"] * 1000)}]
text = "{"[." * 1000}\\""
raw = '{"{" * 1000}'
more = '''{"[[" * 1000} '' '''
# {"[" * 1000}
"""
    assert read(APP + f"[tool.other]{config}").name == "me/mine"
    lists = "x = [\n" + "[1.0, 2.0],\n" * 1000 + "]\n"
    assert read(APP + f"[tool.other]\n{lists}").name == "me/mine"


@hypothesis.given(strategies.text(alphabet="[]{}.,=#'\"\\\n a1"))
def test_any_text_is_an_app_or_its_own_error(text):
    failure(text.encode())
