from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from segdistill.errors import InputError
from segdistill.models.discriminator import (
    RECEPTIVE_FIELD,
    SMALLEST,
    MultiScaleDiscriminator,
    PatchDiscriminator,
    critic_input,
)
from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network


def maps(channels: int = 1, size: int = SMALLEST, count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, channels, size, size, generator=generator) for _ in range(count)]


def build(channels: int = 1) -> MultiScaleDiscriminator:
    torch.manual_seed(0)
    model = create_network("multi_scale_discriminator", channels, width=4)
    assert isinstance(model, MultiScaleDiscriminator)
    return model


@pytest.mark.parametrize("channels", [1, 3])
def test_forward_and_backward_reach_every_parameter(channels: int) -> None:
    model = build(channels)
    logits = model(maps(channels))
    assert [tuple(logit.shape) for logit in logits] == [(2,)] * 4
    torch.stack(logits).square().sum().backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in model.parameters())


def test_levels_share_nothing() -> None:
    model = build().eval()
    with torch.no_grad():
        logits = model(maps(count=1)[0])
    assert len({round(float(logit[0]), 6) for logit in logits}) == 4


def test_state_survives_safetensors_and_eval_is_deterministic() -> None:
    model, other = build().eval(), build().eval()
    other.load_state_dict(load(save(model.state_dict())))
    with torch.no_grad():
        assert torch.equal(torch.stack(model(maps())), torch.stack(other(maps())))


def test_bf16_autocast_is_finite() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.isfinite(logit).all() for logit in build()(maps()))


def test_the_patch_map_is_the_paper_s_size() -> None:
    with shapes_only():
        critic = PatchDiscriminator(1)
        assert critic(torch.zeros(1, 1, 512, 512)).shape == (1, 1, 31, 31)
    assert sum(value.numel() for value in critic.parameters()) == 2_840_321


def test_a_logit_depends_on_as_many_pixels_as_is_said() -> None:
    """Gradients of one logit in the middle: non-zero on a square of that side, and nowhere else."""
    torch.manual_seed(0)
    critic = PatchDiscriminator(1, 2).double().eval()
    image = torch.rand(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)
    critic(image)[0, 0, 7, 7].backward()
    assert image.grad is not None
    rows, columns = torch.nonzero(image.grad[0, 0], as_tuple=True)
    assert int(rows.max() - rows.min()) + 1 == RECEPTIVE_FIELD
    assert int(columns.max() - columns.min()) + 1 == RECEPTIVE_FIELD


def test_tells_real_from_fake() -> None:
    torch.manual_seed(0)
    model = build()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    real = torch.zeros(4, 1, 32, 32)
    real[:, :, 8:24, 8:24] = 1
    fake = torch.rand(4, 1, 32, 32)
    for _ in range(20):
        optimiser.zero_grad()
        judged = zip(model(real), model(fake), strict=True)
        loss = sum(
            (torch.nn.functional.softplus(-r) + torch.nn.functional.softplus(f)).mean() for r, f in judged
        )
        loss.backward()  # type: ignore[union-attr]
        optimiser.step()
    with torch.no_grad():
        assert all((r > 0).all() and (f < 0).all() for r, f in zip(model(real), model(fake), strict=True))


def test_wrong_maps_are_refused() -> None:
    with pytest.raises(InputError, match="3 maps for 4 discriminators"):
        build()(maps(count=3))
    with pytest.raises(InputError, match=r"takes \(batch, 1, height, width\) from 32 x 32"):
        build()(maps(channels=2))
    with pytest.raises(InputError, match="from 32 x 32"):
        build()(maps(size=SMALLEST - 1))
    with pytest.raises(InputError, match="has no option 'depth'"):
        create_network("multi_scale_discriminator", depth=1)


def test_conditions() -> None:
    probability, image = torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4)
    assert torch.equal(critic_input(probability, image), probability)
    assert torch.equal(critic_input(probability, image, "masked_image"), image * probability)
    assert torch.equal(critic_input(probability, image, "concat"), torch.cat([image, probability], 1))
    with pytest.raises(InputError, match="unknown condition"):
        critic_input(probability, image, "x")  # type: ignore[arg-type]
