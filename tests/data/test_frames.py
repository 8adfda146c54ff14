"""Folders of frames per scan: what belongs together, in which order, and what tables beside them say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segdistill.data.case import Case, reference_mask
from segdistill.data.datasets import create_dataset
from segdistill.data.splits import hold_out, k_fold
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from tests.data.pictures import noise, save, square
from tests.experiment.tiny import segdistill


def scan(folder: Path, *numbers: int, seed: int = 0) -> Path:
    """Frames as MBUD's are named: number without leading zeros after the name of the scan."""
    for number in numbers:
        save(folder / f"050_IM9 video_{number}.png", noise(1000 * seed + number))
    return folder


def mbud(root: Path) -> Path:
    for k, (label, name) in enumerate(
        [("Benign", "a"), ("Benign", "b"), ("Malignant", "c"), ("Malignant", "d")]
    ):
        scan(root / "frames" / label / name, 10, 2, 1, seed=k)
    return root


def table(root: Path, text: str, name: str = "labels.csv") -> None:
    (root / name).write_text(text)


def by_id(cases: list[Case]) -> dict[str, Case]:
    return {case.id: case for case in cases}


@pytest.mark.parametrize("above", [0, 1, 2])
def test_frames_of_a_scan_are_in_order_and_in_one_group(tmp_path: Path, above: int) -> None:
    root = mbud(tmp_path / "x" / "y" / "MBUD")
    cases = create_dataset("frames", [root, *root.parents][above])
    assert [case.id for case in cases[:3]] == [f"Benign/a/050_IM9 video_{n}" for n in (1, 2, 10)]
    assert [case.group for case in cases] == [g for g in ("Benign/a", "Benign/b") for _ in range(3)] + [
        g for g in ("Malignant/c", "Malignant/d") for _ in range(3)
    ]
    assert [case.label for case in cases] == ["benign"] * 6 + ["malignant"] * 6
    assert not any(case.has_reference for case in cases)


def test_no_split_tears_a_scan_apart(tmp_path: Path) -> None:
    for k in range(8):
        label = "benign" if k % 2 else "malignant"
        scan(tmp_path / label / f"scan {k}", *range(k, k + 5), seed=k)
    cases = create_dataset("frames", tmp_path)
    for divided in (hold_out(cases, {"train": 0.5, "test": 0.5}), k_fold(cases, 4, 2), k_fold(cases, 3, 1)):
        where = {(case.image.parent, case.split) for case in divided}
        assert len(where) == 8


def test_masks_beside_their_frames_or_in_a_tree_of_their_own(tmp_path: Path) -> None:
    beside, apart = tmp_path / "beside", tmp_path / "apart"
    for root in (beside, apart):
        for label in ("benign", "malignant"):
            for number in (1, 2, 3):
                save(root / label / "s" / f"{number:04}.png", noise(number))
    save(beside / "benign" / "s" / "0002_mask.png", square())
    save(apart / "masks" / "benign" / "s" / "0002.png", square())
    for root in (beside, apart):
        cases = by_id(create_dataset("frames", root))
        assert len(cases) == 6
        assert [name for name, case in cases.items() if case.masks] == ["benign/s/0002"]
        assert np.array_equal(reference_mask(cases["benign/s/0002"], (48, 40)), square() > 0)
    (apart / "benign" / "s" / "0002.png").unlink()
    (beside / "benign" / "s" / "0002.png").unlink()
    for root in (beside, apart):
        with pytest.raises(InputError, match="mask without image"):
            create_dataset("frames", root)
    save(tmp_path / "more" / "s1" / "1.png", noise(0))
    save(tmp_path / "more" / "masks" / "s2" / "1.png", square())
    with pytest.raises(InputError, match=r"mask without image: .*s2"):
        create_dataset("frames", tmp_path / "more")


def test_tables_say_class_patient_and_boxes(tmp_path: Path) -> None:
    """Two scans of one patient are one group; a box is a location; four zeros are none."""
    for k, name in enumerate(("IM1", "IM2", "IM3")):
        scan(tmp_path / name, 1, 2, 105, seed=k)
    table(tmp_path, "video,type,patient\nIM1,B,p7\nim2,Benign,p7\nIM3,M,\n")
    boxes = "scan;frame;box\nIM1;105;5:6:20:30\nIM1;2;0:0:0:0\nIM3;050_IM9 video_1.png;1 2 3 4\n"
    table(tmp_path, boxes, "boxes.csv")
    cases = by_id(create_dataset("frames", tmp_path))
    assert [case.group for case in cases.values()] == ["p7"] * 6 + ["IM3"] * 3
    assert [case.label for case in cases.values()] == ["benign"] * 6 + ["malignant"] * 3
    boxed = {name: case.box for name, case in cases.items() if case.has_reference}
    assert boxed == {"IM1/050_IM9 video_105": (5, 6, 20, 30), "IM3/050_IM9 video_1": (1, 2, 3, 4)}


