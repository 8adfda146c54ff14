from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segdistill.cli.data import app
from segdistill.data.phantom import write_phantom
from segdistill.errors import InputError
from tests.imaging.volumes import blocks, organ, write_itk

runner = CliRunner()


def run(*words: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(word) for word in words])
    if isinstance(result.exception, InputError):
        assert code == InputError.exit_code, result.exception
        return result.output + str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_phantom(folder / "own", count=40, size=48)
    (folder / "own" / "cases.csv").unlink()
    return folder / "own"


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "own"))


def test_phantoms_are_drawn_and_indexed(tmp_path: Path) -> None:
    assert "120 cases, 0 errors" in run("index", "phantom", tmp_path / "synthetic", "-o", tmp_path / "t.csv")
    assert Counter(row["label"] for row in rows(tmp_path / "t.csv")) == {
        "benign": 60,
        "malignant": 48,
        "normal": 12,
    }


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_own_images_from_folder_to_sheet_and_pack(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "own" / "cases.csv"
    text = run("index", "folder", folder, "-o", table, "--split", "hold-out", "--seed", 3)
    assert f"{table}: 40 cases, 0 errors, 0 warnings" in text
    found = rows(table)
    assert Counter(row["split"] for row in found) == {"train": 28, "val": 6, "test": 6}
    assert found[0]["image"] == "images/phantom_0001.png"
    assert "0 errors" in run("check", table)
    assert "5 cases" in run("show", table, "-o", tmp_path / "s.png", "--limit", 5, "--split", "test")
    assert Image.open(tmp_path / "s.png").size[0] > 100
    assert "40 cases" in run("pack", table, "--size", 32, "-o", tmp_path / "packed")
    assert len(rows(tmp_path / "packed" / "cases.csv")) == 40


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"": 40}),
        (("--split", "k-fold", "--folds", 4, "--fold", 2), {"train": 25, "val": 5, "test": 10}),
        (("--split", "paper"), {"train": 34, "test": 6}),
        (("--method", "hold-out", "--val", 0, "--test", 0.25), {"train": 30, "test": 10}),
    ],
)
def test_splits(folder: Path, tmp_path: Path, options: tuple[object, ...], expected: dict[str, int]) -> None:
    run("index", "folder", folder, "-o", tmp_path / "t.csv", *options)
    assert Counter(row["split"] for row in rows(tmp_path / "t.csv")) == expected


def test_a_table_that_was_edited_by_hand_is_kept(folder: Path, tmp_path: Path) -> None:
    table, kept = tmp_path / "t.csv", tmp_path / "t.csv.bak"
    run("index", "folder", folder, "-o", table)
    run("index", "folder", folder, "-o", table)
    assert not kept.exists()  # the same again
    edited = table.read_text() + "\n"
    table.write_text(edited)
    assert str(kept) in run("index", "folder", folder, "-o", table)
    assert kept.read_text() == edited
    assert table.read_text() + "\n" == edited


