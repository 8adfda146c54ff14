"""A model file in int8: calibrated on plain training images, and kept only if it loses little on validation cases.

Weights are int8 per channel, activations uint8, in ONNX's QDQ form (QuantizeLinear and DequantizeLinear around each
operator), which ONNX Runtime and OpenVINO both read. Ranges are those of the calibration images (MinMax).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from segdistill.data.case import Case, select, with_channels
from segdistill.data.opened import OpenedCase, open_case
from segdistill.data.table import read_cases
from segdistill.errors import GateFailed, InputError
from segdistill.experiment.evaluation import WholeModel
from segdistill.experiment.export import compared_cases, export_stage, strip
from segdistill.experiment.stage import find_stage, read_stage
from segdistill.files import atomic_write, sha256_file, write_json
from segdistill.imaging.grid import VolumePreprocess, pad_to
from segdistill.imaging.picture import Picture
from segdistill.metrics.cases import Results, evaluate_cases
from segdistill.plugins import load_plugins, use_installed
from segdistill.registry import near_names
from segdistill.runtime.engine import Engine, interleaved_milliseconds
from segdistill.runtime.model_file import METADATA_KEY, ModelInfo, dump_info, read_info
from segdistill.runtime.onnx_file import add_hash
from segdistill.runtime.predictor import Predictor
from segdistill.runtime.self_test import record_self_test
from segdistill.stats.summary import summarise
from segdistill.stats.text import signed

CALIBRATION_IMAGES = 32
MOST_LAYERS = 5
"""Layers that are put back to fp32 at most before a network is refused."""
RANKED_ON = 8
"""Calibration images on which layers are ranked."""
WORTH = 1.2
"""A file that is not so many times faster than fp32 is a warning."""
TIMED = 1.0
"""Seconds in which both files are timed."""
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
KEPT_IN_FP32 = ("Softmax", "Sigmoid", "ArgMax", "TopK")
"""Operators that are never quantised: in steps of 1/255 they would lose what decides a mask."""


@dataclass(frozen=True)
class Gate:
    """How much an int8 file may lose against its fp32 file, on cases with something to find.

    Attributes:
        mean_drop: of the mean Dice, at most. The mean share of the image that is predicted on normal images may rise by
            as much.
        case_drop, case_share: at most this share of the cases loses more than this Dice; of a network that classifies,
            at most this share has a class that fp32 had right and int8 has wrong.
        good, floor: no case falls from above the first Dice to below the second.

    Raises:
        InputError: a value is not between 0 and 1.

    >>> Gate(mean_drop=0.01).case_share
    0.02
    """

    mean_drop: float = 0.005
    case_drop: float = 0.05
    case_share: float = 0.02
    good: float = 0.8
    floor: float = 0.6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"gate: {name} must lie between 0 and 1, got {value}")

    @classmethod
    def parse(cls, settings: Sequence[str]) -> Gate:
        """The gate with values that were given as "name=value".

        Raises:
            InputError: no such name, or no number.

        >>> Gate.parse(["mean_drop=0.01"]).mean_drop
        0.01
        """
        known, values = [each.name for each in fields(cls)], {}
        for setting in settings:
            name, _, text = setting.partition("=")
            if name not in known:
                raise InputError(f"--gate {setting}: no such value: {near_names(name, known)}")
            try:
                values[name] = float(text)
            except ValueError:
                raise InputError(f"--gate {setting}: '{text}' is not a number: give {name}=NUMBER") from None
        return cls(**values)


@dataclass(frozen=True)
class Measured:
    """What a model file gives on the cases of the gate.

    Attributes:
        results: one per case.
        right: of each classified case whether its class is right.
    """

    results: Results
    right: dict[str, bool] = field(default_factory=dict)

    def dice(self) -> dict[str, float]:
        """Case -> Dice, of those with something to find."""
        return {result.case: result.metrics["dice"] for result in self.results if not result.normal}

    def normal_area(self) -> float:
        """Mean share of the image that is predicted where there is nothing to find; 0 without such images."""
        areas = [result.predicted_area for result in self.results if result.normal]
        return float(np.mean(areas)) if areas else 0.0


@dataclass(frozen=True)
class Comparison:
    """An int8 file against its fp32 file.

    Attributes:
        cases: with something to find.
        fp32, int8: mean Dice.
        worst_drop, worst_case: the largest loss of Dice of one case, and which.
        reasons: why the gate is not met; empty: it is.
    """

    cases: int
    fp32: float
    int8: float
    worst_drop: float
    worst_case: str
    reasons: tuple[str, ...] = ()


def compare(gate: Gate, before: Measured, after: Measured) -> Comparison:
    """Whether an int8 file meets the gate.

    Raises:
        InputError: no case has something to find.

    >>> from segdistill.metrics.cases import CaseResult
    >>> def one(dice):
    ...     return Measured(Results([CaseResult("a", "a", metrics={"dice": dice}, reference_area=0.1)]))
    >>> compare(Gate(), one(0.9), one(0.5)).reasons[0]
    'the mean Dice falls from 0.9000 to 0.5000, by more than 0.005'
    """
    old, new = before.dice(), after.dice()
    if not old:
        raise InputError("the gate of int8 needs a case with something to find: none of its cases has a mask")
    drops = {case: value - new[case] for case, value in old.items()}
    fp32, int8 = float(np.mean(list(old.values()))), float(np.mean(list(new.values())))
    worst = max(drops, key=drops.__getitem__)
    reasons = []
    if fp32 - int8 > gate.mean_drop:
        reasons.append(f"the mean Dice falls from {fp32:.4f} to {int8:.4f}, by more than {gate.mean_drop:g}")
    losing = [case for case, drop in drops.items() if drop > gate.case_drop]
    if len(losing) > gate.case_share * len(drops):
        reasons.append(
            f"{len(losing)} of {len(drops)} cases lose more than {gate.case_drop:g}, and {gate.case_share:.0%} may "
            f"(worst: {worst}, {old[worst]:.3f} to {new[worst]:.3f})"
        )
    lost = [case for case, value in old.items() if value > gate.good and new[case] < gate.floor]
    if lost:
        reasons.append(
            f"{len(lost)} of the cases that had above {gate.good:g} fall below {gate.floor:g} (such as {lost[0]}, "
            f"{old[lost[0]]:.3f} to {new[lost[0]]:.3f})"
        )
    if after.normal_area() - before.normal_area() > gate.mean_drop:
        reasons.append(
            f"on normal images the predicted share of the image rises from {before.normal_area():.4f} to "
            f"{after.normal_area():.4f}, by more than {gate.mean_drop:g}"
        )
    wrong = [case for case, right in before.right.items() if right and not after.right[case]]
    if len(wrong) > gate.case_share * len(before.right):
        reasons.append(
            f"the class of {len(wrong)} of {len(before.right)} cases becomes wrong, and {gate.case_share:.0%} may"
        )
    return Comparison(len(drops), fp32, int8, drops[worst], worst, tuple(reasons))


def measure(model: Path, cases: Sequence[Case]) -> Measured:
    """Dice of a model file on cases, and whether their classes are right where it classifies.

    Raises:
        InputError: an image or mask cannot be read.
    """
    predictor = Predictor(model)
    intensity = predictor.info.preprocess.intensity
    cases = [with_channels(case, predictor.info.preprocess.channel_names) for case in cases]
    if isinstance(predictor.info.preprocess, VolumePreprocess):
        return Measured(evaluate_cases(cases, WholeModel(predictor), intensity=intensity))
    classes: dict[Path, str] = {}

    def predict(picture: Picture) -> NDArray[np.uint8]:
        found = predictor.predict_pixels(picture.pixels)
        if found.classes:
            classes[picture.source] = max(found.classes, key=found.classes.__getitem__)
        return found.mask

    results = evaluate_cases(cases, predict, intensity=intensity)
    known = [case for case in cases if case.label in predictor.info.labels and case.image in classes]
    return Measured(results, {case.id: classes[case.image] == case.label for case in known})


def calibration_inputs(info: ModelInfo, cases: Sequence[Case]) -> list[NDArray[np.float32]]:
    """What the network is given for 32 plain training images: (1, C, h, w) each, of volumes (1, C, d, h, w).

    The images are spread evenly over the cases; where these are fewer they are volumes, of which evenly spread slices
    or patches are taken, or there are fewer images.

    Raises:
        InputError: there is no case, or an image is missing; the message counts them.
    """
    if not cases:
        raise InputError(
            "int8 needs training images for its calibration: the case table has no training case"
        )
    count = min(CALIBRATION_IMAGES, len(cases))
    names = info.preprocess.channel_names
    chosen = [with_channels(cases[k * len(cases) // count], names) for k in range(count)]
    missing = [file for case in chosen for file in case.image_files if not file.exists()][:count]
    if missing:
        raise InputError(
            f"int8 needs training images for its calibration: {len(missing)} of {count} are missing, such as "
            f"{missing[0]}: restore them"
        )
    inputs: list[NDArray[np.float32]] = []
    for k, case in enumerate(chosen):
        opened = open_case(case, info.preprocess.intensity)
        inputs += _shown(
            opened, info, CALIBRATION_IMAGES * (k + 1) // count - CALIBRATION_IMAGES * k // count
        )
    return inputs


def _shown(opened: OpenedCase, info: ModelInfo, most: int) -> list[NDArray[np.float32]]:
    """At most so many images of a case, slices or patches of a volume, evenly spread, as the network is given them."""
    preprocess = info.preprocess
    if isinstance(preprocess, VolumePreprocess):
        prepared, _ = pad_to(preprocess.prepare(opened.levels(), opened.spacing_mm), preprocess.size)
        windows = preprocess.windows((prepared.shape[0], prepared.shape[1], prepared.shape[2]))
        return [preprocess.normalise(prepared[windows[k]])[None] for k in _spread(len(windows), most)]
    slices = _spread(len(opened), most)
    return [image[None] for k in slices for image in preprocess.inputs(opened.pixels(k))]


def _spread(length: int, most: int) -> list[int]:
    """At most so many of the numbers below `length`, evenly spread.

    >>> _spread(10, 2), _spread(2, 5)
    ([2, 7], [0, 1])
    """
    count = min(length, most)
    return [(2 * k + 1) * length // (2 * count) for k in range(count)]


class Quantiser:
    """Makes int8 networks of an fp32 one; the ranges of its tensors are measured once.

    Args:
        model: the fp32 network.
        inputs: of the calibration, (1, C, h, w) each.

    Attributes:
        layers: the operators with weights that are quantised, from input to output. The last one before each output,
            which makes the logits, and all behind it stay in fp32: they cost next to nothing and decide every pixel.

    Raises:
        InputError: the network has no such operator; the message names those that it has.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[NDArray[np.float32]]) -> None:
        self._model = onnx.shape_inference.infer_shapes(model)
        _name_nodes(self._model)
        self._kept = _heads(self._model.graph)
        self.layers = [
            node.name
            for node in self._model.graph.node
            if node.op_type in WEIGHTED and node.name not in self._kept
        ]
        if not self.layers:
            kinds = ", ".join(sorted({node.op_type for node in self._model.graph.node}))
            raise InputError(
                f"this network has no layer that becomes int8 (those are {', '.join(WEIGHTED)}, but the last): its "
                f"operators are {kinds}: use the fp32 file"
            )
        with _quiet():
            self._ranges = self._calibrate(inputs)
        # an operator with an unlimited range, such as the logarithm of 0, has no steps
        wide = {name for name, found in self._ranges.items() if not np.isfinite(found.range_value).all()}
        self._kept |= {node.name for node in self._model.graph.node if wide & {*node.input, *node.output}}

    def _calibrate(self, inputs: Sequence[NDArray[np.float32]]) -> Any:
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

        name, rest = self._model.graph.input[0].name, iter(inputs)

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                image = next(rest, None)
                return None if image is None else {name: image}

        with tempfile.TemporaryDirectory() as folder:
            plain, augmented = Path(folder) / "plain.onnx", Path(folder) / "augmented.onnx"
            onnx.save(self._model, plain)
            calibrator = create_calibrator(
                plain,
                _operators(),
                augmented_model_path=str(augmented),
                calibrate_method=CalibrationMethod.MinMax,
            )
            calibrator.collect_data(Reader())
            return calibrator.compute_data()

    def quantise(self, in_fp32: Sequence[str] = ()) -> onnx.ModelProto:
        """The network with all layers in int8 but these and the last, without metadata."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        with _quiet():
            quantizer = QDQQuantizer(
                model,
                True,  # per channel
                False,  # the weights use all 8 bits
                QuantType.QInt8,
                QuantType.QUInt8,
                self._ranges,
                [],
                [*in_fp32, *self._kept],
                _operators(),
                {},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        found: onnx.ModelProto = quantizer.model.model
        strip(found)
        return found


def _operators() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry} - {*KEPT_IN_FP32})


def _name_nodes(model: onnx.ModelProto) -> None:
    """Gives every operator a name of its own: layers are chosen by it."""
    taken: set[str] = set()
    for k, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{k}"
        taken.add(node.name)


def _heads(graph: onnx.GraphProto) -> set[str]:
    """The operators between the outputs and the last ones with weights before them, these included."""
    maker = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = [output.name for output in graph.output]
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.name in found:
            continue
        found.add(node.name)
        if node.op_type not in WEIGHTED:
            waiting += node.input
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantiser, which logs through the root logger and computes steps of unlimited ranges, too."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with np.errstate(invalid="ignore"):
            yield
    finally:
        logging.disable(before)


def save(network: onnx.ModelProto, info: ModelInfo, path: Path) -> Path:
    """Writes a network as a model file with this metadata alone, and gives its path."""
    del network.metadata_props[:]
    entry = network.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, dump_info(info)
    onnx.save(network, path)
    add_hash(path)
    return path


def rank_layers(
    quantiser: Quantiser, fp32: Engine, inputs: Sequence[NDArray[np.float32]], place: Path
) -> list[str]:
    """The layers whose int8 form loses most, the worst first: those without which the probabilities are nearest fp32.

    Args:
        quantiser: of the network.
        fp32: the network as it is.
        inputs: on which the mean difference of the probabilities is measured.
        place: where its int8 forms are written, one after the other.
    """
    wanted = [fp32.run(image) for image in inputs]
    distance = {}
    for layer in quantiser.layers:
        engine = Engine(save(quantiser.quantise([layer]), fp32.info, place), threads=1)
        found = [engine.run(image) for image in inputs]
        distance[layer] = float(np.mean([np.abs(a - b).mean() for a, b in zip(wanted, found, strict=True)]))
    return sorted(distance, key=distance.__getitem__)


@dataclass(frozen=True)
class Int8Export:
    """An int8 file that has met its gate.

    Attributes:
        model: the file.
        comparison: with fp32 on the cases of the gate.
        split: of these cases.
        calibration: number of inputs that it was calibrated on.
        in_fp32: layers that were put back to fp32, in this order.
        fp32_ms, int8_ms: median time per input, one thread, timed in turn.
        megabytes: of the file; those of the fp32 file.
    """

    model: str
    comparison: Comparison
    split: str
    calibration: int
    in_fp32: tuple[str, ...]
    fp32_ms: float
    int8_ms: float
    megabytes: tuple[float, float]

    @property
    def faster(self) -> float:
        """How many times faster than fp32."""
        return self.fp32_ms / self.int8_ms

    @property
    def warning(self) -> str:
        """About a file that is hardly faster; "" for others."""
        if self.faster >= WORTH:
            return ""
        return (
            f"int8 is {self.faster:.2f} times as fast as fp32 on this machine (one thread), less than {WORTH:g}: use "
            "the fp32 file here, or measure with another engine (segdistill benchmark)"
        )

    def __str__(self) -> str:
        """What it lost and gained, in one line."""
        one = self.comparison
        kept = f", {len(self.in_fp32)} layers in fp32 ({', '.join(self.in_fp32)})" if self.in_fp32 else ""
        return (
            f"{self.model}: Dice {one.int8:.4f}, fp32 {one.fp32:.4f}, on {one.cases} {self.split} cases (worst case "
            f"{signed(-one.worst_drop)}: {one.worst_case}); {self.faster:.2f} times as fast, {self.megabytes[0]:.1f} "
            f"of {self.megabytes[1]:.1f} MB{kept}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON."""
        return {**asdict(self), "faster": self.faster, "warning": self.warning}


