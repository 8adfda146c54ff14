"""The record in a model file: JSON in the ONNX file's metadata, written by export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segdistill.errors import InputError
from segdistill.imaging.grid import AnyPreprocess, preprocess_from_dict
from segdistill.imaging.postprocess import Postprocess
from segdistill.runtime.onnx_file import OnnxFile, read_onnx

METADATA_KEY = "segdistill"
FORMAT_VERSION = 1
"""Of the record; the oldest that is read is 1 too."""
INPUT_NAME, OUTPUT_NAME = "image", "probability"
LABEL_NAME = "label"
"""The output of a network that also classifies: probabilities (B, K) of the classes `ModelInfo.labels`."""


@dataclass(frozen=True)
class ModelInfo:
    """Everything needed to use a model file and to trace its origin.

    Attributes:
        name: shown to users.
        input_channels: channels of the network's input; those of `preprocess`.
        classes: names of the mask's classes, background first; those of `postprocess`.
        preprocess: from pixels to the network's input.
        postprocess: from probabilities to a mask.
        provenance: hashes of data, recipe and weights, teachers, versions (JSON types).
        metrics: what was measured on the test split (JSON types).
        labels: classes of the whole image, in the order of the output "label"; empty: the network only segments.
        format_version: of this record; a newer one is refused.
        self_test: what the network gives on synthetic images (`self_test.record_self_test`); empty: not recorded.

    Raises:
        InputError: channels or classes contradict the processing.

    >>> ModelInfo("demo", 3, ("background", "lesion"), Preprocess((64, 64)), Postprocess()).format_version
    1
    """

    name: str
    input_channels: int
    classes: tuple[str, ...]
    preprocess: AnyPreprocess
    postprocess: Postprocess
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    labels: tuple[str, ...] = ()
    self_test: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.input_channels != self.preprocess.channels:
            raise InputError(
                f"{self.input_channels} input channels, but preprocessing makes {self.preprocess.channels}"
            )
        if tuple(self.classes) != tuple(self.postprocess.classes):
            raise InputError(
                f"classes {self.classes} differ from those of postprocessing {self.postprocess.classes}"
            )


def dump_info(info: ModelInfo) -> str:
    """The JSON text in a model file, under `METADATA_KEY`.

    >>> info = ModelInfo("demo", 3, ("background", "lesion"), Preprocess((64, 64)), Postprocess())
    >>> parse_info(dump_info(info)) == info
    True
    """
    return json.dumps(
        {
            "format_version": info.format_version,
            "name": info.name,
            "input_channels": info.input_channels,
            "classes": list(info.classes),
            "preprocess": info.preprocess.to_dict(),
            "postprocess": info.postprocess.to_dict(),
            "provenance": dict(info.provenance),
            "metrics": dict(info.metrics),
        }
        | ({"labels": list(info.labels)} if info.labels else {})
        | ({"self_test": dict(info.self_test)} if info.self_test else {}),
        sort_keys=True,
    )


def parse_info(text: str) -> ModelInfo:
    """The reverse of `dump_info`.

    Raises:
        InputError: not such a record, or one of a newer version.

    >>> parse_info('{"format_version": 99}')
    Traceback (most recent call last):
    segdistill.errors.InputError: it has format version 99, this version reads up to 1: update segdistill
    """
    try:
        values = json.loads(text)
        version = values["format_version"]
        if not isinstance(version, int) or version < 1:
            raise InputError(f"it has format version {version!r}")
        if version > FORMAT_VERSION:
            raise InputError(
                f"it has format version {version}, this version reads up to {FORMAT_VERSION}: "
                "update segdistill"
            )
        return ModelInfo(
            name=str(values["name"]),
            input_channels=int(values["input_channels"]),
            classes=tuple(str(name) for name in values["classes"]),
            preprocess=preprocess_from_dict(values["preprocess"]),
            postprocess=Postprocess.from_dict(values["postprocess"]),
            provenance=dict(values.get("provenance", {})),
            metrics=dict(values.get("metrics", {})),
            format_version=version,
            labels=tuple(str(name) for name in values.get("labels", ())),
            self_test=dict(values.get("self_test", {})),
        )
    except KeyError as error:
        raise InputError(f"its metadata lacks {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"its metadata is damaged ({type(error).__name__})") from error


def read_info(path: str | Path) -> ModelInfo:
    """The record in a model file, without loading its network.

    Raises:
        InputError: the file is missing, damaged, not ours, or of a newer version.

    >>> read_info(__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    segdistill.errors.InputError: not a segdistill model file: ...
    """
    return info_of(read_onnx(path))


def info_of(file: OnnxFile) -> ModelInfo:
    """The record in the bytes of a model file.

    Raises:
        InputError: not ours, damaged, or of a newer version.

    >>> info_of(OnnxFile(Path("m.onnx"), b""))
    Traceback (most recent call last):
    segdistill.errors.InputError: not a segdistill model file: m.onnx is ONNX without segdistill's metadata
    """
    if METADATA_KEY not in file.metadata:
        raise InputError(f"not a segdistill model file: {file.path} is ONNX without segdistill's metadata")
    try:
        return parse_info(file.metadata[METADATA_KEY])
    except InputError as error:
        raise InputError(f"not a segdistill model file: {file.path}: {error}") from error