def test_a_mask_says_more_than_a_box(tmp_path: Path) -> None:
    save(tmp_path / "s" / "1.png", noise(0))
    save(tmp_path / "s" / "1_mask.png", square())
    table(tmp_path, "scan,frame,box\ns,1,1 1 2 2\n")
    (case,) = create_dataset("frames", tmp_path)
    assert case.box is None
    assert len(case.masks) == 1


def test_from_the_command_line_to_a_table_that_keeps_scans_whole(tmp_path: Path) -> None:
    root, out = mbud(tmp_path / "MBUD"), tmp_path / "frames.csv"
    table(root, "scan,frame,box\na,1,5 6 20 30\n")
    refused = segdistill("data", "index", "frames", root, "-o", out)
    assert refused.code == 2
    answer = segdistill(
        "data", "index", "frames", root, "-o", out, "--unlabelled", "--split", "k-fold", "--folds", "2"
    )
    assert answer.code == 0, answer.err
    cases = read_cases(out)
    assert len(cases) == 12
    assert len({(case.group, case.split == "test") for case in cases}) == 4
    assert sum(case.box is not None for case in cases) == 1
    table(root, "scan,frame,box\na,1,5 6 41 30\n")
    outside = segdistill("data", "index", "frames", root, "-o", tmp_path / "x.csv", "--unlabelled")
    assert outside.code == 2
    assert "box (5, 6, 41, 30) leaves the image of 40x48 pixels" in outside.err


@pytest.mark.parametrize(
    ("files", "text", "message"),
    [
        (["a.png", "b.png"], "", "is not this dataset: looked for a folder per scan with numbered frames"),
        (["images/1.png", "masks/1.png"], "", "is not this dataset"),
        (["benign/1.png", "malignant/1.png"], "", "pictures lie in the folder of a class"),
        (["s/1.png", "s/cover.png"], "", r"cover\.png: frame without a number"),
        (["s/1.png", "s/01.png"], "", "are both frame 1: rename one"),
        (["s/1.png"], "name,label\ns,benign\n", "no column 'scan'"),
        (["s/1.png"], "scan,label\nt,benign\n", "there is no folder of scan 't'"),
        (["s/1.png", "t/1.png"], "scan,label\ns,benign\n", r"labels\.csv names no class for it"),
        (["s/1.png"], "scan,label\ns,benign\ns,malignant\n", "row 3: label 'malignant' where another row has"),
        (["s/1.png"], "scan,frame,box\ns,7,1 1 2 2\n", "row 2: scan 's' has no frame 7"),
        (["s/1.png"], "scan,frame,box\ns,1,9 1 2 2\n", "row 2: box '9 1 2 2' is empty, inverted or negative"),
        (["s/1.png"], "scan,frame,box\ns,1,1 1 2\n", "row 2: box '1 1 2' is not four numbers"),
        (["s/1.png"], "scan,frame,box\ns,1,0.2 0.2 0.7 0.7\n", "row 2: box '0.2 0.2 0.7 0.7' is not whole"),
        (["s/1.png"], "scan,frame,box\ns,,1 1 2 2\n", "row 2: a box without a frame"),
        (["s/1.png"], "scan,frame,box\n,1,1 1 2 2\n", "row 2: the column 'scan' is empty"),
        (["s/1.png"], "scan,frame,box\ns,first,1 1 2 2\n", "frame 'first' has no number"),
        (["benign/s/1.png", "malignant/t/1.png"], "scan,label\ns,malignant\n", "lies in 'benign', but"),
        (["benign/s/1.png", "malignant/s/1.png"], "scan,patient\ns,p\n", "is both benign/s and malignant/s"),
    ],
)  # fmt: skip
def test_other_layouts_and_tables_are_refused_in_one_line(
    files: list[str], text: str, message: str, tmp_path: Path
) -> None:
    for number, name in enumerate(files):
        save(tmp_path / "data" / name, noise(number))
    if text:
        table(tmp_path / "data", text)
    with pytest.raises(InputError, match=message) as caught:
        create_dataset("frames", tmp_path / "data")
    assert "\n" not in str(caught.value)
    answer = segdistill("data", "index", "frames", tmp_path / "data", "-o", tmp_path / "t.csv")
    assert answer.code == 2
    assert answer.line == str(caught.value)
    assert not (tmp_path / "t.csv").exists()