@use_installed(False)
def export_int8(
    run: str | Path,
    target: Path,
    stage: str | None = None,
    *,
    data: str | Path | None = None,
    gate: Gate | None = None,
    gate_on: str = "val",
    plugins: Sequence[str] = (),
) -> Int8Export:
    """Writes a stage of a run, or a model file, as an int8 model file; it is kept only if it meets the gate.

    Args:
        run: the folder of a run, that of a stage, or a model file.
        target: the int8 file.
        stage: of the run; by default the one that its recipe exports.
        data: a case table with training and validation cases; by default that of the run.
        gate: how much may be lost.
        gate_on: the split that the gate measures on, "val" or "train".
        plugins: files and modules to run first, because the stage's network comes from them.

    Raises:
        GateFailed: it loses too much, also with five layers in fp32.
        InputError: images are missing, or nothing of the network can be int8.

    >>> export_int8("nowhere", Path("model.txt"))
    Traceback (most recent call last):
    segdistill.errors.InputError: the name of a model file ends in .onnx: model.txt
    """
    gate = gate or Gate()
    if target.suffix != ".onnx":
        raise InputError(f"the name of a model file ends in .onnx: {target}")
    if gate_on not in ("val", "train"):
        raise InputError(f"--gate-on is val or train, got {gate_on}: test cases choose nothing")
    load_plugins(plugins)
    with tempfile.TemporaryDirectory() as folder:
        model, cases = _fp32(Path(run), stage, data, Path(folder))
        judged = [case for case in select(cases, split=gate_on) if case.has_reference]
        if not judged:
            raise InputError(
                f"the gate of int8 needs {gate_on} cases with a mask, and the case table has none: "
                + (
                    "give another --data"
                    if gate_on == "train"
                    else "use --gate-on train, or give another --data"
                )
            )
        return _export(model, target, cases, judged, gate, gate_on, Path(folder))


