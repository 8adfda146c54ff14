"""One stage on disk: weights with all that is needed to use them, and whether they are still valid."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from segdistill.config.schema import AUTOENCODER, ModelRecipe
from segdistill.errors import InputError
from segdistill.experiment.environment import ENVIRONMENT
from segdistill.experiment.results import EXTERNAL, FOLDS_FILE, read_recipe
from segdistill.files import sha256_file
from segdistill.imaging.grid import AnyPreprocess, preprocess_from_dict
from segdistill.imaging.postprocess import Postprocess
from segdistill.models.pretrained import load_encoder_weights
from segdistill.models.registry import NETWORKS, create_network, network_facts
from segdistill.plugins import require_named, require_plugin
from segdistill.records import EvaluationRecord, RunRecord, StageRecord
from segdistill.training.checkpoint import load_weights
from segdistill.training.loop import BEST, STATE, TUNED, WEIGHTS


def build_network(model: ModelRecipe, channels: int, classes: int = 2) -> nn.Module:
    """The network of a recipe, with pretrained encoder weights where it names some.

    Raises:
        InputError: unknown name or option, weights that do not fit, or no encoder to load them into.
    """
    options = {"classes": classes, **model.options}
    if "in_channels" in options:
        raise InputError("in_channels is set by data.channels: leave it out of the model's options")
    network = create_network(model.name, in_channels=channels, **options)
    if model.pretrained is not None:
        load_encoder_weights(encoder_of(network, model.name), model.pretrained, model.sha256)
    return network


def encoder_of(network: nn.Module, name: str) -> nn.Module:
    """The part of a network, called `name` in messages, that pretrained weights are loaded into.

    Raises:
        InputError: it has none.

    >>> encoder_of(nn.Identity(), "mine")
    Traceback (most recent call last):
    segdistill.errors.InputError: model 'mine' has no encoder to load pretrained weights into
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise InputError(f"model '{name}' has no encoder to load pretrained weights into")
    return encoder


def read_stage(folder: Path) -> StageRecord | None:
    """The record of a stage's folder; None where there is none.

    Raises:
        InputError: it is damaged, or of a newer version.

    >>> read_stage(Path("nowhere"))
    """
    return StageRecord.read(folder)


def require_stated_weights(folder: Path, record: StageRecord) -> None:
    """Compares the weights of a finished stage with its record.

    Raises:
        InputError: they are absent, or other ones than those that were trained.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise InputError(f"{path} is missing: restore it, or run the recipe again to train the stage")
    if sha256_file(path) != record.weights_sha256:
        raise InputError(
            f"{path} does not have the hash that {StageRecord.FILE} records: it has changed since it was trained: "
            "restore it, or run the recipe again to train the stage"
        )


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether the stage was trained to the end with exactly these inputs, and its weights are unchanged."""
    found = read_stage(folder)
    return (
        found is not None
        and found.fingerprint == fingerprint
        and found.is_finished
        and (folder / WEIGHTS).exists()
        and sha256_file(folder / WEIGHTS) == found.weights_sha256
    )


def is_trained(folder: Path, fingerprint: str) -> bool:
    """Whether these inputs were trained to the end but not recorded, since the process was killed in between.

    Final weights are written last and atomically; `begin` removes those of other inputs.
    """
    found = read_stage(folder)
    return (
        found is not None
        and found.fingerprint == fingerprint
        and not found.is_finished
        and (folder / WEIGHTS).exists()
    )


def finish(folder: Path, record: StageRecord) -> None:
    """Writes the record of a finished stage, and removes files that only training needed."""
    for name in (STATE, BEST):
        (folder / name).unlink(missing_ok=True)
    replace(record, weights_sha256=sha256_file(folder / WEIGHTS)).write(folder)


def goes_on(folder: Path, fingerprint: str) -> bool:
    """Whether an interrupted training of these inputs can be continued.

    >>> goes_on(Path("nowhere"), "abc")
    False
    """
    found = read_stage(folder)
    return found is not None and found.fingerprint == fingerprint and (folder / STATE).exists()


_OF_TRAINING = (
    WEIGHTS,
    StageRecord.FILE,
    "curves.csv",
    "metrics.csv",
    "classification.csv",
    EvaluationRecord.FILE,
    ENVIRONMENT,
    EXTERNAL,
    TUNED,
)


