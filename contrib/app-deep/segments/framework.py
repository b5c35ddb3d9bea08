"""The framework that this image has: PyTorch, else TensorFlow."""

import importlib.util

if importlib.util.find_spec("torch"):
    from segments.with_torch import NAME, device, evaluate, new_weights, train
else:
    from segments.with_tensorflow import NAME, device, evaluate, new_weights, train

__all__ = ("NAME", "device", "evaluate", "new_weights", "train")
