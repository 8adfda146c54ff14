"""What every network returns: logits and named features, in a form that export and DDP understand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

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
    """Names per-level values the way all networks do: enc1.., dec1.. (finest first), "encoder" and "decoder".

    Args:
        encoder: one value per level, finest first; the last becomes "encoder" too.
        decoder: one value per level, finest first; the first becomes "decoder" too. A classifier has none.
        further: values with names of their own, such as the "low" and "high" that AMTD taps.

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
