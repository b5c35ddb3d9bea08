"""The reference app in contrib/app: shares, learning, configuration; without Flower."""

import itertools
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

APP = Path(__file__).parents[2] / "contrib" / "app"
sys.path.insert(0, str(APP))  # an app is not part of our package

from digits import config, task  # noqa: E402

PYPROJECT = tomllib.loads((APP / "pyproject.toml").read_text("utf-8"))
DECLARED = PYPROJECT["tool"]["flwr"]["app"]["config"]


def as_set(images):
    return {row.tobytes() for row in images}


def federated_accuracies(num_partitions, rounds, proximal_mu=0.0):
    """Average models as FedAvg does, and return the accuracy on the test set after each round."""
    settings = config.run_config(DECLARED)
    shares = [
        task.split(*task.load_partition(number, num_partitions))[0]
        for number in range(num_partitions)
    ]
    sizes = [len(labels) for _, labels in shares]
    model, accuracies = task.new_model(), []
    for server_round in range(1, rounds + 1):
        trained = [
            task.train(
                model,
                *share,
                epochs=settings.local_epochs,
                learning_rate=settings.learning_rate,
                seed=(server_round, number),
                proximal_mu=proximal_mu,
            )
            for number, share in enumerate(shares)
        ]
        model = [np.average(parts, axis=0, weights=sizes) for parts in zip(*trained, strict=True)]
        accuracies.append(task.evaluate(model, *task.load_test())[1])
    return accuracies


@pytest.mark.parametrize("num_partitions", [1, 2, 7, 150])
def test_partitions_share_out_all_but_the_test_set_without_overlap(num_partitions):
    shares = [task.load_partition(number, num_partitions) for number in range(num_partitions)]
    sizes = [len(labels) for _, labels in shares]
    assert sum(sizes) == 1500
    assert max(sizes) - min(sizes) <= 1
    all_images = as_set(task.load_all()[0])
    parts = [as_set(images) for images, _ in shares] + [as_set(task.load_test()[0])]
    assert set().union(*parts) == all_images
    assert sum(map(len, parts)) == len(all_images)


def test_a_partition_is_the_same_each_time():
    first, second = task.load_partition(1, 3), task.load_partition(1, 3)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_each_half_of_the_data_has_about_as_many_of_each_digit():
    for number in (0, 1):
        counts = np.bincount(task.load_partition(number, 2)[1], minlength=10)
        assert counts.min() > 55
        assert counts.max() < 95


def test_a_share_is_trained_on_and_validated_with_different_images():
    images, labels = task.load_partition(0, 2)
    (train_images, train_labels), (check_images, check_labels) = task.split(images, labels)
    assert (len(train_labels), len(check_labels)) == (600, 150)
    assert not as_set(train_images) & as_set(check_images)


def test_even_the_smallest_share_can_be_validated():
    (_, train_labels), (_, check_labels) = task.split(*task.load_partition(149, 150))
    assert (len(train_labels), len(check_labels)) == (8, 2)


@pytest.mark.parametrize("partition_id", [-1, 2, 99])
def test_a_partition_out_of_range_is_named_with_the_range(partition_id):
    with pytest.raises(ValueError, match=f"partition-id is {partition_id}: want 0 to 1, because"):
        task.load_partition(partition_id, 2)


@pytest.mark.parametrize("num_partitions", [0, -3, 151])
def test_too_few_or_too_many_partitions_are_refused(num_partitions):
    with pytest.raises(ValueError, match=f"num-partitions is {num_partitions}: want 1 to 150"):
        task.load_partition(0, num_partitions)


@pytest.mark.parametrize("num_partitions", [1, 2, 3, 5])
def test_accuracy_rises_from_round_to_round(num_partitions):
    accuracies = federated_accuracies(num_partitions, DECLARED["num-server-rounds"])
    assert all(later > earlier for earlier, later in itertools.pairwise(accuracies))
    assert 0.4 < accuracies[0] < accuracies[-1]
    assert accuracies[-1] > 0.75


def test_the_readme_shows_what_two_nodes_learn():
    shown = re.findall(r"round \d of 3: accuracy (\S+),", (APP / "README.md").read_text("utf-8"))
    assert [f"{accuracy:.3f}" for accuracy in federated_accuracies(2, 3)] == shown


def test_a_federation_learns_the_same_twice():
    assert federated_accuracies(2, 2) == federated_accuracies(2, 2)


