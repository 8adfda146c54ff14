"""SKD, structured knowledge distillation: similarities between parts of an image, and a critic of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from segdistill.distillation.base import (
    STUDENT,
    Composed,
    DistillationMethod,
    LayerMethod,
    Layers,
    Targets,
    module_key,
    register_method,
)
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import exact, logits_of, require_classes, resize, unit
from segdistill.distillation.methods.soft_prediction import SoftPrediction
from segdistill.errors import InputError
from segdistill.models.blocks import layer
from segdistill.models.network import Output

SIDE = 64
"""Height and width of the critic's input: the size of the original's logits (65, an eighth of 512)."""
SLOPE = 0.1


class SelfAttention(nn.Module):
    """Each position adds what it attends to, times a learned factor that begins at 0 (SAGAN, Zhang et al. 2019).

    >>> layer = SelfAttention(16)
    >>> feature = torch.rand(1, 16, 4, 4)
    >>> torch.equal(layer(feature), feature)
    True
    """

    def __init__(self, channels: int, dimensions: int = 2) -> None:
        super().__init__()
        inner, conv = max(channels // 8, 1), layer("Conv", dimensions)
        self.query, self.key = conv(channels, inner, 1), conv(channels, inner, 1)
        self.value = conv(channels, channels, 1)
        self.factor = nn.Parameter(torch.zeros(1))

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, ...) to the same."""
        query, key, value = (layer(feature).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (query.mT @ key).softmax(2)
        found = (value @ attention.mT).unflatten(2, feature.shape[2:])
        attended: Tensor = self.factor * found + feature
        return attended


class Critic(nn.Module):
    """SAGAN's discriminator as SKD uses it: four 4x4 convolutions of stride 2 with spectral norm, attention after two.

    Batch norm on the input; self-attention after the third and the fourth convolution; a 4x4 convolution to one
    channel, whose mean over positions is the score. Of volumes the convolutions are 4x4x4.

    Args:
        classes: channels of the logits.
        width: channels of the first convolution; 64, 128, 256, 512 in the original.
        dimensions: 2 for pictures, 3 for volumes.

    >>> Critic(2, width=4)(torch.zeros(3, 2, 64, 64)).label.shape
    torch.Size([3, 1])
    """

    def __init__(self, classes: int, width: int = 64, dimensions: int = 2) -> None:
        super().__init__()
        conv = layer("Conv", dimensions)
        widths = [classes, width, 2 * width, 4 * width, 8 * width]
        self.norm = layer("BatchNorm", dimensions)(classes)
        self.stages = nn.ModuleList(
            nn.Sequential(spectral_norm(conv(inside, outside, 4, stride=2, padding=1)), nn.LeakyReLU(SLOPE))
            for inside, outside in pairwise(widths)
        )
        self.attention = nn.ModuleList(SelfAttention(channels, dimensions) for channels in widths[-2:])
        self.last = conv(widths[-1], 1, 4)

    def forward(self, logits: Tensor) -> Output:
        """Scores, as the label (B, 1), of logits (B, classes, 64, 64), of volumes (B, classes, 64, 64, 64)."""
        feature = self.norm(logits)
        for i, stage in enumerate(self.stages):
            feature = stage(feature)
            if i >= 2:
                feature = self.attention[i - 2](feature)
        return Output(logits=None, features={}, label=self.last(feature).flatten(2).mean(2))


def class_logits(logits: Tensor) -> Tensor:
    """Logits with one channel per class: one logit z becomes (-z/2, z/2), which has the same probabilities.

    >>> class_logits(torch.full((1, 1, 1, 1), 3.0)).flatten().tolist()
    [-1.5, 1.5]
    """
    logits = logits.float()
    return torch.cat([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


def critic_score(critic: nn.Module, logits: Tensor) -> Tensor:
    """(B,) scores of logits (B, C, 64, 64) or (B, C, 64, 64, 64), in float32.

    >>> critic_score(Critic(2, 4), torch.zeros(3, 2, 64, 64)).shape
    torch.Size([3])
    """
    label: Tensor = critic(logits).label
    return label.float().flatten()


@register_method("holistic")
class Holistic(DistillationMethod):
    """Holistic distillation (SKD, Liu et al. 2019): how much lower a critic scores the student than the teacher.

    A WGAN with gradient penalty whose "real" samples are a teacher's logits. Each teacher has a critic of its own, a
    player that takes its turn after the student. The loss is score(teacher) - score(student), whose gradient is that of
    -score(student); it is 0 for a student that equals the teacher and may become negative. A critic of volumes sees
    64x64x64 positions: a smaller `width` than the original's saves its time.

    IFVD's adversarial term is the same with weight 0.001 (0.1 in SKD). The critic has the stage's optimiser and
    schedule; `critic_lr` sets a learning rate of its own (SKD: 4e-4).

    Args:
        penalty: weight of the gradient penalty.
        width: of the critic.
        classes: of the networks; one logit counts as two classes.
        critic_lr: learning rate of the critics; None for the stage's.
        dimensions: 2 for pictures and slices, 3 for volumes; a recipe's own by default.

    >>> method = Holistic(width=4)
    >>> method.build({}, {"t": {}})
    >>> targets = method.targets(Output(logits=torch.rand(2, 2, 32, 32), features={}))
    >>> method(targets, targets, "t").tolist()
    [0.0, 0.0]
    """

    loss_options = ("penalty", "width", "critic_lr")

    def __init__(
        self,
        penalty: float = 10.0,
        width: int = 64,
        classes: int = 2,
        critic_lr: float | None = None,
        dimensions: Literal[2, 3] = 2,
    ) -> None:
        super().__init__()
        require_classes(classes, "holistic")
        if penalty < 0 or width < 1:
            raise InputError("holistic: penalty must not be negative, and width at least 1")
        if critic_lr is not None and not 0 < critic_lr < float("inf"):
            raise InputError(f"holistic: critic_lr must be above 0, not {critic_lr:g}")
        self.penalty, self.width, self.classes, self.critic_lr = penalty, width, classes, critic_lr
        self.dimensions = dimensions

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Makes a critic for each teacher."""
        self.critics = nn.ModuleDict(
            {module_key(name): Critic(self.classes, self.width, self.dimensions) for name in teachers}
        )

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Logits (B, classes, 64, 64), or (B, classes, 64, 64, 64), averaged down or repeated to that size.

        Raises:
            InputError: of another number of dimensions or classes.
        """
        logits = class_logits(logits_of(output, "holistic"))
        if logits.ndim != 2 + self.dimensions:
            raise InputError(
                f"holistic: dimensions is {self.dimensions}, and the logits have {logits.ndim - 2}: set dimensions: "
                f"{logits.ndim - 2}"
            )
        if logits.shape[1] != self.classes:
            raise InputError(
                f"holistic: classes is {self.classes}, but the networks have {logits.shape[1]}: "
                f"set classes: {logits.shape[1]}"
            )
        pool = F.adaptive_avg_pool2d if self.dimensions == 2 else F.adaptive_avg_pool3d
        return {"logits": pool(logits, SIDE)}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) difference of the scores, without a gradient for the critic."""
        critic = self.critics[module_key(network)]
        learns = [parameter.requires_grad for parameter in critic.parameters()]
        was_training = critic.training
        critic.eval().requires_grad_(False)  # eval: scores of a sample do not depend on its batch
        with torch.no_grad():
            theirs = critic_score(critic, teacher["logits"])
        loss = theirs - critic_score(critic, student["logits"])
        critic.train(was_training)
        for parameter, learned in zip(critic.parameters(), learns, strict=True):
            parameter.requires_grad_(learned)
        return loss

    def critic_loss(self, critic: nn.Module, student: Targets, teacher: Targets) -> Tensor:
        """score(student) - score(teacher) + penalty x (|gradient at a point between both| - 1)^2, means over samples.

        All three are scored in one pass: one batch for the critic's statistics, one call for DDP.
        """
        real, fake = teacher["logits"], student["logits"]
        share = torch.rand(len(real), *[1] * (real.ndim - 1)).to(real)
        between = (share * real + (1 - share) * fake).requires_grad_()
        scores = critic_score(critic, torch.cat([real, fake, between]))
        of_real, of_fake, of_between = scores.chunk(3)
        (slope,) = torch.autograd.grad(of_between.sum(), between, create_graph=True)
        length = (slope.float().flatten(1).square().sum(1) + 1e-12).sqrt()
        return of_fake.mean() - of_real.mean() + self.penalty * (length - 1).square().mean()


@register_method("pair_wise")
class PairWise(LayerMethod):
    """Pair-wise similarity (SKD, Liu et al. 2019): mean over pairs of nodes of the squared difference of cosines.

    A node is the maximum of each channel over its part of the image. Widths need not match.

    Args:
        layers: see layers.py; the original takes the last map before the head.
        nodes: the side of a part is that of the map divided by this, rounded down, so that an odd map has one part
            more, as in the official code (65: three). 2 by default.
        window: side of pooling windows in positions, in place of `nodes` (2: CIRKD's copy of SKD, a far finer graph of
            (h w / 4)^2 pairs); the student's nodes are resized to the teacher's if their number differs.
        constant_norm: the lengths of the nodes are constants in the gradient, as in the official code.

    >>> import torch
    >>> method = PairWise()
    >>> targets = method.targets(Output(None, {"decoder": torch.rand(2, 8, 6, 6)}))
    >>> targets["decoder"].shape, method(targets, targets).tolist()
    (torch.Size([2, 8, 2, 2]), [0.0, 0.0])
    """

    loss_options = ("constant_norm",)

    def __init__(
        self,
        layers: str | Sequence[str] = ("decoder",),
        nodes: int = 2,
        window: int | None = None,
        constant_norm: bool = True,
    ) -> None:
        super().__init__()
        if nodes < 2 or (window is not None and window < 1):
            raise InputError("pair_wise: nodes must be at least 2, window at least 1")
        self.features = parse_layers("pair_wise", layers)
        self.nodes, self.window, self.constant_norm = nodes, window, constant_norm

    def target(self, feature: Tensor, mask: Tensor | None) -> Tensor:
        """The nodes (B, C, ...)."""
        feature = feature.float()
        sides = [self.window or max(side // self.nodes, 1) for side in feature.shape[2:]]
        pooling = F.max_pool2d if feature.ndim == 4 else F.max_pool3d
        pooled: Tensor = pooling(feature, sides, ceil_mode=True)
        return pooled

    def layer_loss(self, student: Tensor, teacher: Tensor, region: Tensor | None = None) -> Tensor:
        """(B,) mean over pairs of nodes of the squared difference of their cosines."""
        student = resize(student, teacher.shape[2:])
        own, theirs = (unit(each.flatten(2), constant_norm=self.constant_norm) for each in (student, teacher))
        with exact(student):
            return (own.mT @ own - theirs.mT @ theirs).square().mean((1, 2))


@register_method("skd")
class SKD(Composed):
    """SKD (Liu et al. 2019): pixel-wise, pair-wise and, optionally, holistic.

    The pixel-wise term is the soft prediction at temperature 1: the official cross-entropy less the teacher's own
    entropy, which has no gradient. The official code sums it over the batch; here it is the mean over images, so the
    official 10 is 10 x batch size here.

    Args:
        pixel: weight of the pixel-wise term.
        pair: weight of the pair-wise term: 0.5 is that of the official script, 1.0 the default of its options;
            LightVessel's group takes pixel 1 and pair 0.1.
        holistic: weight of the adversarial term, 0.1 in the original; it trains a critic beside the student.
        layers, nodes, window, constant_norm: of the pair-wise term.
        classes, critic_width, critic_lr, dimensions: of the holistic term. The learning rate of the critic is the
            stage's unless `critic_lr` is set; it is 4e-4 in the original.

    >>> SKD(holistic=0.1).weights
    {'pixel': 10.0, 'pair': 0.5, 'holistic': 0.1}
    """

    def __init__(
        self,
        pixel: float = 10.0,
        pair: float = 0.5,
        holistic: float = 0.0,
        layers: str | Sequence[str] = ("decoder",),
        nodes: int = 2,
        window: int | None = None,
        constant_norm: bool = True,
        classes: int = 2,
        critic_width: int = 64,
        critic_lr: float | None = None,
        dimensions: Literal[2, 3] = 2,
    ) -> None:
        critic = Holistic(width=critic_width, classes=classes, critic_lr=critic_lr, dimensions=dimensions)
        super().__init__(
            "skd",
            {
                "pixel": (pixel, SoftPrediction()),
                "pair": (pair, PairWise(layers, nodes, window, constant_norm)),
                "holistic": (holistic, critic),
            },
        )
