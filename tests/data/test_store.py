from __future__ import annotations

import json
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data import store as module
from segdistill.data.case import Case, reference_mask
from segdistill.data.datasets import create_dataset
from segdistill.data.store import prepare_store
from segdistill.errors import InputError
from segdistill.imaging.preprocess import Preprocess, prepare_mask
from tests.data.pictures import make_folder, noise, save

PREPROCESS = Preprocess(size=(24, 32))


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")] if folder.exists() else []


def test_another_process_gets_the_files_and_not_their_content(
    phantom_cases: list[Case], tmp_path: Path
) -> None:
    store = prepare_store(phantom_cases, PREPROCESS, tmp_path)
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    assert again.ids == store.ids
    assert np.array_equal(again.image(3), store.image(3))


def test_rows_are_what_preprocessing_makes(phantom_cases: list[Case], tmp_path: Path) -> None:
    cases = [*phantom_cases[:5], replace(phantom_cases[5], masks=())]
    done: list[tuple[int, int]] = []
    store = prepare_store(cases, PREPROCESS, tmp_path, progress=lambda *at: done.append(at), workers=3)
    assert done == [(n, 6) for n in range(1, 7)]
    assert len(store) == 6
    assert store.size == (24, 32)
    for case in cases:
        row = store.row(case.id)
        pixels = np.asarray(Image.open(case.image))
        assert np.array_equal(store.image(row), PREPROCESS.prepare(pixels))
        assert np.array_equal(store.mask(row), prepare_mask(reference_mask(case, (64, 64)), (24, 32)))
        assert store.has_mask(row) == bool(case.masks)
    assert not store.mask(5).any()
    assert not store.image(0).flags.writeable
    with pytest.raises(InputError, match="'nobody' is not in the prepared store"):
        store.row("nobody")


def test_colour(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", np.stack([noise(0), noise(1), noise(2)], axis=-1))
    rgb = prepare_store([Case("a", image)], Preprocess(size=(8, 8), colour="rgb"), tmp_path / "s")
    grey = prepare_store([Case("a", image)], Preprocess(size=(8, 8)), tmp_path / "s")
    assert rgb.image(0).shape == (8, 8, 3)
    assert grey.image(0).shape == (8, 8, 1)
    assert rgb.folder != grey.folder


def test_built_once_and_again_when_content_changes(tmp_path: Path) -> None:
    cases = create_dataset("folder", make_folder(tmp_path / "in"))
    calls: list[tuple[int, int]] = []
    first = prepare_store(cases, PREPROCESS, tmp_path / "s", lambda *at: calls.append(at))
    again = prepare_store(cases, PREPROCESS, tmp_path / "s", lambda *at: calls.append(at))
    assert first.folder == again.folder
    assert len(calls) == 4
    other_normalisation = replace(PREPROCESS, mean=(0.5,), std=(0.2,))
    assert prepare_store(cases, other_normalisation, tmp_path / "s").folder == first.folder
    save(tmp_path / "in" / "masks" / "0.png", np.zeros((48, 40)))
    changed = prepare_store(cases, PREPROCESS, tmp_path / "s")
    assert changed.folder != first.folder
    assert not changed.mask(0).any()


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "index", "empty index"])
def test_a_damaged_store_is_rebuilt(tmp_path: Path, damage: str) -> None:
    cases = create_dataset("folder", make_folder(tmp_path / "in"))
    store = prepare_store(cases, PREPROCESS, tmp_path / "s")
    expected = np.array(store.image(2))
    images, index = store.folder / "images.npy", store.folder / "index.json"
    content = bytearray(images.read_bytes())
    del store
    if damage == "flipped":
        content[-100] ^= 1
        images.write_bytes(content)
    elif damage == "cut":
        images.write_bytes(content[:-5])
    elif damage == "gone":
        images.unlink()
    elif damage == "index":
        index.write_text("{not json")
    else:
        index.write_text(json.dumps({}))
    rebuilt = prepare_store(cases, PREPROCESS, tmp_path / "s")
    assert np.array_equal(rebuilt.image(2), expected)
    assert left_behind(tmp_path / "s") == []


