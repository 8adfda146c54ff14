"""The base of every network: its declared features, its output, and the check of its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segdistill.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class FeatureInfo(NamedTuple):
    """One named feature of a network: its channels, and its stride (input pixels per feature pixel).

    >>> FeatureInfo("encoder", 1024, 16).stride
    16
    """

    name: str
    channels: int
    stride: int


class Output(NamedTuple):
    """The output of a network for a batch of B images of H x W pixels.

    Attributes:
        logits: (B, C, H, W) before softmax (or before sigmoid when C is 1); None for a classifier.
        features: name -> (B, channels, H / stride, W / stride), as declared by the network's `feature_info`.
        deep: (B, C, h, w) logits of further supervised levels, finest first, at the image's size or the
            level's own; empty for most networks.
        label: (B, K) logits of the whole image; None for a network that only segments.

    >>> Output(logits=None, features={}).deep
    ()
    """

    logits: Tensor | None
    features: dict[str, Tensor]
    deep: Sequence[Tensor] = ()
    label: Tensor | None = None


class _HasLevels(Protocol):
    """An encoder that gives one map per level, finest first."""

    channels: list[int]
    strides: list[int]


def levels_of(encoder: _HasLevels) -> list[tuple[int, int]]:
    """(channels, stride) of each map of an encoder, finest first."""
    return list(zip(encoder.channels, encoder.strides, strict=True))


def pyramid(encoder: Sequence[T], decoder: Sequence[T] = (), **further: T) -> dict[str, T]:
    """Names per-level values as all networks do: enc1.., dec1.. (finest first), "encoder" and "decoder".

    Args:
        encoder: one value per level, finest first; the last becomes "encoder" too.
        decoder: one value per level, finest first; the first becomes "decoder" too. A classifier has none.
        further: values with names of their own, such as "low" and "high", which AMTD reads.

    >>> pyramid(["a", "b"], ["c"])
    {'enc1': 'a', 'enc2': 'b', 'dec1': 'c', 'encoder': 'b', 'decoder': 'c'}
    """
    named = {f"enc{i}": value for i, value in enumerate(encoder, 1)}
    named |= {f"dec{i}": value for i, value in enumerate(decoder, 1)}
    named["encoder"] = encoder[-1]
    if decoder:
        named["decoder"] = decoder[0]
    return named | further


def pyramid_info(
    encoder: Sequence[tuple[int, int]], decoder: Sequence[tuple[int, int]] = (), **further: tuple[int, int]
) -> list[FeatureInfo]:
    """The `feature_info` that belongs to `pyramid`: (channels, stride) per level, finest first.

    >>> pyramid_info([(16, 1), (32, 2)], [(16, 1)])[-1]
    FeatureInfo(name='decoder', channels=16, stride=1)
    """
    named = pyramid(encoder, decoder, **further)
    return [FeatureInfo(name, channels, stride) for name, (channels, stride) in named.items()]


class Network(nn.Module):
    """A network with a declared contract: (B, in_channels, H, W) in, or (B, in_channels, D, H, W); `Output` out.

    Attributes:
        in_channels: channels of the input image.
        classes: channels of the logits (1: one sigmoid logit; otherwise softmax over the class axis 1).
        size_divisor: H and W of the input must be multiples of it; 1 when any size works.
        smallest: the smallest H and W that it takes, in pixels.
        feature_info: name, channels and stride of each entry of `Output.features`.
        dimensions: 2 for pictures, 3 for volumes.

    >>> Network(in_channels=1, classes=2, size_divisor=4).check(torch.zeros(1, 1, 10, 12))
    Traceback (most recent call last):
    ...
    segdistill.errors.InputError: height 10 is not a multiple of 4: pad to 12
    """

    feature_info: list[FeatureInfo]

    def __init__(
        self, in_channels: int, classes: int, size_divisor: int = 1, smallest: int = 1, dimensions: int = 2
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        require_positive(in_channels=in_channels, classes=classes, smallest=smallest)
        self.in_channels = in_channels
        self.classes = classes
        self.size_divisor = size_divisor
        self.smallest = smallest
        self.feature_info = []

    def check(self, image: Tensor) -> None:
        """Refuses a batch that the network cannot take; checks nothing while the network is exported or compiled.

        Raises:
            InputError: another number of axes or channels, a size that is too small or not a multiple of
                `size_divisor`, or (in training) one image so small that batch normalisation has a single value.
        """
        if torch.compiler.is_compiling():
            return
        axes = ("depth", "height", "width")[-self.dimensions :]
        if image.ndim != 2 + self.dimensions:
            raise InputError(
                f"an image batch has the axes (batch, channels, {', '.join(axes)}): got {tuple(image.shape)}"
            )
        if image.shape[1] != self.in_channels:
            raise InputError(
                f"image has {image.shape[1]} channels, the network takes {self.in_channels}: "
                f"prepare such images or build it with in_channels={image.shape[1]}"
            )
        for axis, size in zip(axes, map(int, image.shape[2:]), strict=True):
            if size % self.size_divisor:
                fits = -(-size // self.size_divisor) * self.size_divisor
                raise InputError(f"{axis} {size} is not a multiple of {self.size_divisor}: pad to {fits}")
            if size < self.smallest:
                raise InputError(
                    f"{axis} {size} is too small: this network needs at least {self.smallest} pixels"
                )
        if self.training and image.shape[0] == 1 and self.feature_info and self.dimensions == 2:
            deepest = max(info.stride for info in self.feature_info)
            if max(image.shape[2:]) <= deepest:
                raise InputError(
                    f"one image of {image.shape[2]} x {image.shape[3]} leaves batch normalisation "
                    f"a single value at stride {deepest}: train with larger images or at least two per batch"
                )


class PooledNetwork(Network):
    """A network that normalises a map of one cell per image, and so cannot train on one image at a time."""

    def check(self, image: Tensor) -> None:
        """As `Network.check`; in training it also refuses a batch of one."""
        super().check(image)
        if self.training and image.shape[0] == 1 and not torch.compiler.is_compiling():
            raise InputError(
                "one image leaves batch normalisation a single value in the branch that pools the whole "
                "image: train with at least two per batch"
            )


_DRAWN = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"}
_SHAPE_KEPT = {
    *("batch_norm", "instance_norm", "group_norm", "layer_norm", "dropout", "softmax", "sigmoid"),
    *("relu", "relu_", "relu6", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu"),
}


class _Uncomputed(TorchFunctionMode):
    """Leaves out what changes no shape, and random first weights: on the meta device torch works many of them out in
    Python, for seconds.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _DRAWN:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if name in _SHAPE_KEPT and args:
            return args[0]
        if name == "interpolate":  # the nearest pixel gives the same shape, in a twentieth of the time
            given = {"scale_factor", "size", "input"}
            return func(*args[:3], **{key: value for key, value in kwargs.items() if key in given})
        return func(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Networks that are made inside have shapes and no weights, so they take no memory and next to no time.

    >>> from segdistill.models.registry import create_network
    >>> with shapes_only():
    ...     network = create_network("unet", widths=[2, 4])
    >>> next(network.parameters()).is_meta
    True
    """
    with torch.device("meta"), _Uncomputed():
        yield


def require_positive(**values: int) -> None:
    """Refuses a count below one, by its name.

    >>> require_positive(classes=0)
    Traceback (most recent call last):
    ...
    segdistill.errors.InputError: classes is 0: it must be at least 1
    """
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} is {value}: it must be at least 1")


def require_share(**values: float) -> None:
    """Refuses a share below zero, or of one and more, by its name.

    >>> require_share(dropout=1.0)
    Traceback (most recent call last):
    ...
    segdistill.errors.InputError: dropout is 1.0: it must be at least 0 and below 1
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise InputError(f"{name} is {value}: it must be at least 0 and below 1")


def require_widths(widths: tuple[int, ...], levels: int | None = None) -> None:
    """Refuses channel widths that make no network: too few levels, or a width below one.

    Args:
        widths: channels per level, finest first.
        levels: the exact number of levels, or None for any number from two.

    >>> require_widths((16, 0))
    Traceback (most recent call last):
    ...
    segdistill.errors.InputError: widths has a 0: every level needs at least 1 channel
    """
    if levels is not None and len(widths) != levels:
        raise InputError(f"widths has {len(widths)} levels: this network needs {levels}")
    if len(widths) < 2:
        raise InputError(f"widths has {len(widths)} levels: give at least 2")
    if min(widths) < 1:
        raise InputError(f"widths has a {min(widths)}: every level needs at least 1 channel")
