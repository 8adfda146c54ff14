"""A stage of a run as a model file, with its provenance, its metrics, and the check against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segdistill.data.cases import Case
from segdistill.errors import InputError
from segdistill.export.gate import Agreement, measure_agreement, require_agreement
from segdistill.export.onnx import export_network
from segdistill.files import atomic_write, sha256_file, sha256_text, write_json
from segdistill.recipes.results import RUN_FILE, SUMMARY_FILE, read_json
from segdistill.recipes.stage import TrainedStage, load_stage
from segdistill.runtime.model_file import ModelInfo, dump_info


def export_stage(folder: Path, target: Path, cases: list[Case]) -> Agreement:
    """Writes a stage as a model file and keeps it only if its masks on `cases` are those of torch.

    Beside it stands TARGET.json with the agreement and the file's hash; when that still fits, nothing is done again.

    Raises:
        GateFailed: masks differ.
        InputError: no such stage, or the file cannot be written.
    """
    stage = load_stage(folder)
    if not stage.marks:
        raise InputError(
            f"stage {stage.name} is a classifier without a mask: export a stage that segments or a joint network"
        )
    info = _describe(stage)
    record = target.with_suffix(".json")
    known = read_json(record)
    inputs = sha256_text(stage.info["weights_sha256"] + dump_info(info))
    if known.get("inputs") == inputs and target.exists() and sha256_file(target) == known.get("model_sha256"):
        return Agreement(**known["agreement"])
    with atomic_write(target) as candidate:  # a file that does not pass the gate never has the final name
        export_network(stage.network, info, candidate)
        agreement = measure_agreement(stage.network, stage.preprocess, stage.postprocess, candidate, cases)
        require_agreement(agreement)
    write_json(
        record,
        {"inputs": inputs, "model_sha256": sha256_file(target), "agreement": agreement.to_dict()},
    )
    return agreement


def _describe(stage: TrainedStage) -> ModelInfo:
    """What the model file says of itself: processing, provenance, measured metrics."""
    run = stage.folder.parent.parent
    facts = read_json(run / RUN_FILE)
    provenance = {
        "recipe": facts.get("recipe", ""),
        "recipe_sha256": sha256_file(run / "recipe.yaml") if (run / "recipe.yaml").exists() else "",
        "stage": stage.name,
        "data": facts.get("data", ""),
        "data_sha256": facts.get("data_hash", ""),
        "weights_sha256": stage.info["weights_sha256"],
        "teachers": stage.info.get("teachers", []),
    }
    cost = read_json(stage.folder / SUMMARY_FILE).get("cost", {})
    provenance |= {name: cost[name] for name in ("parameters", "macs") if name in cost}
    return ModelInfo(
        name=f"{facts.get('recipe', run.name)}:{stage.name}",
        input_channels=stage.preprocess.channels,
        classes=stage.postprocess.classes,
        preprocess=stage.preprocess,
        postprocess=stage.postprocess,
        provenance=provenance,
        metrics=_metrics(stage),
        labels=tuple(stage.info.get("labels", ())),
    )


def _metrics(stage: TrainedStage) -> dict[str, Any]:
    """What was measured of its masks and, where it classifies, of its classes."""
    evaluated = read_json(stage.folder / SUMMARY_FILE)
    found = dict(evaluated.get("summary", {}))
    return found | ({"classification": evaluated["classification"]} if "classification" in evaluated else {})
