"""OneFlow's own schema of service templates, and templates held to it."""

import json
import pathlib

from flower_agent.commands import check
from flower_agent.paths import Paths

DATA = pathlib.Path(__file__).parents[1] / "data"


SCHEMA = json.loads((DATA / "oneflow-service-template.schema.json").read_text(encoding="utf-8"))


def checked(context, tmp_path, capsys):
    """Return exit code and words of ``flower-agent check`` on a context."""
    path = tmp_path / "context.sh"
    whole = {**context, "ONEGATE_ENDPOINT": "http://169.254.16.9:5030", "VMID": "29"}
    quoted = {name: value.replace("'", "'\\''") for name, value in whole.items()}
    path.write_text("".join(f"{name}='{value}'\n" for name, value in quoted.items()), "utf-8")
    return check.run(Paths(tmp_path), path, as_json=False), capsys.readouterr().out
