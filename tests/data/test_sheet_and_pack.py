from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import Case, reference_mask
from segdistill.data.check import check_cases
from segdistill.data.contact_sheet import contact_sheet
from segdistill.data.pack import pack_cases
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from tests.data.pictures import noise, save, square


def test_sheet_shows_contours(phantom_cases: list[Case], tmp_path: Path) -> None:
    assert contact_sheet(phantom_cases, tmp_path / "sheet.png", columns=4, limit=6, tile=64) == 6
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (64 + 14 + 4) + 4, 4 * 68 + 4, 3)
    coloured = (sheet.max(axis=2) - sheet.min(axis=2)) > 100
    assert coloured[: 64 + 4].sum() > 50
    assert contact_sheet(phantom_cases[:1], tmp_path / "one.png") == 1
    with pytest.raises(InputError, match="no cases to show"):
        contact_sheet([], tmp_path / "none.png")
    with pytest.raises(InputError, match="at least 1"):
        contact_sheet(phantom_cases, tmp_path / "none.png", columns=0)
    broken = [replace(phantom_cases[0], image=save(tmp_path / "a.png", noise(0)).with_name("gone.png"))]
    with pytest.raises(InputError, match=r"gone\.png"):
        contact_sheet(broken, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_pack_is_small_whole_and_moves(tmp_path: Path) -> None:
    first = save(tmp_path / "m" / "1.png", square(96, 80, 10, 24))
    second = save(tmp_path / "m" / "2.png", square(96, 80, 40, 30))
    image = save(tmp_path / "i" / "a.png", noise(0, 96, 80))
    cases = [
        Case("x/y", image, (first, second), label="benign", spacing_mm=(0.1, 0.2), split="test"),
        Case("X_y", image, group="g", box=(8, 8, 40, 48)),
        Case(
            "small",
            save(tmp_path / "i" / "b.png", noise(1, 20, 30)),
            (save(tmp_path / "m" / "3.png", square(20, 30, 2, 9)),),
        ),
    ]
    done: list[int] = []
    packed = pack_cases(cases, tmp_path / "out", 48, progress=lambda at, total: done.append(at)).cases
    assert done == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "m", "out"]
    (tmp_path / "out").rename(tmp_path / "moved")
    table = read_cases(tmp_path / "moved" / "cases.csv")
    assert [case.id for case in table] == [case.id for case in packed] == ["x/y", "X_y", "small"]
    assert [case.image.name for case in table] == ["x_y.png", "X_y_2.png", "small.png"]
    assert Image.open(table[0].image).size == (40, 48)
    assert Image.open(table[2].image).size == (30, 20)
    assert Image.open(table[0].masks[0]).mode == "1"
    assert table[0].spacing_mm == (0.2, 0.4)
    assert table[1].box == (4, 4, 20, 24)
    assert (table[0].label, table[0].split, table[1].group) == ("benign", "test", "g")
    whole = reference_mask(cases[0], (96, 80)).mean()
    assert abs(reference_mask(table[0], (48, 40)).mean() - whole) < 0.03
    assert not [f for f in check_cases(table) if f.level == "error"]


def test_pack_refuses_and_leaves_nothing(phantom_cases: list[Case], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("x")
    with pytest.raises(InputError, match="not an empty folder"):
        pack_cases(phantom_cases[:1], tmp_path / "full", 32)
    with pytest.raises(InputError, match="too small"):
        pack_cases(phantom_cases[:1], tmp_path / "out", 1)
    with pytest.raises(InputError, match=r"gone\.png"):
        pack_cases([phantom_cases[0], Case("b", tmp_path / "gone.png")], tmp_path / "out", 32)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    with pytest.raises(InputError, match="cannot write"):
        pack_cases(phantom_cases[:1], tmp_path / "full" / "a" / "b", 32)


def test_pack_tells_the_lesions_that_it_loses(tmp_path: Path) -> None:
    mask = square(256, 256, 100, 80)
    mask[10:12, 20:22] = 255  # 2 x 2 of 256: a quarter of a pixel of 64
    image = save(tmp_path / "i" / "a.png", noise(0, 256, 256))
    case = Case("a", image, (save(tmp_path / "m" / "a.png", mask),))
    packed = pack_cases([case], tmp_path / "out", 64)
    stored = np.asarray(Image.open(packed.cases[0].masks[0]))
    assert not stored[:10, :20].any()
    assert stored.any()
    assert (packed.small.total, packed.small.vanished) == (2, 1)
    assert packed.note.startswith("1 of 2 components of the masks are too small for a side of 64")
    assert pack_cases([case], tmp_path / "whole", 256).note == ""
