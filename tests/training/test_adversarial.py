"""Two players: whose weights move when, what is frozen, one run of the generator, and numbers that can be believed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segdistill.data.views import Views, batch_indices
from segdistill.errors import InputError
from segdistill.losses.adversarial import MultiStageLoss
from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network
from segdistill.training.adversarial import (
    DISCRIMINATORS,
    GENERATOR,
    Adversarial,
    make_discriminators,
    make_loss,
    stage_shapes,
)
from segdistill.training.curves import read_curves
from segdistill.training.loop import fit
from segdistill.training.settings import AdversarialSettings, FitSettings, OptimizerSettings, ScheduleSettings
from tests.training.conftest import adversarial

PAIR = tuple[Views, Views]
SGD = OptimizerSettings(name="sgd", lr=0.05, weight_decay=0.0, momentum=0.0)


def settings(**changes: object) -> FitSettings:
    base = FitSettings(
        epochs=2,
        batch_size=3,
        precision="fp32",
        channels_last=False,
        workers=0,
        select="last",
        optimizer=SGD,
        schedule=ScheduleSettings(name="constant"),
    )
    return base.model_copy(update=changes)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 1, 32, 32, generator=generator)
    return {"image": image, "mask": (image[:, 0] > 0.6).long(), "index": torch.arange(3)}


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_equals_the_alternation_written_out(views: PAIR, tmp_path: Path, fabric: Fabric) -> None:
    """First D on (G, P detached), then the generator against the new D, in plain PyTorch: Eq. 1 and 2."""
    task = adversarial()
    network, critics = copy.deepcopy(task._network), copy.deepcopy(task._discriminators)
    assert critics is not None
    list(fit(task, *views, settings(), tmp_path, fabric))
    of_g = torch.optim.SGD(network.parameters(), 0.05)
    of_d = torch.optim.SGD(critics.parameters(), 0.05)
    train = views[0]
    for epoch in range(2):
        for part in batch_indices(len(train), 3, train.seed, epoch):
            drawn = [train.view(int(k), epoch) for k in part]
            image, mask = (torch.stack([one[k] for one in drawn]) for k in (0, 1))
            output = network.train()(image)
            p = [
                torch.nn.functional.interpolate(z.sigmoid(), (32, 32), mode="bilinear")
                for z in (output.logits, *output.deep)
            ]
            g = mask[:, None].float()
            real, fake = critics([g] * 2), critics([one.detach() for one in p])
            (
                -sum(r.sigmoid().log().mean() for r in real)
                - sum((1 - f.sigmoid()).log().mean() for f in fake)
            ).backward()
            of_d.step()
            judged = copy.deepcopy(critics)(p)  # frozen: not even its statistics move
            dice = [
                (1 - 2 * (one * g).sum((1, 2, 3)) / (one.sum((1, 2, 3)) + g.sum((1, 2, 3)))).mean()
                for one in p
            ]
            loss = dice[0] + 0.1 * dice[1] + 0.05 * sum((1 - d.sigmoid()).log().mean() for d in judged)
            loss.backward()
            of_g.step()
            of_g.zero_grad()
            of_d.zero_grad()
    for trained, plain in ((task._network, network), (task._discriminators, critics)):
        assert trained is not None
        for name, value in plain.state_dict().items():
            # processors round differently; a step moves weights by 1e-2
            torch.testing.assert_close(trained.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_each_turn_moves_its_own_player_alone(batch: dict[str, Tensor]) -> None:
    task = adversarial()
    critics, network = task._discriminators, task._network
    assert critics is not None
    generator_before, critics_before = state(network), state(critics)
    parts = task.losses(batch, DISCRIMINATORS)
    parts["loss"].backward()
    assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None for p in critics.parameters())
    after = state(critics)
    assert not equal(critics_before, after), "its own turn moves its statistics"
    critics.zero_grad()
    parts = task.losses(batch, GENERATOR)
    parts["loss"].backward()
    assert all(p.grad is None for p in critics.parameters())
    assert all(p.grad is not None for p in network.parameters())
    assert equal(after, state(critics)), "the generator's turn moves nothing of the discriminators"
    assert all(p.requires_grad for p in critics.parameters())
    assert equal(
        {k: v for k, v in generator_before.items() if "running" not in k and "num_batches" not in k},
        state(network),
    )


def test_the_generator_feels_every_discriminator(batch: dict[str, Tensor]) -> None:
    """With Dice switched to nothing, what is left is the discriminators' word on each stage."""
    for n in range(2):
        weights = [0.0, 0.0]
        weights[n] = 1.0
        task = adversarial(MultiStageLoss((0.0, 0.0), weights))
        task.losses(batch, DISCRIMINATORS)
        task.losses(batch, GENERATOR)["loss"].backward()
        grads = [head.weight.grad for head in (task._network.head, task._network.deep_heads[0])]  # type: ignore[union-attr, index]
        assert grads[n] is not None
        assert grads[n].abs().sum() > 0
        assert grads[1 - n] is None or grads[1 - n].abs().sum() == 0


