"""A float32 TIFF with values from 0 to 1.004 (as after a division by a percentile, or an interpolation that
overshoots).

Right: 256 grey levels, as for 0 to 1.0. Never: rounded to 0 and 1, a black picture.
"""

from __future__ import annotations

import numpy as np

from common import Verdict, box_mask, control, control_call, packed, save, script


def levels(name: str, top: float) -> int:
    """Grey levels that the product keeps of a ramp from 0 to `top`."""
    ramp = np.linspace(0, top, 4096, dtype=np.float32).reshape(64, 64)
    save(ramp, f"{name}/images/1.tif")
    save(box_mask(20, 40, 30, 50), f"{name}/masks/1.png")
    control_call("data", "index", "folder", name, "-o", f"{name}.csv")
    return len(np.unique(packed(f"{name}.csv", f"{name}-packed", 64)["1"][0]))


def main() -> Verdict:
    plain = levels("plain", 1.0)
    control(plain >= 200, f"of 0..1.0 only {plain} grey levels are kept")
    found = levels("above", 1.004)
    words = f"grey levels kept of 0..1.0: {plain}, of 0..1.004: {found}; right: about 256 both times"
    return Verdict(found < 200, words)


if __name__ == "__main__":
    script(main)
