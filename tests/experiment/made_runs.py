"""Run folders as a recipe leaves them, with synthetic scores: what is read without torch, and no more."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segdistill.metrics.cases import CaseResult, write_metrics_csv
from segdistill.metrics.overlap import METRICS
from segdistill.records import StageRecord

NETWORK = {"name": "simplified_unet", "pretrained": None, "sha256": None}
WIDE = {"name": "unet", "pretrained": None, "sha256": None}


def scores(name: str, lift: float, cases: int = 24, area: float = 0.1) -> list[CaseResult]:
    shared, own = np.random.default_rng(0), np.random.default_rng(zlib.crc32(name.encode()))
    values = np.clip(shared.uniform(0.4, 0.8, cases) + lift + own.normal(0, 0.01, cases), 0, 1)
    return [
        CaseResult(
            f"c{k:02}",
            f"c{k:02}",
            "benign",
            "",
            "test",
            dict.fromkeys(METRICS, float(v)),
            area + k / 1000,
            0.1,
            20,
            30,
        )
        for k, v in enumerate(values)
    ]


def write_run(folder: Path, stages: dict[str, dict[str, Any]], seed: int = 0, **recipe: Any) -> Path:
    """A run; each stage: lift, role, and what else its recipe says (model, fit, method, seed)."""
    parts: dict[str, Any] = {}
    fit = {"batch_size": 8, "accumulate": 1, "workers": 1, "optimizer": {"lr": 0.1}}
    for name, facts in stages.items():
        told = dict(facts)
        lift, cases, area = told.pop("lift", 0.0), told.pop("cases", 24), told.pop("area", 0.1)
        epochs, seconds = told.pop("epochs", 4), told.pop("seconds", 10.0)
        parts[name] = part = {"role": "student", "model": NETWORK, "task": "supervised", "fit": {}, **told}
        place = folder / "stages" / name
        place.mkdir(parents=True)
        write_metrics_csv(scores(f"{name} {seed}", lift, cases, area), place / "metrics.csv")
        timed = part.get("equal_time_to", "")
        settings = fit | part["fit"]
        steps = epochs * math.ceil(math.ceil(80 / settings["batch_size"]) / settings["accumulate"])
        StageRecord(
            name=name,
            variant=part.get("variant", name),
            seed=part.get("seed", seed),
            role=part["role"],
            task=part["task"],
            network=part["model"],
            classes=["background", "lesion"],
            preprocess={},
            postprocess={},
            fingerprint="",
            train_cases=80,
            equal_time_to=stages.get(timed, {}).get("variant", timed),
            steps=steps,
            seconds=seconds,
        ).write(place)
        (place / "evaluation.json").write_text(json.dumps({"cost": {"parameters": 9}}))
        rows = "".join(f"{e},{seconds / epochs}\n" for e in range(epochs))
        (place / "curves.csv").write_text("epoch,seconds\n" + rows)
    content = {
        "name": "made",
        "seed": seed,
        "data": {"size": 32},
        "fit": fit,
        "stages": parts,
        **recipe,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    (folder / "run.json").write_text(json.dumps({"recipe": "made", "stages": list(stages)}))
    return folder


def seeded(cell: str, lift: float = 0.0, seeds: int = 3, **facts: Any) -> dict[str, dict[str, Any]]:
    return {f"{cell}@{s}": {"lift": lift, "variant": cell, "seed": s, **facts} for s in range(seeds)}
