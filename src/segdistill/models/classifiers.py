"""Classifiers of whole images: ResNet, EfficientNet-B0 and a vision transformer."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.network import (
    FeatureInfo,
    Network,
    Output,
    pyramid,
    pyramid_info,
    require_positive,
    require_share,
)
from segdistill.models.registry import register_network
from segdistill.models.resnet import ResNet


@register_network("resnet18", "ResNet-18", kind="classifier", fixed={"depth": 18})
@register_network("resnet50", "ResNet-50", kind="classifier", fixed={"depth": 50})
class ResNetClassifier(Network):
    """ResNet, average pooling, one linear layer.

    At three channels and two classes 11,177,538 parameters (ResNet-18) and 23,512,130 (ResNet-50), 2.369 and
    5.338 GMAC at 3 x 256 x 256 (He et al. 2016). Any size works.

    Args:
        in_channels: channels of the image.
        classes: channels of `label`.
        depth: 18, 34, 50 or 101.
        base: planes of the encoder's first stage, 64 in the literature.

    >>> import torch
    >>> ResNetClassifier(1, 2, base=4).eval()(torch.zeros(1, 1, 33, 40)).label.shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        depth: Literal[18, 34, 50, 101] = 18,
        base: int = 64,
    ) -> None:
        super().__init__(in_channels, classes)
        self.encoder = ResNet(depth, in_channels, base=base)
        self.feature_info = pyramid_info(list(zip(self.encoder.channels, self.encoder.strides, strict=True)))
        self.classifier = nn.Linear(self.encoder.channels[-1], classes)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> label (B, classes) and features enc1.. (stem first)."""
        self.check(image)
        maps = self.encoder(image)
        return Output(None, pyramid(maps), label=self.classifier(maps[-1].mean(dim=(2, 3))))


LEVELS = (0, 1, 2, 4)
"""Stages that end a size; the head's map ends the last."""
CHANNELS = (16, 24, 40, 112, 1280)
NORM = ("batch", {"eps": 1e-3, "momentum": 0.1})
"""MONAI's momentum of 0.01 needs hundreds of steps until evaluation agrees with training."""


@register_network("efficientnet_b0", "EfficientNet-B0, from MONAI", kind="classifier", cpu_precision="fp32")
class EfficientNetB0(Network):
    """MONAI's EfficientNet-B0 with a new classifier.

    4,010,110 parameters at three channels and two classes (Tan and Le 2019, as LA-Net compares with it).

    Args:
        in_channels: channels of the image.
        classes: channels of `label`.
        dropout: share of the pooled vector that training drops.

    >>> import torch
    >>> EfficientNetB0(1, 2).eval()(torch.zeros(1, 1, 32, 64)).label.shape
    torch.Size([1, 2])
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, *, dropout: float = 0.25) -> None:
        from monai.networks.nets.efficientnet import EfficientNetBN  # takes seconds

        super().__init__(in_channels, classes, size_divisor=32)
        require_share(dropout=dropout)
        self.feature_info = pyramid_info([(width, 2 ** (i + 1)) for i, width in enumerate(CHANNELS)])
        self.encoder = EfficientNetBN(
            "efficientnet-b0", pretrained=False, in_channels=in_channels, num_classes=classes, norm=NORM
        )
        self.encoder.set_swish(memory_efficient=False)  # the other one cannot be exported
        del self.encoder._fc
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(CHANNELS[-1], classes)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> label (B, classes) and features enc1.. to enc5."""
        self.check(image)
        net = self.encoder
        current = net._swish(net._bn0(net._conv_stem(net._conv_stem_padding(image))))
        stages: list[Tensor] = []
        for stage in net._blocks:
            current = stage(current)
            stages.append(current)
        last = net._swish(net._bn1(net._conv_head(net._conv_head_padding(current))))
        label = self.classifier(self.dropout(last.mean(dim=(2, 3))))
        return Output(None, pyramid([*(stages[i] for i in LEVELS), last]), label=label)


PATCH = 16


@register_network("vit_b16", "vision transformer on 16 x 16 patches, from MONAI", kind="classifier")
class VisionTransformer(Network):
    """ViT-B/16: patches of 16 x 16 pixels, twelve transformer blocks, a linear layer on the class token.

    At three channels and two classes 85.80 M parameters for images of 224 x 224 and 85.85 M for 256 x 256: one position
    embedding per patch (Dosovitskiy et al. 2021). At another size the position embeddings are interpolated.

    Args:
        in_channels: channels of the image.
        classes: channels of `label`.
        image_size: height (= width) in pixels that the position embeddings are made for.
        width: channels of a token.
        layers: transformer blocks.
        heads: attention heads per block.

    The only feature is "encoder": the normalised patch tokens as a map.

    >>> tiny = VisionTransformer(1, 2, image_size=32, width=16, layers=1, heads=2).eval()
    >>> tiny(torch.zeros(1, 1, 64, 48)).label.shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        image_size: int = 224,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
    ) -> None:
        from monai.networks.nets.vit import ViT  # takes seconds

        super().__init__(in_channels, classes, size_divisor=PATCH)
        require_positive(image_size=image_size, width=width, layers=layers, heads=heads)
        if image_size % PATCH:
            raise InputError(f"image_size {image_size} is not divisible by {PATCH}: use a multiple of it")
        if width % heads:
            raise InputError(f"width {width} is not divisible by {heads} heads: use a multiple")
        self.feature_info = [FeatureInfo("encoder", width, PATCH)]
        self.grid = image_size // PATCH
        self.encoder = ViT(
            in_channels,
            image_size,
            PATCH,
            hidden_size=width,
            mlp_dim=4 * width,
            num_layers=layers,
            num_heads=heads,
            spatial_dims=2,
            qkv_bias=True,
        )
        for block in self.encoder.blocks:  # declared for cross-attention, which never runs here
            block.norm_cross_attn, block.cross_attn = nn.Identity(), nn.Identity()
        del self.encoder.patch_embedding.position_embeddings
        self.positions = nn.Parameter(torch.empty(1, width, self.grid, self.grid))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.classifier = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> label (B, classes) and the feature "encoder"."""
        self.check(image)
        patches = self.encoder.patch_embedding.patch_embeddings(image)
        batch, width, height, length = patches.shape
        tokens = (patches + self._resized(height, length)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(batch, -1, -1), tokens], dim=1)
        for block in self.encoder.blocks:
            tokens = block(tokens)
        tokens = self.encoder.norm(tokens)
        map_ = tokens[:, 1:].transpose(1, 2).reshape(batch, width, height, length)
        return Output(None, {"encoder": map_}, label=self.classifier(tokens[:, 0]))

    def _resized(self, height: int, width: int) -> Tensor:
        if (height, width) == (self.grid, self.grid):
            return self.positions
        return F.interpolate(self.positions, size=(height, width), mode="bicubic", align_corners=False)
