"""Seven-segment digits, drawn with a shift and noise; knows no framework and nothing of Flower.

Everything random is seeded: a share is the same at each call.
"""

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Labels = NDArray[np.int64]

SIZE, CLASSES = 12, 10
TEST_EXAMPLES, SHARE_EXAMPLES = 500, 1000
NOISE = 0.3
SEGMENTS = {  # rows and columns of each, in a digit of 9 x 5
    "a": (slice(0, 1), slice(0, 5)),
    "b": (slice(0, 5), slice(4, 5)),
    "c": (slice(4, 9), slice(4, 5)),
    "d": (slice(8, 9), slice(0, 5)),
    "e": (slice(4, 9), slice(0, 1)),
    "f": (slice(0, 5), slice(0, 1)),
    "g": (slice(4, 5), slice(0, 5)),
}
DIGITS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")


def load_test() -> tuple[Images, Labels]:
    """Return the images that no node has."""
    return draw(TEST_EXAMPLES, seed=0)


def load_partition(partition_id: int, num_partitions: int) -> tuple[Images, Labels]:
    """Return one node's share, of 1000 images whatever the number of nodes."""
    if not 0 <= partition_id < num_partitions:
        raise ValueError(f"partition-id is {partition_id}: want 0 to {num_partitions - 1}")
    return draw(SHARE_EXAMPLES, seed=1 + partition_id)


def draw(count: int, *, seed: int) -> tuple[Images, Labels]:
    """Return images of 12 x 12 pixels, about 0 to 1, and their digits."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = rng.normal(0.0, NOISE, (count, SIZE, SIZE))
    for image, label in zip(images, labels, strict=True):
        row, column = rng.integers(0, SIZE - 9 + 1), rng.integers(0, SIZE - 5 + 1)
        place = image[row : row + 9, column : column + 5]
        for segment in DIGITS[label]:
            place[SEGMENTS[segment]] += 1.0
    return images.astype(np.float32), labels
