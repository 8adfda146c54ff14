"""How long networks take from an image's file to the written mask, part by part, all timed in turn in one run.

An image is a picture, or a volume for networks of volumes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.errors import InputError
from segdistill.files import shown
from segdistill.imaging.grid import AnyPreprocess, Planes, VolumePreprocess, mask_at
from segdistill.imaging.intensity import intensity_of
from segdistill.imaging.read_volume import read_volume
from segdistill.imaging.several import Channel, channel_levels, read_channel_volumes
from segdistill.runtime.engine import Runs, Session
from segdistill.runtime.machine import machine
from segdistill.runtime.onnx_file import OnnxFile
from segdistill.runtime.predictor import Prediction, Predictor, VolumePrediction, as_turned, slice_levels
from segdistill.runtime.self_test import SEED, synthetic_images
from segdistill.runtime.write import write_prediction, write_volume

STAGES = ("read", "preprocess", "network", "postprocess", "write")
STARTS = 3
"""Processes that are started of each network."""
_SIDE = 1024
"""Of the matrices whose product measures the machine."""
_CHILD = """
import json, sys, time
from pathlib import Path
import segdistill
model, stage, engine, threads, picture, out, began = sys.argv[1:]
network = segdistill.load_model(model, stage or None, threads=int(threads), engine=engine)
if stage:
    import torch
    torch.set_num_threads(int(threads))
from segdistill.imaging.intensity import intensity_of
from segdistill.imaging.several import Channel
channels = [Channel("", Path(file)) for file in json.loads(picture)]
if network.info.preprocess.dimensions == 3:
    from segdistill.runtime.predictor import slice_levels
    from segdistill.runtime.write import write_volume
    found = network.predict_volume(channels)
    levels = slice_levels(intensity_of(network.info.preprocess.intensity, 0), found.volume.turned())
    write_volume(found, levels, "first", out)
else:
    from segdistill.runtime.write import write_prediction
    read = network.read(channels)
    write_prediction(network.predict_pixels(read.pixels), read, "first", out)
seconds = time.time() - float(began)
try:
    words = open("/proc/self/status").read().split()
    peak = int(words[words.index("VmHWM:") + 1]) / 1000
except (OSError, ValueError):
    peak = None
print(seconds, peak)
"""


@dataclass(frozen=True)
class Contestant:
    """One network in one engine.

    Attributes:
        name: shown.
        engine: onnxruntime, openvino or torch.
        load: makes it ready, once.
        source: the model file, or the folder of a run.
        stage: of the run; "" for a model file.
        megabytes: of its file or weights.
    """

    name: str
    engine: str
    load: Callable[[], Runs]
    source: Path
    stage: str = ""
    megabytes: float | None = None


@dataclass(frozen=True)
class Timing:
    """What was measured of one contestant; times in milliseconds.

    Attributes:
        name, engine, megabytes: as the contestant's.
        stages: part -> median of one image.
        p50, p95: of the whole way of one image.
        cold_start_s: from the start of a process to its first written mask, median; None: not measured.
        peak_mb: most memory of that process.
        macs: of one input of the network; None: not recorded.
        share: of the machine's measured peak (multiply-accumulates of float32 in a second) while the network runs.
    """

    name: str
    engine: str
    megabytes: float | None
    stages: dict[str, float]
    p50: float
    p95: float
    cold_start_s: float | None = None
    peak_mb: float | None = None
    macs: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Benchmark:
    """What `segdistill benchmark` measured.

    Attributes:
        timings: one per contestant.
        threads: of each engine.
        rounds, pictures: how often, on how many images.
        peak_gmacs: of the machine with so many threads, in billions of multiply-accumulates a second.
        machine: name -> value.
        unit: "picture" or "volume".
    """

    timings: list[Timing]
    threads: int
    rounds: int
    pictures: int
    peak_gmacs: float
    machine: dict[str, str] = field(default_factory=machine)
    unit: str = "picture"

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A table for a terminal; ratios are to the first row."""
        wide = max(len(shown(f"{one.name}, {one.engine}")) for one in self.timings)
        heads = (*STAGES, "p50", "p95", "ratio", "cold s", "MB peak", "MB file", "% peak")
        found = [f"{f'ms of one {self.unit}':{wide}}" + "".join(f"{head:>12}" for head in heads)]
        for one in self.timings:
            values: list[float | None] = [
                *(one.stages[name] for name in STAGES),
                one.p50,
                one.p95,
                one.p50 / self.timings[0].p50,
                one.cold_start_s,
                one.peak_mb,
                one.megabytes,
                None if one.share is None else 100 * one.share,
            ]
            cells = "".join(f"{'-' if value is None else format(value, '.2f'):>12}" for value in values)
            found.append(f"{shown(f'{one.name}, {one.engine}'):{wide}}{cells}")
        found.append(
            f"{self.threads} thread{'s' * (self.threads > 1)}, {self.pictures} {self.unit}s x {self.rounds} rounds, in "
            f"turn; float32 peak {self.peak_gmacs:.1f} billion multiply-accumulates a second; "
            f"{self.machine['processor']}, {self.machine['cores']} cores"
        )
        return found


