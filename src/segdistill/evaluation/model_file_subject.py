"""A model file as what is evaluated: its masks, and what its report says of it. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from segdistill.evaluation.evaluating import Subject
from segdistill.evaluation.report_data import Report, StageReport
from segdistill.evaluation.results import Scored
from segdistill.imaging.picture import Picture
from segdistill.runtime.machine import machine, versions
from segdistill.runtime.model_file import ModelInfo
from segdistill.runtime.predictor import Predictor
from segdistill.runtime.speed import milliseconds_per_image

PACKAGES = ("onnxruntime", "numpy", "Pillow")


def open_model_file(path: Path, scores: bool = False) -> Subject:
    """A model file, ready to be evaluated.

    Args:
        path: of the model file.
        scores: give probabilities beside the masks.

    Raises:
        InputError: not a model file of ours.

    >>> open_model_file(Path("absent.onnx"))
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """
    predictor = Predictor(path)

    def segment(picture: Picture) -> Any:
        answer = predictor.predict_pixels(picture.pixels)
        return Scored(answer.mask, answer.probability) if scores else answer.mask

    info = predictor.info
    return Subject(
        segment,
        info.preprocess.intensity,
        lambda: _describe(path, predictor),
        str(info.provenance.get("data_sha256") or ""),
    )


def _describe(path: Path, predictor: Predictor) -> Report:
    info = predictor.info
    known, patches = info.provenance, info.preprocess.patches
    teachers = _teachers(info)
    cost = {
        "parameters": known.get("parameters"),
        "macs": known.get("macs"),
        "size_mb": path.stat().st_size / 2**20,
        "size_of": "of the model file",
        "input": "x".join(map(str, (info.input_channels, *info.preprocess.size))),
        "ms": milliseconds_per_image(predictor.engine),
        "machine": f"CPU, {os.cpu_count()} cores",
        "engine": "ONNX Runtime, batch 1" + (f", one of {patches.count**2} patches" if patches else ""),
    }
    words = f"stage {known['stage']} of recipe {known.get('recipe') or 'unknown'}" if "stage" in known else ""
    words += f", distilled from {' and '.join(teachers)}" if teachers else ""
    stage = StageReport(
        name=path.name,
        role="student" if teachers else "baseline",
        task=words or info.name,
        cost=cost,
    )
    return Report(
        title=f"Evaluation of {path}",
        stages=[stage],
        settings=_settings(info),
        settings_of="model file",
        environment=machine() | versions(PACKAGES),
    )


def _teachers(info: ModelInfo) -> list[str]:
    named = info.provenance.get("teachers")
    return [str(name) for name in named] if isinstance(named, list) else []


def _settings(info: ModelInfo) -> str:
    """What the file says of itself, but for the scores of its own test set."""
    facts = {
        "name": info.name,
        "labels": list(info.labels),
        "preprocess": info.preprocess.to_dict(),
        "postprocess": info.postprocess.to_dict(),
        "provenance": dict(info.provenance),
    }
    stated = {name: value for name, value in facts.items() if value}
    return yaml.safe_dump(stated, sort_keys=False, allow_unicode=True)
