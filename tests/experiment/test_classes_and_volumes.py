"""Several classes, and volumes as volumes, from the table to the model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segdistill
from segdistill.data.case import Case
from segdistill.data.opened import open_case
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.experiment.audit import audit
from segdistill.experiment.evaluation import Evaluation, Subject
from segdistill.imaging.classes import parse_classes
from segdistill.imaging.grid import VolumePreprocess
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.read_volume import nifti_info, read_volume
from segdistill.metrics.cases import Scored, read_metrics_csv
from segdistill.models.registry import create_network
from segdistill.runtime.predictor import Predictor
from segdistill.runtime.write import write_prediction, write_volume
from segdistill.training.inference import WholeVolumes
from tests.experiment.tiny import segdistill as command
from tests.imaging.volumes import write_itk

SPLITS = ("train", "train", "train", "val", "test")
FIT = {"steps": 3, "batch_size": 2, "augment": "none", "precision": "fp32", "workers": 0}
LOSS = {"name": "cross_entropy_dice"}


def scene(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Indices: a block of class 2 in one of class 1."""
    rng, mask = np.random.default_rng(seed), np.zeros(shape, np.uint8)
    start = rng.integers(1, 3, len(shape))
    mask[tuple(slice(a, a + n // 2) for a, n in zip(start, shape, strict=True))] = 1
    mask[tuple(slice(a + 1, a + n // 4 + 1) for a, n in zip(start, shape, strict=True))] = 2
    return mask


def pictures(root: Path) -> Path:
    """A table in which each class has files of its own."""
    lines = ["id,image,masks,split"]
    for k, split in enumerate(SPLITS):
        mask = scene(k, (32, 32))
        Image.fromarray(mask * np.uint8(90) + np.uint8(30)).save(root / f"{k}.png")
        for index, name in ((1, "organ"), (2, "core")):
            Image.fromarray((mask >= index).astype(np.uint8) * np.uint8(255)).save(root / f"{k}_{name}.png")
        lines.append(f"{k},{k}.png,organ={k}_organ.png;core={k}_core.png,{split}")
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    return root / "cases.csv"


def volumes(root: Path) -> Path:
    cases = []
    for k, split in enumerate(SPLITS):
        mask = scene(k, (10 + k, 16, 14))
        image = write_itk(root / f"{k}.nii.gz", (mask * 90 + 10).astype(np.int16), spacing=(1.0, 1.0, 2.0))
        drawn = write_itk(root / f"{k}m.nii.gz", mask, spacing=(1.0, 1.0, 2.0))
        classes = parse_classes({"organ": 1, "core": 2})
        cases.append(Case(str(k), image, (drawn,), split=split, classes=classes))
    write_cases(cases, root / "cases.csv")
    return root / "cases.csv"


def recipe(network: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "data": {"channels": 1, **data},
        "fit": FIT,
        "stages": {
            "teacher": {"role": "teacher", "model": network, "loss": LOSS},
            "student": {
                "task": "distillation",
                "model": network,
                "loss": LOSS,
                "teachers": {"teacher": {"flips": True}},
                "targets": "case",
                "methods": {"soft_mask": {}, "soft_prediction": {}},
            },
        },
        "evaluation": {"metrics": ["hd95"]},
        "export": "student",
    }


def check(run: Path, table: Path) -> None:
    """The model file gives what the run measured, class by class."""
    found = read_metrics_csv(run / "stages" / "student" / "metrics.csv")
    again = segdistill.evaluate(run / "model.onnx", table, metrics=["hd95"])
    for ours, theirs in zip(found, again.results, strict=True):
        assert set(ours.structures) == {"organ", "core"}
        for name, one in ours.structures.items():
            assert theirs.structures[name].metrics == pytest.approx(one.metrics, abs=1e-6)
        known = [one.metrics["dice"] for one in ours.structures.values() if one.metrics]
        assert ours.metrics["dice"] == pytest.approx(np.mean(known))
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Class by class" in page
    assert "Found where it is not" in page


def test_pictures_with_a_file_for_each_class(tmp_path: Path) -> None:
    table = pictures(tmp_path)
    result = segdistill.run(
        recipe({"name": "simplified_unet", "widths": [4, 8]}, size=32),
        data=table,
        out=tmp_path / "run",
        progress=False,
    )
    check(result.folder, table)
    assert read_cases(result.folder / "cases.csv")[0].classes == parse_classes(["organ", "core"])
    predictor = Predictor(result.folder / "model.onnx", 1)
    assert predictor.structures == ("organ", "core")
    picture = segdistill.imaging.read.read_picture(tmp_path / "4.png")
    predicted = predictor.predict_pixels(picture.pixels)
    mask, _ = write_prediction(predicted, picture, "4", tmp_path / "out")
    with Image.open(mask) as stored:
        assert stored.mode == "P"
        assert np.array_equal(np.asarray(stored), predicted.mask)
    joined = command("evaluate", result.folder / "model.onnx", tmp_path / "cases.csv", "--pooled")
    assert joined.code == 2
    assert "join the classes" in joined.err


def test_volumes_as_volumes(tmp_path: Path) -> None:
    table = volumes(tmp_path)
    network = {"name": "lite_unet", "widths": [4, 8], "stem": 1}
    result = segdistill.run(
        recipe(network, dimensions=3, size=[8, 8, 8], intensity="range"),
        data=table,
        out=tmp_path / "run",
        progress=False,
    )
    check(result.folder, table)
    predictor = Predictor(result.folder / "model.onnx", 1)
    assert predictor.info.preprocess.spacing == (2.0, 1.0, 1.0)  # type: ignore[union-attr]
    predicted = predictor.predict_volume(tmp_path / "4.nii.gz")
    mask, _ = write_volume(predicted, lambda k: np.zeros((16, 14), np.uint8), "4", tmp_path / "out")
    assert nifti_info(mask).labels == {"organ": 1, "core": 2}
    assert np.array_equal(read_volume(mask, turn=False).voxels, predicted.mask)
    assert read_volume(mask).geometry == read_volume(tmp_path / "4.nii.gz").geometry
    with pytest.raises(InputError, match="segments volumes, not pictures"):
        predictor.predict_pixels(np.zeros((8, 8), np.uint8))
    found = audit(result.folder)
    assert sorted(row.case.id for row in found.findings) == ["3", "4"]  # no network trained on these
    tested = next(row for row in found.findings if row.case.id == "4")
    reference = read_volume(tmp_path / "4m.nii.gz").voxels
    shown = read_volume(mask).voxels
    assert tested.dice == pytest.approx(
        np.mean([2 * ((shown == k) & (reference == k)).sum() / max((shown == k).sum() + (reference == k).sum(), 1)
                 for k in (1, 2) if ((shown == k) | (reference == k)).any()]),
    )  # fmt: skip
    maps = found.probability(tested.case)
    assert maps.shape == (2, *reference.shape)
    assert np.array_equal(found.predicted(tested.case), shown > 0)


def test_probabilities_of_a_volume_are_measured(tmp_path: Path) -> None:
    """Brier score, calibration, AUC and the map's error of one foreground, in torch and against NumPy."""
    volumes(tmp_path)
    case = Case("0", tmp_path / "0.nii.gz", (tmp_path / "0m.nii.gz",), foreground=(1, 2))
    preprocess = VolumePreprocess((8, 8, 8), (2.0, 1.0, 1.0))
    torch.manual_seed(0)
    network = create_network("lite_unet", 1, 2, widths=[2, 4], stem=1, dimensions=3)
    predict = WholeVolumes(network, preprocess, Postprocess(), torch.device("cpu"), scores=True)
    found = Evaluation(Subject("net", predict), ["rmse_map"], pooled=True, calibrated=True)
    assert list(found.measure([case])) == [1]
    record = found.record("test")
    opened = open_case(case)
    scored = predict.volume(opened)
    assert isinstance(scored, Scored)
    assert scored.score.shape == scored.mask.shape == opened.reference.shape
    truth = (opened.reference != 0).astype(float)
    squares = np.square(scored.score.astype(float) - truth).mean()
    assert record.calibration["all"]["brier"] == pytest.approx(squares)
    assert found.results[0].metrics["rmse_map"] == pytest.approx(np.sqrt(squares))
    inside, outside = scored.score[truth == 1], scored.score[truth == 0]
    above = (inside[:, None] > outside[None]).mean() + 0.5 * (inside[:, None] == outside[None]).mean()
    assert record.pooled["auc"] == pytest.approx(above, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.classes": {"organ": 1}}, "holds the label 2, but 2 classes are declared"),
        ({"data.classes": {"organ": 1, "core": 2, "rim": 3}}, "no training case holds the class rim"),
        ({"stages.student.model.classes": 5}, "model.classes is 5, but the masks hold 3 classes"),
        ({"stages.student.model": {"name": "segnet"}}, "takes pictures and slices"),
        ({"evaluation.pooled": True}, "join the classes"),
        ({"data.spacing": [1, 1, 0]}, r"spacing: give \[slice, row, column\], three numbers of mm above 0"),
        ({"data.spacing": [1, 1]}, r"such as \[2, 1, 1\], not \[1, 1\]"),
        ({"data.spacing": 1}, r"such as \[2, 1, 1\], not 1"),
        ({"data.size": [8, 8]}, "with dimensions: 3"),
    ],
)
def test_what_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    network = {"name": "lite_unet", "widths": [4, 8], "stem": 1}
    content = recipe(network, dimensions=3, size=[8, 8, 8], intensity="range")
    with pytest.raises(InputError, match=words) as caught:
        segdistill.run(content, data=volumes(tmp_path), out=tmp_path / "run", set=changes, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_network_of_monai_trains_on_volumes_and_is_exported(tmp_path: Path) -> None:
    table = volumes(tmp_path)
    network = {
        "name": "monai.networks.nets:BasicUNet",
        "arguments": {"spatial_dims": 3, "features": [4, 4, 4, 4, 4, 4]},
        "size_divisor": 16,
        "probe": 32,
    }
    content = {
        "name": "monai",
        "data": {"dimensions": 3, "size": [32, 32, 32], "channels": 1, "intensity": "range"},
        "fit": FIT | {"steps": 2},
        "stages": {"net": {"model": network, "loss": LOSS}},
        "export": "net",
    }
    run = segdistill.run(content, data=table, out=tmp_path / "run", progress=False).folder
    predictor = Predictor(run / "model.onnx", 1)
    assert predictor.structures == ("organ", "core")
    assert predictor.predict_volume(tmp_path / "4.nii.gz").mask.shape == (14, 16, 14)
