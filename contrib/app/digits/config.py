"""The run config and the node config, checked; knows nothing of Flower.

Flower hands both over as plain mappings. A number may arrive as text ("5"), since not everything
that submits a run knows the types which the app declares. Every error is a ValueError: of a
RuntimeError in a ServerApp, Flower 1.25 says "Failed to start run" and nothing more.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

STRATEGIES = (
    "FedAvg",
    "FedProx",
    "FedAvgM",
    "FedAdam",
    "FedAdagrad",
    "FedYogi",
    "FedMedian",
    "FedTrimmedAvg",
    "Krum",
    "MultiKrum",
)


@dataclass(frozen=True)
class RunConfig:
    """The keys of [tool.flwr.app.config], under Python's names."""

    num_server_rounds: int
    strategy: str
    min_clients: int
    fraction_train: float
    fraction_evaluate: float
    local_epochs: int
    learning_rate: float
    proximal_mu: float
    server_learning_rate: float
    server_momentum: float
    malicious_nodes: int


def run_config(values: Mapping[str, object]) -> RunConfig:
    """Return the checked run config, or raise one ValueError that lists all that is wrong."""
    problems: list[str] = []

    def check(read: Callable[..., Any], key: str, *limits: Any) -> Any:
        try:
            return read(values, key, *limits)
        except ValueError as error:
            problems.append(str(error))

    config = RunConfig(
        num_server_rounds=check(whole, "num-server-rounds", 1),
        strategy=check(strategy, "strategy"),
        min_clients=check(whole, "min-clients", 1),
        fraction_train=check(real, "fraction-train", "above 0, up to 1", lambda x: 0 < x <= 1),
        fraction_evaluate=check(real, "fraction-evaluate", "0 to 1", lambda x: 0 <= x <= 1),
        local_epochs=check(whole, "local-epochs", 1),
        learning_rate=check(real, "learning-rate", "above 0", lambda x: x > 0),
        proximal_mu=check(real, "proximal-mu", "0 or more", lambda x: x >= 0),
        server_learning_rate=check(real, "server-learning-rate", "above 0", lambda x: x > 0),
        server_momentum=check(real, "server-momentum", "0 to below 1", lambda x: 0 <= x < 1),
        malicious_nodes=check(whole, "malicious-nodes", 0),
    )
    if problems:
        raise ValueError("; ".join(problems))
    return config


def partition(values: Mapping[str, object]) -> tuple[int, int]:
    """Return partition-id and num-partitions of a node config, or raise a ValueError."""
    try:
        return whole(values, "partition-id", 0), whole(values, "num-partitions", 1)
    except ValueError as error:
        raise ValueError(
            f"{error} (the SuperNode's node config, "
            'such as --node-config "partition-id=0 num-partitions=2")'
        ) from None


def whole(values: Mapping[str, object], key: str, least: int) -> int:
    """Return the key's whole number, which is at least `least`."""
    value = present(values, key)
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise ValueError(f"{key} is {value!r}: want a whole number, {least} or more")
    return number


def real(
    values: Mapping[str, object], key: str, want: str, allowed: Callable[[float], bool]
) -> float:
    """Return the key's finite number, which is `allowed`; `want` says in words what is."""
    value = present(values, key)
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and allowed(number)):
        raise ValueError(f"{key} is {value!r}: want a number, {want}")
    return number


def strategy(values: Mapping[str, object], key: str) -> str:
    """Return the name of the strategy's class in flwr.serverapp.strategy; case is ignored."""
    value = present(values, key)
    for name in STRATEGIES:
        if name.lower() == str(value).lower():
            return name
    raise ValueError(f"{key} is {value!r}: want one of {', '.join(STRATEGIES)}")


def present(values: Mapping[str, object], key: str) -> object:
    """Return the key's value, or raise a ValueError when there is none."""
    if key not in values:
        raise ValueError(f"{key} is missing")
    return values[key]
