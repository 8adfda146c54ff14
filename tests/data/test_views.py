from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from segdistill.data.augment import AUGMENTS, Augment, make_augment
from segdistill.data.case import Case
from segdistill.data.store import Store, prepare_store
from segdistill.data.views import Views, batch_indices, batches
from segdistill.errors import InputError
from segdistill.imaging.preprocess import Preprocess

PREPROCESS = Preprocess(size=(48, 40), mean=(0.3,), std=(0.2,))


@pytest.fixture(scope="module")
def store(phantom_cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Store:
    cases = [*phantom_cases[:18], replace(phantom_cases[18], masks=())]
    return prepare_store(cases, PREPROCESS, tmp_path_factory.mktemp("store"))


def view_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("views")]


def test_without_augmentation_a_view_is_the_prepared_case(store: Store) -> None:
    views = Views(store, store.ids, PREPROCESS)
    image, mask = views.view(3, 17)
    assert image.dtype == torch.float32
    assert mask.dtype == torch.int64
    assert np.array_equal(image.numpy(), PREPROCESS.normalise(store.image(3)))
    assert np.array_equal(mask.numpy(), store.mask(3))


@pytest.mark.parametrize("name", [name for name in AUGMENTS if name != "none"])
def test_views_are_fixed_by_seed_number_and_case_alone(store: Store, name: str) -> None:
    views = Views(store, store.ids, PREPROCESS, name, seed=1)
    expected = {(k, n): views.view(k, n) for k in range(4) for n in range(4)}
    other_order = Views(store, store.ids[::-1], PREPROCESS, name, seed=1)
    found: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def look(keys: list[tuple[int, int]]) -> None:
        for k, n in keys:
            found[k, n] = other_order.view(len(store) - 1 - k, n)

    keys = sorted(expected, key=lambda key: (-key[1], key[0]))
    threads = [threading.Thread(target=look, args=(keys[part::3],)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key, (image, mask) in expected.items():
        assert torch.equal(found[key][0], image)
        assert torch.equal(found[key][1], mask)
        assert image.shape == (3, 48, 40)
        assert image.dtype == torch.float32
        assert mask.shape == (48, 40)
        assert set(mask.unique().tolist()) <= {0, 1}
    changed = Views(store, store.ids, PREPROCESS, name, seed=2)
    assert any(not torch.equal(changed.view(k, n)[0], expected[k, n][0]) for k, n in expected)
    assert any(not torch.equal(expected[0, 0][0], expected[0, n][0]) for n in range(1, 4))


def test_another_process_sees_the_same(store: Store) -> None:
    code = (
        "import sys, hashlib; from pathlib import Path; from segdistill.data.store import Store;"
        "from segdistill.data.views import Views; from segdistill.imaging.preprocess import Preprocess;"
        "s = Store(Path(sys.argv[1])); v = Views(s, s.ids, Preprocess(size=(48, 40)), 'amtd', 5);"
        "print(hashlib.sha256(b''.join(v.view(k, 3)[0].numpy().tobytes() for k in range(8))).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(store.folder)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 64


def test_the_mask_follows_the_image(store: Store) -> None:
    """With the mask as the picture, both must come out alike but for interpolation."""
    geometric = Augment(
        flip_horizontal=0.5, flip_vertical=0.5, rotate_90=1.0, rotate=30, shift=0.1, scale=0.2
    )
    square = Preprocess(size=(48, 48))
    mask = np.zeros((48, 48), np.uint8)
    mask[10:30, 12:25] = 1

    class Fake:
        ids = ("a",)
        size = (48, 48)

        def rows(self, name: str) -> list[int]:
            return [0]

        def has_mask(self, row: int) -> bool:
            return True

        def image(self, row: int) -> np.ndarray:
            return mask[..., None] * np.uint8(255)

        def mask(self, row: int) -> np.ndarray:
            return mask

    views = Views(Fake(), ["a"], square, geometric)  # type: ignore[arg-type]
    for number in range(20):
        image, reference = views.pixels(0, number)
        assert ((image[..., 0] > 127) != (reference > 0)).mean() < 0.03
        assert not np.array_equal(reference, mask) or number
    flips = Views(Fake(), ["a"], square, Augment(flip_horizontal=1.0))  # type: ignore[arg-type]
    assert np.array_equal(flips.pixels(0, 0)[1], mask[:, ::-1])


def test_count_repeats_views_and_mistakes_are_named(store: Store) -> None:
    views = Views(store, store.ids, PREPROCESS, count=3)
    assert [views.number(epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]
    assert Views(store, store.ids, PREPROCESS).number(7) == 7
    with pytest.raises(InputError, match="no cases"):
        Views(store, [], PREPROCESS)
    with pytest.raises(InputError, match="not in the prepared store"):
        Views(store, ["nobody"], PREPROCESS)
    with pytest.raises(InputError, match="prepare it again"):
        Views(store, store.ids, Preprocess(size=(8, 8)))
    with pytest.raises(InputError, match="did you mean 'lightbtseg'"):
        make_augment("lightbtsge")
    with pytest.raises(InputError, match="did you mean 'rotate'"):
        make_augment({"rotat": 3})
    with pytest.raises(InputError, match="outside 0 to 1"):
        Augment(flip_horizontal=2)
    with pytest.raises(InputError, match="not a number"):
        make_augment({"rotate": "much"})


@pytest.mark.parametrize(
    ("length", "batch_size", "world"), [(19, 4, 1), (17, 4, 1), (19, 8, 2), (1, 4, 1), (8, 4, 1), (5, 1, 1)]
)
def test_every_case_once_in_batches(length: int, batch_size: int, world: int) -> None:
    parts = batch_indices(length, batch_size, seed=3, epoch=2, world=world)
    assert sorted(np.concatenate(parts).tolist()) == list(range(length))
    assert all(len(part) >= min(2 * world, length, batch_size) for part in parts)
    again = batch_indices(length, batch_size, seed=3, epoch=2, world=world)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    dropped = batch_indices(length, batch_size, seed=3, epoch=2, drop_last=True)
    assert {len(part) for part in dropped} == {min(batch_size, length)}
    if length > 5:
        other = batch_indices(length, batch_size, seed=3, epoch=3, world=world)
        assert np.concatenate(other).tolist() != np.concatenate(parts).tolist()
        assert np.concatenate(batch_indices(length, batch_size, 3, 2, shuffle=False)).tolist() == list(
            range(length)
        )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_hold_their_views(store: Store, workers: int) -> None:
    views = Views(store, store.ids, PREPROCESS, "lightbtseg", seed=4)
    given = list(batches(views, 5, epoch=1, workers=workers))
    assert [len(batch["index"]) for batch in given] == [5, 5, 5, 4]
    for batch in given:
        assert batch["image"].shape == (len(batch["index"]), 3, 48, 40)
        for position, k in enumerate(batch["index"].tolist()):
            image, mask = views.view(k, 1)
            assert torch.equal(batch["image"][position], image)
            assert torch.equal(batch["mask"][position], mask)
            assert bool(batch["has_mask"][position]) == (k != 18)
    assert sorted(torch.cat([batch["index"] for batch in given]).tolist()) == list(range(19))
    later = list(batches(views, 5, epoch=1, start=2, workers=workers))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(later, given[2:], strict=True))
    assert not view_threads()


def test_processes_share_each_batch(store: Store) -> None:
    views = Views(store, store.ids, PREPROCESS)
    whole = list(batches(views, 7, epoch=0, world=1))
    parts = [list(batches(views, 7, epoch=0, rank=rank, world=2)) for rank in range(2)]
    for position in range(3):
        joined = sorted(torch.cat([part[position]["index"] for part in parts]).tolist())
        assert joined == sorted(whole[position]["index"].tolist())
    with pytest.raises(InputError, match="fewer cases than the 9 processes"):
        next(batches(views, 8, epoch=0, world=9))


class Slow(Views):
    """Counts its views, and fails at one of them."""

    made = 0
    fail_at = -1

    def pixels(self, k: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        self.made += 1
        if self.made == self.fail_at:
            raise ValueError("this view is broken")
        return super().pixels(k, number)


def test_closing_early_stops_the_threads(store: Store) -> None:
    views = Slow(store, store.ids, PREPROCESS)
    source = batches(views, 2, epoch=0, workers=2)
    next(source)
    time.sleep(0.2)
    assert views.made <= 2 * 4  # given one, three ahead
    source.close()
    assert not view_threads()


def test_an_error_in_a_thread_reaches_the_caller(store: Store) -> None:
    views = Slow(store, store.ids, PREPROCESS)
    views.fail_at = 7
    with pytest.raises(ValueError, match="this view is broken"):
        list(batches(views, 2, epoch=0, workers=1))
    assert not view_threads()