@pytest.mark.parametrize(("accumulate", "runs"), [(1, 1), (2, 2)])
def test_the_generator_runs_no_more_than_needed(accumulate: int, runs: int, batch: dict[str, Tensor]) -> None:
    task = adversarial(accumulate=accumulate)
    counted = []
    task._network.register_forward_hook(lambda *_: counted.append(torch.is_grad_enabled()))
    task.losses(batch, DISCRIMINATORS)
    task.losses(batch, GENERATOR)
    assert len(counted) == runs
    assert counted.count(True) == 1


def test_accumulation_sees_the_same_maps_and_counts_each_batch_once(batch: dict[str, Tensor]) -> None:
    """Both ways the discriminators see the same, and the generator's statistics have seen each batch once."""
    one, two = adversarial(), adversarial(accumulate=2)
    values = [[task.losses(batch, name) for name in (DISCRIMINATORS, GENERATOR)] for task in (one, two)]
    for a, b in zip(*values, strict=True):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)
    assert equal(state(one._network), state(two._network))
    assert equal(state(one._discriminators), state(two._discriminators))  # type: ignore[arg-type]


def test_accumulation_equals_a_bigger_batch(views: PAIR, tmp_path: Path) -> None:
    """Without batch statistics two batches of 2 give the step of one of 4, of both players."""

    def frozen_norms(accumulate: int) -> Adversarial:
        task = adversarial(accumulate=accumulate)
        for player in (task._network, task._discriminators):
            assert player is not None
            for module in player.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
                    module.train = lambda mode=True, m=module: m  # type: ignore[method-assign, misc]
        return task

    views[0].case_ids[:] = views[0].case_ids[:8]
    views[0]._rows[:] = views[0]._rows[:8]
    trained = []
    for size, accumulate in ((4, 1), (2, 2)):
        fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
        task = frozen_norms(accumulate)
        list(
            fit(task, *views, settings(batch_size=size, accumulate=accumulate), tmp_path / str(size), fabric)
        )
        trained.append([state(task._network), state(task._discriminators)])  # type: ignore[arg-type]
    for a, b in zip(*trained, strict=True):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_bf16_is_close_to_fp32(views: PAIR, tmp_path: Path) -> None:
    """What does not run through a player runs in the same precision."""
    rows = []
    for name, dtype in (("32-true", None), ("bf16-mixed", torch.bfloat16)):
        fabric = Fabric(accelerator="cpu", devices=1, precision=name)  # type: ignore[arg-type]
        how = settings(epochs=1, optimizer=SGD.model_copy(update={"lr": 1e-6}))
        list(fit(adversarial(precision=dtype), *views, how, tmp_path / name, fabric))
        rows.append(read_curves(tmp_path / name / "curves.csv")[0])
    for name in ("loss", "dice_2", "discriminators/loss", "discriminators/real_1", "adversarial_2"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=0.05, abs=0.02)


def test_what_the_curves_say(batch: dict[str, Tensor]) -> None:
    task = adversarial()
    parts = task.losses(batch, DISCRIMINATORS) | task.losses(batch, GENERATOR)
    names = {
        f"{name}_{n}" for name in ("real", "predicted", "accuracy", "dice", "adversarial") for n in (1, 2)
    }
    assert set(parts) == names | {"loss", "area", "area_spread"}
    critics = copy.deepcopy(task._discriminators)
    assert critics is not None
    output = copy.deepcopy(task._network)(batch["image"])
    areas = (output.logits[:, 0] > 0).float().mean((1, 2))
    assert parts["area"].item() == pytest.approx(areas.mean().item(), abs=1e-6)
    assert parts["area_spread"].item() == pytest.approx(areas.numpy().std(), abs=1e-6)
    real = critics([batch["mask"][:, None].float()] * 2)
    for n, on_real in enumerate(real, 1):
        assert parts[f"real_{n}"].item() == pytest.approx(on_real.sigmoid().mean().item(), abs=1e-5)
        assert 0 <= parts[f"accuracy_{n}"].item() <= 1
    single = task.losses({name: value[:1] for name, value in batch.items()}, GENERATOR)
    assert "area_spread" not in single


