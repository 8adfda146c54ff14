"""Series whose files end in .IMA, and sizes that are not millimetres."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from segdistill.errors import InputError
from segdistill.imaging.read_volume import may_be_series, read_volume


def test_a_series_of_siemens_files_is_found(data_root: Path, tmp_path: Path) -> None:
    series = next(
        path for path in sorted((data_root / "mr_dicom").rglob("*")) if path.is_dir() and may_be_series(path)
    )
    for number, path in enumerate(sorted(path for path in series.iterdir() if path.is_file())):
        shutil.copyfile(path, tmp_path / f"{number:04}.IMA")
    assert may_be_series(tmp_path)
    assert np.array_equal(read_volume(tmp_path).voxels, read_volume(series).voxels)


@pytest.mark.parametrize("field", ["space units", "units"])
@pytest.mark.parametrize(("unit", "is_read"), [("mm", True), ("um", False)])
def test_sizes_of_nrrd_are_millimetres(tmp_path: Path, field: str, unit: str, is_read: bool) -> None:
    lines = ["NRRD0004", "type: uint8", "dimension: 3", "sizes: 2 2 2", "encoding: raw", "spacings: 1 1 1"]
    lines.append(f"{field}: " + " ".join([f'"{unit}"'] * 3))
    path = tmp_path / "a.nrrd"
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + bytes(8))
    if is_read:
        assert read_volume(path).voxels.shape == (2, 2, 2)
    else:
        with pytest.raises(InputError, match="states its sizes in um, not in millimetres"):
            read_volume(path)
