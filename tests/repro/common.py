"""What the fault scripts share: small made inputs, the command line in a process of its own, and the
verdict.

A script is one fault that a user meets. It prints `FAULT: ...` (exit 1) while the product has the fault and
`OK: ...` (exit 0) once it is mended. First it runs its control, the same data without the fault: where that
fails, it prints `CONTROL FAILED: ...` (exit 3), and its verdict means nothing. Where the script itself
breaks, it prints `BROKEN: ...` (exit 4). The product is only called through its command line and through
files that it documents.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SOURCE = Path(__file__).resolve().parents[2] / "src"
COMMAND = (sys.executable, "-m", "segdistill.cli.main")
TIMEOUT = 120.0  # seconds that one call may take
FAULT, OK, CONTROL_FAILED, BROKEN = 1, 0, 3, 4

TINY = """\
name: tiny
data: {size: 32, channels: 1}
fit: {epochs: 2, batch_size: 4, precision: fp32, workers: 0}
stages:
  teacher: {role: teacher, model: {name: simplified_unet, widths: [4, 8, 8]}}
  student:
    role: student
    task: distillation
    model: {name: simplified_unet, widths: [2, 4, 4]}
    teachers: {teacher: {}}
    methods: {soft_prediction: {}}
export: student
"""
"""A recipe that trains in a second: a teacher and a student of a few channels."""

TEACHER_ONLY = """\
name: tiny
data: {size: 32, channels: 1}
fit: {epochs: 1, batch_size: 4, precision: fp32, workers: 0}
stages:
  teacher: {role: teacher, model: {name: simplified_unet, widths: [2, 4, 4]}}
export: teacher
"""
"""The same with one network, where nothing is to be distilled."""


@dataclass(frozen=True)
class Verdict:
    """What a script found."""

    fault: bool
    what: str


class ControlFailed(Exception):
    """The same data without the fault did not succeed either."""


@dataclass(frozen=True)
class Answer:
    """What one call of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that was printed."""
        return self.out + self.err

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return (self.err.strip().splitlines() or [""])[-1]

    @property
    def crashed(self) -> bool:
        """Whether it ended in a traceback or by a signal."""
        return "Traceback" in self.err or self.code < 0


def script(check: Callable[[], Verdict]) -> None:
    """Runs a check in a new folder, prints its verdict and ends the process with its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            found = check()
            line, code = ("FAULT" if found.fault else "OK") + f": {found.what}", FAULT if found.fault else OK
        except ControlFailed as error:
            line, code = f"CONTROL FAILED: {error}", CONTROL_FAILED
        except Exception as error:
            traceback.print_exc()
            line, code = f"BROKEN: {type(error).__name__}: {error}", BROKEN
        os.chdir(os.path.dirname(folder))
    print(" ".join(line.replace(folder, ".").split()))
    sys.exit(code)


def control(holds: object, what: str) -> None:
    """Ends the script unless the same data without the fault succeed."""
    if not holds:
        raise ControlFailed(what)


def control_call(*words: object) -> Answer:
    """A call that must succeed for the verdict to mean anything."""
    answer = segdistill(*words)
    named = " ".join(map(str, words))
    control(answer.code == 0, f"{named}: exit code {answer.code}: {answer.last}")
    return answer


