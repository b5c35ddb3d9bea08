"""The data, the model and its training; knows nothing of Flower.

The images come inside scikit-learn (1797 of 8 x 8 pixels), so nothing is downloaded.
The model is a network with one hidden layer, trained by gradient descent in plain numpy.
Everything random is seeded: the same federation learns the same model twice.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Model = list[Array]

SEED = 2025
TEST_SIZE = 297  # leaves 1500 images to share out
MIN_PARTITION_SIZE = 10
PIXELS, HIDDEN, CLASSES = 64, 32, 10
BATCH_SIZE = 16


@functools.cache
def load_all() -> tuple[Array, Labels]:
    """Return all images (a row each, pixels 0 to 1) and labels, in one fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    return images[order] / 16.0, labels[order]


def load_test() -> tuple[Array, Labels]:
    """Return the images that no node has; the server measures the global model on them."""
    images, labels = load_all()
    return images[:TEST_SIZE], labels[:TEST_SIZE]


def load_partition(partition_id: int, num_partitions: int) -> tuple[Array, Labels]:
    """Return one node's share: every `num_partitions`-th image after the test set.

    The shares are disjoint, cover all but the test set, and are the same at each call.
    Raises ValueError when there is no such share.
    """
    images, labels = load_all()
    most = (len(labels) - TEST_SIZE) // MIN_PARTITION_SIZE
    if not 1 <= num_partitions <= most:
        raise ValueError(f"num-partitions is {num_partitions}: want 1 to {most}")
    if not 0 <= partition_id < num_partitions:
        raise ValueError(
            f"partition-id is {partition_id}: want 0 to {num_partitions - 1}, "
            f"because num-partitions is {num_partitions}"
        )
    share = slice(TEST_SIZE + partition_id, None, num_partitions)
    return images[share], labels[share]


def split(images: Array, labels: Labels) -> tuple[tuple[Array, Labels], tuple[Array, Labels]]:
    """Cut a share into four fifths to train on and one fifth to validate with."""
    cut = len(labels) * 4 // 5
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def new_model() -> Model:
    """Return the untrained model (two weight matrices, each with its bias), always the same."""
    rng = np.random.default_rng(SEED)
    return [
        rng.normal(0.0, np.sqrt(2 / PIXELS), (PIXELS, HIDDEN)),
        np.zeros(HIDDEN),
        rng.normal(0.0, np.sqrt(2 / HIDDEN), (HIDDEN, CLASSES)),
        np.zeros(CLASSES),
    ]


def predict(model: Model, images: Array) -> tuple[Array, Array]:
    """Return the hidden layer and the chance of each digit, a row for each image."""
    weights_in, bias_in, weights_out, bias_out = model
    hidden = np.maximum(images @ weights_in + bias_in, 0.0)
    scores = hidden @ weights_out + bias_out
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, chances / chances.sum(axis=1, keepdims=True)


def evaluate(model: Model, images: Array, labels: Labels) -> tuple[float, float]:
    """Return the loss (mean cross-entropy) and the accuracy (0 to 1)."""
    _, chances = predict(model, images)
    loss = -np.log(chances[np.arange(len(labels)), labels] + 1e-12).mean()
    return float(loss), float((chances.argmax(axis=1) == labels).mean())


def slopes(model: Model, images: Array, labels: Labels) -> Model:
    """Return the gradient of the loss, in the model's shape."""
    hidden, error = predict(model, images)
    error[np.arange(len(labels)), labels] -= 1.0
    error /= len(labels)
    hidden_error = (error @ model[2].T) * (hidden > 0.0)
    return [images.T @ hidden_error, hidden_error.sum(axis=0), hidden.T @ error, error.sum(axis=0)]


def train(
    model: Model,
    images: Array,
    labels: Labels,
    *,
    epochs: int,
    learning_rate: float,
    seed: tuple[int, ...] = (),
    proximal_mu: float = 0.0,
) -> Model:
    """Return the model after `epochs` passes over the images; the one given stays as it is.

    `seed` sets the order of the images. `proximal_mu` is FedProx's pull towards the given model.
    """
    trained = model
    rng = np.random.default_rng((SEED, *seed))
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for batch in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
            gradient = slopes(trained, images[batch], labels[batch])
            trained = [
                part - learning_rate * (slope + proximal_mu * (part - start))
                for part, slope, start in zip(trained, gradient, model, strict=True)
            ]
    return trained
