"""From a picture's file to its written mask by the ways that people take: ours, ONNX Runtime, OpenVINO and MONAI.

The figure is the time of our way (`load_model`, `predict_pixels`, the mask as PNG) over the bare call of the engine on
the same tensor plus the decoding of the file. Its details: every way on the same pictures with one thread, how many
pixels of its masks differ from ours, its cold start and memory in a process of its own, and a teacher of 31 million
parameters in torch beside the student in int8.

Times are processor time, in turns, since other load on the machine disturbs it little; `wall_ms` stands beside it.
OpenVINO's threads also count while they wait for one another.

    python benchmarks/side_by_side.py --json
    python benchmarks/side_by_side.py --run runs/mine --stage student --pictures busi --json

Without --run the student is untrained. The way of OpenVINO needs the extra `openvino`, MONAI's `train`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BAR, TEACHER_BAR = 1.25, 100
TEACHER = "us_unet"
CHILD = "--start"  # a process that makes one mask by one way

Way = Callable[[Path, Path], object]
"""Segments the picture of the first path into a PNG, the second path."""


def ours(model: Path, overlay: bool = False) -> Way:
    """The model file as the runtime uses it."""
    import segdistill
    from segdistill.imaging.png import write_png
    from segdistill.imaging.read import read_picture
    from segdistill.runtime.write import write_prediction

    network = segdistill.load_model(model, threads=1)

    def segment(file: Path, mask: Path) -> object:
        picture = read_picture(file, intensity=network.info.preprocess.intensity)
        found = network.predict_pixels(picture.pixels)
        if overlay:
            return write_prediction(found, picture, mask.stem, mask.parent)
        return write_png(mask, found.mask * np.uint8(255), sync=False)

    return segment


def by_hand(model: Path, bare: bool = False) -> Way:
    """A script with onnxruntime; `bare` decodes the file and calls the engine, nothing else."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    channels, height, width = session.get_inputs()[0].shape[1:]
    ready: dict[Path, Any] = {}

    def segment(file: Path, mask: Path) -> object:
        image = Image.open(file).convert("L")
        if bare and file in ready:
            return session.run(["probability"], {"image": ready[file]})
        values = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
        values = ready[file] = np.repeat(values[None, None], channels, axis=1)
        (probability,) = session.run(["probability"], {"image": values})
        return None if bare else save_mask(probability[0, 1], image.size, mask)

    return segment


def openvino(model: Path) -> Way:
    """A script with openvino, at its default precision."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    from openvino import Core

    network = Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
    channels, height, width = (int(side.get_length()) for side in list(network.input(0).partial_shape)[1:])

    def segment(file: Path, mask: Path) -> object:
        image = Image.open(file).convert("L")
        values = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
        found = network([np.repeat(values[None, None], channels, axis=1)])
        return save_mask(found["probability"][0, 1], image.size, mask)

    return segment


def monai(model: Path) -> Way:
    """MONAI's transforms and inferer, with the network in torch."""
    import torch
    from monai.data import PILReader
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import Compose, LoadImage, RepeatChannel, Resize, ScaleIntensityRange

    torch.set_num_threads(1)
    network = torch.load(model.with_suffix(".pt"), weights_only=False).eval()
    channels, *size = network.shape
    reader = PILReader(converter=lambda image: image.convert("L"), reverse_indexing=False)
    load = Compose(
        [
            LoadImage(reader, image_only=True, ensure_channel_first=True),
            ScaleIntensityRange(0, 255, 0, 1),
            Resize(size, mode="bilinear", anti_aliasing=True),
            RepeatChannel(channels),
        ]
    )
    inferer = SlidingWindowInferer(size, sw_batch_size=1)

    def segment(file: Path, mask: Path) -> object:
        image = load(file)
        with torch.inference_mode():
            logits = inferer(image[None].as_tensor(), lambda batch: network(batch).logits)
            probability = logits.softmax(dim=1)[0, 1].numpy()
        height, width = image.meta["spatial_shape"][:2]
        return save_mask(probability, (int(width), int(height)), mask)

    return segment


