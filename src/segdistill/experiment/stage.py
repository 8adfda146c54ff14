"""One stage on disk: weights with all that is needed to use them, and whether they still answer the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from segdistill.config.schema import AUTOENCODER, ModelRecipe
from segdistill.errors import InputError
from segdistill.experiment.results import FOLDS_FILE, RUN_FILE, SUMMARY_FILE, read_json
from segdistill.files import sha256_file, write_json
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.preprocess import Preprocess
from segdistill.models.registry import create_network, find
from segdistill.models.pretrained import load_encoder_weights
from segdistill.training.checkpoint import load_weights
from segdistill.training.loop import BEST, STATE, WEIGHTS

INFO = "stage.json"


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


def read_info(folder: Path) -> dict[str, Any]:
    """What a stage's folder says of itself; empty when it holds no stage.

    >>> read_info(Path("nowhere"))
    {}
    """
    return read_json(folder / INFO)


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether the stage was trained to the end with exactly these inputs, and its weights are unharmed."""
    info = read_info(folder)
    return (
        info.get("fingerprint") == fingerprint
        and info.get("weights_sha256") is not None
        and (folder / WEIGHTS).exists()
        and sha256_file(folder / WEIGHTS) == info["weights_sha256"]
    )


def is_trained(folder: Path, fingerprint: str) -> bool:
    """Whether a kill came between the last step of training these inputs and the record of it.

    Final weights appear whole and as the last thing; `begin` removes those of other inputs.
    """
    info = read_info(folder)
    return (
        info.get("fingerprint") == fingerprint
        and info.get("weights_sha256") is None
        and (folder / WEIGHTS).exists()
    )


def record(folder: Path, info: dict[str, Any]) -> None:
    """Notes that the weights of a stage are final; what only training needed is removed."""
    for name in (STATE, BEST):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / INFO, info | {"weights_sha256": sha256_file(folder / WEIGHTS)})


def goes_on(folder: Path, fingerprint: str) -> bool:
    """Whether an interrupted training of these inputs can be continued.

    >>> goes_on(Path("nowhere"), "abc")
    False
    """
    return read_info(folder).get("fingerprint") == fingerprint and (folder / STATE).exists()


def begin(folder: Path, info: dict[str, Any]) -> bool:
    """Makes the folder ready for training; True when an interrupted training of the same inputs goes on.

    What other inputs left there is removed.
    """
    continued = goes_on(folder, info["fingerprint"])
    if not continued:
        for name in (STATE, BEST, WEIGHTS, "curves.csv", "metrics.csv", "classification.csv", SUMMARY_FILE):
            (folder / name).unlink(missing_ok=True)
        for old in (folder / "tensorboard").glob("events.*"):
            old.unlink()
    write_json(folder / INFO, info)
    return continued


@dataclass(frozen=True)
class TrainedStage:
    """A trained network with its pre- and post-processing."""

    name: str
    folder: Path
    network: nn.Module
    preprocess: Preprocess
    postprocess: Postprocess
    info: dict[str, Any]

    @property
    def marks(self) -> bool:
        """Whether it gives masks; a classifier of whole images does not."""
        name = str(self.info["model"]["name"])
        return find(name).kind != "classifier"


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
    if info.get("model", {}).get("name") == AUTOENCODER:
        raise InputError(f"stage {folder.name} holds auto-encoders of features: give the stage of a network")
    try:
        preprocess = Preprocess.from_dict(info["preprocess"])
        postprocess = Postprocess.from_dict(info["postprocess"])
        model = ModelRecipe.model_validate({**info["model"], "pretrained": None})
        name, classes = str(info["name"]), len(info["classes"])
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise InputError(
            f"{folder / INFO} is damaged: run the recipe again to train the stage anew"
        ) from error
    network = build_network(model, preprocess.channels, classes)
    try:
        load_weights(folder / WEIGHTS, network)
    except InputError as error:
        raise InputError(f"{error}: run the recipe again to train the stage anew") from error
    return TrainedStage(name, folder, network.eval(), preprocess, postprocess, info)


def find_stage(model: str) -> Path:
    """The folder that "RUN", "RUN:STAGE" or a stage's own folder means; RUN alone means the exported stage.

    Raises:
        InputError: there is no such run or stage; the stages that exist are listed.
    """
    run, colon, stage = ("", "", "") if Path(model).is_dir() else model.rpartition(":")
    folder = Path(run if colon else model)
    if (folder / INFO).exists():
        return folder
    stages = folder / "stages"
    if (folder / FOLDS_FILE).exists() and not stages.is_dir():
        raise InputError(f"{folder} holds folds: give one of them, such as {folder / 'fold-1'}:STAGE")
    if not stages.is_dir():
        raise InputError(f"{folder} is neither a run nor a stage nor a model file (.onnx)")
    names = sorted(path.parent.name for path in stages.glob(f"*/{INFO}"))
    if not colon:
        stage = read_json(folder / RUN_FILE).get("export") or (names[0] if len(names) == 1 else "")
    if stage not in names:
        raise InputError(
            f"{folder} has no trained stage '{stage}': give {folder}:STAGE with one of {', '.join(names)}"
            if stage
            else f"{folder} has several stages: give {folder}:STAGE with one of {', '.join(names)}"
        )
    return stages / stage
