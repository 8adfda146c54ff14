"""Layers: the features that a method reads, named so that one name fits networks of different architecture.

A layer is the name of a feature ("encoder", "dec1"), a level by its stride ("enc@4", "dec@4"), or a choice of these, of
which the first that the network has is used ("low|enc1").
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
"""AMTD's layers: `enc_dec`, the ends of encoder and decoder, as in the paper; `emkd`, the first convolution block and
the end of the backbone, as in the code that its experiments are based on."""


def parse_layers(method: str, layers: str | Sequence[str]) -> tuple[str, ...]:
    """The layers of an option: the name of a pair, or a list. `method` is its name in messages.

    >>> parse_layers("attention_transfer", "enc_dec")
    ('encoder', 'decoder')

    Raises:
        InputError: neither of these.
    """
    if isinstance(layers, str):
        if layers not in PAIRS:
            raise InputError(
                f"{method}: layers '{layers}' is neither {' nor '.join(PAIRS)} "
                "nor a list of features such as [encoder, dec1]"
            )
        return PAIRS[layers]
    found = tuple(layers)
    if not found or not all(isinstance(layer, str) and layer for layer in found):
        raise InputError(f"{method}: layers must be a list of feature names, not {layers!r}")
    return found


def find_layer(layer: str, strides: Mapping[str, int], network: str = "the network") -> str:
    """The name of the feature that a layer means in a network.

    Args:
        layer: see the top of this file. "enc@4" is the deepest encoder level of stride 4, "dec@4" the last decoder
            level of it (the smallest number: dec1 is the decoder's end).
        strides: name -> stride of every feature of the network.
        network: its name, for messages.

    Raises:
        InputError: the network has no such feature; the message lists its features.

    >>> find_layer("low|enc@4", {"enc1": 1, "enc2": 2, "enc3": 4})
    'enc3'
    >>> find_layer("dec9", {"enc1": 1, "dec1": 1}, "teacher")
    Traceback (most recent call last):
    segdistill.errors.InputError: teacher has no feature 'dec9': it has enc1 (stride 1), dec1 (stride 1)
    """
    for choice in layer.split("|"):
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
    raise InputError(f"{network} has no feature '{layer}': it has {has}")


def pick(
    features: Mapping[str, Tensor], layers: Iterable[str], image: Tensor, network: str = "the network"
) -> dict[str, Tensor]:
    """The features that layers mean in the output for an image batch (B, C, H, W), under the layers' own names.

    >>> import torch
    >>> features = {"enc1": torch.zeros(1, 2, 8, 8), "enc2": torch.zeros(1, 4, 4, 4)}
    >>> pick(features, ["enc@2"], torch.zeros(1, 3, 8, 8))["enc@2"].shape
    torch.Size([1, 4, 4, 4])
    """
    strides = {name: round(image.shape[-2] / feature.shape[-2]) for name, feature in features.items()}
    return {layer: features[find_layer(layer, strides, network)] for layer in layers}


def declared_layers(
    network: nn.Module, layers: Iterable[str], name: str = "the network"
) -> dict[str, FeatureInfo]:
    """What a network declares of the features that layers mean; empty if it declares no features at all.

    Raises:
        InputError: it declares features, but not these.

    >>> from segdistill.models.registry import create_network
    >>> declared_layers(create_network("simplified_unet", widths=[4, 8]), ["encoder"])["encoder"].channels
    8
    """
    infos = {info.name: info for info in getattr(network, "feature_info", [])}
    if not infos:
        return {}
    strides = {info.name: info.stride for info in infos.values()}
    return {layer: infos[find_layer(layer, strides, name)] for layer in layers}
