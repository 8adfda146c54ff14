"""What users get wrong: one line that says so, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.phantom import write_phantom
from segdistill.experiment.folder import LOCK
from tests.experiment.tiny import Answer, process, segdistill, snapshot, write_recipe
from tests.runtime.small_model import save


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "own"
    write_phantom(folder, 30, size=32)
    (folder / "phantom.json").unlink()
    return folder


@pytest.fixture
def own(drawn: Path, tmp_path: Path) -> Path:
    """Images and masks of a user, with their table, that a test may damage."""
    return Path(shutil.copytree(drawn, tmp_path / "own"))


def refused(answer: Answer, message: str, before: dict[str, str], folder: Path) -> None:
    assert answer.code == 2, answer.err
    assert message in answer.line
    assert answer.out == ""
    assert snapshot(folder) == before


def image(own: Path, number: int = 3) -> Path:
    return own / "images" / f"phantom_{number:04d}.png"


def mask(own: Path, number: int = 3) -> Path:
    return own / "masks" / f"phantom_{number:04d}.png"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shrink(path: Path) -> None:
    Image.open(path).resize((20, 20)).save(path)


def photograph(path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(grey).save(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing image": (lambda own: image(own).unlink(), "phantom_0003.png"),
    "zero bytes": (lambda own: image(own).write_bytes(b""), "phantom_0003.png"),
    "truncated": (lambda own: truncate(image(own)), "phantom_0003.png"),
    "not an image": (lambda own: image(own).write_text("text"), "phantom_0003.png"),
    "missing mask": (lambda own: mask(own).unlink(), "phantom_0003.png"),
    "zero-byte mask": (lambda own: mask(own).write_bytes(b""), "phantom_0003.png"),
    "truncated mask": (lambda own: truncate(mask(own)), "phantom_0003.png"),
    "other size": (lambda own: shrink(mask(own)), "phantom_0003"),
    "photo as mask": (lambda own: photograph(mask(own)), "phantom_0003"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("source", ["folder", "table"])
def test_damaged_files_stop_a_run(damage: str, source: str, own: Path, tmp_path: Path) -> None:
    break_it, name = DAMAGE[damage]
    break_it(own)
    data = own / "cases.csv"
    if source == "folder":
        data.unlink()
        data = own
    recipe = write_recipe(tmp_path, data={"size": 32, "channels": 1})
    before = snapshot(tmp_path)
    answer = segdistill("run", recipe, "--data", data, "--device", "cpu", "--out", tmp_path / "runs" / "r")
    refused(answer, name, before, tmp_path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_stop_an_index(damage: str, own: Path, tmp_path: Path) -> None:
    (own / "cases.csv").unlink()
    break_it, name = DAMAGE[damage]
    break_it(own)
    before = snapshot(tmp_path)
    answer = segdistill("data", "index", "folder", own, "-o", tmp_path / "t.csv")
    assert answer.code == 2
    assert name in answer.err
    assert "Traceback" not in answer.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "lightbtseg/busi", "--data", "{own}"), "benign"),
        (("run", "lightbtseg/dataset_b", "--data", "{own}"), "no training case with label 'benign'"),
        (("run", "distill", "--data", "{tmp}/empty"), "put images into images/"),
        (("run", "distill", "--data", "{tmp}/none"), "no such data"),
        (("run", "distill", "--data", "{own}/images/phantom_0001.png"), "phantom_0001.png"),
        (("run", "distill"), "give --data with a cases.csv or a folder"),
        (("run", "distil", "--data", "{own}"), "did you mean 'distill'"),
        (("run", "{recipe}", "--set", "epoch=3"), "did you mean 'epochs'"),
        (("run", "{recipe}", "--set", "size=32", "epohs=3"), "did you mean 'epochs'"),
        (("run", "{recipe}", "--stages", "studnt"), "did you mean 'student'"),
        (("run", "{recipe}", "--device", "tpu"), "choose auto, cpu, gpu"),
        (("run", "{recipe}", "--devices", "0"), "at least 1"),
        (("run", "{recipe}", "--out", "{recipe}"), "choose another --out"),
        (("run", "{recipe}", "--out", "{recipe}/deep/down"), "choose another --out"),
        (("run", "{tmp}/none.yaml"), "no recipe file"),
        (("evaluate", "{tmp}", "{own}"), "is neither the folder of a run nor of a stage"),
        (("evaluate", "{recipe}", "{own}"), "not a segdistill model file"),
        (("evaluate", "{model}"), "no cases to evaluate {model} on: give a cases.csv"),
        (("evaluate", "{model}", "{own}", "--stage", "student"), "has no stages: leave the stage out"),
        (
            ("evaluate", "{model}", "{own}", "--metrics", "hd59"),
            "unknown metric 'hd59': did you mean 'hd95'?",
        ),
        (("evaluate", "{tmp}/none.onnx", "{own}"), "no such model file"),
        (("evaluate", "{fake}", "{own}"), "not a segdistill model file"),
        (("evaluate", "{model}", "{tmp}/none.csv"), "no such case table"),
        (("evaluate", "{model}", "{tmp}/empty"), "put images into images/"),
        (("evaluate", "{model}", "{own}", "-o", "{recipe}/x"), "cannot write"),
        (("predict", "{fake}", "{own}"), "not a segdistill model file"),
        (("predict", "{model}", "{tmp}/none.png"), "none.png"),
        (("predict", "{model}", "{own}", "-o", "{recipe}/deep/x"), "{recipe}"),
        (
            ("list", "modles"),
            "unknown kind 'modles': known: datasets, losses, methods, metrics, networks, recipes",
        ),
        (("reproduce", "lightbtsg"), "did you mean 'lightbtseg'"),
        (("reproduce", "lightbtseg", "--table", "9"), "it has 1, 2, 3"),
        (("data", "index", "busi", "{own}", "-o", "{tmp}/t.csv"), "benign"),
        (("data", "index", "folder", "{own}", "-o", "{recipe}/t.csv"), "cannot write"),
        (("complexity", "unett"), "did you mean 'unet'"),
        (("run", "{own}"), "for data there is --data {own}"),
        (("run", "tiny", "--data", "{own}"), "did you mean tiny.yaml?"),
        (("run", "nothing-like-it"), "segdistill list recipes shows the names"),
        (("run", "{recipe}", "--stages", ""), "--stages is empty"),
        (("run", "{recipe}", "--set", "only_folds=[1]"), "set their number, such as folds=5"),
        (
            ("run", "{recipe}", "--set", "student=resnet18"),
            "resnet18 is a classifier, but a stage with task: dist",
        ),
        (
            ("run", "{recipe}", "--set", "teacher=multi_scale_discriminator"),
            "is a discriminator, but a stage with",
        ),
        (
            ("run", "{recipe}", "--out", "{own}"),
            "{own}/cases.csv would be replaced, and no run has written it",
        ),
        (
            ("evaluate", "{model}", "{own}", "--split", "tset"),
            "unknown split 'tset': did you mean 'test'",
        ),
        (("predict", "{model}", "{own}/images", "-o", "{own}/masks"), "and no prediction has written it"),
        (("predict", "{tmp}/some-run", "{own}"), "give {tmp}/some-run/model.onnx"),
        (("predict", "{model}", "{own}/images", "-o", "{recipe}/x"), "{recipe} is a file, not a folder"),
        (("data", "show", "{own}/cases.csv", "-o", "{tmp}/s.jpg"), "must end in .png"),
        (
            ("data", "show", "{own}/cases.csv", "-o", "{own}/images/phantom_0001.png"),
            "is a picture of the table and would be replaced",
        ),
        (("data", "show", "{own}/cases.csv", "--columns", "0", "-o", "{tmp}/s.png"), "at least 1, not 0"),
        (
            ("data", "index", "folder", "{own}", "-o", "{own}/images/phantom_0001.png"),
            "its name must end in .csv",
        ),
        (
            ("data", "index", "folder", "{own}/images/phantom_0001.png", "-o", "{tmp}/t.csv"),
            "is a file, not a folder",
        ),
        (("data", "check", "{own}/images/phantom_0001.png"), "is no table of UTF-8 text"),
        (("evaluate", "{model}", "{model}"), "is no table of UTF-8 text"),
        (("complexity", "{model}"), "give the name of a network"),
        (("reproduce", "lightbtseg", "--runs", "{tmp}/none"), "no such folder"),
        (("run", "{tmp}/broken.yaml"), "broken.yaml is not YAML: line 2, column 1: "),
        (("data", "show", "{own}/cases.csv", "--split", "tset"), "no case has the split 'tset'"),
        (("data", "show", "{own}/cases.csv", "--label", "bening"), "did you mean 'benign'"),
        (
            ("data", "index", "folder", "{own}", "--split", "hold-out", "--test", "1.5", "-o", "{tmp}/t.csv"),
            "--test 1.5 and --val 0.15: give shares",
        ),
    ],
)
def test_bad_words(
    words: tuple[str, ...], message: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGDISTILL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "fake.onnx").write_bytes(b"no network")
    (tmp_path / "excel.csv").write_text("id;image;masks\na;a.png;b.png\n")
    (tmp_path / "broken.yaml").write_text("a: [b\n")
    (tmp_path / "some-run").mkdir()
    save(tmp_path / "some-run" / "model.onnx")
    names = {
        "own": own,
        "tmp": tmp_path,
        "recipe": write_recipe(tmp_path),
        "fake": tmp_path / "fake.onnx",
        "model": save(tmp_path / "model.onnx"),
    }
    before = snapshot(tmp_path)
    answer = segdistill(*(word.format(**names) for word in words))
    refused(answer, message.format(**names), before, tmp_path)


def test_a_class_without_cases_leaves_no_made_up_images(tmp_path: Path) -> None:
    """They are drawn into the run's folder before the recipe can be compared with them."""
    recipe = write_recipe(tmp_path)
    before = snapshot(tmp_path)
    words = ("run", recipe, "--set", "labels=[cyst]", "--device", "cpu", "--out", tmp_path / "runs" / "r")
    refused(segdistill(*words), "no training case with label 'cyst'", before, tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("kept")
    assert segdistill(*words[:-1], tmp_path / "mine").code == 2
    assert (tmp_path / "mine" / "note.txt").read_text() == "kept"


def test_weights_of_another_architecture(run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "r"))
    shutil.copy(run / "stages/teacher/weights.safetensors", run / "stages/student/weights.safetensors")
    before = snapshot(tmp_path)
    for words in (("evaluate", run, run / "cases.csv"), ("export", run, "-o", tmp_path / "m.onnx")):
        answer = segdistill(*words)
        refused(answer, "holds weights of another architecture", before, tmp_path)
        assert answer.line.endswith("run the recipe again to train the stage")


