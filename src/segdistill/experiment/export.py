"""A stage of a run as a model file, with provenance and metrics, checked against torch."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from segdistill.data.case import Case, select
from segdistill.data.opened import OpenedCase, fullest_slice, open_case
from segdistill.data.table import read_cases
from segdistill.errors import GateFailed, InputError
from segdistill.experiment.results import read_json
from segdistill.experiment.stage import TrainedStage, find_stage, load_stage
from segdistill.files import atomic_write, sha256_file, sha256_text, write_json
from segdistill.imaging.grid import AnyPreprocess, VolumePreprocess, pad_to
from segdistill.imaging.postprocess import Postprocess, resize_probability
from segdistill.plugins import load_plugins, use_installed
from segdistill.records import EvaluationRecord, RunRecord
from segdistill.runtime.engine import Engine
from segdistill.runtime.model_file import LABEL_NAME, METADATA_KEY, OUTPUT_NAME, ModelInfo, dump_info
from segdistill.runtime.onnx_file import add_hash
from segdistill.runtime.self_test import record_self_test
from segdistill.training.inference import MaskAndClass, Probability, TorchEngine

OPSET = 20
FEW = 20
"""Cases on which a model file is compared with torch where there are no test cases."""
WRITTEN = "self-test 1, probabilities 2"
"""How model files are written: one of an earlier version is written again."""
UNDECIDED = 1e-4
"""Probabilities this close to the threshold may give another mask in another engine."""


@dataclass(frozen=True)
class Agreement:
    """How far two engines agree over cases.

    Attributes:
        cases: number of cases that were compared.
        differing_cases: number of cases with a differing pixel that is decided.
        differing_pixels: number of these pixels.
        undecided_pixels: pixels whose probability in torch is within 1e-4 of the threshold; they do not count.
        largest_difference: of probabilities, over all pixels.
        differing_classes: cases whose class differs though it is decided, of networks that classify.
        largest_class_difference: of the probabilities of classes.
    """

    cases: int
    differing_cases: int
    differing_pixels: int
    undecided_pixels: int
    largest_difference: float
    differing_classes: int = 0
    largest_class_difference: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON."""
        return asdict(self)


def measure_agreement(
    network: nn.Module,
    preprocess: AnyPreprocess,
    postprocess: Postprocess,
    model_file: Path,
    cases: Iterable[Case],
) -> Agreement:
    """Compares masks at each image's own size, of a volume its fullest slice or a patch: torch against the model file.

    Raises:
        UnreadableImage: a case cannot be read.
    """
    engine = Engine(model_file)
    ours = TorchEngine(network, engine.info)
    count = differing_cases = differing = undecided = differing_classes = 0
    largest = largest_class = 0.0
    for case in cases:
        opened = open_case(case, preprocess.intensity)
        images, size = _shown_to_both(preprocess, opened)
        known = [ours.run_both(image[None]) for image in images]
        given = [engine.run_both(image[None]) for image in images]
        expected, exported = (_joined(preprocess, found, size) for found in (known, given))
        if engine.info.labels:
            apart, differs = _compare_classes([label for _, label in known], [label for _, label in given])
            largest_class, differing_classes = max(largest_class, apart), differing_classes + differs
        largest = max(largest, float(np.abs(expected - exported).max()))
        close = _undecided(resize_probability(expected, size), postprocess)
        wrong = (postprocess.mask(expected, size) != postprocess.mask(exported, size)) & ~close
        count += 1
        undecided += int(close.sum())
        differing += int(wrong.sum())
        differing_cases += bool(wrong.any())
    return Agreement(count, differing_cases, differing, undecided, largest, differing_classes, largest_class)


