"""The papers' figures with our numbers and our images, drawn from the tables of `compare_with_paper`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segdistill.config.schema import parse_data
from segdistill.data.case import select
from segdistill.data.table import read_cases
from segdistill.experiment.results import fold_folder, read_recipe
from segdistill.files import write_text
from segdistill.metrics.cases import read_metrics_csv
from segdistill.report.charts import grouped_bars
from segdistill.report.examples import Example, Shown, choose_examples, predict_shown, read_shown
from segdistill.report.panels import draw_case

SERIES = {"paper": "ours, paper's size", "cpu": "ours, CPU size"}
TILE, HEAD = 240, 16


def draw_figures(tables: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[Path]:
    """Draws the figures of tables: bars as SVG, with the paper's numbers where it prints them, and overlays as PNG.

    An overlay has a row for the best, the median and the worst test image of the last measured row, and a column for
    each row of the table; contours are green for the reference and orange for the prediction. They are ours only.

    Args:
        tables: from `compare_with_paper`.
        folder: to write to.

    Yields:
        Each file.

    Raises:
        InputError: an image of a run cannot be read, or the file cannot be written.
        MissingExtra: matplotlib is not installed.

    >>> list(draw_figures([], Path("figures")))
    []
    """
    for table in tables:
        if table["figure"]:
            for metric in table["metrics"]:
                values = bars(table, metric)
                title = f"{table['figure']}: {table['title']}"
                path = folder / f"{_slug(table['figure'])}-{_slug(metric)}.svg"
                write_text(path, grouped_bars(values, title, metric.replace(".", " ")))
                yield path
        if table["overlay"]:
            for size in SERIES:
                if (sheet := _overlay(table, size)) is not None:
                    path = folder / f"{_slug(table['overlay'])}-{_slug(table['title'])}-{size}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(sheet)
                    yield path


def bars(table: Mapping[str, Any], metric: str) -> dict[str, dict[str, float | None]]:
    """Row -> the paper's number and ours at both sizes.

    >>> cell = {"values": {"dice": 0.7}}
    >>> row = {"name": "KD", "published": {"dice": 0.8}, "ours": {"paper": {"values": {}}, "cpu": cell}}
    >>> bars({"rows": [row]}, "dice")
    {'KD': {'paper': 0.8, "ours, paper's size": None, 'ours, CPU size': 0.7}}
    """
    return {
        row["name"]: {"paper": (row["published"] or {}).get(metric)}
        | {words: row["ours"][size]["values"].get(metric) for size, words in SERIES.items()}
        for row in table["rows"]
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]


def _overlay(table: Mapping[str, Any], size: str) -> bytes | None:
    """A sheet of images as PNG; None where no row is measured, or its images are no longer there."""
    stages = {
        row["name"]: place for row in table["rows"] if (place := _stage_folder(row["ours"][size])) is not None
    }
    shown = _shown(list(stages.values())[-1]) if stages else []
    if not shown:
        return None
    from segdistill.experiment.model import load_model

    columns = {}
    for name, place in stages.items():
        model = load_model(place)
        columns[name] = predict_shown(shown, lambda picture, own=model: own.predict(picture.pixels).mask)  # type: ignore[misc]
    return _sheet(columns)


def _stage_folder(cell: Mapping[str, Any]) -> Path | None:
    """The folder of the first training of a measured stage that has weights."""
    if cell["status"] != "measured":
        return None
    run = Path(cell["folder"])
    first = fold_folder(run, 1)
    part = first if first.is_dir() else run
    names = [cell["stage"], *sorted(path.name for path in part.glob(f"stages/{cell['stage']}@*"))]
    places = (part / "stages" / name for name in names)
    return next((place for place in places if (place / "weights.safetensors").exists()), None)


def _shown(stage: Path) -> list[Shown]:
    run = stage.parents[1]
    results = read_metrics_csv(stage / "metrics.csv") if (stage / "metrics.csv").exists() else []
    chosen = choose_examples(results, 1)
    ids = [case for kind in ("best", "median", "worst") for case in chosen[kind]]
    cases = select(read_cases(run / "cases.csv"), split="test")
    intensity = parse_data(read_recipe(run).get("data", {}), str(run)).preprocess().intensity
    return read_shown([case for case in cases if case.image.exists()], ids, intensity)


def _sheet(columns: Mapping[str, Sequence[Example]]) -> bytes:
    tiles = {
        name: [draw_case(one.pixels, one.reference, one.prediction, TILE) for one in examples]
        for name, examples in columns.items()
    }
    first = next(iter(columns.values()))
    plain = [
        draw_case(one.pixels, np.zeros_like(one.reference), np.zeros_like(one.prediction), TILE)
        for one in first
    ]
    whole: dict[str, list[NDArray[np.uint8]]] = {"image": plain, **tiles}
    heights = [max(column[k].shape[0] for column in whole.values()) for k in range(len(plain))]
    sheet = Image.new("RGB", (TILE * len(whole), HEAD + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for x, (name, column) in enumerate(whole.items()):
        draw.text((x * TILE + 2, 2), name[:38], fill="black")
        for k, tile in enumerate(column):
            sheet.paste(Image.fromarray(tile), (x * TILE, HEAD + sum(heights[:k])))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
