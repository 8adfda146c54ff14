"""Distillation from stored maps, and on rows without a mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.data.maps import encode
from segdistill.data.views import MAP
from segdistill.distillation import METHODS, StoredTeacher, Teacher, create_method
from segdistill.distillation.methods.soft_mask import semimetric_dice_loss
from segdistill.errors import InputError
from segdistill.losses import create_loss, probabilities
from segdistill.models.network import Output
from segdistill.models.registry import create_network
from segdistill.training.distillation import Distillation

SIZE = 32


def small(seed: int, classes: int = 2) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_network("simplified_unet", classes=classes, widths=[4, 8, 8]).eval()


def batch_of(rows: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(rows, SIZE, SIZE, dtype=torch.long)
    mask[:, 8:20, 6:25] = 1
    return {
        "image": torch.rand(rows, 3, SIZE, SIZE, generator=generator),
        "mask": mask,
        "index": torch.arange(rows),
        "has_mask": torch.ones(rows, dtype=torch.bool),
    }


def task(
    teachers: list[Teacher] | list[StoredTeacher], classes: int = 2, **methods: dict[str, object]
) -> Distillation:
    built = {name: (0.7, create_method(name, **options)) for name, options in methods.items()}
    found = Distillation(
        small(0, classes), create_loss("cross_entropy_dice"), teachers, torch.ones(9, len(teachers)), built
    )
    for player in found.players.values():
        player.eval()
    return found


@pytest.mark.parametrize("classes", [2, 4])
def test_stored_maps_teach_as_the_network_that_they_come_from(classes: int) -> None:
    teacher, batch = small(1, classes), batch_of()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.5)
        known = probabilities(teacher(batch["image"]).logits)[:, 1:].numpy()
    batch[f"{MAP}t"] = torch.from_numpy(encode(known, axis=1))
    methods: dict[str, dict[str, object]] = {"soft_prediction": {"temperature": 2.0}, "soft_mask": {}}
    live = task([Teacher("t", teacher)], classes, **methods).losses(batch, "student")
    stored = task([StoredTeacher("t")], classes, **methods).losses(batch, "student")
    assert live.keys() == stored.keys()
    for name, value in live.items():
        assert stored[name].item() == pytest.approx(value.item(), abs=2e-3), name


def test_soft_mask_is_cross_entropy_and_dice_with_the_map() -> None:
    generator = np.random.default_rng(0)
    p, q = (generator.uniform(0.05, 0.95, (3, 5, 5)) for _ in range(2))
    logits = [torch.from_numpy(np.stack([np.log(1 - x), np.log(x)], 1)).float() for x in (p, q)]
    method = create_method("soft_mask", cross_entropy=2.0, dice=0.5)
    found = method(*(method.targets(Output(each, {})) for each in logits)).numpy()
    divergence = (q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))).mean((1, 2))
    both, apart = (p + q).mean((1, 2)), np.abs(p - q).mean((1, 2))
    assert found == pytest.approx(
        2 * divergence + 0.5 * (1 - (both - apart + 1e-4) / (both + 1e-4)), rel=1e-4
    )


def test_the_dice_of_soft_maps_is_that_of_masks_and_is_smallest_at_the_map() -> None:
    masks = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (2, 4, 1, 6, 6))).float()
    plain = 1 - (2 * (masks[0] * masks[1]).flatten(1).mean(1) + 1e-4) / (
        masks.flatten(2).mean(2).sum(0) + 1e-4
    )
    assert torch.allclose(semimetric_dice_loss(masks[0], masks[1]), plain)
    soft = torch.full((1, 1, 4, 4), 0.3)
    assert all(semimetric_dice_loss(torch.full_like(soft, p), soft) > 0 for p in (0.0, 0.2, 0.4, 1.0))


def test_rows_without_mask_add_nothing_to_the_hard_term() -> None:
    batch = batch_of()
    batch["has_mask"] = torch.tensor([True, False, True, False])
    batch["mask"][~batch["has_mask"]] = 0
    batch[f"{MAP}t"] = torch.full((4, 1, SIZE, SIZE), 128, dtype=torch.uint8)
    found = task([StoredTeacher("t")], soft_mask={})
    parts = found.losses(batch, "student")
    chosen = batch["has_mask"]
    logits = found.players["student"](batch["image"]).logits
    for name, module in create_loss("cross_entropy_dice").terms.items():
        assert parts[name].item() == pytest.approx(
            module(logits[chosen], batch["mask"][chosen]).item() / 2, rel=1e-5
        )
    batch["has_mask"][:] = False
    assert found.losses(batch, "student")["cross_entropy"].item() == 0


def _needs_masks() -> list[str]:
    found = []
    for name in METHODS.names():
        if name != "feature_similarity" and METHODS.build(name, {}).needs_mask:
            found.append(name)
    return found


@pytest.mark.parametrize("name", _needs_masks())
def test_a_method_that_needs_masks_counts_rows_with_one_alone(name: str) -> None:
    """Its loss on a batch is that on the rows with masks, as a share of all; without any it is 0."""
    batch = batch_of()
    batch["has_mask"] = torch.tensor([True, True, False, False])
    first = {key: value[:2] for key, value in batch_of().items()}
    torch.manual_seed(0)
    whole = task([Teacher("t", small(1))], **{name: {}}).losses(batch, "student")
    torch.manual_seed(0)
    part = task([Teacher("t", small(1))], **{name: {}}).losses(first, "student")
    shown = [key for key in part if key.startswith("t/")]
    assert shown
    for key in shown:
        assert whole[key].item() == pytest.approx(part[key].item() / 2, rel=1e-4, abs=1e-6), key
    batch["has_mask"][:] = False
    none = task([Teacher("t", small(1))], **{name: {}}).losses(batch, "student")
    assert all(none[key].item() == 0 for key in shown if key in none)
    assert torch.isfinite(none["loss"])


def test_methods_of_features_refuse_stored_maps() -> None:
    with pytest.raises(
        InputError, match=r"attention_transfer: it reads features of teacher 't' .*targets: view"
    ):
        task([StoredTeacher("t")], attention_transfer={})