def test_usage_errors_are_typers() -> None:
    for words in (
        ("run",),
        ("run", "x", "--sett", "a=1"),
        ("evaluate", "x"),
        ("nothing",),
        ("run", "x", "--devices", "two"),
    ):
        answer = segdistill(*words)
        assert answer.code == 2
        assert "Traceback" not in answer.err


@contextmanager
def small_disk(kilobytes: int) -> Iterator[None]:
    """Files end at a size, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def whole(folder: Path) -> None:
    """Every file that is there can be read, and no temporary one is left."""
    for path in folder.rglob("*"):
        assert not path.name.startswith(".") or path.name == LOCK, path
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".png":
            Image.open(path).load()
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            load_file(path)


@pytest.mark.parametrize("kilobytes", [1, 20, 60, 200])
def test_a_full_disk_stops_a_run(kilobytes: int, own: Path, tmp_path: Path) -> None:
    """At 1 and 20 KiB the store does not fit, at 60 a checkpoint, at 200 the report."""
    recipe = write_recipe(tmp_path, data={"size": 32, "channels": 1})
    runs = tmp_path / "out"
    with small_disk(kilobytes):
        answer = segdistill("run", recipe, "--data", own, "--device", "cpu", "--out", runs / "r")
    assert answer.code == 2
    assert "cannot write" in answer.line
    if kilobytes < 60:
        assert not runs.exists()
    else:
        whole(runs / "r")


def test_a_full_disk_stops_other_commands(own: Path, tmp_path: Path, run_folder: Path) -> None:
    model = save(tmp_path / "model.onnx")
    big = tmp_path / "big.png"
    photograph(big)
    Image.open(big).resize((400, 400)).save(big)
    with small_disk(1):
        predicted = segdistill("predict", model, big, "-o", tmp_path / "p")
        exported = segdistill("export", run_folder, "-o", tmp_path / "m.onnx")
        indexed = segdistill("data", "index", "folder", own, "-o", tmp_path / "t.csv")
    for answer in (predicted, exported, indexed):
        assert answer.code == 2
        assert "cannot write" in answer.line
    whole(tmp_path)
    assert not (tmp_path / "t.csv").exists()
    assert not (tmp_path / "m.onnx").exists()


def test_without_the_extra_for_training(own: Path, tmp_path: Path, run_folder: Path) -> None:
    """Where torch and its company are missing, one line names the extra; what needs no torch works."""
    blocked = (
        "torch lightning_fabric albumentations cv2 safetensors scipy matplotlib SimpleITK monai einops tensorboard "
        "onnx onnxscript"
    )
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        f"blocked = set({blocked!r}.split())\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in blocked:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    script = (
        "import sitecustomize, sys, json\n"
        "from segdistill.cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['segdistill', *words]\n"
        "    try: main()\n"
        "    except SystemExit as stop: print('code', words[0], stop.code or 0, file=sys.stderr, flush=True)\n"
    )
    model, table = str(run_folder / "model.onnx"), str(run_folder / "cases.csv")
    words = [
        ["predict", model, str(own / "images"), "-o", str(tmp_path / "p"), "--json"],
        ["evaluate", model, table],
        ["data", "index", "folder", str(own), "-o", str(tmp_path / "t.csv")],
        ["list", "recipes"],
        ["list", "metrics"],
        ["reproduce", "lightbtseg"],
        ["list", "networks"],
        ["run", "distill", "--data", str(own)],
        ["demo"],
        ["export", str(run_folder)],
        ["evaluate", str(run_folder), table],
        ["complexity", "unet"],
    ]
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(words)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{source}"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    codes = [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("code ")]
    assert codes == [[one[0], "0" if i < 6 else "2"] for i, one in enumerate(words)], done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("segdistill: ")]
    assert len(lines) == 6
    assert all(line.endswith("needs the extra 'train': pip install 'segdistill[train]'") for line in lines)
    assert not (tmp_path / "runs").exists()


def test_messages_of_a_process_of_its_own(tmp_path: Path) -> None:
    """The same through the real entry point: exit code, one line, nothing on stdout."""
    answer = process("run", "distill", "--data", tmp_path / "none", cwd=tmp_path)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert "no such data" in answer.line
    assert list(tmp_path.iterdir()) == []
