from __future__ import annotations

import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from segdistill.errors import MissingExtra
from segdistill.report.charts import case_distribution, curve_names, training_curves
from segdistill.report.panels import PREDICTION, REFERENCE, draw_case, png_data_uri
from tests.report.synthetic import curves, example


def test_curves_are_valid_svg_and_deterministic() -> None:
    before = dict(mpl.rcParams)
    panels = training_curves(curves(), "student")
    assert list(panels) == ["Loss", "Validation Dice", "Learning rate"]
    for svg in panels.values():
        assert ET.fromstring(svg).tag.endswith("svg")
        assert "<metadata" not in svg
    assert "kl" in panels["Loss"]
    assert panels == training_curves(curves(), "student")
    assert dict(mpl.rcParams) == before


def test_panels_leave_out_bookkeeping_words_and_what_is_not_finite() -> None:
    rows = [
        {
            "epoch": 1,
            "step": 3,
            "seconds": 1.0,
            "stage": "a",
            "loss": float("nan"),
            "val_loss": 2,
            "best": True,
        }
    ]
    assert curve_names(rows) == {"Loss": ["val_loss"]}
    assert training_curves([]) == {}
    assert list(training_curves([{"loss": 1.0}, {"lr": 0.1}])) == ["Loss", "Learning rate"]


def test_gradients_have_panels_of_their_own() -> None:
    rows = [
        {"epoch": n, "grad/kd/a": 0.3 * n, "grad_cosine/kd/a": -0.1, "grad_weight/kd/a": 2.0} for n in (1, 2)
    ]
    names = curve_names(rows)
    assert list(names.values()) == [["grad/kd/a"], ["grad_cosine/kd/a"]]
    assert all("supervised" in svg for svg in training_curves(rows).values())


def test_names_are_text_not_markup_nor_mathematics() -> None:
    svg = training_curves([{"epoch": 1, "_$a$ <b>": 1.0, "loss": 2.0}], 'x" onload="y')["Loss"]
    ET.fromstring(svg)
    assert "$a$ &lt;b&gt;" in svg
    assert ' onload="' not in svg
    ET.fromstring(case_distribution({"$x_1^": [0.5], "<i>": []}, "a & b"))


def test_distribution_keeps_a_colour_per_stage() -> None:
    both = case_distribution({"one": [0.2, 0.8, 0.9], "two": [0.5]}, "all")
    second = case_distribution({"one": [], "two": [0.5]}, "all")
    assert "#0072b2" in both
    assert "#d55e00" in both
    assert "#0072b2" not in second
    assert "#d55e00" in second


def test_ids_of_two_charts_do_not_meet() -> None:
    import re

    panels = [*training_curves(curves(), "a").values(), *training_curves(curves(), "b").values()]
    ids = [name for svg in panels for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in panels:
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) <= set(re.findall(r' id="([^"]+)"', svg))


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="report"):
        training_curves(curves())


def test_a_case_shows_both_contours_at_one_thickness() -> None:
    shown = example("a")
    drawn = draw_case(shown.pixels, shown.reference, shown.prediction, longest=120)
    assert drawn.shape == (80, 120, 3)
    assert drawn.dtype == np.uint8
    green, orange = ((drawn == colour).all(axis=-1) for colour in (REFERENCE, PREDICTION))
    assert green.any()
    assert orange[40, 40] or orange[40, 41]  # left edge of the prediction, column 10 of 30
    assert orange[40, 38:44].sum() == 2
    nothing = np.zeros_like(shown.prediction)
    plain = draw_case(shown.pixels, nothing, nothing)
    assert (plain[..., 0] == plain[..., 1]).all()
    assert not (draw_case(shown.pixels, nothing, shown.prediction) == REFERENCE).all(axis=-1).any()


def test_data_uri_keeps_contours_exact_and_greys_close() -> None:
    import base64
    import io

    from PIL import Image

    def back(pixels: np.ndarray) -> np.ndarray:
        encoded = png_data_uri(pixels).removeprefix("data:image/png;base64,")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))

    shown = example("a")
    drawn = draw_case(shown.pixels, shown.reference, shown.prediction)
    result = back(drawn)
    contour = (drawn == PREDICTION).all(axis=-1)
    assert (result[contour] == PREDICTION).all()
    assert np.abs(result.astype(int) - drawn).max() <= 2
    colourful = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(back(colourful), colourful)
