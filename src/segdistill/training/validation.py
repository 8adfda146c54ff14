"""Validation between epochs, and moving batches to the device."""

from __future__ import annotations

import os
from contextlib import closing

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segdistill.data.views import Views, batches
from segdistill.training.settings import FitSettings
from segdistill.training.task import Batch, Task


def spare_threads(settings: FitSettings, device: torch.device) -> int:
    """Number of threads that prepare batches: on a CPU only on cores that the network leaves idle.

    A thread on one of the network's cores makes all the others wait: on two cores a step took 117 ms without it and
    125 to 140 ms with it.

    >>> spare_threads(FitSettings(workers=3), torch.device("cpu"))
    3
    """
    if settings.workers is not None:
        return settings.workers
    cores = os.cpu_count() or 1
    return min(8, cores - 1) if device.type == "cuda" else max(0, min(8, cores - torch.get_num_threads()))


def to_device(batch: Batch, fabric: Fabric, channels_last: bool) -> Batch:
    """Moves a batch to the device, its images in the memory format of the networks."""
    moved: Batch = fabric.to_device(batch)
    if channels_last and moved["image"].ndim == 4:
        moved["image"] = moved["image"].contiguous(memory_format=torch.channels_last)
    return moved


def validate(
    task: Task, module: nn.Module, views: Views, settings: FitSettings, fabric: Fabric
) -> dict[str, float]:
    """Mean over cases of the task's validation values, named val_*."""
    module.eval()
    values: dict[str, list[Tensor]] = {}
    source = batches(
        views, settings.batch_size, 0, shuffle=False, workers=spare_threads(settings, fabric.device)
    )
    with closing(source):
        for batch in source:
            for name, value in task.validate(to_device(batch, fabric, settings.channels_last)).items():
                values.setdefault(f"val_{name}", []).append(value)
    return {name: torch.cat(parts).mean().item() for name, parts in values.items()}
