"""What the papers print about each network, in which convention, and what an exact rebuild counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PublishedCost:
    """One row of a published table, or of our own count where the paper gives none.

    Attributes:
        name: registry name of the network.
        paper: whose table it is.
        channels: input channels.
        size: height and width of the input in pixels.
        classes: channels of the logits.
        parameters: exact learnable scalars of the definition that the paper's counts settle.
        gmac: its multiply-accumulates in 10^9.
        preset: the registry's preset, or None for the default.
        options: further options of the network.
        mode: the convention of the paper's own cost (see `complexity`).
        printed_parameters: millions, as printed; None where the paper prints none.
        printed_cost: 10^9, as printed, in the paper's convention.
        printed_mb: size of the stored weights in MiB, as printed.
        note: why the printed figure differs, where it does.

    >>> rows("simplified_unet")[0].parameters
    2162146
    """

    name: str
    paper: str
    channels: int
    size: int
    classes: int
    parameters: int
    gmac: float
    preset: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "mac"
    printed_parameters: float | None = None
    printed_cost: float | None = None
    printed_mb: float | None = None
    note: str = ""


def _lightbtseg(
    name: str, parameters: int, gmac: float, printed: tuple[float, float, float], **more: Any
) -> PublishedCost:
    millions, cost, size = printed
    return PublishedCost(
        name,
        "LightBTSeg",
        3,
        512,
        2,
        parameters,
        gmac,
        mode="torchstat",
        printed_parameters=millions,
        printed_cost=cost,
        printed_mb=size,
        **more,
    )


def _usseg(name: str, parameters: int, gmac: float, **more: Any) -> PublishedCost:
    return PublishedCost(name, "US-SEG", 1, 256, 1, parameters, gmac, **more)


_TEACHER = (106_060_206, 205.580, (106.1, 205.98, 414.0))
_TEACHER_NOTE = "the printed size fits a file that still holds ResNet101's unused ImageNet classifier (8 MiB)"

PUBLISHED: tuple[PublishedCost, ...] = (
    _lightbtseg("unet", 34_527_106, 261.406, (34.5, 262.08, 132)),
    _lightbtseg("unet_plus_plus", 36_629_698, 551.316, (36.6, 552.27, 140), preset="lightbtseg"),
    _lightbtseg(
        "unet_3plus",
        26_974_658,
        791.364,
        (30.0, 792.62, 104),
        note="30.0 M is a misprint: the printed 104 MB and the cost belong to 27.0 M",
    ),
    _lightbtseg("attention_unet", 34_878_638, 265.717, (34.9, 266.47, 134)),
    _lightbtseg("resnet_attention_unet", *_TEACHER, note=_TEACHER_NOTE),
    _lightbtseg("resnet101_attention_unet", *_TEACHER, note=_TEACHER_NOTE),
    _lightbtseg("simplified_unet", 2_162_146, 16.429, (2.2, 16.59, 8.4)),
    _usseg("deep_resunet", 8_222_529, 45.143, note="the original article's 7.8 M leave out the projections"),
    _usseg("deep_resunet", 13_040_705, 70.947, preset="port"),
    _usseg("msu_net", 47_084_545, 75.823),
    _usseg("unet_plus_plus", 9_162_753, 34.448, preset="usseg"),
    _usseg("unet_plus_plus", 36_628_481, 137.749, preset="lightbtseg"),
    _usseg("segnet", 29_442_435, 39.938),
    _usseg("attention_unet", 34_877_421, 66.349),
    _usseg("u2net", 44_008_717, 37.427, preset="full"),
    _usseg("u2net", 1_130_029, 12.568, preset="small"),
    _usseg("unet_3plus", 26_970_625, 197.577),
    _usseg("unet_3plus", 26_988_485, 197.641, options={"deep_supervision": True}),
    _usseg(
        "us_unet", 31_042_369, 48.092, preset="published", note="as released: without deep-supervision heads"
    ),
    _usseg("us_unet", 31_043_268, 48.096),
)
"""One row per (name, preset, options, channels, classes, size)."""


def rows(name: str) -> list[PublishedCost]:
    """The rows of one network, in the papers' order; empty where no paper counts it.

    >>> [row.paper for row in rows("attention_unet")]
    ['LightBTSeg', 'US-SEG']
    """
    return [row for row in PUBLISHED if row.name == name]


def difference(value: float, published: float | None) -> float | None:
    """(value - published) / published, or None when nothing was published.

    >>> difference(27.0, 30.0)
    -0.1
    """
    return None if published is None else (value - published) / published