def test_without_discriminators_there_is_one_player(batch: dict[str, Tensor]) -> None:
    network = create_network("us_unet", in_channels=1, classes=1, widths=[4, 8, 8])
    task = Adversarial(network, None, MultiStageLoss((1.0, 0.1), ()))
    assert task.turns == tuple(task.players) == (GENERATOR,)
    assert {"loss", "dice_1", "dice_2"} <= set(task.losses(batch, GENERATOR))
    with pytest.raises(InputError, match="one discriminator for each adversarial term"):
        Adversarial(network, None, MultiStageLoss((1.0, 0.1), (0.1,)))


def test_settings_fit_the_network() -> None:
    def shapes(name: str = "us_unet", size: int = 64, **options: object) -> list[tuple[int, int, int]]:
        with shapes_only():
            return stage_shapes(create_network(name, in_channels=3, **options), 3, (size, size))

    four = shapes(classes=1)
    assert four == [(1, 64, 64), (1, 32, 32), (1, 16, 16), (1, 8, 8)]
    assert len(make_loss(AdversarialSettings(), 4).beta) == 4
    assert make_loss(AdversarialSettings(dice_stages=1), 4).alpha == (1.0,)
    assert make_discriminators(AdversarialSettings(adv_stages=0), four, 3, (64, 64)) is None
    channels = {"map": 1, "masked_image": 3, "concat": 4}
    for condition, count in channels.items():
        made = make_discriminators(AdversarialSettings(condition=condition, width=2), four, 3, (64, 64))  # type: ignore[arg-type]
        assert made is not None
        assert (made.in_channels, len(made.levels)) == (count, 4)
    with pytest.raises(InputError, match="adversarial uses 5 stages, but the network has 4"):
        make_loss(AdversarialSettings(dice_stages=5), 4)
    with pytest.raises(InputError, match=r"set model\.stages to 2"):
        make_loss(AdversarialSettings(dice_stages=1, adv_stages=2), 4)
    with pytest.raises(InputError, match=r"adversarial.alpha has 4 weights for 6 stages"):
        make_loss(AdversarialSettings(), 6)
    with pytest.raises(InputError, match="maps of discriminator 1 are 24x24, but must be at least 32x32"):
        make_discriminators(AdversarialSettings(), shapes(size=24 * 2, classes=1), 3, (24, 24))
    with pytest.raises(InputError, match=r"maps of discriminator 3 are 16x16, .* native_size: false"):
        make_discriminators(AdversarialSettings(native_size=True), four, 3, (64, 64))
    assert len(shapes("simplified_unet", widths=[4, 8])) == 1


def test_a_network_without_deep_heads_has_one_stage(batch: dict[str, Tensor]) -> None:
    network = create_network("simplified_unet", in_channels=1, classes=2, widths=[4, 8])
    settings_of_one = AdversarialSettings(width=2)
    critics = make_discriminators(settings_of_one, [(2, 32, 32)], 1, (32, 32))
    task = Adversarial(network, critics, make_loss(settings_of_one, 1))
    task.losses(batch, DISCRIMINATORS)["loss"].backward()
    task.losses(batch, GENERATOR)["loss"].backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_generator_begins_as_the_same_network_without_discriminators() -> None:
    """Looking at its shapes on the meta device draws no random number, and discriminators are made after it."""
    torch.manual_seed(3)
    alone = create_network("us_unet", in_channels=1, classes=1, widths=[4, 8, 8])
    torch.manual_seed(3)
    with shapes_only():
        shapes = stage_shapes(
            create_network("us_unet", in_channels=1, classes=1, widths=[4, 8, 8]), 1, (32, 32)
        )
    again = create_network("us_unet", in_channels=1, classes=1, widths=[4, 8, 8])
    assert len(shapes) == 2
    assert equal(state(alone), state(again))
