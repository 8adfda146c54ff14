"""How long the network of a model file takes."""

from __future__ import annotations

import statistics
import time

import numpy as np

from segdistill.runtime.engine import Engine


def milliseconds_per_image(engine: Engine) -> float:
    """Median time of five runs of the network on one image of its own input size, after one run to warm up.

    Reading, pre-processing and post-processing are not in it.

    Raises:
        InputError: the network does not run.
    """
    preprocess = engine.info.preprocess
    image = np.zeros((1, preprocess.channels, *preprocess.size), np.float32)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        engine.run_both(image)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[1:])
