"""A stage on disk: weights are never lost or exchanged without a word, and want of memory is one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from segdistill.errors import InputError, memory_error
from segdistill.experiment.stage import begin, finish, is_finished, kept_as, require_stated_weights
from segdistill.records import StageRecord
from segdistill.training.loop import STATE, WEIGHTS
from tests.experiment.tiny import segdistill

RECORD = StageRecord(
    name="teacher",
    variant="teacher",
    seed=0,
    role="teacher",
    task="supervised",
    network={"name": "simplified_unet"},
    classes=["background", "lesion"],
    preprocess={},
    postprocess={},
    fingerprint="first",
)


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """The folder of a finished stage."""
    folder = tmp_path / "teacher"
    assert not begin(folder, RECORD)
    (folder / WEIGHTS).write_bytes(b"weights")
    (folder / "curves.csv").write_text("epoch\n1\n")
    finish(folder, RECORD)
    return folder


def test_weights_of_other_settings_are_moved_aside(stage: Path) -> None:
    assert is_finished(stage, "first")
    assert not is_finished(stage, "second")
    for number, content in ((1, b"weights"), (2, b"more")):
        other = replace(RECORD, fingerprint=f"settings {number}")
        kept = kept_as(stage, other.fingerprint)
        assert kept == stage / f"previous-{number}"
        assert not begin(stage, other)
        assert not (stage / WEIGHTS).exists()
        assert (kept / WEIGHTS).read_bytes() == content
        (stage / WEIGHTS).write_bytes(b"more")
        finish(stage, other)
    assert (stage / "previous-1" / "curves.csv").read_text() == "epoch\n1\n"
    assert StageRecord.read(stage / "previous-1") is not None


def test_an_interrupted_training_of_the_same_settings_goes_on(stage: Path) -> None:
    other = replace(RECORD, fingerprint="second")
    begin(stage, other)
    (stage / STATE).write_bytes(b"state")
    assert kept_as(stage, "second") is None
    assert begin(stage, other)
    assert (stage / STATE).exists()


def test_weights_that_changed_are_refused(stage: Path) -> None:
    record = StageRecord.read(stage)
    assert record is not None
    require_stated_weights(stage, record)
    (stage / WEIGHTS).write_bytes(b"Weights")
    assert not is_finished(stage, "first")
    with pytest.raises(
        InputError, match=r"weights\.safetensors does not have the hash that stage\.json records"
    ):
        require_stated_weights(stage, record)
    (stage / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"weights\.safetensors is missing: restore it"):
        require_stated_weights(stage, record)


def test_want_of_memory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**60, np.uint8)
    for error in (of_torch.value, of_numpy.value, RuntimeError("std::bad_alloc")):
        advice = memory_error(error)
        assert advice is not None
        assert "lower batch_size" in advice
        with mock.patch("segdistill.run", side_effect=error):
            answer = segdistill("run", "demo", "--out", tmp_path / "r")
        assert answer.code == 2
        assert len(answer.err.splitlines()) == 1
        assert advice in answer.line
    assert memory_error(RuntimeError("shapes (3, 4) and (4, 5) do not fit")) is None