def test_the_proximal_term_keeps_a_model_near_the_global_one():
    images, labels = task.load_partition(0, 2)
    start = task.new_model()

    def distance(proximal_mu):
        model = task.train(
            start, images, labels, epochs=1, learning_rate=0.05, proximal_mu=proximal_mu
        )
        return sum(np.square(part - old).sum() for part, old in zip(model, start, strict=True))

    assert distance(1.0) < distance(0.1) < distance(0.0)


def test_training_leaves_the_given_model_as_it_is():
    model = task.new_model()
    task.train(model, *task.load_partition(0, 50), epochs=1, learning_rate=0.1)
    for part, untouched in zip(model, task.new_model(), strict=True):
        assert np.array_equal(part, untouched)


def test_the_gradient_agrees_with_the_slope_of_the_loss():
    images, labels = task.load_partition(0, 50)
    model = task.new_model()
    for number, gradient in enumerate(task.slopes(model, images, labels)):
        place = tuple(size // 2 for size in gradient.shape)
        losses = []
        for shift in (1e-5, -1e-5):
            moved = [part.copy() for part in model]
            moved[number][place] += shift
            losses.append(task.evaluate(moved, images, labels)[0])
        assert gradient[place] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-3, abs=1e-7)


def test_the_declared_run_config_is_valid_and_complete():
    settings = config.run_config(DECLARED)
    fields = {name.replace("_", "-") for name in config.RunConfig.__dataclass_fields__}
    assert set(DECLARED) == fields
    assert (settings.num_server_rounds, settings.strategy, settings.min_clients) == (3, "FedAvg", 2)


def test_the_readme_explains_every_key_with_its_default_and_every_strategy():
    readme = (APP / "README.md").read_text("utf-8")
    for key, default in DECLARED.items():
        assert re.search(rf"^\| `{key}` \| `?{re.escape(str(default))}`? \|", readme, re.MULTILINE)
    assert all(f"`{name}`" in readme for name in config.STRATEGIES)


def test_the_app_declares_no_federation_for_newer_flower_to_migrate():
    assert "federations" not in PYPROJECT["tool"]["flwr"]


def test_numbers_may_arrive_as_text():
    settings = config.run_config(DECLARED | {"num-server-rounds": "5", "learning-rate": "0.1"})
    assert (settings.num_server_rounds, settings.learning_rate) == (5, 0.1)


def test_a_whole_number_does_for_a_fraction():
    assert config.run_config(DECLARED | {"fraction-evaluate": 0}).fraction_evaluate == 0.0


@pytest.mark.parametrize("name", config.STRATEGIES)
def test_a_strategy_is_known_by_its_name_in_any_case(name):
    assert config.run_config(DECLARED | {"strategy": name.upper()}).strategy == name


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="strategy is 'FedFoo'") as caught:
        config.run_config(DECLARED | {"strategy": "FedFoo"})
    assert all(name in str(caught.value) for name in config.STRATEGIES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num-server-rounds", 0),
        ("num-server-rounds", 2.5),
        ("min-clients", "two"),
        ("min-clients", True),
        ("local-epochs", 0),
        ("fraction-train", 0.0),
        ("fraction-train", 1.1),
        ("fraction-evaluate", -0.1),
        ("learning-rate", 0),
        ("learning-rate", "nan"),
        ("learning-rate", "inf"),
        ("proximal-mu", -1),
        ("server-learning-rate", ""),
        ("server-momentum", 1.0),
        ("malicious-nodes", -1),
    ],
)
def test_a_wrong_value_is_named_with_what_was_wanted(key, value):
    with pytest.raises(ValueError, match=re.escape(f"{key} is {value!r}: want a ")):
        config.run_config(DECLARED | {key: value})


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(ValueError, match=r"strategy is 'X'.*; min-clients is 0"):
        config.run_config(DECLARED | {"strategy": "X", "min-clients": 0})


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="local-epochs is missing"):
        config.run_config({key: value for key, value in DECLARED.items() if key != "local-epochs"})


def test_a_node_config_gives_the_partition():
    assert config.partition({"partition-id": 1, "num-partitions": 2}) == (1, 2)
    assert config.partition({"partition-id": "0", "num-partitions": "3", "site": "a"}) == (0, 3)


@pytest.mark.parametrize(
    ("node_config", "told"),
    [
        ({}, "partition-id is missing"),
        ({"partition-id": 0}, "num-partitions is missing"),
        ({"partition-id": "a", "num-partitions": 2}, "partition-id is 'a': want a whole number"),
        ({"partition-id": 0, "num-partitions": 0}, "num-partitions is 0: want a whole number, 1"),
    ],
)
def test_a_node_config_without_a_partition_is_refused_with_an_example(node_config, told):
    with pytest.raises(ValueError, match=f"{told}.*--node-config"):
        config.partition(node_config)
