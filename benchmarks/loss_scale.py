"""The scale of each distillation and segmentation loss over image sizes 64 to 512, and from images to volumes.

One pattern of eight by eight blocks is drawn at every size, with features at half of it, for a student and a teacher;
as a volume it is repeated along the third axis. A loss whose weight means the same at every size has the same value
each time. The figure is the largest relative difference of any loss from its value at the smallest size. Cases that a
loss excludes by its definition are listed with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from common import arguments, log, machine, report, two_cores
from segdistill.distillation import METHODS, DistillationMethod, create_method
from segdistill.distillation.methods.cirkd import Memory
from segdistill.distillation.methods.lightvessel import PAIR, FeatureAutoEncoders, FeatureSimilarity
from segdistill.losses import LOSSES, create_loss
from segdistill.models.network import FeatureInfo, Output

BAR = 0.01
BLOCKS, CHANNELS, CLASSES, BATCH, DEPTH = 8, 6, 2, 3, 8

OPTIONS: dict[str, dict[str, float]] = {
    "skd": {"holistic": 0.1},
    "ifvd": {"adversarial": 0.001},
    "cwd": {"features": 50.0},
    "cross_image": {"grid": 8},
    "cirkd": {"grid": 8},
    "memory_contrast": {"grid": 8},
    "channel_contrast": {"grid": 8},
    "amtml": {"relations": 1.0},
}
"""With every term that is off by default; the grid is that of the blocks, so that no average mixes two."""
EXCLUDED = {
    "soft_label": "it is of the whole image and has no positions",
    "mgd": "its convolutions of 3x3 mix blocks at their borders, which are a smaller share of a larger image",
    "af_dcd": "its convolutions are those of mgd",
}

IMAGES_ONLY = {
    "holistic": "its critic takes images",
    "skd": "its critic takes images; without it the terms are pair_wise and soft_prediction",
    "ifvd": "its critic takes images; without it the terms are intra_class and soft_prediction",
    "feature_similarity": "its auto-encoders pool images",
}


def pattern(seed: int, size: int, volume: bool) -> tuple[Output, Tensor]:
    """Output and masks of one pattern at a size; features of every layer are the same."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(BATCH, CLASSES, BLOCKS, BLOCKS, generator=generator)
    feature = torch.randn(BATCH, CHANNELS, BLOCKS // 2, BLOCKS // 2, generator=generator)
    mask = torch.zeros(BATCH, BLOCKS, BLOCKS, dtype=torch.long)
    mask[:, 2:6, 4:] = 1

    def drawn(x: Tensor, side: int, depth: int) -> Tensor:
        factor = side // x.shape[-1]
        big = x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
        return big.unsqueeze(-3).repeat_interleave(depth, -3) if volume else big

    features = _Features(drawn(feature, size // 2, DEPTH // 2))
    return Output(drawn(logits, size, DEPTH), features), drawn(mask, size, DEPTH)


class _Features(dict[str, Tensor]):
    """The same feature under every name; that of a decoder is mirrored, so that two layers differ."""

    def __init__(self, feature: Tensor) -> None:
        super().__init__()
        self.feature = feature

    def __missing__(self, layer: str) -> Tensor:
        return self.feature.flip(-1) if "dec" in layer else self.feature


def made(name: str, volume: bool) -> DistillationMethod:
    """A built method in eval mode, the same every time."""
    torch.manual_seed(0)
    if name == "feature_similarity":
        codes = {
            network: FeatureAutoEncoders(dict.fromkeys(PAIR, CHANNELS), grid=4)
            for network in ("student", "t")
        }
        return FeatureSimilarity(autoencoders=codes)
    of_volumes = {"dimensions": 3} if volume and "dimensions" in METHODS.find(name).options else {}
    method = create_method(name, **OPTIONS.get(name, {}), **of_volumes)
    info = {layer: FeatureInfo(layer, CHANNELS, 2) for layer in method.features}
    method.build(info, {"t": info})
    for module in method.eval().modules():
        if isinstance(module, Memory):
            entries = torch.nn.functional.normalize(torch.randn(BATCH, CHANNELS, 16), dim=1)
            module.store(entries, torch.ones(BATCH, CLASSES, 16), 16)
    return method


def distillation_loss(name: str, size: int, volume: bool) -> float:
    """The mean loss of a student against a teacher."""
    method = made(name, volume)
    targets = []
    for seed, network in ((1, "student"), (2, "t")):
        output, mask = pattern(seed, size, volume)
        targets.append(method.targets(output, mask, network))
    with torch.no_grad():
        return method(targets[0], targets[1], "t").mean().item()


def segmentation_loss(name: str, size: int, volume: bool) -> float:
    """The segmentation loss of a student."""
    output, mask = pattern(1, size, volume)
    assert output.logits is not None
    return float(create_loss(name)(output.logits, mask))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--volume-sizes", type=int, nargs="+", default=[64, 128])
    args = parser.parse_args()
    two_cores()
    found: dict[str, dict[str, float]] = {}
    sides: dict[str, Callable[[str, int, bool], float]] = {
        **dict.fromkeys(METHODS, distillation_loss),
        **dict.fromkeys(LOSSES, segmentation_loss),
    }
    excluded = dict(EXCLUDED)
    for name, measure in sides.items():
        if name in excluded:
            continue
        log(f"{name} ...")
        values = {f"{size}x{size}": measure(name, size, False) for size in args.sizes}
        if name in IMAGES_ONLY:
            excluded[f"{name}, volumes"] = IMAGES_ONLY[name]
        else:
            values |= {f"{DEPTH}x{size}x{size}": measure(name, size, True) for size in args.volume_sizes}
        first = next(iter(values.values()))
        spread = max(abs(value - first) for value in values.values()) / max(abs(first), 1e-12)
        found[name] = {"value": first, "largest_difference": spread, **values}
    worst = max(found, key=lambda name: found[name]["largest_difference"])
    figure = found[worst]["largest_difference"]
    details = {"worst": worst, "losses": found, "excluded": excluded, "bar": BAR, "machine": machine()}
    report(Path(__file__).stem, figure, BAR, figure <= BAR, details, args.json)


if __name__ == "__main__":
    main()
