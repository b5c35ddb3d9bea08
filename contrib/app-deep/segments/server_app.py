"""What the server does in a run: average, and tell how each round went."""

import csv
import pathlib

import numpy
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from segments import data, framework

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run config asks for."""
    config = context.run_config
    rounds, nodes = int(config["num-server-rounds"]), int(config["min-clients"])
    images, labels = data.load_test()
    history: list[tuple[int, float, float]] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        loss, accuracy = framework.evaluate(arrays.to_numpy_ndarrays(), images, labels)
        if server_round:
            say(f"round {server_round} of {rounds}: accuracy {accuracy:.3f}, loss {loss:.3f}")
        history.append((server_round, loss, accuracy))
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    say(f"{framework.NAME} on {framework.device()}")
    result = FedAvg(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes).start(
        grid=grid,
        initial_arrays=ArrayRecord(framework.new_weights()),
        num_rounds=rounds,
        train_config=ConfigRecord(
            {
                "local-epochs": int(config["local-epochs"]),
                "learning-rate": float(config["learning-rate"]),
            }
        ),
        evaluate_fn=evaluate,
    )
    numpy.savez("final_model.npz", *result.arrays.to_numpy_ndarrays())
    with pathlib.Path("history.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("round", "loss", "accuracy"), *history])
    say(f"finished: {rounds} rounds")


def say(line: str) -> None:
    """Print a line with one write: Flower ships each write of its own."""
    print(line + "\n", end="", flush=True)
