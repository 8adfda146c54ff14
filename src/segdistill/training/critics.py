"""Critics: adversaries of the student, which train in turns with it on the targets of the student's turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from segdistill.distillation import DistillationMethod
from segdistill.distillation.base import Targets, module_key, weighted_terms
from segdistill.training.task import Batch, Trainee


class CriticTrainee(Trainee):
    """A critic as a player. Its forward pass is its loss, which may compute gradients itself.

    Args:
        critic: the network.
        method: the method that it belongs to.

    >>> from segdistill.distillation.methods.skd import Holistic
    >>> CriticTrainee(nn.Identity(), Holistic()).network
    Identity()
    """

    def __init__(self, critic: nn.Module, method: DistillationMethod) -> None:
        super().__init__(critic, lr=method.critic_lr)
        self.loss = method.critic_loss  # not the method: it would become a submodule

    def forward(self, student: Targets, teacher: Targets) -> Tensor:  # type: ignore[override]
        """The critic's scalar loss, from targets without a graph."""
        with torch.enable_grad():
            return self.loss(self.network, student, teacher)


class Critics:
    """All critics of the methods of a stage.

    The student's turn comes first in a step. Its targets of a batch are kept, without a graph, until the last critic
    has had its turn on them; nothing is kept between steps.

    Args:
        methods: name -> (weight, method), built.
        teachers: names of the teachers.

    Attributes:
        players: `method/teacher`, or `method/term/teacher` -> the critic's player.

    >>> Critics({}, ["t"]).players
    {}
    """

    def __init__(
        self, methods: Mapping[str, tuple[float, DistillationMethod]], teachers: Sequence[str]
    ) -> None:
        self.players: dict[str, nn.Module] = {}
        for name, (weight, whole) in methods.items():
            for term, (_, method) in weighted_terms(weight, whole).items():
                for teacher in teachers if len(method.critics) else ():
                    critic = method.critics[module_key(teacher)]
                    self.players["/".join(filter(None, (name, term, teacher)))] = CriticTrainee(
                        critic, method
                    )
        self._targets: dict[int, dict[str, tuple[Targets, Targets]]] = {}

    def keep(self, batch: Batch, player: str, student: Targets, teacher: Targets) -> None:
        """Keeps the targets of a batch for a critic, if there is one of that name."""
        if player in self.players:
            student, teacher = (
                {name: value.detach() for name, value in each.items()} for each in (student, teacher)
            )
            self._targets.setdefault(id(batch), {})[player] = (student, teacher)

    def losses(self, batch: Batch, player: str, network: nn.Module) -> dict[str, Tensor] | None:
        """The loss of a critic on the kept targets; None if its teacher had no active row.

        Args:
            batch: the same object as in the student's turn.
            player: the critic's.
            network: the critic's player, or its distributed wrapper.
        """
        kept = self._targets.get(id(batch), {})
        pair = kept.pop(player, None)
        if not kept:
            self._targets.pop(id(batch), None)
        return None if pair is None else {"loss": network(*pair)}
