"""MobileNetV2: AMTD's student, and a U-Net whose decoder has inverted residuals too, LightVessel's student."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.blocks import ConvNormAct, Decoder, repeat_channels, stem_channels
from segdistill.models.network import Network, Output, levels_of, pyramid, pyramid_info
from segdistill.models.registry import register_network

Conv6 = partial(ConvNormAct, bias=False, act=nn.ReLU6)
"""Convolution without bias, batch normalisation, ReLU6."""

STEM, LAST = 32, 1280
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Expansion, channels and number of blocks of the seven stages."""
STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Strides of the stages in the published classifier; the stem halves the size before them."""


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, 1x1; the input is added where it fits.

    >>> import torch
    >>> InvertedResidual(4, 8, stride=2)(torch.zeros(2, 4, 4, 4)).shape
    torch.Size([2, 8, 2, 2])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, expansion: int = 6) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([Conv6(inputs, inner, 1)] if expansion > 1 else []),
            Conv6(inner, inner, stride=stride, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """MobileNetV2 without classifier: returns the maps of the stem, the seven stages and the last 1x1.

    Args:
        in_channels: channels of the image.
        strides: strides of the seven stages, each 1 or 2; without stride nothing is dilated.

    Attributes:
        channels: channels of the nine maps, finest first.
        strides: strides of the nine maps, against the image.

    Raises:
        InputError: not seven strides of 1 or 2.

    Source: Sandler et al. 2018; parameter names equal torchvision's, so that its files load.

    >>> import torch
    >>> maps = MobileNetV2(1).eval()(torch.zeros(1, 1, 32, 32))
    >>> tuple(maps[0].shape), tuple(maps[-1].shape)
    ((1, 32, 16, 16), (1, 1280, 1, 1))
    """

    def __init__(self, in_channels: int = 3, *, strides: tuple[int, ...] = STRIDES) -> None:
        super().__init__()
        if len(strides) != len(STAGES) or not set(strides) <= {1, 2}:
            raise InputError(f"strides is {strides}: MobileNetV2 has seven stages of stride 1 or 2")
        layers: list[nn.Module] = [Conv6(in_channels, STEM, stride=2)]
        self.channels, self.strides, self.ends = [STEM], [2], [0]
        for (expansion, width, count), stride in zip(STAGES, strides, strict=True):
            for i in range(count):
                inputs = width if i else self.channels[-1]
                block = InvertedResidual(inputs, width, stride=1 if i else stride, expansion=expansion)
                layers.append(block)
            self.channels.append(width)
            self.strides.append(stride * self.strides[-1])
            self.ends.append(len(layers) - 1)
        layers.append(Conv6(self.channels[-1], LAST, 1))
        self.channels.append(LAST)
        self.strides.append(self.strides[-1])
        self.ends.append(len(layers) - 1)
        self.features = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> nine maps, finest first."""
        maps: list[Tensor] = []
        current = image
        for i, layer in enumerate(self.features):
            current = layer(current)
            if i in self.ends:
                maps.append(current)
        return maps


SEGMENTER_STRIDES = (1, 1, 2, 1, 1, 2, 1)
LEVELS = (2, 5, 7)
"""The encoder's maps that end a size: of the second, fifth and seventh stage."""


@register_network(
    "mobilenet_v2",
    "MobileNetV2 at an eighth of the size with a 1x1 head: a student of AMTD",
    presets={"amtd": {"repeat_grey": True}, "published": {"repeat_grey": True, "unused_layers": True}},
)
class MobileNetV2Segmenter(Network):
    """MobileNetV2 with two strides removed, a 1x1 convolution to the classes, bilinear up-sampling by 8.

    2,228,996 parameters (preset `published`: 2,562 of them in a classifier that never runs) and
    9.5703 GMAC at 1 x 384 x 384 with two classes (Sandler et al. 2018, as AMTD counted it).

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        repeat_grey: a one-channel image is repeated three times, as in AMTD.
        unused_layers: declares the image classifier, which never runs.

    Besides the common names, features are "low" (the stem) and "high" (the last 1x1, which is "decoder" too),
    which AMTD reads; "encoder" is the last stage.

    >>> import torch
    >>> MobileNetV2Segmenter(1, 2)(torch.zeros(2, 1, 16, 16)).logits.shape
    torch.Size([2, 2, 16, 16])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        repeat_grey: bool = False,
        unused_layers: bool = False,
    ) -> None:
        super().__init__(in_channels, classes, size_divisor=8)
        self.stem_channels = stem_channels(in_channels, repeat_grey)
        self.encoder = MobileNetV2(self.stem_channels, strides=SEGMENTER_STRIDES)
        levels = levels_of(self.encoder)
        shown = [levels[i] for i in LEVELS]
        self.feature_info = pyramid_info(shown, levels[-1:], low=levels[0], high=levels[-1])
        self.head = nn.Conv2d(LAST, classes, 1)
        self.enlarge = nn.Upsample(scale_factor=8, mode="bilinear", align_corners=False)
        if unused_layers:
            self.classifier = nn.Linear(LAST, classes)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        maps = self.encoder(repeat_channels(image, self.stem_channels))
        features = pyramid([maps[i] for i in LEVELS], maps[-1:], low=maps[0], high=maps[-1])
        return Output(self.enlarge(self.head(maps[-1])), features)


UNET_LEVELS = (1, 2, 3, 5, 8)
"""The encoder's maps that the decoder takes: stages 1, 2, 3 and 5 and the last 1x1 convolution."""
NECK = 3
"""Channels between the two convolutions of the head (more where there are more classes)."""


@register_network("mobilenet_v2_unet", "U-Net of inverted residuals: LightVessel's student")
class MobileNetV2UNet(Network):
    """MobileNetV2, four decoder levels of a 4x4 transposed convolution and an inverted residual.

    The decoder ends at half resolution; the logits are brought to full size by bilinear interpolation.
    4,682,323 parameters and 0.9625 GMAC at 1 x 256 x 256 with two classes (Dang et al., LightVessel).

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.

    Besides the common names, features are "pair_encoder" and "pair_decoder" (LightVessel's symmetric pair at
    a quarter of the size).

    >>> import torch
    >>> MobileNetV2UNet(1, 2)(torch.zeros(2, 1, 32, 32)).logits.shape
    torch.Size([2, 2, 32, 32])
    """

    def __init__(self, in_channels: int = 3, classes: int = 2) -> None:
        super().__init__(in_channels, classes, size_divisor=32)
        self.encoder = MobileNetV2(in_channels)
        every = levels_of(self.encoder)
        levels = [every[i] for i in UNET_LEVELS]
        self.feature_info = pyramid_info(levels, levels[:-1], pair_encoder=levels[1], pair_decoder=levels[1])
        widths = [channels for channels, _ in levels]
        self.decoder = Decoder(widths, up="deconv4", block=InvertedResidual)
        neck = max(NECK, classes)
        self.head = nn.Sequential(nn.Conv2d(widths[0], neck, 1), nn.Conv2d(neck, classes, 1))
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        maps = self.encoder(image)
        encoded = [maps[i] for i in UNET_LEVELS]
        decoded = self.decoder(encoded)
        features = pyramid(encoded, decoded, pair_encoder=encoded[1], pair_decoder=decoded[1])
        return Output(self.enlarge(self.head(decoded[0])), features)
