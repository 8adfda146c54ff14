"""What the papers print about the cost of each network, and what an exact rebuild counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from segdistill.errors import InputError
from segdistill.models.complexity import complexity
from segdistill.models.registry import network_facts


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


def _amtd(
    name: str, parameters: int, gmac: float, printed: tuple[float, float] | None = None, **more: Any
) -> PublishedCost:
    millions, cost = printed or (None, None)
    return PublishedCost(
        name,
        "AMTD",
        1,
        384,
        2,
        parameters,
        gmac,
        mode="ptflops2",
        printed_parameters=millions,
        printed_cost=cost,
        **more,
    )


def _lightvessel(
    name: str, parameters: int, gmac: float, printed: tuple[float, float] | None = None, **more: Any
) -> PublishedCost:
    millions, cost = printed or (None, None)
    row = PublishedCost(name, "LightVessel", 1, 256, 2, parameters, gmac, **more)
    return replace(row, printed_parameters=millions, printed_cost=cost)


def _lanet(name: str, parameters: int, gmac: float, **more: Any) -> PublishedCost:
    return PublishedCost(
        name, "LA-Net", 3, more.pop("size", 256), more.pop("classes", 2), parameters, gmac, **more
    )


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
    _usseg(
        "deep_resunet", 8_222_529, 45.143, note="the original article's 7.8 M are without the projections"
    ),
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
    _amtd("espnet", 183_725, 0.614521, (0.183, 1.27), preset="amtd"),
    _amtd(
        "enet",
        353_761,
        1.023898,
        (0.353, 2.2),
        preset="amtd_published",
        note="with the bottleneck of 17,795 parameters that AMTD's network declares and never runs",
    ),
    _amtd("enet", 335_966, 1.023898, preset="amtd", note="without the bottleneck that never runs"),
    _amtd(
        "mobilenet_v2",
        2_228_996,
        9.570337,
        (2.23, 19.84),
        preset="published",
        note="with the image classifier of 2,562 parameters that never runs",
    ),
    _amtd("mobilenet_v2", 2_226_434, 9.570337, preset="amtd", note="without the classifier that never runs"),
    _lightvessel(
        "sk_unet",
        26_478_114,
        80.279501,
        (26.489, 78.76),
        preset="counted",
        mode="torchstat_sync",
        note="the paper leaves the decoder open: this one is inferred from the counts, which it meets to 0.05 %",
    ),
    _lightvessel("sk_unet", 29_153_538, 100.412682, preset="A", note="the textbook U-Net decoder"),
    _lightvessel("sk_unet", 26_489_282, 80.346083, preset="B", note="made to fit the printed parameters"),
    _lightvessel(
        "mobilenet_v2_unet",
        4_682_323,
        0.962519,
        (4.682, 0.804),
        mode="torchstat_sync",
        note="the printed cost is without transposed convolutions and batch normalisation",
    ),
    _lightvessel(
        "enet",
        348_996,
        0.461029,
        (0.349, 0.516),
        preset="lightvessel",
        mode="thop",
        note="counted with another tool than the paper's other rows",
    ),
    _lightvessel(
        "erfnet",
        2_063_130,
        3.304178,
        (2.063, 3.22),
        preset="published",
        mode="torchstat",
        note="with 258 parameters that never run; the printed cost is without transposed convolutions",
    ),
    _lightvessel("erfnet", 2_062_872, 3.304178, note="without the 1x1 convolution that never runs"),
    _amtd("pspnet_resnet50", 46_706_626, 103.587774, (46.71, 207.7), preset="amtd"),
    _amtd(
        "fcn_resnet101",
        51_946_967,
        99.479716,
        (51.96, 199.74),
        preset="published",
        note="the printed cost is that of the body and one 1x1 convolution; the printed parameters include a "
        "21-class head of 9,448,981 that never runs",
    ),
    _amtd("fcn_resnet101", 42_497_986, 99.479716, preset="counted", note="without the head that never runs"),
    _amtd(
        "fcn_resnet101",
        51_933_122,
        121.215910,
        preset="standard",
        note="the network of the paper's text: its head runs, which costs 22 % more than the table prints",
    ),
    _amtd(
        "deeplabv3plus_xception65",
        56_795_962,
        136.239030,
        (56.8, 273.94),
        preset="published",
        note="the paper's text has ResNet-50, its table counts Xception-65 with an image classifier of "
        "2,049,000 that never runs",
    ),
    _amtd("deeplabv3plus_xception65", 54_746_962, 136.239030, note="without the classifier that never runs"),
    PublishedCost("deeplabv3plus_resnet50", "AMTD", 3, 384, 2, 40_347_298, 102.651134, mode="ptflops2"),
    PublishedCost(
        "deeplabv3plus_resnet50",
        "AMTD",
        3,
        384,
        2,
        40_347_298,
        38.893519,
        options={"output_stride": 16},
        mode="ptflops2",
    ),
    _amtd("resnext101_32x8d", 86_740_162, 48.000467, (86.74, 96.54)),
    _lanet("lanet_resnet18", 11_234_065, 2.377556),
    _lanet("lanet_resnet18", 11_223_481, 2.369848, preset="original"),
    _lanet("lanet_resnet50", 24_250_437, 5.361703),
    _lanet("lanet_resnet50", 24_216_813, 5.342199, preset="original"),
    _lanet("lanet_efficientnet_lite", 2_982_403, 0.481252),
    _lanet("rmtl_resnet18", 12_506_181, 2.484340),
    _lanet("rmtl_resnet50", 28_379_717, 5.680402),
    _lanet("deeplabv3_resnet50", 39_633_729, 40.890008, classes=1),
    _lanet("resnet18", 11_177_538, 2.368734),
    _lanet("resnet50", 23_512_130, 5.338304),
    _lanet("efficientnet_b0", 4_010_110, 0.502060),
    _lanet("vit_b16", 85_799_426, 16.847734, size=224, note="attention's own products are not counted"),
    _lanet(
        "vit_b16",
        85_845_506,
        21.979203,
        options={"image_size": 256},
        note="attention's own products are not counted",
    ),
)
"""One row per (name, preset, options, channels, classes, size)."""


def rows(name: str) -> list[PublishedCost]:
    """The rows of one network, in the papers' order; empty where no paper counts it.

    >>> [row.paper for row in rows("attention_unet")]
    ['LightBTSeg', 'US-SEG']
    """
    return [row for row in PUBLISHED if row.name == name]


@cache
def published_cost(paper: str, network: str) -> dict[str, tuple[float, float]]:
    """What a paper prints of a network's cost, and what a rebuild counts in the paper's convention.

    Args:
        paper: its title, such as "AMTD".
        network: NAME or NAME/PRESET of one of its rows.

    Returns:
        (printed, counted) of "parameters", "operations" and "mb" (MiB of the stored weights), where they are printed.

    Raises:
        InputError: the paper has no such row.

    >>> published_cost("LightBTSeg", "simplified_unet")["parameters"]
    (2200000.0, 2162146)
    """
    name, _, preset = network.partition("/")
    found = [row for row in rows(name) if row.paper == paper and (row.preset or "") == preset]
    if not found:
        raise InputError(f"{paper} has no cost of '{network}'")
    row = _compare(found[0])
    pairs = {
        "parameters": (row["published_parameters"], row["parameters"]),
        "operations": (row["published_cost"], row["cost"]),
        "mb": (row["published_size_mb"], row["size_mb"]),
    }
    return {key: pair for key, pair in pairs.items() if pair[0] is not None}


def difference(value: float, published: float | None) -> float | None:
    """(value - published) / published, or None when nothing was published.

    >>> difference(27.0, 30.0)
    -0.1
    """
    return None if published is None else (value - published) / published


def measure_cost(
    name: str, image: tuple[int, int, int], classes: int, *, preset: str | None = None, mode: str = "mac"
) -> dict[str, Any]:
    """One network's cost as plain types, beside its published rows, each counted at the row's own setting.

    Args:
        name: of a network.
        image: (channels, height, width); a discriminator sees probability maps, so it has one channel instead.
        classes: channels of the logits.
        preset: of the network; only its rows are compared.
        mode: see `complexity.MODES`.

    Raises:
        InputError: as `complexity`.

    >>> measure_cost("simplified_unet", (3, 512, 512), 2)["parameters"]
    2162146
    """
    if network_facts(name).kind == "discriminator":
        image = (1, *image[1:])
    cost = complexity(name, image, mode, classes=classes, preset=preset)
    return {
        "name": name,
        "preset": preset,
        "input": list(image),
        "classes": classes,
        "mode": cost.mode,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "size_mb": round(cost.size_mb, 3),
        "unused_parameters": cost.unused,
        "published": [_compare(row) for row in rows(name) if preset in (None, row.preset)],
    }


def _compare(row: PublishedCost) -> dict[str, Any]:
    image = (row.channels, row.size, row.size)
    settings = {"classes": row.classes, "preset": row.preset, **row.options}
    plain = complexity(row.name, image, **settings)
    own = plain if row.mode == "mac" else complexity(row.name, image, row.mode, **settings)
    printed_parameters = None if row.printed_parameters is None else row.printed_parameters * 1e6
    printed_cost = None if row.printed_cost is None else row.printed_cost * 1e9
    return {
        "paper": row.paper,
        "preset": row.preset,
        "options": dict(row.options),
        "input": list(image),
        "classes": row.classes,
        "parameters": plain.parameters,
        "published_parameters": printed_parameters,
        "parameters_difference": difference(plain.parameters, printed_parameters),
        "macs": plain.macs,
        "mode": row.mode,
        "cost": own.macs,
        "published_cost": printed_cost,
        "cost_difference": difference(own.macs, printed_cost),
        "size_mb": round(plain.size_mb, 3),
        "published_size_mb": row.printed_mb,
        "size_difference": difference(plain.size_mb, row.printed_mb),
        "note": row.note,
    }
