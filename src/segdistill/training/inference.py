"""A trained network as a predictor of masks, in float32, with the pre- and post-processing that the runtime uses."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segdistill.evaluation.results import Scored
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.preprocess import Preprocess
from segdistill.imaging.read import Picture
from segdistill.losses import probabilities


class Probability(nn.Module):
    """A network reduced to class probabilities: what is exported and what is evaluated.

    One logit gives one probability (B, 1, H, W) by sigmoid, C logits give (B, C, H, W) by softmax.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probabilities for a batch of normalised images (B, C, H, W)."""
        logits = self.network(image).logits
        return probabilities(logits)[:, 1:] if logits.shape[1] == 1 else probabilities(logits)


class MaskAndClass(Probability):
    """A joint network reduced to probabilities: of every pixel's class, and of the whole image's."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Probabilities (B, C, H, W) and (B, K) for a batch of normalised images."""
        output = self.network(image)
        mask = probabilities(output.logits)
        mask = mask[:, 1:] if output.logits.shape[1] == 1 else mask
        return mask, output.label.float().softmax(dim=1)


def mask_predictor(
    network: nn.Module, preprocess: Preprocess, postprocess: Postprocess, device: torch.device
) -> Callable[[Picture], NDArray[np.uint8]]:
    """A function from a picture to its mask (H, W) at the picture's own size; the network is set to eval mode."""
    scored = scored_predictor(network, preprocess, postprocess, device, scores=False)
    return lambda picture: scored(picture).mask


def scored_predictor(
    network: nn.Module,
    preprocess: Preprocess,
    postprocess: Postprocess,
    device: torch.device,
    scores: bool = True,
) -> Callable[[Picture], Scored]:
    """As `mask_predictor`, with the probability of foreground (H, W) beside the mask, for AUC and rmse_map."""
    probability = Probability(network).eval().to(device)

    def predict(picture: Picture) -> Scored:
        images = torch.from_numpy(preprocess.inputs(picture.pixels)).to(device)
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            answers = probability(images).float().cpu().numpy()
        answer = preprocess.join(answers, picture.size)
        mask = postprocess.mask(answer, picture.size)
        return Scored(mask, postprocess.foreground(answer, picture.size) if scores else mask)

    return predict


def milliseconds_per_image(network: nn.Module, shape: tuple[int, int, int], device: torch.device) -> float:
    """Median time of five float32 forward passes of one image (C, H, W) after one warm-up."""
    network = network.eval().to(device)
    image = torch.zeros(1, *shape, device=device)
    times = []
    with torch.inference_mode():
        for _ in range(6):
            began = time.perf_counter()
            network(image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[1:])
