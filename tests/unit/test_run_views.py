"""What ``flower-agent runs`` prints of what is kept."""

import hashlib
import json

import pytest

from flower_agent.commands import runs
from flower_agent.paths import Paths


@pytest.mark.parametrize(
    ("names", "said"), [(["model.bin"], "1 file, 1 byte"), (["a", "b"], "2 files, 2 bytes")]
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
    assert runs.fetch(paths, "7", (), tmp_path / "here") == 0
    assert capsys.readouterr().out.startswith(f"{said} in ")


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([("11", "42"), ("12", None)], "nodes      2: VM 42, node 12"),
        ([(str(n), str(n)) for n in range(22)], "VM 19 and 2 more"),
        ([], None),
    ],
)
def test_show_names_the_nodes_that_were_connected(tmp_path, capsys, nodes, said):
    paths = Paths(tmp_path / "vm")
    (paths.runs / "7").mkdir(parents=True)
    rows = [{"node_id": node_id, "vmid": vmid} for node_id, vmid in nodes]
    (paths.runs / "7" / "run.json").write_text(json.dumps({"end": "finished", "nodes": rows}))
    assert runs.show(paths, "7", as_json=False) == 0
    shown = capsys.readouterr().out
    assert (said in shown) if said else ("nodes" not in shown)
