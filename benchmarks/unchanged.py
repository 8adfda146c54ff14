"""Whether a change of the code changed a result: every weight, number and exported tensor of tiny runs, to the bit.

`--record FILE.json` trains the recipes of RECIPES at tiny size on synthetic data and records the results; `--check
FILE.json` trains them again and lists what differs (exit code 1). Bits depend on the processor and on the versions of
libraries, which the file lists too. Names that changed since are translated by docs/results/data/house-names.json.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

# Old names -> new names, applied to the recorded side: of stages, of outputs of a model file, and of columns of
# metrics.csv, classification.csv and evaluation.json; and patterns (re.sub, one after the other) in the columns of
# curves.csv, which hold names of stages, in the names of parameters, and in those of a model file's tensors.
NAMES = json.loads((ROOT / "docs" / "results" / "data" / "house-names.json").read_text(encoding="utf-8"))

# Where a run leaves its results.
STAGE_FOLDER, MODEL_FILE, SUMMARY = "stages", "model.onnx", "evaluation.json"
TABLES = ("metrics.csv", "classification.csv", "curves.csv")
CLOCKS = {"seconds", "wait_share"}  # columns of curves.csv that no two runs share
LATER = (
    "grad",
    "set_weight",
)  # what columns begin with that only measure, and were not there when it was recorded
PARTS = ("summary", "pooled", "calibration", "robustness", "classification")  # of evaluation.json
COSTS = ("parameters", "macs")

PACKAGES = (
    *("torch", "numpy", "albumentations", "opencv-python-headless", "Pillow", "scipy", "monai"),
    *("lightning-fabric", "onnx", "onnxscript", "onnxruntime"),
)
PICTURES = 10  # run through a model file
SHOWN = 20  # differences of a recipe
Pixels = NDArray[np.uint8]
Values = dict[str, str]  # name -> what it holds, in short


class Small(NamedTuple):
    """A recipe at tiny size: its name in the code, synthetic data, stages (with commas between), settings."""

    recipe: str
    data: str  # name of a function below; empty where the recipe draws its own
    stages: str  # empty for those that the recipe runs
    settings: Iterable[str]


def each(stages: str, *settings: str) -> list[str]:
    """The same settings for several stages."""
    return [f"stages.{stage}.{setting}" for stage in stages.split(",") for setting in settings]


TINY = ("epochs=8", "batch_size=4", "precision=fp32", "fit.workers=0", "size=64")
GIVEN = (*TINY, "data.split.method=given")
CACHED = ("cache=true", "fit.views=2")
METRICS = "voe, voe_emkd, voe_printed, sensitivity, hd95, msd, rmse_boundary, rmse_map, box_iou, box_dice"
SPECIALISTS = "benign_teacher,malignant_teacher"
US_SEG = "us_seg,stage_1,stage_2,stage_3,deep,finest_critic"

RECIPES: dict[str, Small] = {
    "demo": Small(  # the name under which it is recorded; `demo` is another recipe since
        "lightbtseg/phantom",
        "",
        "",
        [
            *(*TINY, "data.phantoms=30", *each(SPECIALISTS, "model.base=8")),
            *("evaluation.calibration=true", "evaluation.robustness=[student]"),
        ],
    ),
    "lightbtseg/cpu": Small(
        "lightbtseg/cpu",
        "lesions",
        f"{SPECIALISTS},all_teacher,student,student_single,baseline",
        [
            *(*GIVEN, f"evaluation.metrics=[{METRICS}]"),
            *each(f"{SPECIALISTS},all_teacher", "model.base=8"),
            *each("student", *CACHED),
        ],
    ),
    "amtd/cpu": Small(
        "amtd/cpu",
        "volumes",
        "enet_baseline,espnet_baseline,mobilenet_baseline,enet_one,espnet_one,mobilenet_one,"
        "enet_multi,espnet_multi,mobilenet_multi,enet_uniform,espnet_uniform",
        [
            *(*GIVEN, "epochs=3", "evaluation.metrics=[voe, voe_emkd, hd95, msd]"),
            *each("t1,t2,t3", "fit.epochs=8"),
            *each("t1,t2", "model.widths=[8, 8, 16, 16]"),
            *each("t3", "model.base=8"),
            *each("enet_multi,espnet_uniform", *CACHED),
        ],
    ),
    "lightvessel/cpu": Small(
        "lightvessel/cpu",
        "vessels",
        "",
        [
            *(*GIVEN, "epochs=3", "lr=0.005", "evaluation.threshold=0.3"),
            *each("teacher", "model.widths=[8, 8, 16, 16]", "fit.epochs=8"),
            *each("teacher_codes,student_codes,enet_codes,erfnet_codes", "fit.epochs=2"),
            *each("enet", *CACHED),
        ],
    ),
    "usseg/cpu": Small(
        "usseg/cpu",
        "lesions",
        f"{US_SEG},plain",
        [
            *(*GIVEN, "lr=0.005"),
            *each(US_SEG, "adversarial.width=4"),
            *each(f"{US_SEG},plain", "model.widths=[8, 8, 16, 16, 16]"),
        ],
    ),
    "lanet/cpu": Small(
        "lanet/cpu",
        "lesions",
        "",
        [
            *(*GIVEN, "data.split.counts=null", "lr=0.003"),
            *each("locate,lanet,locate_half,lanet_half,resnet18,rmtl,rmtl_half", "model.base=8"),
            *each("locate,locate_half", "fit.epochs=2"),
        ],
    ),
}


def run_recipe(name: str, overrides: Iterable[str], data: Path | None, out: Path, stages: str = "") -> None:
    """Trains, evaluates and exports a recipe into `out`: the one place that calls segdistill.

    Raises:
        SystemExit: the run failed; its messages are shown.
    """
    command = [sys.executable, "-m", "segdistill.cli.main", "run", name, "--device", "cpu", "--out", str(out)]
    command += ["--data", str(data)] if data is not None else []
    command += ["--stages", stages] if stages else []
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    surroundings = dict(os.environ) | dict.fromkeys(threads, "1")
    surroundings.pop("SEGDISTILL_DATA", None)
    if (ROOT / "src").is_dir():
        surroundings["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run([*command, "--set", *overrides], env=surroundings, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")


# ---- synthetic data, without segdistill


def grey(rng: np.random.Generator, level: NDArray[Any]) -> Pixels:
    """A picture around a level, with speckle of two pixels."""
    height, width = level.shape
    field = rng.random((height + 1, width + 1))
    noise = field[:-1, :-1] + field[1:, :-1] + field[:-1, 1:] + field[1:, 1:]
    return (level + 20 * (noise - 2)).clip(0, 255).astype(np.uint8)


def lesion(seed: int, label: str, height: int, width: int) -> tuple[Pixels, Pixels]:
    """A picture and its mask: an ellipse, bright below it or in shadow (malignant); nothing where it is normal."""
    rng = np.random.default_rng([seed, len(label)])
    y, x = np.indices((height, width))
    middle = rng.uniform(0.35, 0.65, 2) * (height, width)
    radius = rng.uniform(0.12, 0.25, 2) * (height, width)
    mask = ((y - middle[0]) / radius[0]) ** 2 + ((x - middle[1]) / radius[1]) ** 2 < 1
    mask &= label != "normal"
    below = mask.any(0)[None, :] & (y > middle[0]) & ~mask
    level = 150 - 80 * mask - (60 if label == "malignant" else -40) * below
    return grey(rng, level), mask.astype(np.uint8) * 255


def vessel(seed: int, side: int) -> tuple[Pixels, Pixels]:
    """An angiogram and its mask: dark lines of five pixels, which wander from left to right."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), np.uint8)
    for _ in range(4):
        row = int(rng.integers(side // 5, 4 * side // 5))
        for column, step in enumerate(rng.integers(-1, 2, side)):
            row = min(max(row + int(step), 1), side - 5)
            mask[row : row + 5, column] = 255
    return grey(rng, 170 - 100 * (mask > 0)), mask


def write_volume(path: Path, voxels: NDArray[Any]) -> None:
    """MetaImage: a header in words, the voxels beside it."""
    size = " ".join(str(length) for length in reversed(voxels.shape))
    kind = {"int16": "MET_SHORT", "uint8": "MET_UCHAR"}[voxels.dtype.name]
    raw = path.with_suffix(".raw")
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 0.6 0.5 3.0\n"
        f"DimSize = {size}\nElementType = {kind}\nElementDataFile = {raw.name}\n"
    )
    path.write_text(header, encoding="utf-8")
    raw.write_bytes(voxels.tobytes())


def lesions(folder: Path) -> list[Values]:
    """Pictures of several sizes with groups, labels, sites, and a box in place of a mask here and there."""
    rows = []
    for number, label in enumerate([*("benign", "malignant") * 10, "normal", "normal"]):
        pixels, mask = lesion(number, label, 72 + 4 * (number % 3), 80 - 6 * (number % 4))
        name, patient = f"c{number}", number // 4
        Image.fromarray(pixels).save(folder / f"{name}.png")
        row = {"id": name, "image": f"{name}.png", "label": label, "spacing_mm": "0.2 0.15"}
        row |= {"group": f"patient{patient}", "site": "AB"[patient % 2]}
        row["split"] = ("train", "train", "train", "val", "test", "test")[patient]
        if number in (2, 5):
            down, along = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            row["box"] = f"{along[0]} {down[0]} {along[-1] + 1} {down[-1] + 1}"
        elif label != "normal":
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
            row["masks"] = f"{name}_mask.png"
        rows.append(row)
    return rows


def volumes(folder: Path) -> list[Values]:
    """Volumes of five slices, empty at both ends, of AMTD's three sites; two of each site are of one patient."""
    rows = []
    for number, site in enumerate(site for site in ("RUNMC", "UCL", "BIDMC") for _ in range(4)):
        kinds = ("normal", "benign", "benign", "benign", "normal")
        drawn = [lesion(10 * number + k, kind, 72, 64 + 8 * (number % 2)) for k, kind in enumerate(kinds)]
        name, place = f"{site.lower()}{number}", number % 4
        write_volume(folder / f"{name}.mhd", np.stack([pixels for pixels, _ in drawn]).astype(np.int16) * 3)
        write_volume(folder / f"{name}_mask.mhd", np.stack([mask for _, mask in drawn]) // 255)
        row = {"id": name, "image": f"{name}.mhd", "masks": f"{name}_mask.mhd", "site": site}
        row |= {"group": f"{site}{max(place, 1)}", "label": "benign"}
        rows.append(row | {"split": ("train", "train", "val", "test")[place]})
    return rows


def vessels(folder: Path) -> list[Values]:
    """Angiograms of 112x112, of which patches are cut."""
    rows = []
    for number in range(7):
        pixels, mask = vessel(number, 112)
        name, split = f"v{number}", ("train", "train", "train", "train", "val", "test", "test")[number]
        Image.fromarray(pixels).save(folder / f"{name}.png")
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
        row = {"id": name, "image": f"{name}.png", "masks": f"{name}_mask.png", "split": split}
        rows.append(row | {"group": f"{split}{number // 2}", "label": "stenosis", "site": "A"})
    return rows


def write_data(kind: str, folder: Path) -> Path:
    """Files of a kind, and the case table of them."""
    folder.mkdir(parents=True)
    rows = {"lesions": lesions, "volumes": volumes, "vessels": vessels}[kind](folder)
    with open(folder / "cases.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", *sorted({name for row in rows for name in row} - {"id"})])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "cases.csv"


# ---- what came out


def sha(content: bytes | Iterable[str]) -> str:
    """The first 96 bits of a SHA-256, in base 64; of texts, of all with line breaks between."""
    raw = content if isinstance(content, bytes) else "\n".join(content).encode()
    return base64.b64encode(hashlib.sha256(raw).digest()[:12]).decode()


def form(values: NDArray[Any]) -> str:
    """Type and shape, as float32[1,3]."""
    return f"{values.dtype}{list(values.shape)}".replace(" ", "")


def packed(values: Values) -> Values:
    """The tensors of one module in one line: {"encoder.norm": "weight F32[8] ab; bias F32[8] cd"}."""
    modules: dict[str, list[str]] = {}
    for name, value in values.items():
        module, _, last = name.rpartition(".")
        modules.setdefault(module, []).append(f"{last} {value}")
    return {module: "; ".join(parts) for module, parts in modules.items()}


def unpacked(modules: Values) -> Values:
    """The reverse of `packed`."""
    parts = [(module, *part.split(" ", 1)) for module, line in modules.items() for part in line.split("; ")]
    return {f"{module}.{last}" if module else last: value for module, last, value in parts}


def weights(folder: Path) -> Values:
    """Name -> type, shape and hash of every tensor of every weight file of a stage."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        content = file.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            first, last = (start + offset for offset in tensor["data_offsets"])
            what = f"{tensor['dtype']}{tensor['shape']}".replace(" ", "")
            found[name if file.stem == "weights" else f"{file.stem}/{name}"] = (
                f"{what} {sha(content[first:last])}"
            )
    return found


def columns(file: Path) -> Values:
    """Name -> number of rows, mean (of numbers) and hash of the written text of every column of a table."""
    with open(file, newline="", encoding="utf-8") as lines:
        names, *rows = csv.reader(lines)
    found = {}
    for i, name in enumerate(names):
        texts = [row[i] for row in rows]
        try:
            mean = f" {math.fsum(float(text) for text in texts if text) / sum(map(bool, texts)):.4g}"
        except (ValueError, ZeroDivisionError):
            mean = ""
        if name not in CLOCKS and not name.startswith(LATER):
            found[name] = f"{len(texts)}{mean} {sha(texts)}"
    return found


def leaves(content: Any) -> list[str]:
    """Every number and word of a JSON value as text, in its order."""
    if not isinstance(content, dict | list):
        return [json.dumps(content)]
    parts = content.values() if isinstance(content, dict) else content
    return [text for part in parts for text in leaves(part)]


def summary(file: Path) -> Values:
    """Part -> count and hash of what was measured of a stage as a whole; the size of its network."""
    content = json.loads(file.read_text(encoding="utf-8"))
    texts = {part: leaves(content[part]) for part in PARTS if content.get(part)}
    costs = {name: f"1 {content['cost'][name]}" for name in COSTS if name in content.get("cost", {})}
    return {part: f"{len(found)} {sha(found)}" for part, found in texts.items()} | costs


def initialisers(file: Path) -> Values:
    """Name -> type, shape and hash of every tensor of a model file."""
    import onnx

    tensors = onnx.load(str(file)).graph.initializer
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    return {name: f"{form(values)} {sha(values.tobytes())}" for name, values in arrays.items()}


def outputs(file: Path) -> Values:
    """Name -> type, shape, mean and hash of the outputs of a model file for synthetic pictures, one after the other."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    taken, names = session.get_inputs()[0], [output.name for output in session.get_outputs()]
    channels, height, width = taken.shape[1:]
    runs = []
    for number in range(PICTURES):
        pixels, _ = lesion(1000 + number, ("benign", "malignant")[number % 2], height, width)
        image = np.repeat(pixels[None, None].astype(np.float32) / 255, channels, axis=1)
        runs.append(session.run(names, {taken.name: image}))
    joined = {name: np.concatenate(parts) for name, parts in zip(names, zip(*runs, strict=True), strict=True)}
    return {
        name: f"{form(values)} {values.mean():.4g} {sha(values.tobytes())}" for name, values in joined.items()
    }


def outcome(name: str, work: Path) -> dict[str, Any]:
    """Runs one of RECIPES and gives everything that it left."""
    small, out = RECIPES[name], work / "runs" / "run"
    data = write_data(small.data, work / "data") if small.data else None
    run_recipe(small.recipe, small.settings, data, out, small.stages)
    found: dict[str, Any] = {"tensors": {}, "numbers": {}}
    for folder in sorted(path for path in (out / STAGE_FOLDER).iterdir() if path.is_dir()):
        found["tensors"][folder.name] = packed(weights(folder))
        found["numbers"][folder.name] = {
            table: (summary if table == SUMMARY else columns)(folder / table)
            for table in (*TABLES, SUMMARY)
            if (folder / table).exists()
        }
    if (out / MODEL_FILE).exists():
        found["initialisers"] = packed(initialisers(out / MODEL_FILE))
        found["outputs"] = outputs(out / MODEL_FILE)
    return found


# ---- comparison


def commit() -> str:
    """The commit of the code that runs, with "+" where tracked files were changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def platform_facts() -> Values:
    """Processor and versions: what the bits depend on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = [line.partition(":") for line in text.split("\n\n")[0].splitlines()]
    known = {name.strip(): value.strip() for name, _, value in lines}
    about = ("model name", "cpu family", "model", "stepping")
    wide = sorted(flag for flag in known.get("flags", "").split() if re.match("avx|fma|amx|sse4", flag))
    facts = {
        "processor": ", ".join(f"{name} {known[name]}" for name in about if name in known) or "unknown",
        "vector instructions": " ".join(wide),
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    installed = {found.metadata["Name"].lower(): found.version for found in metadata.distributions()}
    return facts | {package: installed.get(package.lower(), "not installed") for package in PACKAGES}


def elsewhere(record: Path) -> list[str]:
    """What this machine has other than the one that recorded, one line each; bits may then differ."""
    before, here = json.loads(record.read_text(encoding="utf-8"))["platform"], platform_facts()
    return [
        f"{name} was {before.get(name)}, is {here[name]}" for name in here if before.get(name) != here[name]
    ]


def new_name(name: str, names: Mapping[str, str] | list[list[str]]) -> str:
    """The name of today."""
    if not isinstance(names, list):
        return names.get(name, name)
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return name


def flat(found: Mapping[str, Any], translate: bool) -> dict[str, Values]:
    """Tensors, numbers, and the content of a model file, each under one name; with `translate` the name of today."""
    new = new_name if translate else lambda name, _: name
    stages = {stage: new(stage, NAMES["stages"]) for stage in {*found["tensors"], *found["numbers"]}}
    named: dict[str, list[tuple[str, str]]] = {
        "tensors": [
            (f"{stages[stage]}: {new(name, NAMES['tensors'])}", value)
            for stage, modules in found["tensors"].items()
            for name, value in unpacked(modules).items()
        ],
        "numbers": [
            (
                f"{stages[stage]}: {table}: {new(name, NAMES['curves' if table == 'curves.csv' else 'columns'])}",
                value,
            )
            for stage, tables in found["numbers"].items()
            for table, values in tables.items()
            for name, value in values.items()
        ],
        "of the model file": [
            *(
                (f"{MODEL_FILE}: {new(name, NAMES['initialisers'])}", value)
                for name, value in unpacked(found.get("initialisers", {})).items()
            ),
            *(
                (f"{MODEL_FILE}: output {new(name, NAMES['outputs'])}", value)
                for name, value in found.get("outputs", {}).items()
            ),
        ],
    }
    for pairs in named.values():
        if len(dict(pairs)) != len(pairs):
            sys.exit("the maps give two values the same name")
    return {kind: dict(pairs) for kind, pairs in named.items()}


def counts(kinds: Mapping[str, Values]) -> str:
    """How much there is of each kind; of a column its rows count."""
    sizes = {kind: len(values) for kind, values in kinds.items()}
    sizes["numbers"] = sum(int(value.split()[0]) for value in kinds["numbers"].values())
    return ", ".join(f"{size} {kind}" for kind, size in sizes.items())


def differences(before: Mapping[str, Values], now: Mapping[str, Values]) -> list[str]:
    """One line for each value that is gone, new or another."""
    lines = []
    for kind, old in before.items():
        new = now[kind]
        lines += [f"{name}: gone" for name in old if name not in new]
        lines += [f"{name}: was not there" for name in new if name not in old]
        lines += [
            f"{name}: {old[name]} -> {new[name]}" for name in old if new.get(name, old[name]) != old[name]
        ]
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path, metavar="FILE", help="write what the code computes")
    what.add_argument("--check", type=Path, metavar="FILE", help="compare with what was recorded")
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    parser.add_argument(
        "--work", type=Path, help="a new folder in which the runs are kept; else they are removed"
    )
    given = parser.parse_args()
    before = json.loads(given.check.read_text(encoding="utf-8"))["recipes"] if given.check else {}
    for line in elsewhere(given.check) if given.check else ():
        print(f"note: {line}: bits may differ", file=sys.stderr)
    found, differs = {}, False
    with tempfile.TemporaryDirectory(prefix="unchanged-") as temporary:
        for name in given.recipe:
            began = time.monotonic()
            found[name] = outcome(name, (given.work or Path(temporary)) / name.replace("/", "-"))
            now = flat(found[name], translate=False)
            lines = differences(flat(before[name], translate=True), now) if given.check else []
            state = "recorded" if given.record else f"{len(lines)} differ" if lines else "unchanged"
            print(f"{name}: {counts(now)}: {state}", *lines[:SHOWN], sep="\n  ", flush=True)
            print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            differs |= bool(lines)
    if given.record:
        content = {"platform": {"commit": commit()} | platform_facts(), "recipes": found}
        given.record.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")
    sys.exit(differs)


if __name__ == "__main__":
    main()
