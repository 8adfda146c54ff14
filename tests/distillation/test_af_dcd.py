"""Af-DCD against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from segdistill.distillation import DistillationMethod
from segdistill.distillation.methods.af_dcd import AfDCD, partition
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo
from tests.distillation.contract import Array
from tests.distillation.numbers import Arrays, blocks, hold_against
from tests.distillation.test_mgd import TestMGD


def built(channels: int, network: str = "t", **options: float) -> AfDCD:
    torch.manual_seed(0)
    method = AfDCD(**{"hidden": 0.0, **options})  # type: ignore[arg-type]
    info = {"decoder": FeatureInfo("decoder", channels, 2)}
    method.build(info, {network: info})
    return method


class TestAfDCD(TestMGD):
    name = "af_dcd"

    def make(self) -> DistillationMethod:
        return built(5, "", **self.options)


def parts(x: Array, groups: int) -> list[list[tuple[int, Array]]]:
    """Of one image (C, 4, 8), for each of its two patches of 4 x 4, the group and the vector of every part."""
    found = []
    for column in (0, 4):
        patch = x[:, :, column : column + 4].reshape(groups, -1, 16)
        found.append([(m, patch[m, :, n]) for n in range(16) for m in range(groups)])
    return found


def contrast(own: Array, other: Array, groups: int, tau: float) -> float:
    losses = []
    for mine, theirs in zip(parts(own, groups), parts(other, groups), strict=True):
        for k, (group, vector) in enumerate(mine):
            distances = [np.abs(vector - value).sum() / tau for _, value in theirs]
            negatives = [-d for d, (m, _) in zip(distances, theirs, strict=True) if m != group]
            losses.append(distances[k] + logsumexp([-distances[k], *negatives]))
    return groups * float(np.mean(losses))


def test_equals_numpy() -> None:
    """With a generator that leaves the feature as it is."""
    rng = np.random.default_rng(0)
    own, other = ({"decoder": rng.normal(size=(2, 6, 4, 8))} for _ in range(2))
    method = built(6, mimic=2.0, contrast=0.5, temperature=0.9, groups=4)  # 3 groups: 4 does not divide 6
    method.generators["t/decoder"] = torch.nn.Sequential()

    def reference(arrays: Arrays) -> Array:
        s, t = arrays["decoder"], other["decoder"]
        mimic = np.square(s - t).mean((1, 2, 3))
        return 2.0 * mimic + 0.5 * np.array([contrast(*pair, 3, 0.9) for pair in zip(s, t, strict=True)])

    hold_against(method, reference, own, other)


def test_large_maps_are_pooled_by_maxima() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 16, 16))
    got = partition(torch.tensor(x), groups=2, grid=4, patch=4).numpy()
    pooled = blocks(x, 4, np.max).reshape(2, 2, 2, 16)  # image, group, channel of it, position
    np.testing.assert_allclose(got[:, 0].reshape(2, 16, 2, 2), pooled.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("options", [{"mimic": -1.0}, {"mimic": 0.0, "contrast": 0.0}, {"temperature": 0.0}])
def test_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="af_dcd"):
        AfDCD(**options)  # type: ignore[arg-type]
