"""The network in PyTorch."""

import numpy as np
import torch
from torch import nn

from segments.data import CLASSES, Images, Labels

NAME = f"PyTorch {torch.__version__}"
BATCH_SIZE = 32


def device() -> str:
    """Return where it computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def network() -> nn.Module:
    """Return the untrained network, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, CLASSES)
    )


def weights(model: nn.Module) -> list[np.ndarray]:
    """Return the network's parameters."""
    return [part.detach().cpu().numpy().copy() for part in model.parameters()]


def new_weights() -> list[np.ndarray]:
    """Return the parameters before any training."""
    return weights(network())


def train(
    given: list[np.ndarray], images: Images, labels: Labels, *, epochs: int, rate: float
) -> list[np.ndarray]:
    """Return the parameters after `epochs` passes over the images."""
    model, pixels, digits = _loaded(given, images, labels)
    step = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits)).split(BATCH_SIZE):
            step.zero_grad()
            nn.functional.cross_entropy(model(pixels[batch]), digits[batch]).backward()
            step.step()
    return weights(model)


def evaluate(given: list[np.ndarray], images: Images, labels: Labels) -> tuple[float, float]:
    """Return loss and accuracy."""
    model, pixels, digits = _loaded(given, images, labels)
    with torch.no_grad():
        scores = model(pixels)
        loss = nn.functional.cross_entropy(scores, digits)
    return float(loss), float((scores.argmax(1) == digits).float().mean())


def _loaded(
    given: list[np.ndarray], images: Images, labels: Labels
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.set_num_threads(1)
    model = network()
    with torch.no_grad():
        for part, value in zip(model.parameters(), given, strict=True):
            part.copy_(torch.from_numpy(np.array(value)))
    where = device()
    pixels, digits = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)
    return model.to(where), pixels.to(where), digits.to(where)
