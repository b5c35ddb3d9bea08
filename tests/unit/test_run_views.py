"""What ``flower-agent runs`` prints of what is kept."""

import hashlib
import json

import pytest

from flower_agent.commands import run_views
from flower_agent.paths import Paths


@pytest.mark.parametrize(
    ("names", "said"), [(["model.bin"], "1 file, 1 bytes"), (["a", "b"], "2 files, 2 bytes")]
)
def test_fetch_says_how_many_files_it_copied(tmp_path, capsys, names, said):
    paths = Paths(tmp_path / "vm")
    outputs = paths.runs / "7" / "outputs"
    outputs.mkdir(parents=True)
    for name in names:
        (outputs / name).write_text("x")
    sha256 = hashlib.sha256(b"x").hexdigest()
    listed = [{"name": name, "bytes": 1, "sha256": sha256} for name in names]
    (paths.runs / "7" / "outputs.json").write_text(json.dumps({"files": listed}))
    (paths.runs / "7" / "run.json").write_text("{}")
    assert run_views.fetch(paths, "7", (), tmp_path / "here") == 0
    assert capsys.readouterr().out.startswith(f"{said} in ")
