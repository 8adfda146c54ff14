"""A plain PyTorch training loop, written with care: what people have before they use segdistill.

Images are in memory, augmentation runs in torch on whole batches, the last weights are the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn


def load(pairs: Sequence[tuple[Path, Sequence[Path]]], size: int) -> tuple[Tensor, Tensor]:
    """Images (N, 1, size, size) from 0 to 1 and masks of 0 and 1 of the same shape; several masks are joined."""
    images, masks = [], []
    for image, parts in pairs:
        pixels = Image.open(image).convert("L").resize((size, size), Image.Resampling.BILINEAR)
        images.append(np.asarray(pixels, np.float32) / 255)
        mask = np.zeros((size, size), np.float32)
        for part in parts:
            resized = Image.open(part).convert("L").resize((size, size), Image.Resampling.NEAREST)
            mask = np.maximum(mask, np.asarray(resized) > 127)
        masks.append(mask.astype(np.float32))
    return torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(masks))[:, None]


def augment(image: Tensor, mask: Tensor, vertical_flip: bool = False) -> tuple[Tensor, Tensor]:
    """Flips, turns to 10 degrees, scales and shifts by 10 and 5 %, brightness and contrast by 10 %."""
    n = len(image)
    angle = (torch.rand(n) * 2 - 1) * math.radians(10)
    scale = 1 + (torch.rand(n) * 2 - 1) * 0.1
    shift = (torch.rand(n, 2) * 2 - 1) * 0.1  # half the width is 1
    flip_x = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    flip_y = torch.where(torch.rand(n) < 0.5, -1.0, 1.0) if vertical_flip else torch.ones(n)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    x_row = torch.stack([cos * flip_x, -sin * flip_y, shift[:, 0]], 1)
    y_row = torch.stack([sin * flip_x, cos * flip_y, shift[:, 1]], 1)
    grid = F.affine_grid(torch.stack([x_row, y_row], 1), list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, mode="bilinear", align_corners=False)
    mask = F.grid_sample(mask, grid, mode="nearest", align_corners=False)
    contrast = 1 + (torch.rand(n, 1, 1, 1) * 2 - 1) * 0.1
    brightness = (torch.rand(n, 1, 1, 1) * 2 - 1) * 0.1
    return (image * contrast + brightness).clamp(0, 1), mask


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice of the foreground."""
    probability = logits.softmax(1)[:, 1]
    overlap = (probability * target).sum((1, 2))
    total = probability.sum((1, 2)) + target.sum((1, 2))
    return F.cross_entropy(logits, target) + 1 - ((2 * overlap + 1) / (total + 1)).mean()


def train(
    network: nn.Module,
    images: Tensor,
    masks: Tensor,
    steps: int,
    batch_size: int = 8,
    lr: float = 2e-3,
    bf16: bool = True,
    vertical_flip: bool = False,
) -> list[float]:
    """Trains in place; returns the time at the end of every step."""
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, max(steps, 2))
    ends: list[float] = []
    while len(ends) < steps:
        order = torch.randperm(len(images))
        for chosen in order[: len(order) // batch_size * batch_size].split(batch_size)[: steps - len(ends)]:
            image, mask = augment(images[chosen], masks[chosen], vertical_flip)
            image = image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = network(image).logits
            loss = loss_of(logits.float(), mask[:, 0].long())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            ends.append(time.perf_counter())
    return ends
