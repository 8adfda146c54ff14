"""Calls of predict that are repeated, interrupted, or share a folder with others."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import file_hash
from segdistill.errors import InputError
from segdistill.runtime import predict as module
from segdistill.runtime.predict import Predictions, predict_files
from segdistill.runtime.predictor import Predictor
from tests.runtime.small_model import INFO, build, picture, save


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "m.onnx")


def table(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        return {row["mask"]: row for row in csv.DictReader(file)}


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}


def again(model: Path, out: Path, *inputs: Path, threshold: float | None = None) -> set[str]:
    """Predicts, and gives the names of the masks and overlays that were written."""
    before = times(out)
    predict_files(Predictor(model, 1, threshold), inputs, out)
    return {name for name, time in times(out).items() if before.get(name) != time}


def test_only_what_is_missing_is_done(tmp_path: Path, model: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in "abc":
        picture(folder / f"{name}.png")
    assert len(again(model, out, folder)) == 6
    first = table(out)
    assert again(model, out, folder) == set()
    (out / "a.png").unlink()
    assert again(model, out, folder) == {"a.png", "a_overlay.png"}
    (out / "b.png").write_bytes((out / "b.png").read_bytes()[:-40])  # not whole
    assert again(model, out, folder) == {"b.png", "b_overlay.png"}
    picture(folder / "c.png", 200)
    assert again(model, out, folder) == {"c.png", "c_overlay.png"}
    picture(folder / "0.png")
    assert again(model, out, folder) == {"0.png", "0_overlay.png"}
    now = table(out)
    assert list(now) == ["0.png", "a.png", "b.png", "c.png"]
    assert now["a.png"]["area_px"] == first["a.png"]["area_px"]
    assert now["b.png"]["area_px"] == str(np.count_nonzero(np.asarray(Image.open(out / "b.png"))))


def test_another_threshold_or_model_does_everything_again(tmp_path: Path, model: Path) -> None:
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    again(model, out, image)
    first = table(out)["a.png"]
    assert again(model, out, image, threshold=0.6) == {"a.png", "a_overlay.png"}
    assert again(model, out, image, threshold=0.6) == set()
    second = table(out)["a.png"]
    save(model, build(replace(INFO, name="other")))
    assert again(model, out, image, threshold=0.6) == {"a.png", "a_overlay.png"}
    third = table(out)["a.png"]
    assert len({row["model"] for row in (first, second, third)}) == 3


@pytest.mark.parametrize("cut", [2, 20, 200])
def test_a_killed_process_leaves_no_row_that_is_not_true(tmp_path: Path, model: Path, cut: int) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in "abc":
        picture(folder / f"{name}.png")
    again(model, out, folder)
    expected = (out / "predictions.csv").read_text().splitlines()
    for name in ("predictions.csv", "predictions.jsonl"):  # as if the last lines were not written to the end
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[:-cut])
    (out / ".c.png.abcdefgh.png").write_bytes(b"half")
    (out / ".profile.original").touch()
    assert again(model, out, folder) == {"c.png", "c_overlay.png"}
    now = (out / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[:5] for line in now] == [line.split(",")[:5] for line in expected]
    assert [path.name for path in sorted(out.glob(".*"))] == [".profile.original"]


def test_rows_are_there_while_it_runs(tmp_path: Path, model: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(4):
        picture(folder / f"{n}.png")
    seen = []
    predict_files(Predictor(model), [folder], out, lambda done, total: seen.append(len(table(out))))
    assert seen == [1, 2, 3, 4]


def test_a_full_disk_is_one_line_and_the_call_goes_on_later(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(3):
        picture(folder / f"{n}.png")
    calls = 0

    def full(path: Path, text: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InputError(f"cannot write {path}: No space left on device: free space and run again")
        appended(path, text)

    appended = module.append_text
    with monkeypatch.context() as patched:
        patched.setattr(module, "append_text", full)
        with pytest.raises(InputError, match="No space left"):
            predict_files(Predictor(model), [folder], out)
    assert list(table(out)) == ["0.png", "1.png"]
    assert again(model, out, folder) == {"2.png", "2_overlay.png"}
    assert len(table(out)) == 3


def test_appending_to_a_full_disk_leaves_no_part_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segdistill import files

    target = tmp_path / "a.csv"
    target.write_text("whole\n")

    class Full:
        def __init__(self, *_: object, **__: object) -> None:
            self.file = real(target, "ab", buffering=0)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def tell(self) -> int:
            return int(self.file.tell())

        def write(self, content: Any) -> int:
            if self.file.tell() > 6:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.file.write(content[:3]))

    real = open
    monkeypatch.setattr(files, "open", Full, raising=False)
    with pytest.raises(InputError, match="No space left on device: free space"):
        files.append_text(target, "another row\n")
    assert target.read_text() == "whole\n"


def test_names_that_meet(tmp_path: Path, model: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n, name in enumerate("ABC"):
        picture(folder / name / "1.png", 200 + n)
    found = predict_files(Predictor(model), [folder], out)
    assert {row["mask"]: Path(row["file"]).parent.name for row in found.rows} == {
        "1.png": "A",
        "1_2.png": "B",
        "1_3.png": "C",
    }
    (note,) = found.notes
    assert "2 of 3 inputs have the name of another" in note
    assert f"{folder / 'B' / '1.png'}: 1_2" in note
    shutil.rmtree(folder / "A")
    found = predict_files(Predictor(model), [folder], out)
    assert [row["mask"] for row in found.rows] == ["1_2.png", "1_3.png"]  # as before: nothing is done again
    assert set(table(out)) == {"1_2.png", "1_3.png"} == {name for name in times(out) if "over" not in name}
    assert sorted(path.name for path in (out / "earlier").iterdir()) == [
        "1.png",
        "1_overlay.png",
    ]  # nothing is lost
    assert "1 inputs of earlier calls are not there any more" in found.notes[-1]
    picture(tmp_path / "other" / "1.png")
    again(model, out, tmp_path / "other")
    assert Path(table(out)["1.png"]["file"]).parent.name == "other"  # its name is free again


def test_an_input_that_is_no_picture_any_more_has_no_mask(tmp_path: Path, model: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    picture(folder / "a.png")
    picture(folder / "b.png")
    again(model, out, folder)
    (folder / "a.png").write_text("no picture")
    assert len(predict_files(Predictor(model), [folder], out).failed) == 1
    assert set(table(out)) == {"b.png"}
    assert set(times(out)) == {"b.png", "b_overlay.png"}


@pytest.mark.parametrize("length", [243, 251])
def test_a_long_name_ends_its_own_prediction_only(tmp_path: Path, model: Path, length: int) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "n" * (length - 4), "z"):
        picture(folder / f"{name}.png")
    found = predict_files(Predictor(model), [folder], out)
    assert [row["mask"] for row in found.rows] == ["a.png", "z.png"]
    (failed,) = found.failed
    assert "would be too long: give it a shorter name" in failed["reason"]
    assert set(times(out)) == {"a.png", "a_overlay.png", "z.png", "z_overlay.png"}
    (tmp_path / "one").mkdir()
    shutil.move(folder / f"{'n' * (length - 4)}.png", tmp_path / "one")
    with pytest.raises(InputError, match="too long"):
        predict_files(Predictor(model), [tmp_path / "one"], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_record_of_somebody_else_removes_nothing(tmp_path: Path, model: Path) -> None:
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    again(model, out, image)
    (tmp_path / "mine.txt").write_text("mine")
    record = out / "predictions.jsonl"
    line = json.loads(record.read_text())
    for damage in (
        {"written": {"../mine.txt": "0"}},
        {"stem": "../mine"},
        {"row": 3},
        {"written": []},
        {"x": 1},
    ):
        record.write_text(json.dumps(line | damage) + "\n[1]\nnull\n{\n")
        assert again(model, out, image) == {"a.png", "a_overlay.png"}
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_links_are_resolved(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "in"
    image = picture(folder / "a.png")
    before = image.read_bytes()
    (tmp_path / "out").symlink_to(folder, target_is_directory=True)
    with pytest.raises(InputError, match="is an input and would be replaced"):
        predict_files(Predictor(model), [image], tmp_path / "out")
    out, mine = tmp_path / "new", tmp_path / "mine.csv"
    mine.write_text("mine")
    out.mkdir()
    (out / "predictions.csv").symlink_to(mine)
    with pytest.raises(InputError, match="no prediction has written it"):
        predict_files(Predictor(model), [image], out)
    (out / "predictions.csv").unlink()
    again(model, out, image)
    (out / "predictions.jsonl").rename(tmp_path / "record")
    (out / "predictions.jsonl").symlink_to(tmp_path / "record")
    kept = (tmp_path / "record").read_text()
    picture(tmp_path / "b.png")
    again(model, out, image, tmp_path / "b.png")
    assert (tmp_path / "record").read_text() == kept  # the link was replaced, not what it leads to
    assert image.read_bytes() == before
    assert mine.read_text() == "mine"


def bad_model(tmp_path: Path, value: float, name: str = "bad.onnx") -> Path:
    from onnx import numpy_helper

    proto = build(planes=1)
    bias = next(each for each in proto.graph.initializer if each.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([value], np.float32), "bias"))
    proto.graph.node[-1].op_type = "Identity"
    return save(tmp_path / name, proto)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "is NaN or infinite"), (np.inf, "is NaN or infinite"), (5.0, "lie between 0 and 1")],
)
def test_what_is_no_probability_is_an_error_of_the_image(tmp_path: Path, value: float, reason: str) -> None:
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    with pytest.raises(InputError, match=reason) as refused:
        predict_files(Predictor(bad_model(tmp_path, value)), [image], out)
    assert str(image) in str(refused.value)
    assert not out.exists()


def test_rounding_beside_the_probabilities_is_allowed() -> None:
    from segdistill.runtime.predictor import require_probability

    values = np.array([-1e-5, 0.5, 1 + 1e-5], np.float32)
    assert require_probability(values, "x").tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(InputError):
        require_probability(values * 20 - 0.1, "x")


def test_an_output_of_another_size(tmp_path: Path) -> None:
    from onnx import helper

    proto = build()
    proto.graph.node[-1].output[0] = "whole"
    proto.graph.node.append(
        helper.make_node("MaxPool", ["whole"], ["probability"], kernel_shape=[2, 2], strides=[2, 2])
    )
    with pytest.raises(InputError, match="must have the size of its input"):
        Predictor(save(tmp_path / "half.onnx", proto)).predict_pixels(np.zeros((40, 40), np.uint8))


def test_the_table_is_safe_in_a_spreadsheet(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "-x.png", "@y.png", "a\nb\x1b.png", "c\u2028d.png", "e\u202egnp.png"]
    if os.name == "posix":
        names.append(os.fsdecode(b"caf\xe9.png"))
    for name in names:
        picture(Path(name))
    found: Predictions = predict_files(Predictor(model), names, tmp_path / "out")
    text = (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == len(names) + 1
    assert not set(text) & set("\x1b\u2028\u202e")
    rows = list(csv.DictReader(text.splitlines()))
    assert not any(str(cell).startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert [row["file"] for row in found.rows] == names
    masks = {row["mask"].removeprefix("'") for row in rows}
    assert masks == {name for name in times(tmp_path / "out") if "_overlay" not in name}
    assert again(model, tmp_path / "out", *map(Path, names)) == set()


@pytest.mark.skipif(os.name == "nt", reason="a process cannot send itself Ctrl-C there")
def test_an_interrupted_call_has_a_row_for_all_that_was_begun() -> None:
    begun, told = threading.Event(), list[tuple[str, str]]()

    def work(key: str) -> str:
        if key == "a":
            begun.wait(20)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        begun.set()
        return key.upper()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            told.extend(module._side_by_side(["a", "b"], work, 2, lambda key: False))
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == [("a", "A"), ("b", "B")]


def test_two_calls_at_once_in_one_folder_are_refused(tmp_path: Path, model: Path) -> None:
    one, out = picture(tmp_path / "a.png"), tmp_path / "out"
    refused: list[str] = []

    def second(done: int, total: int) -> None:
        with pytest.raises(
            InputError, match=r"another call of predict is writing to .*: wait for it"
        ) as found:
            predict_files(Predictor(model, 1), [one], out)
        refused.append(str(found.value))

    predict_files(Predictor(model, 1), [one], out, second)
    assert len(refused) == 1
    assert "\n" not in refused[0]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert again(model, out, one) == set()


def test_files_that_are_not_used_are_counted(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    for name in ("brain.mgz", "scan.nhdr", "scan.hdr", "notes.txt", ".hidden.png"):
        (folder / name).write_bytes(b"x")
    notes = predict_files(Predictor(model, 1), [folder], tmp_path / "out").notes
    assert len(notes) == 1
    assert notes[0].startswith("not used: 5 files: ")
    for part in ("format .mgz", "format .nhdr", "format .hdr", "no picture or volume 1", "hidden 1"):
        assert part in notes[0]
    with pytest.raises(InputError, match=r"brain\.mgz: format \.mgz is not read: save it as \.nii\.gz"):
        predict_files(Predictor(model, 1), [folder / "brain.mgz"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(os.name == "nt", reason="there are no links without rights")
def test_links_that_lead_nowhere_or_in_a_circle_are_told(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    (folder / "b.png").symlink_to("b.png")
    (folder / "c.png").symlink_to("absent.png")
    done = predict_files(Predictor(model, 1), [folder], tmp_path / "out")
    assert len(done.rows) == 1
    assert [note.split(" (")[0] for note in done.notes] == ["not used: 2 files: link to no file 2"]
    with pytest.raises(InputError, match=r"b\.png: "):
        predict_files(Predictor(model, 1), [folder / "b.png"], tmp_path / "other")


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes among its files")
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mha", "x.nrrd", "x.png"])
def test_a_pipe_is_no_input(tmp_path: Path, model: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is not a regular file"):
        predict_files(Predictor(model, 1), [tmp_path / name], tmp_path / "out")
    with pytest.raises(InputError, match="is not a regular file"):
        file_hash(tmp_path / name)


def test_links_to_folders_are_followed(tmp_path: Path, model: Path) -> None:
    picture(tmp_path / "elsewhere" / "b.png")
    given = tmp_path / "in"
    picture(given / "a.png")
    (given / "more").symlink_to(tmp_path / "elsewhere")
    (given / "more" / "loop").symlink_to(given)
    found = predict_files(Predictor(model, 1, None), [given], tmp_path / "out")
    assert {Path(row["mask"]).name for row in table(tmp_path / "out").values()} == {"a.png", "b.png"}, found
