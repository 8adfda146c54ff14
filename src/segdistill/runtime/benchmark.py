"""How long networks take from a picture's file to the written mask, part by part, all timed in turn in one run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segdistill.errors import InputError
from segdistill.files import shown
from segdistill.imaging.grid import AnyPreprocess, VolumePreprocess
from segdistill.imaging.several import Channel
from segdistill.runtime.engine import Runs, Session
from segdistill.runtime.machine import machine
from segdistill.runtime.onnx_file import OnnxFile
from segdistill.runtime.predictor import Prediction, Predictor
from segdistill.runtime.self_test import SEED, synthetic_images
from segdistill.runtime.write import write_prediction

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
from segdistill.imaging.several import Channel
from segdistill.runtime.write import write_prediction
read = network.read([Channel("", Path(file)) for file in json.loads(picture)])
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
        stages: part -> median of one picture.
        p50, p95: of the whole way of one picture.
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
        rounds, pictures: how often, on how many pictures.
        peak_gmacs: of the machine with so many threads, in billions of multiply-accumulates a second.
        machine: name -> value.
    """

    timings: list[Timing]
    threads: int
    rounds: int
    pictures: int
    peak_gmacs: float
    machine: dict[str, str] = field(default_factory=machine)

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A table for a terminal; ratios are to the first row."""
        wide = max(len(shown(f"{one.name}, {one.engine}")) for one in self.timings)
        heads = (*STAGES, "p50", "p95", "ratio", "cold s", "MB peak", "MB file", "% peak")
        found = [f"{'ms of one picture':{wide}}" + "".join(f"{head:>12}" for head in heads)]
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
            f"{self.threads} thread{'s' * (self.threads > 1)}, {self.pictures} pictures x {self.rounds} rounds, in "
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
        contestants: networks in engines.
        pictures: files; none: synthetic pictures of the first network's input size.
        threads: of each engine; those of a contestant are its own affair.
        rounds: how often each picture is segmented by each contestant.
        cold: also start processes, for the cold start and the peak of memory.
        progress: called with (done, total) rounds.

    Raises:
        InputError: there is no contestant, or a picture cannot be read.

    >>> benchmark([])
    Traceback (most recent call last):
    segdistill.errors.InputError: nothing to measure: give a model file
    """
    if not contestants:
        raise InputError("nothing to measure: give a model file")
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, got {rounds}")
    predictors = [Predictor(each.load()) for each in contestants]
    for contestant, predictor in zip(contestants, predictors, strict=True):
        if isinstance(predictor.info.preprocess, VolumePreprocess):
            raise InputError(
                f"{contestant.name} segments volumes, and pictures are timed: doctor times one of its patches"
            )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = _files(pictures, predictors[0].info.preprocess, folder)
        times: list[list[dict[str, float]]] = [[] for _ in contestants]
        for done in range(rounds + 1):
            for file in files:
                for predictor, found in zip(predictors, times, strict=True):
                    found.append(_segment(predictor, file, folder))
            if progress is not None:
                progress(done, rounds)
        starts = [_start(contestants, threads, files[0], folder) for _ in range(STARTS if cold else 0)]
    peak = machine_peak(threads)
    timings = [
        _timing(contestant, predictor, found[len(files) :], [start[k] for start in starts], peak)
        for k, (contestant, predictor, found) in enumerate(zip(contestants, predictors, times, strict=True))
    ]
    return Benchmark(timings, threads, rounds, len(files), peak / 1e9)


def _files(pictures: Sequence[Path], preprocess: AnyPreprocess, folder: Path) -> list[list[Path]]:
    """The files of each picture, one for each channel: those that are given, or synthetic ones."""
    names = preprocess.channel_names
    if pictures and names:
        raise InputError(
            f"these models take {len(names)} channels ({', '.join(names)}), and pictures are of one: leave them out: "
            "synthetic ones are measured"
        )
    if pictures:
        return [[picture] for picture in pictures]
    paths: list[list[Path]] = []
    height, width = preprocess.size[-2:]
    for c in range(len(names) or 1):
        for k, pixels in enumerate(synthetic_images((height, width), SEED + c)):
            path = folder / (f"synthetic_{k}_{c}.png" if names else f"synthetic_{k}.png")
            Image.fromarray(pixels).save(path)
            paths += [[]] if c == 0 else []
            paths[k].append(path)
    return paths


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
    patches = predictor.info.preprocess.patches
    inputs = patches.count**2 if patches else 1
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
        None if counted is None else counted * inputs / (stages["network"] / 1000) / peak,
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
