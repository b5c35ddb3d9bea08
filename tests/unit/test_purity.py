"""The pure modules import nothing that touches the world, directly or through a sibling."""

import ast
import pathlib

import pytest

SOURCE = pathlib.Path(__file__).parents[2] / "flower_agent"

PURE = (
    "address", "arguments", "backoff", "blueprint", "catalogue", "containers", "context", "control",
    "discovery", "enrolment", "errors", "exit_table", "exits", "firewall", "flower", "gpu",
    "gpu_probe", "images", "interfaces", "life", "lookups", "metrics", "mounts", "names", "offers",
    "onetemplate", "parsers", "pem", "plan", "protobuf", "record", "redaction", "reference",
    "report", "roles", "roster", "rules", "screen", "secret", "settings", "sockets", "status", "story",
    "upgrade", "variable", "verdicts",
)  # fmt: skip

WORLD = {
    "asyncio", "cryptography", "ctypes", "docker", "fcntl", "glob", "grpc", "http", "io",
    "multiprocessing", "os", "pathlib", "random", "requests", "secrets", "select", "shutil",
    "signal", "socket", "ssl", "structlog", "subprocess", "sys", "tempfile", "tenacity",
    "threading", "time", "urllib", "urllib3", "yaml",
}  # fmt: skip

HARMLESS = {"urllib.parse"}

PRESENT = [name for name in PURE if (SOURCE / f"{name}.py").exists()]


def is_main_part(node):
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def imports(name):
    """Yield the imported modules by their full names, siblings with a dot in front."""
    tree = ast.parse((SOURCE / f"{name}.py").read_text(encoding="utf-8"))
    body = [part for part in tree.body if not is_main_part(part)]
    for node in (node for part in body for node in ast.walk(part)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield "." * node.level + node.module
        elif isinstance(node, ast.ImportFrom):
            yield from (f".{alias.name}" for alias in node.names)


def test_the_pure_modules_are_found():
    assert {"address", "context", "errors", "settings", "rules"} <= set(PRESENT)


@pytest.mark.parametrize("name", PRESENT)
def test_a_pure_module_does_not_touch_the_world(name):
    outside = {module for module in imports(name) if module not in HARMLESS}
    assert not {module.partition(".")[0] for module in outside} & WORLD


@pytest.mark.parametrize("name", PRESENT)
def test_a_pure_module_leans_on_pure_modules_only(name):
    siblings = {module[1:] for module in imports(name) if module.startswith(".")}
    assert siblings <= {*PURE, "__version__"}