def kept_as(folder: Path, fingerprint: str) -> Path | None:
    """Where `begin` moves the weights of other inputs; None where there are none.

    >>> kept_as(Path("nowhere"), "abc")
    """
    if not (folder / WEIGHTS).exists() or goes_on(folder, fingerprint) or is_trained(folder, fingerprint):
        return None
    number = 1
    while (folder / f"previous-{number}").exists():
        number += 1
    return folder / f"previous-{number}"


def begin(folder: Path, record: StageRecord) -> bool:
    """Prepares the folder for training. Weights of other inputs and their results are moved to a folder beside.

    Returns:
        Whether an interrupted training of the same inputs is continued.
    """
    continued = goes_on(folder, record.fingerprint)
    if not continued:
        kept = kept_as(folder, record.fingerprint)
        for name in _OF_TRAINING:
            if kept is not None and (folder / name).exists():
                kept.mkdir(exist_ok=True)
                (folder / name).rename(kept / name)
        for name in (EXTERNAL, TUNED):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (STATE, BEST, *_OF_TRAINING):
            (folder / name).unlink(missing_ok=True)
        for old in (folder / "tensorboard").glob("events.*"):
            old.unlink()
    record.write(folder)
    return continued


@dataclass(frozen=True)
class TrainedStage:
    """A trained network with its pre- and post-processing."""

    name: str
    folder: Path
    network: nn.Module
    preprocess: AnyPreprocess
    postprocess: Postprocess
    record: StageRecord

    @property
    def segments(self) -> bool:
        """Whether it gives masks; a classifier of whole images does not."""
        return network_facts(self.record.network["name"]).kind != "classifier"


def load_stage(folder: Path) -> TrainedStage:
    """Loads a finished stage from its folder.

    Raises:
        InputError: the folder holds no finished stage, or its weights are of another architecture or have changed.
    """
    again = "run the recipe again to train the stage"
    record = read_stage(folder)
    if record is None:
        raise InputError(f"{folder} holds no trained stage: give the folder of a run or of a stage")
    if not record.is_finished:
        raise InputError(f"stage {folder.name} is not finished: run its recipe again to continue")
    if record.network.get("name") == AUTOENCODER:
        raise InputError(f"stage {folder.name} holds auto-encoders of features: give the stage of a network")
    try:
        preprocess = preprocess_from_dict(record.preprocess)
        postprocess = Postprocess.from_dict(record.postprocess)
        model = ModelRecipe.model_validate({**record.network, "pretrained": None})
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise InputError(f"{folder / StageRecord.FILE} is damaged: {again}") from error
    _require_ours(model, folder)
    network = build_network(model, preprocess.channels, len(record.classes))
    try:
        load_weights(folder / WEIGHTS, network)
    except InputError as error:
        raise InputError(f"{error}: {again}") from error
    require_stated_weights(folder, record)
    return TrainedStage(record.name, folder, network.eval(), preprocess, postprocess, record)


def find_stage(run: str | Path, stage: str | None = None) -> Path:
    """The folder of a stage.

    Args:
        run: the folder of a run, or that of a stage.
        stage: of the run; by default the one that its recipe exports, or its only one.

    Raises:
        InputError: there is no such run or stage; the message lists the stages.
    """
    folder = Path(run)
    if (folder / StageRecord.FILE).exists() and stage is None:
        return folder
    stages = folder / "stages"
    if (folder / FOLDS_FILE).exists() and not stages.is_dir():
        raise InputError(f"{folder} holds folds: give one of them, such as {folder / 'fold-1'}")
    if not stages.is_dir():
        hint = f": give {folder / 'model.onnx'}" if (folder / "model.onnx").is_file() else ""
        raise InputError(
            f"{folder} is neither the folder of a run nor of a stage nor a model file (.onnx){hint}"
        )
    names = sorted(path.parent.name for path in stages.glob(f"*/{StageRecord.FILE}"))
    if stage is None:
        record = RunRecord.read(folder)
        stage = (record and record.export) or (names[0] if len(names) == 1 else "")
    if stage not in names:
        found = f"has no trained stage '{stage}'" if stage else "exports no stage"
        raise InputError(
            f"{folder} {found}: choose one with --stage: {', '.join(names) or 'none is trained'}"
        )
    return stages / stage


def _require_ours(model: ModelRecipe, folder: Path) -> None:
    """Refuses a network that is not part of segdistill and that the user has not named: a folder chooses no code."""
    code = str(model.options.get("target", "")) if model.name == "external" else model.name
    where = str(folder / StageRecord.FILE)
    if ":" in code:
        require_named(code, where)
    elif model.name not in NETWORKS:
        require_plugin(
            f"network '{model.name}'", where, read_recipe(folder.absolute().parents[1]).get("plugins")
        )
