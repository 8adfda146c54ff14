from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.config.schema import DataRecipe
from segdistill.data.case import Case
from segdistill.data.contact_sheet import contact_sheet
from segdistill.data.levels import levels_note, with_intensity, with_levels
from segdistill.data.opened import open_case
from segdistill.data.pack import pack_cases
from segdistill.data.store import prepare_store
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.experiment.cases import load_cases
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.preprocess import Preprocess
from tests.data.pictures import noise, save, square

BRIGHT = (1.0, 0.5, 0.25, 0.125)


def deep_cases(folder: Path, kind: type, top: float, suffix: str) -> list[Case]:
    """Pictures of four brightnesses, as four exposures of one device."""
    cases = []
    for n, share in enumerate(BRIGHT):
        pixels = (np.random.default_rng(n).random((48, 40)) * share * top).astype(kind)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        image = folder / "images" / f"{n}{suffix}"
        Image.fromarray(pixels).save(image)
        cases.append(Case(str(n), image, (save(folder / "masks" / f"{n}.png", square()),)))
    return cases


@pytest.mark.parametrize(
    ("kind", "top", "suffix"),
    [
        (np.uint16, 4095, ".png"),
        (np.uint16, 60000, ".tif"),
        (np.float32, 1.004, ".tif"),
        (np.float32, 3e4, ".tif"),
    ],
)
def test_deep_pictures_of_a_table_have_one_scale(tmp_path: Path, kind: type, top: float, suffix: str) -> None:
    cases = with_levels(deep_cases(tmp_path, kind, top, suffix))
    values = np.concatenate([np.asarray(Image.open(case.image)).ravel() for case in cases])
    low, high = np.percentile(values, [0.5, 99.5])
    for case in cases:
        assert case.levels is not None
        assert case.levels == pytest.approx((low, high), abs=0.01 * top)
    pixels = [open_case(case).pixels(0) for case in cases]
    expected = [255 * (np.asarray(Image.open(case.image)) - low) / (high - low) for case in cases]
    for found, wanted in zip(pixels, expected, strict=True):
        assert np.abs(found - wanted.clip(0, 255)).max() < 3
    assert "more than 8 bits: 4 pictures" in levels_note(cases)


def test_hot_pixels_do_not_decide(tmp_path: Path) -> None:
    (case, *_) = deep_cases(tmp_path, np.float32, 1.0, ".tif")
    pixels = np.asarray(Image.open(case.image)).copy()
    pixels[0, :4], pixels[1, :4] = 1e9, -1e9
    Image.fromarray(pixels).save(case.image)
    (found,) = with_levels([case])
    assert found.levels == pytest.approx((0, 1), abs=0.02)


def test_eight_bits_have_no_levels(tmp_path: Path) -> None:
    case = Case("a", save(tmp_path / "a.png", noise(0)))
    assert with_levels([case]) == [case]
    assert levels_note([case]) == ""
    plain = Preprocess((32, 32))
    assert with_intensity(plain, [case]) is plain
    assert np.array_equal(open_case(case, Intensity("window", 0, 9)).pixels(0), noise(0))


def test_pictures_of_one_value_and_of_nan(tmp_path: Path) -> None:
    flat, broken = (tmp_path / name for name in ("flat.tif", "broken.tif"))
    Image.fromarray(np.full((8, 8), 7, np.uint16)).save(flat)
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(broken)
    first, second = with_levels([Case("a", flat), Case("b", broken)])
    assert first.levels == (7, 8)
    assert second.levels is None


def test_levels_of_the_table_are_kept(tmp_path: Path) -> None:
    cases = deep_cases(tmp_path, np.uint16, 4095, ".png")
    given = [Case("0", cases[0].image, levels=(0.0, 8190.0)), *cases[1:]]
    write_cases(with_levels(given), tmp_path / "cases.csv")
    found = read_cases(tmp_path / "cases.csv")
    assert {case.levels for case in found} == {(0.0, 8190.0)}
    assert open_case(found[0]).pixels(0).max() == 127
    assert with_intensity(Preprocess((32, 32)), found).intensity == Intensity("window", 0.0, 8190.0)
    with pytest.raises(InputError, match=r"the column levels holds 2 pairs, such as '0 9' and '0 8190'"):
        with_intensity(Preprocess((32, 32)), [*found, Case("x", cases[0].image, levels=(0.0, 9.0))])


def test_a_run_a_copy_and_a_sheet_scale_alike(tmp_path: Path) -> None:
    write_cases(deep_cases(tmp_path, np.uint16, 4095, ".png"), tmp_path / "cases.csv")
    loaded = load_cases(DataRecipe(), tmp_path / "cases.csv", tmp_path / "run").cases
    levels = {case.levels for case in loaded}
    assert len(levels) == 1
    assert levels != {None}
    packed = pack_cases(read_cases(tmp_path / "cases.csv"), tmp_path / "packed", 48).cases
    assert all(case.levels is None for case in packed)
    store = prepare_store(loaded, with_intensity(Preprocess((48, 40)), loaded), tmp_path / "store")
    for case in loaded:
        pixels = open_case(case).pixels(0)
        assert np.array_equal(store.image(store.row(case.id))[..., 0], pixels)
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "packed" / "images" / f"{case.id}.png")), pixels
        )
    assert contact_sheet(loaded, tmp_path / "sheet.png") == 4


def test_a_recipe_may_name_the_window(tmp_path: Path) -> None:
    write_cases(deep_cases(tmp_path, np.uint16, 4095, ".png"), tmp_path / "cases.csv")
    data = DataRecipe(intensity={"kind": "window", "low": 0, "high": 1000}, size=[48, 40])
    loaded = load_cases(data, tmp_path / "cases.csv", tmp_path / "run").cases
    preprocess = with_intensity(data.preprocess(), loaded)
    assert preprocess.intensity == Intensity("window", 0, 1000)
    store = prepare_store(loaded, preprocess, tmp_path / "store")
    other = prepare_store(
        loaded, Preprocess((48, 40), intensity=Intensity("window", 0, 2000)), tmp_path / "store"
    )
    assert store.image(0).mean() > other.image(0).mean()
