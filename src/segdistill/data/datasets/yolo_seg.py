"""YOLO's text files with a polygon per line (Ultralytics' segment task): class x y x y ..., as shares of the image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, list_images
from segdistill.data.datasets.folder import split_of
from segdistill.data.shapes import Annotated, DrawnCases, Shape, draw_cases, rings_of
from segdistill.errors import InputError
from segdistill.files import shown
from segdistill.imaging.read import image_size

_MOST = 2.0
"""Coordinates above it are pixels, no shares of an image that a shape leaves."""


def _settings(folder: Path) -> Path | None:
    """The YAML file with the names of the classes."""
    files = sorted(file for end in ("*.yaml", "*.yml") for file in folder.glob(end) if file.is_file())
    return next((file for file in files if b"names:" in file.read_bytes()), None)


def _fits(folder: Path) -> bool:
    return _settings(folder) is not None and bool(_folders(folder))


def _folders(root: Path) -> list[Path]:
    """The folders of images: those beside which, or beside a folder above, lies one of labels with text files."""
    found = []
    for folder in sorted(
        child for child in (root, *root.rglob("images"), *root.rglob("images/*")) if child.is_dir()
    ):
        labels = _labels(folder)
        if labels is not None and labels.is_dir() and any(labels.glob("*.txt")):
            found.append(folder)
    return found


def _labels(images: Path) -> Path | None:
    """Where the text files of a folder of images lie: the last "images" of its path is "labels"."""
    parts = list(images.parts)
    if "images" not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:at], "labels", *parts[at + 1 :])


@register_dataset(
    "yolo_seg",
    "YOLO segmentation: a text file of polygons per image",
    how_to_get=(
        "Export 'YOLO segmentation' from an annotation tool: data.yaml with names, images/ (or images/train, "
        "train/images, ...) and labels/ of the same form."
    ),
    sign=_fits,
)
def index(path: Path, masks: str = "") -> DrawnCases:
    """Cases of YOLO's polygons; folders named train, val and test become the splits.

    Shares of the width and height lie between the corners of pixels (see `imaging.polygons`). All lines of a number are
    one class; where classes overlap the later wins. A text file without lines says that there is nothing to find; an
    image without a text file has no reference.

    Args:
        path: the folder of data.yaml, or one above it.
        masks: the folder to draw the masks into; by default index_masks in the data set's folder.

    Raises:
        InputError: no such layout, a number that names does not have, a box instead of a polygon, or a text file
            without image.
    """
    root = find_root(path, _fits, "data.yaml with names, images/ and labels/ with text files")
    settings = _settings(root)
    assert settings is not None
    names = _names(settings)
    images: list[Annotated] = []
    for folder in _folders(root):
        labels = _labels(folder)
        assert labels is not None
        texts = {file.stem: file for file in labels.glob("*.txt") if not file.name.startswith(".")}
        split = split_of(folder, root)
        for image in list_images(folder):
            text = texts.pop(image.stem, None)
            shapes = None if text is None else _shapes(text, names, image_size(image))
            images.append(Annotated(image, shapes, split, source=text))
        if texts:
            raise InputError(
                f"{next(iter(texts.values()))}: is of no image in {folder}: restore the image, or remove the text file"
            )
    return draw_cases(images, list(names.values()), Path(masks) if masks else root / "index_masks")


def _names(settings: Path) -> dict[int, str]:
    import yaml

    try:
        content: Any = yaml.safe_load(settings.read_text(encoding="utf-8-sig"))
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{settings}: is no YAML ({type(error).__name__}): export it again") from error
    names = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not all(str(key).isdecimal() for key in names):
        raise InputError(
            f"{settings}: names must be a list, or number: name, as in names: {{0: lesion}}: correct it"
        )
    return {int(key): str(names[key]) for key in sorted(names, key=int)}


def _shapes(text: Path, names: Mapping[int, str], size: tuple[int, int]) -> list[Shape]:
    try:
        lines = text.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{text}: is no text: export it again") from error
    return [
        _shape(line.split(), f"{text}: line {k}", names, size)
        for k, line in enumerate(lines, 1)
        if line.strip()
    ]


def _shape(words: list[str], where: str, names: Mapping[int, str], size: tuple[int, int]) -> Shape:
    if not words[0].isdecimal() or int(words[0]) not in names:
        raise InputError(
            f"{shown(where)} has the class {shown(words[0][:20])}, which no one named: add it to names in the YAML file"
        )
    if len(words) == 5:
        raise InputError(f"{shown(where)} is a box, not a polygon: export YOLO segmentation")
    shares = rings_of(words[1:], where)
    if shares.max() > _MOST:
        raise InputError(
            f"{shown(where)} has the coordinate {shares.max():g}: coordinates are shares of the image's width and "
            "height, 0 to 1: export YOLO segmentation"
        )
    return Shape(names[int(words[0])], (shares * (size[1], size[0]),))
