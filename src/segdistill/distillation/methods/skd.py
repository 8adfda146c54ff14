"""SKD, structured knowledge distillation: how alike a network finds the parts of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from segdistill.distillation.base import STUDENT, DistillationMethod, Layers, Targets
from segdistill.distillation.composed import Composed, Weighted
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import exact, logits_of, pool, resize, unit
from segdistill.distillation.methods.soft_prediction import SoftPrediction
from segdistill.errors import InputError
from segdistill.models.network import Output

SIDE = 64
"""Height and width of what the critic sees: the size of the original's logits (65, an eighth of 512)."""
SLOPE = 0.1


class SelfAttention(nn.Module):
    """Each position adds what it attends to, times a learned factor that begins at 0 (SAGAN, Zhang et al. 2019).

    >>> layer = SelfAttention(16)
    >>> feature = torch.rand(1, 16, 4, 4)
    >>> torch.equal(layer(feature), feature)
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query, self.key = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.factor = nn.Parameter(torch.zeros(1))

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        query, key, value = (layer(feature).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (query.mT @ key).softmax(2)
        found = (value @ attention.mT).unflatten(2, feature.shape[2:])
        attended: Tensor = self.factor * found + feature
        return attended


class Critic(nn.Module):
    """SAGAN's discriminator as SKD uses it: four 4x4 convolutions of stride 2 with spectral norm, attention after two.

    Batch norm on the input; self-attention after the third and the fourth convolution; a 4x4 convolution to one
    channel, whose mean over positions is the score.

    Args:
        classes: channels of the logits.
        width: channels of the first convolution; 64, 128, 256, 512 in the original.

    >>> Critic(2, width=4)(torch.zeros(3, 2, 64, 64)).label.shape
    torch.Size([3, 1])
    """

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        widths = [classes, width, 2 * width, 4 * width, 8 * width]
        self.norm = nn.BatchNorm2d(classes)
        self.stages = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(inside, outside, 4, stride=2, padding=1)), nn.LeakyReLU(SLOPE)
            )
            for inside, outside in pairwise(widths)
        )
        self.attention = nn.ModuleList(SelfAttention(channels) for channels in widths[-2:])
        self.last = nn.Conv2d(widths[-1], 1, 4)

    def forward(self, logits: Tensor) -> Output:
        """Scores, as the label (B, 1), of logits (B, classes, 64, 64)."""
        feature = self.norm(logits)
        for i, stage in enumerate(self.stages):
            feature = stage(feature)
            if i >= 2:
                feature = self.attention[i - 2](feature)
        return Output(logits=None, features={}, label=self.last(feature).mean((2, 3)))


def class_logits(logits: Tensor) -> Tensor:
    """Logits with one channel per class: one logit z becomes (-z/2, z/2), which has the same probabilities.

    >>> class_logits(torch.full((1, 1, 1, 1), 3.0)).flatten().tolist()
    [-1.5, 1.5]
    """
    logits = logits.float()
    return torch.cat([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


def critic_score(critic: nn.Module, logits: Tensor) -> Tensor:
    """(B,) scores of logits (B, C, 64, 64), in float32.

    >>> critic_score(Critic(2, 4), torch.zeros(3, 2, 64, 64)).shape
    torch.Size([3])
    """
    label: Tensor = critic(logits).label
    return label.float().flatten()


class Holistic(DistillationMethod):
    """Holistic distillation (SKD, Liu et al. 2019): how much lower a critic scores the student.

    A WGAN with gradient penalty whose "real" samples are a teacher's logits; each teacher has a critic of its own,
    a player that takes its turn after the student. Gap: score(teacher) - score(student), whose gradient is that of
    -score(student); it is 0 for a student that equals the teacher and may become negative. Two-dimensional images only.

    IFVD's adversarial term is the same one with weight 0.001 (0.1 in SKD). The critic has the stage's optimiser and
    schedule, and a learning rate of its own where `critic_lr` says so: SKD's learns at 4e-4.

    Args:
        penalty: weight of the gradient penalty.
        width: of the critic.
        classes: of the networks; one logit counts as two classes.
        critic_lr: learning rate of the critics; None for the stage's.

    >>> methods = Holistic(width=4)
    >>> methods.connect({}, {"t": {}})
    >>> targets = methods.extract(Output(logits=torch.rand(2, 2, 32, 32), features={}))
    >>> methods.loss(targets, targets, "t").tolist()
    [0.0, 0.0]
    """

    compares = ("penalty", "width", "critic_lr")

    def __init__(
        self, penalty: float = 10.0, width: int = 64, classes: int = 2, critic_lr: float | None = None
    ) -> None:
        if penalty < 0 or width < 1 or classes < 2:
            raise InputError("holistic: penalty must not be negative, width at least 1, classes at least 2")
        if critic_lr is not None and not 0 < critic_lr < float("inf"):
            raise InputError(f"holistic: critic_lr must be above 0, not {critic_lr:g}")
        self.penalty, self.width, self.classes, self.critic_lr = penalty, width, classes, critic_lr
        self.critics: Mapping[str, nn.Module] = {}

    def connect(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Builds a critic per teacher."""
        self.critics = {name: Critic(self.classes, self.width) for name in teachers}

    def targets(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Logits (B, classes, 64, 64), averaged down or repeated to that size."""
        logits = class_logits(logits_of(output, "holistic"))
        if logits.ndim != 4:
            raise InputError("holistic: the critic sees images, not volumes: leave the term out")
        if logits.shape[1] != self.classes:
            raise InputError(f"holistic: the networks have {logits.shape[1]} classes: set classes")
        return {"logits": F.adaptive_avg_pool2d(logits, SIDE)}

    def loss(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) difference of the scores; the critic learns nothing from it."""
        critic = self.critics[network]
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
        """score(student) - score(teacher) + penalty x (|gradient at a mixture of both| - 1)^2, means over samples.

        All three are scored in one pass, so that the critic sees one batch and DDP one call.
        """
        real, fake = teacher["logits"], student["logits"]
        share = torch.rand(len(real), 1, 1, 1).to(real)
        between = (share * real + (1 - share) * fake).requires_grad_()
        scores = critic_score(critic, torch.cat([real, fake, between]))
        of_real, of_fake, of_between = scores.chunk(3)
        (slope,) = torch.autograd.grad(of_between.sum(), between, create_graph=True)
        length = (slope.float().flatten(1).square().sum(1) + 1e-12).sqrt()
        return of_fake.mean() - of_real.mean() + self.penalty * (length - 1).square().mean()


def similarities(nodes: Tensor, constant_norm: bool = True) -> Tensor:
    """Cosine of every node with every other: (B, C, ...) of n nodes to (B, n, n).

    Args:
        nodes: features.
        constant_norm: the nodes' lengths count as constants in the gradient, as in the official code.

    >>> import torch
    >>> similarities(torch.tensor([[[[3.0, 0.0]], [[0.0, 5.0]]]])).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    directions = unit(nodes.flatten(2), constant_norm=constant_norm)
    with exact(nodes):
        return directions.mT @ directions


class PairWise(DistillationMethod):
    """Pair-wise similarity (SKD, Liu et al. 2019): mean over pairs of nodes of the squared loss of cosines.

    A node is the maximum of each channel over its part of the image. Widths need not match.

    Args:
        layers: see layers.py; the original takes the end of the encoder.
        nodes: parts along each side: 2 x 2 by default (the official window is half the map).
        window: pools windows of so many positions instead (2: CIRKD's copy of SKD, a far finer graph of (h w / 4)^2
            pairs); the student's nodes are resized to the teacher's where their number differs.
        constant_norm: see `similarities`.

    >>> import torch
    >>> methods = PairWise()
    >>> targets = methods.extract(Output(None, {"encoder": torch.rand(2, 8, 6, 6)}))
    >>> targets["encoder"].shape, methods.loss(targets, targets).tolist()
    (torch.Size([2, 8, 2, 2]), [0.0, 0.0])
    """

    compares = ("constant_norm",)

    def __init__(
        self,
        layers: str | Sequence[str] = ("encoder",),
        nodes: int = 2,
        window: int | None = None,
        constant_norm: bool = True,
    ) -> None:
        if nodes < 2 or (window is not None and window < 1):
            raise InputError("pair_wise: nodes must be at least 2, window at least 1")
        self.features = parse_layers("pair_wise", layers)
        self.nodes, self.window, self.constant_norm = nodes, window, constant_norm

    def targets(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Targets:
        """The nodes (B, C, ...) of each layer."""
        return {layer: self._pooled(output.features[layer].float()) for layer in self.features}

    def _pooled(self, feature: Tensor) -> Tensor:
        if self.window is None:
            return pool(feature, self.nodes, "max")
        pooling = F.max_pool2d if feature.ndim == 4 else F.max_pool3d
        pooled: Tensor = pooling(feature, self.window, ceil_mode=True)
        return pooled

    def loss(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over layers."""
        losses = []
        for layer in self.features:
            own = resize(student[layer], teacher[layer].shape[2:])
            own, theirs = (similarities(each, self.constant_norm) for each in (own, teacher[layer]))
            losses.append((own - theirs).square().mean((1, 2)))
        return sum(losses[1:], losses[0])


class StructuredKnowledge(Composed):
    """SKD (Liu et al. 2019): pixel-wise, pair-wise and, if wanted, holistic.

    The pixel-wise term is the soft prediction at temperature 1: the official cross-entropy less the teacher's own
    entropy, which has no gradient. The official code adds it up over the batch; here it is the mean over images, so
    the official 10 is 10 x batch size here.

    Args:
        pixel: weight of the pixel-wise term.
        pair: weight of the pair-wise term: 0.5 is that of the official script, 1.0 the default of its options;
            LightVessel's group takes pixel 1 and pair 0.1.
        holistic: weight of the adversarial term, 0.1 in the original; it trains a critic beside the student.
        layers, nodes, window, constant_norm: of the pair-wise term.
        classes, critic_width, critic_lr: of the holistic term; the original's critic learns at 4e-4, here at the
            stage's rate unless `critic_lr` says otherwise.

    >>> sorted(StructuredKnowledge().parts), sorted(StructuredKnowledge(holistic=0.1).parts)
    (['pair', 'pixel'], ['holistic', 'pair', 'pixel'])
    """

    def __init__(
        self,
        pixel: float = 10.0,
        pair: float = 0.5,
        holistic: float = 0.0,
        layers: str | Sequence[str] = ("encoder",),
        nodes: int = 2,
        window: int | None = None,
        constant_norm: bool = True,
        classes: int = 2,
        critic_width: int = 64,
        critic_lr: float | None = None,
    ) -> None:
        parts: Weighted = {
            "pixel": (pixel, SoftPrediction()),
            "pair": (pair, PairWise(layers, nodes, window, constant_norm)),
            "holistic": (holistic, Holistic(width=critic_width, classes=classes, critic_lr=critic_lr)),
        }
        super().__init__("skd", parts)
