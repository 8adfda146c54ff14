"""The model file says what it is, answers as torch does, and is not kept when it does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from scipy.special import softmax

from segdistill.data.case import select
from segdistill.data.table import read_cases
from segdistill.experiment.export import (
    Agreement,
    export_network,
    exported_probabilities,
    measure_agreement,
    require_agreement,
)
from segdistill.experiment.stage import load_stage
from segdistill.runtime.engine import Engine
from segdistill.runtime.model_file import read_info
from segdistill.training.inference import Probability
from tests.experiment.tiny import segdistill, snapshot


def test_the_file_says_where_it_comes_from(run_folder: Path) -> None:
    info = read_info(run_folder / "model.onnx")
    facts = json.loads((run_folder / "run.json").read_text())
    stage = json.loads((run_folder / "stages" / "student" / "stage.json").read_text())
    assert info.name == "tiny:student"
    assert (info.input_channels, info.classes) == (1, ("background", "lesion"))
    assert info.preprocess.to_dict() == stage["preprocess"]
    assert info.provenance["data_sha256"] == facts["data_hash"]
    assert info.provenance["weights_sha256"] == stage["weights_sha256"]
    assert info.provenance["teachers"] == ["teacher"]
    summary = json.loads((run_folder / "stages" / "student" / "evaluation.json").read_text())["summary"]
    assert dict(info.metrics) == summary


def test_the_file_holds_nothing_of_the_machine(run_folder: Path) -> None:
    content = (run_folder / "model.onnx").read_bytes()
    for word in (b".py", b"/home", b"/work", b"/usr", b"site-packages", str(run_folder.parent).encode()):
        assert word not in content
    onnx.checker.check_model(onnx.load(run_folder / "model.onnx"), full_check=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_gives_torchs_probabilities(run_folder: Path, batch: int) -> None:
    stage = load_stage(run_folder / "stages" / "student")
    image = np.random.default_rng(0).random((batch, 1, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = Probability(stage.network).eval()(torch.from_numpy(image)).numpy()
    answer = Engine(run_folder / "model.onnx").run(image)
    assert answer.shape == (batch, 2, 32, 32)
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    np.testing.assert_allclose(answer.sum(1), 1, atol=1e-5)


def test_one_logit_is_exported_with_a_sigmoid(tmp_path: Path, run_folder: Path) -> None:
    from segdistill.models.registry import create_network

    info = read_info(run_folder / "model.onnx")
    network = create_network("simplified_unet", in_channels=1, classes=1, widths=[2, 4, 4]).eval()
    export_network(network, info, tmp_path / "one.onnx")
    cases = select(read_cases(run_folder / "cases.csv"), split="test")
    agreement = measure_agreement(network, info.preprocess, info.postprocess, tmp_path / "one.onnx", cases)
    require_agreement(agreement)
    assert agreement.cases == len(cases)
    assert Engine(tmp_path / "one.onnx").run(np.zeros((1, 1, 32, 32), np.float32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("planes", [1, 2, 4])
def test_exported_probabilities_are_the_softmax(planes: int) -> None:
    logits = np.random.default_rng(0).normal(0, 20, (2, planes, 16, 16)).astype(np.float32)
    logits[0, :, :4] = 0
    both = np.concatenate([np.zeros_like(logits), logits], axis=1) if planes == 1 else logits
    found = exported_probabilities(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(found, softmax(both.astype(np.float64), axis=1), atol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found[0, :, :4] == 1 / max(planes, 2)).all()  # equal logits are not above a threshold of 0.5


def test_no_softmax_over_planes_is_exported(run_folder: Path) -> None:
    """ONNX Runtime turns the axes for it, which takes longer than a small network."""
    graph = onnx.load(run_folder / "model.onnx").graph
    assert not {"Softmax", "LogSoftmax", "Exp"} & {node.op_type for node in graph.node}


def test_tampered_weights_do_not_pass(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(run_folder, runs / "tiny")
    genuine = onnx.save

    def tampered(model: Any, *words: Any, **options: Any) -> None:
        last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
        for tensor in model.graph.initializer:
            if tensor.name in last.input:  # the head's two rows change places: lesion and background
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))
        genuine(model, *words, **options)

    monkeypatch.setattr("segdistill.experiment.export.onnx.save", tampered)
    before = snapshot(tmp_path)
    answer = segdistill("export", runs / "tiny", "-o", tmp_path / "new.onnx")
    assert answer.code == 5
    assert "differs from torch in" in answer.line
    assert snapshot(tmp_path) == before


def test_only_decided_pixels_count() -> None:
    require_agreement(Agreement(3, 0, 0, 12, 1e-5))


@pytest.mark.slow
def test_exporting_a_teacher_and_again(run_folder: Path, tmp_path: Path) -> None:
    first = segdistill("export", run_folder, "--stage", "teacher", "-o", tmp_path / "t.onnx", "--json")
    assert first.code == 0, first.err
    report = json.loads(first.out)
    assert report["differing_pixels"] == 0
    assert report["cases"] == 5
    written = (tmp_path / "t.onnx").stat().st_mtime_ns
    again = segdistill("export", run_folder, "--stage", "teacher", "-o", tmp_path / "t.onnx")
    assert again.code == 0
    assert (tmp_path / "t.onnx").stat().st_mtime_ns == written
    assert "5 test cases" in again.out


def test_what_cannot_be_exported(run_folder: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun" / "stages" / "student"
    begun.mkdir(parents=True)
    info = json.loads((run_folder / "stages" / "student" / "stage.json").read_text())
    del info["weights_sha256"]
    (begun / "stage.json").write_text(json.dumps(info))
    (tmp_path / "file").write_text("x")
    before = snapshot(tmp_path)
    out = tmp_path / "m.onnx"
    for words, message in (
        ((run_folder, "-o", tmp_path / "m.pt"), "ends in .onnx"),
        ((tmp_path / "begun", "-o", out), "stage student is not finished: run its recipe again"),
        ((run_folder, "--stage", "studnt", "-o", out), "choose one with --stage: student, teacher"),
        ((tmp_path, "-o", out), "neither the folder of a run nor of a stage"),
        ((tmp_path / "none", "-o", out), "neither the folder of a run nor of a stage"),
        ((run_folder, "-o", tmp_path / "file" / "m.onnx"), "cannot write"),
    ):
        answer = segdistill("export", *words)
        assert answer.code == 2, message
        assert message in answer.line
        assert len(answer.err.splitlines()) == 1
    assert snapshot(tmp_path) == before


def test_a_model_file_needs_a_word_on_what_to_make(run_folder: Path, tmp_path: Path) -> None:
    refused = segdistill("export", run_folder / "model.onnx", "-o", tmp_path / "m.onnx")
    assert refused.code == 2
    assert "is a model file already: add --int8, --web or --target" in refused.err
    assert not (tmp_path / "m.onnx").exists()
