"""Which precision a machine computes in: asked once, written into the run."""

from __future__ import annotations

import torch

from segdistill.models.registry import MODELS


def has_fast_bf16(device: torch.device) -> bool:
    """True where bf16 matrix products run in hardware.

    >>> isinstance(has_fast_bf16(torch.device("cpu")), bool)
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(
            capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
        )
    return False


def choose_precision(setting: str, device: torch.device, network: str | None = None) -> str:
    """The name that Fabric knows for "auto", "fp32" or "bf16".

    Args:
        setting: of the recipe.
        device: what computes.
        network: registered name of what is trained: on a CPU `auto` is what was measured to be faster for it.

    >>> choose_precision("fp32", torch.device("cpu"))
    '32-true'
    >>> choose_precision("auto", torch.device("cpu"), "efficientnet_b0")
    '32-true'
    """
    if setting == "auto":
        setting = "bf16" if has_fast_bf16(device) else "fp32"
        if setting == "bf16" and device.type == "cpu" and network in MODELS:
            setting = MODELS[network].cpu_precision
    return {"fp32": "32-true", "bf16": "bf16-mixed"}[setting]
