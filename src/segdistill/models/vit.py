"""Vision transformer as a classifier of whole images, from MONAI's blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets.vit import ViT
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.network import Network, require_positive
from segdistill.models.output import FeatureInfo, Output

PATCH = 16


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
