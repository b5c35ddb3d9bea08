"""Where the launcher stands in: each Flower wheel has the method and the programs that it leans on.

The wheels come from PyPI; nothing of them is run. What the method is called stands in
``flower_versions.BANDS``, and ``launcher/program.py`` watches it.
"""

import ast
import subprocess
import sys
import zipfile

import pytest

from flower_agent.config import flower_versions
from flower_agent.launcher import program

MODULE = f"{program.PLUGINS.replace('.', '/')}.py"
MINORS = sorted({row.since for row in flower_versions.BANDS} | {flower_versions.NEWEST})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheels")

    def get(major, minor):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", place]
        subprocess.run([*command, f"flwr=={major}.{minor}.*"], check=True, timeout=300)
        (found,) = place.glob(f"flwr-{major}.{minor}.*.whl")
        return zipfile.ZipFile(found)

    return get


@pytest.mark.parametrize("minor", MINORS, ids=lambda since: ".".join(map(str, since)))
def test_a_superexec_knows_the_run_where_the_table_says(wheel, minor):
    with wheel(*minor) as found:
        tree = ast.parse(found.read(MODULE))
        programs = next(n for n in found.namelist() if n.endswith("entry_points.txt"))
        scripts = found.read(programs).decode()
        sources = [found.read(n).decode() for n in found.namelist() if "/superexec/" in n]
    (plugin,) = (
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "BaseExecPlugin"
    )
    methods = {node.name: node for node in plugin.body if isinstance(node, ast.FunctionDef)}
    wanted = flower_versions.band(flower_versions.Version(*minor, 0)).launch
    assert wanted in methods
    last = "run_id" if wanted == "launch_app" else "task"
    assert [each.arg for each in methods[wanted].args.args] == ["self", "token", last]
    for name in (*program.APPS, program.SUPEREXEC):
        assert f"{name} = " in scripts or f"{name}=" in scripts
    assert any("subprocess.Popen(" in source for source in sources)
