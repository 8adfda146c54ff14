"""What is measured of a class that only one of both masks holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import Case
from segdistill.imaging.classes import MaskClass
from segdistill.metrics.cases import Missed, Structure, evaluate_cases

HEIGHT, WIDTH = 12, 16


def measure(folder: Path, missed: Missed) -> dict[str, Structure]:
    """The reference holds one and both, the prediction other and both."""
    reference, predicted = (np.zeros((HEIGHT, WIDTH), np.uint8) for _ in range(2))
    reference[:3, :3], predicted[6:9, 6:9] = 1, 2
    reference[9:, 12:] = predicted[9:, 12:] = 3
    Image.fromarray(reference).save(folder / "mask.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint8)).save(folder / "image.png")
    classes = tuple(MaskClass(name, (k,)) for k, name in enumerate(("one", "other", "both"), start=1))
    case = Case("a", folder / "image.png", (folder / "mask.png",), classes=classes)
    (found,) = evaluate_cases([case], lambda _: predicted, extra=["hd95"], missed=missed)
    return found.structures


@pytest.mark.parametrize("missed", ["skip", "diagonal"])
def test_the_option_on_missed_classes_is_about_these_alone(tmp_path: Path, missed: Missed) -> None:
    found = measure(tmp_path, missed)
    assert {name: each.metrics["dice"] for name, each in found.items()} == {
        "one": 0.0,
        "other": 0.0,
        "both": 1.0,
    }
    assert found["both"].metrics["hd95"] == 0
    assert "hd95" not in found["other"].metrics
    if missed == "skip":
        assert "hd95" not in found["one"].metrics
    else:
        assert found["one"].metrics["hd95"] == pytest.approx(np.hypot(HEIGHT, WIDTH))
