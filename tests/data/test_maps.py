"""Predicted maps beside the masks of a store, and how views warp them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdistill.data.augment import AUGMENTS
from segdistill.data.case import Case
from segdistill.data.maps import LARGEST, encode, open_maps, writing_maps
from segdistill.data.store import Store, prepare_store
from segdistill.data.views import MAP, Views, batches
from segdistill.imaging.preprocess import Preprocess

PREPROCESS = Preprocess(size=(48, 40))


@pytest.fixture
def store(phantom_cases: list[Case], tmp_path: Path) -> Store:
    return prepare_store(phantom_cases[:12], PREPROCESS, tmp_path)


@given(st.floats(0, 1))
def test_log_odds_are_kept_to_half_a_step(probability: float) -> None:
    code = encode(np.array([probability]))
    clipped = np.clip(probability, 1 / (1 + np.exp(LARGEST)), 1 / (1 + np.exp(-LARGEST)))
    odds = code[0] * (2 * LARGEST / 255) - LARGEST
    assert abs(odds - np.log(clipped / (1 - clipped))) <= LARGEST / 255 + 1e-6


def test_maps_are_found_again_and_rows_left_out_are_empty(store: Store) -> None:
    given = np.random.default_rng(0).integers(0, 256, (2, 1, *store.size), dtype=np.uint8)
    facts: dict[str, float] = {}
    assert open_maps(store, "key") is None
    with writing_maps(store, "key", facts) as write:
        write(1, given[0])
        write(7, given[1])
        facts["seconds"] = 2.0
    found = open_maps(store, "key")
    assert found is not None
    assert found.facts == {"seconds": 2.0}
    assert found.values.shape == (12, 1, 48, 40)
    assert np.array_equal(found.values[[1, 7]], given)
    assert not found.values[[0, 2, 11]].any()


def test_an_error_leaves_nothing_and_damage_counts_as_absent(store: Store) -> None:
    before = sorted(path.name for path in store.folder.iterdir())

    def stopped() -> None:
        with writing_maps(store, "key", {}) as write:
            write(0, np.zeros(store.size, np.uint8))
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert sorted(path.name for path in store.folder.iterdir()) == before
    with writing_maps(store, "key", {}) as write:
        write(3, np.full(store.size, 200, np.uint8))
    path = store.folder / "maps-key.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert open_maps(store, "key") is None


@pytest.mark.parametrize("augment", sorted(AUGMENTS))
def test_a_map_is_warped_as_its_mask(store: Store, augment: str) -> None:
    """The mask as a map ends up on the pixels of the mask, but for outlines, which one interpolates."""
    views = Views(store, store.ids, PREPROCESS, augment, seed=3)
    views.maps = {"own": np.stack([store.mask(row)[None] * np.uint8(255) for row in range(len(store))])}
    for k in range(6):
        for number in range(3):
            mask = views.pixels(k, number)[1].astype(bool)
            warped = views.warped(k, number)[0]
            assert warped.shape == mask.shape
            assert ((warped > 127) != mask).mean() < 0.04
            if mask.sum() > 100:
                overlap = 2 * ((warped > 127) & mask).sum() / ((warped > 127).sum() + mask.sum())
                assert (
                    overlap > 0.75
                )  # an oblong quarter turn is stretched, and a mask takes the nearest pixel


def test_batches_hold_the_maps_and_hide_masks(store: Store) -> None:
    hidden = store.ids[:4]
    views = Views(store, store.ids, PREPROCESS, without_mask=hidden)
    views.maps = {
        "a": np.full((len(store), 2, *store.size), 9, np.uint8),
        "b": np.zeros((12, 1, 48, 40), np.uint8),
    }
    for batch in batches(views, 5, 0, workers=0):
        assert set(batch) == {"image", "mask", "index", "has_mask", f"{MAP}a", f"{MAP}b"}
        assert (batch[f"{MAP}a"] == 9).all()
        assert batch[f"{MAP}a"].shape[1:] == (2, *store.size)
        assert batch["has_mask"].tolist() == [int(k) >= 4 for k in batch["index"]]
        assert not batch["mask"][~batch["has_mask"]].any()


def test_every_batch_has_its_share_of_masks(store: Store) -> None:
    views = Views(store, store.ids, PREPROCESS, without_mask=store.ids[3:], masks_share=0.5, order_seed=1)
    shown = []
    for epoch in range(3):
        order = views.order(4, epoch)
        assert [len(part) for part in order] == [4, 4, 4]
        assert all((part < 3).sum() == 2 for part in order)
        assert all(np.array_equal(a, b) for a, b in zip(order, views.order(4, epoch), strict=True))
        shown += [int(row) for part in order for row in part if row >= 3]
        masked = [int(row) for part in order for row in part if row < 3]
        assert {masked.count(row) for row in range(3)} == {2}  # each as often
    assert set(shown) == set(range(3, 12))  # over epochs all are seen
    plain = Views(store, store.ids, PREPROCESS, masks_share=0.5)
    assert plain.masks_share is None  # all have a mask
