"""The papers' figures with our numbers and our images, drawn from the tables of `compare_with_paper`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segdistill.config.schema import parse_data
from segdistill.data.case import Case, select
from segdistill.data.table import read_cases
from segdistill.experiment.results import fold_folder, read_folds, read_recipe
from segdistill.files import atomic_write
from segdistill.metrics.cases import CaseResult, find_column, read_metrics_csv
from segdistill.metrics.classification import SCORES
from segdistill.records import Interval
from segdistill.report.charts import case_distribution, grouped_bars, line_chart
from segdistill.report.examples import Example, Shown, choose_examples, predict_shown, read_shown
from segdistill.report.panels import Window, are_thin, choose_window, draw_case

SERIES = {"paper": "ours, paper's size", "cpu": "ours, CPU size"}
SPREADS = {"sd": "± standard deviation", "t_interval": "with 95 % interval"}
TILE, SPACE, LINE = 240, 4, 18
Tables = Sequence[Mapping[str, Any]]
Drawn = tuple[str, str, bytes]
"""What a file shows, how its name ends, and its content."""


def draw_figures(tables: Tables, folder: Path) -> Iterator[Path]:
    """Draws the figures of tables: charts as SVG, with the paper's numbers where it prints them, and images as PNG.

    An overlay has a row for the best, the median and the worst test image of the last measured row, and a column for
    each row of the table that was tested on these images. They are ours only. A chart without numbers is not drawn.

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
    found: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for table in tables:
        for figure in table["figures"]:
            found.setdefault(figure["name"], []).append((figure, table))
    draw = {"bars": _bars, "lines": _lines, "cases": _cases, "overlay": _overlays}
    for name, of in found.items():
        figure = of[0][0]
        for words, kind, content in draw[figure["kind"]](figure, [table for _, table in of]):
            with atomic_write(folder / f"{_slug(name)}-{_slug(words)}.{kind}") as path:
                path.write_bytes(content)
            yield folder / f"{_slug(name)}-{_slug(words)}.{kind}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]


def _label(metric: str) -> str:
    """The name of a metric for readers."""
    part, _, name = metric.rpartition(".")
    return SCORES[name].label if part == "classification" else find_column(name).head


def _axis(table: Mapping[str, Any], metric: str, scores: Iterable[Interval | None]) -> str:
    spread = any(score is not None and score.low is not None for score in scores)
    return f"{_label(metric)}{', ' + SPREADS[table['spread_kind']] if spread else ''}"


def _title(figure: Mapping[str, Any], tables: Tables) -> str:
    """Its name, and the title of its first table without the table's own number."""
    return f"{figure['name']}: {tables[0]['title'].partition(', ')[2] or tables[0]['title']}"


def _score(
    values: Mapping[str, Any] | None, spreads: Mapping[str, Any] | None, metric: str
) -> Interval | None:
    mean, spread = ((found or {}).get(metric) for found in (values, spreads))
    if mean is None:
        return None
    return (
        Interval(mean, None, None, 0) if spread is None else Interval(mean, mean - spread, mean + spread, 0)
    )


def _scores(row: Mapping[str, Any], metric: str) -> dict[str, Interval | None]:
    """Of a row: the paper's and ours at both sizes."""
    ours = {words: row["ours"][size] for size, words in SERIES.items()}
    return {"paper": _score(row["published"], row["published_spread"], metric)} | {
        words: _score(cell["values"], cell["spread"], metric) for words, cell in ours.items()
    }


def _bars(figure: Mapping[str, Any], tables: Tables) -> Iterator[Drawn]:
    for metric in figure["metrics"]:
        values = {row["name"]: _scores(row, metric) for table in tables for row in table["rows"]}
        known = [score for row in values.values() for score in row.values() if score is not None]
        if known:
            title = _title(figure, tables)
            chart = grouped_bars(values, title, _axis(tables[0], metric, known))
            yield metric, "svg", chart.encode()


def _lines(figure: Mapping[str, Any], tables: Tables) -> Iterator[Drawn]:
    for metric in figure["metrics"]:
        series = {"paper": _points(tables, metric, "paper")}
        ours = {words: _points(tables, metric, words) for words in SERIES.values()}
        drawn = {words: series | {words: found} for words, found in ours.items() if any(found.values())}
        if not drawn and any(series["paper"].values()):
            drawn = {"paper": series}
        for words, of in drawn.items():
            lines = {line: {name: found[line] for name, found in of.items()} for line in series["paper"]}
            known = [score for found in lines.values() for points in found.values() for _, score in points]
            title = _title(figure, tables)
            chart = line_chart(lines, title, figure["x"], _axis(tables[0], metric, known))
            yield f"{metric} {words.removeprefix('ours, ')}", "svg", chart.encode()


def _points(tables: Tables, metric: str, series: str) -> dict[str, list[tuple[float, Interval]]]:
    """Line -> its points of a series."""
    found: dict[str, list[tuple[float, Interval]]] = {}
    for row in (row for table in tables for row in table["rows"] if row["line"]):
        points = found.setdefault(row["line"], [])
        score = _scores(row, metric)[series]
        points += [] if score is None else [(row["at"], score)]
    return found