def save_mask(probability: Any, size: tuple[int, int], path: Path) -> None:
    """As a user writes it: resized to (width, height), above one half, saved."""
    resized = Image.fromarray(np.ascontiguousarray(probability, np.float32)).resize(
        size, Image.Resampling.BILINEAR
    )
    Image.fromarray((np.asarray(resized) > 0.5).astype(np.uint8) * 255).save(path)


WAYS: dict[str, Callable[[Path], Way]] = {
    "ours": ours,
    "ours, with the overlay": lambda model: ours(model, overlay=True),
    "onnxruntime by hand": by_hand,
    "bare call and decoding": lambda model: by_hand(model, bare=True),
    "openvino by hand": openvino,
    "monai and torch": monai,
}


def start(name: str, model: Path, picture: Path, mask: Path) -> None:
    """One mask in this process; prints its processor time and peak memory."""
    WAYS[name](model)(picture, mask)
    words = (
        Path("/proc/self/status").read_text().split()
    )  # what getrusage gives is the parent's where that is larger
    print(time.process_time(), int(words[words.index("VmHWM:") + 1]) / 1000)


def starts(
    names: list[str], files: dict[str, Path], folder: Path, rounds: int
) -> dict[str, dict[str, float]]:
    """Of each way: median wall-clock and processor time of a whole process with one mask, and its peak memory."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            words = [CHILD, name, files["model"], files["picture"], folder / "start.png"]
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, __file__, *map(str, words)], check=True, capture_output=True, text=True
            )
            wall = time.perf_counter() - began
            if number:  # the first fills the file cache
                processor, peak = map(float, done.stdout.split()[-2:])
                found[name].append((wall, processor, peak))
    labels = ("wall_s", "processor_s", "peak_mb")
    return {
        name: {
            label: round(statistics.median(values), 3)
            for label, values in zip(labels, zip(*each, strict=True), strict=True)
        }
        for name, each in found.items()
    }


def time_ways(
    ways: dict[str, Way], pictures: list[Path], folder: Path, rounds: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds of a picture by each way, all in turn, and the pixels of its masks that differ from ours."""
    processor: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    differing = dict.fromkeys(ways, 0)
    for number in range(rounds + 1):
        for picture in pictures:
            for name, way in ways.items():
                mask = folder / f"{list(ways).index(name)}.png"
                cpu, began = time.process_time(), time.perf_counter()
                way(picture, mask)
                if number:
                    processor[name].append(time.process_time() - cpu)
                    wall[name].append(time.perf_counter() - began)
                elif mask.exists():
                    first = np.asarray(Image.open(folder / "0.png"))
                    differing[name] += int((np.asarray(Image.open(mask)) != first).sum())
    return {
        name: {
            "ms": round(1000 * statistics.median(processor[name]), 2),
            "wall_ms": round(1000 * statistics.median(wall[name]), 2),
            "pixels_unlike_ours": differing[name],
        }
        for name in ways
    }


def write_student(options: argparse.Namespace, path: Path) -> None:
    """The student as a model file, and as a network of torch beside it."""
    import torch

    from segdistill.experiment.export import export_network
    from segdistill.experiment.stage import find_stage, load_stage
    from segdistill.imaging.postprocess import Postprocess
    from segdistill.imaging.preprocess import Preprocess
    from segdistill.models.registry import create_network
    from segdistill.runtime.model_file import ModelInfo

    size = (options.size, options.size)
    if options.run:
        stage = load_stage(find_stage(options.run, options.stage))
        network, pre, post = stage.network, replace(stage.preprocess, size=size), stage.postprocess
    else:
        torch.manual_seed(0)
        network, pre, post = create_network(options.student), Preprocess(size, "grey", 3), Postprocess()
    export_network(network, ModelInfo("student", pre.channels, post.classes, pre, post), path)
    network.shape = (pre.channels, *size)  # type: ignore[assignment]
    torch.save(network, path.with_suffix(".pt"))


