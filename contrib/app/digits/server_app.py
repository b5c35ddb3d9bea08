"""What the server does in a run: choose the strategy, start it, and tell how each round went."""

import csv
import pathlib

import numpy
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as strategies

from digits import config, task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run config asks for."""
    settings = config.run_config(context.run_config)
    report = Report(settings.num_server_rounds)
    strategy = build_strategy(settings, report)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(task.new_model()),
        num_rounds=settings.num_server_rounds,
        train_config=ConfigRecord(
            {"local-epochs": settings.local_epochs, "learning-rate": settings.learning_rate}
        ),
        evaluate_fn=report.evaluate,
    )
    save(result.arrays, report.history)
    say(f"finished: {count(report.rounds, 'round')}, accuracy {report.accuracy:.3f}")


def build_strategy(settings: config.RunConfig, report: "Report") -> strategies.Strategy:
    """Return the strategy that the settings name, with what is particular to it."""
    adaptive = {"eta": settings.server_learning_rate, "eta_l": settings.learning_rate}
    krum = {"num_malicious_nodes": settings.malicious_nodes}
    trusted = max(settings.min_clients - settings.malicious_nodes, 1)
    particular = {
        "FedProx": {"proximal_mu": settings.proximal_mu},
        "FedAvgM": {"server_momentum": settings.server_momentum},
        "FedAdam": adaptive,
        "FedAdagrad": adaptive,
        "FedYogi": adaptive,
        "Krum": krum,
        "MultiKrum": krum | {"num_nodes_to_select": trusted},
    }
    return getattr(strategies, settings.strategy)(
        fraction_train=settings.fraction_train,
        fraction_evaluate=settings.fraction_evaluate,
        min_train_nodes=settings.min_clients,
        min_evaluate_nodes=settings.min_clients,
        min_available_nodes=settings.min_clients,
        train_metrics_aggr_fn=report.gather,
        **particular.get(settings.strategy, {}),
    )


class Report:
    """Follows a run: how many nodes' models made a round's, and what the model can do after it."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.nodes = 0
        self.accuracy = 0.0
        self.history: list[tuple[int, float, float]] = []
        self.images, self.labels = task.load_test()

    def gather(self, replies: list[RecordDict], weighted_by: str) -> MetricRecord:
        """Count the nodes that are aggregated (of Krum, the chosen), and return their weighted mean loss and accuracy."""
        self.nodes = len(replies)
        metrics = [reply["metrics"] for reply in replies]
        total = sum(each[weighted_by] for each in metrics)
        return MetricRecord(
            {
                key: sum(each[key] * each[weighted_by] for each in metrics) / total
                for key in ("loss", "accuracy")
            }
        )

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Measure the global model on the test set, and print the round's line.

        Raises ValueError when no node trained: a run that learns nothing should not succeed.
        """
        loss, self.accuracy = task.evaluate(arrays.to_numpy_ndarrays(), self.images, self.labels)
        if server_round > 0:  # 0 is the untrained model
            if self.nodes == 0:
                raise ValueError(
                    f"round {server_round} of {self.rounds}: no node returned a trained model; "
                    "see the errors in their replies above"
                )
            say(
                f"round {server_round} of {self.rounds}: accuracy {self.accuracy:.3f}, "
                f"loss {loss:.3f}, {count(self.nodes, 'node')}"
            )
            self.nodes = 0
        self.history.append((server_round, loss, self.accuracy))
        return MetricRecord({"loss": loss, "accuracy": self.accuracy})


def save(model: ArrayRecord, history: list[tuple[int, float, float]]) -> None:
    """Leave the model and what it could do after each round (0 is untrained) in this directory."""
    numpy.savez("final_model.npz", *model.to_numpy_ndarrays())
    with pathlib.Path("history.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("round", "loss", "accuracy"), *history])


def count(number: int, noun: str) -> str:
    """Return such as "1 node" or "2 nodes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def say(line: str) -> None:
    """Print a line with one write: Flower ships each write of its own, between those of its log."""
    print(line + "\n", end="", flush=True)
