"""SKD's holistic term: predictions that a critic cannot tell from the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.knowledge.base import STUDENT, Knowledge, Said, Taps
from segdistill.knowledge.critic import SIDE, Critic
from segdistill.knowledge.maps import logits_of
from segdistill.models.output import Output


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


class Holistic(Knowledge):
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

    >>> knowledge = Holistic(width=4)
    >>> knowledge.connect({}, {"t": {}})
    >>> said = knowledge.extract(Output(logits=torch.rand(2, 2, 32, 32), features={}))
    >>> knowledge.gap(said, said, "t").tolist()
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

    def connect(self, student: Taps, teachers: Mapping[str, Taps]) -> None:
        """Builds a critic per teacher."""
        self.critics = {name: Critic(self.classes, self.width) for name in teachers}

    def extract(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Said:
        """Logits (B, classes, 64, 64), averaged down or repeated to that size."""
        logits = class_logits(logits_of(output, "holistic"))
        if logits.ndim != 4:
            raise InputError("holistic: the critic sees images, not volumes: leave the term out")
        if logits.shape[1] != self.classes:
            raise InputError(f"holistic: the networks have {logits.shape[1]} classes: set classes")
        return {"logits": F.adaptive_avg_pool2d(logits, SIDE)}

    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,) difference of the scores; the critic learns nothing from it."""
        critic = self.critics[network]
        learns = [parameter.requires_grad for parameter in critic.parameters()]
        was_training = critic.training
        critic.eval().requires_grad_(False)  # eval: scores of a sample do not depend on its batch
        with torch.no_grad():
            theirs = critic_score(critic, teacher["logits"])
        gap = theirs - critic_score(critic, student["logits"])
        critic.train(was_training)
        for parameter, learned in zip(critic.parameters(), learns, strict=True):
            parameter.requires_grad_(learned)
        return gap

    def critic_loss(self, critic: nn.Module, student: Said, teacher: Said) -> Tensor:
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
