"""Taps: which feature of a network a knowledge reads, in words that fit networks of different architecture.

A tap is the name of a feature ("encoder", "dec1"), or a level by its stride ("enc@4", "dec@4"), or several of these of
which a network uses the first that it has ("low|enc1").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo

PAIRS: dict[str, tuple[str, str]] = {
    "enc_dec": ("encoder", "decoder"),
    "emkd": ("low|enc1", "high|encoder"),
}
"""AMTD's taps: `enc_dec`, the ends of encoder and decoder, as the paper says; `emkd`, the first convolution block and
the end of the backbone, as the code that the paper's experiments come from has it."""


def parse_taps(knowledge: str, taps: str | Sequence[str]) -> tuple[str, ...]:
    """Taps by the name of a pair, or one by one; teacher and student are compared tap by tap.

    >>> parse_taps("attention_transfer", "enc_dec")
    ('encoder', 'decoder')

    Raises:
        InputError: neither.
    """
    if isinstance(taps, str):
        if taps not in PAIRS:
            raise InputError(
                f"{knowledge}: taps '{taps}' is neither {' nor '.join(PAIRS)} "
                "nor a list of features such as [encoder, dec1]"
            )
        return PAIRS[taps]
    found = tuple(taps)
    if not found or not all(isinstance(tap, str) and tap for tap in found):
        raise InputError(f"{knowledge}: taps must be a list of feature names, not {taps!r}")
    return found


def find_tap(tap: str, strides: Mapping[str, int], network: str = "the network") -> str:
    """The name of the feature that a tap means in a network.

    Args:
        tap: see the head of this file. "enc@4" is the deepest encoder level of that stride, "dec@4" the last decoder
            level of it (the finest number: dec1 is the decoder's end).
        strides: name -> stride of every feature that the network has.
        network: its name, for the message.

    Raises:
        InputError: it has no such feature; lists what it has.

    >>> find_tap("low|enc@4", {"enc1": 1, "enc2": 2, "enc3": 4})
    'enc3'
    >>> find_tap("dec9", {"enc1": 1, "dec1": 1}, "teacher")
    Traceback (most recent call last):
    segdistill.errors.InputError: teacher has no feature 'dec9': it has enc1 (stride 1), dec1 (stride 1)
    """
    for choice in tap.split("|"):
        if choice in strides:
            return choice
        kind, at, stride = choice.partition("@")
        levels = [
            int(name.removeprefix(kind))
            for name, own in strides.items()
            if at and str(own) == stride and name.startswith(kind) and name.removeprefix(kind).isdigit()
        ]
        if levels:
            return f"{kind}{max(levels) if kind == 'enc' else min(levels)}"
    has = ", ".join(f"{name} (stride {stride})" for name, stride in strides.items()) or "none"
    raise InputError(f"{network} has no feature '{tap}': it has {has}")


def pick(
    features: Mapping[str, Tensor], taps: Iterable[str], image: Tensor, network: str = "the network"
) -> dict[str, Tensor]:
    """The features that taps mean in an output for an image batch (B, C, H, W), under the taps' own names.

    >>> import torch
    >>> features = {"enc1": torch.zeros(1, 2, 8, 8), "enc2": torch.zeros(1, 4, 4, 4)}
    >>> pick(features, ["enc@2"], torch.zeros(1, 3, 8, 8))["enc@2"].shape
    torch.Size([1, 4, 4, 4])
    """
    strides = {name: round(image.shape[-2] / feature.shape[-2]) for name, feature in features.items()}
    return {tap: features[find_tap(tap, strides, network)] for tap in taps}


def tapped(network: nn.Module, taps: Iterable[str], name: str = "the network") -> dict[str, FeatureInfo]:
    """What a network declares of its tapped features; empty when it declares no features at all.

    Raises:
        InputError: it declares features, and not these.

    >>> from segdistill.models import create_model
    >>> tapped(create_model("simplified_unet", widths=[4, 8]), ["encoder"])["encoder"].channels
    8
    """
    infos = {info.name: info for info in getattr(network, "feature_info", [])}
    if not infos:
        return {}
    strides = {info.name: info.stride for info in infos.values()}
    return {tap: infos[find_tap(tap, strides, name)] for tap in taps}
