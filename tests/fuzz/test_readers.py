"""Every reader on files that were damaged in seeded ways: a result or one line, soon, in little memory.

The readers run in a process of their own, which is ended when it hangs, and started again when it dies.
"""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from segdistill.errors import InputError
from tests.fuzz.mutations import mutate

resource = pytest.importorskip("resource")  # not on Windows
SECONDS = 5.0
GROWTH_MB = 1024
"""Memory that a file may take; each of them has a few kB."""

Reader = Callable[[Path], object]


def _picture(path: Path) -> object:
    from segdistill.imaging.read import image_size, read_picture, read_stored, stored_values

    stored_values(path)
    for read in (image_size, read_stored):
        with suppress(InputError):
            read(path)
    return read_picture(path)


def _volume(path: Path) -> object:
    from segdistill.imaging.intensity import Intensity
    from segdistill.imaging.read_volume import read_volume

    volume = read_volume(path)
    return Intensity().levels(volume.voxels)(np.asarray(volume.voxels[0]))


def _series(path: Path) -> object:
    return _volume(path.parent)  # its other slices are whole


def _table(path: Path) -> object:
    from segdistill.data.table import read_cases

    return read_cases(path)


def _recipe(path: Path) -> object:
    from segdistill.config.load import load_recipe

    return load_recipe(path)


def _recipe_of_a_run(path: Path) -> object:
    from segdistill.experiment.results import read_recipe

    return read_recipe(path.parent)


def _record(path: Path) -> object:
    from segdistill.records import EvaluationRecord, RunRecord, StageRecord

    kinds: tuple[Any, ...] = (RunRecord, StageRecord, EvaluationRecord)
    return {kind.FILE: kind for kind in kinds}[path.name].read(path.parent)


def _environment(path: Path) -> object:
    from segdistill.experiment.results import read_json

    return read_json(path)


def _curves(path: Path) -> object:
    from segdistill.training.curves import read_curves

    return read_curves(path)


def _metrics(path: Path) -> object:
    from segdistill.metrics.cases import read_metrics_csv

    return read_metrics_csv(path)


def _state(path: Path) -> object:
    from segdistill.training.checkpoint import load_optimizer, restoring

    network, optimizer = _trained()
    with restoring(path) as state:
        network.load_state_dict(state["network"])
        load_optimizer(optimizer, state["optimizer"])
    return network


def _weights(path: Path) -> object:
    from segdistill.training.checkpoint import load_weights

    return load_weights(path, _trained()[0])


def _stated_weights(path: Path) -> object:
    from segdistill.experiment.stage import require_stated_weights

    require_stated_weights(path.parent, _stage_record(_hash_of_weights()))
    return _weights(path)


def _model(path: Path) -> object:
    from segdistill.runtime.engine import Engine

    return Engine(path, threads=1).run(np.zeros((1, 3, 32, 48), np.float32))


READERS: dict[str, Reader] = {
    "a.png": _picture,
    "a.jpg": _picture,
    "a.tif": _picture,
    "a.dcm": _picture,
    "series/IM0001.dcm": _series,
    "a.nii": _volume,
    "a.nii.gz": _volume,
    "a.nrrd": _volume,
    "packed.nrrd": _volume,
    "a.mha": _volume,
    "packed.mha": _volume,
    "cases.csv": _table,
    "own.yaml": _recipe,
    "recipe.yaml": _recipe_of_a_run,
    "run.json": _record,
    "stage.json": _record,
    "evaluation.json": _record,
    "environment.json": _environment,
    "curves.csv": _curves,
    "metrics.csv": _metrics,
    "training_state.pt": _state,
    "encoder.safetensors": _weights,
    "weights.safetensors": _stated_weights,
    "model.onnx": _model,
}


