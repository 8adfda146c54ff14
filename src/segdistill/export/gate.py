"""The gate of an exported model: on real cases its masks must be those of the float32 torch network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segdistill.data.cases import Case
from segdistill.data.opened import fullest_slice, open_case
from segdistill.errors import GateFailed
from segdistill.imaging.postprocess import Postprocess, resize_probability
from segdistill.imaging.preprocess import Preprocess
from segdistill.runtime.engine import Engine
from segdistill.training.inference import MaskAndClass, Probability

UNDECIDED = 1e-4


@dataclass(frozen=True)
class Agreement:
    """How two engines agree over cases.

    Attributes:
        cases: how many were compared.
        differing_cases: how many have a pixel that differs and is not undecided.
        differing_pixels: such pixels in all.
        undecided_pixels: pixels whose probability is within 1e-4 of the threshold in torch; they are left out.
        largest_difference: of probabilities, over all pixels.
        differing_classes: cases whose class differs though it is not undecided, for networks that classify.
        largest_class_difference: of the probabilities of classes.
    """

    cases: int
    differing_cases: int
    differing_pixels: int
    undecided_pixels: int
    largest_difference: float
    differing_classes: int = 0
    largest_class_difference: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values.

        >>> Agreement(1, 0, 0, 0, 0.0).to_dict()["cases"]
        1
        """
        return asdict(self)


def measure_agreement(
    network: nn.Module,
    preprocess: Preprocess,
    postprocess: Postprocess,
    model_file: Path,
    cases: Iterable[Case],
) -> Agreement:
    """Compares masks at each image's own size, of a volume its fullest slice, torch in float32 against the model file.

    Raises:
        UnreadableImage: a case cannot be read.
    """
    engine = Engine(model_file)
    both = (MaskAndClass if engine.info.labels else Probability)(network).eval().cpu()
    count = differing_cases = differing = undecided = 0
    largest = largest_class = 0.0
    differing_classes = 0
    for case in cases:
        opened = open_case(case, preprocess.intensity)
        size = opened.size
        images = preprocess.inputs(opened.pixels(fullest_slice(opened.reference)))
        with torch.inference_mode():
            known = [_arrays(both(torch.from_numpy(image[None]))) for image in images]
        given = [engine.run_both(image[None]) for image in images]
        expected = preprocess.join(np.stack([mask[0] for mask, _ in known]), size)
        answer = preprocess.join(np.stack([mask[0] for mask, _ in given]), size)
        if engine.info.labels:
            apart, differs = _compare_classes([label for _, label in known], [label for _, label in given])
            largest_class, differing_classes = max(largest_class, apart), differing_classes + differs
        largest = max(largest, float(np.abs(expected - answer).max()))
        close = (np.abs(resize_probability(expected, size) - postprocess.threshold) < UNDECIDED).any(0)
        wrong = (postprocess.mask(expected, size) != postprocess.mask(answer, size)) & ~close
        count += 1
        undecided += int(close.sum())
        differing += int(wrong.sum())
        differing_cases += bool(wrong.any())
    return Agreement(count, differing_cases, differing, undecided, largest, differing_classes, largest_class)


Arrays = tuple[NDArray[np.float32], NDArray[np.float32] | None]


def _arrays(output: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> Arrays:
    if isinstance(output, tuple):
        return output[0].numpy(), output[1].numpy()
    return output.numpy(), None


def _compare_classes(
    known: list[NDArray[np.float32] | None], given: list[NDArray[np.float32] | None]
) -> tuple[float, bool]:
    """The largest difference of two engines' class probabilities (the mean over patches), and whether they decide
    apart.
    """
    one, other = (
        np.mean([part for part in parts if part is not None], axis=0)[0] for parts in (known, given)
    )
    first, second = np.sort(one)[::-1][:2]
    decided = first - second >= UNDECIDED
    return float(np.abs(one - other).max()), bool(decided and one.argmax() != other.argmax())


def require_agreement(agreement: Agreement) -> None:
    """Lets a model file pass only if every decided pixel is equal.

    Raises:
        GateFailed: some differ.

    >>> require_agreement(Agreement(3, 0, 0, 12, 1e-6))
    """
    if agreement.differing_pixels:
        raise GateFailed(
            f"the model file differs from torch in {agreement.differing_pixels} pixels of "
            f"{agreement.differing_cases} of {agreement.cases} cases (largest difference "
            f"{agreement.largest_difference:.2g}): it was not kept"
        )
    if agreement.differing_classes:
        raise GateFailed(
            f"the model file's class differs from torch's in {agreement.differing_classes} of {agreement.cases} cases "
            f"(largest difference {agreement.largest_class_difference:.2g}): it was not kept"
        )