def surroundings() -> dict[str, str]:
    """The environment of a call: this repository's source, one thread."""
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def segdistill(*words: object, timeout: float = TIMEOUT, **options: Any) -> Answer:
    """One call of the command line, in the current folder."""
    done = subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        env=surroundings(),
        check=False,
        **options,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def start(*words: object, log: str = "log") -> subprocess.Popen[bytes]:
    """A call that goes on beside the script; what it prints goes to the file `log`. Ctrl-C reaches it."""

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with open(log, "wb") as file:
        return subprocess.Popen(
            [*COMMAND, *map(str, words)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=surroundings(),
            preexec_fn=listen,
        )


def show(what: str, answer: Answer) -> None:
    """Prints one line about a call, for whoever reads the script's output."""
    line = answer.last or (answer.out.strip().splitlines() or [""])[-1]
    print(f"{what}: exit code {answer.code}: {line[:200]!r}")


def mentions(text: str, words: Iterable[str]) -> bool:
    """Whether a text holds one of these words, whatever their case. Paths in it do not count."""
    lower = " ".join(part for part in text.lower().split() if "/" not in part)
    return any(word.lower() in lower for word in words)


def warns_of(text: str, words: Iterable[str]) -> bool:
    """Whether a warning in a text holds one of these words."""
    return mentions("\n".join(line for line in text.splitlines() if "warning: " in line.lower()), words)


def save(array: NDArray[Any], path: str | Path, **options: Any) -> Path:
    """Writes pixels as a picture; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def noise(seed: int, height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    """A grey picture that is like no other."""
    return np.random.default_rng(seed).integers(0, 255, (height, width), dtype=np.uint8)


def box_mask(
    top: int, bottom: int, left: int, right: int, value: int = 255, side: int = 64
) -> NDArray[np.uint8]:
    """A square mask with one rectangle of foreground."""
    mask = np.zeros((side, side), np.uint8)
    mask[top:bottom, left:right] = value
    return mask


def dataset(folder: str, count: int = 12, lesions: int | None = None) -> None:
    """Pictures with a bright lesion in the first `lesions` of them (None: in all) and their masks."""
    rng = np.random.default_rng(0)
    for n in range(count):
        picture, mask = rng.integers(0, 80, (64, 64), dtype=np.uint8), np.zeros((64, 64), np.uint8)
        if lesions is None or n < lesions:
            y, x = 6 + 3 * n % 40, 5 + 5 * n % 40
            picture[y : y + 14, x : x + 16] += 120
            mask[y : y + 14, x : x + 16] = 255
        save(picture, f"{folder}/images/{n}.png")
        save(mask, f"{folder}/masks/{n}.png")


def rows_of(table: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def write_rows(table: str | Path, rows: Sequence[dict[str, str]]) -> None:
    """Writes the rows of a CSV table."""
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def packed(table: str, folder: str, size: int) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Case -> (pixels, mask) as the product reads them: `data pack` writes both, at their own size up to `size`."""
    control_call("data", "pack", table, "--size", size, "-o", folder)
    found = {}
    for row in rows_of(f"{folder}/cases.csv"):
        pixels = np.asarray(Image.open(Path(folder) / row["image"]))
        found[row["id"]] = (pixels, np.asarray(Image.open(Path(folder) / row["masks"])) > 0)
    return found


def dice_of(model: Path, table: str) -> float:
    """Mean Dice of a model file on all cases of a table; the call must succeed."""
    answer = control_call("evaluate", model, table, "--split", "all", "--json")
    return float(json.loads(answer.out)["summary"]["all"]["dice"]["mean"])


def model_proto(
    size: tuple[int, int] = (32, 48),
    nodes: Sequence[Any] = (),
    initializers: Sequence[Any] | None = None,
    functions: Sequence[Any] = (),
    opsets: Sequence[Any] = (),
    softmax: bool = True,
) -> Any:
    """A model file of one convolution (bright is lesion) as an ONNX message.

    `nodes` and `initializers` make its bias, the tensor "b", in place of the plain one.
    """
    from onnx import TensorProto, helper, numpy_helper

    weight = np.zeros((2, 3, 1, 1), np.float32)
    weight[1] = 20 / 3
    plain = [numpy_helper.from_array(np.array([0, -10], np.float32), "b")]
    last: tuple[str, dict[str, Any]] = ("Softmax", {"axis": 1}) if softmax else ("Identity", {})

    def value(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, "height", "width"])

    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("Conv", ["image", "w", "b"], ["l"]),
            helper.make_node(last[0], ["l"], ["probability"], **last[1]),
        ],
        "g",
        [value("image", 3)],
        [value("probability", 2)],
        [numpy_helper.from_array(weight, "w"), *(plain if initializers is None else initializers)],
    )
    imports = [helper.make_opsetid("", 17), *opsets]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))
    classes = ["background", "lesion"]
    info = {
        "format_version": 1,
        "name": "bright",
        "input_channels": 3,
        "classes": classes,
        "preprocess": {"size": list(size), "colour": "grey", "channels": 3, "mean": [0.0], "std": [1.0]},
        "postprocess": {"threshold": 0.5, "classes": classes},
        "provenance": {"recipe": "-"},
        "metrics": {"dice": 0.5},
    }
    helper.set_model_props(model, {"segdistill": json.dumps(info)})
    return model


def model_file(path: str = "model.onnx", size: tuple[int, int] = (32, 48), **options: Any) -> Path:
    """Writes `model_proto`."""
    target = Path(path)
    target.write_bytes(model_proto(size, **options).SerializeToString())
    return target


def dicom_slice(
    path: str | Path,
    number: int,
    orientation: Sequence[str] = ("1", "0", "0", "0", "1", "0"),
    preamble: bool = True,
    **tags: Any,
) -> None:
    """A CT slice of 32 x 40 pixels; slice `number` lies 3 mm times its number above the first."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"1.2.{number + 1}"
    data.SeriesInstanceUID, data.Modality = "1.2.3", "CT"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 32, 40, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelSpacing, data.ImageOrientationPatient = ["0.9", "0.8"], list(orientation)
    data.ImagePositionPatient = ["0", "0", str(3 * number)]
    data.PixelData = np.random.default_rng(number).integers(0, 2000, (32, 40)).astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    if not preamble:
        data.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        return
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(path, enforce_file_format=True)


def nifti(
    voxels: NDArray[Any], path: str | Path, affine: NDArray[Any] | Sequence[float] = (1, 1, 2, 1)
) -> Path:
    """Writes voxels (columns, rows, slices) as NIfTI in millimetres; an affine, or its diagonal."""
    import nibabel

    path, matrix = Path(path), np.asarray(affine, float)
    path.parent.mkdir(parents=True, exist_ok=True)
    make: Any = nibabel.Nifti1Image
    image = make(voxels, np.diag(matrix) if matrix.ndim == 1 else matrix)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path
