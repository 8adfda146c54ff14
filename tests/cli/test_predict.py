from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from segdistill.cli.predict import predict
from segdistill.errors import CasesFailed, InputError
from segdistill.runtime.predict import find_inputs
from tests.runtime.small_model import picture, save

app = typer.Typer()
app.command()(predict)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "m.onnx")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(result: Result) -> BaseException:
    assert result.exception is not None
    assert "\n" not in str(result.exception)
    return result.exception


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_image(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    result = run(model, picture(tmp_path / "a.png"), "-o", out)
    assert result.exit_code == 0, result.output
    assert names(out) == ["a.png", "a_overlay.png", "predictions.csv", "predictions.jsonl"]
    mask = np.asarray(Image.open(out / "a.png"))
    assert mask.shape == (40, 60)
    assert set(np.unique(mask)) == {0, 255}
    assert np.asarray(Image.open(out / "a_overlay.png")).shape == (40, 60, 3)
    with open(out / "predictions.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert int(row["area_px"]) == (mask > 0).sum()
    assert float(row["seconds"]) > 0


def test_folders_are_searched_and_names_that_meet_are_told_apart(tmp_path: Path, model: Path) -> None:
    picture(tmp_path / "in" / "x.png")
    picture(tmp_path / "in" / "deep" / "x.TIF")
    picture(tmp_path / "in" / ".hidden" / "y.png")
    (tmp_path / "in" / "notes.txt").write_text("x")
    out = tmp_path / "in" / "out"
    for _ in range(2):  # what the first run wrote is no input of the second
        result = run(model, tmp_path / "in", tmp_path / "in" / "x.png", "-o", out, "--json")
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert [Path(row["file"]).name for row in report["predictions"]] == ["x.TIF", "x.png"]
        assert report["failed"] == []
        assert names(out) == [
            "predictions.csv",
            "predictions.jsonl",
            "x.png",
            "x_2.png",
            "x_2_overlay.png",
            "x_overlay.png",
        ]


def test_a_failing_case_is_listed_and_the_rest_go_on(tmp_path: Path, model: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    out = tmp_path / "out"
    result = run(model, picture(tmp_path / "a.png"), bad, picture(tmp_path / "b.png"), "-o", out)
    assert isinstance(error_of(result), CasesFailed)
    assert "1 of 3 images failed" in str(result.exception)
    assert [line for line in result.stderr.splitlines() if str(bad) in line]
    assert names(out) == [
        "a.png",
        "a_overlay.png",
        "b.png",
        "b_overlay.png",
        "predictions.csv",
        "predictions.jsonl",
    ]


def test_an_interrupted_prediction_can_be_repeated(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segdistill.runtime import predict as module

    folder, out, one = tmp_path / "in", tmp_path / "out", module._predict_file
    for name in ("a", "b", "c"):
        picture(folder / f"{name}.png")

    def until_c(predictor: object, file: Path, *rest: object) -> object:
        if file.stem == "c":
            raise KeyboardInterrupt
        return one(predictor, file, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as interrupted:
        interrupted.setattr(module, "_predict_file", until_c)
        assert run(model, folder, "-o", out).exit_code != 0
    assert run(model, folder, "-o", out).exit_code == 0
    with open(out / "predictions.csv", newline="") as file:
        assert [Path(row["file"]).name for row in csv.DictReader(file)] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_but_bad_input(tmp_path: Path, model: Path, count: int) -> None:
    bad = [tmp_path / f"{n}.png" for n in range(count)]
    for path in bad:
        path.touch()
    error = error_of(run(model, *bad, "-o", tmp_path / "out"))
    assert isinstance(error, InputError)
    assert str(bad[0]) in str(error)
    assert not (tmp_path / "out").exists()


def test_usage_errors(tmp_path: Path, model: Path) -> None:
    image = picture(tmp_path / "in" / "a.png")
    before = image.read_bytes()
    out = tmp_path / "out"
    cases: list[tuple[list[object], str]] = [
        ([image, image, "-o", out], "not a segdistill model file"),
        ([tmp_path / "absent.onnx", image, "-o", out], "no such model file"),
        ([model, image, "-o", out, "--threshold", "2"], "threshold"),
        ([model, image, "-o", out, "--threads", "0"], "threads"),
        ([model, image, "-o", image.parent], "is an input and would be replaced"),
        ([model, tmp_path / "in", "-o", image.parent], "is an input and would be replaced"),
        ([model, image, "-o", model], "cannot write"),
    ]
    for arguments, reason in cases:
        error = error_of(run(*arguments))
        assert isinstance(error, InputError), reason
        assert reason in str(error)
    (tmp_path / "empty").mkdir()
    assert "no image found" in str(error_of(run(model, tmp_path / "empty", "-o", out)))
    assert not out.exists()
    assert image.read_bytes() == before
    assert names(image.parent) == ["a.png"]


def test_inputs_may_lie_in_the_folder_of_the_results(tmp_path: Path) -> None:
    """What a folder holds is left out only where the results lie inside of it."""
    for place in ("own/masks", "own/predictions"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / place / "7.png")
    own = tmp_path / "own"
    assert find_inputs([own / "masks"], own) == [own / "masks" / "7.png"]
    assert find_inputs([own], own / "predictions") == [own / "masks" / "7.png"]


def test_each_file_once(tmp_path: Path) -> None:
    first = picture(tmp_path / "a.png")
    assert find_inputs([first, tmp_path, tmp_path / "." / "a.png"], tmp_path / "out") == [first]


def test_no_torch_and_no_open_socket_on_the_way(tmp_path: Path, model: Path) -> None:
    code = (
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event.startswith('socket.'): raise AssertionError(f'a socket was opened: {event}')\n"
        "sys.addaudithook(refuse)\n"
        "from pathlib import Path\n"
        "from segdistill.cli.predict import predict\n"
        "model, image, out = map(Path, sys.argv[1:])\n"
        "predict(str(model), [image], out)\n"
        "heavy = {'torch', 'scipy', 'onnx', 'pydicom', 'nibabel', 'matplotlib', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, model, picture(tmp_path / "a.png"), tmp_path / "o"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_compiled_code_opens_no_socket_either(tmp_path: Path, model: Path) -> None:
    trace, command = tmp_path / "trace", [sys.executable, "-m", "segdistill.cli.main", "predict"]
    words = [*command, model, picture(tmp_path / "a.png"), "-o", tmp_path / "o"]
    strace = ["strace", "-f", "-qq", "-e", "trace=network", "-o", trace]
    done = subprocess.run([*strace, *words], capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("processes cannot be traced here")
    assert done.returncode == 0, done.stderr
    assert "socket(" not in trace.read_text()


def test_results_of_an_earlier_call_are_no_pictures(tmp_path: Path, model: Path) -> None:
    given = tmp_path / "in"
    for name in "abc":
        picture(given / f"{name}.png")
    assert run(model, given, "-o", given / "out").exit_code == 0
    second = run(model, given, "-o", given / "out2", "--json")
    assert second.exit_code == 0, second.output
    assert [Path(row["file"]).name for row in json.loads(second.stdout)["predictions"]] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    (line,) = [line for line in second.stderr.splitlines() if "not used" in line]
    assert f"{given / 'out'} holds results of an earlier predict" in line


def test_links_to_one_file_are_images_with_a_name_each(tmp_path: Path, model: Path) -> None:
    blob, given = picture(tmp_path / "store" / "blob.png"), tmp_path / "in"
    given.mkdir()
    for name in "bc":
        (given / f"{name}.png").symlink_to(blob)
    assert find_inputs([given, given / "b.png"], tmp_path / "out") == [given / "b.png", given / "c.png"]
    assert run(model, given, "-o", tmp_path / "out").exit_code == 0
    assert {"b.png", "c.png"} <= set(names(tmp_path / "out"))
