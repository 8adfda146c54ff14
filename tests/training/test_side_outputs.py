"""Side outputs in the loss of a supervised stage, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segdistill.config.schema import parse_recipe
from segdistill.errors import InputError
from segdistill.losses import create_loss
from segdistill.models.network import Output
from segdistill.models.registry import create_network
from segdistill.training.task import Supervised


class TeacherTargets(nn.Module):
    """Says the same whatever it sees."""

    def __init__(self, *logits: Tensor) -> None:
        super().__init__()
        self.targets = nn.ParameterList(logits)

    def forward(self, image: Tensor) -> Output:
        return Output(self.targets[0], {}, deep=list(self.targets)[1:])


def test_the_loss_is_the_sum_over_all_outputs() -> None:
    """Foreground probabilities 0.5, 0.8, and 0.2 | 0.6 at half the size, which is brought up as a probability."""
    odds = torch.tensor([0.8, 0.2, 0.6]).logit()
    network = TeacherTargets(torch.zeros(1, 1, 2, 4), odds[0].expand(1, 1, 2, 4), odds[1:].view(1, 1, 1, 2))
    batch = {"image": torch.zeros(1, 1, 2, 4), "mask": torch.tensor([[[1, 1, 0, 0]] * 2])}
    raised = np.array([0.2, 0.3, 0.5, 0.6])  # halfway between pixel centres, the ends held
    coarse = -np.log([0.2, 0.3, 1 - 0.5, 1 - 0.6]).mean()
    assert raised[1] == pytest.approx(0.75 * 0.2 + 0.25 * 0.6)
    fine = -(np.log(0.8) + np.log(0.2)) / 2
    parts = Supervised(network, create_loss("cross_entropy"), "sum").losses(batch, "network")
    assert parts["deep"].item() == pytest.approx(fine + coarse, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(np.log(2) + fine + coarse, rel=1e-5)
    alone = Supervised(network, create_loss("cross_entropy")).losses(batch, "network")
    assert alone["loss"].item() == pytest.approx(np.log(2), rel=1e-5)
    parts["loss"].backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in network.targets)


def test_u2net_learns_from_seven_losses() -> None:
    torch.manual_seed(0)
    network = create_network("u2net", 1, 1, scale="tiny")
    batch = {"image": torch.rand(2, 1, 32, 32), "mask": torch.randint(2, (2, 32, 32))}
    loss = create_loss("cross_entropy")
    with torch.no_grad():
        parts = Supervised(network, loss, "sum").losses(batch, "network")
        output = network(batch["image"])
        target = batch["mask"][:, None].float()
        seven = [
            nn.functional.binary_cross_entropy_with_logits(one, target)
            for one in (output.logits, *output.deep)
        ]
    assert len(seven) == 7
    assert parts["loss"].item() == pytest.approx(sum(seven).item(), rel=1e-4)  # type: ignore[union-attr]


def test_a_network_without_side_outputs_is_refused() -> None:
    task = Supervised(TeacherTargets(torch.zeros(1, 1, 2, 2)), create_loss("dice"), "sum")
    with pytest.raises(InputError, match="side outputs"):
        task.losses({"image": torch.zeros(1, 1, 2, 2), "mask": torch.zeros(1, 2, 2).long()}, "network")


def test_only_a_stage_with_it_has_another_fingerprint() -> None:
    content = {"name": "r", "stages": {"net": {"model": {"name": "u2net"}}}}
    content["stages"]["net"]["deep_supervision"] = "sum"  # type: ignore[index]
    assert parse_recipe(content, "r").stages["net"].facts()["deep_supervision"] == "sum"
    content["stages"]["net"]["task"] = "joint"  # type: ignore[index]
    with pytest.raises(InputError, match="deep_supervision belongs to a stage with task: supervised"):
        parse_recipe(content, "r")
