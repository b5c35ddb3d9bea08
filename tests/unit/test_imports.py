"""Imports run one way, from the command line down to the words, and decisions touch nothing."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = "flower_agent"

ORDER = (
    "model", "process", "files", "paths", "log", "state_file", "record_file", "background",
    "config", "host", "docker", "tls", "flower", "proxy", "onegate", "reconcile", "cycle", "images",
    "enrolment", "runs", "gateway", "upgrade", "reporting", "roles", "agent", "commands", "cli",
    "__main__",
)  # fmt: skip
"""Each package or module imports only itself and those before it."""

ALONE = {"launcher"}
"""Programs that run in Flower's containers: nothing of ours is there."""

PURE = {
    "agent": "gateway_requests",
    "commands": "template_model",
    "config": (
        "account_roles app_environment context data_source flower_versions names "
        "parsing settings state_disk types validation"
    ),
    "docker": "containers data_mounts image_references",
    "enrolment": "expected_nodes lookups partitions policy refusals",
    "flower": (
        "command_line container_spec control_messages exit_codes frameworks lost_messages wire"
    ),
    "gateway": "archive control_methods oidc_policy",
    "host": "gpu network state_disk",
    "images": "app_images",
    "model": (
        "address deduplication error_codes errors foreign_text lifecycle pem published record "
        "secret state state_changes status"
    ),
    "onegate": "discovery status_attributes",
    "proxy": "gateway_frontend haproxy_config",
    "reconcile": "plan restart_policy",
    "reporting": "node_table plots run_report status_text",
    "roles": "gateway_places",
    "runs": "outcome pyproject rounds submission",
    "upgrade": "policy",
}
"""Modules that take values and return values; a decision belongs into one of them."""

WORLD = {
    "asyncio", "cryptography", "ctypes", "docker", "fcntl", "glob", "grpc", "http", "io",
    "multiprocessing", "os", "pathlib", "random", "requests", "secrets", "select", "shutil",
    "signal", "socket", "ssl", "structlog", "subprocess", "sys", "tempfile", "tenacity",
    "threading", "time", "urllib", "urllib3", "yaml",
}  # fmt: skip
HARMLESS = {"urllib.parse"}


@functools.cache
def modules():
    """Return every module of the package with the modules that it imports, by full names."""
    paths = {name_of(path): path for path in (ROOT / PACKAGE).rglob("*.py")}
    return {name: frozenset(imports(path, paths)) for name, path in paths.items()}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, known):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: siblings are imported by their full names"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else node.module


def place(module):
    """Return the package below `flower_agent` that a module is in, or the module itself."""
    return module.split(".")[1] if "." in module else PACKAGE


def ours(module):
    return {name for name in modules()[module] if name.partition(".")[0] == PACKAGE}


PURE_NAMES = sorted(
    f"{PACKAGE}.{package}.{name}" for package, names in PURE.items() for name in names.split()
)


def test_every_package_has_its_place_in_the_order():
    places = {place(name) for name in modules()} - {PACKAGE}
    assert places == {*ORDER, *ALONE}


@pytest.mark.parametrize("module", sorted(modules()))
def test_no_import_runs_upwards(module):
    here = place(module)
    if here in ALONE or here == PACKAGE:
        assert not ours(module)
        return
    below = {PACKAGE, *ALONE, *ORDER[: ORDER.index(here) + 1]}
    assert {place(name) for name in ours(module)} <= below


def test_no_imports_go_round_in_a_circle():
    done, way = set(), []

    def follow(module):
        assert module not in way, " imports ".join([*way[way.index(module) :], module])
        if module in done:
            return
        way.append(module)
        for name in sorted(ours(module)):
            follow(name)
        way.pop()
        done.add(module)

    for module in sorted(modules()):
        follow(module)
    assert done == set(modules())


@pytest.mark.parametrize("module", PURE_NAMES)
def test_a_pure_module_does_not_touch_the_world(module):
    outside = modules()[module] - ours(module) - HARMLESS
    assert not {name.partition(".")[0] for name in outside} & WORLD


@pytest.mark.parametrize("module", PURE_NAMES)
def test_a_pure_module_leans_on_pure_modules_only(module):
    assert ours(module) <= {*PURE_NAMES, PACKAGE}


def test_a_module_that_calls_itself_pure_is_held_to_it():
    said = {
        name
        for name in modules()
        if name.count(".") == 2
        and "Pure." in (ast.get_docstring(tree_of(name)) or "").partition("\n\n")[0]
    }
    assert said <= set(PURE_NAMES)


def test_no_test_module_imports_another():
    places = sorted((ROOT / "tests").rglob("*.py"))
    found = [
        f"{path.name} imports {name}"
        for path in places
        for name in imports(path, {})
        if name.partition(".")[0].startswith("test_")
    ]
    assert places
    assert found == []


def test_no_class_name_stands_twice():
    found = [
        node.name for name in modules() for node in tree_of(name).body
        if isinstance(node, ast.ClassDef)
    ]  # fmt: skip
    assert len(found) > 100
    assert {name for name in found if found.count(name) > 1} == set()


def tree_of(name):
    place = ROOT.joinpath(*name.split("."))
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))