def _trained() -> tuple[Any, Any]:
    """A network and its optimiser after a step."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return network, optimizer


def _hash_of_weights() -> str:
    import hashlib

    from safetensors.torch import save

    return hashlib.sha256(save(_trained()[0].state_dict())).hexdigest()


def _stage_record(weights: str) -> Any:
    from segdistill.records import StageRecord

    return StageRecord(
        name="a",
        variant="a",
        seed=0,
        role="student",
        task="supervised",
        network={"name": "unet"},
        classes=["background", "lesion"],
        preprocess={"size": [8, 8]},
        postprocess={},
        fingerprint="f",
        weights_sha256=weights,
    )


def whole_files(folder: Path) -> dict[str, bytes]:
    """Name in READERS -> content of a file that its reader takes."""
    files = _pictures() | _volumes(folder) | _dicom(folder) | _of_a_run(folder)
    assert set(READERS) <= set(files)
    return files


def _pictures() -> dict[str, bytes]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    made = {}
    for name, image in (("png", Image.fromarray(pixels).quantize(9)), ("jpg", Image.fromarray(pixels))):
        target = io.BytesIO()
        image.save(target, {"png": "PNG", "jpg": "JPEG"}[name])
        made[f"a.{name}"] = target.getvalue()
    target = io.BytesIO()
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 9).save(target, "TIFF", compression="tiff_lzw")
    return made | {"a.tif": target.getvalue()}


def _volumes(folder: Path) -> dict[str, bytes]:
    import SimpleITK as sitk  # noqa: N813

    voxels = np.random.default_rng(1).integers(-99, 999, (5, 8, 9), dtype=np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.5, 0.6, 2.0))
    made = {}
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "packed.nrrd", "a.mha", "packed.mha"):
        sitk.WriteImage(image, folder / name, useCompression=name.startswith("packed"))
        made[name] = (folder / name).read_bytes()
    return made


def _dicom(folder: Path) -> dict[str, bytes]:
    from tests.imaging.volumes import blocks, write_series

    write_series(folder / "series", blocks())
    slices = sorted((folder / "series").iterdir())
    return {"a.dcm": slices[0].read_bytes()} | {f"series/{path.name}": path.read_bytes() for path in slices}


def _of_a_run(folder: Path) -> dict[str, bytes]:
    import torch
    from safetensors.torch import save

    from segdistill.config.load import recipe_file
    from segdistill.metrics.base import METRICS
    from segdistill.metrics.cases import CaseResult, write_metrics_csv
    from segdistill.records import EvaluationRecord, Interval, RunRecord, Summary, Weights
    from segdistill.runtime.machine import machine
    from segdistill.training.curves import write_curves
    from tests.runtime.small_model import build

    network, optimizer = _trained()
    state, weights = io.BytesIO(), save(network.state_dict())
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, state)
    results = [CaseResult(name, name, metrics=dict.fromkeys(METRICS.always(), 0.5)) for name in "abc"]
    write_metrics_csv(results, folder / "metrics.csv")
    write_curves(folder / "curves.csv", [{"epoch": float(n), "loss": 1 / n} for n in (1, 2, 3)])
    summary = Summary({"dice": Interval(0.5, 0.4, 0.6, 3)})
    evaluation = EvaluationRecord(model="a", summary=summary, weights=Weights("last", 2, 2))
    run = RunRecord(recipe="a", stages=["a"], settings={"fit": {"epochs": 2}})
    recipe = recipe_file("distill").read_bytes()
    table = "id,group,image,masks,label,box,spacing_mm,split\n" + "".join(
        f"{n},p{n},images/{n}.png,masks/{n}.png,benign,1 2 8 9,0.1 0.1,train\n" for n in range(4)
    )
    return {
        "cases.csv": table.encode(),
        "own.yaml": recipe,
        "recipe.yaml": recipe,
        "run.json": run.to_json().encode(),
        "stage.json": _stage_record("0" * 64).to_json().encode(),
        "evaluation.json": evaluation.to_json().encode(),
        "environment.json": json.dumps(machine()).encode(),
        "curves.csv": (folder / "curves.csv").read_bytes(),
        "metrics.csv": (folder / "metrics.csv").read_bytes(),
        "training_state.pt": state.getvalue(),
        "encoder.safetensors": weights,
        "weights.safetensors": weights,
        "model.onnx": build().SerializeToString(),
    }


def has_broken_checksum(name: str, content: bytes, whole: bytes) -> bool:
    """Whether a checksum of the file is wrong, found without the readers."""
    try:
        if name.endswith(".gz"):
            gzip.decompress(content)
        elif name == "packed.nrrd":
            gzip.decompress(content[content.index(b"\n\n") + 2 :])
        elif name == "packed.mha" and b"CompressedData = True" in content and b"= LOCAL\n" in content:
            stream = zlib.decompressobj()
            stream.decompress(content[content.index(b"= LOCAL\n") + 8 :])
            return not stream.eof
        elif name == "weights.safetensors":
            return content != whole
        elif name == "a.png":
            return _has_broken_chunk(content)
    except (zlib.error, EOFError, OSError):
        return True
    except ValueError:
        return False  # another file by now
    return False


def _has_broken_chunk(content: bytes) -> bool:
    position = 8
    while content[position + 4 : position + 8] != b"IEND":
        if position + 12 > len(content):
            return True
        length = int.from_bytes(content[position : position + 4], "big")
        body, crc = content[position + 4 : position + 8 + length], content[position + 8 + length :][:4]
        if crc != zlib.crc32(body).to_bytes(4, "big"):
            return True
        position += 12 + length
    return False


def _limit_memory(more_mb: int) -> None:
    """Lets this process have so much more address space than it has now, on Linux."""
    sizes = Path("/proc/self/statm")
    if sizes.exists():
        most = int(sizes.read_text().split()[0]) * resource.getpagesize() + (more_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _most_memory() -> int:
    """MB that this process has held at most; Linux counts what it inherited in getrusage."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) >> 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) >> (20 if sys.platform == "darwin" else 10)


