# SPDX-License-Identifier: Apache-2.0

"""A convolutional U-Net that predicts the noise in pictures of 8x8 pixels, given the timestep and a class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class DigitUNet(nn.Module):
    """Two resolutions, 8x8 and 4x4, with attention between the 4x4 pixels; 0.45 million parameters.

    Class labels run from 0 to `class_count`. The last one stands for any class: classifier-free guidance needs its output, too.
    """

    def __init__(
        self, class_count: int = 10, channels: int = 40, wide: int = 80, embedding: int = 96, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(32) / 32), persistent=False)
        self.time = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.classes = nn.Embedding(class_count + 1, embedding)
        self.enter = nn.Conv2d(1, channels, 3, padding=1)
        self.down = ResidualBlock(channels, channels, embedding, dropout)
        self.shrink = nn.Conv2d(channels, wide, 3, stride=2, padding=1)
        self.middle1 = ResidualBlock(wide, wide, embedding, dropout)
        self.attention = Attention(wide)
        self.middle2 = ResidualBlock(wide, wide, embedding, dropout)
        self.grow = nn.Conv2d(wide, channels, 3, padding=1)
        self.up = ResidualBlock(2 * channels, channels, embedding, dropout)
        self.leave = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, 1, 3, padding=1))
        nn.init.zeros_(self.leave[-1].weight)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """The predicted noise, [batch, 1, 8, 8]. Each picture has its own timestep and label."""
        angles = timestep[:, None].float() * self.frequencies
        condition = self.time(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.classes(class_labels)
        fine = self.down(self.enter(sample), condition)
        coarse = self.middle1(self.shrink(fine), condition)
        coarse = self.middle2(self.attention(coarse), condition)
        grown = self.grow(nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        return self.leave(self.up(torch.cat([grown, fine], dim=1), condition))


class ResidualBlock(nn.Module):
    """Two convolutions; the condition scales and shifts the channels between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.norm = nn.GroupNorm(8, outputs)
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(self.second[-1].weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        return self.skip(x) + self.second(self.norm(self.first(x)) * (1 + scale) + shift)


class Attention(nn.Module):
    """Single-head attention between the pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.leave = nn.Conv2d(channels, channels, 1)
        self.scale = channels**-0.5
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(self.norm(x)).flatten(2).chunk(3, dim=1)
        weights = (query.transpose(1, 2) @ key * self.scale).softmax(dim=2)
        return x + self.leave((value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))
