"""Records against NumPy's own half precision, and numbers that it could not hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.distillation.cache.entry import Layout
from segdistill.distillation.methods.soft_prediction import SoftPrediction, soft_prediction_loss
from segdistill.errors import InputError
from segdistill.models.network import Output


def there_and_back(targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    layout = Layout.of(targets)
    records = layout.pack(targets)
    assert records.shape == (len(next(iter(targets.values()))), layout.length)
    return Layout.from_list(layout.to_list()).unpack(torch.from_numpy(records))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 3.7e4, 1e9, 1e30])
def test_the_relative_error_is_that_of_half_precision(scale: float) -> None:
    values = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(0)) * scale
    found = there_and_back({"map": values})["map"]
    error = ((found - values).abs() / values.abs()).max().item()
    assert 0 < error <= 2.0**-11
    # what is left is exactly half precision of the number without its power of two
    row = values[0].numpy().ravel()
    power = 2.0 ** (np.floor(np.log2(np.abs(row).max())) + 1 - 15)
    np.testing.assert_array_equal(
        found[0].numpy().ravel(), (row / power).astype(np.float16) * np.float32(power)
    )


def test_few_numbers_and_whole_ones_are_kept_as_they_are() -> None:
    targets = {
        "cosines": torch.rand(4, 64),
        "known": torch.tensor([[True, False]] * 4),
        "count": torch.arange(4),
        "zeros": torch.zeros(4, 100),
        "low": torch.rand(4, 3).bfloat16(),
    }
    found = there_and_back(targets)
    for name, value in targets.items():
        assert torch.equal(found[name], value.float() if value.is_floating_point() else value), name


def test_rows_do_not_disturb_each_other() -> None:
    values = torch.stack([torch.full((200,), 1e20), torch.full((200,), 1e-20), torch.zeros(200)])
    found = there_and_back({"map": values})["map"]
    torch.testing.assert_close(found, values, rtol=1e-3, atol=0)


def test_no_rows_at_all() -> None:
    layout = Layout.of({"map": torch.rand(2, 3, 8, 8), "few": torch.rand(2, 3)})
    found = layout.unpack(torch.zeros(0, layout.length, dtype=torch.uint8))
    assert found["map"].shape == (0, 3, 8, 8)
    assert found["few"].shape == (0, 3)


def test_targets_without_one_value_per_sample_are_refused() -> None:
    for targets in ({"a": torch.zeros(2, 3), "b": torch.zeros(3, 3)}, {"a": torch.tensor(1.0)}):
        with pytest.raises(InputError, match="one value for each sample"):
            Layout.of(targets)
    layout = Layout.of({"a": torch.zeros(1, 100)})
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(InputError, match="contain NaN or infinity"):
            layout.pack({"a": torch.full((1, 100), wrong)})


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
def test_a_cached_soft_prediction_is_read_at_any_temperature(classes: int, temperature: float) -> None:
    """Also where the teacher is as good as certain: what matters of it is the small probability."""
    generator = torch.Generator().manual_seed(0)
    output = Output(torch.randn(2, classes, 12, 12, generator=generator) * 8, {})
    method = SoftPrediction(temperature)
    exact = method.targets(output)["log_probability"]
    found = method.from_cache(there_and_back(method.to_cache(output)))["log_probability"]
    assert (found.exp() - exact.exp()).abs().max() < 1.5e-3
    torch.testing.assert_close(found, exact, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2, 12, 12))
    assert soft_prediction_loss(found, exact).max() < 1e-6
