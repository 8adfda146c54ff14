"""Many files: patterns, shards that become one table, and several pictures at the same time."""

from __future__ import annotations

import csv
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from filelock import FileLock

from segdistill.errors import InputError
from segdistill.runtime.predict import Shard, _side_by_side, find_inputs, predict_files
from segdistill.runtime.predictor import Predictor
from tests.experiment.tiny import segdistill
from tests.runtime.small_model import picture, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(7):
        picture(tmp_path / "in" / f"p{k}.png", 100 + 20 * k)
    picture(tmp_path / "in" / "deep" / "p0.png", 80)
    save(tmp_path / "m.onnx")
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_shards_become_one_table(folder: Path) -> None:
    model, out = folder / "m.onnx", folder / "out"
    for k in (2, 3, 1):
        found = segdistill("predict", model, folder / "in", "-o", out, "--shard", f"{k}/3")
        assert found.code == 0, found.err
        assert f"predictions.{k}-of-3.csv" in found.out
    parts = [row for k in (1, 2, 3) for row in rows(out / f"predictions.{k}-of-3.csv")]
    assert len(parts) == 8
    again = segdistill("predict", model, folder / "in", "-o", out, "--shard", "2/3")
    assert "3 of 3 images were done by an earlier call" in again.err
    whole = segdistill("predict", model, folder / "in", "-o", out)
    assert "8 of 8 images were done by an earlier call" in whole.err
    assert sorted(path.name for path in out.glob("predictions*")) == ["predictions.csv", "predictions.jsonl"]
    assert sorted(map(str, rows(out / "predictions.csv"))) == sorted(map(str, parts)), (
        "nothing was done again"
    )
    segdistill("predict", model, folder / "in", "-o", folder / "alone", "--threads", "1")
    assert masks(out) == masks(folder / "alone")
    names = [(row["file"], row["mask"]) for row in rows(out / "predictions.csv")]
    assert names == [(row["file"], row["mask"]) for row in rows(folder / "alone" / "predictions.csv")]


def test_a_shard_that_was_stopped_is_continued_by_the_whole(folder: Path) -> None:
    predictor, out = Predictor(folder / "m.onnx"), folder / "out"
    predict_files(predictor, [folder / "in"], out, shard=Shard(1, 2))
    found = predict_files(predictor, [folder / "in"], out)
    assert len(found.rows) == 8
    assert "4 of 8 images were done by an earlier call" in found.notes[-1]


def test_who_may_write_beside_whom(folder: Path) -> None:
    predictor, out = Predictor(folder / "m.onnx"), folder / "out"
    out.mkdir()
    with FileLock(out / ".predictions.1-of-2.lock"):
        predict_files(predictor, [folder / "in"], out, shard=Shard(2, 2))
        for shard in (None, Shard(1, 2)):
            with pytest.raises(InputError, match="another call of predict is writing"):
                predict_files(predictor, [folder / "in"], out, shard=shard)
    with (
        FileLock(out / ".predictions.lock"),
        pytest.raises(InputError, match="another call of predict is writing"),
    ):
        predict_files(predictor, [folder / "in"], out, shard=Shard(1, 2))


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/2/3", "-1/2"])
def test_no_such_shard(text: str) -> None:
    with pytest.raises(InputError, match="give I/N with I from 1 to N"):
        Shard.parse(text)


def test_shards_have_every_file_once() -> None:
    files = {str(k): Path(str(k)) for k in range(11)}
    for count in (1, 3, 11, 20):
        parts = [Shard(k, count).of(files) for k in range(1, count + 1)]
        assert sorted(key for part in parts for key in part) == sorted(files)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_patterns(folder: Path) -> None:
    place = folder / "in"
    found = find_inputs([place / "p[1-3].png", place / "p2.png"], folder / "out")
    assert [path.name for path in found] == ["p1.png", "p2.png", "p3.png"]
    assert len(find_inputs([place / "**" / "*.png"], folder / "out")) == 8
    named = picture(place / "a[1].png")
    assert find_inputs([named], folder / "out") == [named], "a file of that name comes first"
    refused = segdistill("predict", folder / "m.onnx", place / "q*.png")
    assert (refused.code, refused.line) == (2, f"no file fits {place / 'q*.png'}: check the pattern")


def test_several_at_a_time_give_the_same(folder: Path) -> None:
    (folder / "in" / "bad.png").write_text("no picture")
    one, many = folder / "one", folder / "many"
    alone = predict_files(Predictor(folder / "m.onnx", 1), [folder / "in"], one)
    beside = predict_files(Predictor(folder / "m.onnx", 1, workers=4), [folder / "in"], many)
    assert masks(one) == masks(many)
    assert alone.failed == beside.failed
    assert [row["file"] for row in alone.rows] == [row["file"] for row in beside.rows]


def test_slices_at_a_time_give_the_same(folder: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (20, 18, 23)).astype(np.float32)
    nibabel.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0])).to_filename(folder / "v.nii.gz")
    alone = Predictor(folder / "m.onnx", 1).predict_volume(folder / "v.nii.gz")
    beside = Predictor(folder / "m.onnx", 1, workers=3).predict_volume(folder / "v.nii.gz")
    assert alone.mask.any()
    assert np.array_equal(alone.mask, beside.mask)
    assert alone.mean_probability == beside.mean_probability


def test_work_overlaps_in_order_and_some_alone() -> None:
    running, most, lock = 0, 0, threading.Lock()
    alone: list[int] = []

    def work(key: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if key == "volume":
                alone.append(running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return key.upper()

    keys = [*"abcdef", "volume", *"ghi"]
    found = list(_side_by_side(keys, work, 3, lambda key: key == "volume"))
    assert found == [(key, key.upper()) for key in keys]
    assert most == 3
    assert alone == [1]


def test_an_error_ends_what_has_not_begun() -> None:
    begun = []

    def work(key: str) -> str:
        begun.append(key)
        if key == "2":
            raise KeyboardInterrupt
        return key

    with pytest.raises(KeyboardInterrupt):
        list(_side_by_side([str(k) for k in range(1000)], work, 2, lambda _: False))
    assert len(begun) < 100
