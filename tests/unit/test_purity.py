"""The pure modules import nothing that touches the world, directly or through a sibling."""

import ast
import pathlib
import re

import pytest

SOURCE = pathlib.Path(__file__).parents[2] / "flower_agent"

MAP = (SOURCE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
PURE = tuple(
    name
    for row in re.findall(r"^\|([^|]*)\*pure\* \|", MAP, re.MULTILINE)
    for name in re.findall(r"`(\w+)\.py`", row)
)

PACKAGES = {
    "", "flower_agent", *(f"flower_agent.{path.parent.name}" for path in SOURCE.glob("*/*.py"))
}  # fmt: skip

WORLD = {
    "asyncio", "cryptography", "ctypes", "docker", "fcntl", "glob", "grpc", "http", "io",
    "multiprocessing", "os", "pathlib", "random", "requests", "secrets", "select", "shutil",
    "signal", "socket", "ssl", "structlog", "subprocess", "sys", "tempfile", "tenacity",
    "threading", "time", "urllib", "urllib3", "yaml",
}  # fmt: skip

HARMLESS = {"urllib.parse"}


def is_main_part(node):
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def imports(name):
    """Yield the imported modules by their full names, our own by their last with a dot before."""
    (path,) = (path for path in SOURCE.rglob("*.py") if path.stem == name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = [part for part in tree.body if not is_main_part(part)]
    for node in (node for part in body for node in ast.walk(part)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from imported_from(node)


def imported_from(node):
    module = node.module or ""
    if not node.level and module.partition(".")[0] != "flower_agent":
        yield module
    elif module in PACKAGES:
        yield from (f".{alias.name}" for alias in node.names)
    else:
        yield f".{module.rpartition('.')[2]}"


def test_the_pure_modules_are_found():
    assert {"address", "context", "errors", "settings", "rules"} <= set(PURE)


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_does_not_touch_the_world(name):
    outside = {module for module in imports(name) if module not in HARMLESS}
    assert not {module.partition(".")[0] for module in outside} & WORLD


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_leans_on_pure_modules_only(name):
    siblings = {module[1:] for module in imports(name) if module.startswith(".")}
    assert siblings <= {*PURE, "__version__"}
