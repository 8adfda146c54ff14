from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data import duplicates
from segdistill.data.case import Case
from segdistill.data.datasets import create_dataset
from segdistill.data.duplicates import Fingerprint, find_duplicates, find_pairs, fingerprint, group_duplicates
from segdistill.data.leaks import leaks
from segdistill.data.phantom import draw_phantom
from segdistill.data.splits import hold_out, unstratified
from tests.data.pictures import noise, save


def picture(seed: int) -> np.ndarray:
    """Texture with detail of several sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.random((n, n), dtype=np.float32)).resize((300, 260), Image.Resampling.BICUBIC)
        )
        for n in (6, 12, 24, 48)
    ]
    return (255 * np.clip(sum(layers) / 4, 0, 1)).astype(np.uint8)


COPIES = {
    "same": lambda p: p,
    "brighter": lambda p: np.clip(p * 1.2 + 20, 0, 255).astype(np.uint8),
    "cropped": lambda p: p[6:-3, 4:-9],
    "smaller": lambda p: np.asarray(Image.fromarray(p).resize((210, 180), Image.Resampling.BILINEAR)),
    "noisy": lambda p: np.clip(p + np.random.default_rng(0).normal(0, 6, p.shape), 0, 255).astype(np.uint8),
    "shifted": lambda p: np.roll(p, (5, -7), (0, 1)),
    "mirrored": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "cropped by 5 % on each side": lambda p: p[13:-13, 15:-15],
    "in a frame": lambda p: np.pad(p, ((40, 20), (90, 60))),
    "in a white frame": lambda p: np.pad(p, 50, constant_values=255),
}


@pytest.mark.parametrize("how", sorted(COPIES))
def test_copies_are_found_among_others(how: str) -> None:
    originals = [picture(seed) for seed in range(12)]
    pictures = [*originals, COPIES[how](originals[3])]
    pairs = find_pairs([str(i) for i in range(13)], [fingerprint(p) for p in pictures])
    assert [(pair.first, pair.second) for pair in pairs] == [("3", "12")]
    assert pairs[0].kind == ("identical" if how == "same" else "near")


def test_different_phantoms_are_not_copies() -> None:
    prints = [
        fingerprint(draw_phantom(kind, seed, 96)[0]) for kind in ("benign", "normal") for seed in range(30)
    ]
    assert find_pairs([str(i) for i in range(60)], prints) == []


def round_field(p: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:260, :300] - np.array([130, 150])[:, None, None]
    return np.where(y * y + x * x < 125**2, p, 0).astype(np.uint8)


def beside_a_bar(p: np.ndarray) -> np.ndarray:
    bar = np.linspace(255, 0, 260).astype(np.uint8)[:, None].repeat(30, 1)
    return np.concatenate([p[:, :-30], np.where(np.arange(260)[:, None] // 13 % 2, bar, 255 - bar)], axis=1)


def noisy_frame(p: np.ndarray) -> np.ndarray:
    noisy = np.pad(p, 80) + np.random.default_rng(0).normal(2, 2, (420, 460))
    return np.clip(noisy, 0, 255).astype(np.uint8)


SURROUNDINGS = {
    "frame": lambda p: np.pad(p, ((80, 60), (90, 90))),
    "noisy frame": noisy_frame,
    "padding": lambda p: np.pad(p, ((20, 20), (0, 0))),
    "round field": round_field,
    "bar": beside_a_bar,
}


@pytest.mark.parametrize("what", sorted(SURROUNDINGS))
def test_different_pictures_are_not_copies_whatever_surrounds_them(what: str) -> None:
    around = SURROUNDINGS[what]
    pictures = [around(picture(seed)) for seed in range(24)]
    prints = [fingerprint(p) for p in [*pictures, *(p[:, ::-1] for p in pictures[:6])]]
    pairs = find_pairs([str(i) for i in range(30)], prints)
    assert {(int(pair.first), int(pair.second)) for pair in pairs} == {(i, i + 24) for i in range(6)}


def test_all_pairs_of_many_copies_are_found() -> None:
    base = picture(0)
    copies = [np.clip(base * (1 - 0.02 * k) + k, 0, 255).astype(np.uint8) for k in range(12)]
    pairs = find_pairs(
        [str(i) for i in range(20)], [fingerprint(p) for p in [*copies, *map(picture, range(1, 9))]]
    )
    assert len(pairs) == 12 * 11 // 2


def test_the_time_per_picture_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in close looks, not in seconds."""
    looks = []
    real = duplicates._block_similarity
    monkeypatch.setattr(duplicates, "_block_similarity", lambda *pair: (looks.append(1), real(*pair))[1])
    for count in (50, 200):
        looks.clear()
        find_pairs([str(i) for i in range(count)], [fingerprint(noise(i)) for i in range(count)])
        assert len(looks) <= 4 * 3 * count


