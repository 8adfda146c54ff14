"""What a stage's folder holds of the classes of whole images: the answers, and where the network looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segdistill.evaluation.classification_results import Classified, read_classification_csv

CLASSIFICATION_FILE = "classification.csv"
CAM_FOLDER = "grad_cam"


@dataclass(frozen=True)
class ClassReport:
    """What one stage says of whole images.

    Attributes:
        classes: in the order of its answers.
        rows: one per test case.
        pictures: case -> PNG of its Grad-CAM.
    """

    classes: Sequence[str]
    rows: Sequence[Classified]
    pictures: dict[str, bytes] = field(default_factory=dict)


def read_class_report(folder: Path) -> ClassReport | None:
    """What lies in a stage's folder; None for a stage that classifies nothing.

    >>> read_class_report(Path("nowhere")) is None
    True
    """
    classes, rows = read_classification_csv(folder / CLASSIFICATION_FILE)
    if not rows:
        return None
    pictures = {path.stem: path.read_bytes() for path in sorted((folder / CAM_FOLDER).glob("*.png"))}
    return ClassReport(classes, rows, pictures)


def file_stem(case: str) -> str:
    """A case's id as the name of a file.

    >>> file_stem("scan/frame 1")
    'scan_frame 1'
    """
    return case.replace("/", "_").replace("\\", "_")
