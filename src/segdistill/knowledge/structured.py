"""SKD, structured knowledge distillation: how alike a network finds the parts of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from segdistill.errors import InputError
from segdistill.knowledge.base import STUDENT, Knowledge, Said
from segdistill.knowledge.composed import Composed, Weighted
from segdistill.knowledge.holistic import Holistic
from segdistill.knowledge.maps import exact, pool, resize, unit
from segdistill.knowledge.soft_prediction import SoftPrediction
from segdistill.knowledge.taps import parse_taps
from segdistill.models.output import Output


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


class PairWise(Knowledge):
    """Pair-wise similarity (SKD, Liu et al. 2019): mean over pairs of nodes of the squared gap of cosines.

    A node is the maximum of each channel over its part of the image. Widths need not match.

    Args:
        taps: see taps.py; the original takes the end of the encoder.
        nodes: parts along each side: 2 x 2 by default (the official window is half the map).
        window: pools windows of so many positions instead (2: CIRKD's copy of SKD, a far finer graph of (h w / 4)^2
            pairs); the student's nodes are resized to the teacher's where their number differs.
        constant_norm: see `similarities`.

    >>> import torch
    >>> knowledge = PairWise()
    >>> said = knowledge.extract(Output(None, {"encoder": torch.rand(2, 8, 6, 6)}))
    >>> said["encoder"].shape, knowledge.gap(said, said).tolist()
    (torch.Size([2, 8, 2, 2]), [0.0, 0.0])
    """

    compares = ("constant_norm",)

    def __init__(
        self,
        taps: str | Sequence[str] = ("encoder",),
        nodes: int = 2,
        window: int | None = None,
        constant_norm: bool = True,
    ) -> None:
        if nodes < 2 or (window is not None and window < 1):
            raise InputError("pair_wise: nodes must be at least 2, window at least 1")
        self.features = parse_taps("pair_wise", taps)
        self.nodes, self.window, self.constant_norm = nodes, window, constant_norm

    def extract(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Said:
        """The nodes (B, C, ...) of each tap."""
        return {tap: self._pooled(output.features[tap].float()) for tap in self.features}

    def _pooled(self, feature: Tensor) -> Tensor:
        if self.window is None:
            return pool(feature, self.nodes, "max")
        pooling = F.max_pool2d if feature.ndim == 4 else F.max_pool3d
        pooled: Tensor = pooling(feature, self.window, ceil_mode=True)
        return pooled

    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,) sum over taps."""
        gaps = []
        for tap in self.features:
            own = resize(student[tap], teacher[tap].shape[2:])
            own, theirs = (similarities(each, self.constant_norm) for each in (own, teacher[tap]))
            gaps.append((own - theirs).square().mean((1, 2)))
        return sum(gaps[1:], gaps[0])


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
        taps, nodes, window, constant_norm: of the pair-wise term.
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
        taps: str | Sequence[str] = ("encoder",),
        nodes: int = 2,
        window: int | None = None,
        constant_norm: bool = True,
        classes: int = 2,
        critic_width: int = 64,
        critic_lr: float | None = None,
    ) -> None:
        parts: Weighted = {
            "pixel": (pixel, SoftPrediction()),
            "pair": (pair, PairWise(taps, nodes, window, constant_norm)),
            "holistic": (holistic, Holistic(width=critic_width, classes=classes, critic_lr=critic_lr)),
        }
        super().__init__("skd", parts)
