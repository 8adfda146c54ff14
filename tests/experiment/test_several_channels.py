"""Images of several channels, from the table to the model file and its predictions; real images, tiny networks."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

import segdistill
from segdistill.config.load import load_recipe
from segdistill.config.schema import InputRecipe, MemberRecipe
from segdistill.data.opened import open_case
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.experiment.cases import load_cases, with_table_classes
from segdistill.experiment.int8 import calibration_inputs, measure
from segdistill.experiment.teachers import _onnx as onnx_teacher
from segdistill.experiment.teachers import _require_channels as require_channels
from segdistill.imaging.intensity import CT, MR
from segdistill.imaging.several import Channel
from segdistill.metrics.cases import read_metrics_csv
from segdistill.runtime.doctor import examine
from segdistill.runtime.predictor import Predictor
from tests.data.channels import NAMES, pictures, volumes
from tests.experiment.test_classes_and_volumes import volumes as few_volumes
from tests.experiment.tiny import segdistill as command

FIT = {"steps": 3, "batch_size": 2, "augment": "none", "precision": "fp32", "workers": 0}
LOSS = {"name": "cross_entropy_dice"}


def recipe(network: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {
        "name": "channels",
        "data": data,
        "fit": FIT,
        "stages": {
            "teacher": {"role": "teacher", "model": network, "loss": LOSS},
            "student": {
                "task": "distillation",
                "model": network,
                "loss": LOSS,
                "teachers": {"teacher": {}},
                "targets": "case",
                "methods": {"soft_prediction": {}},
            },
        },
        "export": "student",
    }


@pytest.fixture(scope="module")
def flat(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table of pictures, and a run on it."""
    folder = tmp_path_factory.mktemp("flat")
    table = pictures(data_root, folder / "data")
    made = recipe({"name": "simplified_unet", "widths": [4, 8]}, size=32, channels=3)
    return table, segdistill.run(made, data=table, out=folder / "run", progress=False).folder


def test_pictures_train_and_their_model_file_agrees(flat: tuple[Path, Path]) -> None:
    table, run = flat
    predictor = Predictor(run / "model.onnx", 1)
    preprocess = predictor.info.preprocess
    assert (preprocess.channels, preprocess.channel_names) == (2, ("us", "negative"))
    assert preprocess.intensity is None
    found = read_metrics_csv(run / "stages" / "student" / "metrics.csv")
    again = segdistill.evaluate(run / "model.onnx", table)
    for ours, theirs in zip(found, again.results, strict=True):
        assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-6)
    both = np.stack([np.asarray(Image.open(table.parent / f"4_{end}.png")) for end in ("us", "neg")], axis=-1)
    named = predictor.predict({"negative": table.parent / "4_neg.png", "us": table.parent / "4_us.png"})
    assert np.array_equal(named.probability, predictor.predict(both).probability)
    assert not np.array_equal(named.probability, predictor.predict(both[..., ::-1]).probability)
    assert "channel us" in (run / "report.html").read_text(encoding="utf-8")
    (finding,) = [one for one in examine([run / "model.onnx"]).findings if one.engine == "onnxruntime"]
    assert finding.test is not None
    assert finding.test.passed


def test_a_table_in_another_order_gives_the_same_numbers(flat: tuple[Path, Path], tmp_path: Path) -> None:
    table, run = flat
    rows = list(csv.DictReader(table.open()))
    for row in rows:
        first, second = row["image"].split(";")
        row["image"] = f"{second};{first}"
    turned = table.with_name("turned.csv")
    with open(turned, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    here, there = (segdistill.evaluate(run / "model.onnx", each).results for each in (table, turned))
    assert [one.metrics for one in here] == [one.metrics for one in there]


def test_predict_takes_a_table_a_folder_and_named_files(flat: tuple[Path, Path], tmp_path: Path) -> None:
    table, run = flat
    model, data = run / "model.onnx", table.parent
    done = command("predict", model, table, "-o", tmp_path / "table")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "table").glob("c?.png")) == [
        f"c{k}.png" for k in range(6)
    ]
    images = tmp_path / "imagesTs"
    images.mkdir()
    for k in (0, 1):
        shutil.copy(data / f"{k}_us.png", images / f"case{k}_0000.png")
        shutil.copy(data / f"{k}_neg.png", images / f"case{k}_0001.png")
    done = command("predict", model, images, "-o", tmp_path / "folder")
    assert done.code == 0, done.err
    for k in (0, 1):
        folder, own = tmp_path / "folder" / f"case{k}.png", tmp_path / "table" / f"c{k}.png"
        assert folder.read_bytes() == own.read_bytes()
    again = command("predict", model, images, "-o", tmp_path / "folder")
    assert "2 of 2 images were done by an earlier call" in again.err
    named = ("--image", f"us={data / '0_us.png'}", "--image", f"negative={data / '0_neg.png'}")
    done = command("predict", model, *named, "-o", tmp_path / "named")
    assert done.code == 0, done.err
    assert (tmp_path / "named" / "0_us.png").read_bytes() == (tmp_path / "table" / "c0.png").read_bytes()
    (images / "case1_0001.png").unlink()
    done = command("predict", model, images, "-o", tmp_path / "partly")
    assert done.code == 4
    assert "lacks the channel negative: case1_0001.png is not there" in done.err


