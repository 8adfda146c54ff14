"""A folder that holds its own case table, as `data export` writes it."""

from __future__ import annotations

from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root
from segdistill.data.table import read_cases

NAME = "cases.csv"


@register_dataset(
    "table",
    "A folder with its own case table (cases.csv), as data export writes it",
    how_to_get=(
        "Write one with data export index, palette, seg_nrrd, dicom_seg or rtstruct, or with data pack. Classes, "
        "splits and groups are those of the table."
    ),
)
def index(path: Path) -> list[Case]:
    """The cases of the table cases.csv in the folder.

    Args:
        path: the folder, or one above it.

    Raises:
        InputError: no such table, several, or one that cannot be read.
    """
    root = find_root(path, lambda folder: (folder / NAME).is_file(), f"a case table, {NAME}")
    return read_cases(root / NAME)
