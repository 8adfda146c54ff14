"""LA-Net: a lesion map from all ResNet stages, which guides the classifier."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.models.blocks import enlarge_like
from segdistill.models.efficientnet_lite import EfficientNetLite, Variant
from segdistill.models.lesion_map import enlarge_probability, lesion_probability, maps_for, two_sided
from segdistill.models.network import Network, Output, levels_of, pyramid, pyramid_info, require_positive
from segdistill.models.registry import register_network
from segdistill.models.resnet import ResNet

Spatial = Literal["three_3x3", "original", "off"]
"""Three 3x3 convolutions (LA-Net's release), one of 7x7 (the original CBAM), or none."""


class ChannelAttention(nn.Module):
    """Weights channels by a shared two-layer perceptron of their mean and their maximum.

    >>> ChannelAttention(32)(torch.zeros(2, 32, 4, 4)).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.shared = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        weight = torch.sigmoid(self.shared(x.mean(dim=(2, 3))) + self.shared(x.amax(dim=(2, 3))))
        return x * weight[:, :, None, None]


class SpatialAttention(nn.Module):
    """Weights positions by convolutions of the maximum and mean over channels; no bias, batch norm.

    >>> SpatialAttention("original")(torch.zeros(2, 32, 4, 4)).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(self, kind: Literal["three_3x3", "original"] = "three_3x3") -> None:
        super().__init__()
        shapes = [(2, 1, 7)] if kind == "original" else [(2, 8, 3), (8, 8, 3), (8, 1, 3)]
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in shapes:
            layers.append(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))
            layers.append(nn.BatchNorm2d(outputs, momentum=0.01))
            layers.append(nn.ReLU(inplace=True))
        self.convs = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        seen = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        weighted: Tensor = x * torch.sigmoid(self.convs(seen))
        return weighted


class CBAM(nn.Sequential):
    """Channel attention, then spatial attention; each is optional.

    >>> len(CBAM(32, channel=False, spatial="off"))
    0
    """

    def __init__(self, channels: int, *, channel: bool = True, spatial: Spatial = "three_3x3") -> None:
        parts: list[nn.Module] = [ChannelAttention(channels)] if channel else []
        if spatial != "off":
            parts.append(SpatialAttention(spatial))
        super().__init__(*parts)


