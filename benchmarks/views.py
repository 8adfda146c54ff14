"""The cost of one augmented view beside MONAI's dictionary transforms that make the same changes.

Both begin with the prepared uint8 picture in memory, flip, turn, scale, shift, and change brightness and contrast as
the preset `light` does, and end with float32 (3, H, W) and a mask. One thread, in turns. Ours also seeds every view.
The figure is the ratio of medians, ours over MONAI's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import alternate, arguments, machine, milliseconds, report, scratch
from segdistill.data.augment import AUGMENTS
from segdistill.data.phantom import write_phantom
from segdistill.data.store import Store, prepare_store
from segdistill.data.views import Views
from segdistill.imaging.preprocess import Preprocess

BAR = 1.0
BLOCK = 20  # views per timing: one alone is too short to time


def monai_view(size: int) -> Callable[[Any, Any], dict[str, Any]]:
    """The preset `light` with MONAI's transforms, without metadata."""
    from monai.data import set_track_meta
    from monai.transforms import Compose, RandAffined, RandFlipd, RandScaleIntensityd, RandShiftIntensityd

    set_track_meta(False)
    a = AUGMENTS["light"]
    keys = ["image", "mask"]
    change = Compose(
        [
            RandFlipd(keys, prob=a.flip_horizontal, spatial_axis=1),
            RandAffined(
                keys,
                prob=1.0,
                rotate_range=math.radians(a.rotate),
                translate_range=a.shift * size,
                scale_range=a.scale,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
                cache_grid=True,
                spatial_size=(size, size),
            ),
            RandScaleIntensityd("image", factors=a.contrast, prob=1.0),
            RandShiftIntensityd("image", offsets=a.brightness, prob=1.0),
        ]
    )

    def view(image: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]) -> dict[str, Any]:
        ready = np.moveaxis(image, -1, 0).astype(np.float32) / 255
        made: dict[str, Any] = change({"image": ready, "mask": mask[None].astype(np.float32)})
        made["image"] = torch.as_tensor(made["image"]).expand(3, -1, -1).contiguous()
        made["mask"] = torch.as_tensor(made["mask"])[0].long()
        return made

    return view


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=60, help=f"of {BLOCK} views each")
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in a process or thread that prepares data
    preprocess = Preprocess((args.size, args.size), "grey", 3)
    with scratch() as folder:
        cases = write_phantom(folder / "data", BLOCK, size=max(32, args.size))
        store: Store = prepare_store(cases, preprocess, folder / "store")
        ours = Views(store, store.ids, preprocess, "light")
        theirs = monai_view(args.size)
        counts = {"ours": 0, "monai": 0}
        lesion = {"ours": 0.0, "monai": 0.0}

        def our_block() -> None:
            for k in range(BLOCK):
                _, mask = ours.view(k, counts["ours"])
                lesion["ours"] += float(mask.sum())
            counts["ours"] += 1

        def monai_block() -> None:
            for row in range(BLOCK):
                made = theirs(store.image(row), store.mask(row))
                lesion["monai"] += float(made["mask"].sum())
            counts["monai"] += 1

        times = alternate([our_block, monai_block], args.rounds)
    medians = [milliseconds([value / BLOCK for value in part]) for part in times]
    ratio = medians[0]["median"] / medians[1]["median"]
    details = {
        "ours_ms_per_view": medians[0],
        "monai_ms_per_view": medians[1],
        "lesion_pixels_ours_over_monai": round(lesion["ours"] / max(1.0, lesion["monai"]), 3),
        "augment": "light",
        "size": args.size,
        "rounds": args.rounds,
        "views_per_round": BLOCK,
        "machine": machine(),
    }
    report(Path(__file__).stem, ratio, BAR, ratio <= BAR, details, args.json)


if __name__ == "__main__":
    main()
