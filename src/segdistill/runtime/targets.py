"""A model file as other servers and engines take it: OpenVINO's IR, and model repositories of Triton and OVMS.

Sources: the documents of Triton (model repository, model configuration) and of OpenVINO Model Server. The layouts are
checked against what these state; no server has loaded them here.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segdistill.errors import InputError, needs
from segdistill.files import json_text
from segdistill.registry import near_names
from segdistill.runtime.engine import Engine, openvino
from segdistill.runtime.model_file import INPUT_NAME, LABEL_NAME, OUTPUT_NAME, dump_info

INFO_FILE = "segdistill.json"
"""Beside the network: what a model file holds as metadata, for whoever prepares images and reads outputs."""
MAX_BATCH = 8


def write_target(model: Path, target: str, folder: Path) -> list[Path]:
    """Writes a model file for another engine or server, the whole folder or nothing.

    Args:
        model: the model file.
        target: a name in `TARGETS`.
        folder: new, or empty. Of a server it is the repository; the model in it is named after the model file.

    Returns:
        The files.

    Raises:
        InputError: no such target, the folder has files, or the model file is none of ours.
        MissingExtra: OpenVINO is not installed, and its IR is wanted.

    >>> write_target(Path("model.onnx"), "tensorrt", Path("out"))
    Traceback (most recent call last):
    segdistill.errors.InputError: unknown target 'tensorrt': known: openvino, ovms, triton
    """
    if target not in TARGETS:
        raise InputError(f"unknown target '{target}': {near_names(target, TARGETS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: choose another folder with -o")
    engine = Engine(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        TARGETS[target](engine, re.sub(r"\W+", "_", model.stem), whole)
        if folder.exists():
            folder.rmdir()
        whole.replace(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _openvino_ir(engine: Engine, name: str, folder: Path) -> None:
    """NAME.xml and NAME.bin, with the metadata beside them."""
    with needs("OpenVINO's IR", "openvino"):
        ov = openvino()
    network = ov.Core().read_model(engine.path.read_bytes())
    ov.save_model(network, str(folder / f"{name}.xml"), compress_to_fp16=False)
    _write_info(engine, folder)


def _triton(engine: Engine, name: str, folder: Path) -> None:
    """NAME/config.pbtxt and NAME/1/model.onnx."""
    version = folder / name / "1"
    version.mkdir(parents=True)
    shutil.copy(engine.path, version / "model.onnx")
    inputs, outputs = _ports(engine)
    lines = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {MAX_BATCH}",
        *_triton_ports("input", inputs),
        *_triton_ports("output", outputs),
    ]
    (folder / name / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_info(engine, folder / name)


def _triton_ports(kind: str, ports: Sequence[tuple[str, list[int]]]) -> list[str]:
    """Shapes without the batch, which max_batch_size adds."""
    found = [
        f'  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {", ".join(map(str, shape))} ] }}'
        for name, shape in ports
    ]
    return [f"{kind} [", ",\n".join(found), "]"]


def _ovms(engine: Engine, name: str, folder: Path) -> None:
    """NAME/1/NAME.onnx, and config.json for `--config_path`; the repository is mounted as /models."""
    version = folder / name / "1"
    version.mkdir(parents=True)
    shutil.copy(engine.path, version / f"{name}.onnx")
    config = {"model_config_list": [{"config": {"name": name, "base_path": f"/models/{name}"}}]}
    (folder / "config.json").write_text(json_text(config) + "\n", encoding="utf-8")
    _write_info(engine, folder / name)


def _ports(engine: Engine) -> tuple[list[tuple[str, list[int]]], list[tuple[str, list[int]]]]:
    """Names and shapes of inputs and outputs, without the batch."""
    shape = [engine.info.preprocess.channels, *engine.info.preprocess.size]
    mask, label = engine.run_both(np.zeros((1, *shape), np.float32))
    outputs = [(OUTPUT_NAME, list(mask.shape[1:]))]
    outputs += [] if label is None else [(LABEL_NAME, list(label.shape[1:]))]
    return [(INPUT_NAME, shape)], outputs


def _write_info(engine: Engine, folder: Path) -> None:
    text: Any = json.loads(dump_info(engine.info))
    (folder / INFO_FILE).write_text(json_text(text) + "\n", encoding="utf-8")


TARGETS: dict[str, Callable[[Engine, str, Path], None]] = {
    "openvino": _openvino_ir,
    "ovms": _ovms,
    "triton": _triton,
}
