"""A small convolutional net, and scikit-learn's handwritten digits as tensors."""

import torch
from sklearn.datasets import load_digits
from torch import nn


def net() -> nn.Module:
    """Return a classifier of 8 x 8 grey images into ten digits: (N, 1, 8, 8) -> (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def digits(seed: int) -> tuple[torch.utils.data.TensorDataset, torch.utils.data.TensorDataset]:
    """Return (training, test) sets of 1437 and 360 images, values from 0 to 1."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, test = order[:-360], order[-360:]
    return (
        torch.utils.data.TensorDataset(images[train], labels[train]),
        torch.utils.data.TensorDataset(images[test], labels[test]),
    )


@torch.no_grad()
def correct(model: nn.Module, data: torch.utils.data.Dataset) -> int:
    """Return how many images of ``data`` the model gets right."""
    model.eval()
    device = next(model.parameters()).device
    batches = torch.utils.data.DataLoader(data, batch_size=256)
    return sum(int((model(x.to(device)).argmax(1).cpu() == y).sum()) for x, y in batches)
