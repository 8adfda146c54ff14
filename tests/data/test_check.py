from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segdistill.data.case import Case
from segdistill.data.check import check_cases, run_check
from segdistill.data.datasets import create_dataset
from segdistill.data.opened import open_case
from segdistill.errors import InputError
from segdistill.imaging.classes import parse_classes
from segdistill.imaging.nrrd import write_nrrd_mask
from segdistill.imaging.read_volume import read_volume
from tests.data.pictures import make_folder, noise, save, square
from tests.imaging.volumes import blocks, organ, write_itk


def messages(cases: list[Case], level: str) -> list[str]:
    found = [finding.message for finding in check_cases(cases) if finding.level == level]
    assert all("\n" not in message for message in found)
    return found


def test_a_sound_folder_has_notes_only(tmp_path: Path) -> None:
    cases = create_dataset("folder", make_folder(tmp_path))
    seen: list[tuple[int, int]] = []
    findings = check_cases(cases, progress=lambda done, total: seen.append((done, total)))
    assert {finding.level for finding in findings} == {"note"}
    assert findings[0].message == "4 cases in 4 groups, 4 masks, 0 with several masks"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def break_image(how: str, path: Path) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "zero bytes":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "no image":
        path.write_text("hello")


@pytest.mark.parametrize("which", ["images", "masks"])
@pytest.mark.parametrize("how", ["missing", "zero bytes", "truncated", "no image"])
def test_broken_files_are_named(tmp_path: Path, how: str, which: str) -> None:
    cases = create_dataset("folder", make_folder(tmp_path))
    path = tmp_path / which / "2.png"
    break_image(how, path)
    errors = messages(cases, "error")
    assert len(errors) == 1
    assert str(path) in errors[0]


def test_sizes_photos_and_missing_masks(tmp_path: Path) -> None:
    cases = create_dataset("folder", make_folder(tmp_path))
    save(tmp_path / "masks" / "0.png", square(60, 40))
    save(tmp_path / "masks" / "1.png", noise(5))
    cases[2] = replace(cases[2], masks=())
    errors = messages(cases, "error")
    assert len(errors) == 3
    assert str(tmp_path / "masks" / "0.png") in errors[0]
    assert str(tmp_path / "masks" / "1.png") in errors[1]
    assert errors[2].startswith("image without mask: ")
    assert errors[2].endswith("or allow such images with --unlabelled")
    assert messages([replace(cases[0], resize_mask=True)], "error") == []
    assert not any(f.level == "error" for f in check_cases([cases[2]], require_reference=False))


def test_empty_masks_copies_conflicts_and_leaks(tmp_path: Path) -> None:
    cases = create_dataset("folder", make_folder(tmp_path))
    save(tmp_path / "masks" / "0.png", np.zeros((48, 40)))
    save(tmp_path / "images" / "3.png", noise(2))
    labelled = [replace(case, label="benign") for case in cases]
    warnings = messages(labelled, "warning")
    assert warnings[0].startswith("empty mask in class 'benign'")
    assert "identical pixels in different groups" in warnings[1]
    assert len(warnings) == 2
    labelled[0] = replace(labelled[0], label="normal")
    labelled[3] = replace(labelled[3], label="malignant", group="g", split="test")
    labelled[2] = replace(labelled[2], group="g", split="train")
    warnings = messages(labelled, "warning")
    assert "identical pixels with conflicting labels 'benign' and 'malignant'" in warnings[0]
    warnings = [warning for warning in warnings if "state no split" not in warning]
    leaks = [*warnings[1:], *messages(labelled, "error")]  # of the pixels, and of the group
    assert len(leaks) == 2
    assert all(leak.startswith("leak: ") and "2.png" in leak and "3.png" in leak for leak in leaks)


def test_an_empty_box_is_called_so_and_names_its_image(tmp_path: Path) -> None:
    cases = create_dataset("folder", make_folder(tmp_path))
    cases[1] = replace(cases[1], masks=(), box=(0, 0, 0, 0), label="benign")
    cases[2] = replace(cases[2], masks=(), box=(3, 4, 9, 8), label="benign")
    (warning,) = messages(cases, "warning")
    assert warning.startswith(f"empty box '0 0 0 0': {cases[1].image}: write left top right bottom")
    assert "mask" not in warning


def test_repeated_ids(tmp_path: Path) -> None:
    case = create_dataset("folder", make_folder(tmp_path))[0]
    assert any("2 cases have the id '0'" in error for error in messages([case, case], "error"))