@register_network(
    "lanet_resnet18",
    "ResNet-18 whose attention localises a lesion and guides the classifier",
    kind="joint",
    fixed={"depth": 18},
    presets={"original": {"sam": "original", "squeeze": 1}},
)
@register_network(
    "lanet_resnet50",
    "ResNet-50 whose attention localises a lesion and guides the classifier",
    kind="joint",
    fixed={"depth": 50},
    presets={"original": {"sam": "original", "squeeze": 1}},
)
class LANet(Network):
    """ResNet, CBAM on each stage, one map per stage, fused to a lesion map that weights the last stage.

    At three channels and two classes 11,234,065 parameters (ResNet-18) and 24,250,437 (ResNet-50), of which
    56,527 and 738,307 are LA-Net's; preset `original` (7x7 spatial attention, 1x1 squeeze): 11,223,481 and
    24,216,813, 2.370 and 5.342 GMAC at 3 x 256 x 256 (Fan et al. 2023). Any size works.

    `label` is the class of the image. `deep[0]` is the lesion map at a thirty-second of the size, which is
    what the paper's loss compares with the reduced mask; `logits` is that map's probability, bilinearly
    enlarged. One or two classes share one map; more have one each, and all but the first guide the classifier.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits (the mask's classes).
        labels: classes of the whole image.
        depth: 18, 34, 50 or 101.
        cam: channel attention on each stage.
        sam: spatial attention on each stage, see `Spatial`.
        mam: mask attention: the classifier sees f + f x map instead of f.
        squeeze: kernel of the convolutions that bring a stage to one map.
        base: planes of the encoder's first stage, 64 in the literature.

    "decoder" is the four squeezed maps side by side.

    >>> output = LANet(1, 2, base=16).eval()(torch.zeros(1, 1, 64, 64))
    >>> output.logits.shape, output.deep[0].shape, output.label.shape
    (torch.Size([1, 2, 64, 64]), torch.Size([1, 2, 2, 2]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        labels: int = 2,
        depth: Literal[18, 34, 50, 101] = 18,
        cam: bool = True,
        sam: Spatial = "three_3x3",
        mam: bool = True,
        squeeze: Literal[1, 3] = 3,
        base: int = 64,
    ) -> None:
        super().__init__(in_channels, classes)
        self._build(ResNet(depth, in_channels, base=base), labels, cam=cam, sam=sam, mam=mam, squeeze=squeeze)

    def _build(
        self,
        encoder: ResNet | EfficientNetLite,
        labels: int,
        *,
        cam: bool,
        sam: Spatial,
        mam: bool,
        squeeze: Literal[1, 3],
    ) -> None:
        """Everything behind the feature extractor, which gives five maps at strides 2 to 32."""
        require_positive(labels=labels)
        self.encoder, classes = encoder, self.classes
        levels = levels_of(self.encoder)
        stages, maps = encoder.channels[1:], maps_for(classes)
        self.feature_info = pyramid_info(levels, [(len(stages), levels[-1][1])])
        self.attention = nn.ModuleList(CBAM(width, channel=cam, spatial=sam) for width in stages)
        self.squeeze = nn.ModuleList(nn.Conv2d(width, 1, squeeze, padding=squeeze // 2) for width in stages)
        self.fuse = nn.Sequential(nn.Conv2d(len(stages), maps, 3, padding=1), nn.BatchNorm2d(maps))
        self.mam = mam
        self.classifier = nn.Linear(stages[-1], labels)
        for part in (self.attention, self.squeeze, self.fuse, self.classifier):
            for module in part.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W), `deep`, label (B, labels), features."""
        self.check(image)
        maps = self.encoder(image)
        last = maps[-1]
        squeezed = [
            enlarge_like(conv(attention(map_)), last, corners=True)
            for conv, attention, map_ in zip(self.squeeze, self.attention, maps[1:], strict=True)
        ]
        joined = torch.cat(squeezed, dim=1)
        lesion = self.fuse(joined)
        attended = last + last * lesion_probability(lesion) if self.mam else last
        return Output(
            enlarge_probability(lesion, image, self.classes),
            pyramid(maps, [joined]),
            deep=[two_sided(lesion, self.classes)],
            label=self.classifier(attended.mean(dim=(2, 3))),
        )


@register_network(
    "lanet_efficientnet_lite",
    "EfficientNet-Lite whose attention localises a lesion and guides the classifier; can start from ImageNet",
    kind="joint",
    presets={"original": {"sam": "original", "squeeze": 1}},
    cpu_precision="fp32",
)
class LANetEfficientNetLite(LANet):
    """LA-Net on EfficientNet-Lite 0, 1 or 2, which the paper names as another extractor (Fan et al. 2023, section 1).

    With `pretrained: imagenet` in the recipe it starts from ImageNet, as the paper's ResNets do, without a file of
    weights (extra `pretrained`). Height and width are multiples of 32. At three channels and two classes 2,982,403
    parameters and 0.481 GMAC at 3 x 256 x 256 (variant 0).

    Args:
        in_channels: channels of the image, whose values are from 0 to 1. ImageNet weights fit any number.
        classes: channels of the logits (the mask's classes).
        labels: classes of the whole image.
        variant: EfficientNet-Lite 0, 1 or 2.
        cam: channel attention on each stage.
        sam: spatial attention on each stage, see `Spatial`.
        mam: mask attention: the classifier sees f + f x map instead of f.
        squeeze: kernel of the convolutions that bring a stage to one map.

    >>> output = LANetEfficientNetLite(1, 2).eval()(torch.zeros(1, 1, 64, 64))
    >>> output.logits.shape, output.deep[0].shape, output.label.shape
    (torch.Size([1, 2, 64, 64]), torch.Size([1, 2, 2, 2]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        labels: int = 2,
        variant: Variant = 0,
        cam: bool = True,
        sam: Spatial = "three_3x3",
        mam: bool = True,
        squeeze: Literal[1, 3] = 3,
    ) -> None:
        Network.__init__(self, in_channels, classes, size_divisor=32)
        encoder = EfficientNetLite(in_channels, variant=variant)
        self._build(encoder, labels, cam=cam, sam=sam, mam=mam, squeeze=squeeze)
