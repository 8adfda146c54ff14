"""How well the centrelines of vessels agree: clDice (Shit et al., CVPR 2021, arXiv 2003.07311)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segdistill.metrics.base import Pair, register_metric
from segdistill.metrics.surfaces import require_ndimage


def skeleton(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The morphological skeleton of a mask: what an opening removes, of the mask and of all its erosions (Algorithm 1).

    Erosion is by a cross, dilation by a square or cube; what lies outside the image does not erode.

    Args:
        mask: 2-D or 3-D.

    Returns:
        Of the same shape.

    Raises:
        MissingExtra: scipy is not installed.

    >>> skeleton(np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool))[1].tolist()
    [True, True, True, True]
    """
    ndimage = require_ndimage()
    block = np.ones((3,) * mask.ndim, bool)
    found = np.zeros_like(mask)
    while mask.any():
        smaller = ndimage.binary_erosion(mask, border_value=1)
        if (smaller == mask).all():  # what fills the image has no thinner part
            return found | mask
        found |= mask & ~ndimage.binary_dilation(smaller, block)
        mask = smaller
    return found


@register_metric(
    "cldice",
    higher_is_better=True,
    label="clDice",
    digits=3,
    note="Of the centrelines: the harmonic mean of the shares of each one that lies inside the other mask.",
)
def cldice(pair: Pair) -> float:
    """Centreline Dice: 2 P S / (P + S) of the topology precision and sensitivity (Shit et al. 2021, Eq. 1 to 3).

    1 where both masks are empty, 0 where one is.

    >>> line = np.zeros((5, 9), bool); line[1:4] = True
    >>> cldice(Pair(line, line))
    1.0
    """
    own, theirs = pair.prediction, pair.reference
    if not own.any() or not theirs.any():
        return float(own.any() == theirs.any())
    shares = [
        int(np.count_nonzero(line & mask)) / int(np.count_nonzero(line))
        for line, mask in ((skeleton(own), theirs), (skeleton(theirs), own))
    ]
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0
