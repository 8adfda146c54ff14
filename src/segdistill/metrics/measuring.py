"""From a predictor to one result per case: every image at its own size, a volume as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case
from segdistill.data.opened import OpenedCase, open_case
from segdistill.errors import InputError
from segdistill.imaging.intensity import Intensity
from segdistill.metrics.boxes import mean_box_overlap
from segdistill.metrics.cases import BOX_METRICS, EXTRA_METRICS, CaseResult, Predict, Results, Scored
from segdistill.metrics.overlap import FROM_COUNTS, METRICS, Counts, count_pixels, rmse_map
from segdistill.metrics.pooled import Pool
from segdistill.metrics.surfaces import DISTANCES, surface_distances
from segdistill.registry import near_names


def evaluate_cases(
    cases: Sequence[Case],
    predict: Predict,
    progress: Callable[[int, int], None] | None = None,
    *,
    intensity: Intensity | None = None,
    extra: Sequence[str] = (),
    pool: Pool | None = None,
) -> Results:
    """Predicts every case that has a reference and measures it at the image's own size, a volume as a whole.

    Args:
        cases: rows of the case table. Without a reference (`Case.has_reference`) a case is skipped and counted.
        predict: gives the mask (H, W) of a picture, or of one slice; anything that is not zero is foreground.
            `Scored` where the probability is needed, too.
        progress: called as progress(done, total) after every case.
        intensity: how the values of a volume become 8 bits: that of the network's preprocessing.
        extra: further metrics, of EXTRA_METRICS.
        pool: collects all pixels for `Pool.metrics`.

    Raises:
        InputError: an image or mask cannot be read, or a metric is not known or needs a score that is not there.
        ValueError: a predicted mask does not have its image's size.

    >>> from pathlib import Path
    >>> evaluate_cases([Case("a", Path("a.png"))], lambda picture: picture.pixels > 0).skipped
    ['a']
    """
    for name in extra:
        if name not in EXTRA_METRICS and name not in METRICS:
            raise InputError(f"unknown metric '{name}': {near_names(name, (*METRICS, *EXTRA_METRICS))}")
    results = Results()
    for done, case in enumerate(cases, 1):
        if case.has_reference:
            results.append(_evaluate(open_case(case, intensity), predict, extra, pool))
        else:
            results.skipped.append(case.id)
        if progress is not None:
            progress(done, len(cases))
    return results


def predict_case(
    opened: OpenedCase, predict: Predict
) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """The masks (D, H, W) of all images of a case, and their scores where the predictor gives them.

    Raises:
        ValueError: a predicted mask does not have its image's size.
    """
    masks, scores = [], []
    for k in range(len(opened)):
        answer = predict(opened.picture(k))
        mask = np.asarray(answer.mask if isinstance(answer, Scored) else answer) != 0
        if mask.shape != opened.size:
            raise ValueError(
                f"case {opened.case.id}: predicted mask is {mask.shape}, its image {opened.size}"
            )
        masks.append(mask)
        if isinstance(answer, Scored):
            scores.append(np.asarray(answer.score, np.float32))
    return np.stack(masks), np.stack(scores) if scores else None


def _evaluate(opened: OpenedCase, predict: Predict, extra: Sequence[str], pool: Pool | None) -> CaseResult:
    case, reference = opened.case, opened.reference
    predicted, scores = predict_case(opened, predict)
    if pool is not None:
        pool.add(predicted, reference, scores)
    counts = count_pixels(predicted, reference)
    metrics = {
        name: FROM_COUNTS[name](counts) for name in (*METRICS, *(n for n in extra if n in FROM_COUNTS))
    }
    if "rmse_map" in extra:
        if scores is None:
            raise InputError("the metric rmse_map needs probabilities, and this predictor gives masks alone")
        metrics["rmse_map"] = rmse_map(scores, reference)
    if any(name in extra for name in BOX_METRICS):
        boxes = mean_box_overlap(predicted, reference)
        both = dict(zip(BOX_METRICS, boxes, strict=True))
        metrics |= {name: both[name] for name in BOX_METRICS if name in extra}
    unit = ""
    if measured := [name for name in extra if name in DISTANCES]:
        unit = "mm" if opened.spacing_mm else "px"
        first = 0 if opened.is_volume else 1
        spacing = opened.spacing_mm[first:] if opened.spacing_mm else None
        whole = ... if opened.is_volume else 0
        distances = surface_distances(predicted[whole], reference[whole], spacing)
        metrics |= {name: DISTANCES[name](distances) for name in measured}
    worst = worst_slice(predicted, reference) if opened.is_volume else -1
    return CaseResult(
        case=case.id,
        group=case.group_key,
        label=case.label,
        site=case.site,
        split=case.split,
        metrics=metrics,
        reference_area=float(reference.mean()),
        predicted_area=float(predicted.mean()),
        height=opened.size[0],
        width=opened.size[1],
        depth=len(opened),
        worst_slice=worst,
        worst_dice=FROM_COUNTS["dice"](count_pixels(predicted[worst], reference[worst]))
        if worst >= 0
        else 1.0,
        unit=unit,
    )


def slice_dice(predicted: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Dice of every slice of two masks (D, H, W); NaN where both are empty.

    >>> slice_dice(np.array([[[1, 1]], [[0, 0]]]), np.array([[[1, 0]], [[0, 0]]])).round(2).tolist()
    [0.67, nan]
    """
    tables = [count_pixels(p, r) for p, r in zip(predicted, reference, strict=True)]
    return np.array([FROM_COUNTS["dice"](c) if _any(c) else np.nan for c in tables])


def worst_slice(predicted: NDArray[Any], reference: NDArray[Any]) -> int:
    """The slice of lowest Dice among those with any foreground, the fullest of several; -1 where there is none.

    >>> worst_slice(np.zeros((3, 1, 2)), np.array([[[0, 0]], [[1, 0]], [[1, 1]]]))
    2
    """
    scores = slice_dice(predicted, reference)
    if np.isnan(scores).all():
        return -1
    size = np.count_nonzero(np.asarray(reference) != 0, axis=(1, 2)) + np.count_nonzero(
        predicted, axis=(1, 2)
    )
    worst = np.flatnonzero(scores == np.nanmin(scores))
    return int(worst[size[worst].argmax()])


def _any(counts: Counts) -> bool:
    return bool(counts.tp + counts.fp + counts.fn)