@pytest.mark.slow
def test_real_busi_has_no_errors(data_root: Path) -> None:
    result = run_check(create_dataset("busi", data_root / "busi"))
    assert result.errors == []
    text = [finding.message for finding in result.findings]
    assert any(
        "identical pixels with conflicting labels" in t and "benign (433)" in t and "malignant (145)" in t
        for t in text
    )
    assert "780 cases in 780 groups, 798 masks, 17 with several masks" in text
    assert "labels: benign 437, malignant 210, normal 133" in text
    assert not any("empty mask" in t for t in text)


def inverted(folder: Path, how_many: int) -> list[Case]:
    """Five cases with a square in the middle, of which the first so many are drawn in black on white."""
    cases = create_dataset("folder", make_folder(folder, 5))
    for case in cases[:how_many]:
        save(case.masks[0], 255 - square())
    return cases


def test_masks_that_look_inverted_are_warned_about_where_most_do(tmp_path: Path) -> None:
    (found,) = messages(inverted(tmp_path / "most", 3), "warning")
    assert "in 3 of 5 masks, as in inverted ones" in found
    assert "write foreground: [0]" in found
    assert messages(inverted(tmp_path / "few", 2), "warning") == []
    named = [replace(case, foreground=(255,)) for case in inverted(tmp_path / "named", 5)]
    assert messages(named, "warning") == []  # the user has decided


def test_several_index_files_of_a_case_that_overlap_are_told(tmp_path: Path) -> None:
    classes = parse_classes({"x": 1, "y": 2})
    one, other = np.zeros((48, 40), np.uint8), np.zeros((48, 40), np.uint8)
    one[5:20, 5:20], other[10:30, 10:30] = 1, 2
    files = save(tmp_path / "a.png", noise(1)), save(tmp_path / "1.png", one), save(tmp_path / "2.png", other)
    pictures = [Case("a", files[0], files[1:], classes=classes)]
    volume = write_itk(tmp_path / "v.nii.gz", np.stack([noise(k) for k in range(3)]).astype(np.int16))
    masks = tuple(write_itk(tmp_path / f"{k}.nii.gz", np.stack([m] * 3)) for k, m in enumerate((one, other)))
    for case, count in ((pictures[0], 100), (Case("v", volume, masks, classes=classes), 300)):
        (told,) = [note for note in messages([case], "note") if "more than one class" in note]
        assert f"such as {count} of {case.id}: the later of its mask files counts" in told
        alone = replace(case, masks=case.masks[:1], classes=classes[:1])
        assert not [note for note in messages([alone], "note") if "more than one class" in note]
        named = [replace(case, mask_classes=("x", "y"), classes=parse_classes(["x", "y"]))]
        (told,) = [note for note in messages(named, "note") if "more than one class" in note]
        assert f"such as {count} of {case.id}: the later of x, y counts" in told


def test_segments_that_are_no_class_are_told(tmp_path: Path) -> None:
    labels = organ()
    labels[1, 8:10, 2:6] = 2
    cases = []
    for k, names in enumerate((("liver", "cyst"), ("lvier", "Cyst"), ("liver", "cyst", "lung"))):
        image = write_itk(tmp_path / f"{k}.nii.gz", blocks(seed=k))
        path = tmp_path / f"{k}.seg.nrrd"
        write_nrrd_mask(labels, read_volume(image, turn=False), path, names)
        cases.append(Case(str(k), image, (path,), classes=parse_classes(["liver", "cyst"])))
    (told,) = messages(cases, "warning")
    assert told.startswith(
        "segments of no class become background: 'lvier' in 1 case, 'lung' in 1 case, such as"
    )
    assert (
        f"{tmp_path / '1.seg.nrrd'}; the classes are liver, cyst; for 'lvier' did you mean 'liver'?: correct"
        in told
    )
    assert not messages(cases[:1], "warning")
    assert not messages([replace(each, classes=parse_classes({"a": 1, "b": 2})) for each in cases], "warning")
    strange = [cases[0], replace(cases[1], classes=parse_classes(["spleen", "kidney"]))]
    with pytest.raises(
        InputError, match=r"1\.seg\.nrrd: none of its segments \(lvier, Cyst\) is of a class \(spleen, k"
    ):
        open_case(strange[1])
    (told,) = messages([strange[1]], "error")[:1]
    assert "none of its segments" in told
    both = replace(
        cases[1], masks=(cases[1].masks[0], cases[2].masks[0]), classes=parse_classes(["lung", "liver"])
    )
    assert open_case(both).reference.any()  # a file of several may hold no class


def test_rows_without_a_split_are_told() -> None:
    cases = [
        Case("a", Path("a.png"), (Path("m.png"),), split="train"),
        Case("b", Path("b.png"), (Path("n.png"),)),
    ]
    told = [one.message for one in check_cases(cases) if one.level == "warning"]
    assert any(message.startswith("1 rows state no split") for message in told)
