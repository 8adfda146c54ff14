"""Case tables, and tables of results, that a spreadsheet opens: text stays text, and is read back unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from segdistill.data.case import Case
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.metrics.base import METRICS
from segdistill.metrics.cases import CaseResult, read_metrics_csv, write_metrics_csv
from segdistill.metrics.classification import Classified, read_classification_csv, write_classification_csv


def test_cells_that_a_spreadsheet_would_compute_are_read_back(tmp_path: Path) -> None:
    names = ["=1+1", "-x", "@y", "+z", "'=q", "plain"]
    for name in names:
        (tmp_path / f"{name}.png").touch()
    cases = [
        Case(
            name,
            tmp_path / f"{name}.png",
            (tmp_path / f"{name}.png",),
            group=f"{name} g",
            label=name,
            site=name,
        )
        for name in names
    ]
    table = tmp_path / "cases.csv"
    write_cases(cases, table)
    cells = [cell for line in table.read_text().splitlines() for cell in line.split(",")]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert read_cases(table) == cases


@pytest.mark.parametrize("field", ["id", "group", "label", "site"])
@pytest.mark.parametrize("mark", ["\x1b", "\n", "\u2028", "\x9b", "\udce9"])
def test_control_characters_are_kept_in_no_table(tmp_path: Path, field: str, mark: str) -> None:
    case = Case(**{"id": "a", "image": tmp_path / "a.png", field: f"x{mark}y"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rename the file"):
        write_cases([case], tmp_path / "cases.csv")
    assert list(tmp_path.iterdir()) == []


def test_tables_of_results(tmp_path: Path) -> None:
    texts = ("=1+1", "-x", "@y", "plain")
    results = [
        CaseResult(text, f"+{text}", label=text, site=text, metrics=dict.fromkeys(METRICS.always(), 0.1))
        for text in texts
    ]
    write_metrics_csv(results, tmp_path / "metrics.csv")
    assert list(read_metrics_csv(tmp_path / "metrics.csv")) == results
    rows = [Classified(text, text, text, (0.75, 0.25), {}) for text in texts]
    write_classification_csv(rows, ["=a", "b"], tmp_path / "classification.csv")
    assert read_classification_csv(tmp_path / "classification.csv") == (["=a", "b"], rows)
    for name in ("metrics.csv", "classification.csv"):
        cells = [cell for line in (tmp_path / name).read_text().splitlines() for cell in line.split(",")]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_a_name_with_control_characters_breaks_no_row_of_results(tmp_path: Path) -> None:
    results = [CaseResult("a\r\nb\u2028\x1b", "g", metrics=dict.fromkeys(METRICS.always(), 0.1))]
    write_metrics_csv(results, tmp_path / "metrics.csv")
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
    assert read_metrics_csv(tmp_path / "metrics.csv")[0].case == "a\\r\\nb\\u2028\\x1b"


@pytest.mark.parametrize("heading", ["patient", "Patient_ID", "subject"])
def test_patients_under_another_heading_are_not_left_unread(tmp_path: Path, heading: str) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(f"id,{heading},image\na,1,a.png\n")
    with pytest.raises(InputError, match="is not read: call it 'group'"):
        read_cases(path)
    path.write_text(f"id,{heading},group,image\na,1,2,a.png\n")
    assert read_cases(path)[0].group == "2"


def test_a_stray_quote_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text('id,image\na,a.png\nb,"b.png\nc,c.png\nd,d.png\n')
    with pytest.raises(InputError, match=r"row 3: a cell holds a line break"):
        read_cases(table)