def _cases(figure: Mapping[str, Any], tables: Tables) -> Iterator[Drawn]:
    for metric in figure["metrics"]:
        column = find_column(metric)
        for size, words in SERIES.items():
            values: dict[str, list[float]] = {}
            published = {}
            for row in (row for table in tables for row in table["rows"]):
                results = [r for place in _stage_folders(row["ours"][size]) for r in _results(place)]
                values[row["name"]] = [v for r in results if (v := column.value(r)) is not None]
                if (mean := (row["published"] or {}).get(metric)) is not None:
                    published[row["name"]] = mean
            if any(values.values()):
                title = f"{figure['name']}: {words}"
                chart = case_distribution(values, title, column.head, published)
                yield f"{metric} {words.removeprefix('ours, ')}", "svg", chart.encode()


def _results(stage: Path) -> list[CaseResult]:
    return read_metrics_csv(stage / "metrics.csv") if (stage / "metrics.csv").exists() else []


def _stage_folders(cell: Mapping[str, Any]) -> list[Path]:
    """The folders of a measured stage's trainings."""
    if cell["status"] != "measured":
        return []
    run, stage = Path(cell["folder"]), cell["stage"]
    folds = (fold_folder(run, fold) for fold in range(1, read_folds(run).get("folds", 0) + 1))
    parts = [part for part in folds if part.is_dir()] or [run]
    found = [part / "stages" / stage for part in parts]
    found += [path for part in parts for path in sorted(part.glob(f"stages/{stage}@*"))]
    return [path for path in found if path.is_dir()]


def _overlays(figure: Mapping[str, Any], tables: Tables) -> Iterator[Drawn]:
    for table in tables:
        for size, words in SERIES.items():
            if (sheet := _overlay(table, size)) is not None:
                yield f"{table['title']} {words.removeprefix('ours, ')}", "png", sheet


def _overlay(table: Mapping[str, Any], size: str) -> bytes | None:
    """A sheet of images as PNG; None where no row is measured, or its images are no longer there."""
    stages: dict[str, Path] = {}
    for row in table["rows"]:
        places = [p for p in _stage_folders(row["ours"][size]) if (p / "weights.safetensors").exists()]
        stages |= {row["name"]: places[0]} if places else {}
    shown = _shown(list(stages.values())[-1]) if stages else []
    if not shown:
        return None
    from segdistill.experiment.model import load_model

    wanted, columns = {one.case for one in shown}, {}
    for name, place in stages.items():
        if wanted <= {case.id for case in _tested(place.parents[1])}:  # no image that it was trained on
            model = load_model(place)
            columns[name] = predict_shown(
                shown,
                lambda picture, own=model: own.predict(picture.pixels).mask,  # type: ignore[misc]
            )
    return _sheet(columns)


def _tested(run: Path) -> list[Case]:
    return select(read_cases(run / "cases.csv"), split="test")


def _shown(stage: Path) -> list[Shown]:
    run = stage.parents[1]
    chosen = choose_examples(_results(stage), 1)
    ids = [case for kind in ("best", "median", "worst") for case in chosen[kind]]
    intensity = parse_data(read_recipe(run).get("data", {}), str(run)).preprocess().intensity
    return read_shown([case for case in _tested(run) if case.image.exists()], ids, intensity)


def _sheet(columns: Mapping[str, Sequence[Example]]) -> bytes:
    """Columns of masks over the images beside the plain images; of thin structures an enlarged part, framed there."""
    *_, (last, examples) = columns.items()
    thin = are_thin(one.reference for one in examples)
    windows = [choose_window(one.reference, one.prediction) if thin else None for one in examples]
    whole = {"image": [_tile(one, box=window) for one, window in zip(examples, windows, strict=True)]}
    for name, found in columns.items():
        whole[name] = [_tile(one, True, window=window) for one, window in zip(found, windows, strict=True)]
    heights = [max(column[k].shape[0] for column in whole.values()) + SPACE for k in range(len(examples))]
    width = TILE + SPACE
    key = ["green: reference, orange: prediction", "best, median and worst test image of", last]
    bottom = LINE + sum(heights)
    sheet = Image.new("RGB", (width * len(whole) - SPACE, bottom + LINE * len(key)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for x, (name, column) in enumerate(whole.items()):
        draw.text((x * width + 2, 2), name[:38], fill="black", font=font)
        for k, tile in enumerate(column):
            sheet.paste(Image.fromarray(tile), (x * width, LINE + sum(heights[:k])))
    for k, words in enumerate(key):
        draw.text((2, bottom + k * LINE + 2), words, fill="black", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(
    one: Example, contours: bool = False, window: Window | None = None, box: Window | None = None
) -> NDArray[np.uint8]:
    reference, prediction = one.reference, one.prediction
    if not contours:
        reference, prediction = np.zeros_like(reference), np.zeros_like(prediction)
    return draw_case(one.pixels, reference, prediction, TILE, window, box=box)
