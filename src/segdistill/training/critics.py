"""Adversaries of the student: critics that take their turn on what student and teachers said in the student's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segdistill.distillation import DistillationMethod, WithCritics, flat
from segdistill.distillation.base import Targets
from segdistill.errors import InputError
from segdistill.training.task import Batch, Trainee


class CriticTrainee(Trainee):
    """A critic's turn, as one forward pass: its loss may take gradients of its own on the way.

    Args:
        critic: the network.
        method: the method whose critic it is.

    >>> from segdistill.distillation import Holistic
    >>> CriticTrainee(nn.Identity(), Holistic()).network
    Identity()
    """

    def __init__(self, critic: nn.Module, method: WithCritics) -> None:
        super().__init__(critic, lr=method.critic_lr)
        self.method = method

    def forward(self, student: Targets, teacher: Targets) -> Tensor:  # type: ignore[override]
        """The scalar loss of what both said."""
        with torch.enable_grad():
            return self.method.critic_loss(self.network, student, teacher)


@dataclass(frozen=True)
class _Critic:
    methods: str
    part: str  # of a method with several terms; "" for a method of one
    teacher: int


class Critics:
    """The critics of a distillation's method.

    Within a step the student's turn comes first: what was said of a batch is remembered, without a graph, until the
    last critic has had its turn on it; between steps nothing is.

    Args:
        methods: name -> (weight, method), connected.
        teachers: names of the teachers.

    Attributes:
        players: `method/teacher` -> the critic's player.

    >>> Critics({}, ["t"]).players
    {}
    """

    def __init__(
        self, methods: Mapping[str, tuple[float, DistillationMethod]], teachers: Sequence[str]
    ) -> None:
        self.players: dict[str, nn.Module] = {}
        self._critics: dict[str, _Critic] = {}
        for name, (weight, whole) in methods.items():
            for part, (_, method) in flat(weight, whole).items():
                if not isinstance(method, WithCritics):
                    continue
                for j, teacher in enumerate(teachers):
                    player = "/".join(filter(None, (name, part, teacher)))
                    if teacher not in method.critics:
                        raise InputError(f"{name} has no critic for teacher '{teacher}'")
                    self.players[player] = CriticTrainee(method.critics[teacher], method)
                    self._critics[player] = _Critic(name, part, j)
        self._heard: dict[int, dict[str, tuple[Targets, Targets]]] = {}

    def hear(
        self, batch: Batch, methods: str, part: str, teacher: int, own: Targets, theirs: Targets
    ) -> None:
        """Remembers what was said of a batch, if a critic is to judge it."""
        for player, critic in self._critics.items():
            if (critic.methods, critic.part, critic.teacher) == (methods, part, teacher):
                pair = tuple(
                    {name: value.detach() for name, value in targets.items()} for targets in (own, theirs)
                )
                self._heard.setdefault(id(batch), {})[player] = (pair[0], pair[1])

    def losses(self, batch: Batch, player: str, network: nn.Module) -> dict[str, Tensor] | None:
        """The loss of a critic on what was heard; none where its teacher was silent.

        Args:
            batch: the very one of the student's turn.
            player: the critic's.
            network: the critic's player, or its distributed wrapper.
        """
        evidence = self._heard.get(id(batch), {})
        pair = evidence.pop(player, None)
        if not evidence:
            self._heard.pop(id(batch), None)
        if pair is None:
            return None
        return {"loss": network(*pair)}
