"""LightVessel's MLP auto-encoders: features of any network as latent vectors of one length.

One auto-encoder belongs to one tap of one network. They are trained beforehand, on the frozen network
(training/reconstruction.py), and are frozen themselves when `feature_similarity` uses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.knowledge.taps import tapped
from segdistill.options import fit_option

Latent = Literal["vector", "per_channel"]
Pairs = str | Sequence[int] | Sequence[Sequence[str]]

PAIR = ("pair_encoder|enc@4", "pair_decoder|dec@4")
"""The symmetric pair at a quarter of the image's size that LightVessel's group uses: networks that name one as their
paper has it are taken at their word, in others it is the end of the encoder's and of the decoder's stride 4."""


def parse_pairs(taps: Pairs) -> tuple[tuple[str, str], ...]:
    """Pairs of (encoder, decoder) taps: "pair" for the published one, strides, or pairs one by one.

    >>> parse_pairs([2, 4])
    (('enc@2', 'dec@2'), ('enc@4', 'dec@4'))
    >>> parse_pairs([["enc2", "dec2"]])
    (('enc2', 'dec2'),)

    Raises:
        InputError: none of these.
    """
    if taps == "pair":
        return (PAIR,)
    found = []
    for pair in taps if not isinstance(taps, str) else ():
        if isinstance(pair, int) and not isinstance(pair, bool):
            found.append((f"enc@{pair}", f"dec@{pair}"))
        elif isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(tap, str) for tap in pair):
            found.append((pair[0], pair[1]))
    if not found or len(found) < len(taps):
        raise InputError(
            f"feature_similarity: taps {taps!r} is neither pair, nor a list of strides such as [2, 4], "
            "nor one of pairs such as [[enc2, dec2]]"
        )
    return tuple(found)


class AutoEncoder(nn.Module):
    """An MLP auto-encoder of one feature (LightVessel, section 3.2: 1 x 512 latents, Eq. 1: L1 reconstruction).

    The feature is pooled to grid x grid positions, and an MLP shared by all channels works on the positions of each.

    Args:
        channels: of the feature.
        latent: "vector" makes one number of each channel, and one vector of all of them by a linear map (one
            512-vector per image, as the printed 1 x 512 says); "per_channel" makes a vector of each channel.
        size: of a latent vector.
        grid: positions per side after pooling.
        hidden: width of the MLP's hidden layer.

    >>> AutoEncoder(24).encode(torch.zeros(2, 24, 64, 64)).shape
    torch.Size([2, 512])
    >>> AutoEncoder(24, "per_channel").encode(torch.zeros(2, 24, 64, 64)).shape
    torch.Size([2, 24, 512])
    """

    def __init__(
        self, channels: int, latent: Latent = "vector", size: int = 512, grid: int = 16, hidden: int = 64
    ) -> None:
        super().__init__()
        fit_option("feature_autoencoder: latent", latent, Latent)
        for option, value in (("size", size), ("grid", grid), ("hidden", hidden)):
            if value < 1:
                raise InputError(f"feature_autoencoder: {option} is {value}: it must be at least 1")
        self.channels, self.latent, self.grid = channels, latent, grid
        code = 1 if latent == "vector" else size
        self.squeeze = nn.Sequential(nn.Linear(grid * grid, hidden), nn.GELU(), nn.Linear(hidden, code))
        self.spread = nn.Sequential(nn.Linear(code, hidden), nn.GELU(), nn.Linear(hidden, grid * grid))
        self.gather: nn.Module = nn.Linear(channels, size) if latent == "vector" else nn.Identity()
        self.scatter: nn.Module = nn.Linear(size, channels) if latent == "vector" else nn.Identity()

    def pool(self, feature: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, grid^2), in float32."""
        return F.adaptive_avg_pool2d(feature.float(), self.grid).flatten(2)

    def encode(self, feature: Tensor) -> Tensor:
        """(B, C, h, w) -> latents (B, size) or (B, C, size), in float32 also under autocast."""
        with torch.autocast(feature.device.type, enabled=False):
            return self._encode(self.pool(feature))

    def _encode(self, pooled: Tensor) -> Tensor:
        code: Tensor = self.squeeze(pooled)
        if self.latent == "vector":
            code = self.gather(code.squeeze(2))
        return code

    def forward(self, feature: Tensor) -> Tensor:
        """(B,) mean absolute error of the reconstruction of (B, C, h, w)."""
        with torch.autocast(feature.device.type, enabled=False):
            pooled = self.pool(feature)
            latent = self._encode(pooled)
            code = self.scatter(latent)[..., None] if self.latent == "vector" else latent
            rebuilt: Tensor = self.spread(code)
            return (rebuilt - pooled).abs().mean((1, 2))


class FeatureAutoEncoders(nn.Module):
    """The auto-encoders of one network, one per tap.

    Args:
        channels: tap -> channels of the feature.
        latent: of `AutoEncoder`.
        size: of `AutoEncoder`.
        grid: of `AutoEncoder`.
        hidden: of `AutoEncoder`.

    >>> codes = FeatureAutoEncoders({"enc@4": 8, "dec@4": 8}, size=16)
    >>> sorted(codes({"enc@4": torch.zeros(2, 8, 4, 4), "dec@4": torch.zeros(2, 8, 4, 4)}))
    ['dec@4', 'enc@4']
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        latent: Latent = "vector",
        size: int = 512,
        grid: int = 16,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.latent = latent
        self.encoders = nn.ModuleDict(
            {tap: AutoEncoder(count, latent, size, grid, hidden) for tap, count in channels.items()}
        )

    @property
    def taps(self) -> tuple[str, ...]:
        """What it can encode."""
        return tuple(self.encoders)

    def encoder(self, tap: str) -> AutoEncoder:
        """The auto-encoder of a tap."""
        found = self.encoders[tap]
        assert isinstance(found, AutoEncoder)
        return found

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tap -> (B,) error of the reconstruction."""
        return {tap: encoder(features[tap]) for tap, encoder in self.encoders.items()}


def feature_autoencoder(
    network: nn.Module,
    name: str = "the network",
    *,
    taps: Pairs = "pair",
    latent: Latent = "vector",
    size: int = 512,
    grid: int = 16,
    hidden: int = 64,
) -> FeatureAutoEncoders:
    """Untrained auto-encoders for the taps of a network.

    Args:
        network: declares its features; only their channels are read.
        name: how messages call it.
        taps: see `parse_pairs`.
        latent: of `AutoEncoder`.
        size: of `AutoEncoder`.
        grid: of `AutoEncoder`.
        hidden: of `AutoEncoder`.

    Raises:
        InputError: the network does not declare these features.

    >>> from segdistill.models import create_model
    >>> feature_autoencoder(create_model("unet", widths=[2, 4, 8, 8]), size=32).taps
    ('pair_encoder|enc@4', 'pair_decoder|dec@4')
    """
    wanted = list(dict.fromkeys(chain.from_iterable(parse_pairs(taps))))
    infos = tapped(network, wanted, name)
    if not infos:
        raise InputError(f"{name} declares no features (feature_info): auto-encoders need their channels")
    return FeatureAutoEncoders(
        {tap: info.channels for tap, info in infos.items()}, latent, size, grid, hidden
    )
