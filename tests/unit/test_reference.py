"""The reference pages are what the tables say, and the code uses the codes that it lists."""

import ast
import functools
import os
import pathlib
import re
import subprocess
import sys

import pages
import pytest
import reproduction
from reproduction import REPRODUCTION

from flower_agent import cli
from flower_agent.config import settings
from flower_agent.model import errors
from flower_agent.model.error_codes import CATALOGUE

ROOT = pathlib.Path(__file__).parents[2]
CODE = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")


def sources():
    return sorted((ROOT / "flower_agent").rglob("*.py"))


@functools.cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


MAKERS = {name for name in vars(errors) if name.endswith("Error")} | {"Finding", "warning"}


def makes_a_finding(call):
    """Return whether `call` is an error, Finding or warning: bare or of errors, not a log's."""
    called = call.func
    if isinstance(called, ast.Attribute):
        if not (isinstance(called.value, ast.Name) and called.value.id == "errors"):
            return False
        return called.attr in MAKERS
    return isinstance(called, ast.Name) and called.id in MAKERS


def codes_given(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and makes_a_finding(node):
            named = [word.value for word in node.keywords if word.arg == "code"]
            for value in (*node.args[:1], *named):
                yield from (leaf for leaf in ast.walk(value) if isinstance(leaf, ast.Constant))


def strings(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize(
    ("page", "render"),
    [("variables.md", pages.variables), ("errors.md", pages.errors)],
)
def test_the_page_is_what_the_table_says(page, render):
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == render(), "run: contrib/reference/pages.py"


@pytest.mark.parametrize("row", settings.SETTINGS, ids=lambda row: row.name)
def test_every_variable_stands_once_in_the_list(row):
    listed, _, _ = pages.variables().partition("## Not in this release")
    assert listed.count(f"\n| `{row.name}` |") == 1


def test_every_code_that_is_given_is_in_the_catalogue():
    unknown = [
        f"{path.name}:{leaf.lineno} {leaf.value}"
        for path in sources()
        for leaf in codes_given(path)
        if isinstance(leaf.value, str) and CODE.fullmatch(leaf.value)
        if leaf.value not in CATALOGUE
    ]
    assert not unknown


FORMER = {"control.exposed"}
"""Documented since former agents raised them."""


def test_every_code_of_the_catalogue_is_given_somewhere():
    lists = ("error_codes.py", "errors.py")
    used = {text for path in sources() if path.name not in lists for text in strings(path)}
    assert sorted(set(CATALOGUE) - used) == sorted(FORMER)


def test_every_code_can_be_seen_on_purpose():
    assert sorted(REPRODUCTION) == sorted(CATALOGUE)


CHECKED = {c: text for c, text in REPRODUCTION.items() if text.startswith(reproduction.CHECK)}


@pytest.mark.parametrize(("code", "text"), CHECKED.items())
def test_what_is_said_to_provoke_a_code_does(code, text, tmp_path, capsys):
    pairs = re.findall(r"`(\w+)=([^`]*)`", text)
    assert pairs
    context = tmp_path / "context.sh"
    context.write_text("".join(f"{name}='{value}'\n" for name, value in pairs))
    cli.main(["--root", str(tmp_path), "check", "--context", str(context)])
    assert f" {code}: " in capsys.readouterr().out


PASTED = (
    "config.invalid", "context.malformed", "context.missing", "context.too_large",
    "template.malformed",
)  # fmt: skip


@pytest.mark.parametrize("code", PASTED)
def test_what_is_pasted_provokes_its_code(code, tmp_path):
    command = re.search(r"`([^`]+)`", REPRODUCTION[code])[1]
    program = f"{sys.executable} -m flower_agent --root {tmp_path}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command.replace("flower-agent", program)], cwd=tmp_path, env=environment,
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert f"{code}: " in done.stdout + done.stderr


@pytest.mark.parametrize(("code", "texts"), CATALOGUE.items())
def test_a_code_has_a_form_and_both_its_texts(code, texts):
    assert CODE.fullmatch(code)
    assert all(texts)
