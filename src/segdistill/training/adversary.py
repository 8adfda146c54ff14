"""From settings to losses and discriminators that fit a generator."""

from __future__ import annotations

import torch
from torch import nn

from segdistill.errors import InputError
from segdistill.losses.adversarial import MultiStageLoss
from segdistill.models.discriminator import SMALLEST, MultiScaleDiscriminator
from segdistill.models.output import Output
from segdistill.training.adversarial_settings import AdversarialSettings

Shape = tuple[int, int, int]


def stage_shapes(network: nn.Module, in_channels: int, size: tuple[int, int]) -> list[Shape]:
    """(classes, height, width) of the logits of every supervised stage, finest first.

    Args:
        network: on the meta device, where a run costs nothing.
        in_channels: of the image.
        size: (height, width) of the image.

    Raises:
        InputError: the network does not segment.

    >>> from segdistill.models import create_model
    >>> with torch.device("meta"):
    ...     network = create_model("us_unet", in_channels=1, classes=1, widths=[2, 4, 4])
    >>> stage_shapes(network, 1, (64, 64))
    [(1, 64, 64), (1, 32, 32)]
    """
    with torch.no_grad():
        output: Output = network.eval()(torch.zeros(1, in_channels, *size, device="meta"))
    if output.logits is None:
        raise InputError("adversarial training needs a network that segments")
    return [
        (int(one.shape[1]), int(one.shape[2]), int(one.shape[3])) for one in (output.logits, *output.deep)
    ]


def make_loss(settings: AdversarialSettings, stages: int) -> MultiStageLoss:
    """The loss for a network with so many supervised stages.

    Raises:
        InputError: another number of stages is used than the network has, or a stage has no weight.

    >>> make_loss(AdversarialSettings(adv_stages=1), 4).beta
    (0.05,)
    """
    dice = stages if settings.dice_stages is None else settings.dice_stages
    adversarial = stages if settings.adv_stages is None else settings.adv_stages
    wanted = max(dice, adversarial)
    if wanted > stages:
        raise InputError(f"its network has {stages} supervised stages, and adversarial asks for {wanted}")
    if wanted < stages:
        raise InputError(
            f"its network has {stages} supervised stages, and adversarial uses {wanted}, so that the other heads would "
            f"never be trained: set model.stages to {wanted} (us_unet), or adversarial.dice_stages to {stages}"
        )
    for name, weights, count in (("alpha", settings.alpha, dice), ("beta", settings.beta, adversarial)):
        if len(weights) < count:
            raise InputError(
                f"adversarial.{name} has {len(weights)} weights for {count} stages: give one each"
            )
    return MultiStageLoss(
        settings.alpha[:dice], settings.beta[:adversarial], settings.gan, settings.condition, settings.native
    )


def seen_sizes(
    settings: AdversarialSettings, shapes: list[Shape], size: tuple[int, int]
) -> list[tuple[int, int]]:
    """(height, width) of the maps that each discriminator sees, finest first; as `make_discriminators`.

    >>> seen_sizes(AdversarialSettings(native=True), [(1, 64, 64), (1, 32, 32)], (64, 64))
    [(64, 64), (32, 32)]
    """
    count = len(make_loss(settings, len(shapes)).beta)
    return [shape[1:] if settings.native else size for shape in shapes[:count]]


def make_discriminators(
    settings: AdversarialSettings, shapes: list[Shape], channels: int, size: tuple[int, int]
) -> MultiScaleDiscriminator | None:
    """One discriminator per adversarial term; None where there is none.

    Args:
        settings: of the stage.
        shapes: of `stage_shapes`.
        channels: of the image.
        size: (height, width) of the image.

    Raises:
        InputError: a discriminator would see maps too small for its five convolutions; as `make_loss`.

    >>> make_discriminators(AdversarialSettings(native=True), [(1, 64, 64), (1, 16, 16)], 1, (64, 64))
    Traceback (most recent call last):
    segdistill.errors.InputError: discriminator 2 would see maps of 16x16 and needs 32x32 at least: set a larger ...
    """
    count = len(make_loss(settings, len(shapes)).beta)
    if not count:
        return None
    for stage, (height, width) in enumerate(seen_sizes(settings, shapes, size), 1):
        if min(height, width) < SMALLEST:
            advice = "a larger size or native: false" if settings.native else "a larger size"
            raise InputError(
                f"discriminator {stage} would see maps of {height}x{width} and needs {SMALLEST}x{SMALLEST} at least: "
                f"set {advice}"
            )
    foreground = max(shapes[0][0], 2) - 1
    takes = {"map": foreground, "masked_image": foreground * channels, "concat": channels + foreground}
    return MultiScaleDiscriminator(takes[settings.condition], levels=count, width=settings.width)
