# SPDX-License-Identifier: Apache-2.0
"""Small convolutional networks for digits: the demo's, and one for MNIST."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class DigitsCnn(nn.Module):
    """A residual network for (B, 1, 8, 8) images of digits, about 33,000 parameters.

    Parameters
    ----------
    width : int
        Channels of the first layer; the later ones have twice as many.
    classes : int
        Number of classes.
    """

    def __init__(self, width: int = 24, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.down = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.body = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width)
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        x = self.down(self.stem(x))
        x = F.relu(x + self.body(x))
        x = F.avg_pool2d(x, 4).flatten(1)
        return self.head(self.dropout(x))


class MnistCnn(nn.Module):
    """A residual network for (B, 1, 28, 28) images of digits, about 30,000 parameters.

    Parameters
    ----------
    width : int
        Channels of the first layer; the later ones have twice as many.
    classes : int
        Number of classes.
    """

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = _pooled(1, width)
        self.down = _pooled(width, 2 * width)
        self.body = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width)
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width * 7 * 7, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        x = self.down(self.stem(x))
        x = F.relu(x + self.body(x))
        return self.head(self.dropout(x.flatten(1)))


def _pooled(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class DigitsVgg(nn.Module):
    """Layers one behind the other, as in VGG, for (B, 1, 8, 8) images; about 46,000 parameters.

    Parameters
    ----------
    width : int
        Channels of the first layer; the later ones have twice as many.
    classes : int
        Number of classes.
    """

    def __init__(self, width: int = 24, classes: int = 10) -> None:
        super().__init__()
        wide, hidden = 2 * width, 64
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *_pooled(width, wide),
            *_pooled(wide, wide),
        )
        self.hidden = nn.Linear(4 * wide, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        return self.head(F.relu(self.hidden(self.features(x).flatten(1))))
