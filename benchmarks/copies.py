"""Near-duplicates: planted and known copies that are found, different pictures that are joined, time per picture.

Different pictures in a black frame, in a round field of view, padded to a square, beside the same scale bar, and
synthetic CT slices on air must not be joined. Planted copies (JPEG 70, half size, mirrored, cropped by 5 %) and the
pairs of BUSI in docs/results/data/busi-pairs.csv (hashes of grey pixels) must be found. The figure is the share of
planted copies that is found; `--images` measures the time of so many synthetic pictures, from file to groups.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from common import arguments, log, report, scratch
from segdistill.data.case import Case
from segdistill.data.datasets import create_dataset
from segdistill.data.duplicates import find_duplicates, find_pairs, fingerprint
from segdistill.data.phantom import draw_phantom
from segdistill.imaging.read import read_picture

BAR = 0.95
KNOWN = Path(__file__).parents[1] / "docs/results/data/busi-pairs.csv"
Pictures = list[np.ndarray]


def sized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def framed(picture: np.ndarray) -> np.ndarray:
    canvas = np.zeros((360, 480), np.uint8)
    canvas[52:308, 112:368] = sized(picture, 256, 256)
    return canvas


def rounded(picture: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:300, :300] - 149.5
    return np.where(y * y + x * x < 141**2, sized(picture, 300, 300), 0).astype(np.uint8)


def padded(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape
    side = max(height, width)
    canvas = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = picture
    return canvas


def barred(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(sized(picture, 400, 300))
    image.paste(Image.fromarray(np.linspace(255, 0, 300).astype(np.uint8)[:, None].repeat(24, 1)), (376, 0))
    draw = ImageDraw.Draw(image)
    for depth in range(0, 300, 25):
        draw.text((340, depth), f"{depth:3d}-", fill=255)
    draw.text((5, 5), "CLINIC 12.5 MHz GAIN 40", fill=255)
    return np.asarray(image)


def ct_slice(seed: int, side: int = 256) -> np.ndarray:
    """An ellipse of soft tissue with organs, on air with a little noise."""
    rng = np.random.default_rng(1000 + seed)
    y, x = np.mgrid[:side, :side].astype(float)

    def ellipse(cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
        return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1

    cy, cx = rng.normal(side / 2, 4, 2)
    body = ellipse(cy, cx, rng.normal(0.33 * side, 6), rng.normal(0.42 * side, 6))
    grey = 110.0 * body
    for _ in range(9):
        place = (rng.normal(cy, 0.13 * side), rng.normal(cx, 0.17 * side), *rng.uniform(8, 33, 2))
        grey[ellipse(*place) & body] = rng.uniform(90, 210)
    grey += rng.normal(0, 6, grey.shape) * body + rng.normal(0, 2, grey.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=70)
    return np.asarray(Image.open(buffer))


def half(picture: np.ndarray) -> np.ndarray:
    return sized(picture, picture.shape[1] // 2, picture.shape[0] // 2)


def cropped(picture: np.ndarray) -> np.ndarray:
    top, left = picture.shape[0] // 20, picture.shape[1] // 20
    return picture[top:-top, left:-left]


def mirrored(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:, ::-1])


PLANTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg 70": jpeg,
    "half size": half,
    "mirrored": mirrored,
    "cropped by 5 %": cropped,
}


def joined(pictures: Sequence[np.ndarray]) -> int:
    """How many pairs of pictures, which all differ, are taken for copies."""
    return len(find_pairs([str(k) for k in range(len(pictures))], [fingerprint(p) for p in pictures]))


def found(pictures: Pictures, plant: Callable[[np.ndarray], np.ndarray]) -> tuple[int, int]:
    """How many planted copies are found among all, and how many other pairs are taken for copies."""
    count = len(pictures)
    everything = [*pictures, *map(plant, pictures)]
    pairs = find_pairs([str(k) for k in range(2 * count)], [fingerprint(p) for p in everything])
    hits = {(int(pair.first), int(pair.second)) for pair in pairs}
    planted = {(k, k + count) for k in range(count)}
    return len(hits & planted), len(hits - planted)


def known_pairs(table: Path) -> set[frozenset[str]]:
    with open(table, newline="") as file:
        return {frozenset(row) for row in csv.reader(file)}


def busi(folder: Path) -> tuple[dict[str, Any], Pictures]:
    """Recall of the known pairs, pairs beyond them, and pictures that are in no known pair."""
    pictures = [read_picture(case.image).pixels for case in create_dataset("busi", folder)]
    prints = [fingerprint(picture) for picture in pictures]
    names = [item.pixels[:16] for item in prints]
    known = known_pairs(KNOWN)
    hits = {frozenset((pair.first, pair.second)) for pair in find_pairs(names, prints)}
    copies = {name for pair in known for name in pair}
    unique = [
        p if p.ndim == 2 else p[..., 0] for p, name in zip(pictures, names, strict=True) if name not in copies
    ]
    figures = {
        "known": len(known),
        "found": len(known & hits),
        "share": len(known & hits) / len(known),
        "further": len(hits - known),
    }
    return figures, unique


def seconds(count: int, side: int = 400) -> float:
    """CPU seconds per picture of the whole search, from PNG files of speckle and smooth shapes to pairs."""
    with scratch() as folder:
        cases = []
        for k in range(count):
            rng = np.random.default_rng(k)
            smooth = Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
            path = folder / f"{k}.png"
            Image.fromarray((np.asarray(smooth) * rng.uniform(0.6, 1, (side, side))).astype(np.uint8)).save(
                path, compress_level=1
            )
            cases.append(Case(str(k), path))
        began = time.process_time()
        find_duplicates(cases, workers=1)
        return (time.process_time() - began) / count


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, nargs="*", default=[], help="numbers of pictures to time")
    parser.add_argument("--most", type=int, default=1000, help="pictures of each set at most")
    chosen = parser.parse_args()
    phantoms = [
        draw_phantom(("benign", "malignant", "normal")[k % 3], k, 256)[0] for k in range(min(28, chosen.most))
    ]
    sources: dict[str, Pictures] = {"phantom": phantoms}
    details: dict[str, Any] = {}
    if data := os.environ.get("SEGDISTILL_DATA"):
        details["busi"], unique = busi(Path(data) / "busi")
        sources["busi"] = unique[: min(100, chosen.most)]
    differ: dict[str, int] = {}
    for name, pictures in sources.items():
        for what, change, count in (
            ("framed", framed, 24),
            ("round", rounded, 28),
            ("padded", padded, 24),
            ("side bar", barred, 24),
        ):
            differ[f"{what} {name}"] = joined([change(p) for p in pictures[:count]])
    differ["CT on air"] = joined([ct_slice(k) for k in range(min(40, chosen.most))])
    planted = {}
    for name, pictures in (
        sources | {"CT on air": [ct_slice(k) for k in range(min(40, chosen.most))]}
    ).items():
        for what, plant in PLANTED.items():
            hits, others = found(pictures, plant)
            planted[f"{what}, {name}"] = {"found": hits, "of": len(pictures), "other pairs": others}
    details |= {"different pictures joined": differ, "planted": planted}
    shares = {
        what: sum(v["found"] for k, v in planted.items() if k.startswith(what))
        / sum(v["of"] for k, v in planted.items() if k.startswith(what))
        for what in PLANTED
    }
    details["share found"] = shares
    times = {}
    for count in chosen.images:
        times[count] = seconds(count)
        log(f"{count} pictures: {1000 * times[count]:.1f} ms each")
    details["ms per picture"] = {count: round(1000 * value, 2) for count, value in times.items()}
    figure = min([*shares.values(), *([details["busi"]["share"]] if "busi" in details else [])])
    holds = (
        figure >= BAR
        and not any(differ.values())
        and all(count * value < 300 for count, value in times.items())
    )
    report("copies", figure, BAR, holds, details, chosen.json)


if __name__ == "__main__":
    main()
