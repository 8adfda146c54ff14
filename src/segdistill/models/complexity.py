"""What a network costs: parameters, multiply-accumulates and size, counted on the meta device without memory.

The papers name different things "FLOPs". Each convention is one rule table here; a layer that no table
names costs nothing, and neither does a functional call:

========== ============================================================================================
mac        multiply-accumulates of convolutions, transposed convolutions (at the input grid) and linear
           layers; what we report. Half of torch's own FlopCounterMode.
torchstat  convolution and linear MACs plus one per biased output; batch normalisation 2 and activation 1
           per element; pooling 1 per input element; up-sampling 1 per output pixel, whatever its channels;
           transposed convolutions nothing. A module that runs several times counts for its last run.
torchstat_ the same, with batch normalisation counted as nothing: so that tool sees the synchronised one
sync       of old ports, which is no `nn.BatchNorm2d`.
ptflops2   twice the sum of: convolution MACs plus bias, transposed ones at the output grid; batch
           normalisation 2, activation 1; pooling 1 per input element; up-sampling 1 per output element.
thop       convolution MACs plus bias, transposed ones at the output grid; batch normalisation 2; leaky
           ReLU 1, PReLU and ReLU nothing; bilinear up-sampling 11 per output element.
========== ============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from segdistill.errors import InputError
from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network

Rule = Callable[[Any, Tensor, Tensor], int]
"""Cost of one run of a module: (module, its input, its output) -> count for the whole batch."""


@dataclass(frozen=True)
class Complexity:
    """The cost of one forward pass of one image.

    Attributes:
        parameters: learnable scalars, those of layers that never run included.
        macs: the count in the convention of `mode`; multiply-accumulates by default.
        size_mb: parameters and buffers as stored, in MiB (2^20 bytes).
        mode: the convention that counted `macs`.
        unused: parameters of modules that did not run.
    """

    parameters: int
    macs: int
    size_mb: float
    mode: str
    unused: int


def _conv(module: Any, given: Tensor, out: Tensor) -> int:
    return out.numel() * int(prod(module.kernel_size)) * int(module.in_channels) // int(module.groups)


def _conv_bias(module: Any, given: Tensor, out: Tensor) -> int:
    return _conv(module, given, out) + (out.numel() if module.bias is not None else 0)


def _deconv(module: Any, given: Tensor, out: Tensor) -> int:
    return given.numel() * int(prod(module.kernel_size)) * int(module.out_channels) // int(module.groups)


def _deconv_at_output(module: Any, given: Tensor, out: Tensor) -> int:
    return _conv_bias(module, given, out)


def _linear(module: Any, given: Tensor, out: Tensor) -> int:
    return out.numel() * int(module.in_features)


def _linear_bias(module: Any, given: Tensor, out: Tensor) -> int:
    return _linear(module, given, out) + (out.numel() if module.bias is not None else 0)


def _per_output(times: int) -> Rule:
    return lambda module, given, out: times * out.numel()


def _per_input(module: Any, given: Tensor, out: Tensor) -> int:
    return given.numel()


def _pixels(module: Any, given: Tensor, out: Tensor) -> int:
    return out.shape[0] * prod(out.shape[2:])


def _thop_upsample(module: Any, given: Tensor, out: Tensor) -> int:
    return 11 * out.numel() if module.mode == "bilinear" else 0


def _torchstat(norm: int) -> list[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Rule]]:
    return [
        ((nn.Conv2d, nn.Conv3d), _conv_bias),
        (nn.Linear, _linear),
        (nn.BatchNorm2d, _per_output(norm)),
        (RELUS, _per_output(1)),
        (POOLS, _per_input),
        (nn.Upsample, _pixels),
    ]


RELUS = (nn.ReLU, nn.ReLU6, nn.PReLU)
POOLS = (nn.MaxPool2d, nn.AvgPool2d)

MODES: dict[str, list[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Rule]]] = {
    "mac": [((nn.Conv2d, nn.Conv3d), _conv), (nn.ConvTranspose2d, _deconv), (nn.Linear, _linear)],
    "torchstat": _torchstat(norm=2),
    "torchstat_sync": _torchstat(norm=0),
    "ptflops2": [
        ((nn.Conv2d, nn.Conv3d), _conv_bias),
        (nn.ConvTranspose2d, _deconv_at_output),
        (nn.Linear, _linear_bias),
        (nn.BatchNorm2d, _per_output(2)),
        ((*RELUS, nn.LeakyReLU), _per_output(1)),
        ((*POOLS, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), _per_input),
        (nn.Upsample, _per_output(1)),
    ],
    "thop": [
        ((nn.Conv2d, nn.Conv3d), _conv_bias),
        (nn.ConvTranspose2d, _deconv_at_output),
        (nn.Linear, _linear),
        (nn.BatchNorm2d, _per_output(2)),
        (nn.LeakyReLU, _per_output(1)),
        (nn.Upsample, _thop_upsample),
    ],
}
FACTOR = {"ptflops2": 2}


def complexity(
    model: nn.Module | str, input: tuple[int, ...] = (3, 512, 512), mode: str = "mac", **options: Any
) -> Complexity:
    """Counts a network's parameters and the cost of one image, without allocating either.

    Args:
        model: a network, or a name of the registry (built with the input's channels).
        input: (channels, height, width) of the image, or (channels, depth, height, width) of a volume.
        mode: one of `MODES`.
        options: for a name: classes, preset and the network's own options.

    Raises:
        InputError: unknown mode or name, or an input that the network refuses.

    >>> cost = complexity("simplified_unet", (3, 512, 512))
    >>> cost.parameters, round(cost.macs / 1e9, 3), round(cost.size_mb, 2)
    (2162146, 16.429, 8.26)
    """
    if mode not in MODES:
        raise InputError(f"unknown way of counting {mode!r}: choose from {', '.join(MODES)}")
    if len(input) not in (3, 4) or min(input) < 1:
        raise InputError(f"input {input} is not (channels, height, width), each at least 1")
    if isinstance(model, str):
        with shapes_only():
            model = create_network(model, input[0], **options)
    counts: dict[nn.Module, int] = {}
    with _counting(model, mode, counts), torch.no_grad(), shapes_only():
        meta = {key: value.to("meta") for key, value in tensors(model)}
        functional_call(model, meta, (torch.empty(1, *input, device="meta"),), strict=True)
    ran = {id(value) for module in counts for value in module.parameters(recurse=False)}
    parameters = list(model.parameters())
    return Complexity(
        parameters=sum(value.numel() for value in parameters),
        macs=FACTOR.get(mode, 1) * sum(counts.values()),
        size_mb=sum(value.numel() * value.element_size() for _, value in tensors(model)) / 2**20,
        mode=mode,
        unused=sum(value.numel() for value in parameters if id(value) not in ran),
    )


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and stored buffers by name.

    >>> [name for name, _ in tensors(nn.Conv2d(1, 1, 1))]
    ['weight', 'bias']
    """
    return chain(model.named_parameters(), model.named_buffers())


@contextmanager
def _counting(model: nn.Module, mode: str, counts: dict[nn.Module, int]) -> Iterator[None]:
    """Evaluation mode and a hook on every module, both taken back afterwards."""
    last_run_only = mode.startswith("torchstat")

    def count(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        cost = 0
        for kinds, rule in MODES[mode]:
            if isinstance(module, kinds):
                cost = rule(module, cast("Tensor", given[0]), cast("Tensor", out))
                break
        counts[module] = cost if last_run_only else counts.get(module, 0) + cost

    training = [module for module in model.modules() if module.training]
    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
