"""A ladder of volumes: chosen by the data, measured per volume, from table to model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

import segdistill
from segdistill.config.ladder import EFFORTS
from segdistill.config.schema import DataRecipe
from segdistill.data.case import Case
from segdistill.data.table import write_cases
from segdistill.errors import InputError
from segdistill.experiment import shrink as module
from segdistill.experiment.rungs import measure_rungs
from segdistill.imaging.classes import parse_classes
from segdistill.metrics.cases import read_metrics_csv
from segdistill.records import ShrinkRecord
from segdistill.runtime.predictor import Predictor
from tests.imaging.volumes import write_itk

NETWORKS = {
    "wide": {"name": "lite_unet", "widths": [4, 8], "stem": 1},
    "narrow": {"name": "lite_unet", "widths": [2, 4], "stem": 2},
}
FIT = {"fit.steps": 1, "fit.precision": "fp32", "fit.workers": 0, "fit.augment": "none"}


def table(root: Path) -> Path:
    """Volumes of 16 slices with two structures."""
    cases, classes = [], parse_classes({"organ": 1, "core": 2})
    for k in range(10):
        rng = np.random.default_rng(k)
        mask = np.zeros((16, 16, 16), np.uint8)
        z, y, x = rng.integers(1, 5, 3)
        mask[z : z + 8, y : y + 7, x : x + 6] = 1
        mask[z + 2 : z + 6, y + 2 : y + 5, x + 2 : x + 4] = 2
        values = mask * 90 + 10 + rng.integers(0, 9, mask.shape)
        image = write_itk(root / f"{k}.nii.gz", values.astype(np.int16), spacing=(1.0, 1.0, 2.0))
        drawn = write_itk(root / f"{k}m.nii.gz", mask, spacing=(1.0, 1.0, 2.0))
        cases.append(Case(str(k), image, (drawn,), group=str(k), classes=classes))
    write_cases(cases, root / "cases.csv")
    return root / "cases.csv"


class Measured(Exception):
    """Ends the call when the networks are measured."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []

    def note(*given: Any) -> None:
        seen.append(given)
        raise Measured

    monkeypatch.setattr(module, "measure_rungs", note)
    return seen


def test_the_data_choose_the_dimensions(
    tmp_path: Path, measured: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    source = table(tmp_path)
    with pytest.raises(Measured):
        segdistill.shrink(source, effort="quick", out=tmp_path / "a")
    models, data, shape = measured[0]
    assert [model["preset"] for model in models.values()] == ["volume_large", "volume_medium", "volume_tiny"]
    assert {(model["classes"], model["dimensions"]) for model in models.values()} == {(3, 3)}
    assert (data.sides, data.spacing, data.channels) == ((16, 16, 16), [2.0, 1.0, 1.0], 1)
    assert shape == (16, 16, 16)
    assert "networks see patches of 16 x 16 x 16 voxels of 2 x 1 x 1 mm" in capsys.readouterr().err
    with pytest.raises(Measured):
        segdistill.shrink(
            source, effort="quick", out=tmp_path / "b", set={"data.dimensions": 2}, progress=False
        )
    with pytest.raises(Measured):
        segdistill.shrink(
            source, rungs=["enet", "lite_unet/tiny"], out=tmp_path / "b", set={"size": 32}, progress=False
        )
    assert [each[1].dimensions for each in measured[1:]] == [2, 2]
    assert [each[2] for each in measured[1:]] == [None] * 2
    assert next(iter(measured[1][0])) == "simplified_unet"


def test_networks_of_pictures_are_refused_for_volumes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="enet takes pictures and slices: of volumes use unet or lite_unet"):
        segdistill.shrink(
            table(tmp_path),
            rungs=["enet", "lite_unet/volume_tiny"],
            set={"data.dimensions": 3},
            out=tmp_path / "out",
            progress=False,
        )


def test_a_volume_takes_the_time_of_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches of 8 that overlap by half: 3 x 1 x 1 windows in 16 x 8 x 7 voxels."""
    monkeypatch.setattr("segdistill.experiment.rungs._processor_seconds", lambda turns: [0.5] * len(turns))
    monkeypatch.setattr(
        "segdistill.experiment.rungs.export_network", lambda network, info, path: path.touch()
    )
    monkeypatch.setattr("segdistill.experiment.rungs.Engine", MagicMock())
    data = DataRecipe(dimensions=3, size=[8, 8, 8], channels=1)
    small = {"small": {"name": "lite_unet", "widths": [2, 4], "stem": 1, "dimensions": 3}}
    (rung,) = measure_rungs(small, data, (16, 8, 7))
    assert rung.ms == 1500


@pytest.mark.parametrize("effort", EFFORTS)
def test_rungs_of_volumes_end_below_a_tenth_of_the_first(effort: str) -> None:
    names = EFFORTS[effort].volume_rungs
    assert len(names) >= 3
    assert names[0] == "lite_unet/volume_large"
    assert names[-1] == "lite_unet/volume_tiny"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_ladder_of_volumes_from_table_to_model_file(tmp_path: Path) -> None:
    """The teacher is a run of volumes, whose model file predicts whole volumes."""
    source = table(tmp_path)
    model = {"name": "unet", "widths": [4, 8]}
    content = {
        "name": "big",
        "data": {"dimensions": 3},
        "fit": {"steps": 2, "batch_size": 2, "precision": "fp32", "workers": 0, "augment": "none"},
        "stages": {"big": {"model": model, "loss": {"name": "cross_entropy_dice"}}},
        "export": "big",
    }
    teacher = segdistill.run(content, data=source, out=tmp_path / "big", progress=False).folder
    found = segdistill.shrink(
        source,
        teacher=teacher,
        rungs=NETWORKS,
        margin=0.95,
        folds=3,
        effort="quick",
        set=FIT | {"data.dimensions": 3},
        out=tmp_path / "ladder",
        device="cpu",
        progress=False,
    )
    record = found.record
    assert ShrinkRecord.read(tmp_path / "ladder") == record
    assert (record.unit, record.size, record.reference) == ("volume", "1 x 16 x 16 x 16", "wide")
    assert record.teacher_score is not None
    assert record.rung("narrow").distilled is not None
    rows = [
        one
        for fold in (1, 2, 3)
        for one in read_metrics_csv(tmp_path / f"ladder/folds/fold-{fold}/stages/narrow@0/metrics.csv")
    ]
    plain = record.rung("narrow").plain
    assert plain is not None
    assert plain.mean == pytest.approx(np.mean([one.metrics["dice"] for one in rows]))
    assert all(set(one.structures) == {"organ", "core"} for one in rows)
    assert record.chosen == "narrow"
    assert found.model_file is not None
    assert Predictor(found.model_file, 1).structures == ("organ", "core")
    page = found.report.read_text(encoding="utf-8")
    assert "Milliseconds of one volume, in patches of 1 x 16 x 16 x 16" in page
    assert "milliseconds per volume" in page