def test_what_a_model_of_two_channels_refuses(flat: tuple[Path, Path], tmp_path: Path) -> None:
    table, run = flat
    one = table.parent / "0_us.png"
    alone = command("predict", run / "model.onnx", one, "-o", tmp_path / "out")
    assert alone.code == 2
    assert alone.line.startswith(
        f"{one}: this model takes 2 channels: give each (--image us=FILE --image negative="
    )
    other = command("predict", run / "model.onnx", "--image", f"t1={one}", "-o", tmp_path / "out")
    assert other.code == 2
    assert "this model takes 2 channels" in other.line
    assert other.line.endswith("given are t1")
    page = command("export", run / "model.onnx", "--web", "-o", tmp_path / "page.html")
    assert page.code == 2
    assert "takes 2 channels (us, negative), and the page one image" in page.line
    (tmp_path / "cases.csv").write_text(f"id,image,masks\na,{one},{table.parent / '0_mask.png'}\n")
    found = command("evaluate", run / "model.onnx", tmp_path / "cases.csv")
    assert found.code == 2
    assert "case 'a' lacks the channel us: it has one image, and us, negative are wanted" in found.line
    with pytest.raises(InputError, match=r"2 channels are taken \(us, negative\)"):
        Predictor(run / "model.onnx", 1).predict(np.zeros((8, 8), np.uint8))


def test_int8_is_calibrated_on_all_channels(flat: tuple[Path, Path]) -> None:
    table, run = flat
    cases = read_cases(table)
    info = Predictor(run / "model.onnx", 1).info
    turned = [replace(case, image=case.channels[1].path, channels=case.channels[::-1]) for case in cases]
    here, there = (calibration_inputs(info, each) for each in (cases, turned))
    assert len(here) == len(cases)
    opened = open_case(cases[0])
    assert np.array_equal(here[0], info.preprocess.inputs(opened.pixels(0)))  # type: ignore[union-attr]
    assert all(np.array_equal(one, other) for one, other in zip(here, there, strict=True))
    measured = measure(run / "model.onnx", turned[-2:]).results
    known = segdistill.evaluate(run / "model.onnx", table).results
    assert [one.metrics["dice"] for one in measured] == [one.metrics["dice"] for one in known]


def test_models_of_two_channels_are_timed(flat: tuple[Path, Path], tmp_path: Path) -> None:
    table, run = flat
    timed = command("benchmark", run / "model.onnx", "--rounds", 1, "--no-cold", "--json")
    assert timed.code == 0, timed.err
    assert json.loads(timed.out)["pictures"] == 3
    given = command("benchmark", run / "model.onnx", "--images", table.parent / "0_us.png")
    assert given.code == 2
    assert "these models take 2 channels (us, negative)" in given.line


