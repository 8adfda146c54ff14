"""A trained network as a predictor of masks, in float32, with the pre- and post-processing of the runtime."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segdistill.data.opened import OpenedCase
from segdistill.errors import InputError
from segdistill.imaging.grid import AnyPreprocess, VolumePreprocess, foreground_at, mask_at
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.read import Picture
from segdistill.losses import probabilities
from segdistill.metrics.cases import Scored
from segdistill.models.network import Output
from segdistill.runtime.model_file import ModelInfo
from segdistill.runtime.predictor import require_probability


class Probability(nn.Module):
    """A network that returns class probabilities, for evaluation and export.

    One logit gives one probability (B, 1, H, W) by sigmoid, C logits give (B, C, H, W) by softmax.

    Args:
        network: gives logits.
        of: logits (B, C, ...) -> probabilities (B, max(C, 2), ...).
    """

    def __init__(self, network: nn.Module, of: Callable[[Tensor], Tensor] = probabilities) -> None:
        super().__init__()
        self.network, self._of = network, of

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probabilities for a batch of normalised images (B, C, H, W)."""
        return self.mask(self.network(image).logits)

    def mask(self, logits: Tensor) -> Tensor:
        """The probabilities of logits."""
        return self._of(logits)[:, 1:] if logits.shape[1] == 1 else self._of(logits)


class MaskAndClass(Probability):
    """A joint network that returns probabilities: of each pixel's class, and of the whole image's."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Probabilities (B, C, H, W) and (B, K) for a batch of normalised images."""
        output = self.network(image)
        return self.mask(output.logits), output.label.float().softmax(dim=1)


