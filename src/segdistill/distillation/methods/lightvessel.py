"""LightVessel: similarity of encoder and decoder features (FSD), and similarity of errors (ASD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.distillation.base import STUDENT, DistillationMethod, Layers, Targets, register_method
from segdistill.distillation.layers import declared_layers
from segdistill.distillation.maps import exact, logits_of, mask_of
from segdistill.errors import InputError
from segdistill.losses import probabilities
from segdistill.models.network import Output
from segdistill.options import fit_option

Latent = Literal["vector", "per_channel"]
Pairs = str | Sequence[int] | Sequence[Sequence[str]]

PAIR = ("pair_encoder|enc@4", "pair_decoder|dec@4")
"""The symmetric pair at a quarter of the image's size that LightVessel's group uses: the pair that a network names
after its paper, or else the ends of the encoder's and of the decoder's stride 4."""


def parse_pairs(layers: Pairs) -> tuple[tuple[str, str], ...]:
    """Pairs of (encoder, decoder) layers: "pair" for the published one, strides, or pairs one by one.

    >>> parse_pairs([2, 4])
    (('enc@2', 'dec@2'), ('enc@4', 'dec@4'))
    >>> parse_pairs([["enc2", "dec2"]])
    (('enc2', 'dec2'),)

    Raises:
        InputError: none of these.
    """
    if layers == "pair":
        return (PAIR,)
    found = []
    for pair in layers if not isinstance(layers, str) else ():
        if isinstance(pair, int) and not isinstance(pair, bool):
            found.append((f"enc@{pair}", f"dec@{pair}"))
        elif isinstance(pair, (list, tuple)) and [type(layer) for layer in pair] == [str, str]:
            found.append((pair[0], pair[1]))
    if not found or len(found) < len(layers):
        raise InputError(
            f"feature_similarity: layers {layers!r} is neither pair, nor a list of strides such as [2, 4], "
            "nor one of pairs such as [[enc2, dec2]]"
        )
    return tuple(found)


class AutoEncoder(nn.Module):
    """An MLP auto-encoder of one feature (LightVessel, section 3.2: 1 x 512 latents, Eq. 1: L1 reconstruction).

    The feature is pooled to grid x grid positions. An MLP, shared by all channels, encodes the positions of each.

    Args:
        channels: of the feature.
        latent: "vector" makes one number of each channel, and one vector of all of them by a linear map (one
            512-vector per image, as printed: 1 x 512); "per_channel" makes a vector of each channel.
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
                raise InputError(f"feature_autoencoder: {option} is {value}, but must be at least 1")
        self.channels, self.latent, self.grid = channels, latent, grid
        code = 1 if latent == "vector" else size
        self.squeeze = nn.Sequential(nn.Linear(grid * grid, hidden), nn.GELU(), nn.Linear(hidden, code))
        self.spread = nn.Sequential(nn.Linear(code, hidden), nn.GELU(), nn.Linear(hidden, grid * grid))
        self.join: nn.Module = nn.Linear(channels, size) if latent == "vector" else nn.Identity()
        self.split: nn.Module = nn.Linear(size, channels) if latent == "vector" else nn.Identity()

    def pool(self, feature: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, grid^2), in float32."""
        return F.adaptive_avg_pool2d(feature.float(), self.grid).flatten(2)

    def encode(self, feature: Tensor) -> Tensor:
        """(B, C, h, w) -> latents (B, size) or (B, C, size), in float32 also under autocast."""
        with exact(feature):
            code: Tensor = self.squeeze(self.pool(feature))
            return self.join(code.squeeze(2)) if self.latent == "vector" else code

    def forward(self, feature: Tensor) -> Tensor:
        """(B,) mean absolute error of the reconstruction of (B, C, h, w)."""
        with exact(feature):
            latent = self.encode(feature)
            code = self.split(latent)[..., None] if self.latent == "vector" else latent
            error: Tensor = self.spread(code) - self.pool(feature)
            return error.abs().mean((1, 2))


class FeatureAutoEncoders(nn.Module):
    """The auto-encoders of one network, one per layer.

    Args:
        channels: layer -> channels of the feature.
        latent: see `AutoEncoder`.
        sizes: size, grid and hidden of `AutoEncoder`.

    >>> codes = FeatureAutoEncoders({"enc@4": 8, "dec@4": 8}, size=16)
    >>> sorted(codes({"enc@4": torch.zeros(2, 8, 4, 4), "dec@4": torch.zeros(2, 8, 4, 4)}))
    ['dec@4', 'enc@4']
    """

    def __init__(self, channels: Mapping[str, int], latent: Latent = "vector", **sizes: int) -> None:
        super().__init__()
        self.latent = latent
        self.encoders = nn.ModuleDict(
            {layer: AutoEncoder(count, latent, **sizes) for layer, count in channels.items()}
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it can encode."""
        return tuple(self.encoders)

    def encoder(self, layer: str) -> AutoEncoder:
        """The auto-encoder of a layer."""
        found = self.encoders[layer]
        assert isinstance(found, AutoEncoder)
        return found

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Layer -> (B,) error of the reconstruction."""
        return {layer: encoder(features[layer]) for layer, encoder in self.encoders.items()}


def feature_autoencoder(
    network: nn.Module,
    name: str = "the network",
    *,
    layers: Pairs = "pair",
    latent: Latent = "vector",
    size: int = 512,
    grid: int = 16,
    hidden: int = 64,
) -> FeatureAutoEncoders:
    """Untrained auto-encoders for the layers of a network.

    Args:
        network: declares its features; only their channels are read.
        name: of the network, for messages.
        layers: see `parse_pairs`.
        latent: see `AutoEncoder`, as the next three.
        size: of a latent vector.
        grid: positions per side.
        hidden: width of the hidden layer.

    Raises:
        InputError: the network does not declare these features.

    >>> from segdistill.models.registry import create_network
    >>> feature_autoencoder(create_network("unet", widths=[2, 4, 8, 8]), size=32).layers
    ('pair_encoder|enc@4', 'pair_decoder|dec@4')
    """
    wanted = list(dict.fromkeys(chain.from_iterable(parse_pairs(layers))))
    infos = declared_layers(network, wanted, name)
    if not infos:
        raise InputError(f"{name} declares no features (feature_info): auto-encoders need their channels")
    channels = {layer: info.channels for layer, info in infos.items()}
    return FeatureAutoEncoders(channels, latent, size=size, grid=grid, hidden=hidden)


Distance = Literal["l2", "mse"]
EPSILON = 1e-12
"""Added inside every root, so that its slope at zero is bounded."""


def latent_similarity(encoder: Tensor, decoder: Tensor, outer: bool = True) -> Tensor:
    """Cosine between two latents, or between their products L^T L (LightVessel Eq. 2 and 3).

    The products have 512 x 512 entries and are never built: of two vectors their cosine is cos^2, and of stacks of
    vectors it is |E D^T|^2 / (|E E^T| |D D^T|) in Frobenius norms.

    Args:
        encoder: (B, n), or (B, C, n) with one vector per channel.
        decoder: (B, n), or (B, D, n).
        outer: compare the products, in [0, 1] (the text's L_tra); False compares the vectors (Eq. 2 as written), in
            [-1, 1]: only for one vector each.

    Returns:
        (B,).

    >>> latent_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])).tolist()
    [1.0]
    >>> latent_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), outer=False).tolist()
    [-1.0]
    """
    if encoder.ndim == 2:
        cosine = F.cosine_similarity(encoder.float(), decoder.float(), dim=1)
        return cosine * cosine if outer else cosine
    if not outer:
        raise InputError("latents per channel can only be compared by their outer products: set outer: true")
    with exact(encoder):
        first, second = (each.float() / _length(each.float()) for each in (encoder, decoder))
        cross, own, other = (
            (a @ b.mT).square().sum((1, 2)) for a, b in ((first, second), (first, first), (second, second))
        )
        similarity: Tensor = cross / (own * other + EPSILON).sqrt()
        return similarity


def _length(stack: Tensor) -> Tensor:
    """(B, 1, 1) norm, to keep fourth powers in range; it cancels out, so it needs no gradient."""
    length: Tensor = torch.linalg.vector_norm(stack.detach(), dim=(1, 2)).clamp(min=EPSILON)
    return length[:, None, None]


@register_method("feature_similarity")
class FeatureSimilarity(DistillationMethod):
    """Feature-wise similarity distillation (FSD; LightVessel, Dang et al. 2023, section 3.2).

    Encoder and decoder features become latents by auto-encoders, which are trained before, one set for each network:
    the student's on the same architecture without distillation. They are frozen and, like teachers, no submodules.
    Gradients pass through the student's into the student.

    Args:
        layers: "pair" (default, one pair at a quarter of the size, as in the group's code), strides such as [2, 4], or
            pairs such as [[enc2, dec2]]; the auto-encoders must have been trained for the same.
        outer: see `latent_similarity`.
        distance: between the similarities of all pairs: Euclidean (LightVessel Eq. 3), or "mse", the mean of squares.
        autoencoders: name of a network ("student" and each teacher) -> its trained auto-encoders.

    >>> codes = FeatureAutoEncoders({"e": 4, "d": 6}, size=8)
    >>> method = FeatureSimilarity(layers=[["e", "d"]], autoencoders={"student": codes})
    >>> features = {"e": torch.rand(2, 4, 8, 8), "d": torch.rand(2, 6, 8, 8)}
    >>> method.targets(Output(logits=None, features=features))["similarity"].shape
    torch.Size([2, 1])
    """

    loss_options = ("distance",)

    def __init__(
        self,
        layers: Pairs = "pair",
        outer: bool = True,
        distance: Distance = "l2",
        autoencoders: Mapping[str, FeatureAutoEncoders] | None = None,
    ) -> None:
        super().__init__()
        fit_option("feature_similarity: distance", distance, Distance)
        self.pairs, self.outer, self.distance = parse_pairs(layers), outer, distance
        self.features = tuple(dict.fromkeys(chain.from_iterable(self.pairs)))
        self.autoencoders = {
            name: codes.eval().requires_grad_(False) for name, codes in (autoencoders or {}).items()
        }
        for name, codes in self.autoencoders.items():
            lacking = [layer for layer in self.features if layer not in codes.layers]
            if lacking:
                raise InputError(
                    f"feature_similarity: the auto-encoders of '{name}' were trained for {', '.join(codes.layers)}, "
                    f"not {', '.join(lacking)}: set the same layers in both stages"
                )
            if codes.latent == "per_channel" and not outer:
                raise InputError("feature_similarity: outer: false needs auto-encoders with latent: vector")
        latents: set[Latent] = {codes.latent for codes in self.autoencoders.values()}
        if len(latents) > 1:
            raise InputError("feature_similarity: all auto-encoders need the same latent")

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Makes nothing.

        Raises:
            InputError: a network has no auto-encoders, or those of another network; names it.
        """
        for name, layers in {STUDENT: student, **teachers}.items():
            codes = self._codes(name)
            for layer, info in layers.items():
                expected = codes.encoder(layer).channels
                if layer in self.features and info.channels != expected:
                    raise InputError(
                        f"feature_similarity: the auto-encoder of '{name}' takes {expected} channels at {layer}, but "
                        f"the network has {info.channels}: train it on this network"
                    )

    def _codes(self, name: str) -> FeatureAutoEncoders:
        if name not in self.autoencoders:
            has = ", ".join(self.autoencoders) or "none"
            raise InputError(
                f"feature_similarity has no auto-encoders for '{name}' (only for: {has}): add a stage with "
                f"task: autoencoder and set autoencoders: {{{name}: STAGE}}"
            )
        return self.autoencoders[name]

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """(B, pairs) similarities."""
        codes = self._codes(network)
        latents = {layer: codes.encoder(layer).encode(output.features[layer]) for layer in self.features}
        found = [latent_similarity(latents[e], latents[d], self.outer) for e, d in self.pairs]
        return {"similarity": torch.stack(found, 1)}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) distance between the similarities."""
        difference = student["similarity"] - teacher["similarity"]
        if self.distance == "mse":
            return difference.square().mean(1)
        norm: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return norm


Form = Literal["image", "pixel"]


@register_method("adversarial_similarity")
class AdversarialSimilarity(DistillationMethod):
    """Adversarial similarity distillation (LightVessel, Dang et al. 2023, Eq. 4 and 5); nothing in it is adversarial.

    The distance of Eq. 4 is printed as a sum over the n positions, about 30 for 256 x 256: far more than a
    cross-entropy of 0.05, and dependent on the image's size. Here it is divided by the root of n.

    Args:
        form: "image" compares one root mean square error per image (Eq. 4 and 5 literally); "pixel" is the root mean
            square of the difference of errors at each position, as in the text ("pixel-wise", "spatial").
        one_sided: no loss for a student whose error is smaller than its teacher's; Eq. 5 would make it worse.

    >>> method = AdversarialSimilarity()
    >>> mask = torch.ones(1, 4, 4, dtype=torch.long)
    >>> targets = method.targets(Output(logits=torch.zeros(1, 2, 4, 4), features={}), mask)
    >>> targets["error"].tolist()
    [0.5]
    """

    needs_mask = True
    loss_options = ("one_sided",)

    def __init__(self, form: Form = "image", one_sided: bool = False) -> None:
        super().__init__()
        fit_option("adversarial_similarity: form", form, Form)
        self.form: Form = form
        self.one_sided = one_sided

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """(B,) errors of images, or (B, ...) errors |p - g| of the foreground, all but class 0, at each position."""
        logits = logits_of(output, "adversarial_similarity")
        reference = (mask_of(mask, "adversarial_similarity") > 0).float()
        error = (probabilities(logits)[:, 1:].sum(1) - reference).abs()
        if self.form == "image":
            error = (error.square().flatten(1).mean(1) + EPSILON).sqrt()
        return {"error": error}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) distance between the errors."""
        difference = student["error"] - teacher["error"]
        difference = difference.relu() if self.one_sided else difference
        if self.form == "image":
            return difference.abs()
        return (difference.square().flatten(1).mean(1) + EPSILON).sqrt()