def _shown_to_both(
    preprocess: AnyPreprocess, opened: OpenedCase
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """What both engines see of a case, and the size at which masks are compared: a picture's own, or a patch's as one
    high picture.
    """
    if not isinstance(preprocess, VolumePreprocess):
        return preprocess.inputs(opened.pixels(fullest_slice(opened.reference))), opened.size
    prepared, _ = pad_to(preprocess.prepare(opened.levels(), opened.spacing_mm), preprocess.size)
    windows = preprocess.windows((prepared.shape[0], prepared.shape[1], prepared.shape[2]))
    patch = preprocess.normalise(prepared[windows[len(windows) // 2]])
    return patch[None], (preprocess.size[0] * preprocess.size[1], preprocess.size[2])


def _joined(
    preprocess: AnyPreprocess,
    found: list[tuple[NDArray[np.float32], NDArray[np.float32] | None]],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Probabilities (K, h, w) of a case."""
    masks = np.stack([mask[0] for mask, _ in found])
    if isinstance(preprocess, VolumePreprocess):
        flat: NDArray[np.float32] = masks[0].reshape(len(masks[0]), *size)
        return flat
    return preprocess.join(masks, size)


def _undecided(probability: NDArray[np.float32], postprocess: Postprocess) -> NDArray[np.bool_]:
    """Where another rounding may give another mask (H, W): at the threshold, or where two classes are as probable."""
    if len(probability) <= 2:
        close: NDArray[np.bool_] = (np.abs(probability - postprocess.threshold) < UNDECIDED).any(0)
        return close
    first, second = np.sort(probability, axis=0)[::-1][:2]
    near: NDArray[np.bool_] = first - second < UNDECIDED
    return near


def _compare_classes(
    known: list[NDArray[np.float32] | None], given: list[NDArray[np.float32] | None]
) -> tuple[float, bool]:
    """The largest difference of class probabilities (means over patches), and whether decided classes differ."""
    one, other = (
        np.mean([part for part in parts if part is not None], axis=0)[0] for parts in (known, given)
    )
    first, second = np.sort(one)[::-1][:2]
    decided = first - second >= UNDECIDED
    return float(np.abs(one - other).max()), bool(decided and one.argmax() != other.argmax())


def require_agreement(agreement: Agreement) -> None:
    """Requires that every decided pixel and class is equal.

    Raises:
        GateFailed: some differ.

    >>> require_agreement(Agreement(3, 0, 0, 12, 1e-6))
    """
    if agreement.differing_pixels:
        raise GateFailed(
            f"the model file differs from torch in {agreement.differing_pixels} pixels of "
            f"{agreement.differing_cases} of {agreement.cases} cases (largest difference "
            f"{agreement.largest_difference:.2g}): it was not kept"
        )
    if agreement.differing_classes:
        raise GateFailed(
            f"the model file's class differs from torch's in {agreement.differing_classes} of {agreement.cases} cases "
            f"(largest difference {agreement.largest_class_difference:.2g}): it was not kept"
        )


def export_network(network: nn.Module, info: ModelInfo, path: Path) -> None:
    """Writes a network as a model file; batch size is free, its images have the size of its pre-processing.

    Raises:
        InputError: the file cannot be written.
    """
    example = torch.zeros(2, info.preprocess.channels, *info.preprocess.size)
    kind = MaskAndClass if info.labels else Probability
    probability = kind(network, exported_probabilities).eval().cpu()
    probability = probability.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with _quiet():
        program = torch.onnx.export(
            probability,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[OUTPUT_NAME, LABEL_NAME] if info.labels else [OUTPUT_NAME],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    strip(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, dump_info(info)
    with atomic_write(path) as temporary:
        onnx.save(model, temporary)
        add_hash(temporary)


def exported_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """As `losses.probabilities`, in operators that engines are quick with: (B, C, ...) -> (B, max(C, 2), ...).

    ONNX Runtime turns the axes for a softmax over classes: at 256x256 that was 2.1 of the 5.1 ms of a small network.

    >>> exported_probabilities(torch.zeros(1, 4, 1, 1)).flatten().tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    if logits.shape[1] == 1:
        foreground = logits.sigmoid()
    elif logits.shape[1] == 2:
        foreground = (logits[:, 1:] - logits[:, :1]).sigmoid()
    else:
        exponential = (logits - logits.amax(dim=1, keepdim=True)).exp()
        return exponential / exponential.sum(dim=1, keepdim=True)
    return torch.cat([1 - foreground, foreground], dim=1)


def strip(model: onnx.ModelProto) -> None:
    """Removes what the exporter writes about the machine: source paths, stack traces, doc strings."""
    del model.metadata_props[:]
    graphs: list[Any] = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for kind in ("value_info", "input", "output", "initializer"):
            for value in getattr(graph, kind, []):
                if hasattr(value, "metadata_props"):
                    del value.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter, which prints progress to stdout and warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@use_installed(False)
def export_run(
    run: str | Path, target: Path, stage: str | None = None, plugins: Sequence[str] = ()
) -> Agreement:
    """Writes a stage of a run as a model file; it is kept only if its masks on the run's test cases equal torch's.

    Args:
        run: the folder of a run, or that of a stage.
        target: the model file.
        stage: of the run; by default the one that its recipe exports.
        plugins: files and modules to run first, because the stage's network comes from them.

    Raises:
        GateFailed: masks differ.
        InputError: no such stage, or the file cannot be written.

    >>> export_run("nowhere", Path("model.txt"))
    Traceback (most recent call last):
    segdistill.errors.InputError: the name of a model file ends in .onnx: model.txt
    """
    if target.suffix != ".onnx":
        raise InputError(f"the name of a model file ends in .onnx: {target}")
    load_plugins(plugins)
    folder = find_stage(run, stage)
    table = folder.parent.parent / "cases.csv"
    cases = compared_cases(read_cases(table)) if table.exists() else []
    return export_stage(folder, target, cases)


def compared_cases(cases: Sequence[Case]) -> list[Case]:
    """The cases on which a model file is compared with torch: the test cases; where there are none, a few others.

    >>> compared_cases([Case("a", Path("a.png"), split="train")])[0].id
    'a'
    """
    return select(cases, split="test") or list(cases[:FEW])


def export_stage(
    folder: Path, target: Path, cases: list[Case], load: Callable[[Path], TrainedStage] = load_stage
) -> Agreement:
    """Writes a stage as a model file, and keeps it only if its masks on `cases` are those of torch.

    TARGET.json beside it has the agreement and the file's hash; where these still fit, nothing is done.

    Args:
        folder: of the stage.
        target: the model file.
        cases: to compare on.
        load: loads the stage.

    Raises:
        GateFailed: masks differ.
        InputError: no such stage, or the file cannot be written.
    """
    stage = load(folder)
    if not stage.segments:
        raise InputError(
            f"stage {stage.name} is a classifier without a mask: export a stage that segments or a joint network"
        )
    info = model_info(stage)
    known = read_json(target.with_suffix(".json"))
    inputs = sha256_text(f"{stage.record.weights_sha256}{dump_info(info)}{WRITTEN}")
    if known.get("inputs") == inputs and target.exists() and sha256_file(target) == known.get("model_sha256"):
        return Agreement(**known["agreement"])
    info = replace(info, self_test=record_self_test(TorchEngine(stage.network, info)))
    with atomic_write(target) as candidate:  # a file that does not pass the gate never has the final name
        export_network(stage.network, info, candidate)
        agreement = measure_agreement(stage.network, stage.preprocess, stage.postprocess, candidate, cases)
        require_agreement(agreement)
    facts = {"inputs": inputs, "model_sha256": sha256_file(target), "agreement": agreement.to_dict()}
    write_json(target.with_suffix(".json"), facts)
    return agreement


def model_info(stage: TrainedStage) -> ModelInfo:
    """The metadata of the model file: processing, provenance, measured metrics."""
    folder, run = stage.folder, stage.folder.parent.parent
    record = RunRecord.read(run) or RunRecord(recipe="")
    evaluation = EvaluationRecord.read(folder) or EvaluationRecord(model=stage.name)
    recipe = run / "recipe.yaml"
    provenance = {
        "recipe": record.recipe,
        "recipe_sha256": sha256_file(recipe) if recipe.exists() else "",
        "stage": stage.name,
        "data": record.data,
        "data_sha256": record.data_hash,
        "weights_sha256": stage.record.weights_sha256,
        "weights": asdict(stage.record.weights) if stage.record.weights else None,
        "teachers": stage.record.teachers,
    }
    cost = {"parameters": evaluation.cost.parameters, "macs": evaluation.cost.macs}
    classes = evaluation.classification
    return ModelInfo(
        name=f"{record.recipe or run.name}:{stage.name}",
        input_channels=stage.preprocess.channels,
        classes=stage.postprocess.classes,
        preprocess=stage.preprocess,
        postprocess=stage.postprocess,
        provenance=provenance | {name: count for name, count in cost.items() if count is not None},
        metrics=asdict(evaluation.summary) | ({} if classes is None else {"classification": asdict(classes)}),
        labels=tuple(stage.record.labels),
    )