def work(connection: Connection, readers: dict[str, Reader], limit_mb: int) -> None:
    """The child: reads what it is told to, and tells the outcome and the largest memory so far."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["OMP_NUM_THREADS"] = "1"
    while True:
        name, path = connection.recv()
        try:
            if name:
                readers[name](path)
            else:
                _limit_memory(limit_mb)
            outcome = "read"
        except InputError as error:
            outcome = "refused" if "\n" not in str(error) else f"more than one line: {error!r}"
        except BaseException:
            outcome = "raised " + traceback.format_exc(limit=-3)
        connection.send((outcome, _most_memory()))


@dataclass
class Child:
    """The process with the readers."""

    readers: dict[str, Reader]
    whole: dict[str, Path]

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.readers, 4 * GROWTH_MB), daemon=True)
        self.process.start()
        theirs.close()
        for name, path in self.whole.items():
            outcome = self.ask(name, path, 120)[0]
            assert outcome == "read", f"{name} is whole, and was {outcome}"
        self.memory = self.ask("", Path(), 120)[1]

    def ask(self, name: str, path: Path, seconds: float) -> tuple[str, int]:
        self.connection.send((name, path))
        try:
            if self.connection.poll(seconds):
                answer: tuple[str, int] = self.connection.recv()
                return answer
        except EOFError:
            self.process.join(10)
            return f"died with exit code {self.process.exitcode}", 0
        return f"hangs: nothing after {seconds} seconds", 0

    def outcome(self, name: str, path: Path, seconds: float) -> str:
        """What came of a file; "died", "hangs" and "takes" are followed by a new process."""
        outcome, memory = self.ask(name, path, seconds)
        if memory > self.memory + GROWTH_MB:
            outcome = f"takes {memory - self.memory} MB"
        if outcome.startswith(("died", "hangs", "takes")):
            self.stop()
            self.start()
        return outcome

    def stop(self) -> None:
        self.process.kill()
        self.process.join(10)
        self.connection.close()


@contextmanager
def child(readers: dict[str, Reader], whole: dict[str, Path]) -> Iterator[Child]:
    made = Child(readers, whole)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return whole_files(tmp_path_factory.mktemp("whole"))


def fuzz(
    folder: Path,
    files: dict[str, bytes],
    count: int,
    seed: int,
    readers: dict[str, Reader] = READERS,
    seconds: float = SECONDS,
) -> tuple[list[str], Counter[tuple[str, str]]]:
    """Reads `count` damaged files; returns what must not be, a line each, and how often each outcome was there."""
    for name, content in files.items():
        for path in (folder / name, folder / "whole" / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    names, faults, outcomes = sorted(readers), [], Counter[tuple[str, str]]()
    with child(readers, {name: folder / "whole" / name for name in readers if readers is READERS}) as reading:
        for n in range(count):
            name = names[n % len(names)]
            content = mutate(Random(f"{seed} {n}"), files[name], name)
            (folder / name).write_bytes(content)
            outcome = reading.outcome(name, folder / name, seconds)
            if outcome == "read" and has_broken_checksum(name, content, files[name]):
                outcome = "read, though a checksum is wrong"
            outcomes[name, outcome.split()[0]] += 1
            if outcome not in ("read", "refused"):
                faults.append(f"file {n} of seed {seed}, {name}: {outcome}")
            (folder / name).write_bytes(files[name])
    return faults, outcomes


def test_damaged_files(files: dict[str, bytes], tmp_path: Path) -> None:
    faults, _ = fuzz(tmp_path, files, count=150, seed=0)
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_five_thousand_damaged_files(files: dict[str, bytes], tmp_path: Path) -> None:
    faults, outcomes = fuzz(tmp_path, files, count=5000, seed=1)
    assert not faults, "\n".join(faults)
    for name in READERS:  # mutations that are always refused, or never, test little
        assert outcomes[name, "refused"] > 20, name


def _raises(path: Path) -> object:
    raise KeyError(path.name)


def _hangs(path: Path) -> object:
    time.sleep(60)
    return path


def _dies(path: Path) -> object:
    os.kill(os.getpid(), signal.SIGSEGV)
    return path


def _grows(path: Path) -> object:
    return np.ones((GROWTH_MB + 200) << 17)


def _two_lines(path: Path) -> object:
    raise InputError(f"{path.name}\nis damaged")


@pytest.mark.parametrize(
    ("name", "reader", "fault", "seconds"),
    [
        ("a.jpg", _raises, "raised .*KeyError: 'a.jpg'", 100),
        ("a.jpg", _hangs, "hangs: nothing after 1 seconds", 1),
        ("a.jpg", _dies, "died with exit code -11", 100),
        ("a.jpg", _grows, r"takes \d{4} MB", 100),
        ("a.jpg", _two_lines, "more than one line", 100),
        ("a.nii.gz", str, "read, though a checksum is wrong", 100),
    ],
)
def test_planted_faults_are_found(
    name: str, reader: Reader, fault: str, seconds: float, files: dict[str, bytes], tmp_path: Path
) -> None:
    faults, _ = fuzz(tmp_path, files, count=2, seed=3, readers={name: reader}, seconds=seconds)
    assert faults
    assert re.search(fault, faults[0], re.DOTALL), faults


def test_the_same_seed_gives_the_same_files(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        assert mutate(Random("1 2"), content, name) == mutate(Random("1 2"), content, name)
