"""The adversarial task: a generator of masks and its discriminators, two players with an optimiser each (US-SEG)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from segdistill.errors import InputError
from segdistill.losses.adversarial import MultiStageLoss, discriminator_loss
from segdistill.losses.dice import DiceLoss
from segdistill.models.discriminator import SMALLEST, MultiScaleDiscriminator
from segdistill.models.network import Output
from segdistill.training.settings import AdversarialSettings
from segdistill.training.task import Batch, Trainee, validate_segmentation

Shape = tuple[int, int, int]


def stage_shapes(network: nn.Module, in_channels: int, size: tuple[int, int]) -> list[Shape]:
    """(classes, height, width) of the logits of every supervised stage, finest first.

    Args:
        network: on the meta device, where a forward pass costs nothing.
        in_channels: of the image.
        size: (height, width) of the image.

    Raises:
        InputError: the network does not segment.

    >>> from segdistill.models.network import shapes_only
    >>> from segdistill.models.registry import create_network
    >>> with shapes_only():
    ...     network = create_network("us_unet", in_channels=1, classes=1, widths=[2, 4, 4])
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
        InputError: the settings use another number of stages than the network has, or a stage has no weight.

    >>> make_loss(AdversarialSettings(adv_stages=1), 4).beta
    (0.05,)
    """
    dice = stages if settings.dice_stages is None else settings.dice_stages
    adversarial = stages if settings.adv_stages is None else settings.adv_stages
    wanted = max(dice, adversarial)
    if wanted > stages:
        raise InputError(
            f"adversarial uses {wanted} stages, but the network has {stages} supervised ones: lower "
            "adversarial.dice_stages and adv_stages"
        )
    if wanted < stages:
        raise InputError(
            f"adversarial uses {wanted} stages, but the network has {stages} supervised ones, whose other heads would "
            f"not be trained: set model.stages to {wanted} (us_unet), or adversarial.dice_stages to {stages}"
        )
    for name, weights, count in (("alpha", settings.alpha, dice), ("beta", settings.beta, adversarial)):
        if len(weights) < count:
            raise InputError(
                f"adversarial.{name} has {len(weights)} weights for {count} stages: give one for each"
            )
    return MultiStageLoss(
        settings.alpha[:dice],
        settings.beta[:adversarial],
        settings.gan,
        settings.condition,
        settings.native_size,
    )


def discriminator_sizes(
    settings: AdversarialSettings, shapes: list[Shape], size: tuple[int, int]
) -> list[tuple[int, int]]:
    """(height, width) of the input maps of each discriminator, finest first; raises as `make_discriminators`.

    >>> discriminator_sizes(AdversarialSettings(native_size=True), [(1, 64, 64), (1, 32, 32)], (64, 64))
    [(64, 64), (32, 32)]
    """
    count = len(make_loss(settings, len(shapes)).beta)
    return [shape[1:] if settings.native_size else size for shape in shapes[:count]]


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
        InputError: a map is too small for the five convolutions of a discriminator; as `make_loss`.

    >>> make_discriminators(AdversarialSettings(native_size=True), [(1, 64, 64), (1, 16, 16)], 1, (64, 64))
    Traceback (most recent call last):
    segdistill.errors.InputError: the maps of discriminator 2 are 16x16, but must be at least 32x32: set a larger ...
    """
    count = len(make_loss(settings, len(shapes)).beta)
    if not count:
        return None
    for stage, (height, width) in enumerate(discriminator_sizes(settings, shapes, size), 1):
        if min(height, width) < SMALLEST:
            advice = "a larger size or native_size: false" if settings.native_size else "a larger size"
            raise InputError(
                f"the maps of discriminator {stage} are {height}x{width}, but must be at least {SMALLEST}x{SMALLEST}: "
                f"set {advice}"
            )
    foreground = max(shapes[0][0], 2) - 1
    takes = {"map": foreground, "masked_image": foreground * channels, "concat": channels + foreground}
    return MultiScaleDiscriminator(takes[settings.condition], levels=count, width=settings.width)


GENERATOR, DISCRIMINATORS = "generator", "discriminators"


