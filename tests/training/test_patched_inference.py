from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from segdistill.imaging.patches import PatchGrid
from segdistill.imaging.picture import Picture
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.preprocess import Preprocess
from segdistill.training.inference import mask_predictor, scored_predictor


class Brighter(nn.Module):
    """One logit per pixel: positive where the picture is brighter than the middle."""

    def forward(self, image: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=8 * (image[:, :1] - 0.5))


def test_patches_are_predicted_and_put_together() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 44), dtype=np.uint8)
    picture = Picture(pixels, None, Path("a.png"))
    preprocess = Preprocess((20, 20), channels=1, patches=PatchGrid(3, 20))
    post = Postprocess()
    parts = (Brighter(), preprocess, post, torch.device("cpu"))
    assert np.array_equal(mask_predictor(*parts)(picture), pixels >= 128)
    scored = scored_predictor(*parts)(picture)
    assert np.array_equal(scored.mask, pixels >= 128)
    assert np.allclose(scored.score, 1 / (1 + np.exp(-8 * (pixels / 255 - 0.5))), atol=1e-5)