def teacher_and_student(
    model: Path, pictures: list[Path], folder: Path, rounds: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds of the networks alone, in turn: the teacher in torch, the student in fp32 and in int8."""
    import onnx
    import torch

    from segdistill.experiment.int8 import Quantiser, save
    from segdistill.imaging.read import read_picture
    from segdistill.models.registry import create_network
    from segdistill.runtime.engine import ENGINES, Engine

    torch.set_num_threads(1)
    info = Engine(model).info
    inputs = [info.preprocess.inputs(read_picture(file).pixels) for file in pictures]
    int8 = save(Quantiser(onnx.load(model), inputs).quantise(), info, folder / "int8.onnx")
    teacher = create_network(TEACHER, info.preprocess.channels).eval()
    parts: dict[str, Callable[[Any], object]] = {
        f"{TEACHER} ({sum(each.numel() for each in teacher.parameters()) / 1e6:.1f} M), torch": lambda image: (
            teacher(torch.from_numpy(image))
        )
    }
    for engine in ENGINES:
        if engine == "openvino" and not has_openvino():
            continue
        for kind, file in (("fp32", model), ("int8", int8)):
            parts[f"student {kind}, {engine}"] = Engine(file, 1, engine).run
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, run in parts.items():
                for image in inputs[:1] if TEACHER in name else inputs:
                    cpu, began = time.process_time(), time.perf_counter()
                    run(image)
                    if number:
                        times[name].append((time.process_time() - cpu, time.perf_counter() - began))
    medians = {
        name: [1000 * statistics.median(column) for column in zip(*each, strict=True)]
        for name, each in times.items()
    }
    slowest = medians[next(iter(parts))][0]
    return {
        name: {"ms": round(cpu, 2), "wall_ms": round(wall, 2), "teacher_over_it": round(slowest / cpu, 1)}
        for name, (cpu, wall) in medians.items()
    }


def has_openvino() -> bool:
    """Whether it is installed."""
    from importlib.util import find_spec

    return find_spec("openvino") is not None


def main() -> None:
    """Times the ways and prints them."""
    from cold_start import make_image
    from common import arguments, machine, report

    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, help="a run whose student is taken, at --size")
    parser.add_argument("--stage", help="of the run")
    parser.add_argument("--student", default="lite_unet", help="a network; without --run, untrained")
    parser.add_argument("--size", type=int, default=256, help="of pictures and networks")
    parser.add_argument("--pictures", type=Path, help="a folder; ten of its pictures are resized to --size")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--starts", type=int, default=5, help="processes of each way; 0: none")
    parser.add_argument("--teacher-rounds", type=int, default=5, help="0: no teacher")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = folder / "student.onnx"
        write_student(options, model)
        found = sorted(options.pictures.rglob("*.png")) if options.pictures else []
        found = [file for file in found if "_mask" not in file.name]
        pictures = [folder / f"picture_{k}.png" for k in range(10)]
        for k, picture in enumerate(pictures):
            if found:
                given = Image.open(found[k * len(found) // 10]).convert("L")
                given.resize((options.size, options.size), Image.Resampling.BILINEAR).save(picture)
            else:
                make_image(picture, options.size)
        names = [name for name in WAYS if not name.startswith("openvino") or has_openvino()]
        ways = time_ways({name: WAYS[name](model) for name in names}, pictures, folder, options.rounds)
        files = {"model": model, "picture": pictures[0]}
        details: dict[str, Any] = {
            "student": f"{options.run} {options.stage or ''}".strip() if options.run else options.student,
            "size": options.size,
            "ways": ways,
            "cold": starts(names, files, folder, options.starts) if options.starts else {},
            "teacher": teacher_and_student(model, pictures, folder, options.teacher_rounds)
            if options.teacher_rounds
            else {},
            "teacher_bar": TEACHER_BAR,
            "machine": machine(),
        }
    figure = ways["ours"]["ms"] / ways["bare call and decoding"]["ms"]
    report(Path(__file__).stem, figure, BAR, figure <= BAR, details, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        start(sys.argv[2], *map(Path, sys.argv[3:6]))
    else:
        main()
