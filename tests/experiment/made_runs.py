"""Run folders as a recipe leaves them, with synthetic scores: what is read without torch, and no more."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segdistill.metrics.base import METRICS
from segdistill.metrics.cases import CaseResult, write_metrics_csv
from segdistill.records import Cost, EvaluationRecord, RunRecord, StageRecord

NETWORK = {"name": "simplified_unet", "pretrained": None, "sha256": None}
WIDE = {"name": "unet", "pretrained": None, "sha256": None}


def scores(name: str, lift: float, cases: int = 24, area: float = 0.1, prefix: str = "c") -> list[CaseResult]:
    shared, own = np.random.default_rng(0), np.random.default_rng(zlib.crc32(name.encode()))
    values = np.clip(shared.uniform(0.4, 0.8, cases) + lift + own.normal(0, 0.01, cases), 0, 1)
    return [
        CaseResult(
            f"{prefix}{k:02}",
            f"{prefix}{k:02}",
            "benign",
            "",
            "test",
            dict.fromkeys(METRICS.always(), float(v)),
            area + k / 1000,
            0.1,
            20,
            30,
        )
        for k, v in enumerate(values)
    ]


def write_run(folder: Path, stages: dict[str, dict[str, Any]], seed: int = 0, **recipe: Any) -> Path:
    """A run; each stage: lift, role, steps and seconds, and what else its recipe has (model, fit, seed)."""
    parts: dict[str, Any] = {}
    for name, facts in stages.items():
        own = dict(facts)
        lift, cases, area = own.pop("lift", 0.0), own.pop("cases", 24), own.pop("area", 0.1)
        prefix = own.pop("prefix", "c")
        known = {key: own.pop(key, value) for key, value in {"steps": 40, "seconds": 10.0}.items()}
        parts[name] = part = {"role": "student", "model": NETWORK, "task": "supervised", "fit": {}, **own}
        place = folder / "stages" / name
        place.mkdir(parents=True)
        write_metrics_csv(scores(f"{name} {seed}", lift, cases, area, prefix), place / "metrics.csv")
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
            fingerprint="f",
            weights_sha256="w",
            equal_time_to=part.get("equal_time_to", ""),
            **known,
        ).write(place)
        EvaluationRecord(model=name, cost=Cost(parameters=9)).write(place)
    content = {
        "name": "made",
        "seed": seed,
        "data": {"size": 32},
        "fit": {"batch_size": 8, "accumulate": 1, "workers": 1, "optimizer": {"lr": 0.1}},
        "stages": parts,
        **recipe,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    RunRecord(recipe="made", stages=list(stages)).write(folder)
    return folder


def write_folds(folder: Path, stages: dict[str, dict[str, Any]], folds: int = 3, **recipe: Any) -> Path:
    """A finished cross-validation: every fold has cases of its own."""
    for fold in range(1, folds + 1):
        data = {"size": 32, "split": {"method": "k_fold", "folds": folds, "fold": fold}}
        own = {name: {**facts, "prefix": f"f{fold}-"} for name, facts in stages.items()}
        write_run(folder / f"fold-{fold}", own, name=f"made/fold-{fold}", data=data, **recipe)
    facts = {"recipe": "made", "folds": folds, "finished": list(range(1, folds + 1)), "stages": {}}
    (folder / "folds.json").write_text(json.dumps(facts))
    return folder


def seeded(variant: str, lift: float = 0.0, seeds: int = 3, **facts: Any) -> dict[str, dict[str, Any]]:
    """Stages that differ by their seed only."""
    return {f"{variant}@{s}": {"lift": lift, "seed": s, "variant": variant, **facts} for s in range(seeds)}
