"""Optimisers and learning-rate schedules from their settings."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
)

from segdistill.models.registry import NETWORKS, network_facts
from segdistill.training.settings import OptimizerSettings, ScheduleSettings


def make_optimizer(module: nn.Module, settings: OptimizerSettings, own_lr: float | None = None) -> Optimizer:
    """Optimiser over the parameters that require a gradient; `own_lr` replaces the learning rate of the settings.

    >>> make_optimizer(nn.Linear(2, 2), OptimizerSettings(name="sgd", lr=0.1)).param_groups[0]["lr"]
    0.1
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    lr = settings.lr if own_lr is None else own_lr
    if settings.name == "sgd":
        return SGD(parameters, lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    kind = Adam if settings.name == "adam" else AdamW
    # fused: one kernel over all parameters is 2.3 times as fast as a loop over them, also on a CPU
    return kind(parameters, lr, weight_decay=settings.weight_decay, fused=True)


def make_schedule(
    optimizer: Optimizer, settings: ScheduleSettings, total_steps: int
) -> LRScheduler | ReduceLROnPlateau:
    """Schedule over `total_steps` optimiser steps; a plateau schedule counts epochs instead.

    >>> optimizer = make_optimizer(nn.Linear(2, 2), OptimizerSettings(lr=0.1))
    >>> schedule = make_schedule(optimizer, ScheduleSettings(name="one_cycle"), total_steps=10)
    >>> round(optimizer.param_groups[0]["lr"], 4)
    0.004
    """
    if settings.name == "plateau":
        return ReduceLROnPlateau(optimizer, factor=settings.factor, patience=settings.patience)
    if settings.name == "one_cycle":
        highest = [group["lr"] for group in optimizer.param_groups]
        # no cycling of momentum: none of the published settings cycles Adam's beta1
        return OneCycleLR(
            optimizer, highest, max(total_steps, 2), pct_start=settings.warm_up, cycle_momentum=False
        )
    if settings.name == "cyclic":
        highest = [group["lr"] for group in optimizer.param_groups]
        return CyclicLR(
            optimizer, settings.lowest, highest, settings.steps_up, mode="triangular", cycle_momentum=False
        )
    if settings.name == "polynomial":
        return PolynomialLR(optimizer, total_steps, settings.power)
    return ConstantLR(optimizer, factor=1.0)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware, and faster than float32.

    Of Intel's processors only those with AMX count: with avx512_bf16 alone, a training step in bf16 took 1.4 times as
    long as in float32 (`simplified_unet`, 128x128). AMD's halve it with avx512_bf16.

    >>> isinstance(has_fast_bf16(torch.device("cpu")), bool)
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        if capabilities.get("amx_bf16") or capabilities.get("bf16"):
            return True
        return bool(capabilities.get("avx512_bf16")) and "Intel" not in str(capabilities.get("cpu_name", ""))
    return False


def choose_precision(setting: str, device: torch.device, network: str | None = None) -> str:
    """Fabric's name of a precision.

    Args:
        setting: "auto", "fp32" or "bf16".
        device: of the training.
        network: its registered name; on a CPU "auto" is the precision that was measured to be faster for it.

    >>> choose_precision("fp32", torch.device("cpu"))
    '32-true'
    >>> choose_precision("auto", torch.device("cpu"), "efficientnet_b0")
    '32-true'
    """
    if setting == "auto":
        setting = "bf16" if has_fast_bf16(device) else "fp32"
        if setting == "bf16" and device.type == "cpu" and network is not None and network in NETWORKS:
            setting = network_facts(network).cpu_precision
    return {"fp32": "32-true", "bf16": "bf16-mixed"}[setting]
