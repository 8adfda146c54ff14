"""How cases are found and divided: whose word counts, and what is refused."""

from __future__ import annotations

import csv
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import segdistill
from segdistill.config.schema import DataRecipe, SplitRecipe
from segdistill.data.case import Case
from segdistill.data.phantom import write_phantom
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.experiment.cases import load_cases
from segdistill.experiment.folder import only_writer
from tests.data.pictures import make_folder, noise, save


def table(tmp_path: Path, splits: list[str]) -> Path:
    cases = write_phantom(tmp_path / "data", 40, size=32)
    divided = [replace(case, split=splits[i % len(splits)]) for i, case in enumerate(cases)]
    write_cases(divided, tmp_path / "cases.csv")
    return tmp_path / "cases.csv"


def splits_of(cases: list[Case]) -> dict[str, str]:
    return {case.id: case.split for case in cases}


def test_a_tables_own_split_is_used(tmp_path: Path) -> None:
    path = table(tmp_path, ["train", "train", "val", "test"])
    found = load_cases(DataRecipe(), path, tmp_path / "run")
    assert splits_of(found.cases) == splits_of(read_cases(path))
    assert found.split == "as given in the case table"


def test_a_method_that_is_named_wins_and_says_so(tmp_path: Path) -> None:
    path = table(tmp_path, ["train", "test"])
    split = SplitRecipe(method="hold_out", test=0.2, val=0.2)
    found = load_cases(DataRecipe(split=split), path, tmp_path / "run")
    assert "the table's own split is not used" in found.split
    assert {case.split for case in found.cases} == {"train", "val", "test"}


@pytest.mark.parametrize("splits", [["train", ""], ["test", ""], ["val", "test"]])
def test_half_a_split_is_refused(tmp_path: Path, splits: list[str]) -> None:
    with pytest.raises(InputError, match=r"fill in train and test \(or only .*\), empty it, or choose"):
        load_cases(DataRecipe(), table(tmp_path, splits), tmp_path / "run")


@pytest.mark.parametrize("splits", [["train"], ["train", "val"]])
def test_a_table_without_test_cases_is_taken_as_it_is(tmp_path: Path, splits: list[str]) -> None:
    path = table(tmp_path, splits)
    found = load_cases(DataRecipe(), path, tmp_path / "run")
    assert splits_of(found.cases) == splits_of(read_cases(path))
    assert found.split == "as given in the case table; it has no test cases: nothing is tested"


def test_several_folders_that_fit_are_never_chosen_among(tmp_path: Path) -> None:
    for site in ("a", "b"):
        write_phantom(tmp_path / "sites" / site, 4, size=32)
    with pytest.raises(InputError, match=r"2 folders in it hold .* \(a, b\): give one of them"):
        load_cases(DataRecipe(), tmp_path / "sites", tmp_path / "run")


def test_what_lies_in_a_new_folder_is_kept_however_its_writer_ends(tmp_path: Path) -> None:
    for name, error in (("done", None), ("refused", InputError("no")), ("stopped", KeyboardInterrupt())):
        with suppress(InputError, KeyboardInterrupt), only_writer(tmp_path / name):
            (tmp_path / name / "result.json").write_text("{}")
            if error is not None:
                raise error
        assert [path.name for path in (tmp_path / name).iterdir()] == ["result.json"]


def test_files_of_a_folder_that_no_case_uses_are_counted(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "own", 12)
    assert load_cases(DataRecipe(), folder, tmp_path / "run").unused == ""
    (folder / "notes.txt").touch()
    (folder / "images" / "x.webp").touch()
    found = load_cases(DataRecipe(), folder, tmp_path / "run")
    assert len(found.cases) == 12
    assert found.unused.startswith("not used: 2 files: ")
    assert "no picture or volume 1" in found.unused
    assert "format .webp is not read" in found.unused


def test_images_that_are_named_are_kept_whatever_the_sites(tmp_path: Path) -> None:
    cases = write_phantom(tmp_path / "data", 40, size=32)
    placed = [replace(case, site="AB"[k % 2]) for k, case in enumerate(cases)]
    bare = [
        Case(f"bare-{site}", save(tmp_path / f"{site}.png", noise(ord(site))), site=site) for site in "AB"
    ]
    write_cases([*placed, *bare], tmp_path / "cases.csv")
    save(tmp_path / "more" / "x.png", noise(0))
    data = DataRecipe(sites=["A"], unlabelled=str(tmp_path / "more"))
    found = load_cases(data, tmp_path / "cases.csv", tmp_path / "run")
    assert [case.id for case in found.cases if not case.has_reference] == ["bare-A", "x"]
    assert {case.site for case in found.cases} == {"A", ""}


def test_images_that_are_not_trained_on_are_listed_with_their_reason(tmp_path: Path) -> None:
    cases = read_cases(table(tmp_path, ["train", "train", "val", "test"]))
    tested = next(case for case in cases if case.split == "test")
    copies = [tmp_path / f"copy{k}.png" for k in range(4)]
    for copy in copies:
        shutil.copyfile(tested.image, copy)
    bare = [Case(copy.stem, copy) for copy in copies]
    bare += [
        Case(name, save(tmp_path / f"{name}.png", noise(k)), split=name)
        for k, name in enumerate(("val", "test"))
    ]
    more = Case("more", save(tmp_path / "more.png", noise(9)))
    write_cases([*cases, *bare, more], tmp_path / "cases.csv")
    out = tmp_path / "run"
    segdistill.run(
        {
            "name": "t",
            "data": {"size": 32, "channels": 1},
            "fit": {"steps": 1, "batch_size": 2, "workers": 0},
            "stages": {"net": {"model": {"name": "simplified_unet", "widths": [2, 4, 4]}}},
        },
        data=tmp_path / "cases.csv",
        out=out,
        device="cpu",
        progress=False,
    )
    with (out / "unused.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["case"]: (row["image"], row["reason"]) for row in csv.DictReader(file)}
    copied = "a copy of a validation or test image, or of its group"
    expected = {copy.stem: (str(copy), copied) for copy in copies}
    for name in ("val", "test"):
        expected[name] = (str(tmp_path / f"{name}.png"), f"its split is {name}, whose cases need a mask")
    assert rows == expected
    assert "6, listed in unused.csv" in (out / "report.html").read_text(encoding="utf-8")

    loaded = load_cases(DataRecipe(), tmp_path / "cases.csv", out)
    told = [line for line in loaded.warnings if "unused.csv lists them" in line]
    assert [line.split(":")[0] for line in told] == [
        "4 images without masks are copies of validation or test images, or of their groups",
        "2 images without masks are of the table's split val or test, whose cases need a mask",
    ]
    write_cases([*cases, *bare[-2:]], tmp_path / "cases.csv")
    with pytest.raises(InputError, match=r"can be trained on: 2 are of the table's split val or test"):
        load_cases(DataRecipe(), tmp_path / "cases.csv", out)
