"""Views of whole volumes: patches, their geometry, and maps that move with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segdistill.data.augment import Augment
from segdistill.data.case import Case
from segdistill.data.maps import encode, open_maps, writing_maps
from segdistill.data.plan import patch_of, plan_volumes
from segdistill.data.store import Ragged, Store, prepare_store
from segdistill.data.table import write_cases
from segdistill.data.views import VolumeViews, batches
from segdistill.errors import InputError
from segdistill.imaging.classes import parse_classes
from segdistill.imaging.grid import VolumePreprocess
from tests.experiment.tiny import segdistill
from tests.imaging.volumes import write_itk

PREPROCESS = VolumePreprocess((8, 8, 8), (2.0, 1.0, 1.0))
CLASSES = parse_classes({"core": 1, "shell": 2})


def cases(folder: Path) -> list[Case]:
    """A bright core in a shell, in volumes of different shapes."""
    found = []
    for k, shape in enumerate([(6, 20, 18), (9, 12, 12), (4, 10, 26)]):
        mask = np.zeros(shape, np.uint8)
        mask[1:-1, 3:9, 3:9], mask[2:-2, 5:7, 5:7] = 2, 1
        image = (mask * 60 + 20).astype(np.int16)
        paths = [
            write_itk(folder / f"{k}{end}.nii.gz", array, spacing=(1.0, 1.0, 2.0))
            for end, array in (("", image), ("m", mask))
        ]
        found.append(Case(f"c{k}", paths[0], (paths[1],), classes=CLASSES))
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return prepare_store(cases(tmp_path), PREPROCESS, tmp_path / "s")


def test_a_row_is_a_whole_volume(store: Store, tmp_path: Path) -> None:
    assert store.ids == ["c0", "c1", "c2"]
    assert store.holds_volumes
    assert store.size == (8, 8, 8)
    for k in range(3):
        assert store.image(k).shape == store.mask(k).shape == store.shape(k)
        assert store.classes(f"c{k}") <= {1, 2}
    assert set(np.unique(store.mask(0))) == {0, 1, 2}
    again = prepare_store(cases(tmp_path), PREPROCESS, tmp_path / "s")
    assert np.array_equal(again.image(1), store.image(1))


def test_a_view_is_fixed_by_seed_number_and_case_and_keeps_image_and_mask_together(store: Store) -> None:
    turned = Augment(rotate=20, scale=0.2, flip_horizontal=0.5, flip_vertical=0.5)
    for augment in (Augment(), turned):
        views, other = (VolumeViews(store, store.ids, PREPROCESS, augment, seed=3) for _ in range(2))
        different = 0
        for k in range(3):
            for number in range(6):
                image, mask = views.pixels(k, number)
                assert image.shape == mask.shape == (8, 8, 8)
                assert all(
                    np.array_equal(a, b) for a, b in zip((image, mask), other.pixels(k, number), strict=True)
                )
                different += not np.array_equal(image, views.pixels(k, number + 1)[0])
                inside, outside = image[mask > 0], image[mask == 0]
                if len(inside) > 20 and len(outside) > 20:
                    assert inside.mean() > outside.mean()
        assert different > 6


def test_maps_move_with_their_volumes(store: Store) -> None:
    truth = [np.stack([store.mask(k) == c for c in (1, 2)]).astype(np.float32) for k in range(3)]
    with writing_maps(store, "m", {}, classes=2) as write:
        for k in (0, 2):
            write(k, encode(np.clip(truth[k], 0.01, 0.98), axis=0))
    found = open_maps(store, "m")
    assert found is not None
    assert isinstance(found.values, Ragged)
    assert not found.values[1].any()
    views = VolumeViews(store, store.ids, PREPROCESS, Augment(rotate=20, flip_horizontal=0.5), seed=1)
    views.maps = {"t": found.values}
    for k in (0, 2):
        for number in range(4):
            mask, warped = views.pixels(k, number)[1], views.warped(k, number)
            assert warped.shape == (2, 8, 8, 8)
            if (mask == 2).sum() > 30:
                assert warped[1][mask == 2].mean() > warped[1][mask == 0].mean() + 50
    batch = next(batches(views, 3, 0, workers=0))
    assert batch["image"].shape == (3, 1, 8, 8, 8)
    assert batch["map/t"].shape == (3, 2, 8, 8, 8)
    assert batch["mask"].shape == (3, 8, 8, 8)


def test_a_third_of_the_patches_lie_around_foreground(tmp_path: Path) -> None:
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[2, 2, 2] = 1
    image = write_itk(tmp_path / "a.nii.gz", mask.astype(np.int16) * 100)
    case = Case("a", image, (write_itk(tmp_path / "m.nii.gz", mask),))
    store = prepare_store([case], VolumePreprocess((4, 4, 4)), tmp_path / "s")
    views = VolumeViews(store, ["a"], VolumePreprocess((4, 4, 4)))
    share = np.mean([views.pixels(0, number)[1].any() for number in range(300)])
    assert 0.25 < share < 0.45


def test_the_plan_follows_the_volumes(tmp_path: Path) -> None:
    plan = plan_volumes(cases(tmp_path))
    assert plan.spacing == (2.0, 1.0, 1.0)
    assert plan.shape == (6, 12, 18)
    assert plan.patch == (8, 16, 24)
    assert plan.labelled == 0
    assert patch_of((512, 512, 300)) == (64, 64, 64)
    with pytest.raises(InputError, match=r"set data\.dimensions=2"):
        plan_volumes([Case("a", tmp_path / "a.png")])


def test_the_values_are_those_of_the_structures(tmp_path: Path) -> None:
    """Against NumPy over all voxels of the structures, which lie in slices that a look at every k-th one may miss."""
    rng, table, inside = np.random.default_rng(0), [], []
    for k in range(3):
        values = rng.integers(-1000, -900, (40, 20, 20)).astype(np.int16)
        mask = np.zeros(values.shape, np.uint8)
        mask[13:15, 3:12, 4:16] = 1 + k % 2
        values[mask > 0] = rng.normal(60 * (k + 1), 20, int((mask > 0).sum())).astype(np.int16)
        inside.append(values[mask > 0])
        image = write_itk(tmp_path / f"{k}.nii.gz", values)
        table.append(Case(str(k), image, (write_itk(tmp_path / f"{k}m.nii.gz", mask),)))
    bare = replace(table[0], id="bare", masks=())
    plan = plan_volumes([*table, bare], masks=True)
    assert plan.labelled == 3
    assert plan.levels == pytest.approx(np.percentile(np.concatenate(inside), (0.5, 99.5)), abs=4)
    assert plan_volumes([bare], masks=True).labelled == 0
    assert plan_volumes([bare], masks=True).levels[0] < -900
    write_cases([*table, bare], tmp_path / "cases.csv")
    shown = segdistill("data", "plan", tmp_path / "cases.csv")
    assert "(percentiles 0.5 and 99.5 of the structures in 3 volumes)" in shown.out
    write_cases([bare], tmp_path / "cases.csv")
    assert "of all voxels, median)" in segdistill("data", "plan", tmp_path / "cases.csv").out


def test_the_store_tells_overlaps_and_misfits(tmp_path: Path) -> None:
    mask = np.zeros((6, 8, 8), np.uint8)
    mask[1:4] = 1
    image = write_itk(tmp_path / "i.nii.gz", mask.astype(np.int16) * 9, origin=(1.0, 2.0, 3.0))
    files = [
        write_itk(tmp_path / f"{name}.nii.gz", mask, origin=(1.0 + beside, 2.0, 3.0))
        for name, beside in (("organ", 0.0), ("core", 4e-4))
    ]
    case = Case(
        "a", image, tuple(files), classes=parse_classes(["organ", "core"]), mask_classes=("organ", "core")
    )
    for _ in range(2):  # made, and opened again
        overlap, misfit = prepare_store([case], VolumePreprocess((4, 4, 4)), tmp_path / "s").notes()
        assert overlap.startswith("classes overlap in 1 cases")
        assert "192 pixels or voxels" in overlap
        assert "core.nii.gz by most (0.0" in misfit
