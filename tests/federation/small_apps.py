"""Small Flower apps, one for each kind of behaviour of real ones. Flower and numpy are enough."""

import json
import pathlib
import textwrap

SERVER = """\
import os
import pathlib
import numpy
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    result = FedAvg(
        min_train_nodes=config["nodes"], min_evaluate_nodes=config["nodes"],
        min_available_nodes=config["nodes"], fraction_evaluate=0.0,
    ).start(
        grid=grid, initial_arrays=ArrayRecord([numpy.zeros(4)]), num_rounds=config["rounds"]
    )
{server}
"""

CLIENT = """\
import os
import pathlib
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
{client}
    metrics = MetricRecord({{"num-examples": 1, "loss": 0.5}})
    content = RecordDict({{"arrays": message.content["arrays"], "metrics": metrics}})
    return Message(content=content, reply_to=message)
"""

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.0.0"
dependencies = {dependencies}

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "{name}.server:app"
clientapp = "{name}.client:app"

[tool.flwr.app.config]
rounds = {rounds}
nodes = 2
"""


def write(
    place: pathlib.Path,
    name: str,
    *,
    server: str = "",
    client: str = "",
    rounds: int = 1,
    dependencies: tuple[str, ...] = ("flwr",),
) -> pathlib.Path:
    """Write an app: its ServerApp does `server` after the rounds, its ClientApp `client`."""
    directory = place / name
    package = directory / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A small app."""\n')
    (package / "server.py").write_text(SERVER.format(server=_body(server)))
    (package / "client.py").write_text(CLIENT.format(client=_body(client)))
    project = PROJECT.format(name=name, rounds=rounds, dependencies=json.dumps(list(dependencies)))
    (directory / "pyproject.toml").write_text(project)
    return directory


def _body(text: str) -> str:
    return textwrap.indent(textwrap.dedent(text).strip() or "pass", "    ")
