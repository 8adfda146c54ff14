"""Grad-CAM: which part of an image speaks for its class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.output import Output


def grad_cam(
    network: nn.Module, image: Tensor, classes: Tensor | None = None, feature: str = "encoder"
) -> Tensor:
    """Class activation of each image: ReLU of the feature's channels, weighed by the mean gradient of the class.

    Source: Selvaraju et al. 2017, Eq. 1 and 2. "encoder" is the end of a ResNet's last stage, as LA-Net shows it.

    Args:
        network: in eval mode; returns a label.
        image: (B, C, H, W).
        classes: (B,) which class is explained; None: the predicted one.
        feature: name of a feature of the network's output.

    Returns:
        (B, H, W) in [0, 1]: bilinearly enlarged, divided by its largest value; zero where nothing speaks for it.

    Raises:
        InputError: the network has no label or no such feature, or the label does not depend on it.

    >>> from segdistill.models import create_model
    >>> grad_cam(create_model("resnet18", base=4).eval(), torch.rand(1, 3, 64, 64)).shape
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
        raise InputError(f"Grad-CAM: the label does not depend on the feature '{feature}'")
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