def benchmark(
    contestants: Sequence[Contestant],
    pictures: Sequence[Path] = (),
    *,
    threads: int = 1,
    rounds: int = 20,
    cold: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Benchmark:
    """Times contestants in turn, part by part.

    Args:
        contestants: networks in engines, all of pictures or all of volumes.
        pictures: files; none: synthetic pictures of the first network's input size, or a volume of one of its patches.
        threads: of each engine; those of a contestant are its own affair.
        rounds: how often each image is segmented by each contestant.
        cold: also start processes, for the cold start and the peak of memory.
        progress: called with (done, total) rounds.

    Raises:
        InputError: there is no contestant, networks of both kinds, or an image that cannot be read.

    >>> benchmark([])
    Traceback (most recent call last):
    segdistill.errors.InputError: nothing to measure: give a model file
    """
    if not contestants:
        raise InputError("nothing to measure: give a model file")
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, got {rounds}")
    predictors = [Predictor(each.load()) for each in contestants]
    kinds = {
        predictor.info.preprocess.dimensions: one
        for predictor, one in zip(predictors, contestants, strict=True)
    }
    if len(kinds) > 1:
        raise InputError(
            f"{kinds[3].name} segments volumes and {kinds[2].name} pictures or slices: time them apart"
        )
    volumes = 3 in kinds
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = _files(pictures, predictors[0].info.preprocess, folder)
        times: list[list[dict[str, float]]] = [[] for _ in contestants]
        for done in range(rounds + 1):
            for file in files:
                for predictor, found in zip(predictors, times, strict=True):
                    found.append((_segment_volume if volumes else _segment)(predictor, file, folder))
            if progress is not None:
                progress(done, rounds)
        starts = [_start(contestants, threads, files[0], folder) for _ in range(STARTS if cold else 0)]
        inputs = [_inputs(predictor, files[0]) for predictor in predictors]
    peak = machine_peak(threads)
    timings = [
        _timing(contestant, predictor, found[len(files) :], [start[k] for start in starts], peak / inputs[k])
        for k, (contestant, predictor, found) in enumerate(zip(contestants, predictors, times, strict=True))
    ]
    unit = "volume" if volumes else "picture"
    return Benchmark(timings, threads, rounds, len(files), peak / 1e9, unit=unit)


def _files(images: Sequence[Path], preprocess: AnyPreprocess, folder: Path) -> list[list[Path]]:
    """The files of each image, one for each channel: those that are given, or synthetic ones."""
    names = preprocess.channel_names
    if images and names:
        raise InputError(
            f"these models take {len(names)} channels ({', '.join(names)}), and these images have one: name none, and "
            "synthetic ones are measured"
        )
    if images:
        return [[image] for image in images]
    write = _write_volume if isinstance(preprocess, VolumePreprocess) else _write_pictures
    channels = [write(preprocess, SEED + c, folder, f"_{c}" if names else "") for c in range(len(names) or 1)]
    return [list(files) for files in zip(*channels, strict=True)]


def _write_pictures(preprocess: AnyPreprocess, seed: int, folder: Path, ending: str) -> list[Path]:
    height, width = preprocess.size[-2:]
    paths = []
    for k, pixels in enumerate(synthetic_images((height, width), seed)):
        paths.append(folder / f"synthetic_{k}{ending}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def _write_volume(preprocess: AnyPreprocess, seed: int, folder: Path, ending: str) -> list[Path]:
    """One volume of the size of a patch, on the network's grid."""
    import nibabel

    assert isinstance(preprocess, VolumePreprocess)
    depth, height, width = preprocess.size
    voxels = np.stack(synthetic_images((height, width), seed, count=depth)).transpose()
    affine = np.diag([*reversed(preprocess.spacing or (1.0, 1.0, 1.0)), 1.0])
    path = folder / f"synthetic{ending}.nii.gz"
    nifti: Any = nibabel
    nifti.save(nifti.Nifti1Image(voxels.astype(np.int16), affine), path)
    return [path]


def _inputs(predictor: Predictor, files: Sequence[Path]) -> int:
    """How many inputs of the network an image becomes."""
    preprocess = predictor.info.preprocess
    if not isinstance(preprocess, VolumePreprocess):
        return preprocess.patches.count**2 if preprocess.patches else 1
    volume = read_volume(files[0])
    shape = (volume.voxels.shape[0], volume.voxels.shape[1], volume.voxels.shape[2])
    depth, height, width = map(max, preprocess.grid_shape(shape, volume.spacing), preprocess.size)
    return len(preprocess.windows((depth, height, width)))


def _segment_volume(predictor: Predictor, files: Sequence[Path], folder: Path) -> dict[str, float]:
    """Seconds of each part for one volume; the parts are those of `Predictor.predict_volume`."""
    preprocess, clock = predictor.info.preprocess, time.perf_counter
    assert isinstance(preprocess, VolumePreprocess)
    marks = [clock()]
    volumes = read_channel_volumes([Channel("", file) for file in files], turn=False)
    volume, turned = volumes[0], [each.turned() for each in volumes]
    marks.append(clock())
    levels = channel_levels(turned, preprocess.intensity)
    shape = (turned[0].voxels.shape[0], turned[0].voxels.shape[1], turned[0].voxels.shape[2])
    prepared = preprocess.prepare_slices(levels, shape, turned[0].spacing)
    marks.append(clock())
    planes = preprocess.planes(prepared, lambda batch: predictor.engine.run_both(batch)[0])
    inside = 0.0

    def timed() -> Iterator[NDArray[np.float32]]:
        nonlocal inside
        began = clock()
        for plane in planes:
            inside += clock() - began
            yield plane
            began = clock()
        inside += clock() - began

    mask = np.zeros(volume.voxels.shape, np.uint8)
    as_turned(mask, volume)[:] = mask_at(Planes(len(planes), timed()), shape, predictor.postprocess)
    marks += [marks[-1] + inside, clock()]  # slices of the mask are made between the planes
    shown_levels = slice_levels(intensity_of(preprocess.intensity, 0), turned[0])
    write_volume(VolumePrediction(volume, mask, None, predictor.structures), shown_levels, "mask", folder)
    marks.append(clock())
    return {name: marks[k + 1] - marks[k] for k, name in enumerate(STAGES)}


def _segment(predictor: Predictor, files: Sequence[Path], folder: Path) -> dict[str, float]:
    """Seconds of each part for one picture; the parts are those of `Predictor.predict_pixels`."""
    preprocess, postprocess, clock = predictor.info.preprocess, predictor.postprocess, time.perf_counter
    assert not isinstance(preprocess, VolumePreprocess)
    marks = [clock()]
    picture = predictor.read([Channel("", file) for file in files])
    marks.append(clock())
    inputs = preprocess.inputs(picture.pixels)
    marks.append(clock())
    outputs = [predictor.engine.run_both(image[None])[0][0] for image in inputs]
    marks.append(clock())
    size = (picture.pixels.shape[0], picture.pixels.shape[1])
    probability = preprocess.join(np.stack(outputs), size)
    foreground = postprocess.foreground(probability, size)
    is_binary = len(probability) <= 2
    mask = postprocess.above(foreground) if is_binary else postprocess.mask(probability, size)
    marks.append(clock())
    write_prediction(Prediction(mask, foreground, structures=predictor.structures), picture, "mask", folder)
    marks.append(clock())
    return {name: marks[k + 1] - marks[k] for k, name in enumerate(STAGES)}


def _start(
    contestants: Sequence[Contestant], threads: int, files: Sequence[Path], folder: Path
) -> list[tuple[float, float | None]]:
    """Seconds from the start of a process to its first written mask and its peak of memory, of each contestant."""
    found = []
    for each in contestants:
        engine = "onnxruntime" if each.stage else each.engine
        picture = json.dumps([str(file) for file in files])
        words = [each.source, each.stage, engine, threads, picture, folder, time.time()]
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, *map(str, words)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
            raise InputError(
                f"{each.name}, {each.engine}: a process of its own does not run it: {last[:200]}"
            )
        seconds, peak = done.stdout.split()
        found.append((float(seconds), None if peak == "None" else float(peak)))
    return found


def _timing(
    contestant: Contestant,
    predictor: Predictor,
    times: Sequence[Mapping[str, float]],
    starts: Sequence[tuple[float, float | None]],
    peak: float,
) -> Timing:
    whole = [1000 * sum(one.values()) for one in times]
    stages = {name: 1000 * statistics.median(one[name] for one in times) for name in STAGES}
    macs = predictor.info.provenance.get("macs")
    counted = macs if isinstance(macs, int) and macs > 0 else None
    memory = [found for _, found in starts if found is not None]
    return Timing(
        contestant.name,
        contestant.engine,
        contestant.megabytes,
        stages,
        statistics.median(whole),
        float(np.percentile(whole, 95)),
        statistics.median(seconds for seconds, _ in starts) if starts else None,
        max(memory) if memory else None,
        counted,
        None if counted is None else counted / (stages["network"] / 1000) / peak,
    )


def machine_peak(threads: int) -> float:
    """Multiply-accumulates of float32 in a second, by the product of two large matrices in ONNX Runtime; best of ten.

    >>> machine_peak(1) > 1e6
    True
    """
    session = Session(OnnxFile(Path("matrix product"), _matrix_product()), threads)
    matrix = np.ones((1, 1, _SIDE, _SIDE), np.float32)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        session.run(None, matrix)
        best = min(best, time.perf_counter() - began)
    return float(_SIDE**3 / best)


def _matrix_product() -> bytes:
    """An ONNX file with one MatMul, of its input with itself; source: onnx.proto and the protobuf encoding guide."""

    def message(number: int, *parts: bytes) -> bytes:
        content = b"".join(parts)
        assert len(content) < 128  # so that its length is one byte
        return bytes([number << 3 | 2, len(content)]) + content

    def whole(number: int, value: int) -> bytes:
        return bytes([number << 3, value])

    def value(number: int, name: bytes) -> bytes:
        sides = message(2, *(message(1, message(2, side)) for side in (b"a", b"b", b"c", b"c")))
        return message(number, message(1, name), message(2, message(1, whole(1, 1), sides)))

    node = message(1, message(1, b"x"), message(1, b"x"), message(2, b"y"), message(4, b"MatMul"))
    graph = message(7, node, message(2, b"product"), value(11, b"x"), value(12, b"y"))
    return whole(1, 8) + graph + message(8, message(1, b""), whole(2, 17))