class _Discriminators(Trainee):
    """All discriminators as one player: gradient exchange needs one call for both kinds of maps."""

    def forward(  # type: ignore[override]
        self, references: Sequence[Tensor], predictions: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (B,) per stage for references and for predictions, each batch normalised by itself."""
        return self.network(references), self.network(predictions)


class _Predicted(NamedTuple):
    """One forward pass of the generator, for both turns."""

    image: Tensor
    maps: list[Tensor]
    references: list[Tensor]


class Adversarial:
    """Discriminators learn from references and predictions, then the generator from the frozen discriminators.

    The generator runs once for both turns: the discriminators get its maps detached, its own turn with their graph.
    With several batches per step the graphs of all of them would need memory at once, so then the discriminators' turn
    runs it without a graph and without changing the statistics of its batch norms.

    Args:
        network: the generator; `Output.deep` holds the logits of its coarser stages. It is validated and saved.
        discriminators: a list of maps -> a list of logits (B,), one per adversarial term of the loss; None for none.
        loss: Dice and adversarial terms with their weights.
        accumulate: batches per optimiser step.
        precision: dtype of passes that bypass the players' wrappers, by autocast; None leaves it as it is.

    The curves have, per stage n: real_n and predicted_n, the mean probability of being a reference that discriminator n
    gives to references and predictions, and accuracy_n, its accuracy; and of the generator `area`, the mean share of an
    image that is predicted as foreground, and `area_spread`, its standard deviation within a batch (read by
    training/saturation.py).

    >>> from segdistill.models.registry import create_network
    >>> network = create_network("us_unet", in_channels=1, classes=1, widths=[2, 4, 4])
    >>> discriminators = create_network("multi_scale_discriminator", 1, levels=2, width=2)
    >>> task = Adversarial(network, discriminators, MultiStageLoss(alpha=(1.0, 0.1), beta=(0.05, 0.05)))
    >>> task.turns
    ('discriminators', 'generator')
    """

    def __init__(
        self,
        network: nn.Module,
        discriminators: nn.Module | None,
        loss: MultiStageLoss,
        accumulate: int = 1,
        precision: torch.dtype | None = None,
    ) -> None:
        if (discriminators is None) != (not loss.beta):
            raise InputError("there must be one discriminator for each adversarial term, and none without")
        self.players: dict[str, nn.Module] = {GENERATOR: Trainee(network)}
        self.turns: tuple[str, ...] = (GENERATOR,)
        if discriminators is not None:
            self.players[DISCRIMINATORS] = _Discriminators(discriminators)
            self.turns = (DISCRIMINATORS, GENERATOR)
        self.loss, self.precision, self.reuse = loss, precision, accumulate == 1
        self._network, self._discriminators = network, discriminators
        self._validation = DiceLoss(squared=False)
        self._kept: _Predicted | None = None

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """The player's loss with its parts before their weights."""
        return self._discriminate(batch) if player == DISCRIMINATORS else self._generate(batch)

    def _discriminate(self, batch: Batch) -> dict[str, Tensor]:
        predicted = self._predict(batch, keep=self.reuse)
        if self.reuse:
            self._kept = predicted
        maps = [one.detach() for one in predicted.maps]
        real, fake = self.players[DISCRIMINATORS](
            self.loss.inputs(predicted.references, predicted.image), self.loss.inputs(maps, predicted.image)
        )
        parts, total = {}, maps[0].new_zeros(())
        for n, (on_real, on_fake) in enumerate(zip(real, fake, strict=True), 1):
            total = total + discriminator_loss(on_real, on_fake)
            correct = torch.cat([on_real.detach() > 0, on_fake.detach() < 0])
            parts[f"real_{n}"] = on_real.detach().float().sigmoid().mean()
            parts[f"predicted_{n}"] = on_fake.detach().float().sigmoid().mean()
            parts[f"accuracy_{n}"] = correct.float().mean()
        return {"loss": total, **parts}

    def _generate(self, batch: Batch) -> dict[str, Tensor]:
        kept, self._kept = self._kept, None
        if kept is None or kept.image is not batch["image"]:
            kept = self._predict(batch, keep=True)
        logits = self._frozen(self.loss.inputs(kept.maps, kept.image)) if self.loss.beta else []
        parts = self.loss.generator(kept.maps, kept.references, logits)
        return parts | predicted_areas(kept.maps[0].detach())

    def _predict(self, batch: Batch, keep: bool) -> _Predicted:
        """Maps of every stage; with `keep` through the player, with graph and statistics."""
        image, target = batch["image"], batch["mask"]
        # train mode: validation left the player in eval mode
        output: Output = self.players[GENERATOR].train()(image) if keep else self._without_trace(image)
        if output.logits is None:
            raise InputError("adversarial training needs a network that segments")
        height, width = target.shape[1:]
        maps = self.loss.maps([output.logits, *output.deep], (height, width))
        return _Predicted(image, maps, self.loss.references(target, maps))

    @torch.no_grad()
    def _without_trace(self, image: Tensor) -> Output:
        """The output that the generator will have in its own turn, with nothing in it changed."""
        statistics = {name: value.clone() for name, value in self._network.named_buffers()}
        with self._autocast(image):
            output: Output = functional_call(self._network.train(), statistics, (image,))
        return output

    def _frozen(self, inputs: list[Tensor]) -> list[Tensor]:
        """The logits of the frozen discriminators: gradients pass through them to the maps.

        They run without their wrapper, which would wait for gradients to exchange, and on copies of their statistics,
        which only their own turn changes.
        """
        assert self._discriminators is not None
        frozen = {name: value.detach() for name, value in self._discriminators.named_parameters()}
        frozen |= {name: value.clone() for name, value in self._discriminators.named_buffers()}
        with self._autocast(inputs[0]):
            logits: list[Tensor] = functional_call(self._discriminators, frozen, (inputs,))
        return logits

    def _autocast(self, near: Tensor) -> torch.autocast:
        return torch.autocast(near.device.type, dtype=self.precision, enabled=self.precision is not None)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case Dice loss and Dice of the finest stage."""
        return validate_segmentation(self.players[GENERATOR], self._validation, batch)


def predicted_areas(maps: Tensor) -> dict[str, Tensor]:
    """`area`, the mean share of the image above 0.5 in maps (B, K, H, W), and `area_spread` within the batch.

    A single image has no spread, so then only the first is given.

    >>> predicted_areas(torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)]))
    {'area': tensor(0.5000), 'area_spread': tensor(0.5000)}
    """
    areas = (maps > 0.5).any(1).flatten(1).float().mean(1)
    spread = {"area_spread": areas.std(correction=0)} if len(areas) > 1 else {}
    return {"area": areas.mean(), **spread}