@pytest.mark.slow
def test_volumes_of_two_channels(data_root: Path, tmp_path: Path) -> None:
    task = volumes(data_root, tmp_path / "task", 5, "msd")
    made = recipe({"name": "lite_unet", "widths": [4, 8], "stem": 1}, dimensions=3, size=[16, 16, 16])
    made["data"] |= {"dataset": "decathlon", "spacing": [2.0, 2.0, 2.0]}
    run = segdistill.run(made, data=task, out=tmp_path / "run", progress=False).folder
    predictor = Predictor(run / "model.onnx", 1)
    preprocess = predictor.info.preprocess
    assert preprocess.channel_names == NAMES
    assert preprocess.intensity == (MR, MR)
    (test,) = [case for case in read_cases(run / "cases.csv") if case.split == "test"]
    (ours,) = read_metrics_csv(run / "stages" / "student" / "metrics.csv")
    (theirs,) = segdistill.evaluate(run / "model.onnx", run / "cases.csv").results
    assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-6)
    whole = predictor.predict_volume(test.image)  # one file of four dimensions
    source = nibabel.load(test.image)
    for k in range(2):
        part = nibabel.Nifti1Image(np.asarray(source.dataobj)[..., k], source.affine)
        nibabel.save(part, tmp_path / f"v_{k:04d}.nii.gz")
    apart = predictor.predict_volume({name: tmp_path / f"v_{k:04d}.nii.gz" for k, name in enumerate(NAMES)})
    assert np.array_equal(whole.mask, apart.mask)
    found = segdistill.predict(
        predictor, [tmp_path / "v_0000.nii.gz", tmp_path / "v_0001.nii.gz"], tmp_path / "out"
    )
    assert [row["mask"] for row in found.rows] == ["v.nii.gz"]
    written = nibabel.load(tmp_path / "out" / "v.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj).transpose(2, 1, 0), whole.mask)
    assert np.array_equal(written.affine, source.affine)


def test_data_decides_the_channels_of_a_recipe(data_root: Path, tmp_path: Path) -> None:
    table = pictures(data_root, tmp_path / "data")
    loaded = with_table_classes(load_recipe("distill", {"effort": None}), table)
    assert loaded.data.channel_names == ["us", "negative"]
    assert loaded.data.channels == 2
    assert loaded.data.intensity is None  # 8 bits stay
    turned = load_recipe("distill", {"effort": None, "data.channel_names": ["negative", "us"]})
    cases = load_cases(with_table_classes(turned, table).data, table, tmp_path).cases
    assert cases[0].channel_names == ("negative", "us")
    assert cases[0].image.name == "0_neg.png"
    with pytest.raises(InputError, match="lacks the channel t1: it has us, negative"):
        load_cases(load_recipe("distill", {"data.channel_names": ["t1", "us"]}).data, table, tmp_path)
    with pytest.raises(InputError, match="intensity is stated for us, and the channels are us, negative"):
        load_recipe("distill", {"data.channel_names": ["us", "negative"], "data.intensity": {"us": "mr"}})
    with pytest.raises(InputError, match="name each channel once"):
        load_recipe("distill", {"data.channel_names": ["us", "us"]})


def test_the_only_channel_decides_the_intensity_by_its_name(tmp_path: Path) -> None:
    table = few_volumes(tmp_path)
    cases = read_cases(table)

    def name_channel(name: str) -> None:
        write_cases([replace(case, channels=(Channel(name, case.image),)) for case in cases], table)

    chosen = {}
    for name in ("image", "CT", "MRI", "noNorm"):
        name_channel(name)
        for base in ("volumes/distill", "distill"):
            loaded = with_table_classes(
                load_recipe(base, {"effort": None} if base == "distill" else {}), table
            )
            chosen[name, base] = loaded.data.intensity
            assert loaded.data.channel_names is None
    for base in ("volumes/distill", "distill"):
        assert [chosen[name, base] for name in ("image", "CT", "MRI", "noNorm")] == [
            None,
            "ct",
            "mr",
            "range",
        ]
    name_channel("CT")
    stated = with_table_classes(load_recipe("volumes/distill", {"data.intensity": "range"}), table)
    assert stated.data.intensity == "range"
    network = {"name": "lite_unet", "widths": [4, 8], "stem": 1}
    made = recipe(network, dimensions=3, size=[8, 8, 8], spacing=[2.0, 1.0, 1.0])
    run = segdistill.run(made, data=table, out=tmp_path / "run", progress=False).folder
    assert load_recipe(str(run / "recipe.yaml")).data.intensity == "ct"
    assert Predictor(run / "model.onnx", 1).info.preprocess.intensity == CT
    image = read_cases(table)[0].image
    by_path = segdistill.load_model(run / "model.onnx").predict_volume(image).mask
    found = segdistill.predict(run / "model.onnx", table, tmp_path / "out")
    assert not found.failed
    written = nibabel.load(tmp_path / "out" / "0.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj).transpose(2, 1, 0), by_path)
    assert segdistill.evaluate(run / "model.onnx", table).results


def test_a_model_file_teaches_cases_of_its_channels(flat: tuple[Path, Path]) -> None:
    table, run = flat
    opened = open_case(read_cases(table)[0])
    member = MemberRecipe(onnx=str(run / "model.onnx"))
    predictor, channels = Predictor(run / "model.onnx", 1), ("us", "negative")
    taught = onnx_teacher(member, ("lesion",), channels, predictor)(opened, 0)
    require_channels(predictor, member, channels)
    assert np.array_equal(taught, predictor.probabilities(opened.pixels(0)))
    with pytest.raises(InputError, match="takes us, negative, and a case of this run is one image"):
        require_channels(predictor, member, ())
    stated = {"size": 32, "channels": 2, "activation": "none"}
    plain = MemberRecipe(onnx=member.onnx, input=InputRecipe(**stated), foreground=[1])
    own = onnx_teacher(plain, ("lesion",), channels, None)(opened, 0)
    inputs = predictor.info.preprocess.inputs(opened.pixels(0))  # type: ignore[union-attr]
    assert own == pytest.approx(predictor.engine.run_both(inputs)[0][0, 1:])
    wrong = MemberRecipe(onnx=member.onnx, input=InputRecipe(**stated | {"channels": 3}), foreground=[1])
    with pytest.raises(
        InputError, match=r"input.channels is 3, and the cases have 2 channels \(us, negative\)"
    ):
        onnx_teacher(wrong, ("lesion",), channels, None)(opened, 0)
