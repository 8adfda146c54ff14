"""Millimetres per pixel out of a DICOM header, or None: a wrong millimetre is worse than none.

Sources: DICOM PS3.3 C.8.5.5 (ultrasound regions), 10.7.1.1 and 10.7.1.3 (spacing, projection radiographs).
"""

from __future__ import annotations

from typing import Any

from segdistill.imaging.picture import Spacing

_TWO_D, _TISSUE, _CM = 1, 1, 3
_PROJECTION = ("XA", "RF", "DX", "CR", "MG", "PX", "IO")


def read_spacing(header: Any) -> Spacing | None:
    """Spacing of a DICOM data set.

    - Ultrasound regions: the largest 2-D tissue region whose axes are both in cm; valid inside that region
      only. When there are regions and none is such, there is no spacing.
    - PixelSpacing, which is (row, column); on projection radiographs only when it differs from the spacing at
      the detector, which means that it was calibrated.
    - ImagerPixelSpacing divided by the magnification, when the file gives one; its source says "estimated".

    >>> from pydicom import Dataset
    >>> header = Dataset()
    >>> header.PixelSpacing = [0.2, 0.1]
    >>> read_spacing(header)
    Spacing(row_mm=0.2, column_mm=0.1, source='PixelSpacing', region=None)
    """
    try:
        if header.get("SequenceOfUltrasoundRegions"):
            return _ultrasound(header)
        at_detector = _pair(header.get("ImagerPixelSpacing"))
        calibrated = _pair(header.get("PixelSpacing"))
        if calibrated and not (header.get("Modality") in _PROJECTION and calibrated == at_detector):
            return Spacing(*calibrated, source="PixelSpacing")
        magnification = _magnification(header)
        if at_detector and magnification:
            row, column = (value / magnification for value in at_detector)
            return Spacing(row, column, source="ImagerPixelSpacing / magnification (estimated)")
    except Exception:  # tags are decoded only now, and pydicom raises whatever a damaged one leads to
        return None
    return None


def _ultrasound(header: Any) -> Spacing | None:
    best: Spacing | None = None
    for region in header.SequenceOfUltrasoundRegions:
        if (
            region.get("RegionSpatialFormat") != _TWO_D
            or region.get("RegionDataType") != _TISSUE
            or region.get("PhysicalUnitsXDirection") != _CM
            or region.get("PhysicalUnitsYDirection") != _CM
        ):
            continue
        top, bottom = int(region.RegionLocationMinY0), int(region.RegionLocationMaxY1) + 1
        left, right = int(region.RegionLocationMinX0), int(region.RegionLocationMaxX1) + 1
        bottom, right = min(bottom, int(header.Rows)), min(right, int(header.Columns))
        if not (0 <= top < bottom and 0 <= left < right):
            continue
        row, column = 10 * abs(float(region.PhysicalDeltaY)), 10 * abs(float(region.PhysicalDeltaX))
        candidate = Spacing(row, column, "ultrasound region", (top, left, bottom, right))
        if best is None or _extent(candidate) > _extent(best):
            best = candidate
    return best


def _extent(spacing: Spacing) -> int:
    assert spacing.region is not None
    top, left, bottom, right = spacing.region
    return (bottom - top) * (right - left)


def _pair(value: Any) -> tuple[float, float] | None:
    if value is None or isinstance(value, str) or len(value) != 2:
        return None
    return float(value[0]), float(value[1])


def _magnification(header: Any) -> float | None:
    factor = header.get("EstimatedRadiographicMagnificationFactor")
    if factor:
        return float(factor)
    source_detector, source_patient = (
        header.get("DistanceSourceToDetector"),
        header.get("DistanceSourceToPatient"),
    )
    return float(source_detector) / float(source_patient) if source_detector and source_patient else None