class TorchEngine:
    """A network in torch as `runtime.predictor.Predictor` needs it: on the CPU, in float32.

    Args:
        network: is moved to the CPU and set to eval mode.
        info: its pre- and post-processing, and the names of its classes.
    """

    def __init__(self, network: nn.Module, info: ModelInfo) -> None:
        self.info = info
        self._both = (MaskAndClass if info.labels else Probability)(network).eval().cpu()

    def run_both(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Normalised images (B, C, H, W) -> probabilities (B, K, H, W) and (B, labels), or None without labels."""
        with torch.inference_mode():
            found = self._both(torch.from_numpy(batch))
        mask, label = found if isinstance(found, tuple) else (found, None)
        return mask.numpy(), None if label is None else label.numpy()


def mask_predictor(
    network: nn.Module, preprocess: AnyPreprocess, postprocess: Postprocess, device: torch.device
) -> Callable[[Picture], NDArray[np.uint8]]:
    """A function from a picture to its mask (H, W) at the picture's own size; the network is set to eval mode.

    Of a network of volumes it is a `WholeVolumes`.
    """
    scored = scored_predictor(network, preprocess, postprocess, device, scores=False)
    if isinstance(scored, WholeVolumes):
        return scored
    return lambda picture: scored(picture).mask


def scored_predictor(
    network: nn.Module,
    preprocess: AnyPreprocess,
    postprocess: Postprocess,
    device: torch.device,
    scores: bool = True,
) -> Callable[[Picture], Any]:
    """As `mask_predictor`, with the probability of foreground (H, W) beside the mask, for AUC and rmse_map.

    The predictor raises InputError where the network's output holds NaN or infinite values.
    """
    if isinstance(preprocess, VolumePreprocess):
        return WholeVolumes(network, preprocess, postprocess, device, scores)
    probability = Probability(network).eval().to(device)

    def predict(picture: Picture) -> Scored:
        images = torch.from_numpy(preprocess.inputs(picture.pixels)).to(device)
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            predicted = probability(images).float().cpu().numpy()
        require_probability(predicted, "the mask")
        whole = preprocess.join(predicted, picture.size)
        mask = postprocess.mask(whole, picture.size)
        return Scored(mask, postprocess.foreground(whole, picture.size) if scores else mask)

    return predict


class WholeVolumes:
    """A network of volumes as a predictor of whole cases: `metrics.cases.predict_case` gives it volumes, not slices."""

    def __init__(
        self,
        network: nn.Module,
        preprocess: VolumePreprocess,
        postprocess: Postprocess,
        device: torch.device,
        scores: bool = False,
    ) -> None:
        self.preprocess, self.postprocess, self.device, self.scores = preprocess, postprocess, device, scores
        self._probability = Probability(network).eval().to(device)

    def __call__(self, picture: Picture) -> NDArray[np.uint8]:
        """Always an InputError: a picture is no volume."""
        raise InputError(f"{picture.source}: is a picture or a slice, and this network takes whole volumes")

    def volume(self, opened: OpenedCase) -> NDArray[np.uint8] | Scored:
        """The mask of a volume (D, H, W), at its own shape; with `scores` the probability of foreground beside it.

        Raises:
            InputError: a picture, or an output with NaN or infinite values.
        """
        prepared = self.preprocess.prepare(opened.levels(), opened.spacing_mm)
        shape = (len(opened), *opened.size)
        if not self.scores:
            return mask_at(self.preprocess.planes(prepared, self._run), shape, self.postprocess)
        probability = self.preprocess.predict(prepared, self._run)
        mask = mask_at(probability, shape, self.postprocess)
        return Scored(mask, foreground_at(probability, shape, self.postprocess))

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            predicted = self._probability(torch.from_numpy(batch).to(self.device)).float().cpu().numpy()
        return require_probability(predicted, "the mask")


def milliseconds_per_image(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> float:
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


def grad_cam(
    network: nn.Module, image: Tensor, classes: Tensor | None = None, feature: str = "encoder"
) -> Tensor:
    """Class activation of each image: ReLU of the sum of the feature's channels, weighted by the class's mean gradient.

    Source: Selvaraju et al. 2017, Eq. 1 and 2. "encoder" is the end of a ResNet's last stage, as in LA-Net.

    Args:
        network: in eval mode; returns a label.
        image: (B, C, H, W).
        classes: (B,) classes to explain; None for the predicted ones.
        feature: name of a feature of the network's output.

    Returns:
        (B, H, W) in [0, 1]: bilinearly enlarged, divided by its largest value; zero if no position supports the class.

    Raises:
        InputError: the network has no label or no such feature, or the label does not depend on it.

    >>> from segdistill.models.registry import create_network
    >>> grad_cam(create_network("resnet18", base=4).eval(), torch.rand(1, 3, 64, 64)).shape
    torch.Size([1, 64, 64])
    """
    with torch.enable_grad():
        output: Output = network(image.detach().requires_grad_(True))  # also where all weights are frozen
        if output.label is None or feature not in output.features:
            raise InputError(f"Grad-CAM needs a network with a label and a feature '{feature}'")
        chosen = output.label.argmax(dim=1) if classes is None else classes
        score = output.label.gather(1, chosen[:, None]).sum()
        activation = output.features[feature]
        (gradient,) = torch.autograd.grad(score, activation, allow_unused=True)
    if gradient is None:
        raise InputError(
            f"Grad-CAM: the label does not depend on the feature '{feature}': choose another one"
        )
    weight = gradient.mean(dim=(2, 3), keepdim=True)
    seen = (weight * activation).sum(dim=1, keepdim=True).detach().relu().float()
    wide = F.interpolate(seen, size=tuple(image.shape[2:]), mode="bilinear", align_corners=False)[:, 0]
    return wide / wide.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def share_inside(maps: Tensor, mask: Tensor) -> Tensor:
    """Share of a map's sum that lies in the mask: (B, H, W) each -> (B,); NaN where the map is empty.

    >>> share_inside(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1, 0]]])).tolist()
    [0.75]
    """
    inside = (maps * (mask > 0)).flatten(1).sum(dim=1)
    return inside / maps.flatten(1).sum(dim=1)
