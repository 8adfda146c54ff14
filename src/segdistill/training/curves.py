"""Training curves as a CSV file: one row per epoch, one column per value."""

from __future__ import annotations

import csv
from pathlib import Path

from segdistill.errors import InputError
from segdistill.files import atomic_write


def write_curves(path: Path, rows: list[dict[str, float]]) -> None:
    """Writes rows; a key that a row lacks is an empty cell.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "curves.csv"
    >>> write_curves(target, [{"epoch": 1.0, "loss": 0.5}])
    >>> read_curves(target)
    [{'epoch': 1.0, 'loss': 0.5}]
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_curves(path: Path) -> list[dict[str, float]]:
    """Reads a file of `write_curves`; an absent file gives no rows.

    Raises:
        InputError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                {name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(
            f"{path} is damaged ({error}): restore it, or delete it and run the recipe again"
        ) from error