def test_blank_pictures_and_short_lists() -> None:
    blank = fingerprint(np.zeros((50, 60), np.uint8))
    white = fingerprint(np.full((50, 60), 255, np.uint8))
    assert find_pairs([], []) == []
    assert find_pairs(["a"], [blank]) == []
    assert [pair.kind for pair in find_pairs(["a", "b"], [blank, blank])] == ["identical"]
    assert find_pairs(["a", "b"], [blank, white]) == []


def test_identical_pixels_whatever_the_file(tmp_path: Path) -> None:
    grey = save(tmp_path / "a.png", noise(1))
    rgb = save(tmp_path / "b.bmp", noise(1), mode="RGB")
    pairs = find_duplicates([Case("a", grey), Case("b", rgb), Case("c", save(tmp_path / "c.png", noise(2)))])
    assert [(pair.first, pair.second, pair.kind) for pair in pairs] == [("a", "b", "identical")]
    assert isinstance(fingerprint(noise(1)), Fingerprint)


# seen by eye: another crop, another scale, other calipers, conflicting labels
COPIES_IN_BUSI = {
    ("benign (233)", "benign (299)"),
    ("malignant (18)", "malignant (116)"),
    ("benign (226)", "benign (263)"),
    ("normal (51)", "normal (54)"),
    ("benign (399)", "malignant (93)"),
    ("benign (269)", "normal (1)"),
    ("benign (85)", "malignant (52)"),
    ("malignant (106)", "malignant (107)"),
}
# seen by eye: the same patient at most, or nothing in common
OTHERS_IN_BUSI = {
    ("benign (343)", "benign (361)"),
    ("malignant (139)", "malignant (207)"),
    ("benign (413)", "malignant (150)"),
}
IDENTICAL_IN_BUSI = ("benign (433)", "malignant (145)")


def test_known_pairs_of_busi(data_root: Path) -> None:
    named = {name for pair in (*COPIES_IN_BUSI, *OTHERS_IN_BUSI, IDENTICAL_IN_BUSI) for name in pair}
    pairs = find_duplicates([case for case in create_dataset("busi", data_root / "busi") if case.id in named])
    assert {(pair.first, pair.second) for pair in pairs} == COPIES_IN_BUSI | {IDENTICAL_IN_BUSI}


@pytest.mark.slow
def test_real_busi(data_root: Path) -> None:
    cases = create_dataset("busi", data_root / "busi")
    pairs = find_duplicates(cases)
    found = {(pair.first, pair.second): pair for pair in pairs}
    identical = [pair for pair in pairs if pair.kind == "identical"]
    assert [(pair.first, pair.second) for pair in identical] == [IDENTICAL_IN_BUSI]
    assert set(found) >= COPIES_IN_BUSI
    assert not OTHERS_IN_BUSI & set(found)
    assert 200 <= len(pairs) <= 260  # the literature counts 235 duplicates
    grouped = group_duplicates(cases, pairs)
    sizes = Counter(case.group_key for case in grouped)
    assert max(sizes.values()) <= 10
    assert not leaks(hold_out(grouped), pairs)
    assert len(leaks(unstratified(cases), pairs)) > 10
