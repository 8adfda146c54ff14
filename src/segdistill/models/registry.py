"""Every network by name: a plain dict, and `create_network`, which checks what it is given."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from segdistill.errors import InputError, MissingExtra
from segdistill.options import fit_option, option_types
from segdistill.registry import near_names

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["segmenter", "classifier", "joint", "discriminator"]


@dataclass(frozen=True)
class ModelEntry:
    """One network of the registry; nothing is imported until it is built.

    Attributes:
        target: "module:Class" below segdistill.models.
        summary: one line for `segdistill list models`.
        kind: what it returns: a segmenter logits, a classifier a label, a joint network both.
        options: options that make this name out of the class (a second name of one class).
        presets: preset name -> options, where one name means several networks.
        cpu_precision: what the training setting `auto` means on a CPU that has bf16: fp32 for the networks whose
            step it makes slower (docs/results/networks-speed.md).
    """

    target: str
    summary: str
    kind: Kind = "segmenter"
    options: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cpu_precision: Literal["bf16", "fp32"] = "bf16"

    def build(self) -> Any:
        """The class (or function) that makes the network; imports it.

        Raises:
            MissingExtra: torch is not installed.
        """
        module, _, name = self.target.partition(":")
        try:
            return getattr(importlib.import_module(f"segdistill.models.{module}"), name)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("segdistill"):
                raise
            raise MissingExtra("building a network", "train") from error


RESNET_TEACHER = "resnet_attention_unet:ResNetAttentionUNet"

LANET_PRESETS = {"original": {"sam": "original", "squeeze": 1}}

MODELS: dict[str, ModelEntry] = {
    "unet": ModelEntry("unet:UNet", "U-Net, nearest up-sampling with 3x3 convolutions"),
    "simplified_unet": ModelEntry("unet:SimplifiedUNet", "U-Net, quarter width: LightBTSeg's student"),
    "attention_unet": ModelEntry("unet:AttentionUNet", "U-Net with an attention gate on each skip"),
    "resnet_attention_unet": ModelEntry(RESNET_TEACHER, "ResNet encoder, gated skips: LightBTSeg's teacher"),
    "resnet101_attention_unet": ModelEntry(
        RESNET_TEACHER, "LightBTSeg's teacher at its published depth", options={"depth": 101}
    ),
    "unet_plus_plus": ModelEntry(
        "unet_plus_plus:UNetPlusPlus",
        "U-Net with nested skip paths",
        presets={
            "lightbtseg": {"widths": (64, 128, 256, 512, 1024)},
            "usseg": {"widths": (32, 64, 128, 256, 512)},
        },
    ),
    "unet_3plus": ModelEntry("unet_3plus:UNet3Plus", "U-Net whose decoder levels see every scale"),
    "deep_resunet": ModelEntry(
        "deep_resunet:DeepResUNet",
        "U-Net of pre-activation residual units",
        presets={"port": {"projection": 3, "decoder_up": "deconv2"}},
    ),
    "msu_net": ModelEntry("msu_net:MSUNet", "U-Net of parallel 3x3 and 7x7 double convolutions"),
    "segnet": ModelEntry("segnet:SegNet", "VGG16 encoder, mirrored decoder that unpools by index"),
    "u2net": ModelEntry(
        "u2net:U2Net",
        "U of residual U-blocks, supervised at six scales",
        presets={"full": {"scale": "full"}, "small": {"scale": "small"}},
    ),
    "us_unet": ModelEntry(
        "unet:USUNet",
        "U-Net with a head on every decoder stage: US-SEG's generator",
        presets={"published": {"stages": 1}},
    ),
    "enet": ModelEntry(
        "enet:ENet",
        "thin dilated bottlenecks, unpooling by index: a student of AMTD and LightVessel",
        presets={
            "lightvessel": {"dialect": "lightvessel"},
            "amtd": {"dialect": "amtd", "repeat_grey": True},
            "amtd_published": {"dialect": "amtd", "repeat_grey": True, "unused_layers": True},
        },
    ),
    "erfnet": ModelEntry(
        "erfnet:ERFNet",
        "factorised residual convolutions: a student of LightVessel",
        presets={"published": {"unused_layers": True}},
    ),
    "espnet": ModelEntry(
        "espnet:ESPNet",
        "spatial pyramids of thin dilated convolutions: a student of AMTD",
        presets={"amtd": {"repeat_grey": True}},
    ),
    "mobilenet_v2": ModelEntry(
        "mobilenet:MobileNetV2Segmenter",
        "MobileNetV2 at an eighth of the size with a 1x1 head: a student of AMTD",
        presets={
            "amtd": {"repeat_grey": True},
            "published": {"repeat_grey": True, "unused_layers": True},
        },
    ),
    "mobilenet_v2_unet": ModelEntry(
        "mobilenet:MobileNetV2UNet", "U-Net of inverted residuals: LightVessel's student"
    ),
    "sk_unet": ModelEntry(
        "sk_unet:SKUNet",
        "U-Net whose encoder chooses between kernel sizes: LightVessel's teacher",
        presets={
            "counted": {"decoder": "counted", "reduction": 4},
            "A": {"decoder": "plain", "reduction": 2},
            "B": {"decoder": "light", "reduction": 2},
        },
    ),
    "pspnet_resnet50": ModelEntry(
        "pspnet:PSPNet",
        "dilated ResNet-50 and a pyramid of pooled maps: a teacher of AMTD",
        presets={"amtd": {"repeat_grey": True}},
    ),
    "deeplabv3plus_resnet50": ModelEntry(
        "deeplab:DeepLabV3Plus",
        "dilated ResNet-50, atrous pyramid, decoder: AMTD's teacher as its text says",
        options={"backbone": "resnet50"},
    ),
    "deeplabv3plus_xception65": ModelEntry(
        "deeplab:DeepLabV3Plus",
        "Xception-65, atrous pyramid, decoder: AMTD's teacher as its table counts",
        options={"backbone": "xception65"},
        presets={"published": {"unused_layers": True}},
    ),
    "deeplabv3_resnet50": ModelEntry(
        "deeplab:DeepLabV3", "dilated ResNet-50 and an atrous pyramid: LA-Net's localisation baseline"
    ),
    "fcn_resnet101": ModelEntry(
        "resnet_segmenter:FCNResNet101",
        "dilated ResNet-101 with a 3x3 head: a teacher of AMTD",
        presets={
            "standard": {"head": "standard"},
            "counted": {"head": "single"},
            "published": {"head": "single", "unused_layers": True},
        },
    ),
    "resnext101_32x8d": ModelEntry(
        "resnet_segmenter:ResNeXt101", "ResNeXt-101 with a 1x1 head at stride 32: a teacher of AMTD"
    ),
    "lanet_resnet18": ModelEntry(
        "lanet:LANet",
        "ResNet-18 whose attention localises a lesion and guides the classifier",
        kind="joint",
        options={"depth": 18},
        presets=LANET_PRESETS,
    ),
    "lanet_resnet50": ModelEntry(
        "lanet:LANet",
        "ResNet-50 whose attention localises a lesion and guides the classifier",
        kind="joint",
        options={"depth": 50},
        presets=LANET_PRESETS,
    ),
    "rmtl_resnet18": ModelEntry(
        "rmtl:RMTL", "ResNet-18 with a mask head beside the classifier", kind="joint", options={"depth": 18}
    ),
    "rmtl_resnet50": ModelEntry(
        "rmtl:RMTL", "ResNet-50 with a mask head beside the classifier", kind="joint", options={"depth": 50}
    ),
    "agn": ModelEntry("agn:AGN", "AG-Sononet: a classifier that shows what it attended to", kind="joint"),
    "simplified_unet_joint": ModelEntry(
        "unet:SimplifiedUNetJoint", "U-Net, quarter width, with a class for the image", kind="joint"
    ),
    "resnet18": ModelEntry(
        "classifiers:ResNetClassifier", "ResNet-18", kind="classifier", options={"depth": 18}
    ),
    "resnet50": ModelEntry(
        "classifiers:ResNetClassifier", "ResNet-50", kind="classifier", options={"depth": 50}
    ),
    "efficientnet_b0": ModelEntry(
        "classifiers:EfficientNetB0",
        "EfficientNet-B0, from MONAI",
        kind="classifier",
        cpu_precision="fp32",
    ),
    "vit_b16": ModelEntry(
        "classifiers:VisionTransformer",
        "vision transformer on 16 x 16 patches, from MONAI",
        kind="classifier",
    ),
    "multi_scale_discriminator": ModelEntry(
        "discriminator:MultiScaleDiscriminator", "one patch critic per stage: US-SEG's", kind="discriminator"
    ),
}

EXTERNAL = ModelEntry("external:External", "any network by its import path, see models/external.py")
"""What "external", and every name with a colon, means; not in `MODELS`, because it is nothing without a target."""


def create_network(
    name: str, in_channels: int = 3, classes: int = 2, *, preset: str | None = None, **options: Any
) -> nn.Module:
    """Builds a network by its registry name.

    Args:
        name: a key of `MODELS`; or "module:callable" for another's network, short for the name "external" with
            the option `target` (see `external.External` for its other options).
        in_channels: channels of the image.
        classes: channels of the logits; 1 means one sigmoid logit.
        preset: a named set of options, where the name means several networks.
        options: what the network's constructor takes; they win over the preset.

    Raises:
        InputError: unknown name (with near names), preset or option, or an option of the wrong type.

    >>> create_network("simplified_unet", in_channels=1, widths=[4, 8]).size_divisor
    2
    >>> create_network("vit_b17")
    Traceback (most recent call last):
    ...
    segdistill.errors.InputError: unknown network 'vit_b17': did you mean 'vit_b16'?
    """
    entry = find(name)
    if entry is EXTERNAL and ":" in name:
        if options.setdefault("target", name) != name:
            raise InputError(f"target {options['target']!r} is not {name}: name the network once")
        name = "external"
    if preset is not None and preset not in entry.presets:
        raise InputError(f"unknown preset '{preset}' of {name}: {near_names(preset, entry.presets)}")
    chosen = {**(entry.presets[preset] if preset else {}), **options}
    for fixed in entry.options:
        if fixed in options:
            raise InputError(f"option {fixed!r} of {name} is fixed by its name: leave it out")
    build = entry.build()
    known = option_types(build)
    given = {"in_channels": in_channels, "classes": classes, **chosen, **entry.options}
    if "classes" not in known:  # a discriminator has none
        given.pop("classes")
    return typing.cast("nn.Module", build(**_checked(name, known, given, hidden=set(entry.options))))


def find(name: str) -> ModelEntry:
    """The registry's entry of that name.

    Raises:
        InputError: unknown name, with the near ones.

    >>> find("unet").kind
    'segmenter'
    """
    if name == "external" or ":" in name:
        return EXTERNAL
    if name not in MODELS:
        raise InputError(f"unknown network '{name}': {near_names(name, MODELS)}")
    return MODELS[name]


def _checked(name: str, known: dict[str, Any], given: dict[str, Any], hidden: set[str]) -> dict[str, Any]:
    valid = [option for option in known if option not in hidden and option not in ("in_channels", "classes")]
    for option, value in given.items():
        if option not in known:
            raise InputError(f"unknown option '{option}' of {name}: {near_names(option, valid)}")
        given[option] = fit_option(f"option {option!r} of {name}", value, known[option])
    return given
