"""The network in TensorFlow."""

import keras
import numpy as np
import tensorflow as tf

from segments.data import CLASSES, SIZE, Images, Labels

NAME = f"TensorFlow {tf.__version__}"
BATCH_SIZE = 32


def device() -> str:
    """Return where it computes."""
    return "cuda" if tf.config.list_physical_devices("GPU") else "cpu"


def network() -> keras.Model:
    """Return the untrained network, always the same."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            layers.Conv2D(12, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ]
    )


def new_weights() -> list[np.ndarray]:
    """Return the parameters before any training."""
    return network().get_weights()


def train(
    given: list[np.ndarray], images: Images, labels: Labels, *, epochs: int, rate: float
) -> list[np.ndarray]:
    """Return the parameters after `epochs` passes over the images."""
    model = _loaded(given, rate)
    model.fit(images[..., None], labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    return model.get_weights()


def evaluate(given: list[np.ndarray], images: Images, labels: Labels) -> tuple[float, float]:
    """Return loss and accuracy."""
    loss, accuracy = _loaded(given, 0.1).evaluate(images[..., None], labels, verbose=0)
    return float(loss), float(accuracy)


def _loaded(given: list[np.ndarray], rate: float) -> keras.Model:
    model = network()
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.set_weights(given)
    return model