def _fp32(run: Path, stage: str | None, data: str | Path | None, folder: Path) -> tuple[Path, list[Case]]:
    """The fp32 model file and the cases."""
    if run.is_file():
        if data is None:
            raise InputError(
                "int8 needs training images for its calibration and validation cases for its gate: give them as "
                f"--data TABLE, or give the folder of the run that made {run}"
            )
        if "int8" in read_info(run).provenance:
            raise InputError(f"{run} is in int8 already: give its fp32 file, or the run that made it")
        return run, read_cases(Path(data))
    place = find_stage(run, stage)
    whole = place.parent.parent
    table = whole / "cases.csv" if data is None else Path(data)
    if not table.exists():
        raise InputError(
            f"int8 needs training images and validation cases: {table} is missing: give --data TABLE"
        )
    cases, record, exported = read_cases(table), read_stage(place), whole / "model.onnx"
    if exported.exists() and record is not None:
        facts = read_info(exported).provenance
        wanted = (place.name, record.weights_sha256, False)
        if (facts.get("stage"), facts.get("weights_sha256"), "int8" in facts) == wanted:
            return exported, cases
    export_stage(place, folder / "fp32.onnx", compared_cases(cases))
    return folder / "fp32.onnx", cases


def _export(
    source: Path, target: Path, cases: list[Case], judged: list[Case], gate: Gate, gate_on: str, folder: Path
) -> Int8Export:
    info, fp32 = read_info(source), Engine(source, threads=1)
    inputs = calibration_inputs(info, select(cases, split="train"))
    quantiser = Quantiser(onnx.load(source), inputs)

    place = folder / "int8.onnx"
    before = measure(source, judged)
    in_fp32: list[str] = []
    network = quantiser.quantise()
    found = compare(gate, before, measure(save(network, info, place), judged))
    if found.reasons:
        worst = rank_layers(quantiser, fp32, inputs[:RANKED_ON], place)[:MOST_LAYERS]
        while found.reasons and len(in_fp32) < len(worst):
            in_fp32 = worst[: len(in_fp32) + 1]
            network = quantiser.quantise(in_fp32)
            found = compare(gate, before, measure(save(network, info, place), judged))
    if found.reasons:
        raise GateFailed(
            f"int8 loses too much on {found.cases} {gate_on} cases, also with {len(in_fp32)} layers in fp32 "
            f"({', '.join(in_fp32)}): {'; '.join(found.reasons)}: no file was written: use the fp32 file, or allow "
            "more with --gate"
        )
    tested = [case for case in select(cases, split="test") if case.has_reference]
    facts = {
        "format": "QDQ, uint8 activations, int8 weights per channel, MinMax",
        "fp32_sha256": sha256_file(source),
        "calibration": len(inputs),
        "in_fp32": in_fp32,
        "gate": asdict(gate),
        "gate_on": gate_on,
        "mean_dice": {"fp32": found.fp32, "int8": found.int8, "cases": found.cases},
        "worst_drop": found.worst_drop,
    }
    own = replace(
        info,
        name=f"{info.name}, int8",
        provenance={**info.provenance, "int8": facts},
        metrics=asdict(summarise(measure(place, tested).results)) if tested else {},
        self_test=record_self_test(Engine(place)),
    )
    with atomic_write(target) as temporary:
        save(network, own, temporary)
    fp32_ms, int8_ms = interleaved_milliseconds([fp32, Engine(target, threads=1)], TIMED)
    sizes = (target.stat().st_size / 1e6, source.stat().st_size / 1e6)
    result = Int8Export(str(target), found, gate_on, len(inputs), tuple(in_fp32), fp32_ms, int8_ms, sizes)
    write_json(target.with_suffix(".json"), {"model_sha256": sha256_file(target), **result.to_dict()})
    return result
