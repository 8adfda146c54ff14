"""One stage on disk: weights with all that is needed to use them, and whether they still answer the recipe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from segdistill.errors import InputError
from segdistill.files import sha256_file, write_json
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.preprocess import Preprocess
from segdistill.models import create_model
from segdistill.models.pretrained import load_encoder_weights
from segdistill.recipes.schema import ModelRecipe
from segdistill.training.checkpoint import load_weights
from segdistill.training.loop import BEST, STATE, WEIGHTS

INFO = "stage.json"


def build_network(model: ModelRecipe, channels: int, classes: int = 2) -> nn.Module:
    """The network of a recipe, with pretrained encoder weights where it names some.

    Raises:
        InputError: unknown name or option, weights that do not fit, or no encoder to load them into.
    """
    options = {"classes": classes, **model.options}
    network = create_model(model.name, in_channels=channels, **options)
    if model.pretrained is not None:
        encoder = getattr(network, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise InputError(f"model '{model.name}' has no encoder to load pretrained weights into")
        load_encoder_weights(encoder, model.pretrained, model.sha256)
    return network


def read_info(folder: Path) -> dict[str, Any]:
    """What a stage's folder says of itself; empty when it holds no stage.

    >>> read_info(Path("nowhere"))
    {}
    """
    try:
        info: dict[str, Any] = json.loads((folder / INFO).read_text())
    except (OSError, ValueError):
        return {}
    return info


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether the stage was trained to the end with exactly these inputs, and its weights are unharmed."""
    info = read_info(folder)
    return (
        info.get("fingerprint") == fingerprint
        and info.get("weights_sha256") is not None
        and (folder / WEIGHTS).exists()
        and sha256_file(folder / WEIGHTS) == info["weights_sha256"]
    )


def begin(folder: Path, info: dict[str, Any]) -> bool:
    """Makes the folder ready for training; True when an interrupted training of the same inputs goes on.

    What other inputs left there is removed.
    """
    goes_on = read_info(folder).get("fingerprint") == info["fingerprint"] and (folder / STATE).exists()
    if not goes_on:
        for name in (STATE, BEST, WEIGHTS, "curves.csv", "metrics.csv"):
            (folder / name).unlink(missing_ok=True)
        for old in (folder / "tensorboard").glob("events.*"):
            old.unlink()
    write_json(folder / INFO, info)
    return goes_on


@dataclass(frozen=True)
class TrainedStage:
    """A trained network with its pre- and post-processing."""

    name: str
    folder: Path
    network: nn.Module
    preprocess: Preprocess
    postprocess: Postprocess
    info: dict[str, Any]


def load_stage(folder: Path) -> TrainedStage:
    """Loads a finished stage from its folder alone.

    Raises:
        InputError: the folder holds no finished stage, or its weights are of another architecture.
    """
    info = read_info(folder)
    if not info:
        raise InputError(f"{folder} holds no trained stage: give RUN, RUN:STAGE or a model file")
    if info.get("weights_sha256") is None:
        raise InputError(f"stage {folder.name} is not finished: run its recipe again to continue")
    preprocess = Preprocess.from_dict(info["preprocess"])
    model = ModelRecipe.model_validate({**info["model"], "pretrained": None})
    network = build_network(model, preprocess.channels, len(info["classes"]))
    load_weights(folder / WEIGHTS, network)
    return TrainedStage(
        info["name"], folder, network.eval(), preprocess, Postprocess.from_dict(info["postprocess"]), info
    )


def find_stage(model: str) -> Path:
    """The folder that "RUN", "RUN:STAGE" or a stage's own folder means; RUN alone means the exported stage.

    Raises:
        InputError: there is no such run or stage; the stages that exist are listed.
    """
    run, colon, stage = model.rpartition(":")
    folder = Path(run if colon else model)
    if (folder / INFO).exists():
        return folder
    stages = folder / "stages"
    if not stages.is_dir():
        raise InputError(f"{folder} is neither a run nor a stage nor a model file (.onnx)")
    names = sorted(path.parent.name for path in stages.glob(f"*/{INFO}"))
    if not colon:
        exported = (
            json.loads((folder / "run.json").read_text()).get("export")
            if (folder / "run.json").exists()
            else None
        )
        stage = exported or (names[-1] if len(names) == 1 else "")
    if stage not in names:
        raise InputError(
            f"{folder} has no stage '{stage}': give {folder}:STAGE with one of {', '.join(names)}"
        )
    return stages / stage