def test_a_failure_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    cases = create_dataset("folder", make_folder(tmp_path / "in"))
    (tmp_path / "in" / "images" / "3.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"3\.png"):
        prepare_store(cases, PREPROCESS, tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []
    with pytest.raises(InputError, match="no cases"):
        prepare_store([], PREPROCESS, tmp_path / "s")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = create_dataset("folder", make_folder(tmp_path / "in"))
    prepare = Preprocess.prepare
    count = 0

    def full(self: Preprocess, pixels: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "No space left on device")
        return prepare(self, pixels)

    monkeypatch.setattr(Preprocess, "prepare", full)
    with pytest.raises(InputError, match="No space left on device"):
        prepare_store(cases, PREPROCESS, tmp_path / "s", workers=1)
    assert list((tmp_path / "s").iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    cases = create_dataset("folder", make_folder(tmp_path / "in"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write the prepared store"):
        prepare_store(cases, PREPROCESS, tmp_path / "file" / "s")


def test_several_builders_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = create_dataset("folder", make_folder(tmp_path / "in"))
    meet = threading.Barrier(3)
    publish = module._publish

    def together(temporary: Path, target: Path) -> None:
        meet.wait(20)
        publish(temporary, target)

    monkeypatch.setattr(module, "_publish", together)
    stores: list[module.Store] = []
    builders = [
        threading.Thread(target=lambda: stores.append(prepare_store(cases, PREPROCESS, tmp_path / "s")))
        for _ in range(3)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(30)
    assert len(stores) == 3
    assert {store.folder for store in stores} == {stores[0].folder}
    assert all(np.array_equal(store.image(1), stores[0].image(1)) for store in stores)
    assert [path.name for path in (tmp_path / "s").iterdir()] == [stores[0].folder.name]


def small_lesions(folder: Path) -> list[Case]:
    """Pictures of 200 x 160 with a lesion of 1 x 3 pixels, one of 40 x 40, and in the first a single pixel."""
    cases = []
    for n in range(3):
        mask = np.zeros((200, 160), np.uint8)
        mask[20 + n, 30:33] = mask[100:140, 60:100] = 255
        mask[190, 150] = 255 * (n == 0)
        image = save(folder / f"{n}.png", noise(n, 200, 160))
        cases.append(Case(str(n), image, (save(folder / f"{n}_mask.png", mask),)))
    return cases


def test_small_lesions_are_kept_counted_and_told_again(tmp_path: Path) -> None:
    cases, size = small_lesions(tmp_path / "in"), Preprocess(size=(32, 32))
    store = prepare_store(cases, size, tmp_path / "s")
    plain = prepare_store(cases, size, tmp_path / "s", keep_small=False)
    assert store.folder != plain.folder
    for row in range(3):
        expected = prepare_mask(reference_mask(cases[row], (200, 160)), (32, 32))
        assert np.array_equal(plain.mask(row), expected)
        added = np.argwhere(store.mask(row) != expected).tolist()
        assert added == [[(20 + row) * 32 // 200, 6]]
    assert (store.small.total, store.small.vanished, store.small.exempt) == (6, 3, 1)
    assert store.small_note() == (
        "3 of 6 components of the masks are too small for 32x32 and vanish: each is trained as the one pixel that it "
        f"covers most; size={store.small.keeping_size(32)} keeps all of them; 1 of fewer than 3 pixels vanish and are "
        "not counted"
    )
    assert "trained as background (data.keep_small=true" in plain.small_note()
    assert prepare_store(cases, size, tmp_path / "s").small_note() == store.small_note()
    side = store.small.keeping_size(32)
    large = prepare_store(cases, Preprocess(size=(side, side)), tmp_path / "s")
    assert large.small.vanished == 0
    assert prepare_store(cases, Preprocess(size=(256, 256)), tmp_path / "s").small_note() == ""


def test_masks_that_look_inverted_are_told_of_pictures(tmp_path: Path) -> None:
    cases = create_dataset("folder", make_folder(tmp_path / "in"))
    assert prepare_store(cases, PREPROCESS, tmp_path / "s").notes() == []
    for case in cases:
        save(case.masks[0], 255 - np.asarray(Image.open(case.masks[0])))
    for _ in range(2):  # built, and used again
        (note,) = prepare_store(cases, PREPROCESS, tmp_path / "s").notes()
        assert note.startswith("foreground is most of the border or most of the image in 4 of 4 masks")
    named = [replace(case, foreground=(0,)) for case in cases]
    assert prepare_store(named, PREPROCESS, tmp_path / "s").notes() == []
