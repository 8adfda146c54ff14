"""A page of `segdistill export --web` in headless Chromium beside the Python runtime, on the same pictures.

The figure is the largest number of pixels of a picture that differ although the probability is not within 1e-3 of the
threshold. Also: whether the network's input is equal bit for bit, the page's size, its load, and times of one picture.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, log, machine, report, scratch

sys.path.append(str(Path(__file__).parents[1]))

from tests.server.tab import Tab

CLOSE = 1e-3


def compare(tab: Tab, predictor: Any, paths: list[Path]) -> dict[str, Any]:
    """Pictures one after another in both; the page has opened them in this order."""
    preprocess = predictor.info.preprocess
    from segdistill.imaging.read import read_picture

    equal, differing, close, apart, dices = 0, [], 0, 0.0, []
    times: dict[str, list[float]] = {"browser": [], "python": []}
    for place, path in enumerate(paths):
        began = time.perf_counter()
        known = predictor.predict(path)
        times["python"].append(1e3 * (time.perf_counter() - began))
        found = tab.result(place)
        times["browser"].append(found["milliseconds"])
        wanted = preprocess.inputs(read_picture(path, intensity=preprocess.intensity).pixels)
        given = np.stack(tab.inputs(place)).reshape(wanted.shape)
        equal += np.array_equal(given, wanted)
        mask = found["foreground"] > np.float32(predictor.postprocess.threshold)
        undecided = np.abs(known.probability - predictor.postprocess.threshold) < CLOSE
        close += int(undecided.sum())
        differing.append(int(((mask != (known.mask != 0)) & ~undecided).sum()))
        apart = max(apart, float(np.abs(found["foreground"] - known.probability).max()))
        both = int((mask & (known.mask != 0)).sum())
        total = int(mask.sum() + (known.mask != 0).sum())
        dices.append(2 * both / total if total else 1.0)
    return {
        "pictures": len(paths),
        "equal_inputs": equal,
        "pictures_with_differing_pixels": int(np.count_nonzero(differing)),
        "most_differing_pixels": max(differing),
        "pixels_near_the_threshold": close,
        "largest_difference": apart,
        "lowest_dice_between_both": min(dices),
        "milliseconds": {
            name: {"median": round(statistics.median(found), 1), "fastest": round(min(found), 1)}
            for name, found in times.items()
        },
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("model", type=Path, help="a model file")
    parser.add_argument("pictures", type=Path, help="a folder of PNG files")
    parser.add_argument("--count", type=int, default=110, help="pictures, evenly from the folder")
    parser.add_argument("--dice", type=float, help="hold where no Dice between both is lower: for int8")
    args = parser.parse_args()
    from segdistill.runtime.predictor import Predictor
    from segdistill.server.page import write_page

    found = sorted(path for path in args.pictures.rglob("*.png") if "mask" not in path.name)
    paths = [found[k] for k in np.linspace(0, len(found) - 1, min(args.count, len(found))).astype(int)]
    with scratch() as folder:
        size = write_page(args.model, folder / "page.html")
        log(f"{args.model}: {size} bytes")
        with Tab(folder / "page.html") as tab:
            tab.open(paths)
            details = compare(tab, Predictor(args.model, threads=1), paths)
            details |= {
                "megabytes": round(size / 1e6, 2),
                "seconds_to_load": round(tab.seconds_to_load, 2),
                "milliseconds_of_the_engine_to_load": int(tab.page.get_attribute("html", "data-ready") or 0),
                "requests": tab.requests,
                "errors": tab.errors,
                "browser": tab.page.context.browser.version if tab.page.context.browser else "",
                "machine": machine(),
            }
    if args.dice is None:
        figure, bar = details["most_differing_pixels"], 0.0
        holds = figure <= bar and details["equal_inputs"] == len(paths) and not details["requests"]
    else:
        figure, bar = details["lowest_dice_between_both"], args.dice
        holds = figure >= bar and details["equal_inputs"] == len(paths) and not details["requests"]
    report("web", figure, bar, holds, details, args.json)


if __name__ == "__main__":
    main()