def test_check_reports_errors_with_code_2_and_as_json(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    run("index", "folder", folder, "-o", table)
    (folder / "images" / "phantom_0003.png").write_bytes(b"")
    (folder / "masks" / "phantom_0004.png").unlink()
    found = json.loads(run("check", table, "--json", code=2))
    assert (found["cases"], found["error"]) == (40, 2)
    errors = [finding for finding in found["findings"] if finding["level"] == "error"]
    assert [finding["cases"] for finding in errors] == [["phantom_0003"], ["phantom_0004"]]
    assert "phantom_0003.png" in errors[0]["message"]
    text = run("index", "folder", folder, "-o", tmp_path / "again.csv", code=2)
    assert "image without mask" in text
    assert "--unlabelled" in text
    assert text.splitlines()[-1] == "nothing written: 40 cases, 2 errors: repair the files named above"
    assert not (tmp_path / "again.csv").exists()
    Image.open(folder / "images" / "phantom_0002.png").save(folder / "images" / "phantom_0003.png")
    assert "39 masks" in run("index", "folder", folder, "-o", tmp_path / "again.csv", "--unlabelled")
    assert "0 errors" in run("check", tmp_path / "again.csv", "--unlabelled")


def test_of_many_errors_the_first_are_told(folder: Path, tmp_path: Path) -> None:
    for number in range(10, 17):
        (folder / "images" / f"phantom_{number:04d}.png").write_bytes(b"")
    lines = run("index", "folder", folder, "-o", tmp_path / "t.csv", code=2).splitlines()
    assert len(lines) == 6
    assert all(line.startswith("error: ") for line in lines[:5])
    assert [
        f"phantom_00{number}.png" in line for number, line in zip(range(10, 15), lines[:5], strict=True)
    ] == [True] * 5
    assert lines[5].endswith(
        "40 cases, 7 errors: repair the files named above (the first 5; --json lists all)"
    )
    found = json.loads(run("index", "folder", folder, "-o", tmp_path / "t.csv", "--json", code=2))
    assert sum(finding["level"] == "error" for finding in found["findings"]) == 7
    assert not (tmp_path / "t.csv").exists()


def test_copies_are_grouped(folder: Path, tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(folder / "images" / "phantom_0001.png"))
    Image.fromarray(pixels).save(folder / "images" / "copy.png")
    Image.open(folder / "masks" / "phantom_0001.png").save(folder / "masks" / "copy.png")
    text = run("index", "folder", folder, "-o", tmp_path / "t.csv")
    groups = {row["id"]: row["group"] for row in rows(tmp_path / "t.csv")}
    assert groups["copy"] == groups["phantom_0001"] != ""
    assert "0 warnings" in text
    assert "0 errors, 1 warning\n" in run("index", "folder", folder, "-o", tmp_path / "u.csv", "--no-group")
    assert "identical pixels in different groups" in run("check", tmp_path / "u.csv")


def test_a_split_that_divides_copies_is_told(folder: Path, tmp_path: Path) -> None:
    for place in (folder / "images", folder / "masks"):
        for file in list(place.iterdir()):
            shutil.copyfile(file, place / f"copy_{file.name}")
    told = run("index", "folder", folder, "-o", tmp_path / "t.csv", "--split", "paper", "--test", "0.4")
    assert "leaks between the splits, such as" in told
    assert "leaks" not in run("index", "folder", folder, "-o", tmp_path / "u.csv", "--split", "hold-out")


@pytest.mark.parametrize(
    "words",
    [
        ("index", "foldr", "."),
        ("index", "busi", "{tmp}"),
        ("index", "folder", "{tmp}/none"),
        ("index", "folder", "{own}", "--split", "half"),
        ("index", "folder", "{own}", "--split", "hold-out", "--test", "0.9", "-o", "{tmp}/t.csv"),
        ("check", "{tmp}/none.csv"),
        ("show", "{tmp}/drawn.csv", "--label", "cyst"),
        ("pack", "{tmp}/drawn.csv", "--size", "32", "-o", "{own}"),
    ],
)
def test_bad_requests_are_one_line(folder: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    run("index", "folder", folder, "-o", tmp_path / "drawn.csv")
    message = run(*[word.format(tmp=tmp_path, own=folder) for word in words], code=2)
    assert message
    assert "\n" not in message
    assert not (tmp_path / "t.csv").exists()


def test_nothing_of_the_room_needs_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, segdistill.data as room\n"
        "for item in pkgutil.walk_packages(room.__path__, 'segdistill.data.'):\n"
        "    if item.name != 'segdistill.data.views': importlib.import_module(item.name)\n"
        "import segdistill.cli.data\n"
        "heavy = {'torch', 'scipy', 'cv2', 'albumentations', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_plan_finds_the_dataset_of_a_folder(tmp_path: Path) -> None:
    for k in range(2):
        write_itk(tmp_path / "promise" / f"Case{k:02}.mhd", blocks((8, 16, 16), seed=k))
        write_itk(tmp_path / "promise" / f"Case{k:02}_segmentation.mhd", organ((8, 16, 16)))
        write_itk(tmp_path / "own" / "images" / f"{k}.nii.gz", blocks((8, 16, 16), seed=k))
        write_itk(tmp_path / "own" / "masks" / f"{k}.nii.gz", organ((8, 16, 16)))
    for name in ("promise", "own"):
        assert "2 volumes looked at" in run("plan", tmp_path / name)
    assert "2 volumes looked at" in run("plan", tmp_path / "own", "--dataset", "folder")
    assert "is not this dataset" in run("plan", tmp_path / "own", "--dataset", "promise12", code=2)
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "annotations" / "instances.json").write_text(
        '{"images": [], "annotations": [], "categories": []}'
    )
    assert "the table holds pictures" in run("plan", tmp_path / "coco", code=2)
    assert [path.name for path in (tmp_path / "coco").iterdir()] == ["annotations"]  # nothing is drawn
