"""Layers mean the same in networks of different architecture, and say what there is where they fail."""

from __future__ import annotations

import pytest
import torch

from segdistill.distillation.layers import declared_layers, find_layer, parse_layers, pick
from segdistill.distillation.methods.lightvessel import parse_pairs
from segdistill.errors import InputError
from segdistill.models.registry import create_network

STRIDES = {"enc1": 2, "enc2": 4, "enc3": 4, "dec1": 2, "dec2": 4, "dec3": 4, "encoder": 4, "decoder": 2}


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("encoder", "encoder"),
        ("low|enc1", "enc1"),
        ("low|missing|dec@2", "dec1"),
        ("enc@4", "enc3"),  # the end of the level
        ("dec@4", "dec2"),
    ],
)
def test_taps(layer: str, name: str) -> None:
    assert find_layer(layer, STRIDES) == name


def test_a_missing_feature_lists_what_there_is() -> None:
    network = create_network("simplified_unet", widths=[2, 4])
    with pytest.raises(
        InputError, match=r"teacher 't' has no feature 'enc@8': it has enc1 \(stride 1\), enc2"
    ):
        declared_layers(network, ["encoder", "enc@8"], "teacher 't'")
    assert declared_layers(torch.nn.Identity(), ["enc@8"]) == {}


@pytest.mark.parametrize("bad", ["enc", "encx@4", "enc@", "@4", "", "enc@04"])
def test_what_is_no_tap(bad: str) -> None:
    with pytest.raises(InputError, match="has no feature"):
        find_layer(bad, STRIDES)


def test_pick_finds_strides_by_the_sizes_themselves() -> None:
    image = torch.zeros(1, 3, 32, 48)
    features = create_network("unet", widths=[2, 4, 4]).eval()(image).features
    assert pick(features, ["enc@4", "decoder"], image)["enc@4"] is features["enc3"]


@pytest.mark.parametrize("bad", ["encdec", [], [1], [""]])
def test_bad_taps(bad: object) -> None:
    with pytest.raises(InputError, match="attention_transfer: layers"):
        parse_layers("attention_transfer", bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["all", [], [["enc1"]], [2, "x"], [True], [["a", 1]], "pairs"])
def test_bad_pairs(bad: object) -> None:
    with pytest.raises(InputError, match="feature_similarity: layers"):
        parse_pairs(bad)  # type: ignore[arg-type]
